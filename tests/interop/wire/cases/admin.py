"""Brokers, log directories, elections, reassignments, features, and what answers when security is off."""

from harness import answers, area, equal, error, true, until

case = area('admin', tier=4)
TOPIC, BROKER, LOGGER = 2, 4, 8


def node(k):
    return k.metadata([])['Brokers'][0]['NodeId']


@case(
    'DescribeConfigs of a broker gives its settings; another broker id or a name that is no number is INVALID_REQUEST'
)
def describe_broker(k):
    configs = k.configs(str(node(k)), resource=BROKER)
    for key in ('log.retention.ms', 'message.max.bytes', 'num.partitions', 'auto.create.topics.enable'):
        true(key in configs, f'{key} is described', sorted(configs)[:20])
    for name in ('7777', 'x'):
        reply = k.call(
            'DescribeConfigs',
            {'Resources': [{'ResourceType': BROKER, 'ResourceName': name, 'ConfigurationKeys': None}]},
        )['Results'][0]
        error(reply, 'INVALID_REQUEST', what=f'broker {name!r}')


@case('Passwords are marked sensitive and come without value')
def sensitive(k):
    configs = k.configs(str(node(k)), resource=BROKER)
    found = [c for c in configs.values() if 'password' in c['Name']]
    true(
        found and all(c['IsSensitive'] and c['Value'] is None for c in found),
        'settings named password are sensitive and null',
        found,
    )


@case(
    'A broker setting can be changed at run time and reset; what cannot be changed is INVALID_REQUEST or INVALID_CONFIG'
)
def alter_broker(k):
    name = str(node(k))

    def alter(key, operation, value):
        body = {
            'Resources': [
                {
                    'ResourceType': BROKER,
                    'ResourceName': name,
                    'Configs': [{'Name': key, 'ConfigOperation': operation, 'Value': value}],
                }
            ]
        }
        return k.call('IncrementalAlterConfigs', body)['Responses'][0]

    error(alter('message.max.bytes', 0, '1048590'))
    until(lambda: k.configs(name, BROKER)['message.max.bytes']['Value'] == '1048590', 'the new value')
    equal(
        k.configs(name, BROKER)['message.max.bytes']['ConfigSource'], 2, 'source (2 = set on this broker at run time)'
    )
    error(alter('message.max.bytes', 1, None))
    until(lambda: k.configs(name, BROKER)['message.max.bytes']['Value'] != '1048590', 'the default again')
    error(alter('node.id', 0, '5'), 'INVALID_REQUEST', 'INVALID_CONFIG')


@case('ListConfigResources names topics and brokers (version 1); an unknown resource type is UNSUPPORTED_VERSION')
def list_config_resources(k):
    k.require('ListConfigResources', 1)
    topic = k.topic()
    found = {
        (r['ResourceType'], r['ResourceName'])
        for r in error(k.call('ListConfigResources', {'ResourceTypes': [TOPIC, BROKER]}, 1))['ConfigResources']
    }
    true((TOPIC, topic) in found and (BROKER, str(node(k))) in found, 'the topic and the broker', len(found))
    error(k.call('ListConfigResources', {'ResourceTypes': [99]}, 1), 'UNSUPPORTED_VERSION')


@case(
    'DescribeLogDirs gives the size of each partition that exists, and from version 4 the size of the volume; null '
    'topics gives all',
    tier=2,
)
def log_dirs(k):
    topic = k.topic(2)
    k.put(topic, 'x' * 1000)
    for version in range(1, k.range('DescribeLogDirs')[1] + 1):
        reply = k.call('DescribeLogDirs', {'Topics': [{'Topic': topic, 'Partitions': [0, 1, 9]}]}, version)
        dirs = [error(d) for d in reply['Results']]
        sizes = {
            p['PartitionIndex']: p['PartitionSize']
            for d in dirs
            for t in d['Topics']
            if t['Name'] == topic
            for p in t['Partitions']
        }
        equal(sorted(sizes), [0, 1], f'v{version} partitions')
        true(sizes[0] > 1000 and sizes[1] == 0, f'v{version} sizes', sizes)
        if version >= 4:
            true(
                all(d['TotalBytes'] > 0 and 0 <= d['UsableBytes'] <= d['TotalBytes'] for d in dirs),
                'sizes of the volume',
                dirs,
            )
    everything = k.call('DescribeLogDirs', {'Topics': None})['Results']
    true(topic in [t['Name'] for d in everything for t in d['Topics']], 'null topics gives all')


@case('AlterReplicaLogDirs to the directory where a replica is succeeds; an unknown directory is LOG_DIR_NOT_FOUND')
def alter_log_dirs(k):
    topic = k.topic()
    here = k.call('DescribeLogDirs', {'Topics': [{'Topic': topic, 'Partitions': [0]}]})['Results'][0]['LogDir']

    def move(path, partition=0):
        reply = k.call(
            'AlterReplicaLogDirs', {'Dirs': [{'Path': path, 'Topics': [{'Name': topic, 'Partitions': [partition]}]}]}
        )
        return reply['Results'][0]['Partitions'][0]

    error(move(here))
    error(move(here, 9), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(move('/no/such/dir'), 'LOG_DIR_NOT_FOUND')


@case(
    'ElectLeaders for a partition whose preferred replica leads is ELECTION_NOT_NEEDED; an unknown one '
    'UNKNOWN_TOPIC_OR_PARTITION'
)
def elect_leaders(k):
    topic, missing = k.topic(), k.name()
    for kind in (0, 1):
        reply = error(
            k.call(
                'ElectLeaders',
                {
                    'ElectionType': kind,
                    'TimeoutMs': 5000,
                    'TopicPartitions': [{'Topic': topic, 'Partitions': [0, 9]}, {'Topic': missing, 'Partitions': [0]}],
                },
            )
        )
        codes = {
            (t['Topic'], p['PartitionId']): p['ErrorCode']
            for t in reply['ReplicaElectionResults']
            for p in t['PartitionResult']
        }
        equal(codes, {(topic, 0): 84, (topic, 9): 3, (missing, 0): 3}, f'error codes for election type {kind}')
    error(k.call('ElectLeaders', {'ElectionType': 9, 'TimeoutMs': 5000, 'TopicPartitions': None}), 'INVALID_REQUEST')


@case(
    'A reassignment to where the replicas are succeeds and leaves nothing ongoing; bad replicas are '
    'INVALID_REPLICA_ASSIGNMENT'
)
def reassign(k):
    topic, here = k.topic(), node(k)

    def ask(partition, replicas, name=topic):
        body = {
            'TimeoutMs': 5000,
            'Topics': [{'Name': name, 'Partitions': [{'PartitionIndex': partition, 'Replicas': replicas}]}],
        }
        return error(k.call('AlterPartitionReassignments', body))['Responses'][0]['Partitions'][0]

    error(ask(0, [here]))
    for replicas in ([7777], [here, here], []):
        error(ask(0, replicas), 'INVALID_REPLICA_ASSIGNMENT', what=f'replicas {replicas}')
    error(ask(0, None), 'NO_REASSIGNMENT_IN_PROGRESS', what='cancelling nothing')
    error(ask(9, [here]), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(ask(0, [here], k.name()), 'UNKNOWN_TOPIC_OR_PARTITION')
    for topics in (None, [{'Name': topic, 'PartitionIndexes': [0]}]):
        equal(
            error(k.call('ListPartitionReassignments', {'TimeoutMs': 5000, 'Topics': topics}))['Topics'],
            [],
            'ongoing reassignments',
        )


@case('DescribeQuorum names the leader and the voters of the metadata log')
def describe_quorum(k):
    reply = error(
        k.call(
            'DescribeQuorum', {'Topics': [{'TopicName': '__cluster_metadata', 'Partitions': [{'PartitionIndex': 0}]}]}
        )
    )
    partition = error(reply['Topics'][0]['Partitions'][0])
    true(
        partition['LeaderId'] in [v['ReplicaId'] for v in partition['CurrentVoters']]
        and partition['HighWatermark'] > 0,
        'the leader is a voter',
        partition,
    )


@case(
    'UpdateFeatures with ValidateOnly accepts the present level; an unknown feature or level is INVALID_UPDATE_VERSION'
)
def update_features(k):
    reply = k.call('ApiVersions', {'ClientSoftwareName': 'kwire', 'ClientSoftwareVersion': '1'}, 3)
    levels = {f['Name']: f['MaxVersionLevel'] for f in reply['FinalizedFeatures']}

    def update(feature, level):
        return k.call(
            'UpdateFeatures',
            {
                'timeoutMs': 5000,
                'ValidateOnly': True,
                'FeatureUpdates': [{'Feature': feature, 'MaxVersionLevel': level, 'UpgradeType': 1}],
            },
            1 if k.range('UpdateFeatures')[1] < 2 else 2,
        )

    def outcome(reply):
        return reply['ErrorCode'] or next((r['ErrorCode'] for r in reply['Results'] if r['ErrorCode']), 0)

    error(outcome(update('transaction.version', levels['transaction.version'])))
    error(outcome(update('transaction.version', 99)), 'INVALID_UPDATE_VERSION')
    error(outcome(update('no.such.feature', 1)), 'INVALID_UPDATE_VERSION')


@case('UnregisterBroker of a broker that does not exist is BROKER_ID_NOT_REGISTERED')
def unregister(k):
    error(k.call('UnregisterBroker', {'BrokerId': 7777}), 'BROKER_ID_NOT_REGISTERED')


@case('Without an authorizer DescribeAcls, CreateAcls and DeleteAcls are SECURITY_DISABLED', tier=2)
def acls_off(k):
    anything = {'ResourceTypeFilter': 1, 'PatternTypeFilter': 1, 'Operation': 1, 'PermissionType': 1}
    error(k.call('DescribeAcls', anything), 'SECURITY_DISABLED')
    error(
        k.call(
            'CreateAcls',
            {
                'Creations': [
                    {
                        'ResourceType': 2,
                        'ResourceName': 't',
                        'ResourcePatternType': 3,
                        'Principal': 'User:a',
                        'Host': '*',
                        'Operation': 3,
                        'PermissionType': 3,
                    }
                ]
            },
        )['Results'][0],
        'SECURITY_DISABLED',
    )
    error(k.call('DeleteAcls', {'Filters': [anything]})['FilterResults'][0], 'SECURITY_DISABLED')


@case('Delegation tokens on a connection without authentication are DELEGATION_TOKEN_REQUEST_NOT_ALLOWED')
def tokens_off(k):
    error(
        k.call('CreateDelegationToken', {'Renewers': [], 'MaxLifetimeMs': -1}),
        'DELEGATION_TOKEN_REQUEST_NOT_ALLOWED',
        'DELEGATION_TOKEN_AUTH_DISABLED',
    )
    error(
        k.call('DescribeDelegationToken', {'Owners': None}),
        'DELEGATION_TOKEN_REQUEST_NOT_ALLOWED',
        'DELEGATION_TOKEN_AUTH_DISABLED',
    )


@case(
    'SCRAM credentials can be set, described without the secret, and deleted; an unknown user is RESOURCE_NOT_FOUND',
    tier=2,
)
def scram(k):
    user = k.name('user')

    def upsert(name=user, mechanism=1, iterations=4096):
        return {
            'Name': name,
            'Mechanism': mechanism,
            'Iterations': iterations,
            'Salt': b's' * 16,
            'SaltedPassword': b'p' * 32,
        }

    def alter(upsertions=(), deletions=()):
        reply = k.call(
            'AlterUserScramCredentials',
            {'Upsertions': list(upsertions), 'Deletions': [{'Name': n, 'Mechanism': m} for n, m in deletions]},
        )
        return reply['Results'][0]

    def describe(*names):
        return k.call('DescribeUserScramCredentials', {'Users': [{'Name': n} for n in names]})['Results'][0]

    error(describe(user), 'RESOURCE_NOT_FOUND')
    error(alter([upsert()])), error(alter([upsert(mechanism=2, iterations=8192)]))
    until(
        lambda: {(c['Mechanism'], c['Iterations']) for c in describe(user)['CredentialInfos']}
        == {(1, 4096), (2, 8192)},
        'both credentials',
    )
    for what, entry, name in (
        ('100 iterations', upsert(iterations=100), 'UNACCEPTABLE_CREDENTIAL'),
        ('20000', upsert(iterations=20000), 'UNACCEPTABLE_CREDENTIAL'),
        ('an unknown mechanism', upsert(mechanism=9), 'UNSUPPORTED_SASL_MECHANISM'),
        ('no name', upsert(''), 'UNACCEPTABLE_CREDENTIAL'),
    ):
        error(alter([entry]), name, what=what)
    error(alter([upsert(), upsert()]), 'DUPLICATE_RESOURCE', what='the same twice')
    error(alter([upsert()], [(user, 1)]), 'DUPLICATE_RESOURCE', what='set and deleted')
    error(describe(user, user), 'DUPLICATE_RESOURCE', what='described twice')
    error(alter(deletions=[(user, 1)])), error(alter(deletions=[(user, 2)]))
    until(lambda: answers(describe(user), 'RESOURCE_NOT_FOUND'), 'the user is gone')
    error(alter(deletions=[(user, 1)]), 'RESOURCE_NOT_FOUND')
