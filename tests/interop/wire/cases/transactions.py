"""Transactions before transaction version 2 (AddPartitionsToTxn 3, EndTxn 3, Produce 9); readers."""

import time

from harness import area, between, equal, error, records, true, until
from kwire import CODES
from records import batch, parse

case = area('transactions', tier=3)
ABORT_KEY, COMMIT_KEY = b'\0\0\0\0', b'\0\0\0\1'  # control record key: version 0, type


def end(k, transactional_id, producer_id, epoch, version=None):
    return k.call(
        'EndTxn',
        {'TransactionalId': transactional_id, 'ProducerId': producer_id, 'ProducerEpoch': epoch, 'Committed': True},
        version,
    )


def lso(k, topic, partition=0):
    return k.end_offset(topic, partition, isolation=1)


@case(
    'Before the commit read_committed sees nothing from the first open record on; after it all, in log order, and a '
    'COMMIT marker takes an offset'
)
def commit(k):
    topic, x = k.topic(), k.transactional()
    k.put(topic, 'before')
    x.write(topic, 'a', 'b')
    k.put(topic, 'plain')
    equal(k.values(topic), [b'before', b'a', b'b', b'plain'], 'read_uncommitted values')
    equal(k.values(topic, committed=True), [b'before'], 'read_committed values')
    equal((lso(k, topic), k.end_offset(topic)), (1, 4), 'last stable offset, high watermark')
    error(x.end(True))
    x.settled(topic, 5)
    equal(k.values(topic, committed=True), [b'before', b'a', b'b', b'plain'], 'read_committed values after the commit')
    found, aborted = k.batches(topic, isolation=1)
    equal(aborted, [], 'aborted transactions')
    marker = found[-1]
    equal(
        (
            marker.base,
            marker.count,
            marker.control,
            marker.transactional,
            marker.producer_id,
            marker.producer_epoch,
            marker.sequence,
        ),
        (4, 1, True, True, x.producer_id, x.epoch, -1),
        'marker: offset, count, control, transactional, producer id, epoch, sequence',
    )
    equal(
        (marker.records[0].key, marker.records[0].value[:2], len(marker.records[0].value)),
        (COMMIT_KEY, b'\0\0', 6),
        'marker key, value version, size',
    )


@case(
    'An aborted transaction is listed with producer id and first offset; read_committed skips it, '
    'read_uncommitted has no list'
)
def abort(k):
    topic, x = k.topic(), k.transactional()
    k.put(topic, 'before')
    x.write(topic, 'a')
    x.produce(topic, 'b')
    error(x.end(False))
    x.settled(topic, 4)
    found, aborted = k.batches(topic, isolation=1)
    equal(aborted, [{'ProducerId': x.producer_id, 'FirstOffset': 1}], 'aborted transactions')
    equal((found[-1].control, found[-1].records[0].key), (True, ABORT_KEY), 'ABORT marker')
    equal(k.values(topic, committed=True), [b'before'], 'read_committed values')
    equal(k.values(topic), [b'before', b'a', b'b'], 'read_uncommitted values')
    equal(error(k.fetch(topic, 0))['AbortedTransactions'], None, 'aborted transactions with read_uncommitted')
    equal(error(k.fetch(topic, 0, isolation=1, max_wait_ms=0))['LastStableOffset'], 4, 'last stable offset in Fetch')


@case('A fetch that starts after an aborted transaction does not list it; one that starts inside does')
def abort_list_range(k):
    topic, x = k.topic(), k.transactional()
    x.write(topic, 'a', 'b')
    x.end(False)
    x.settled(topic, 3)
    k.put(topic, 'after')
    for offset, want in ((0, [0]), (1, [0]), (2, [0]), (3, [])):
        reply = error(k.fetch(topic, offset, isolation=1))
        equal(
            [t['FirstOffset'] for t in reply['AbortedTransactions'] or []],
            want,
            f'first offsets listed for a fetch from {offset}',
        )


@case('Two interleaved transactions: the earlier open one holds the last stable offset; each ends for itself')
def interleaved(k):
    topic, a, b = k.topic(), k.transactional(), k.transactional()
    a.write(topic, 'a1')
    b.write(topic, 'b1')
    error(a.produce(topic, 'a2'))
    error(b.end(True))
    until(lambda: k.end_offset(topic) == 4, "b's marker is written")
    equal(lso(k, topic), 0, 'last stable offset while a is open')
    error(a.produce(topic, 'a3'))
    error(a.end(False))
    a.settled(topic, 6)
    equal(k.values(topic, committed=True), [b'b1'], 'read_committed values')
    equal(k.values(topic), [b'a1', b'b1', b'a2', b'a3'], 'read_uncommitted values')


@case('One transaction over several partitions and topics commits or aborts in all of them')
def many_partitions(k):
    first, second = k.topic(3), k.topic()
    for commit_it in (True, False):
        x = k.transactional()
        error(x.add(first, 0, 1, 2))
        for partition in range(3):
            error(x.produce(first, 'v', partition=partition))
        x.write(second, 'v')
        ends = [k.end_offset(first, p) + 1 for p in range(3)], k.end_offset(second) + 1
        error(x.end(commit_it))
        for partition in range(3):
            x.settled(first, ends[0][partition], partition)
        x.settled(second, ends[1])
    equal(
        [k.values(first, committed=True, partition=p) for p in range(3)] + [k.values(second, committed=True)],
        [[b'v']] * 4,
        'read_committed values',
    )


@case('A producer makes many transactions one after the other, committed and aborted, with sequences that go on')
def many_in_a_row(k):
    topic, x, want, end_offset = k.topic(), k.transactional(), [], 0
    for i in range(6):
        x.write(topic, f'a{i}', f'b{i}')
        error(x.end(i % 3 != 1))
        end_offset += 3
        x.settled(topic, end_offset)
        want += [] if i % 3 == 1 else [f'a{i}'.encode(), f'b{i}'.encode()]
    equal(k.values(topic, committed=True), want, 'read_committed values')


@case('A read_committed fetch that waits at the last stable offset is answered when the transaction ends')
def fetch_waits_for_commit(k):
    topic, x = k.topic(), k.transactional()
    x.write(topic, 'a')
    start, fetch = time.monotonic(), k.start_fetch(topic, 0, isolation=1, max_wait_ms=20000)
    time.sleep(0.5)
    error(x.end(True))
    reply = error(k.finish_fetch(fetch))
    between(time.monotonic() - start, 0.45, 12, 'seconds until the answer, commit after 0.5 s')
    equal([r.value for b in parse(reply['Records']) if not b.control for r in b.records], [b'a'], 'values')


@case('InitProducerId of a known transactional id keeps the producer id and raises the epoch')
def init_again(k):
    x = k.transactional()
    for i in (1, 2, 3):
        reply = error(k.init_producer_id(x.id))
        equal((reply['ProducerId'], reply['ProducerEpoch']), (x.producer_id, x.epoch + i), 'producer id, epoch')


@case(
    'A transaction timeout of 0 or less, or above the limit of the broker (15 minutes), is INVALID_TRANSACTION_TIMEOUT'
)
def init_timeouts(k):
    k.coordinator(k.name('tx'), 1)
    for timeout_ms in (0, -1, 900001, 0x7FFFFFFF):
        error(k.init_producer_id(k.name('tx'), timeout_ms), 'INVALID_TRANSACTION_TIMEOUT', what=f'{timeout_ms} ms')
    error(k.init_producer_id(k.name('tx'), 900000), what='900000 ms')


@case(
    'InitProducerId with its own id and epoch raises the epoch, once also when it is retried; any other id or epoch '
    'is PRODUCER_FENCED'
)
def init_with_epoch(k):
    x = k.transactional()
    for what in ('first', 'retried'):
        reply = error(k.init_producer_id(x.id, producer_id=x.producer_id, epoch=x.epoch), what=what)
        equal(
            (reply['ProducerId'], reply['ProducerEpoch']), (x.producer_id, x.epoch + 1), f'{what}: producer id, epoch'
        )
    error(
        k.init_producer_id(x.id, producer_id=x.producer_id + 5000, epoch=0),
        'PRODUCER_FENCED',
        what='another producer id',
    )
    error(k.init_producer_id(x.id, producer_id=x.producer_id, epoch=50), 'PRODUCER_FENCED', what='an epoch to come')
    k.init_producer_id(x.id)
    error(
        k.init_producer_id(x.id, producer_id=x.producer_id, epoch=x.epoch, version=4),
        'PRODUCER_FENCED',
        what='an old epoch',
    )
    error(
        k.init_producer_id(x.id, producer_id=x.producer_id, epoch=x.epoch, version=3),
        'INVALID_PRODUCER_EPOCH',
        what='an old epoch in v3',
    )


@case(
    'InitProducerId while a transaction is open answers CONCURRENT_TRANSACTIONS until that is aborted, then gives a '
    'higher epoch'
)
def init_aborts(k):
    topic, x = k.topic(), k.transactional()
    x.write(topic, 'zombie')
    error(k.init_producer_id(x.id, retry=False), 'CONCURRENT_TRANSACTIONS')
    reply = error(k.init_producer_id(x.id))
    equal(reply['ProducerId'], x.producer_id, 'producer id')
    true(reply['ProducerEpoch'] > x.epoch, 'a higher epoch', reply['ProducerEpoch'])
    x.settled(topic, 2)
    equal(k.values(topic, committed=True), [], 'read_committed values')


@case(
    'After InitProducerId elsewhere the old producer is fenced: INVALID_PRODUCER_EPOCH in Produce and '
    'TxnOffsetCommit and in old versions, else PRODUCER_FENCED'
)
def fencing(k):
    topic, x, group = k.topic(), k.transactional(), k.group()
    x.write(topic, 'zombie')
    error(k.init_producer_id(x.id))
    error(x.produce(topic, 'late'), 'INVALID_PRODUCER_EPOCH', what='Produce')
    error(x.commit_offset(group, topic, 1), 'INVALID_PRODUCER_EPOCH', what='TxnOffsetCommit')
    error(x.add(topic), 'PRODUCER_FENCED', what='AddPartitionsToTxn')
    error(x.add_offsets(group), 'PRODUCER_FENCED', what='AddOffsetsToTxn')
    for version, name in (
        (0, 'INVALID_PRODUCER_EPOCH'),
        (1, 'INVALID_PRODUCER_EPOCH'),
        (2, 'PRODUCER_FENCED'),
        (3, 'PRODUCER_FENCED'),
    ):
        error(end(k, x.id, x.producer_id, x.epoch, version), name, what=f'EndTxn v{version}')
    equal(k.values(topic), [b'zombie'], 'read_uncommitted values')


@case(
    'EndTxn of an unknown transactional id or producer id is INVALID_PRODUCER_ID_MAPPING, of a wrong epoch '
    'PRODUCER_FENCED, of nothing INVALID_TXN_STATE'
)
def end_errors(k):
    x = k.transactional()
    error(end(k, k.name('never'), 1, 0), 'INVALID_PRODUCER_ID_MAPPING')
    error(end(k, x.id, x.producer_id + 999, 0), 'INVALID_PRODUCER_ID_MAPPING')
    error(end(k, x.id, x.producer_id, x.epoch + 7), 'PRODUCER_FENCED')
    for commit_it in (True, False):
        error(x.end(commit_it), 'INVALID_TXN_STATE', what='ending a transaction that was not begun')


@case('EndTxn can be retried: the same answer again, but ending it the other way round is INVALID_TXN_STATE')
def end_retried(k):
    topic = k.topic()
    for commit_it in (True, False):
        x = k.transactional()
        x.write(topic, 'a')
        error(x.end(commit_it))
        error(x.end(commit_it), what=f'committed={commit_it}, sent again')
        error(x.end(not commit_it), 'INVALID_TXN_STATE', what=f'committed={not commit_it} after committed={commit_it}')


@case(
    'A partition that cannot be added is UNKNOWN_TOPIC_OR_PARTITION, the others of the request are '
    'OPERATION_NOT_ATTEMPTED'
)
def add_unknown(k):
    topic, missing, x = k.topic(), k.name(), k.transactional()
    error(x.add(topic, 9), 'UNKNOWN_TOPIC_OR_PARTITION', what='an unknown partition')
    reply = k.call(
        'AddPartitionsToTxn',
        {
            'V3AndBelowTransactionalId': x.id,
            'V3AndBelowProducerId': x.producer_id,
            'V3AndBelowProducerEpoch': x.epoch,
            'V3AndBelowTopics': [{'Name': t, 'Partitions': [0]} for t in (topic, missing)],
        },
    )
    equal(
        {t['Name']: t['ResultsByPartition'][0]['PartitionErrorCode'] for t in reply['ResultsByTopicV3AndBelow']},
        {topic: CODES['OPERATION_NOT_ATTEMPTED'], missing: CODES['UNKNOWN_TOPIC_OR_PARTITION']},
        'error codes',
    )
    error(x.produce(topic, 'a'), 'INVALID_TXN_STATE', what='Produce to the partition that was not added')


@case(
    'A partition may be added twice; AddPartitionsToTxn right after EndTxn is CONCURRENT_TRANSACTIONS until the '
    'markers are written'
)
def add_again(k):
    topic, x = k.topic(), k.transactional()
    for _ in range(2):
        error(x.add(topic))
    error(x.produce(topic, 'a'))
    error(x.end(True))
    for _ in range(100):
        code = x.add(topic, retry=False)
        if code != CODES['CONCURRENT_TRANSACTIONS']:
            break
        time.sleep(0.05)
    error(code)
    error(x.end(False))


@case(
    'A transactional Produce to a partition that was not added is refused: INVALID_TXN_STATE, from version 11 '
    'TRANSACTION_ABORTABLE'
)
def produce_not_added(k):
    topic, x = k.topic(2), k.transactional()
    error(x.add(topic, 0))
    for version, name in ((9, 'INVALID_TXN_STATE'), (10, 'INVALID_TXN_STATE'), (11, 'TRANSACTION_ABORTABLE')):
        k.require('Produce', version)
        error(x.produce(topic, 'a', partition=1, version=version), name, what=f'v{version}')
    equal(k.end_offset(topic, 1), 0, 'end offset')
    error(x.produce(topic, 'a', partition=0))
    error(x.end(True))


@case('A batch of the same producer id that is not transactional, while its transaction is open, is INVALID_TXN_STATE')
def plain_batch_in_transaction(k):
    topic, x = k.topic(), k.transactional()
    x.write(topic, 'a')
    data = batch(records('b'), producer_id=x.producer_id, producer_epoch=x.epoch, sequence=1)
    error(k.produce(topic, data), 'INVALID_TXN_STATE')
    error(x.end(True))
    x.settled(topic, 2)


@case('Duplicates and gaps are recognised inside a transaction as outside')
def sequences(k):
    topic, x = k.topic(), k.transactional()
    x.write(topic, 'a')
    equal(error(x.produce(topic, 'a', sequence=0))['BaseOffset'], 0, 'base offset of the duplicate')
    error(x.produce(topic, 'c', sequence=2), 'OUT_OF_ORDER_SEQUENCE_NUMBER')
    error(x.produce(topic, 'b'))
    error(x.end(True))
    x.settled(topic, 3)
    equal(k.values(topic, committed=True), [b'a', b'b'], 'values')


@case(
    'ListOffsets with read_committed gives the last stable offset as latest; by timestamp it finds nothing in an '
    'open transaction'
)
def list_offsets(k):
    topic, x = k.topic(), k.transactional()
    t = int(time.time() * 1000) - 100000
    k.put(topic, 'a', timestamp=t)
    x.write(topic, 'b')
    equal(
        [k.offset(topic, -1, isolation=i)['Offset'] for i in (0, 1)],
        [2, 1],
        'latest offset, read_uncommitted and read_committed',
    )
    equal(k.offset(topic, t + 1, isolation=1)['Offset'], -1, 'by timestamp, read_committed')
    equal(k.offset(topic, t + 1, isolation=0)['Offset'], 1, 'by timestamp, read_uncommitted')
    error(x.end(True))
    x.settled(topic, 3)


@case(
    'Offsets committed in a transaction are invisible until it commits; RequireStable answers '
    'UNSTABLE_OFFSET_COMMIT meanwhile'
)
def offsets_commit(k):
    topic, x, group = k.topic(), k.transactional(), k.group()
    k.commit(group, topic, 3)
    error(x.add_offsets(group))
    error(x.commit_offset(group, topic, 7))
    equal(k.committed(group, topic)['CommittedOffset'], 3, 'offset while the transaction is open')
    reply = k.committed(group, topic, require_stable=True)
    equal(
        (reply['ErrorCode'], reply['CommittedOffset']),
        (CODES['UNSTABLE_OFFSET_COMMIT'], -1),
        'error code and offset with RequireStable',
    )
    error(x.end(True))
    until(lambda: k.committed(group, topic)['CommittedOffset'] == 7, 'offset 7')
    equal(error(k.committed(group, topic, require_stable=True))['CommittedOffset'], 7, 'offset with RequireStable')


@case('Offsets committed in a transaction that aborts leave the offset before')
def offsets_abort(k):
    topic, x, group = k.topic(), k.transactional(), k.group()
    k.commit(group, topic, 3)
    error(x.add_offsets(group))
    error(x.commit_offset(group, topic, 7))
    error(x.end(False))
    until(lambda: k.committed(group, topic, require_stable=True)['ErrorCode'] == 0, 'no open offsets')
    equal(k.committed(group, topic)['CommittedOffset'], 3, 'offset')


@case('TxnOffsetCommit without AddOffsetsToTxn is INVALID_TXN_STATE, from version 4 TRANSACTION_ABORTABLE')
def offsets_not_added(k):
    topic, x, group = k.topic(), k.transactional(), k.group()
    error(x.commit_offset(group, topic, 7, version=3), 'INVALID_TXN_STATE')
    k.require('TxnOffsetCommit', 4)
    error(x.commit_offset(group, topic, 7, version=4), 'TRANSACTION_ABORTABLE')


@case(
    'TxnOffsetCommit checks the member that it names (KIP-447): ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, '
    'FENCED_INSTANCE_ID; naming none is allowed'
)
def offsets_group_fencing(k):
    topic, x = k.topic(), k.transactional()
    m = k.member(k.group()).join_alone()
    error(x.add_offsets(m.group))
    error(x.commit_offset(m.group, topic, 5, generation=m.generation, member_id=m.id))
    error(x.commit_offset(m.group, topic, 6, generation=0, member_id=m.id), 'ILLEGAL_GENERATION')
    error(x.commit_offset(m.group, topic, 6, generation=m.generation, member_id='ghost'), 'UNKNOWN_MEMBER_ID')
    error(
        x.commit_offset(m.group, topic, 6, generation=m.generation, member_id=m.id, instance='never seen'),
        'UNKNOWN_MEMBER_ID',
    )
    old = k.member(k.group(), instance='i1').join_alone()
    new = k.member(old.group, instance='i1')
    error(new.join()), error(new.sync())
    error(x.add_offsets(old.group))
    error(
        x.commit_offset(old.group, topic, 6, generation=old.generation, member_id=old.id, instance='i1'),
        'FENCED_INSTANCE_ID',
    )
    error(x.commit_offset(m.group, topic, 8), what='no member named')
    error(x.commit_offset(m.group, k.name(), 8), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(x.end(True))
    until(lambda: k.committed(m.group, topic)['CommittedOffset'] == 8, 'offset 8')


@case('A group with open transactional offsets keeps them apart by producer; a plain commit is visible at once')
def offsets_and_plain_commit(k):
    topic, a, b, group = k.topic(3), k.transactional(), k.transactional(), k.group()
    for x, offset in ((a, 10), (b, 20)):
        error(x.add_offsets(group))
        error(x.commit_offset(group, topic, offset))
    error(k.commit(group, topic, 5, partition=1))
    equal([k.committed(group, topic, p)['CommittedOffset'] for p in (0, 1)], [-1, 5], 'offsets of partitions 0 and 1')
    error(a.end(False))
    error(b.end(True))
    until(lambda: k.committed(group, topic)['CommittedOffset'] == 20, "offset 20, b's")


@case('A transaction with both records and offsets ends in both or in neither')
def records_and_offsets(k):
    source, target, group = k.topic(), k.topic(), k.group()
    for commit_it, offset, end_offset in ((False, 4, 2), (True, 8, 4)):
        x = k.transactional()
        x.write(target, f'out{offset}')
        error(x.add_offsets(group))
        error(x.commit_offset(group, source, offset))
        error(x.end(commit_it))
        x.settled(target, end_offset)
        until(lambda: k.committed(group, source, require_stable=True)['ErrorCode'] == 0, 'no open offsets')
    equal(k.values(target, committed=True), [b'out8'], 'read_committed values')
    equal(k.committed(group, source)['CommittedOffset'], 8, 'offset')


@case('A transaction that outlives its timeout is aborted by the broker, and its producer is fenced', slow=True)
def timeout(k):
    topic, x = k.topic(), k.transactional(timeout_ms=1000)
    x.write(topic, 'a')
    until(lambda: lso(k, topic) == 2, 'the transaction is aborted', timeout=40, every=0.25)
    equal(k.values(topic, committed=True), [], 'read_committed values')
    error(x.end(True), 'PRODUCER_FENCED', 'INVALID_PRODUCER_EPOCH', 'INVALID_TXN_STATE')
    error(x.produce(topic, 'b'), 'INVALID_PRODUCER_EPOCH', 'INVALID_TXN_STATE')


@case('DescribeTransactions shows state, partitions and producer; an unknown id is TRANSACTIONAL_ID_NOT_FOUND')
def describe(k):
    topic, x, unknown = k.topic(2), k.transactional(timeout_ms=55000), k.name('never')

    def now(*ids):
        return {
            t['TransactionalId']: t
            for t in k.call('DescribeTransactions', {'TransactionalIds': list(ids)})['TransactionStates']
        }

    replies = now(x.id, unknown)
    error(replies[unknown], 'TRANSACTIONAL_ID_NOT_FOUND')
    reply = error(replies[x.id])
    equal(
        (
            reply['TransactionState'],
            reply['ProducerId'],
            reply['ProducerEpoch'],
            reply['TransactionTimeoutMs'],
            reply['Topics'],
            reply['TransactionStartTimeMs'],
        ),
        ('Empty', x.producer_id, x.epoch, 55000, [], -1),
        'before',
    )
    x.write(topic, 'a', partition=1)
    reply = error(now(x.id)[x.id])
    equal((reply['TransactionState'], reply['Topics']), ('Ongoing', [{'Topic': topic, 'Partitions': [1]}]), 'open')
    true(reply['TransactionStartTimeMs'] > 0, 'a start time', reply)
    error(x.end(True))
    until(lambda: now(x.id)[x.id]['TransactionState'] == 'CompleteCommit', 'CompleteCommit')


@case(
    'ListTransactions filters by state, producer id, age (version 1) and pattern (version 2), and names states that '
    'it does not know'
)
def list_transactions(k):
    topic, a, b = k.topic(), k.transactional(), k.transactional()
    a.write(topic, 'a')

    def listed(version=0, **filters):
        reply = error(k.call('ListTransactions', filters, version), what=str(filters))
        return {t['TransactionalId'] for t in reply['TransactionStates']} & {a.id, b.id}, reply['UnknownStateFilters']

    for version, filters, want in (
        (0, {}, {a.id, b.id}),
        (0, {'StateFilters': ['Ongoing']}, {a.id}),
        (0, {'StateFilters': ['Empty']}, {b.id}),
        (0, {'ProducerIdFilters': [b.producer_id]}, {b.id}),
    ):
        equal(listed(version, **filters), (want, []), f'{filters}')
    equal(listed(StateFilters=['Bogus']), (set(), ['Bogus']), 'an unknown state')
    k.require('ListTransactions', 2)
    true(
        a.id not in listed(1, DurationFilter=3600000)[0],
        'the open transaction is not listed as one of more than an hour',
    )
    time.sleep(0.05)
    true(a.id in listed(1, DurationFilter=1)[0], 'the open transaction is listed as one of more than a millisecond')
    equal(
        listed(2, TransactionalIdPattern=a.id[:-1] + '.'),
        ({a.id, b.id} if a.id[:-1] == b.id[:-1] else {a.id}, []),
        'a pattern',
    )
    error(k.call('ListTransactions', {'TransactionalIdPattern': '('}, 2), 'INVALID_REGULAR_EXPRESSION')
    error(a.end(False))


@case(
    'DescribeProducers shows the producers of a partition with their last sequence and the start of the '
    'open transaction'
)
def describe_producers(k):
    topic, x = k.topic(), k.transactional()
    k.put(topic, 'plain')
    x.write(topic, 'a', 'b')
    parts = {
        p['PartitionIndex']: p
        for p in k.call('DescribeProducers', {'Topics': [{'Name': topic, 'PartitionIndexes': [0, 9]}]})['Topics'][0][
            'Partitions'
        ]
    }
    error(parts[9], 'UNKNOWN_TOPIC_OR_PARTITION')
    producers = {p['ProducerId']: p for p in error(parts[0])['ActiveProducers']}
    equal(set(producers), {x.producer_id}, 'producers')
    p = producers[x.producer_id]
    equal(
        (p['ProducerEpoch'], p['LastSequence'], p['CurrentTxnStartOffset']),
        (x.epoch, 1, 1),
        'epoch, last sequence, start of the transaction',
    )
    error(x.end(True))
    x.settled(topic, 4)
    reply = k.call('DescribeProducers', {'Topics': [{'Name': topic, 'PartitionIndexes': [0]}]})['Topics'][0][
        'Partitions'
    ][0]
    equal(reply['ActiveProducers'][0]['CurrentTxnStartOffset'], -1, 'start of the transaction after its end')


@case(
    'WriteTxnMarkers, with which an admin ends a hanging transaction, aborts it in the log; an unknown '
    'partition is named'
)
def write_markers(k):
    topic, x = k.topic(), k.transactional()
    x.write(topic, 'a')
    producer = k.call('DescribeProducers', {'Topics': [{'Name': topic, 'PartitionIndexes': [0]}]})['Topics'][0][
        'Partitions'
    ][0]['ActiveProducers'][0]
    reply = k.call(
        'WriteTxnMarkers',
        {
            'Markers': [
                {
                    'ProducerId': x.producer_id,
                    'ProducerEpoch': x.epoch,
                    'TransactionResult': False,
                    'CoordinatorEpoch': max(0, producer['CoordinatorEpoch']),
                    'Topics': [{'Name': topic, 'PartitionIndexes': [0, 9]}],
                }
            ]
        },
        1,
    )
    equal(
        {p['PartitionIndex']: p['ErrorCode'] for p in reply['Markers'][0]['Topics'][0]['Partitions']},
        {0: 0, 9: 3},
        'error codes',
    )
    x.settled(topic, 2)
    equal(k.values(topic, committed=True), [], 'read_committed values')
