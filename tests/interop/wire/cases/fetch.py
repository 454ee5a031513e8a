"""Fetch of committed data (isolation levels: see transactions.py)."""

import os, time

from harness import Skip, answers, area, between, equal, error, records, true, until
from records import batch, parse

case = area('fetch', tier=1)


def timed(k, low, high, what, *arguments, **options):
    """The partition's response; checks how long it took."""
    start = time.monotonic()
    reply = k.fetch(*arguments, **options)
    between(time.monotonic() - start, low, high, f'seconds for {what}')
    return reply


@case(
    'Every version from 4 gives the records, the high watermark, the last stable offset and (from 5) the '
    'log start offset'
)
def every_version(k):
    topic = k.topic()
    k.put(topic, 'a', 'b')
    low, high = k.range('Fetch')
    for version in range(low, high + 1):
        reply = error(k.fetch(topic, 0, version=version), what=f'v{version}')
        equal([r.value for b in parse(reply['Records']) for r in b.records], [b'a', b'b'], f'v{version} values')
        equal(
            (reply['HighWatermark'], reply['LastStableOffset']),
            (2, 2),
            f'v{version} high watermark, last stable offset',
        )
        if version >= 5:
            equal(reply['LogStartOffset'], 0, f'v{version} log start offset')
        if version >= 11:
            equal(reply['PreferredReadReplica'], -1, f'v{version} preferred read replica')


@case('Without data the records are empty, not null, and there is no list of aborted transactions')
def empty_records(k):
    reply = error(k.fetch(k.topic(), 0, max_wait_ms=0))
    equal(
        (reply['Records'], reply['AbortedTransactions'], reply['HighWatermark']),
        (b'', None, 0),
        'records, aborted transactions, high watermark',
    )


@case(
    'An offset above the log end or below the log start is OFFSET_OUT_OF_RANGE at once; the log end itself is in range'
)
def out_of_range(k):
    topic = k.topic()
    k.put(topic, *'abcde')
    error(
        k.call(
            'DeleteRecords',
            {'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'Offset': 2}]}], 'TimeoutMs': 5000},
        )['Topics'][0]['Partitions'][0]
    )
    for offset in (6, 99, 1, 0, -1, -5):
        error(
            timed(k, 0, 4, f'offset {offset}', topic, offset, max_wait_ms=10000),
            'OFFSET_OUT_OF_RANGE',
            what=f'offset {offset}',
        )
    for offset in (2, 5):
        equal(
            error(k.fetch(topic, offset, max_wait_ms=0), what=f'offset {offset}')['LogStartOffset'],
            2,
            'log start offset',
        )


@case('An unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION at once, without waiting for max_wait')
def unknown_topic(k):
    topic = k.topic()
    error(timed(k, 0, 4, 'an unknown topic', k.name(), 0, max_wait_ms=10000), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(
        timed(k, 0, 4, 'an unknown partition', topic, 0, partition=9, max_wait_ms=10000), 'UNKNOWN_TOPIC_OR_PARTITION'
    )


@case('At the log end a fetch waits max_wait and then answers empty')
def waits_at_end(k):
    topic = k.topic()
    equal(error(timed(k, 0.6, 6, 'max_wait 700 ms', topic, 0, max_wait_ms=700))['Records'], b'', 'records')
    error(timed(k, 0, 4, 'max_wait 0', topic, 0, max_wait_ms=0))
    error(timed(k, 0, 4, 'min_bytes 0', topic, 0, max_wait_ms=10000, min_bytes=0))


@case('A waiting fetch is answered as soon as a record is appended')
def wakes_on_append(k):
    topic = k.topic()
    for acks in (-1, 1, 0):
        start, fetch = time.monotonic(), k.start_fetch(topic, k.end_offset(topic), max_wait_ms=20000)
        time.sleep(0.3)
        k.produce(topic, batch(records('a')), acks=acks)
        found = parse(error(k.finish_fetch(fetch))['Records'])
        between(time.monotonic() - start, 0.25, 10, f'seconds until the answer, append after 0.3 s, acks={acks}')
        equal([r.value for b in found for r in b.records], [b'a'], 'values')


@case('A fetch waits until min_bytes are there, over all its partitions, or max_wait has passed')
def min_bytes(k):
    topic = k.topic(2)
    k.put(topic, 'x' * 1000)
    reply = timed(k, 0.5, 6, 'min_bytes 100000, 1 kB there', topic, 0, max_wait_ms=600, min_bytes=100000)
    equal(len(parse(error(reply)['Records'])), 1, 'batches after max_wait')
    error(timed(k, 0, 4, 'min_bytes 1000, 1 kB there', topic, 0, max_wait_ms=10000, min_bytes=1000))
    conn, version, start = k.connect(), k.version('Fetch'), time.monotonic()
    body = k.fetch_body(topic, 0, version=version, max_wait_ms=20000, min_bytes=1900)
    body['Topics'][0]['Partitions'].append({'Partition': 1, 'FetchOffset': 0, 'PartitionMaxBytes': 1 << 20})
    conn.send('Fetch', version, body)
    time.sleep(0.3)
    k.put(topic, 'y' * 1000, partition=1)
    reply = conn.recv('Fetch', version)
    between(time.monotonic() - start, 0.25, 10, 'seconds until both partitions hold 1,900 bytes together')
    equal(
        {p['PartitionIndex']: len(parse(p['Records'])) for p in reply['Responses'][0]['Partitions']},
        {0: 1, 1: 1},
        'batches by partition',
    )


@case('min_bytes above max_bytes does not make a fetch wait')
def min_above_max(k):
    topic = k.topic()
    for _ in range(3):
        k.put(topic, 'x' * 1000)
    error(timed(k, 0, 4, 'min_bytes 5000, max_bytes 1000', topic, 0, max_wait_ms=10000, min_bytes=5000, max_bytes=1000))


@case(
    'The first batch comes whole even if it is larger than max_bytes and the partition limit, so that a '
    'consumer never starves'
)
def first_batch_too_big(k):
    topic = k.topic()
    k.put(topic, k.bytes(20000))
    k.put(topic, 'x')
    for limits in (
        {'max_bytes': 100},
        {'partition_max_bytes': 100},
        {'max_bytes': 100, 'partition_max_bytes': 100},
        {'max_bytes': 0},
        {'partition_max_bytes': 0},
    ):
        found = parse(error(k.fetch(topic, 0, **limits), what=str(limits))['Records'])
        equal([b.base for b in found], [0], f'base offsets of whole batches for {limits}')


@case('Only the first partition with data may exceed max_bytes; the others come empty and in later fetches')
def max_bytes_over_partitions(k):
    topic = k.topic(3)
    for partition in range(3):
        k.put(topic, 'y' * 3000, partition=partition)

    def sizes(max_bytes, *order):
        body = k.fetch_body(topic, 0, version=k.version('Fetch'), max_bytes=max_bytes)
        body['Topics'][0]['Partitions'] = [
            {'Partition': p, 'FetchOffset': 0, 'PartitionMaxBytes': 1 << 20} for p in order
        ]
        return {
            p['PartitionIndex']: len(parse(error(p)['Records']))
            for p in k.call('Fetch', body)['Responses'][0]['Partitions']
        }

    equal(sizes(100, 0, 1, 2), {0: 1, 1: 0, 2: 0}, 'batches for max_bytes 100')
    equal(sizes(100, 2, 0, 1), {2: 1, 0: 0, 1: 0}, 'batches for max_bytes 100, asked in the order 2, 0, 1')
    equal(sizes(7000, 0, 1, 2), {0: 1, 1: 1, 2: 0}, 'batches for max_bytes 7000')
    equal(sizes(100000, 0, 1, 2), {0: 1, 1: 1, 2: 1}, 'batches for max_bytes 100000')


@case('The partition limit is kept to, except for the first batch; the rest follows from the next offset')
def partition_limit(k):
    topic = k.topic()
    for _ in range(10):
        k.put(topic, k.bytes(10000))
    offset, rounds = 0, 0
    while offset < 10:
        data = error(k.fetch(topic, offset, partition_max_bytes=30000))['Records']
        true(len(data) <= 30000, 'at most 30000 bytes', len(data))
        offset, rounds = parse(data)[-1].last + 1, rounds + 1
    between(rounds, 4, 10, 'fetches for 100 kB')


@case('A fetch from the middle of a batch gives the whole batch; the client drops what lies before')
def middle_of_batch(k):
    topic = k.topic()
    k.put(topic, 'a', 'b', 'c')
    k.put(topic, 'd')
    equal([(b.base, b.count) for b in parse(error(k.fetch(topic, 2))['Records'])], [(0, 3), (3, 1)], 'batches')


@case(
    'A current leader epoch that is too new is UNKNOWN_LEADER_EPOCH, one that is too old FENCED_LEADER_EPOCH; -1 is '
    'not checked'
)
def leader_epoch(k):
    topic = k.topic()
    k.put(topic, 'a')
    epoch = k.metadata([topic])['Topics'][0]['Partitions'][0]['LeaderEpoch']
    for given, expected in ((epoch, 'NONE'), (-1, 'NONE'), (epoch + 5, 'UNKNOWN_LEADER_EPOCH')) + (
        ((epoch - 1, 'FENCED_LEADER_EPOCH'),) if epoch > 0 else ()
    ):
        error(
            timed(k, 0, 4, f'epoch {given}', topic, 0, current_leader_epoch=given, max_wait_ms=10000),
            expected,
            what=f'current leader epoch {given}, is {epoch}',
        )


@case('From version 13 topics are named by id; an id that is unknown is UNKNOWN_TOPIC_ID for the partition, at once')
def by_topic_id(k):
    k.require('Fetch', 13)
    topic = k.topic()
    k.put(topic, 'a')
    equal(len(parse(error(k.fetch(topic, 0, version=13))['Records'])), 1, 'batches')
    for topic_id in (os.urandom(16), bytes(16)):
        error(
            timed(k, 0, 4, 'an unknown id', None, 0, version=13, topic_id=topic_id, max_wait_ms=10000),
            'UNKNOWN_TOPIC_ID',
        )
    error(k.fetch(topic, 0, partition=9, version=13), 'UNKNOWN_TOPIC_OR_PARTITION', what='an unknown partition')


@case('A fetch by the id of a deleted topic is UNKNOWN_TOPIC_ID, also when the name was created again')
def by_stale_topic_id(k):
    k.require('Fetch', 13)
    topic = k.topic()
    stale = k.topic_id(topic)
    error(k.delete_topic(topic))
    until(
        lambda: answers(k.fetch(None, 0, version=13, topic_id=stale, max_wait_ms=0), 'UNKNOWN_TOPIC_ID'),
        'the id is unknown',
    )
    until(lambda: answers(k.create_topic(topic), 'NONE'), 'the name can be created again')
    k.wait_for_topic(topic)
    error(k.fetch(None, 0, version=13, topic_id=stale, max_wait_ms=0), 'UNKNOWN_TOPIC_ID')


@case('One bad partition does not spoil the others of the same fetch')
def partial_failure(k):
    topic = k.topic(2)
    k.put(topic, 'a')
    body = k.fetch_body(topic, 0, version=k.version('Fetch'), max_wait_ms=10000)
    body['Topics'][0]['Partitions'] += [
        {'Partition': 9, 'FetchOffset': 0, 'PartitionMaxBytes': 1 << 20},
        {'Partition': 1, 'FetchOffset': 77, 'PartitionMaxBytes': 1 << 20},
    ]
    codes = {p['PartitionIndex']: p['ErrorCode'] for p in k.call('Fetch', body)['Responses'][0]['Partitions']}
    equal(codes, {0: 0, 1: 1, 9: 3}, 'error codes by partition')


@case('A fetch without a session (epoch -1) is answered with session id 0')
def no_session(k):
    equal(k.fetch(k.topic(), 0, whole=True, max_wait_ms=0)['SessionId'], 0, 'session id')


@case('A fetch for a session that does not exist is FETCH_SESSION_ID_NOT_FOUND, with session id 0 and no partitions')
def unknown_session(k):
    topic = k.topic()
    for session in ((987654, 5), (0, 5)):
        reply = k.fetch(topic, 0, whole=True, session=session)
        error(reply, 'FETCH_SESSION_ID_NOT_FOUND', what=f'session id and epoch {session}')
        equal((reply['SessionId'], reply['Responses']), (0, []), 'session id, responses')


@case(
    'Asked for a session (epoch 0), a broker may answer with id 0; if it opens one, unchanged partitions are left '
    'out of later answers'
)
def session(k):
    topic = k.topic()
    k.put(topic, 'a')
    first = error(k.fetch(topic, 0, whole=True, session=(0, 0)))
    equal(len(parse(first['Responses'][0]['Partitions'][0]['Records'])), 1, 'batches in the full answer')
    number = first['SessionId']
    if number == 0:
        raise Skip('the broker keeps no sessions, which is its right')
    equal(error(k.fetch(topic, 1, whole=True, session=(number, 1), max_wait_ms=50))['Responses'], [], 'nothing new')
    k.put(topic, 'b')
    reply = error(k.fetch(None, 0, whole=True, session=(number, 2)))
    equal(
        [b.base for b in parse(reply['Responses'][0]['Partitions'][0]['Records'])],
        [1],
        'what is new, without naming the partition again',
    )
    error(k.fetch(None, 0, whole=True, session=(number, 9)), 'INVALID_FETCH_SESSION_EPOCH')
    equal(
        error(k.fetch(topic, 0, whole=True, session=(number, -1)))['SessionId'],
        0,
        'session id after closing (epoch -1)',
    )
    error(k.fetch(None, 0, whole=True, session=(number, 3)), 'FETCH_SESSION_ID_NOT_FOUND', what='after closing')


@case('A fetch without partitions is answered at once')
def nothing_asked(k):
    start = time.monotonic()
    reply = k.fetch(None, 0, whole=True, version=12, max_wait_ms=10000)
    equal((reply['ErrorCode'], reply['Responses']), (0, []), 'error code, responses')
    between(time.monotonic() - start, 0, 4, 'seconds')


@case('A read of twenty batches from every offset gives each record from there on, once')
def every_offset(k):
    topic, n = k.topic(), 0
    for i in range(20):
        k.put(topic, *(str(n + j) for j in range(i % 4 + 1)), codec=i % 5)
        n += i % 4 + 1
    for offset in range(n):
        found, _ = k.batches(topic, offset)
        equal(
            [int(r.value) for b in found for r in b.records if r.offset >= offset],
            list(range(offset, n)),
            f'values from offset {offset}',
        )


@case('Negative limits are INVALID_REQUEST', beyond='answers UNKNOWN_SERVER_ERROR')
def negative_limits(k):
    topic = k.topic()
    k.put(topic, 'a')
    for limits in ({'max_bytes': -1}, {'partition_max_bytes': -1}):
        reply = k.fetch(topic, 0, whole=True, **limits)
        error(
            reply['ErrorCode'] or reply['Responses'][0]['Partitions'][0]['ErrorCode'],
            'INVALID_REQUEST',
            'INVALID_FETCH_SIZE',
            what=str(limits),
        )
