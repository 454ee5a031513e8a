"""InitProducerId without transactions, and producer sequences."""

from harness import area, equal, error, records, true
from records import batch

case = area('idempotence', tier=1)


def new_id(k):
    return error(k.init_producer_id())['ProducerId']


def send(k, topic, producer_id, sequence, *values, epoch=0, **options):
    data = batch(
        records(*(values or (f'm{sequence}',))), producer_id=producer_id, producer_epoch=epoch, sequence=sequence
    )
    return k.produce(topic, data, **options)


@case(
    'InitProducerId gives a new producer id with epoch 0 each time, in every version, whatever id or '
    'timeout the request names'
)
def init_producer_id(k):
    seen = set()
    low, high = k.range('InitProducerId')
    for version in range(low, min(high, 5) + 1):
        reply = error(k.init_producer_id(version=version, retry=False), what=f'v{version}')
        true(reply['ProducerId'] >= 0 and reply['ProducerId'] not in seen, 'a producer id not given before', reply)
        equal(reply['ProducerEpoch'], 0, 'epoch')
        seen.add(reply['ProducerId'])
    for options in ({'producer_id': max(seen), 'epoch': 0}, {'timeout_ms': 0}, {'timeout_ms': 0x7FFFFFFF}):
        reply = error(k.init_producer_id(retry=False, **options), what=str(options))
        true(reply['ProducerId'] not in seen and reply['ProducerEpoch'] == 0, 'a new id with epoch 0', reply)
        seen.add(reply['ProducerId'])


@case('A producer id without epoch, an epoch without producer id, and an empty transactional id are INVALID_REQUEST')
def init_invalid(k):
    for options in ({'producer_id': 5, 'epoch': -1}, {'producer_id': -1, 'epoch': 3}, {'transactional_id': ''}):
        error(k.init_producer_id(retry=False, **options), 'INVALID_REQUEST', what=str(options))


@case(
    'A batch that was sent again is answered with its first offset and not appended again: the last five batches '
    'are remembered'
)
def duplicates(k):
    topic, pid = k.topic(), new_id(k)
    for i in range(8):
        equal(error(send(k, topic, pid, i))['BaseOffset'], i, 'base offset')
    for i in (7, 3, 5, 4, 6):
        equal(
            error(send(k, topic, pid, i), what=f'batch {i} again')['BaseOffset'],
            i,
            f'base offset of batch {i} sent again',
        )
    equal(k.end_offset(topic), 8, 'end offset')


@case('A batch sent again that is older than the last five is OUT_OF_ORDER_SEQUENCE_NUMBER, and not appended')
def old_duplicates(k):
    topic, pid = k.topic(), new_id(k)
    for i in range(8):
        error(send(k, topic, pid, i))
    for i in (0, 1, 2):
        error(
            send(k, topic, pid, i), 'OUT_OF_ORDER_SEQUENCE_NUMBER', 'DUPLICATE_SEQUENCE_NUMBER', what=f'batch {i} again'
        )
    equal(k.end_offset(topic), 8, 'end offset')


@case(
    'A duplicate is recognised by its first and last sequence alone; a batch that overlaps otherwise is '
    'OUT_OF_ORDER_SEQUENCE_NUMBER'
)
def overlapping(k):
    topic, pid = k.topic(), new_id(k)
    error(send(k, topic, pid, 0, 'a', 'b', 'c'))
    error(send(k, topic, pid, 3, 'd'))
    equal(error(send(k, topic, pid, 0, 'x', 'y', 'z'))['BaseOffset'], 0, 'base offset of the duplicate')
    for sequence, values in ((0, 'ab'), (1, 'bc'), (2, 'cd'), (3, 'de'), (0, 'abcd')):
        error(
            send(k, topic, pid, sequence, *values),
            'OUT_OF_ORDER_SEQUENCE_NUMBER',
            what=f'sequences {sequence} to {sequence + len(values) - 1}',
        )
    equal(k.values(topic), [b'a', b'b', b'c', b'd'], 'values')


@case('A gap in the sequence is OUT_OF_ORDER_SEQUENCE_NUMBER; the right sequence is then still accepted')
def gap(k):
    topic, pid = k.topic(), new_id(k)
    error(send(k, topic, pid, 0, 'a', 'b', 'c'))
    for sequence in (4, 100, 2):
        error(send(k, topic, pid, sequence), 'OUT_OF_ORDER_SEQUENCE_NUMBER', what=f'sequence {sequence}, 3 expected')
    equal(error(send(k, topic, pid, 3))['BaseOffset'], 3, 'base offset')


@case('A producer that the partition does not know may start at any sequence (its state may have expired)')
def unknown_producer(k):
    topic, pid = k.topic(), new_id(k)
    error(send(k, topic, pid, 5), what='first batch with sequence 5')
    error(send(k, topic, pid, 6), what='then 6')
    error(send(k, topic, pid, 4), 'OUT_OF_ORDER_SEQUENCE_NUMBER', what='then 4')
    error(send(k, topic, 888888888, 0), what='a producer id that was never given out')


@case('The sequence wraps from 2147483647 to 0, also within a batch')
def wrap(k):
    topic, pid = k.topic(), new_id(k)
    error(send(k, topic, pid, 0x7FFFFFFE, 'a', 'b'))
    error(send(k, topic, pid, 0, 'c'), what='0 after 2147483647')
    topic, pid = k.topic(), new_id(k)
    error(send(k, topic, pid, 0x7FFFFFFF, 'a', 'b', 'c'), what='2147483647, 0, 1')
    error(send(k, topic, pid, 2, 'd'))
    equal(
        error(send(k, topic, pid, 0x7FFFFFFF, 'a', 'b', 'c'), what='the same again')['BaseOffset'],
        0,
        'base offset of the duplicate',
    )


@case('A lower epoch is INVALID_PRODUCER_EPOCH, also for a duplicate; a higher epoch must start at sequence 0')
def epochs(k):
    topic, pid = k.topic(), new_id(k)
    error(send(k, topic, pid, 0, epoch=3))
    for sequence in (0, 1):
        error(send(k, topic, pid, sequence, epoch=2), 'INVALID_PRODUCER_EPOCH', what=f'epoch 2, sequence {sequence}')
    error(send(k, topic, pid, 5, epoch=4), 'OUT_OF_ORDER_SEQUENCE_NUMBER', what='epoch 4 at sequence 5')
    error(send(k, topic, pid, 0, epoch=4))
    error(send(k, topic, pid, 0, epoch=3), 'INVALID_PRODUCER_EPOCH', what='epoch 3 after epoch 4')
    equal(k.end_offset(topic), 2, 'end offset')


@case('Sequences count for each partition by itself')
def per_partition(k):
    topic, pid = k.topic(2), new_id(k)
    for partition in (0, 1):
        for sequence in (0, 1):
            equal(
                error(send(k, topic, pid, sequence, partition=partition))['BaseOffset'],
                sequence,
                f'base offset in partition {partition}',
            )


@case('Five batches in flight are appended in order; sent again, all five answer their first offsets')
def five_in_flight(k):
    topic, pid, version = k.topic(), new_id(k), k.version('Produce')
    for _ in range(2):
        for i in range(5):
            k.conn.send(
                'Produce',
                version,
                {
                    'Acks': -1,
                    'TimeoutMs': 5000,
                    'TopicData': [
                        {
                            'Name': topic,
                            'PartitionData': [
                                {
                                    'Index': 0,
                                    'Records': batch(records('m'), producer_id=pid, producer_epoch=0, sequence=i),
                                }
                            ],
                        }
                    ],
                },
            )
        replies = [k.conn.recv('Produce', version)['Responses'][0]['PartitionResponses'][0] for _ in range(5)]
        equal(
            [(r['ErrorCode'], r['BaseOffset']) for r in replies],
            [(0, i) for i in range(5)],
            'error code and base offset',
        )
    equal(k.end_offset(topic), 5, 'end offset')


@case(
    'When one of several batches in flight is refused, those behind it are OUT_OF_ORDER_SEQUENCE_NUMBER, and all '
    'can be sent again'
)
def refused_in_flight(k):
    topic, pid, version = k.topic(), new_id(k), k.version('Produce')
    error(send(k, topic, pid, 0))

    def in_flight(bad):
        for i in (1, 2, 3):
            data = batch(records(f'm{i}'), producer_id=pid, producer_epoch=0, sequence=i, bad_crc=i == bad)
            k.conn.send(
                'Produce',
                version,
                {
                    'Acks': -1,
                    'TimeoutMs': 5000,
                    'TopicData': [{'Name': topic, 'PartitionData': [{'Index': 0, 'Records': data}]}],
                },
            )
        return [k.conn.recv('Produce', version)['Responses'][0]['PartitionResponses'][0]['ErrorCode'] for _ in range(3)]

    equal(in_flight(bad=1), [2, 45, 45], 'error codes when the first is corrupt')
    equal(in_flight(bad=None), [0, 0, 0], 'error codes when sent again')
    equal(k.values(topic), [b'm0', b'm1', b'm2', b'm3'], 'values')


@case('Sequences and duplicates are remembered when DeleteRecords has removed the records')
def after_delete_records(k):
    topic, pid = k.topic(), new_id(k)
    for i in range(3):
        error(send(k, topic, pid, i))
    error(
        k.call(
            'DeleteRecords',
            {'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'Offset': -1}]}], 'TimeoutMs': 5000},
        )['Topics'][0]['Partitions'][0]
    )
    error(send(k, topic, pid, 7), 'OUT_OF_ORDER_SEQUENCE_NUMBER')
    equal(error(send(k, topic, pid, 2), what='duplicate')['BaseOffset'], 2, 'base offset of the duplicate')
    equal(error(send(k, topic, pid, 3))['BaseOffset'], 3, 'base offset of the next')


@case('A producer id with a negative sequence is INVALID_RECORD')
def no_sequence(k):
    topic = k.topic()
    error(send(k, topic, new_id(k), -1), 'INVALID_RECORD')
    equal(k.end_offset(topic), 0, 'end offset')


@case('Batches with and without producer id share a partition without disturbing the sequence')
def mixed(k):
    topic, pid = k.topic(), new_id(k)
    error(send(k, topic, pid, 0))
    k.put(topic, 'plain')
    error(send(k, topic, pid, 1))
    equal(k.values(topic), [b'm0', b'plain', b'm1'], 'values')
