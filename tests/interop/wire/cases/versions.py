"""One case for each API: every advertised version is answered and decodes to its last byte."""

import time

from harness import RETRY, Mismatch, area, equal, error, member_uuid, records, subscription, true
from kwire import ERRORS, SCHEMAS, error_name, version_range
from records import batch


def codes(value):
    """Every error code anywhere in a response."""
    if isinstance(value, list):
        return {c for v in value for c in codes(v)}
    if not isinstance(value, dict):
        return set()
    return {v for key, v in value.items() if key.endswith('ErrorCode')} | {c for v in value.values() for c in codes(v)}


def every_version(api, tier, *allowed, prepare=None):
    """Registers the case of one API. body(k, version, prepared) gives the request; `allowed` are its error codes."""

    def register(body):
        def function(k):
            prepared = prepare(k) if prepare else None
            low, high = k.range(api)
            known = version_range(SCHEMAS[api + 'Response']['validVersions'])
            for version in range(low, min(high, known[1]) + 1):
                request = body(k, version, prepared)
                for _ in range(100):
                    reply = k.call(api, request, version)
                    found = codes(reply)
                    if not found & RETRY:
                        break
                    time.sleep(0.05)
                names = {ERRORS.get(c) for c in found}
                if not names <= {'NONE', *allowed}:
                    raise Mismatch(
                        f'{api} v{version}',
                        'only the error codes ' + ', '.join(['NONE', *allowed]),
                        [error_name(c) for c in found],
                    )
                if allowed and 'NONE' not in allowed:
                    true(names & set(allowed), f'{api} v{version}: one of {allowed}', [error_name(c) for c in found])

        function.__name__ = api
        area('versions', tier)(f'Every advertised version of {api} is answered and decodes to its last byte')(function)
        return body

    return register


def topic_with_record(k):
    topic = k.topic()
    k.put(topic, 'a')
    return topic, k.topic_id(topic)


def named(topic, version, ids_from, **fields):
    return {**({'TopicId': topic[1]} if version >= ids_from else {'Name': topic[0]}), **fields}


def group_with_member(k):
    return k.member(k.group()).join_alone()


def open_transaction(k):
    topic, x = k.topic(), k.transactional()
    return topic, x, k.group()


def empty_group(k):
    return k.group()


# ---------------------------------------------------------------- tier 1
every_version('ApiVersions', 1)(
    lambda k, v, _: {'ClientSoftwareName': 'kwire', 'ClientSoftwareVersion': '1'} if v >= 3 else {}
)
every_version('Produce', 1, prepare=topic_with_record)(
    lambda k, v, t: {
        'Acks': -1,
        'TimeoutMs': 5000,
        'TopicData': [named(t, v, 13, PartitionData=[{'Index': 0, 'Records': batch(records('x'))}])],
    }
)
every_version('Fetch', 1, prepare=topic_with_record)(lambda k, v, t: k.fetch_body(t[0], 0, version=v))
every_version('ListOffsets', 1, prepare=topic_with_record)(
    lambda k, v, t: {
        'ReplicaId': -1,
        'Topics': [{'Name': t[0], 'Partitions': [{'PartitionIndex': 0, 'Timestamp': -1}]}],
    }
)
every_version('Metadata', 1, prepare=topic_with_record)(lambda k, v, t: {'Topics': [{'Name': t[0]}]})
every_version('CreateTopics', 1)(
    lambda k, v, _: {
        'Topics': [{'Name': k.name(), 'NumPartitions': 1, 'ReplicationFactor': 1}],
        'timeoutMs': 10000,
        'validateOnly': True,
    }
)


@every_version('DeleteTopics', 1)
def delete_topics(k, version, _):
    topic = k.topic()
    return {'TimeoutMs': 10000, **({'Topics': [{'Name': topic}]} if version >= 6 else {'TopicNames': [topic]})}


every_version('DeleteRecords', 1, prepare=topic_with_record)(
    lambda k, v, t: {'Topics': [{'Name': t[0], 'Partitions': [{'PartitionIndex': 0, 'Offset': 0}]}], 'TimeoutMs': 5000}
)
every_version('InitProducerId', 1)(lambda k, v, _: {'TransactionalId': None, 'TransactionTimeoutMs': 60000})
every_version('OffsetForLeaderEpoch', 1, prepare=topic_with_record)(
    lambda k, v, t: {
        **({'ReplicaId': -1} if v >= 3 else {}),
        'Topics': [{'Topic': t[0], 'Partitions': [{'Partition': 0, 'LeaderEpoch': 0}]}],
    }
)
every_version('DescribeConfigs', 1, prepare=topic_with_record)(
    lambda k, v, t: {'Resources': [{'ResourceType': 2, 'ResourceName': t[0], 'ConfigurationKeys': None}]}
)
every_version('AlterConfigs', 1, prepare=topic_with_record)(
    lambda k, v, t: {
        'Resources': [
            {'ResourceType': 2, 'ResourceName': t[0], 'Configs': [{'Name': 'retention.ms', 'Value': '5000000'}]}
        ],
        'ValidateOnly': True,
    }
)
every_version('IncrementalAlterConfigs', 1, prepare=topic_with_record)(
    lambda k, v, t: {
        'Resources': [
            {
                'ResourceType': 2,
                'ResourceName': t[0],
                'Configs': [{'Name': 'retention.ms', 'ConfigOperation': 0, 'Value': '5000000'}],
            }
        ],
        'ValidateOnly': True,
    }
)
every_version('CreatePartitions', 1, prepare=topic_with_record)(
    lambda k, v, t: {
        'Topics': [{'Name': t[0], 'Count': 2, 'Assignments': None}],
        'TimeoutMs': 5000,
        'ValidateOnly': True,
    }
)
every_version('DescribeCluster', 1)(lambda k, v, _: {})
every_version('SaslHandshake', 1, 'ILLEGAL_SASL_STATE')(lambda k, v, _: {'Mechanism': 'PLAIN'})

# ---------------------------------------------------------------- tier 2
every_version('FindCoordinator', 2)(
    lambda k, v, _: {'KeyType': 0, 'CoordinatorKeys': ['g']} if v >= 4 else {'Key': 'g'}
)
every_version('JoinGroup', 2, 'MEMBER_ID_REQUIRED', 'NONE', prepare=empty_group)(
    lambda k, v, _: {
        'GroupId': k.name('g'),
        'SessionTimeoutMs': 10000,
        'MemberId': '',
        'ProtocolType': 'consumer',
        'Protocols': [{'Name': 'range', 'Metadata': subscription('t')}],
        **({'RebalanceTimeoutMs': 5000} if v >= 1 else {}),
    }
)
every_version('SyncGroup', 2, prepare=group_with_member)(
    lambda k, v, m: {
        'GroupId': m.group,
        'GenerationId': m.generation,
        'MemberId': m.id,
        'Assignments': [{'MemberId': m.id, 'Assignment': b'a'}],
        **({'ProtocolType': 'consumer', 'ProtocolName': 'range'} if v >= 5 else {}),
    }
)
every_version('Heartbeat', 2, prepare=group_with_member)(
    lambda k, v, m: {'GroupId': m.group, 'GenerationId': m.generation, 'MemberId': m.id}
)


@every_version('LeaveGroup', 2)
def leave_group(k, version, _):
    m = group_with_member(k)
    return {
        'GroupId': m.group,
        **({'Members': [{'MemberId': m.id, 'GroupInstanceId': None}]} if version >= 3 else {'MemberId': m.id}),
    }


def topic_and_group(k):
    return topic_with_record(k), k.group()


every_version('OffsetCommit', 2, prepare=topic_and_group)(
    lambda k, v, p: {
        'GroupId': p[1],
        'GenerationIdOrMemberEpoch': -1,
        'MemberId': '',
        'Topics': [named(p[0], v, 10, Partitions=[{'PartitionIndex': 0, 'CommittedOffset': 5}])],
    }
)
every_version('OffsetFetch', 2, prepare=topic_and_group)(
    lambda k, v, p: (
        {'GroupId': p[1], 'Topics': [{'Name': p[0][0], 'PartitionIndexes': [0]}]}
        if v < 8
        else {'Groups': [{'GroupId': p[1], 'Topics': [named(p[0], v, 10, PartitionIndexes=[0])]}]}
    )
)
every_version('OffsetDelete', 2, 'GROUP_ID_NOT_FOUND', prepare=empty_group)(
    lambda k, v, g: {'GroupId': g, 'Topics': [{'Name': 't', 'Partitions': [{'PartitionIndex': 0}]}]}
)
every_version('DescribeGroups', 2, prepare=group_with_member)(lambda k, v, m: {'Groups': [m.group]})
every_version('ListGroups', 2, prepare=group_with_member)(lambda k, v, m: {})
every_version('DeleteGroups', 2, 'GROUP_ID_NOT_FOUND', prepare=empty_group)(lambda k, v, g: {'GroupsNames': [g]})
every_version('DescribeTopicPartitions', 2, prepare=topic_with_record)(lambda k, v, t: {'Topics': [{'Name': t[0]}]})
every_version('DescribeLogDirs', 2, prepare=topic_with_record)(
    lambda k, v, t: {'Topics': [{'Topic': t[0], 'Partitions': [0]}]}
)
every_version('DescribeAcls', 2, 'SECURITY_DISABLED', 'NONE')(
    lambda k, v, _: {'ResourceTypeFilter': 1, 'PatternTypeFilter': 1, 'Operation': 1, 'PermissionType': 1}
)
every_version('CreateAcls', 2, 'SECURITY_DISABLED', 'NONE')(
    lambda k, v, _: {
        'Creations': [
            {
                'ResourceType': 2,
                'ResourceName': 'versions',
                'ResourcePatternType': 3,
                'Principal': 'User:nobody',
                'Host': '*',
                'Operation': 3,
                'PermissionType': 3,
            }
        ]
    }
)
every_version('DeleteAcls', 2, 'SECURITY_DISABLED', 'NONE')(
    lambda k, v, _: {
        'Filters': [
            {
                'ResourceTypeFilter': 2,
                'ResourceNameFilter': 'versions',
                'PatternTypeFilter': 3,
                'PrincipalFilter': 'User:nobody',
                'Operation': 1,
                'PermissionType': 1,
            }
        ]
    }
)
every_version('DescribeUserScramCredentials', 2, 'RESOURCE_NOT_FOUND')(lambda k, v, _: {'Users': [{'Name': 'nobody'}]})
every_version('AlterUserScramCredentials', 2, 'RESOURCE_NOT_FOUND')(
    lambda k, v, _: {'Deletions': [{'Name': 'nobody', 'Mechanism': 1}], 'Upsertions': []}
)

# ---------------------------------------------------------------- tier 3


def transaction(x):
    return {'TransactionalId': x.id, 'ProducerId': x.producer_id, 'ProducerEpoch': x.epoch}


every_version('AddPartitionsToTxn', 3, prepare=open_transaction)(
    lambda k, v, p: (
        {'Transactions': [{**transaction(p[1]), 'VerifyOnly': False, 'Topics': [{'Name': p[0], 'Partitions': [0]}]}]}
        if v >= 4
        else {
            'V3AndBelowTransactionalId': p[1].id,
            'V3AndBelowProducerId': p[1].producer_id,
            'V3AndBelowProducerEpoch': p[1].epoch,
            'V3AndBelowTopics': [{'Name': p[0], 'Partitions': [0]}],
        }
    )
)
every_version('AddOffsetsToTxn', 3, prepare=open_transaction)(lambda k, v, p: {**transaction(p[1]), 'GroupId': p[2]})


@every_version('TxnOffsetCommit', 3, prepare=open_transaction)
def txn_offset_commit(k, version, prepared):
    topic, x, group = prepared
    if version < 5:
        error(x.add_offsets(group))
    return {
        **transaction(x),
        'GroupId': group,
        'Topics': [
            {'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'CommittedOffset': 5, 'CommittedMetadata': ''}]}
        ],
    }


@every_version('EndTxn', 3)
def end_txn(k, version, _):
    topic, x, _ = open_transaction(k)
    x.write(topic, 'a')
    return {**transaction(x), 'Committed': True}


every_version('DescribeTransactions', 3, prepare=open_transaction)(lambda k, v, p: {'TransactionalIds': [p[1].id]})
every_version('ListTransactions', 3)(lambda k, v, _: {})
every_version('DescribeProducers', 3, prepare=topic_with_record)(
    lambda k, v, t: {'Topics': [{'Name': t[0], 'PartitionIndexes': [0]}]}
)
every_version('WriteTxnMarkers', 3, 'UNKNOWN_TOPIC_OR_PARTITION')(
    lambda k, v, _: {
        'Markers': [
            {
                'ProducerId': 1,
                'ProducerEpoch': 0,
                'TransactionResult': False,
                'CoordinatorEpoch': 0,
                'Topics': [{'Name': k.name(), 'PartitionIndexes': [0]}],
            }
        ]
    }
)

# ---------------------------------------------------------------- tiers 4 and 5
every_version('AlterReplicaLogDirs', 4, 'LOG_DIR_NOT_FOUND', prepare=topic_with_record)(
    lambda k, v, t: {'Dirs': [{'Path': '/no/such/dir', 'Topics': [{'Name': t[0], 'Partitions': [0]}]}]}
)
every_version('ElectLeaders', 4, 'ELECTION_NOT_NEEDED', prepare=topic_with_record)(
    lambda k, v, t: {
        'TopicPartitions': [{'Topic': t[0], 'Partitions': [0]}],
        'TimeoutMs': 5000,
        **({'ElectionType': 0} if v else {}),
    }
)
every_version('AlterPartitionReassignments', 4, 'NO_REASSIGNMENT_IN_PROGRESS', prepare=topic_with_record)(
    lambda k, v, t: {
        'TimeoutMs': 5000,
        'Topics': [{'Name': t[0], 'Partitions': [{'PartitionIndex': 0, 'Replicas': None}]}],
    }
)
every_version('ListPartitionReassignments', 4)(lambda k, v, _: {'TimeoutMs': 5000, 'Topics': None})
every_version('DescribeClientQuotas', 4)(lambda k, v, _: {'Components': [], 'Strict': False})
every_version('AlterClientQuotas', 4)(
    lambda k, v, _: {
        'ValidateOnly': True,
        'Entries': [
            {
                'Entity': [{'EntityType': 'client-id', 'EntityName': 'versions'}],
                'Ops': [{'Key': 'producer_byte_rate', 'Value': 5000.0, 'Remove': False}],
            }
        ],
    }
)
every_version('ListConfigResources', 4)(lambda k, v, _: {})
every_version('DescribeQuorum', 4)(
    lambda k, v, _: {'Topics': [{'TopicName': '__cluster_metadata', 'Partitions': [{'PartitionIndex': 0}]}]}
)
every_version('UpdateFeatures', 4, 'INVALID_UPDATE_VERSION')(
    lambda k, v, _: {'timeoutMs': 5000, 'FeatureUpdates': [{'Feature': 'no.such.feature', 'MaxVersionLevel': 1}]}
)
every_version('UnregisterBroker', 4, 'BROKER_ID_NOT_REGISTERED')(lambda k, v, _: {'BrokerId': 7777})
for _api, _body in (
    ('CreateDelegationToken', {'Renewers': [], 'MaxLifetimeMs': -1}),
    ('DescribeDelegationToken', {'Owners': None}),
    ('RenewDelegationToken', {'Hmac': b'x', 'RenewPeriodMs': 1}),
    ('ExpireDelegationToken', {'Hmac': b'x', 'ExpiryTimePeriodMs': 1}),
):
    every_version(
        _api, 4, 'DELEGATION_TOKEN_REQUEST_NOT_ALLOWED', 'DELEGATION_TOKEN_AUTH_DISABLED', 'DELEGATION_TOKEN_NOT_FOUND'
    )(lambda k, v, _, body=_body: body)
every_version('ConsumerGroupHeartbeat', 5, prepare=topic_with_record)(
    lambda k, v, t: {
        'GroupId': k.group(),
        'MemberId': member_uuid(),
        'MemberEpoch': 0,
        'RebalanceTimeoutMs': 5000,
        'SubscribedTopicNames': [t[0]],
        'TopicPartitions': [],
    }
)
every_version('ConsumerGroupDescribe', 5, 'GROUP_ID_NOT_FOUND', prepare=empty_group)(lambda k, v, g: {'GroupIds': [g]})


case = area('versions', tier=1)


@case('Each advertised range lies within the known versions of the API, minimum not above maximum')
def advertised_ranges(k):
    by_key = {s['apiKey']: s for s in SCHEMAS.values() if s['type'] == 'request'}
    for key, (low, high) in k.target.advertised.items():
        true(0 <= low <= high, f'API key {key}: minimum not above maximum', (low, high))
        if key in by_key and key != 0:
            known = version_range(by_key[key]['validVersions'])
            true(known[0] <= low and high <= known[1], f'{by_key[key]["name"]} within {known}', (low, high))
    equal(k.target.advertised[18][0], 0, 'lowest version of ApiVersions')
