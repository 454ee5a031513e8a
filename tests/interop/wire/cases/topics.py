"""CreateTopics, DeleteTopics, CreatePartitions."""

import os

from harness import answers, area, equal, error, true, until

case = area('topics', tier=1)


def create(k, *topics, **more):
    reply = k.call(
        'CreateTopics',
        {'Topics': [{'NumPartitions': 1, 'ReplicationFactor': 1, **t} for t in topics], 'timeoutMs': 10000, **more},
    )
    return {t['Name']: t for t in reply['Topics']}


@case('CreateTopics answers with the topic id, partitions, replication factor and effective settings (v7)')
def create_result(k):
    reply = error(k.create_topic(partitions=3, configs={'retention.ms': '12345'}))
    equal((reply['NumPartitions'], reply['ReplicationFactor']), (3, 1), 'partitions, replication factor')
    true(reply['TopicId'] != bytes(16), 'a topic id')
    configs = {c['Name']: c for c in reply['Configs']}
    equal(
        (configs['retention.ms']['Value'], configs['retention.ms']['ConfigSource']),
        ('12345', 1),
        'retention.ms (1 = set on the topic)',
    )
    equal(
        (configs['cleanup.policy']['Value'], configs['cleanup.policy']['ConfigSource']),
        ('delete', 5),
        'cleanup.policy (5 = default)',
    )
    k.wait_for_topic(reply['Name'], 3)
    equal(k.topic_id(reply['Name']), reply['TopicId'], 'topic id in Metadata')


@case('Partitions -1 and replication factor -1 take the defaults of the broker, in every version')
def create_defaults(k):
    for version in range(k.range('CreateTopics')[0], k.range('CreateTopics')[1] + 1):
        name = k.name()
        reply = error(k.create_topic(name, partitions=-1, replication=-1, version=version), what=f'v{version}')
        if version >= 5:
            true(
                reply['NumPartitions'] >= 1 and reply['ReplicationFactor'] >= 1,
                f'v{version} reports the defaults',
                reply,
            )
        until(lambda: k.metadata([name])['Topics'][0]['ErrorCode'] == 0, 'the topic exists')


@case('A topic that exists is TOPIC_ALREADY_EXISTS')
def create_existing(k):
    error(k.create_topic(k.topic()), 'TOPIC_ALREADY_EXISTS')
    error(k.create_topic(k.topic(), validate_only=True), 'TOPIC_ALREADY_EXISTS')


@case(
    'Topic names that are empty, ".", "..", longer than 249 or with other characters than [a-zA-Z0-9._-] are '
    'INVALID_TOPIC_EXCEPTION'
)
def create_bad_names(k):
    for name in ('', '.', '..', 'a' * 250, 'two words', 'a/b', 'ä', 'a\n', 'a:b'):
        error(k.create_topic(name), 'INVALID_TOPIC_EXCEPTION', what=repr(name[:12]))
    name = (k.name() + 'x' * 249)[:249]
    error(k.create_topic(name), what='249 characters')
    error(k.delete_topic(name))


@case(
    'A name that differs from an existing topic only in "." and "_" is INVALID_TOPIC_EXCEPTION, because their '
    'metrics would collide'
)
def create_colliding_names(k):
    name = k.name()
    error(k.create_topic(name + '.x_y'))
    error(k.create_topic(name + '_x.y'), 'INVALID_TOPIC_EXCEPTION')


@case('Zero or fewer partitions are INVALID_PARTITIONS; a million are refused before anything is created')
def create_bad_partitions(k):
    for count in (0, -2):
        error(k.create_topic(partitions=count), 'INVALID_PARTITIONS', what=f'{count} partitions')
    name = k.name()
    error(
        k.create_topic(name, partitions=1000000), 'POLICY_VIOLATION', 'INVALID_PARTITIONS', what='a million partitions'
    )
    error(k.metadata([name])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION')


@case('A replication factor of 0, below -1 or above the number of brokers is INVALID_REPLICATION_FACTOR')
def create_bad_replication(k):
    for factor in (0, -2, 99):
        error(k.create_topic(replication=factor), 'INVALID_REPLICATION_FACTOR', what=f'replication factor {factor}')


@case('An unknown setting, a value of the wrong type or range, or a null value is INVALID_CONFIG and creates nothing')
def create_bad_configs(k):
    for key, value in (
        ('no.such.config', '1'),
        ('retention.ms', 'abc'),
        ('retention.ms', '-2'),
        ('retention.ms', None),
        ('cleanup.policy', 'shred'),
        ('compression.type', 'brotli'),
        ('min.insync.replicas', '0'),
        ('message.timestamp.type', 'Never'),
        ('max.message.bytes', '-1'),
    ):
        name = k.name()
        error(k.create_topic(name, configs={key: value}), 'INVALID_CONFIG', what=f'{key}={value}')
        error(k.metadata([name])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION')


@case('cleanup.policy accepts compact, delete, and both')
def create_cleanup_policies(k):
    for value in ('compact', 'delete', 'compact,delete', 'delete,compact'):
        error(k.create_topic(configs={'cleanup.policy': value}, validate_only=True), what=value)


@case('validateOnly checks everything, answers as if it had created the topic, and creates nothing')
def create_validate_only(k):
    name = k.name()
    reply = error(k.create_topic(name, partitions=5, validate_only=True))
    equal(reply['NumPartitions'], 5, 'partitions')
    error(k.metadata([name])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION')


@case('A topic named twice in one request is INVALID_REQUEST and is not created; the others of the request are')
def create_duplicate_in_request(k):
    twice, bad, good = k.name(), 'two words', k.name()
    reply = create(k, {'Name': twice}, {'Name': twice, 'NumPartitions': 2}, {'Name': bad}, {'Name': good})
    error(reply[twice], 'INVALID_REQUEST')
    error(reply[bad], 'INVALID_TOPIC_EXCEPTION')
    error(reply[good])
    error(k.metadata([twice])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION')


@case(
    'A manual assignment needs partitions -1 and replication -1, consecutive partitions from 0, and '
    'known, distinct brokers'
)
def create_manual_assignment(k):
    broker = k.metadata([])['Brokers'][0]['NodeId']
    error(
        k.create_topic(partitions=-1, replication=-1, assignments={0: [broker], 1: [broker]}), what='a good assignment'
    )
    for what, partitions, factor, assignment, expected in (
        ('with a partition count', 2, -1, {0: [broker], 1: [broker]}, 'INVALID_REQUEST'),
        ('with a replication factor', -1, 1, {0: [broker]}, 'INVALID_REQUEST'),
        ('unknown broker', -1, -1, {0: [7777]}, 'INVALID_REPLICA_ASSIGNMENT'),
        ('a broker twice', -1, -1, {0: [broker, broker]}, 'INVALID_REPLICA_ASSIGNMENT'),
        ('a gap', -1, -1, {0: [broker], 2: [broker]}, 'INVALID_REPLICA_ASSIGNMENT'),
        ('no partition 0', -1, -1, {1: [broker]}, 'INVALID_REPLICA_ASSIGNMENT'),
        ('no replicas', -1, -1, {0: []}, 'INVALID_REPLICA_ASSIGNMENT'),
    ):
        error(k.create_topic(partitions=partitions, replication=factor, assignments=assignment), expected, what=what)


@case(
    'Every version from 2 deletes by name; the entries may come in any order, an unknown topic is '
    'UNKNOWN_TOPIC_OR_PARTITION'
)
def delete_by_name(k):
    for version in range(1, 6):
        name, missing = k.topic(), k.name()
        reply = k.call('DeleteTopics', {'TopicNames': [name, missing], 'TimeoutMs': 10000}, version)['Responses']
        codes = {r['Name']: r for r in reply}
        error(codes[name], what=f'v{version}')
        error(codes[missing], 'UNKNOWN_TOPIC_OR_PARTITION', what=f'v{version}')
        until(lambda: answers(k.metadata([name])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION'), 'the topic is gone')


@case('DeleteTopics 6 deletes by name or by id, answers with both, and refuses both or neither in the request')
def delete_by_id(k):
    k.require('DeleteTopics', 6)

    def delete(name, topic_id=bytes(16)):
        return k.call('DeleteTopics', {'Topics': [{'Name': name, 'TopicId': topic_id}], 'TimeoutMs': 10000}, 6)[
            'Responses'
        ][0]

    first, second = k.topic(), k.topic()
    ids = {n: k.topic_id(n) for n in (first, second)}
    error(delete(first, ids[first]), 'INVALID_REQUEST', what='name and id')
    error(delete(None), 'INVALID_REQUEST', what='neither name nor id')
    equal(error(delete(None, os.urandom(16)), 'UNKNOWN_TOPIC_ID')['Name'], None, 'name for an unknown id')
    for reply, name in ((delete(first), first), (delete(None, ids[second]), second)):
        equal((error(reply)['Name'], reply['TopicId']), (name, ids[name]), 'name and id in the answer')


@case('A topic named twice in DeleteTopics is INVALID_REQUEST and stays')
def delete_duplicate(k):
    name = k.topic()
    for reply in k.call('DeleteTopics', {'TopicNames': [name, name], 'TimeoutMs': 10000})['Responses']:
        error(reply, 'INVALID_REQUEST')
    error(k.metadata([name])['Topics'][0])


@case('A deleted topic is unknown to Produce and Fetch; created again it is empty and has another topic id')
def delete_and_create_again(k):
    name = k.topic()
    old = k.topic_id(name)
    k.put(name, 'old')
    error(k.delete_topic(name))
    until(lambda: answers(k.metadata([name])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION'), 'the topic is gone')
    until(lambda: answers(k.fetch(name, 0, max_wait_ms=0), 'UNKNOWN_TOPIC_OR_PARTITION'), 'Fetch does not know it')
    k.topic(name=name)
    equal(k.end_offset(name), 0, 'end offset of the new topic')
    true(k.topic_id(name) != old, 'a new topic id')


@case(
    'CreatePartitions adds partitions; fewer, as many or non-positive is INVALID_PARTITIONS, an unknown topic '
    'UNKNOWN_TOPIC_OR_PARTITION'
)
def create_partitions(k):
    name, broker = k.topic(2), k.metadata([])['Brokers'][0]['NodeId']
    k.put(name, 'kept', partition=1)

    def grow(count, assignments=None, topic=name, validate_only=False):
        body = {
            'Topics': [
                {'Name': topic, 'Count': count, 'Assignments': assignments and [{'BrokerIds': b} for b in assignments]}
            ],
            'TimeoutMs': 10000,
            'ValidateOnly': validate_only,
        }
        return k.call('CreatePartitions', body)['Results'][0]

    for count in (2, 1, 0, -1):
        error(grow(count), 'INVALID_PARTITIONS', what=f'{count} partitions')
    error(grow(3, topic=k.name()), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(grow(4, validate_only=True))
    equal(len(k.metadata([name])['Topics'][0]['Partitions']), 2, 'partitions after validateOnly')
    error(grow(4, [[broker]]), 'INVALID_REPLICA_ASSIGNMENT', what='one assignment for two partitions')
    error(grow(3, [[7777]]), 'INVALID_REPLICA_ASSIGNMENT', what='unknown broker')
    error(grow(3, [[broker]]))
    k.wait_for_topic(name, 3)
    error(grow(5))
    k.wait_for_topic(name, 5)
    k.put(name, 'new', partition=4)
    equal(k.values(name, partition=1), [b'kept'], 'records of an old partition')


@case('A topic named twice in CreatePartitions is INVALID_REQUEST')
def create_partitions_duplicate(k):
    name = k.topic()
    reply = k.call('CreatePartitions', {'Topics': [{'Name': name, 'Count': n} for n in (2, 3)], 'TimeoutMs': 10000})[
        'Results'
    ]
    for result in reply:
        error(result, 'INVALID_REQUEST')


@case(
    'CreatePartitions far beyond any limit is refused with a clear error',
    beyond='answers UNKNOWN_SERVER_ERROR for 20,000 partitions',
)
def create_partitions_too_many(k):
    reply = k.call(
        'CreatePartitions',
        {
            'Topics': [{'Name': k.topic(), 'Count': 2000000, 'Assignments': None}],
            'TimeoutMs': 10000,
            'ValidateOnly': True,
        },
    )
    error(reply['Results'][0], 'POLICY_VIOLATION', 'INVALID_PARTITIONS')
