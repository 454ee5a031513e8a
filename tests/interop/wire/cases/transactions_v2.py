"""Transaction version 2 (KIP-890): Produce 12 and TxnOffsetCommit 5 add what they touch, EndTxn 5 raises the epoch."""

import time

from harness import area, equal, error, records, true, until
from kwire import CODES
from records import batch

case = area('transactions_v2', tier=3)


def producer(k):
    for api, version in (('Produce', 12), ('EndTxn', 5), ('TxnOffsetCommit', 5), ('InitProducerId', 5)):
        k.require(api, version)
    return k.transactional(version=5)


def end(x, commit, epoch=None, follow=True):
    """EndTxn 5; takes over the producer id and epoch that it answers, as clients must."""
    for _ in range(100):
        reply = x.kit.call(
            'EndTxn',
            {
                'TransactionalId': x.id,
                'ProducerId': x.producer_id,
                'ProducerEpoch': x.epoch if epoch is None else epoch,
                'Committed': commit,
            },
            5,
        )
        if reply['ErrorCode'] != CODES['CONCURRENT_TRANSACTIONS']:
            break
        time.sleep(0.05)
    if follow and reply['ErrorCode'] == 0:
        x.producer_id, x.epoch, x.sequence = reply['ProducerId'], reply['ProducerEpoch'], {}
    return reply


def produce(x, topic, *values, partition=0, retry=True):
    """Produce 12; right after EndTxn it may be CONCURRENT_TRANSACTIONS while the markers are being written."""
    for _ in range(100):
        reply = x.produce(topic, *values, partition=partition, version=12)
        if not retry or reply['ErrorCode'] != CODES['CONCURRENT_TRANSACTIONS']:
            break
        time.sleep(0.05)
    return reply


@case(
    'Produce 12 adds its partition to the transaction; EndTxn 5 commits and answers the same producer id '
    'with the next epoch'
)
def implicit_add(k):
    topic, x = k.topic(2), producer(k)
    pid, epoch = x.producer_id, x.epoch
    for partition in (0, 1):
        error(produce(x, topic, 'a', partition=partition))
    equal(k.values(topic, committed=True), [], 'read_committed values before the commit')
    reply = error(end(x, True))
    equal((reply['ProducerId'], reply['ProducerEpoch']), (pid, epoch + 1), 'producer id, epoch')
    for partition in (0, 1):
        x.settled(topic, 2, partition)
        equal(
            k.values(topic, committed=True, partition=partition),
            [b'a'],
            f'read_committed values of partition {partition}',
        )
    marker = k.batches(topic)[0][-1]
    equal((marker.control, marker.producer_epoch), (True, epoch + 1), 'marker: control, epoch (already the raised one)')


@case('Each transaction of a producer has its own epoch and starts at sequence 0; committed and aborted ones alternate')
def epochs_per_transaction(k):
    topic, x, want = k.topic(), producer(k), []
    for i in range(6):
        error(produce(x, topic, f'a{i}'))
        error(produce(x, topic, f'b{i}'))
        error(end(x, i % 3 != 1))
        want += [] if i % 3 == 1 else [f'a{i}'.encode(), f'b{i}'.encode()]
    equal(x.epoch, 6, 'epoch after six transactions')
    x.settled(topic, 18)
    equal(k.values(topic, committed=True), want, 'read_committed values')


@case('EndTxn 5 that is retried with the old epoch gives the same answer; the other way round it is INVALID_TXN_STATE')
def end_retried(k):
    topic, x = k.topic(), producer(k)
    error(produce(x, topic, 'a'))
    old = x.epoch
    first = error(end(x, True))
    again = error(end(x, True, epoch=old, follow=False), what='sent again')
    equal(
        (again['ProducerId'], again['ProducerEpoch']),
        (first['ProducerId'], first['ProducerEpoch']),
        'producer id, epoch',
    )
    error(end(x, False, epoch=old, follow=False), 'INVALID_TXN_STATE', what='abort after commit')


@case(
    'A late batch of the transaction that has ended is INVALID_PRODUCER_EPOCH: it can no longer fall into the next one'
)
def late_batch(k):
    topic, x = k.topic(), producer(k)
    error(produce(x, topic, 'a'))
    old = x.epoch
    error(end(x, True))
    x.settled(topic, 2)
    data = batch(records('late'), producer_id=x.producer_id, producer_epoch=old, sequence=1, transactional=True)
    error(k.produce(topic, data, transactional_id=x.id, version=12), 'INVALID_PRODUCER_EPOCH')
    equal(k.end_offset(topic), 2, 'end offset')


@case('The first batch of a partition in a transaction must have sequence 0: else OUT_OF_ORDER_SEQUENCE_NUMBER')
def first_sequence(k):
    topic, x = k.topic(), producer(k)
    error(x.produce(topic, 'a', sequence=5, version=12), 'OUT_OF_ORDER_SEQUENCE_NUMBER')
    error(produce(x, topic, 'a'))
    error(end(x, True))


@case('EndTxn 5 without a transaction: a commit is INVALID_TXN_STATE, an abort succeeds and raises the epoch')
def end_of_nothing(k):
    topic, x = k.topic(), producer(k)
    error(produce(x, topic, 'a'))
    error(end(x, True))
    x.settled(topic, 2)
    epoch = x.epoch
    error(end(x, True), 'INVALID_TXN_STATE')
    equal(error(end(x, False))['ProducerEpoch'], epoch + 1, 'epoch')
    error(produce(x, topic, 'b'))
    error(end(x, True))


@case('TxnOffsetCommit 5 adds the group to the transaction without AddOffsetsToTxn')
def implicit_offsets(k):
    topic, x, group = k.topic(), producer(k), k.group()
    error(x.commit_offset(group, topic, 7, version=5))
    equal(k.committed(group, topic)['CommittedOffset'], -1, 'offset while the transaction is open')
    equal(
        k.committed(group, topic, require_stable=True)['ErrorCode'],
        CODES['UNSTABLE_OFFSET_COMMIT'],
        'error code with RequireStable',
    )
    error(end(x, True))
    until(lambda: k.committed(group, topic)['CommittedOffset'] == 7, 'offset 7')


@case(
    'After InitProducerId elsewhere the old producer is fenced: INVALID_PRODUCER_EPOCH in Produce and '
    'TxnOffsetCommit, PRODUCER_FENCED in EndTxn'
)
def fencing(k):
    topic, x, group = k.topic(), producer(k), k.group()
    error(produce(x, topic, 'zombie'))
    reply = error(k.init_producer_id(x.id, version=5))
    true(
        reply['ProducerEpoch'] > x.epoch and reply['ProducerId'] == x.producer_id,
        'a higher epoch of the same producer id',
        reply,
    )
    error(produce(x, topic, 'late'), 'INVALID_PRODUCER_EPOCH')
    error(x.commit_offset(group, topic, 1, version=5), 'INVALID_PRODUCER_EPOCH')
    error(end(x, True), 'PRODUCER_FENCED')
    x.settled(topic, 2)
    equal(k.values(topic, committed=True), [], 'read_committed values')


@case('A client of the old protocol may end a transaction that was begun with Produce 12')
def old_end(k):
    topic, x = k.topic(), producer(k)
    error(produce(x, topic, 'a'))
    error(x.end(True))
    x.settled(topic, 2)
    equal(k.values(topic, committed=True), [b'a'], 'read_committed values')


@case(
    'AddPartitionsToTxn 4 and later takes many transactions at once; with VerifyOnly it tells what is in a '
    'transaction and adds nothing'
)
def verify_only(k):
    k.require('AddPartitionsToTxn', 4)
    topic, x = k.topic(2), k.transactional()

    def ask(verify, *partitions):
        reply = k.call(
            'AddPartitionsToTxn',
            {
                'Transactions': [
                    {
                        'TransactionalId': x.id,
                        'ProducerId': x.producer_id,
                        'ProducerEpoch': x.epoch,
                        'VerifyOnly': verify,
                        'Topics': [{'Name': topic, 'Partitions': list(partitions)}],
                    }
                ]
            },
            k.range('AddPartitionsToTxn')[1],
        )
        return {
            p['PartitionIndex']: p['PartitionErrorCode']
            for p in error(reply)['ResultsByTransaction'][0]['TopicResults'][0]['ResultsByPartition']
        }

    equal(ask(False, 0), {0: 0}, 'adding partition 0')
    equal(ask(True, 0, 1), {0: 0, 1: CODES['TRANSACTION_ABORTABLE']}, 'verifying partitions 0 and 1')
    error(x.end(False))


@case('When the epochs of a producer id are used up, InitProducerId gives a new producer id with epoch 0', slow=True)
def epoch_exhaustion(k):
    x = producer(k)
    reply = {'ProducerId': x.producer_id, 'ProducerEpoch': x.epoch}
    version = k.version('InitProducerId')
    body = {'TransactionalId': x.id, 'TransactionTimeoutMs': 60000, 'ProducerId': -1, 'ProducerEpoch': -1}
    sent = received = 0
    while reply['ProducerId'] == x.producer_id and received < 33000:  # a window of 50 requests in flight
        while sent < received + 50:
            k.conn.send('InitProducerId', version, body)
            sent += 1
        reply = k.conn.recv('InitProducerId', version)
        received += 1
        if reply['ErrorCode'] == CODES['CONCURRENT_TRANSACTIONS']:
            reply = {'ProducerId': x.producer_id}
        else:
            error(reply, what=f'InitProducerId {received}')
    true(reply['ProducerId'] != x.producer_id, 'a new producer id after 32,767 epochs', reply)
    equal(reply['ProducerEpoch'], 0, 'epoch')
