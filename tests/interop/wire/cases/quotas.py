"""AlterClientQuotas, DescribeClientQuotas, and what a quota does."""

from harness import area, equal, error, true, until
from records import batch

case = area('quotas', tier=4)
EXACT, DEFAULT, ANY = range(3)


def alter(k, entity, *changes, validate_only=False):
    """entity: (type, name or None for the default) pairs; changes: (key, value or None to remove)."""
    entry = {
        'Entity': [{'EntityType': t, 'EntityName': n} for t, n in entity],
        'Ops': [{'Key': key, 'Value': value or 0.0, 'Remove': value is None} for key, value in changes],
    }
    return k.call('AlterClientQuotas', {'Entries': [entry], 'ValidateOnly': validate_only})['Entries'][0]


def describe(k, *components, strict=False):
    """{entity: {key: value}}"""
    reply = error(
        k.call(
            'DescribeClientQuotas',
            {'Components': [{'EntityType': t, 'MatchType': m, 'Match': n} for t, m, n in components], 'Strict': strict},
        )
    )
    return {
        tuple(sorted((e['EntityType'], e['EntityName']) for e in entry['Entity'])): {
            v['Key']: v['Value'] for v in entry['Values']
        }
        for entry in reply['Entries']
    }


@case(
    'Quotas are set, described and removed by client id, user, both, or default; strict matching leaves '
    'out wider entities'
)
def set_and_describe(k):
    client, user = k.name('client'), k.name('user')
    entities = {
        (('client-id', client),): 1000.0,
        (('client-id', client), ('user', user)): 2000.0,
        (('user', user),): 3000.0,
    }
    for entity, value in entities.items():
        error(alter(k, entity, ('producer_byte_rate', value)))
    by_client = {e: {'producer_byte_rate': v} for e, v in entities.items() if ('client-id', client) in e}
    until(lambda: describe(k, ('client-id', EXACT, client)) == by_client, f'{by_client}')
    equal(
        describe(k, ('client-id', EXACT, client), strict=True),
        {(('client-id', client),): {'producer_byte_rate': 1000.0}},
        'strict',
    )
    true((('user', user),) in describe(k, ('user', ANY, None)), 'any user includes ours')
    for entity in entities:
        error(alter(k, entity, ('producer_byte_rate', None)))
    until(lambda: describe(k, ('client-id', EXACT, client)) == {}, 'no quotas')
    error(alter(k, [('client-id', client)], ('producer_byte_rate', None)), what='removing what is not there')


@case(
    'A bad key, value, entity or the same key twice is refused with INVALID_REQUEST; an unknown entity type with '
    'UNSUPPORTED_VERSION'
)
def errors(k):
    client = [('client-id', k.name('client'))]
    for what, entity, changes in (
        ('an unknown key', client, [('no_such_rate', 1.0)]),
        ('a negative rate', client, [('producer_byte_rate', -5.0)]),
        ('no entity', [], [('producer_byte_rate', 1.0)]),
        ('an address that is none', [('ip', 'no such host')], [('connection_creation_rate', 5.0)]),
    ):
        error(alter(k, entity, *changes), 'INVALID_REQUEST', what=what)
    reply = k.call(
        'DescribeClientQuotas',
        {'Components': [{'EntityType': 'no-such-type', 'MatchType': 0, 'Match': 'x'}], 'Strict': False},
    )
    error(reply, 'UNSUPPORTED_VERSION', 'INVALID_REQUEST', what='an unknown entity type')


@case('validateOnly changes nothing')
def validate_only(k):
    client = k.name('client')
    error(alter(k, [('client-id', client)], ('consumer_byte_rate', 5.0), validate_only=True))
    equal(describe(k, ('client-id', EXACT, client)), {}, 'quotas')


@case(
    'A producer above its byte rate is told to wait by ThrottleTimeMs; its records are appended, and other clients '
    'are not slowed'
)
def throttled_producer(k):
    topic, client = k.topic(), k.name('client')
    error(alter(k, [('client-id', client)], ('producer_byte_rate', 20000.0)))
    until(lambda: describe(k, ('client-id', EXACT, client)), 'the quota is known')
    conn, version, throttled = k.connect(), k.version('Produce'), 0

    def send(sender, client_id):
        sender.send(
            'Produce',
            version,
            {
                'Acks': -1,
                'TimeoutMs': 5000,
                'TopicData': [
                    {'Name': topic, 'PartitionData': [{'Index': 0, 'Records': batch([(None, k.bytes(60000))])}]}
                ],
            },
            client_id=client_id,
        )
        reply = sender.recv('Produce', version)
        error(reply['Responses'][0]['PartitionResponses'][0])
        return reply['ThrottleTimeMs']

    for _ in range(10):
        throttled = send(conn, client)
        if throttled:
            break
    true(throttled > 0, 'ThrottleTimeMs above 0', throttled)
    equal(send(k.connect(), 'another'), 0, 'ThrottleTimeMs of another client')
    error(alter(k, [('client-id', client)], ('producer_byte_rate', None)))
