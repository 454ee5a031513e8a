"""ListOffsets, DeleteRecords, OffsetForLeaderEpoch."""

import time

from harness import area, equal, error, records, true
from records import batch

case = area('offsets', tier=1)
LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -3, -4, -5


def found(k, topic, timestamp, **options):
    reply = error(k.offset(topic, timestamp, **options), what=f'timestamp {timestamp} {options or ""}')
    return reply['Offset'], reply['Timestamp']


def a_while_ago():
    return int(time.time() * 1000) - 100000


def delete_records(k, topic, offset, partition=0):
    body = {
        'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': partition, 'Offset': offset}]}],
        'TimeoutMs': 5000,
    }
    return k.call('DeleteRecords', body)['Topics'][0]['Partitions'][0]


@case(
    '-1 gives the log end and -2 the log start, without a timestamp, in every version; from version 4 '
    'with the leader epoch'
)
def ends(k):
    topic = k.topic()
    k.put(topic, 'a', 'b')
    low, high = k.range('ListOffsets')
    epoch = k.metadata([topic])['Topics'][0]['Partitions'][0]['LeaderEpoch']
    for version in range(low, high + 1):
        for timestamp, offset in ((LATEST, 2), (EARLIEST, 0)):
            reply = error(k.offset(topic, timestamp, version=version), what=f'v{version}')
            equal(
                (reply['Offset'], reply['Timestamp'], reply['LeaderEpoch']),
                (offset, -1, epoch if version >= 4 else -1),
                f'v{version}: offset, timestamp, leader epoch for {timestamp}',
            )


@case(
    'A timestamp gives the first record that is not older, with its own timestamp, also inside a batch and out of order'
)
def by_timestamp(k):
    topic, t = k.topic(), a_while_ago()
    k.produce(topic, batch(records('a', 'b'), timestamps=[t, t + 10]))
    k.produce(topic, batch(records('c', 'd'), timestamps=[t + 100, t + 50]))
    k.produce(topic, batch(records('e'), timestamp=t + 70))
    for asked, want in (
        (0, (0, t)),
        (t - 5, (0, t)),
        (t, (0, t)),
        (t + 5, (1, t + 10)),
        (t + 10, (1, t + 10)),
        (t + 11, (2, t + 100)),
        (t + 60, (2, t + 100)),
        (t + 100, (2, t + 100)),
    ):
        equal(found(k, topic, asked), want, f'offset and timestamp for t{asked - t:+d}')


@case('A timestamp inside a compressed batch finds the record, not the batch')
def by_timestamp_compressed(k):
    topic, t = k.topic(), a_while_ago()
    for codec in (1, 2, 3, 4):
        base = error(k.produce(topic, batch(records(*'abc'), timestamps=[t, t + 10, t + 20], codec=codec)))[
            'BaseOffset'
        ]
        equal(found(k, topic, t + 5), (base + 1, t + 10), f'codec {codec}: offset and timestamp')
        t += 1000


@case('A timestamp newer than every record, or any timestamp in an empty partition, gives offset -1 and timestamp -1')
def by_timestamp_nothing(k):
    topic, t = k.topic(), a_while_ago()
    equal([found(k, topic, x) for x in (0, t)], [(-1, -1)] * 2, 'empty partition')
    k.put(topic, 'a', timestamp=t)
    equal(found(k, topic, t + 1), (-1, -1), 'newer than every record')


@case('-3 gives the first record with the highest timestamp (version 7); in an empty partition -1')
def max_timestamp(k):
    topic, t = k.topic(), a_while_ago()
    equal(found(k, topic, MAX_TIMESTAMP, version=7), (-1, -1), 'empty partition')
    k.produce(topic, batch(records(*'abc'), timestamps=[t, t + 500, t + 10]))
    equal(found(k, topic, MAX_TIMESTAMP), (1, t + 500), 'offset and timestamp')
    k.produce(topic, batch(records(*'de'), timestamps=[t + 500, t + 500]))
    equal(found(k, topic, MAX_TIMESTAMP), (1, t + 500), 'with a later record of the same timestamp')
    k.produce(topic, batch(records(*'fgh'), timestamps=[t, t + 900, t + 1], codec=1))
    equal(found(k, topic, MAX_TIMESTAMP), (6, t + 900), 'inside a compressed batch')


@case('-4 gives the log start (version 8) and -5 offset -1 (version 9) where there is no tiered storage')
def tiered(k):
    k.require('ListOffsets', 9)
    topic = k.topic()
    k.put(topic, 'a', 'b')
    delete_records(k, topic, 1)
    equal(found(k, topic, EARLIEST_LOCAL, version=8), (1, -1), '-4')
    equal(found(k, topic, LATEST_TIERED, version=9), (-1, -1), '-5')


@case('A special timestamp that the request version does not know is UNSUPPORTED_VERSION for the partition')
def special_too_early(k):
    topic = k.topic()
    for timestamp, version in ((-3, 6), (-4, 7), (-5, 8), (-6, 10), (-10, 7)):
        error(k.offset(topic, timestamp, version=version), 'UNSUPPORTED_VERSION', what=f'{timestamp} in v{version}')


@case('With LogAppendTime a timestamp finds the time of append')
def log_append_time(k):
    topic = k.topic(message_timestamp_type='LogAppendTime')
    t = error(k.produce(topic, batch(records('a', 'b'), timestamp=1000)))['LogAppendTimeMs']
    equal(found(k, topic, t), (0, t), 'offset and timestamp')
    equal(found(k, topic, t + 1), (-1, -1), 'one millisecond later')
    equal(found(k, topic, MAX_TIMESTAMP), (0, t), 'max timestamp')


@case(
    'An unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION; a leader epoch that is too new is '
    'UNKNOWN_LEADER_EPOCH'
)
def list_offsets_errors(k):
    topic = k.topic()
    error(k.offset(k.name(), LATEST), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(k.offset(topic, LATEST, partition=9), 'UNKNOWN_TOPIC_OR_PARTITION')
    epoch = k.metadata([topic])['Topics'][0]['Partitions'][0]['LeaderEpoch']
    error(k.offset(topic, LATEST, current_leader_epoch=epoch))
    error(k.offset(topic, LATEST, current_leader_epoch=epoch + 5), 'UNKNOWN_LEADER_EPOCH')


@case('A partition named twice in one ListOffsets is INVALID_REQUEST')
def list_offsets_twice(k):
    topic = k.topic()
    reply = k.call(
        'ListOffsets',
        {
            'ReplicaId': -1,
            'Topics': [
                {'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'Timestamp': t} for t in (LATEST, EARLIEST)]}
            ],
        },
    )
    for partition in reply['Topics'][0]['Partitions']:
        error(partition, 'INVALID_REQUEST')


@case('DeleteRecords moves the log start up and never down; -1 means up to the high watermark')
def delete(k):
    topic = k.topic()
    k.put(topic, *'abcde')
    for offset, low_watermark in ((3, 3), (3, 3), (1, 3), (0, 3), (-1, 5), (5, 5)):
        equal(
            error(delete_records(k, topic, offset), what=f'up to {offset}')['LowWatermark'],
            low_watermark,
            f'low watermark after {offset}',
        )
        equal(found(k, topic, EARLIEST)[0], low_watermark, 'earliest offset')
    equal(found(k, topic, LATEST)[0], 5, 'latest offset')
    equal(found(k, topic, 0), (-1, -1), 'by timestamp, when all is deleted')
    equal(error(k.put(topic, 'f'))['BaseOffset'], 5, 'next offset')
    equal(k.values(topic, offset=5), [b'f'], 'values')


@case('DeleteRecords of part of a batch leaves the rest readable from the new log start')
def delete_inside_batch(k):
    topic = k.topic()
    k.put(topic, *'abcde')
    error(delete_records(k, topic, 2))
    equal(
        [r.value for b in k.batches(topic, offset=2)[0] for r in b.records if r.offset >= 2],
        [b'c', b'd', b'e'],
        'values from offset 2',
    )


@case(
    'DeleteRecords beyond the high watermark is OFFSET_OUT_OF_RANGE, of an unknown partition UNKNOWN_TOPIC_OR_PARTITION'
)
def delete_errors(k):
    topic = k.topic()
    k.put(topic, 'a')
    for offset in (2, 99, -2):
        error(delete_records(k, topic, offset), 'OFFSET_OUT_OF_RANGE', what=f'offset {offset}')
    error(delete_records(k, topic, 0, partition=9), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(delete_records(k, k.name(), 0), 'UNKNOWN_TOPIC_OR_PARTITION')


@case(
    'DeleteRecords of a topic that is only compacted is POLICY_VIOLATION, of an internal topic INVALID_TOPIC_EXCEPTION'
)
def delete_refused(k):
    topic = k.topic(cleanup_policy='compact')
    k.put(topic, 'a')
    error(delete_records(k, topic, 1), 'POLICY_VIOLATION')
    k.coordinator('any')
    error(delete_records(k, '__consumer_offsets', 0), 'INVALID_TOPIC_EXCEPTION')


@case('OffsetForLeaderEpoch gives the end offset of an epoch; for an epoch to come, offset -1 and epoch -1')
def leader_epoch_end(k):
    topic = k.topic()
    k.put(topic, 'a', 'b')
    epoch = k.metadata([topic])['Topics'][0]['Partitions'][0]['LeaderEpoch']

    def ask(asked, current=-1, partition=0, name=topic, version=None):
        body = {
            'Topics': [
                {
                    'Topic': name,
                    'Partitions': [{'Partition': partition, 'CurrentLeaderEpoch': current, 'LeaderEpoch': asked}],
                }
            ]
        }
        if (version or 4) >= 3:
            body['ReplicaId'] = -1
        return k.call('OffsetForLeaderEpoch', body, version)['Topics'][0]['Partitions'][0]

    for version in range(2, k.range('OffsetForLeaderEpoch')[1] + 1):
        reply = error(ask(epoch, version=version))
        equal((reply['LeaderEpoch'], reply['EndOffset']), (epoch, 2), f'v{version}: epoch and end offset')
    reply = error(ask(epoch + 5))
    equal((reply['LeaderEpoch'], reply['EndOffset']), (-1, -1), 'an epoch to come')
    error(ask(epoch, current=epoch))
    error(ask(epoch, current=epoch + 5), 'UNKNOWN_LEADER_EPOCH')
    error(ask(epoch, partition=9), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(ask(epoch, name=k.name()), 'UNKNOWN_TOPIC_OR_PARTITION')


@case('-3 never points below the log start', beyond='still names a record that DeleteRecords has removed')
def max_timestamp_after_delete(k):
    topic = k.topic()
    k.put(topic, 'a', 'b')
    error(delete_records(k, topic, -1))
    true(found(k, topic, MAX_TIMESTAMP)[0] in (-1, 2), 'offset -1, or none below 2', found(k, topic, MAX_TIMESTAMP))
