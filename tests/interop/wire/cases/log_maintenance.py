"""Compaction and retention. A broker under test needs short check intervals: see README.md."""

import time

from harness import area, equal, error, records, true, until
from records import batch

case = area('log_maintenance', tier=4)
COMPACT = dict(
    cleanup_policy='compact',
    segment_ms='1000',
    min_cleanable_dirty_ratio='0.01',
    min_compaction_lag_ms='0',
    max_compaction_lag_ms='1500',
)


def roll(k, topic):
    """Closes the active segment: it is older than segment.ms when the next record comes."""
    time.sleep(1.2)
    k.produce(topic, batch([(b'roll', b'')]))


def rows(k, topic, isolation=0):
    return [r for b in k.batches(topic, isolation=isolation)[0] if not b.control for r in b.records]


@case('Compaction keeps the last record of each key at its offset, and the log end does not move', slow=True)
def keeps_latest(k):
    topic = k.topic(**COMPACT)
    for value in range(5):
        for key in range(10):
            k.produce(topic, batch([(b'k%d' % key, b'v%d' % value)]))
    roll(k, topic)
    until(lambda: len([r for r in rows(k, topic) if r.key != b'roll']) == 10, 'ten records left', timeout=60, every=1)
    kept = {r.key: (r.offset, r.value) for r in rows(k, topic) if r.key != b'roll'}
    equal(kept, {b'k%d' % i: (40 + i, b'v4') for i in range(10)}, 'offset and value by key')
    equal((k.offset(topic, -2)['Offset'], k.end_offset(topic)), (0, 51), 'log start, log end')
    equal(error(k.fetch(topic, 0, max_wait_ms=0))['LogStartOffset'], 0, 'log start in Fetch')


@case('A fetch from an offset that compaction has removed gives the next record that is left', slow=True)
def fetch_in_a_hole(k):
    topic = k.topic(**COMPACT)
    for value in range(20):
        k.produce(topic, batch([(b'k', b'%d' % value), (b'other', b'%d' % value)]))
    roll(k, topic)
    until(lambda: len(rows(k, topic)) <= 3, 'three records left', timeout=60, every=1)
    for offset in (0, 7, 37):
        found = [
            r.offset for b in k.batches(topic, offset)[0] for r in b.records if r.offset >= offset and r.key != b'roll'
        ]
        equal(found, [38, 39], f'offsets for a fetch from {offset}')


@case('A tombstone removes its key, and itself after delete.retention.ms', slow=True)
def tombstones(k):
    topic = k.topic(**COMPACT, delete_retention_ms='100')
    for key, value in ((b'a', b'1'), (b'b', b'1'), (b'a', None)):
        k.produce(topic, batch([(key, value)]))

    def left():
        roll(k, topic)
        return [(r.key, r.value) for r in rows(k, topic) if r.key != b'roll']

    until(lambda: left() == [(b'b', b'1')], 'only b is left', timeout=90, every=1)


@case(
    'Compaction drops aborted records and keeps committed ones; a read_committed reader sees the same before and after',
    slow=True,
)
def transactions(k):
    topic, x = k.topic(**COMPACT), k.transactional()
    end_offset = 0
    for commit, value in ((True, '1'), (False, 'aborted'), (True, '2'), (False, 'aborted')):
        x.write(topic, value)
        error(x.end(commit))
        end_offset += 2
        x.settled(topic, end_offset)
    roll(k, topic)
    until(
        lambda: [r.value for r in rows(k, topic) if r.key == b'k'] == [b'2'],
        'only the committed value 2 is left',
        timeout=60,
        every=1,
    )
    equal([v for v in k.values(topic, committed=True) if v], [b'2'], 'read_committed values')
    end_offset = k.end_offset(topic)
    x.write(topic, '3')
    error(x.end(True))
    x.settled(topic, end_offset + 2)
    equal(k.values(topic, committed=True)[-1:], [b'3'], 'the last value after one more transaction')


@case('A compacted topic still recognises a producer whose last batch was compacted away', slow=True)
def producer_state(k):
    topic, pid = k.topic(**COMPACT), error(k.init_producer_id())['ProducerId']
    for sequence in range(3):
        error(k.produce(topic, batch(records(f'v{sequence}'), producer_id=pid, producer_epoch=0, sequence=sequence)))
    k.put(topic, 'newer')
    roll(k, topic)
    until(
        lambda: len([r for r in rows(k, topic) if r.key == b'k']) == 1,
        'one record of the key left',
        timeout=60,
        every=1,
    )
    equal(
        error(k.produce(topic, batch(records('v2'), producer_id=pid, producer_epoch=0, sequence=2)))['BaseOffset'],
        2,
        'base offset of the duplicate',
    )
    error(
        k.produce(topic, batch(records('v4'), producer_id=pid, producer_epoch=0, sequence=4)),
        'OUT_OF_ORDER_SEQUENCE_NUMBER',
    )


@case('retention.ms removes records that are older, also from the active segment; the offsets go on', slow=True)
def retention_time(k):
    topic = k.topic(retention_ms='2000', message_timestamp_before_max_ms='9223372036854775807')
    for value in 'abc':
        k.put(topic, value, timestamp=int(time.time() * 1000) - 3600000)
    until(lambda: k.offset(topic, -2)['Offset'] == 3, 'log start 3', timeout=60, every=0.5)
    equal(k.end_offset(topic), 3, 'log end')
    error(k.fetch(topic, 0), 'OFFSET_OUT_OF_RANGE')
    equal(k.put(topic, 'd')['BaseOffset'], 3, 'base offset of the next record')


@case('retention.bytes removes the oldest segments and keeps at least that many bytes', slow=True)
def retention_size(k):
    topic = k.topic(retention_bytes='2097152', segment_bytes='1048576')
    for _ in range(8):
        error(k.produce(topic, batch([(None, k.bytes(800000))])))
    start = until(lambda: k.offset(topic, -2)['Offset'], 'the log start moves', timeout=60, every=0.5)
    true(1 <= start <= 6, 'some of the oldest are gone, two MiB are left', start)
    equal(len(k.values(topic, offset=start)), 8 - start, 'records left')
    equal(k.end_offset(topic), 8, 'log end')


@case('A topic that is only compacted keeps all its keys whatever their age', slow=True)
def compacted_keeps_old(k):
    topic = k.topic(**COMPACT, retention_ms='1000')
    k.produce(topic, batch([(b'old', b'1')], timestamp=int(time.time() * 1000) - 3600000))
    roll(k, topic)
    time.sleep(5)
    true(b'old' in [r.key for r in rows(k, topic)], 'the old key is there')
    equal(k.offset(topic, -2)['Offset'], 0, 'log start')
