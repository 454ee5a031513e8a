"""Frames, headers, negotiation, pipelining: what holds before any API is looked at."""

import socket, struct, time

from harness import area, between, equal, error, records, true
from kwire import Codec, Reader
from records import batch

case = area('wire', tier=1)
MODERN = {'ClientSoftwareName': 'kwire', 'ClientSoftwareVersion': '1.0'}


def header(key, version, flexible, correlation=7, client_id=b'kwire'):
    return struct.pack('>hhih', key, version, correlation, len(client_id)) + client_id + (b'\0' if flexible else b'')


def closes(k, payload, what, framed=True):
    """The broker closes this connection without an answer, and only this one."""
    conn = k.connect()
    try:
        conn.send_frame(payload) if framed else conn.socket.sendall(payload)
    except OSError:
        pass
    true(conn.closed_by_broker(), f'connection closed without an answer after {what}', 'still open, or answered')


@case('ApiVersions 3 and later is answered with response header version 0 (no tagged fields after the correlation id)')
def api_versions_response_header(k):
    for version in range(3, k.range('ApiVersions')[1] + 1):
        k.conn.send('ApiVersions', version, MODERN, answered=False)
        data = k.conn.recv_frame()
        reply = Codec('ApiVersionsResponse', version).decode(data[4:])
        error(reply, what=f'v{version}')
        true(len(reply['ApiKeys']) > 10, f'v{version} lists the served APIs', len(reply['ApiKeys']))


@case(
    'ApiVersions in a version that is too new is answered in version 0 with UNSUPPORTED_VERSION and the range of '
    'ApiVersions itself'
)
def api_versions_too_new(k):
    for version in (k.range('ApiVersions')[1] + 1, 99):
        k.conn.send_frame(header(18, version, flexible=True) + b'\x06kwire\x041.0\0')
        data = k.conn.recv_frame()
        equal(struct.unpack_from('>i', data)[0], 7, 'correlation id')
        reply = Codec('ApiVersionsResponse', 0).decode(data[4:])
        error(reply, 'UNSUPPORTED_VERSION')
        equal([a['ApiKey'] for a in reply['ApiKeys']], [18], 'APIs listed in the fallback answer')
        equal(k.call('ApiVersions', {}, 0)['ErrorCode'], 0, 'the connection stays usable')


@case(
    'ApiVersions with an invalid client software name or version is refused with INVALID_REQUEST and no APIs; the '
    'connection stays'
)
def api_versions_bad_software_name(k):
    for name, version in (('', '1'), ('kwire', ''), ('two words', '1'), ('-dash', '1'), ('kwire', '1-')):
        reply = k.call('ApiVersions', {'ClientSoftwareName': name, 'ClientSoftwareVersion': version}, 3)
        error(reply, 'INVALID_REQUEST', what=f'{name!r} {version!r}')
        equal(reply['ApiKeys'], [], 'APIs listed')
    error(k.call('ApiVersions', MODERN, 3))


def after_api_keys(k):
    """The bytes of an ApiVersions 3 response from its tagged fields on, and the decoded response."""
    k.conn.send('ApiVersions', 3, MODERN, answered=False)
    data = k.conn.recv_frame()
    reader = Reader(data)
    reader.o = 6  # correlation id, error code
    for _ in range(reader.uvarint() - 1):
        reader.o += 6
        reader.uvarint()
    reader.o += 4  # throttle time
    return data[reader.o :], Codec('ApiVersionsResponse', 3).decode(data[4:])


@case('ApiVersions leaves out tagged fields that hold their default')
def api_versions_no_default_tags(k):
    data, reply = after_api_keys(k)
    reader, tags = Reader(data), []
    for _ in range(reader.uvarint()):
        tag, size = reader.uvarint(), reader.uvarint()
        tags.append(tag)
        reader.o += size
    equal(reader.o, len(data), 'end of the tagged fields')
    true(3 not in tags, 'tag 3 (ZkMigrationReady, default false) is left out', tags)
    true(
        (0 in tags) == bool(reply['SupportedFeatures']) and (2 in tags) == bool(reply['FinalizedFeatures']),
        'no tag for an empty list',
        tags,
    )


@case(
    'The tagged fields of ApiVersions can be read as librdkafka before 2.2 reads them: it skips each one a byte short'
)
def api_versions_old_librdkafka(k):
    data, _ = after_api_keys(k)
    reader = Reader(data)
    for _ in range(reader.uvarint()):
        reader.uvarint()
        reader.o += max(0, reader.uvarint() - 1)
        true(reader.o <= len(data), 'reading stays inside the response', data.hex())


@case(
    'ApiVersions announces finalized features of which transaction.version says whether clients may use '
    'transactions version 2'
)
def api_versions_features(k):
    reply = k.call('ApiVersions', MODERN, 3)
    finalized = {f['Name']: f['MaxVersionLevel'] for f in reply['FinalizedFeatures']}
    true('transaction.version' in finalized, 'transaction.version is among the finalized features', finalized)
    true(reply['FinalizedFeaturesEpoch'] >= 0, 'finalized features carry an epoch', reply['FinalizedFeaturesEpoch'])
    for feature in reply['SupportedFeatures']:
        true(
            feature['MinVersion'] >= 1,
            'a v3 answer lists no supported feature with minimum 0 (the Java client before 3.9 refuses it)',
            feature,
        )


@case('Supported features with minimum version 0 are listed from ApiVersions 4 on')
def api_versions_v4_features(k):
    k.require('ApiVersions', 4)
    supported = {
        f['Name']: (f['MinVersion'], f['MaxVersion']) for f in k.call('ApiVersions', MODERN, 4)['SupportedFeatures']
    }
    true('transaction.version' in supported, 'transaction.version is supported', supported)
    equal(supported['transaction.version'][0], 0, 'lowest transaction.version')


@case('ApiVersions may be asked again at any time on a connection in use')
def api_versions_again(k):
    for _ in range(3):
        error(k.call('ApiVersions', MODERN, 3))
        k.metadata([])


@case('A request with an unknown API key closes the connection')
def unknown_api_key(k):
    for key in (9999, -1, 4, 7):  # 4 and 7 were removed in Kafka 4.0
        closes(k, header(key, 0, flexible=False), f'API key {key}')
    k.alive()


@case('A version that is too new, of any API but ApiVersions, closes the connection')
def version_too_new(k):
    for key in (0, 1, 3, 8, 22):
        closes(k, header(key, 99, flexible=True) + bytes(20), f'API key {key} version 99')
    k.alive()


@case('Produce 0 to 2 is advertised for the sake of librdkafka, but closes the connection when it is used')
def produce_v0_is_refused(k):
    equal(k.target.advertised[0][0], 0, 'lowest Produce version advertised')
    for version in (0, 1, 2):
        closes(k, header(0, version, flexible=False) + struct.pack('>hii', 1, 1000, 0), f'Produce {version}')
    k.alive()


@case('Versions that Kafka 4 removed (Fetch 3, ListOffsets 0, CreateTopics 1) close the connection')
def removed_versions(k):
    for key, version in ((1, 3), (2, 0), (19, 1)):
        true(
            k.target.advertised[key][0] > version,
            f'API key {key} starts above version {version}',
            k.target.advertised[key],
        )
        closes(k, header(key, version, flexible=False) + bytes(30), f'API key {key} version {version}')
    k.alive()


@case('A frame with a negative, an oversize or no length closes the connection; other connections are not affected')
def bad_frame_lengths(k):
    for name, data in (
        ('length -5', struct.pack('>i', -5)),
        ('length 2^31-1', struct.pack('>i', 0x7FFFFFFF)),
        ('length 100 MiB + 1', struct.pack('>i', (100 << 20) + 1)),
        ('length 0', struct.pack('>i', 0)),
        ('four zero bytes', struct.pack('>ii', 4, 0)),
    ):
        closes(k, data, name, framed=False)
    k.alive()


@case('Bytes of another protocol (HTTP, TLS) close the connection')
def other_protocols(k):
    closes(k, b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', 'an HTTP request', framed=False)
    closes(k, bytes.fromhex('1603010200010001fc0303') + bytes(50), 'a TLS hello', framed=False)
    k.alive()


@case('A frame that ends early with the connection harms nobody')
def truncated_frame(k):
    for data in (b'\0', struct.pack('>i', 1000) + b'\0\x03', struct.pack('>i', 90 << 20) + bytes(1000)):
        conn = k.connect()
        conn.socket.sendall(data)
        conn.close()
    k.alive()


@case('A body whose lengths exceed the frame closes the connection and allocates nothing')
def lengths_beyond_the_frame(k):
    for name, payload in (
        ('array of 2^31-1 topics', header(3, 1, False) + struct.pack('>i', 0x7FFFFFFF)),
        ('string of length -7', header(3, 1, False) + struct.pack('>ih', 1, -7)),
        ('string longer than the frame', header(3, 1, False) + struct.pack('>ih', 1, 30000) + b'abc'),
        ('null where no null is allowed', header(3, 1, False) + struct.pack('>ih', 1, -1)),
        ('compact array of 2^31-1', header(3, 9, True) + b'\xff\xff\xff\xff\x07'),
        ('endless varint', header(3, 9, True) + b'\xff' * 10),
        ('ApiVersions cut short', header(18, 3, True) + b'\x06kw'),
        (
            'Produce records beyond the frame',
            header(0, 3, False)
            + struct.pack('>hhiih', -1, 1, 1000, 1, 1)
            + b't'
            + struct.pack('>iii', 1, 0, 0x7FFFFFF0),
        ),
        (
            'Fetch with 2^31-1 topics',
            header(1, 4, False) + struct.pack('>iiiib', -1, 100, 1, 1, 0) + struct.pack('>i', 0x7FFFFFFF),
        ),
        (
            'JoinGroup with 2^31-1 protocols',
            header(11, 1, False)
            + struct.pack('>h', 1)
            + b'g'
            + struct.pack('>iihh', 6000, 6000, 0, 1)
            + b'c'
            + struct.pack('>i', 0x7FFFFFFF),
        ),
    ):
        closes(k, payload, name)
    k.alive()


@case('Three hundred requests with random bytes in them leave the broker up and other connections served')
def random_damage(k):
    topic = k.topic()
    k.put(topic, 'intact')
    bodies = [
        ('Metadata', 12, {'Topics': [{'Name': topic}]}),
        ('Fetch', 12, k.fetch_body(topic, 0, version=12, max_wait_ms=0)),
        (
            'Produce',
            9,
            {
                'Acks': 1,
                'TimeoutMs': 100,
                'TopicData': [{'Name': topic, 'PartitionData': [{'Index': 5, 'Records': batch(records('x' * 40))}]}],
            },
        ),
        ('OffsetFetch', 7, {'GroupId': 'g', 'Topics': [{'Name': topic, 'PartitionIndexes': [0]}]}),
        (
            'ListOffsets',
            7,
            {'ReplicaId': -1, 'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'Timestamp': -1}]}]},
        ),
        ('DescribeConfigs', 4, {'Resources': [{'ResourceType': 2, 'ResourceName': topic, 'ConfigurationKeys': None}]}),
    ]
    bodies = [
        b for b in bodies if k.target.advertised.get(Codec(b[0] + 'Request', b[1]).schema['apiKey'], (1, 0))[1] >= b[1]
    ]
    for i in range(300):
        api, version, body = bodies[i % len(bodies)]
        conn = k.connect()
        frame = bytearray(conn.frame(api, version, body))
        for _ in range(k.random.randint(1, 4)):
            frame[k.random.randrange(8, len(frame))] = k.random.choice(
                [0, 1, 0x7F, 0x80, 0xFF, k.random.randrange(256)]
            )
        try:
            conn.send_frame(frame[: k.random.randrange(8, len(frame))] if i % 5 == 0 else frame)
        except OSError:
            pass
        if i % 30 == 0:
            k.alive()
    k.alive()
    equal(k.values(topic), [b'intact'], 'records in the topic')


@case('A request that arrives one byte at a time is answered')
def slow_bytes(k):
    payload = k.conn.frame('Metadata', 1, {'Topics': []})
    for byte in struct.pack('>i', len(payload)) + payload:
        k.conn.socket.sendall(bytes([byte]))
        time.sleep(0.002)
    equal(struct.unpack_from('>i', k.conn.recv_frame())[0], 1, 'correlation id')


@case('Many requests in one TCP segment are all answered, in order')
def many_requests_in_one_segment(k):
    data = b''
    for _ in range(100):
        payload = k.conn.frame('Metadata', 1, {'Topics': []})
        k.conn.expected.append(k.conn.correlation)
        data += struct.pack('>i', len(payload)) + payload
    k.conn.socket.sendall(data)
    for _ in range(100):
        k.conn.recv('Metadata', 1)


@case('Responses come in request order, also behind a fetch that waits for data')
def responses_in_order(k):
    topic = k.topic()
    fetch = k.start_fetch(topic, 0, conn=k.conn, max_wait_ms=500)
    start = time.monotonic()
    for _ in range(10):
        k.conn.send('Metadata', 9, {'Topics': [{'Name': topic}]})
    error(k.finish_fetch(fetch))
    between(time.monotonic() - start, 0.4, 5, 'seconds until the first answer, the one to the waiting fetch')
    for _ in range(10):
        k.conn.recv('Metadata', 9)


@case('Produce requests pipelined on a connection are appended and answered in order')
def pipelined_produce(k):
    topic, version = k.topic(), k.version('Produce')
    for i in range(20):
        k.conn.send(
            'Produce',
            version,
            {
                'Acks': -1,
                'TimeoutMs': 5000,
                'TopicData': [{'Name': topic, 'PartitionData': [{'Index': 0, 'Records': batch(records(str(i)))}]}],
            },
        )
    offsets = [
        k.conn.recv('Produce', version)['Responses'][0]['PartitionResponses'][0]['BaseOffset'] for _ in range(20)
    ]
    equal(offsets, list(range(20)), 'base offsets')
    equal(k.values(topic), [str(i).encode() for i in range(20)], 'values')


@case('A null client id is accepted')
def null_client_id(k):
    k.conn.call('Metadata', 1, {'Topics': []}, client_id=None)
    k.conn.call('Metadata', 9, {'Topics': []}, client_id=None)


@case('Unknown tagged fields in the request header and in the body are ignored')
def unknown_tagged_fields(k):
    body = Codec('MetadataRequest', 9).encode({'Topics': []})
    tagged = body[:-1] + b'\x02\x63\x03abc\x70\x00'  # tags 99 and 112 instead of none
    reply = k.conn.call('Metadata', 9, {}, header_tags=b'\x01\x58\x02zz', raw_body=tagged)
    true(reply['Brokers'], 'an ordinary answer')


@case('Bytes after the end of a request body are ignored')
def trailing_bytes(k):
    k.conn.call('Metadata', 1, {}, raw_body=struct.pack('>i', 0) + b'extra')
    k.alive()


@case('A client that sends requests and never reads does not hold up others')
def unread_responses(k):
    topic = k.topic()
    k.put(topic, 'x' * 100000)
    lazy = k.connect()
    lazy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.socket.settimeout(0.2)
    body = k.fetch_body(topic, 0, version=11)
    try:
        for _ in range(200):
            lazy.send('Fetch', 11, body)
    except OSError:
        pass
    start = time.monotonic()
    for _ in range(20):
        k.metadata([topic])
    true(
        time.monotonic() - start < 5,
        'twenty metadata requests of another client take less than 5 s',
        time.monotonic() - start,
    )


@case('SaslHandshake and SaslAuthenticate on a listener without SASL are refused with ILLEGAL_SASL_STATE')
def sasl_without_sasl(k):
    error(k.call('SaslHandshake', {'Mechanism': 'PLAIN'}, conn=k.connect()), 'ILLEGAL_SASL_STATE')
    error(k.call('SaslAuthenticate', {'AuthBytes': b'x'}, conn=k.connect()), 'ILLEGAL_SASL_STATE')
