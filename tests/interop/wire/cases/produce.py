"""Produce without producer ids. Cases named deep_* need a broker that looks into the records."""

import os, time

from harness import area, between, equal, error, records, true, until
from records import CODEC_NAMES, GZIP, LZ4, SNAPPY, ZSTD, batch, legacy_message, record, xerial_snappy

case = area('produce', tier=1)


def now():
    return int(time.time() * 1000)


def refused(k, topic, data, *names, what='error code', **options):
    """The batch is refused with one of the errors and nothing is appended."""
    before = k.end_offset(topic)
    error(k.produce(topic, data, **options), *names, what=what)
    equal(k.end_offset(topic), before, f'end offset after {what}')


@case('An accepted batch gets the next offset and the leader epoch; nothing else of it changes')
def stores_bytes(k):
    topic = k.topic()
    sent = [batch(records('a', 'b'), leader_epoch=99), batch(records('c'))]
    replies = [error(k.produce(topic, s)) for s in sent]
    equal([r['BaseOffset'] for r in replies], [0, 2], 'base offsets')
    equal(
        [(r['LogAppendTimeMs'], r['LogStartOffset']) for r in replies],
        [(-1, 0)] * 2,
        'append time (-1 for CreateTime), log start offset',
    )
    found, _ = k.batches(topic)
    equal([b.base for b in found], [0, 2], 'base offsets in the log')
    equal([b.raw[16:] for b in found], [s[16:] for s in sent], 'bytes from magic on')
    epoch = k.metadata([topic])['Topics'][0]['Partitions'][0]['LeaderEpoch']
    equal({b.leader_epoch for b in found}, {epoch}, 'leader epoch in the log')


@case('Every version from 3 to 12 appends')
def every_version(k):
    topic = k.topic()
    low, high = k.range('Produce')
    for i, version in enumerate(range(low, min(high, 12) + 1)):
        equal(
            error(k.produce(topic, batch(records('a')), version=version), what=f'v{version}')['BaseOffset'],
            i,
            f'v{version} base offset',
        )


@case('acks=1 and acks=all are answered with the offset')
def acks_one_and_all(k):
    topic = k.topic()
    for i, acks in enumerate((1, -1)):
        equal(error(k.produce(topic, batch(records('a')), acks=acks))['BaseOffset'], i, f'offset for acks={acks}')


@case(
    'acks=0 is not answered and the record is appended; the next response on the connection is that of the next request'
)
def acks_zero(k):
    topic = k.topic()
    k.produce(topic, batch(records('a')), acks=0)
    error(k.metadata([topic])['Topics'][0])
    until(lambda: k.values(topic) == [b'a'], 'the record is readable')


@case('An error with acks=0 closes the connection, the only way to tell the client')
def acks_zero_error(k):
    topic = k.topic()
    for name, data in ((topic, batch(records('a'), bad_crc=True)), (k.name(), batch(records('a')))):
        conn = k.connect()
        k.produce(name, data, acks=0, conn=conn)
        true(conn.closed_by_broker(), 'connection closed')
    equal(k.end_offset(topic), 0, 'end offset')


@case('acks other than 0, 1 and -1 is INVALID_REQUIRED_ACKS')
def invalid_acks(k):
    topic = k.topic()
    for acks in (2, -2, 32767):
        refused(k, topic, batch(records('a')), 'INVALID_REQUIRED_ACKS', what=f'acks={acks}', acks=acks)


@case('A topic or partition that does not exist is UNKNOWN_TOPIC_OR_PARTITION and is not created')
def unknown_topic(k):
    topic, missing = k.topic(), k.name()
    error(k.produce(missing, batch(records('a'))), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(k.metadata([missing])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION')
    for partition in (7, -1):
        error(
            k.produce(topic, batch(records('a')), partition=partition),
            'UNKNOWN_TOPIC_OR_PARTITION',
            what=f'partition {partition}',
        )


@case('Partitions of one request succeed and fail each for itself; the entries may come in any order')
def partial_failure(k):
    topic, other = k.topic(3), k.topic()
    reply = k.call(
        'Produce',
        {
            'Acks': -1,
            'TimeoutMs': 5000,
            'TopicData': [
                {
                    'Name': topic,
                    'PartitionData': [
                        {'Index': 2, 'Records': batch(records('a'))},
                        {'Index': 0, 'Records': batch(records('b'), bad_crc=True)},
                        {'Index': 9, 'Records': batch(records('c'))},
                        {'Index': 1, 'Records': batch(records('d'))},
                    ],
                },
                {'Name': other, 'PartitionData': [{'Index': 0, 'Records': batch(records('e'))}]},
            ],
        },
    )
    codes = {(t['Name'], p['Index']): p['ErrorCode'] for t in reply['Responses'] for p in t['PartitionResponses']}
    equal(
        codes, {(topic, 0): 2, (topic, 1): 0, (topic, 2): 0, (topic, 9): 3, (other, 0): 0}, 'error codes by partition'
    )


@case('A batch with a wrong CRC is CORRUPT_MESSAGE and is not appended')
def bad_crc(k):
    topic = k.topic()
    refused(k, topic, batch(records('a'), bad_crc=True), 'CORRUPT_MESSAGE')
    flipped = bytearray(batch(records('a')))
    flipped[-2] ^= 0x20
    refused(k, topic, bytes(flipped), 'CORRUPT_MESSAGE', what='a flipped bit')


@case('Messages of magic 0 and 1 are INVALID_RECORD, an unknown magic is CORRUPT_MESSAGE')
def old_magic(k):
    topic = k.topic()
    for magic in (0, 1):
        refused(k, topic, legacy_message(magic, b'k', b'v'), 'INVALID_RECORD', what=f'magic {magic}')
    for magic in (3, -1):
        refused(k, topic, batch(records('a'), magic=magic), 'CORRUPT_MESSAGE', what=f'magic {magic}')


@case('Records without a batch in them (no bytes, one byte, a batch cut short) are INVALID_RECORD')
def no_batch(k):
    topic = k.topic()
    for what, data in (('no bytes', b''), ('one byte', b'\0'), ('a cut batch', batch(records('a', 'b'))[:-3])):
        refused(k, topic, data, 'INVALID_RECORD', what=what)


@case('Bytes that are no batch are CORRUPT_MESSAGE')
def garbage(k):
    topic = k.topic()
    refused(k, topic, bytes(61), 'CORRUPT_MESSAGE', what='zeros')
    refused(k, topic, batch(records('a')) + bytes(20), 'CORRUPT_MESSAGE', what='zeros behind a batch')


@case('Two batches for one partition in one request are INVALID_RECORD')
def two_batches(k):
    refused(k, k.topic(), batch(records('a')) + batch(records('b')), 'INVALID_RECORD')


@case('A batch without records, or whose count and last offset delta disagree, is INVALID_RECORD')
def wrong_counts(k):
    topic = k.topic()
    for what, data in (
        ('no records', batch([])),
        ('no records, delta 0', batch([], last_offset_delta=0)),
        ('count -1', batch(records('a'), count=-1, last_offset_delta=-2)),
        ('count 0 with a record', batch(records('a'), count=0)),
        ('count above delta', batch(records('a', 'b'), count=5)),
        ('delta above count', batch(records('a', 'b'), last_offset_delta=7)),
    ):
        refused(k, topic, data, 'INVALID_RECORD', what=what)


@case('A batch whose base offset is not 0 is INVALID_RECORD')
def nonzero_base_offset(k):
    refused(k, k.topic(), batch(records('a'), base_offset=55), 'INVALID_RECORD')


@case('A control batch from a client is INVALID_RECORD')
def control_batch(k):
    topic = k.topic()
    marker = [(b'\0\0\0\1', bytes(6))]
    refused(k, topic, batch(marker, control=True), 'INVALID_RECORD', what='control batch')
    refused(
        k,
        topic,
        batch(marker, control=True, producer_id=9, producer_epoch=0, sequence=0),
        'INVALID_RECORD',
        what='with producer id',
    )


@case('A transactional batch in a request without transactional id is TRANSACTIONAL_ID_AUTHORIZATION_FAILED')
def transactional_without_id(k):
    refused(
        k,
        k.topic(),
        batch(records('a'), transactional=True, producer_id=9, producer_epoch=0, sequence=0),
        'TRANSACTIONAL_ID_AUTHORIZATION_FAILED',
    )


@case('A client may not produce to the topic of committed offsets: INVALID_TOPIC_EXCEPTION')
def internal_topic(k):
    k.coordinator('any')
    error(k.produce('__consumer_offsets', batch(records('a'))), 'INVALID_TOPIC_EXCEPTION')


@case(
    'A batch above max.message.bytes is MESSAGE_TOO_LARGE, to the byte; what counts is the compressed '
    'batch with its header'
)
def message_too_large(k):
    topic, empty = k.topic(max_message_bytes='1000'), len(batch([(None, b'')]))
    fits = next(b for n in range(950, 800, -1) if len(b := batch([(None, b'x' * n)])) == 1000)
    error(k.produce(topic, fits), what=f'1000 bytes ({empty} of them overhead)')
    refused(k, topic, batch([(None, fits[-400:] + b'x' * 600)]), 'MESSAGE_TOO_LARGE', what='more than 1000 bytes')
    one_more = next(b for n in range(950, 800, -1) if len(b := batch([(None, b'x' * n)])) == 1001)
    refused(k, topic, one_more, 'MESSAGE_TOO_LARGE', what='1001 bytes')
    error(k.produce(topic, batch([(None, b'x' * 3000)], codec=GZIP)), what='3000 bytes that compress well')


@case('A batch that fits max.message.bytes but not segment.bytes is RECORD_LIST_TOO_LARGE')
def record_list_too_large(k):
    topic = k.topic(max_message_bytes='3000000', segment_bytes='1048576')
    refused(k, topic, batch([(None, k.bytes(2000000))]), 'RECORD_LIST_TOO_LARGE')
    error(k.produce(topic, batch([(None, k.bytes(1000000))])))


@case('All five codecs are stored as sent and read back, with keys, null values, and headers')
def codecs(k):
    rows = [
        (b'key%d' % i, b'value %d ' % i + b'x' * 50, [(b'h', b'1'), (b'h', None), (b'', b'')]) for i in range(50)
    ] + [(b'key', None)]
    for codec, name in enumerate(CODEC_NAMES):
        topic, data = k.topic(), batch(rows, codec=codec)
        error(k.produce(topic, data), what=name)
        stored = k.batches(topic)[0][0]
        equal(stored.raw[16:], data[16:], f'{name}: bytes from magic on')
        equal(
            [(r.key, r.value, r.headers) for r in stored.records][::50],
            [rows[0], (*rows[50], [])],
            f'{name}: first and last record',
        )


@case('Snappy is accepted in the framing of the Java client and raw')
def snappy_framings(k):
    topic, one = k.topic(), record(0, b'k', b'v')
    error(k.produce(topic, batch([(b'k', b'v')], codec=SNAPPY, payload=xerial_snappy(one))), what='framed')
    error(k.produce(topic, batch([(b'k', b'v')], codec=SNAPPY)), what='raw')
    equal(k.values(topic), [b'v', b'v'], 'values')


@case('zstd is UNSUPPORTED_COMPRESSION_TYPE before Produce 7')
def zstd_needs_version_7(k):
    topic = k.topic()
    refused(k, topic, batch(records('a'), codec=ZSTD), 'UNSUPPORTED_COMPRESSION_TYPE', version=6)
    error(k.produce(topic, batch(records('a'), codec=ZSTD), version=7))


@case('Null keys, null values, empty keys and empty values are kept apart')
def null_and_empty(k):
    topic, rows = k.topic(), [(None, None), (b'', b''), (None, b''), (b'', None)]
    error(k.produce(topic, batch(rows)))
    equal([(r.key, r.value) for r in k.batches(topic)[0][0].records], rows, 'records')


@case('A record of almost 1 MiB, the default limit, goes through; 1 MiB and more does not')
def large_record(k):
    topic, value = k.topic(), k.bytes(1048588 - 80)
    error(k.produce(topic, batch([(None, value)])))
    refused(k, topic, batch([(None, k.bytes(1048588))]), 'MESSAGE_TOO_LARGE')
    equal(k.values(topic) == [value], True, 'value read back')


@case('With LogAppendTime every record carries the time of append, the response names it, and the CRC is right')
def log_append_time(k):
    topic = k.topic(message_timestamp_type='LogAppendTime')
    for codec in (0, GZIP, LZ4):
        start = now()
        reply = error(k.produce(topic, batch(records('a', 'b'), timestamps=[1000, 2000], codec=codec)))
        between(reply['LogAppendTimeMs'], start - 1000, now() + 1000, 'LogAppendTimeMs')
        stored = k.batches(topic, offset=reply['BaseOffset'])[0][-1]
        equal(
            (stored.log_append_time, stored.max_timestamp, stored.codec),
            (True, reply['LogAppendTimeMs'], codec),
            'flag, max timestamp, codec',
        )
        equal({r.timestamp for r in stored.records}, {reply['LogAppendTimeMs']}, 'timestamps of the records')


@case('The timestamp-type bit of a batch follows the topic, whatever the client set')
def timestamp_type_bit(k):
    topic = k.topic()
    reply = k.produce(topic, batch(records('a'), attributes=8))
    if reply['ErrorCode'] == 0:
        equal(k.batches(topic)[0][0].log_append_time, False, 'LogAppendTime bit in a CreateTime topic')
    else:
        error(reply, 'INVALID_RECORD', 'INVALID_TIMESTAMP')


@case(
    'A timestamp further in the future than message.timestamp.after.max.ms (one hour by default) is INVALID_TIMESTAMP'
)
def timestamp_in_future(k):
    topic, strict = k.topic(), k.topic(message_timestamp_after_max_ms='1000')
    error(k.produce(topic, batch(records('a'), timestamp=now() + 55 * 60000)), what='55 minutes ahead')
    refused(k, topic, batch(records('a'), timestamp=now() + 65 * 60000), 'INVALID_TIMESTAMP', what='65 minutes ahead')
    refused(
        k, strict, batch(records('a'), timestamp=now() + 20000), 'INVALID_TIMESTAMP', what='20 s ahead, 1 s allowed'
    )


@case('A timestamp older than message.timestamp.before.max.ms is INVALID_TIMESTAMP; by default any age is accepted')
def timestamp_in_past(k):
    refused(
        k,
        k.topic(message_timestamp_before_max_ms='1000'),
        batch(records('a'), timestamp=now() - 60000),
        'INVALID_TIMESTAMP',
    )
    topic = k.topic()
    for timestamp in (0, 1000, -1):
        error(k.produce(topic, batch(records('a'), timestamp=timestamp)), what=f'timestamp {timestamp}')


@case(
    'A record without key on a compacted topic is INVALID_RECORD, and RecordErrors (v8) names it; nothing of the '
    'batch is appended'
)
def null_key_on_compacted(k):
    for policy in ('compact', 'compact,delete'):
        topic = k.topic(cleanup_policy=policy)
        data = batch([(b'k', b'1'), (None, b'2'), (b'k', b'3'), (None, b'4')])
        reply = error(k.produce(topic, data), 'INVALID_RECORD')
        equal([e['BatchIndex'] for e in reply['RecordErrors']], [1, 3], 'records at fault')
        true(reply['ErrorMessage'], 'an error message', reply)
        refused(k, topic, data, 'INVALID_RECORD', version=7, what='v7')
        error(k.produce(topic, batch([(b'', b'1')])), what='an empty key')


@case('A compressed record without key on a compacted topic is INVALID_RECORD too')
def null_key_on_compacted_compressed(k):
    topic = k.topic(cleanup_policy='compact')
    for codec in (1, 2, 3, 4):
        reply = error(
            k.produce(topic, batch([(b'k', b'1'), (None, b'2')], codec=codec)),
            'INVALID_RECORD',
            what=CODEC_NAMES[codec],
        )
        equal([e['BatchIndex'] for e in reply['RecordErrors']], [1], 'records at fault')
    equal(k.end_offset(topic), 0, 'end offset')


@case('Produce 13 addresses topics by id; an unknown id is UNKNOWN_TOPIC_ID')
def by_topic_id(k):
    k.require('Produce', 13)
    topic = k.topic()
    error(k.produce(topic, batch(records('a')), version=13))
    for topic_id in (os.urandom(16), bytes(16)):
        reply = k.call(
            'Produce',
            {
                'Acks': -1,
                'TimeoutMs': 5000,
                'TopicData': [{'TopicId': topic_id, 'PartitionData': [{'Index': 0, 'Records': batch(records('a'))}]}],
            },
            13,
        )['Responses'][0]
        equal(reply['TopicId'], topic_id, 'topic id in the answer')
        error(reply['PartitionResponses'][0], 'UNKNOWN_TOPIC_ID')
    equal(k.values(topic), [b'a'], 'values')


@case('A request without topics is answered with an empty list')
def nothing_to_produce(k):
    equal(k.call('Produce', {'Acks': -1, 'TimeoutMs': 1000, 'TopicData': []})['Responses'], [], 'responses')


@case('Header counts that the records do not bear out are INVALID_RECORD')
def deep_record_count(k):
    topic = k.topic()
    for codec in (0, GZIP, LZ4):
        for count in (1, 5, 0x7FFFFFFF):
            refused(
                k,
                topic,
                batch(records('a', 'b'), count=count, last_offset_delta=count - 1, codec=codec),
                'INVALID_RECORD',
                what=f'{CODEC_NAMES[codec]}, 2 records, count {count}',
            )


@case('Uncompressed records that do not parse are INVALID_RECORD')
def deep_garbage_records(k):
    topic = k.topic()
    refused(
        k,
        topic,
        batch(records('a'), payload=record(0, b'k', b'value')[:-2]),
        'INVALID_RECORD',
        what='a record cut short',
    )
    refused(
        k,
        topic,
        batch(records('a'), payload=record(0, b'k', b'value') + b'xx'),
        'INVALID_RECORD',
        what='bytes behind the last record',
    )
    refused(k, topic, batch([(b'k', b'v', [(None, b'x')])]), 'INVALID_RECORD', what='a header without a name')


@case('A max timestamp in the header that the records do not bear out is put right or refused')
def deep_max_timestamp(k):
    topic, t = k.topic(), now()
    for codec in (0, GZIP):
        reply = k.produce(
            topic, batch(records('a', 'b'), timestamps=[t, t + 5], max_timestamp=t + 86400000 * 365, codec=codec)
        )
        if reply['ErrorCode'] == 0:
            equal(k.batches(topic, offset=reply['BaseOffset'])[0][-1].max_timestamp, t + 5, 'max timestamp in the log')
        else:
            error(reply, 'INVALID_TIMESTAMP', 'INVALID_RECORD')


@case('A topic with compression.type other than producer stores batches in that codec')
def deep_recompression(k):
    for setting, codec in (('zstd', ZSTD), ('uncompressed', 0), ('gzip', GZIP)):
        topic = k.topic(compression_type=setting)
        for sent in (0, LZ4, codec):
            error(k.produce(topic, batch(records('a', 'b'), codec=sent)))
        equal({b.codec for b in k.batches(topic)[0]}, {codec}, f'codecs stored with compression.type={setting}')
        equal(len(k.values(topic)), 6, 'records')


@case(
    'A payload that cannot be decoded, compressed or not, is CORRUPT_MESSAGE or INVALID_RECORD',
    beyond='answers UNKNOWN_SERVER_ERROR',
)
def deep_garbage_payload(k):
    topic = k.topic()
    refused(
        k, topic, batch(records('a'), payload=b'\xff' * 50), 'CORRUPT_MESSAGE', 'INVALID_RECORD', what='not compressed'
    )
    for codec in (1, 2, 3, 4):
        refused(
            k,
            topic,
            batch(records('a'), codec=codec, payload=b'\xa5' * 50),
            'CORRUPT_MESSAGE',
            'INVALID_RECORD',
            what=CODEC_NAMES[codec],
        )


@case(
    'Offset deltas in the records that are not 0, 1, 2 … are INVALID_RECORD',
    beyond='stores them when uncompressed, answers UNKNOWN_SERVER_ERROR when compressed',
)
def deep_offset_deltas(k):
    topic = k.topic()
    for codec in (0, GZIP):
        for deltas in ([0, 5], [1, 0]):
            refused(
                k,
                topic,
                batch(records('a', 'b'), offset_deltas=deltas, codec=codec),
                'INVALID_RECORD',
                what=f'{CODEC_NAMES[codec]} {deltas}',
            )


@case('An unknown codec number is UNSUPPORTED_COMPRESSION_TYPE', beyond='answers UNKNOWN_SERVER_ERROR')
def unknown_codec(k):
    topic = k.topic()
    for codec in (5, 6, 7):
        refused(
            k,
            topic,
            batch(records('a'), attributes=codec),
            'UNSUPPORTED_COMPRESSION_TYPE',
            'INVALID_RECORD',
            what=f'codec {codec}',
        )


@case('Attribute bits that the format does not define are refused with INVALID_RECORD', beyond='stores them')
def undefined_attribute_bits(k):
    topic = k.topic()
    for bits in (0x40, 0x80, 0x4000, -0x8000):
        refused(
            k, topic, batch(records('a'), attributes=bits), 'INVALID_RECORD', what=f'attributes {bits & 0xffff:#06x}'
        )


@case('Null records are INVALID_RECORD', beyond='never answers')
def null_records(k):
    topic = k.topic()
    error(k.produce(topic, None, conn=k.connect(timeout=3)), 'INVALID_RECORD')


@case(
    'A partition named twice in one request loses nothing: both are appended or both are refused',
    beyond='appends the last one and drops the others without a word',
)
def partition_twice(k):
    topic = k.topic()
    reply = k.call(
        'Produce',
        {
            'Acks': -1,
            'TimeoutMs': 5000,
            'TopicData': [
                {
                    'Name': topic,
                    'PartitionData': [{'Index': 0, 'Records': batch(records(v))} for v in ('first', 'second')],
                }
            ],
        },
    )
    codes = [p['ErrorCode'] for t in reply['Responses'] for p in t['PartitionResponses']]
    accepted = [b'first', b'second'] if not any(codes) else []
    equal(k.values(topic), accepted, f'values for answers {codes}')
