"""Metadata, DescribeCluster, DescribeTopicPartitions."""

import os

from harness import area, equal, error, true, until

case = area('metadata', tier=1)
NOT_ASKED = -2147483648


@case(
    'A topic that does not exist is UNKNOWN_TOPIC_OR_PARTITION, and asking does not create it unless '
    'auto-creation is allowed'
)
def unknown_topic(k):
    name = k.name()
    for _ in range(2):
        error(k.metadata([name])['Topics'][0], 'UNKNOWN_TOPIC_OR_PARTITION')
    true(name not in [t['Name'] for t in k.metadata(None)['Topics']], 'the topic was not created')


@case(
    'With AllowAutoTopicCreation the first answer is a retriable error and the topic then appears with '
    'the default partitions'
)
def auto_create(k):
    for version in (4, 12):
        name = k.name()
        error(
            k.metadata([name], version=version, auto_create=True)['Topics'][0],
            'UNKNOWN_TOPIC_OR_PARTITION',
            'LEADER_NOT_AVAILABLE',
        )
        topic = until(lambda: (t := k.metadata([name])['Topics'][0])['ErrorCode'] == 0 and t, 'the topic exists')
        true(len(topic['Partitions']) >= 1, 'it has partitions', topic)


@case('Metadata 0 to 3, which has no auto-creation flag, creates a missing topic')
def auto_create_without_flag(k):
    name = k.name()
    k.call('Metadata', {'Topics': [{'Name': name}]}, 1)
    until(lambda: k.metadata([name])['Topics'][0]['ErrorCode'] == 0, 'the topic exists')


@case('Null asks for all topics, an empty list for none; in version 0 the empty list asks for all')
def all_or_none(k):
    name = k.topic()
    for version in range(1, k.range('Metadata')[1] + 1):
        true(name in [t['Name'] for t in k.metadata(None, version)['Topics']], f'v{version}: null gives all topics')
        equal(k.metadata([], version)['Topics'], [], f'v{version}: topics for an empty list')
    true(
        name in [t['Name'] for t in k.call('Metadata', {'Topics': []}, 0)['Topics']],
        'v0: the empty list gives all topics',
    )


@case('An invalid topic name is INVALID_TOPIC_EXCEPTION, whether or not creation is allowed')
def invalid_name(k):
    for name in ('bad topic!', 'a' * 250, '..', '.', ''):
        for auto in (True, False):
            error(k.metadata([name], auto_create=auto)['Topics'][0], 'INVALID_TOPIC_EXCEPTION', what=repr(name[:12]))


@case('A topic that is asked for twice in one request is answered once')
def asked_twice(k):
    name = k.topic()
    equal([t['Name'] for t in k.metadata([name, name])['Topics']], [name], 'topics')


@case(
    'A partition is described with its leader, leader epoch, replicas and in-sync replicas; the leader '
    'is among the brokers'
)
def partition_fields(k):
    name = k.topic(3)
    reply = k.metadata([name])
    topic = reply['Topics'][0]
    equal(sorted(p['PartitionIndex'] for p in topic['Partitions']), [0, 1, 2], 'partitions')
    equal(
        (topic['IsInternal'], topic['TopicAuthorizedOperations']), (False, NOT_ASKED), 'internal, authorized operations'
    )
    brokers = [b['NodeId'] for b in reply['Brokers']]
    for p in topic['Partitions']:
        true(
            p['LeaderId'] in brokers and p['LeaderEpoch'] >= 0 and p['LeaderId'] in p['IsrNodes'],
            'leader in brokers and ISR',
            p,
        )
        equal(
            (sorted(p['IsrNodes']), p['OfflineReplicas']),
            (sorted(p['ReplicaNodes']), []),
            'ISR = replicas, none offline',
        )


@case('The cluster id, a live controller and the address that the client connected to are announced')
def cluster(k):
    reply = k.metadata([])
    true(reply['ClusterId'], 'a cluster id', reply['ClusterId'])
    true(reply['ControllerId'] in [b['NodeId'] for b in reply['Brokers']], 'the controller id is a live broker', reply)
    true(
        int(k.address.rsplit(':')[-1]) in [b['Port'] for b in reply['Brokers']],
        "the port of BOOTSTRAP is a broker's",
        reply['Brokers'],
    )


@case('From version 12 a topic can be asked for by id; an unknown id is UNKNOWN_TOPIC_ID with a null name')
def by_topic_id(k):
    name = k.topic()
    topic_id = k.topic_id(name)
    true(topic_id != bytes(16), 'a topic id that is not zero')
    known, unknown = (
        k.call('Metadata', {'Topics': [{'TopicId': i, 'Name': None}]}, 12)['Topics'][0]
        for i in (topic_id, os.urandom(16))
    )
    equal((known['ErrorCode'], known['Name']), (0, name), 'known id')
    equal((error(unknown, 'UNKNOWN_TOPIC_ID')['Name']), None, 'name for an unknown id')


@case('In versions 10 and 11 a topic id in the request is INVALID_REQUEST')
def by_topic_id_too_early(k):
    topic_id = k.topic_id(k.topic())
    for version in (10, 11):
        error(
            k.call('Metadata', {'Topics': [{'TopicId': topic_id, 'Name': None}]}, version)['Topics'][0],
            'INVALID_REQUEST',
        )


@case('The topic of committed offsets is marked internal')
def internal_topic(k):
    k.coordinator('any')
    topics = {t['Name']: t for t in k.metadata(None)['Topics']}
    true(topics.get('__consumer_offsets', {}).get('IsInternal'), '__consumer_offsets is listed as internal')


@case('Authorized operations are a bit set when asked for and -2147483648 when not')
def authorized_operations(k):
    name = k.topic()
    reply = k.metadata(
        [name], version=9, IncludeTopicAuthorizedOperations=True, IncludeClusterAuthorizedOperations=True
    )
    for what, bits in (
        ('topic', reply['Topics'][0]['TopicAuthorizedOperations']),
        ('cluster', reply['ClusterAuthorizedOperations']),
    ):
        true(bits > 0 and bits & 1 << 8, f'{what} operations include DESCRIBE (bit 8)', bits)
    equal(k.metadata([name], version=9)['ClusterAuthorizedOperations'], NOT_ASKED, 'not asked')


@case('DescribeCluster gives the brokers, controller and cluster id that Metadata gives')
def describe_cluster(k):
    metadata, reply = k.metadata([]), error(k.call('DescribeCluster', {}))
    equal(
        (reply['ClusterId'], reply['ControllerId']),
        (metadata['ClusterId'], metadata['ControllerId']),
        'cluster id, controller',
    )
    equal(
        [(b['BrokerId'], b['Host'], b['Port']) for b in reply['Brokers']],
        [(b['NodeId'], b['Host'], b['Port']) for b in metadata['Brokers']],
        'brokers',
    )


@case(
    'DescribeCluster for controllers is MISMATCHED_ENDPOINT_TYPE on a broker, and an endpoint type that does not '
    'exist is refused'
)
def describe_cluster_endpoints(k):
    k.require('DescribeCluster', 1)
    error(k.call('DescribeCluster', {'EndpointType': 2}, 1), 'MISMATCHED_ENDPOINT_TYPE')
    error(k.call('DescribeCluster', {'EndpointType': 7}, 1), 'UNSUPPORTED_ENDPOINT_TYPE')


@case('DescribeTopicPartitions pages through partitions: a limit gives a cursor, the cursor gives the rest', tier=2)
def describe_topic_partitions(k):
    names = sorted([k.topic(3), k.topic(2)])
    sizes = {n: len(k.metadata([n])['Topics'][0]['Partitions']) for n in names}
    seen, cursor = [], None
    for _ in range(10):
        reply = k.call(
            'DescribeTopicPartitions',
            {'Topics': [{'Name': n} for n in names], 'ResponsePartitionLimit': 2, 'Cursor': cursor},
        )
        page = [(t['Name'], p['PartitionIndex']) for t in reply['Topics'] for p in t['Partitions']]
        true(len(page) <= 2, 'at most two partitions in a page', page)
        seen += page
        cursor = reply['NextCursor']
        if cursor is None:
            break
    equal(seen, [(n, p) for n in names for p in range(sizes[n])], 'partitions over all pages')


@case('DescribeTopicPartitions names an unknown topic UNKNOWN_TOPIC_OR_PARTITION and describes the others', tier=2)
def describe_topic_partitions_unknown(k):
    name, missing = k.topic(), k.name()
    topics = {
        t['Name']: t
        for t in k.call('DescribeTopicPartitions', {'Topics': [{'Name': n} for n in sorted([name, missing])]})['Topics']
    }
    error(topics[missing], 'UNKNOWN_TOPIC_OR_PARTITION')
    error(topics[name])
    equal(topics[name]['TopicId'], k.topic_id(name), 'topic id')
