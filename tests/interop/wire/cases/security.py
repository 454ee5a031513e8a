"""SASL and ACLs. Run with --security against a SASL_PLAINTEXT listener with the mechanisms PLAIN, SCRAM-SHA-256 and
SCRAM-SHA-512, an authorizer that denies by default, and two users whose PLAIN passwords the environment gives:
SASL_ADMIN (a super user, default admin:admin-secret) and SASL_USER (an ordinary one, default alice:alice-secret)."""

import base64, hashlib, hmac, os, struct

from harness import answers, area, code_of, equal, error, member_uuid, records, subscription, true, until
from records import batch

case = area('security', tier=6, security=True)
ADMIN = os.environ.get('SASL_ADMIN', 'admin:admin-secret').split(':', 1)
USER = os.environ.get('SASL_USER', 'alice:alice-secret').split(':', 1)
PRINCIPAL = 'User:' + USER[0]
MECHANISMS = {'SCRAM-SHA-256': (1, 'sha256'), 'SCRAM-SHA-512': (2, 'sha512')}
TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = 2, 3, 4, 5
ANY, MATCH, LITERAL, PREFIXED = 1, 2, 3, 4
DENY, ALLOW = 2, 3
ALL, READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE = 2, 3, 4, 5, 6, 7, 8


def token(name, password):
    return b'\0%s\0%s' % (name.encode(), password.encode())


def plain(k, name, password, version=2):
    conn = k.connect(10)
    error(conn.call('SaslHandshake', 1, {'Mechanism': 'PLAIN'}))
    return conn, conn.call('SaslAuthenticate', version, {'AuthBytes': token(name, password)})


def login(k, who):
    conn, reply = plain(k, *who)
    error(reply, what=f'PLAIN authentication of {who[0]}')
    return conn


def as_admin(k):
    """Makes the kit speak as the admin and takes all ACLs from the ordinary user; gives the latter's connection."""
    k._conn = login(k, ADMIN)
    mine = acl_filter(principal=PRINCIPAL)
    error(k.call('DeleteAcls', {'Filters': [mine]})['FilterResults'][0])
    until(lambda: not error(k.call('DescribeAcls', mine))['Resources'], 'the ordinary user has no ACLs')
    return login(k, USER)


def grant(k, resource, name, operation, permission=ALLOW, pattern=LITERAL, principal=PRINCIPAL, host='*'):
    error(
        k.call(
            'CreateAcls',
            {
                'Creations': [
                    {
                        'ResourceType': resource,
                        'ResourceName': name,
                        'ResourcePatternType': pattern,
                        'Principal': principal,
                        'Host': host,
                        'Operation': operation,
                        'PermissionType': permission,
                    }
                ]
            },
        )['Results'][0]
    )


def acl_filter(resource=1, name=None, pattern=ANY, principal=None, operation=1, permission=1):
    return {
        'ResourceTypeFilter': resource,
        'ResourceNameFilter': name,
        'PatternTypeFilter': pattern,
        'PrincipalFilter': principal,
        'HostFilter': None,
        'Operation': operation,
        'PermissionType': permission,
    }


def produced(k, conn, topic):
    return k.produce(topic, batch(records('a')), conn=conn)['ErrorCode']


def fetched(k, conn, topic):
    return k.fetch(topic, 0, conn=conn, max_wait_ms=0)['ErrorCode']


# ---------------------------------------------------------------- authentication
@case('An unknown mechanism is UNSUPPORTED_SASL_MECHANISM with the list of those enabled, and the connection is closed')
def unknown_mechanism(k):
    conn = k.connect()
    reply = error(conn.call('SaslHandshake', 1, {'Mechanism': 'NOPE'}), 'UNSUPPORTED_SASL_MECHANISM')
    true({'PLAIN', *MECHANISMS} <= set(reply['Mechanisms']), 'the mechanisms', reply['Mechanisms'])
    true(conn.closed_by_broker(), 'the connection is closed')


@case(
    'Before authentication ApiVersions is answered, also after an UNSUPPORTED_VERSION; anything else '
    'closes the connection'
)
def before_authentication(k):
    conn = k.connect()
    error(conn.call('ApiVersions', 3, {'ClientSoftwareName': 'kwire', 'ClientSoftwareVersion': '1'}))
    error(conn.call('SaslHandshake', 1, {'Mechanism': 'PLAIN'}))
    conn = k.connect()
    conn.send_frame(struct.pack('>hhih', 18, 99, 7, 1) + b'k\0\x06kwire\x041.0\0')
    equal(struct.unpack_from('>ih', conn.recv_frame()), (7, 35), 'correlation id, error code')
    error(conn.call('ApiVersions', 0, {}))
    for api, version, body in (
        ('Metadata', 1, {'Topics': None}),
        ('SaslAuthenticate', 2, {'AuthBytes': token(*USER)}),
        ('ListGroups', 0, {}),
    ):
        conn = k.connect()
        conn.send(api, version, body)
        true(conn.closed_by_broker(), f'connection closed after {api}')


@case(
    'PLAIN with the right password is accepted in every version of SaslAuthenticate, also with the name '
    'as authorization id'
)
def plain_right(k):
    for version in range(0, 3):
        conn, reply = plain(k, *USER, version=version)
        error(reply, what=f'v{version}')
        true(conn.call('Metadata', 9, {'Topics': []})['Brokers'], 'the connection works')
    conn = k.connect()
    conn.call('SaslHandshake', 1, {'Mechanism': 'PLAIN'})
    error(conn.call('SaslAuthenticate', 2, {'AuthBytes': USER[0].encode() + token(*USER)}))


@case(
    'A wrong password, an unknown user and a malformed token are SASL_AUTHENTICATION_FAILED with the same message, '
    'and the connection is closed'
)
def plain_wrong(k):
    messages = set()
    for name, password in ((USER[0], 'wrong'), ('nobody', 'wrong')):
        conn, reply = plain(k, name, password)
        messages.add(error(reply, 'SASL_AUTHENTICATION_FAILED')['ErrorMessage'])
        true(conn.closed_by_broker(), 'the connection is closed')
    equal(len(messages), 1, 'different messages for wrong password and unknown user')
    for data in (
        b'',
        b'x',
        b'\0' + USER[0].encode(),
        token(*USER) + b'\0more',
        b'somebody' + token(*USER),
        token(USER[0], ''),
        token('', ''),
    ):
        conn = k.connect()
        conn.call('SaslHandshake', 1, {'Mechanism': 'PLAIN'})
        error(conn.call('SaslAuthenticate', 2, {'AuthBytes': data}), 'SASL_AUTHENTICATION_FAILED', what=repr(data))


@case(
    'After SaslHandshake 0 the token comes in a bare frame and is answered with one; a wrong one closes the connection'
)
def bare_tokens(k):
    conn = k.connect()
    error(conn.call('SaslHandshake', 0, {'Mechanism': 'PLAIN'}))
    conn.send_frame(token(*USER))
    equal(conn.recv_frame(), b'', 'answer')
    true(conn.call('Metadata', 9, {'Topics': []})['Brokers'], 'the connection works')
    conn = k.connect()
    conn.call('SaslHandshake', 0, {'Mechanism': 'PLAIN'})
    conn.send_frame(token(USER[0], 'wrong'))
    true(conn.closed_by_broker(), 'the connection is closed')


@case(
    'Handshake and authentication on a connection that is authenticated are ILLEGAL_SASL_STATE where '
    're-authentication is off; it stays usable'
)
def again(k):
    conn = login(k, USER)
    error(conn.call('SaslHandshake', 1, {'Mechanism': 'PLAIN'}), 'ILLEGAL_SASL_STATE')
    error(conn.call('SaslAuthenticate', 2, {'AuthBytes': token(*ADMIN)}), 'ILLEGAL_SASL_STATE')
    true(conn.call('Metadata', 9, {'Topics': []})['Brokers'], 'the connection works')


@case('Before authentication a frame of more than half a MiB closes the connection')
def large_frame(k):
    conn = k.connect()
    conn.socket.sendall(struct.pack('>i', 600000))
    true(conn.closed_by_broker(), 'the connection is closed')


def salted(password, salt, iterations, algorithm):
    return hashlib.pbkdf2_hmac(algorithm, password.encode(), salt, iterations)


def scram(k, mechanism, name, password, client_nonce='abc', tamper=False):
    """(reply to the client's final message, whether the server proved that it knows the password)"""
    algorithm = MECHANISMS[mechanism][1]
    conn = k.connect(10)
    error(conn.call('SaslHandshake', 1, {'Mechanism': mechanism}))
    first = f'n={name},r={client_nonce}'
    reply = conn.call('SaslAuthenticate', 2, {'AuthBytes': ('n,,' + first).encode()})
    if reply['ErrorCode']:
        return conn, reply, False
    server_first = reply['AuthBytes'].decode()
    fields = dict(f.split('=', 1) for f in server_first.split(','))
    true(
        fields['r'].startswith(client_nonce) and len(fields['r']) > len(client_nonce),
        "the server's nonce extends the client's",
        fields,
    )
    without_proof = 'c=biws,r=' + fields['r'] + ('x' if tamper else '')
    message = ','.join((first, server_first, without_proof)).encode()
    secret = salted(password, base64.b64decode(fields['s']), int(fields['i']), algorithm)

    def mac(key, text):
        return hmac.new(key, text, algorithm).digest()

    client_key = mac(secret, b'Client Key')
    proof = bytes(a ^ b for a, b in zip(client_key, mac(hashlib.new(algorithm, client_key).digest(), message)))
    reply = conn.call(
        'SaslAuthenticate', 2, {'AuthBytes': (without_proof + ',p=' + base64.b64encode(proof).decode()).encode()}
    )
    proved = reply['AuthBytes'] == b'v=' + base64.b64encode(mac(mac(secret, b'Server Key'), message))
    return conn, reply, proved


@case(
    'SCRAM works with credentials that the admin API has set: both mechanisms, mutual proof, and nothing for a '
    'wrong password or a changed nonce'
)
def scram_login(k):
    as_admin(k)
    for mechanism, (number, algorithm) in MECHANISMS.items():
        name, salt = k.name('scram'), b'a salt of this user'
        error(
            k.call(
                'AlterUserScramCredentials',
                {
                    'Deletions': [],
                    'Upsertions': [
                        {
                            'Name': name,
                            'Mechanism': number,
                            'Iterations': 4096,
                            'Salt': salt,
                            'SaltedPassword': salted('pass word', salt, 4096, algorithm),
                        }
                    ],
                },
            )['Results'][0]
        )
        conn, reply, proved = until(
            lambda: (r := scram(k, mechanism, name, 'pass word'))[1]['ErrorCode'] == 0 and r, f'{mechanism} login'
        )
        true(proved, f"{mechanism}: the server's signature is right")
        true(conn.call('Metadata', 9, {'Topics': []})['Brokers'], 'the connection works')
        error(
            scram(k, mechanism, name, 'wrong')[1], 'SASL_AUTHENTICATION_FAILED', what=f'{mechanism}, a wrong password'
        )
        error(
            scram(k, mechanism, k.name('nobody'), 'x')[1],
            'SASL_AUTHENTICATION_FAILED',
            what=f'{mechanism}, an unknown user',
        )
        error(
            scram(k, mechanism, name, 'pass word', tamper=True)[1],
            'SASL_AUTHENTICATION_FAILED',
            what=f'{mechanism}, a changed nonce',
        )
        error(
            k.call('AlterUserScramCredentials', {'Deletions': [{'Name': name, 'Mechanism': number}], 'Upsertions': []})[
                'Results'
            ][0]
        )
        until(
            lambda: answers(scram(k, mechanism, name, 'pass word')[1], 'SASL_AUTHENTICATION_FAILED'),
            f'{mechanism}: no login any more',
        )


# ---------------------------------------------------------------- authorization
@case(
    'Without ACLs a topic is TOPIC_AUTHORIZATION_FAILED in every API, whether it exists or not, and is left out of '
    'the list of all'
)
def topic_denied(k):
    user, topic, missing = as_admin(k), k.topic(), k.name()
    topic_id = k.topic_id(topic)
    for name in (topic, missing):
        error(
            k.call('Metadata', {'Topics': [{'Name': name}], 'AllowAutoTopicCreation': True}, conn=user)['Topics'][0],
            'TOPIC_AUTHORIZATION_FAILED',
            what='Metadata',
        )
    by_id = k.call('Metadata', {'Topics': [{'TopicId': topic_id, 'Name': None}]}, 12, conn=user)['Topics'][0]
    equal((error(by_id, 'TOPIC_AUTHORIZATION_FAILED')['Name']), None, 'name in Metadata by id')
    equal(k.call('Metadata', {'Topics': None}, conn=user)['Topics'], [], 'all topics')
    replies = {
        'Produce': produced(k, user, topic),
        'Fetch': fetched(k, user, topic),
        'ListOffsets': k.call(
            'ListOffsets',
            {'ReplicaId': -1, 'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'Timestamp': -1}]}]},
            conn=user,
        )['Topics'][0]['Partitions'][0],
        'OffsetForLeaderEpoch': k.call(
            'OffsetForLeaderEpoch',
            {'ReplicaId': -1, 'Topics': [{'Topic': topic, 'Partitions': [{'Partition': 0, 'LeaderEpoch': 0}]}]},
            conn=user,
        )['Topics'][0]['Partitions'][0],
        'DeleteRecords': k.call(
            'DeleteRecords',
            {'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'Offset': 0}]}], 'TimeoutMs': 1000},
            conn=user,
        )['Topics'][0]['Partitions'][0],
        'CreateTopics': k.call(
            'CreateTopics',
            {'Topics': [{'Name': missing, 'NumPartitions': 1, 'ReplicationFactor': 1}], 'timeoutMs': 1000},
            conn=user,
        )['Topics'][0],
        'DeleteTopics': k.call('DeleteTopics', {'TopicNames': [topic], 'TimeoutMs': 1000}, conn=user)['Responses'][0],
        'CreatePartitions': k.call(
            'CreatePartitions',
            {'Topics': [{'Name': topic, 'Count': 2, 'Assignments': None}], 'TimeoutMs': 1000},
            conn=user,
        )['Results'][0],
        'DescribeConfigs': k.call(
            'DescribeConfigs',
            {'Resources': [{'ResourceType': 2, 'ResourceName': topic, 'ConfigurationKeys': None}]},
            conn=user,
        )['Results'][0],
        'IncrementalAlterConfigs': k.call(
            'IncrementalAlterConfigs',
            {
                'Resources': [
                    {
                        'ResourceType': 2,
                        'ResourceName': topic,
                        'Configs': [{'Name': 'retention.ms', 'ConfigOperation': 0, 'Value': '5000'}],
                    }
                ]
            },
            conn=user,
        )['Responses'][0],
    }
    for api, reply in replies.items():
        error(code_of(reply), 'TOPIC_AUTHORIZATION_FAILED', what=api)


@case('Without ACLs a group is GROUP_AUTHORIZATION_FAILED in every API and is not listed')
def group_denied(k):
    user, topic, group = as_admin(k), k.topic(), k.group()
    k.commit(group, topic, 1)
    join = {
        'GroupId': group,
        'SessionTimeoutMs': 10000,
        'RebalanceTimeoutMs': 1000,
        'MemberId': '',
        'ProtocolType': 'consumer',
        'Protocols': [{'Name': 'range', 'Metadata': subscription(topic)}],
    }
    replies = {
        'FindCoordinator': k.call('FindCoordinator', {'Key': group, 'KeyType': 0}, conn=user),
        'JoinGroup': k.call('JoinGroup', join, conn=user),
        'Heartbeat': k.call('Heartbeat', {'GroupId': group, 'GenerationId': 1, 'MemberId': 'm'}, conn=user),
        'OffsetCommit': k.call(
            'OffsetCommit',
            {
                'GroupId': group,
                'GenerationIdOrMemberEpoch': -1,
                'MemberId': '',
                'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'CommittedOffset': 1}]}],
            },
            conn=user,
        )['Topics'][0]['Partitions'][0],
        'OffsetFetch': k.call('OffsetFetch', {'GroupId': group, 'Topics': None}, conn=user),
        'DescribeGroups': k.call('DescribeGroups', {'Groups': [group]}, conn=user)['Groups'][0],
        'DeleteGroups': k.call('DeleteGroups', {'GroupsNames': [group]}, conn=user)['Results'][0],
        'OffsetDelete': k.call('OffsetDelete', {'GroupId': group, 'Topics': []}, conn=user),
    }
    for api, reply in replies.items():
        error(reply, 'GROUP_AUTHORIZATION_FAILED', what=api)
    equal(k.call('ListGroups', {}, conn=user)['Groups'], [], 'groups listed')
    if 68 in k.target.advertised:
        error(
            k.call(
                'ConsumerGroupHeartbeat',
                {
                    'GroupId': group,
                    'MemberId': member_uuid(),
                    'MemberEpoch': 0,
                    'RebalanceTimeoutMs': 1000,
                    'SubscribedTopicNames': [topic],
                    'TopicPartitions': [],
                },
                conn=user,
            ),
            'GROUP_AUTHORIZATION_FAILED',
        )


@case(
    'Without ACLs the cluster is CLUSTER_AUTHORIZATION_FAILED and a transactional id '
    'TRANSACTIONAL_ID_AUTHORIZATION_FAILED'
)
def cluster_denied(k):
    user = as_admin(k)

    def init(transactional_id):
        return k.call(
            'InitProducerId',
            {'TransactionalId': transactional_id, 'TransactionTimeoutMs': 1000, 'ProducerId': -1, 'ProducerEpoch': -1},
            conn=user,
        )

    error(init('x'), 'TRANSACTIONAL_ID_AUTHORIZATION_FAILED')
    error(k.call('FindCoordinator', {'Key': 'x', 'KeyType': 1}, conn=user), 'TRANSACTIONAL_ID_AUTHORIZATION_FAILED')
    error(init(None), 'CLUSTER_AUTHORIZATION_FAILED', what='InitProducerId of one who may write nowhere')
    anything = acl_filter()
    for api, reply in (
        ('DescribeAcls', k.call('DescribeAcls', anything, conn=user)),
        (
            'CreateAcls',
            k.call(
                'CreateAcls',
                {
                    'Creations': [
                        {
                            'ResourceType': TOPIC,
                            'ResourceName': 't',
                            'ResourcePatternType': LITERAL,
                            'Principal': PRINCIPAL,
                            'Host': '*',
                            'Operation': ALL,
                            'PermissionType': ALLOW,
                        }
                    ]
                },
                conn=user,
            )['Results'][0],
        ),
        ('DeleteAcls', k.call('DeleteAcls', {'Filters': [anything]}, conn=user)['FilterResults'][0]),
        ('DescribeClientQuotas', k.call('DescribeClientQuotas', {'Components': [], 'Strict': False}, conn=user)),
        ('DescribeLogDirs', k.call('DescribeLogDirs', {'Topics': None}, conn=user)),
        (
            'ListPartitionReassignments',
            k.call('ListPartitionReassignments', {'TimeoutMs': 1000, 'Topics': None}, conn=user),
        ),
        (
            'AlterUserScramCredentials',
            k.call(
                'AlterUserScramCredentials', {'Deletions': [{'Name': 'x', 'Mechanism': 1}], 'Upsertions': []}, conn=user
            )['Results'][0],
        ),
    ):
        error(reply, 'CLUSTER_AUTHORIZATION_FAILED', what=api)
    error(k.call('DescribeCluster', {}, conn=user), what='DescribeCluster is open to all')
    equal(k.call('ListTransactions', {}, conn=user)['TransactionStates'], [], 'transactions listed')


@case('WRITE allows producing, READ fetching; either implies DESCRIBE; revoking takes it back')
def grant_and_revoke(k):
    user, topic = as_admin(k), k.topic()
    grant(k, TOPIC, topic, WRITE)
    until(lambda: produced(k, user, topic) == 0, 'producing is allowed')
    error(fetched(k, user, topic), 'TOPIC_AUTHORIZATION_FAILED', what='Fetch with WRITE only')
    equal([t['Name'] for t in k.call('Metadata', {'Topics': None}, conn=user)['Topics']], [topic], 'topics listed')
    body = {'TransactionalId': None, 'TransactionTimeoutMs': 1000, 'ProducerId': -1, 'ProducerEpoch': -1}
    until(
        lambda: k.call('InitProducerId', body, conn=user)['ErrorCode'] == 0,
        'InitProducerId of one who may write to a topic',
    )
    grant(k, TOPIC, topic, READ)
    until(lambda: fetched(k, user, topic) == 0, 'fetching is allowed')
    result = error(
        k.call('DeleteAcls', {'Filters': [acl_filter(TOPIC, topic, LITERAL, PRINCIPAL, WRITE, ALLOW)]})[
            'FilterResults'
        ][0]
    )
    equal([(a['ResourceName'], a['Operation']) for a in result['MatchingAcls']], [(topic, WRITE)], 'ACLs deleted')
    until(lambda: answers(produced(k, user, topic), 'TOPIC_AUTHORIZATION_FAILED'), 'producing is refused again')
    error(fetched(k, user, topic), what='Fetch is still allowed')


@case(
    'A prefix and the name "*" match; DENY beats ALLOW; ALL includes every operation; another host or '
    'principal does not count'
)
def patterns(k):
    user, base = as_admin(k), k.name('acl')
    first, second, other = k.topic(name=base + '-a'), k.topic(name=base + '-b'), k.topic()
    grant(k, TOPIC, base, ALL, pattern=PREFIXED)
    until(lambda: produced(k, user, first) == 0, 'producing by prefix')
    error(fetched(k, user, second), what='Fetch by prefix, ALL')
    error(produced(k, user, other), 'TOPIC_AUTHORIZATION_FAILED', what='a topic outside the prefix')
    grant(k, TOPIC, second, WRITE, permission=DENY)
    until(lambda: answers(produced(k, user, second), 'TOPIC_AUTHORIZATION_FAILED'), 'DENY beats ALLOW')
    error(fetched(k, user, second), what='Fetch is not denied')
    grant(k, TOPIC, other, READ, host='192.0.2.1')
    grant(k, TOPIC, other, READ, principal='User:' + k.name('someone'))
    grant(k, TOPIC, '*', DESCRIBE)
    until(
        lambda: other in [t['Name'] for t in k.call('Metadata', {'Topics': None}, conn=user)['Topics']],
        'described by "*"',
    )
    error(fetched(k, user, other), 'TOPIC_AUTHORIZATION_FAILED', what='Fetch by an ACL for another host or principal')
    error(k.call('DeleteAcls', {'Filters': [acl_filter(TOPIC, '*', LITERAL)]})['FilterResults'][0])


@case('DescribeAcls finds by resource, pattern, principal, operation; MATCH finds everything that applies to a name')
def describe_acls(k):
    as_admin(k)
    base = k.name('acl')
    grant(k, TOPIC, base + '-topic', READ), grant(k, TOPIC, base, WRITE, pattern=PREFIXED), grant(
        k, GROUP, base + '-group', READ
    )

    def found(*arguments, **options):
        reply = error(k.call('DescribeAcls', acl_filter(*arguments, **options)))
        return sorted(
            (r['ResourceType'], r['ResourceName'][len(base) :], r['PatternType'], a['Operation'])
            for r in reply['Resources']
            for a in r['Acls']
            if r['ResourceName'].startswith(base)
        )

    topic, prefix, group = (
        (TOPIC, '-topic', LITERAL, READ),
        (TOPIC, '', PREFIXED, WRITE),
        (GROUP, '-group', LITERAL, READ),
    )
    until(lambda: found() == sorted([topic, prefix, group]), 'all three')
    equal(found(TOPIC, base + '-topic', LITERAL), [topic], 'literal')
    equal(found(TOPIC, base + '-topic', MATCH), sorted([topic, prefix]), 'match')
    equal(found(TOPIC, base, PREFIXED), [prefix], 'prefixed')
    equal(found(GROUP), [group], 'groups')
    equal(found(operation=WRITE), [prefix], 'WRITE')
    equal(found(principal='User:someone-else'), [], 'another principal')


@case('READ on a group allows to consume with it: coordinator, join, commit and offsets')
def group_granted(k):
    user, topic, group = as_admin(k), k.topic(), k.name('g')
    grant(k, GROUP, group, READ), grant(k, TOPIC, topic, READ)
    until(
        lambda: k.call('FindCoordinator', {'Key': group, 'KeyType': 0}, conn=user)['ErrorCode'] == 0, 'the coordinator'
    )
    until(lambda: fetched(k, user, topic) == 0, 'fetching is allowed')
    commit = {
        'GroupId': group,
        'GenerationIdOrMemberEpoch': -1,
        'MemberId': '',
        'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0, 'CommittedOffset': 4}]}],
    }
    error(k.call('OffsetCommit', commit, conn=user)['Topics'][0]['Partitions'][0])
    reply = error(k.call('OffsetFetch', {'GroupId': group, 'Topics': None}, conn=user))
    equal(reply['Topics'][0]['Partitions'][0]['CommittedOffset'], 4, 'offset')
    equal([g['GroupId'] for g in k.call('ListGroups', {}, conn=user)['Groups']], [group], 'groups listed')


def bad_acl(k, **bad):
    good = {
        'ResourceType': TOPIC,
        'ResourceName': 't',
        'ResourcePatternType': LITERAL,
        'Principal': PRINCIPAL,
        'Host': '*',
        'Operation': READ,
        'PermissionType': ALLOW,
    }
    error(k.call('CreateAcls', {'Creations': [{**good, **bad}]})['Results'][0], 'INVALID_REQUEST', what=str(bad))


@case(
    'A malformed ACL (unknown operation, empty name, principal without type, a cluster of another name) '
    'is INVALID_REQUEST'
)
def bad_acls(k):
    as_admin(k)
    for bad in (
        {'Operation': 99},
        {'ResourceName': ''},
        {'Principal': 'nobody'},
        {'ResourceType': CLUSTER, 'ResourceName': 'x'},
    ):
        bad_acl(k, **bad)


@case(
    'An ACL with a value that only filters may have (ANY, MATCH) is INVALID_REQUEST',
    beyond='answers UNKNOWN_SERVER_ERROR',
)
def filter_values_in_acls(k):
    as_admin(k)
    for bad in (
        {'Operation': 1},
        {'PermissionType': 1},
        {'ResourcePatternType': MATCH},
        {'ResourcePatternType': ANY},
        {'ResourceType': 1},
    ):
        bad_acl(k, **bad)


@case('DescribeUserScramCredentials of one who may not is CLUSTER_AUTHORIZATION_FAILED', beyond='never answers')
def scram_denied(k):
    user = as_admin(k)
    user.socket.settimeout(5)
    error(k.call('DescribeUserScramCredentials', {'Users': None}, conn=user), 'CLUSTER_AUTHORIZATION_FAILED')
