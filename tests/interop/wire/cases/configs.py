"""DescribeConfigs, IncrementalAlterConfigs, AlterConfigs of topics (brokers: see admin.py)."""

from harness import answers, area, equal, error, true, until
from records import batch

case = area('configs', tier=1)
SET, DELETE, APPEND, SUBTRACT = range(4)
TOPIC = 2


def alter(k, name, *changes, resource=TOPIC, validate_only=False):
    """IncrementalAlterConfigs with (key, operation, value) changes."""
    body = {
        'Resources': [
            {
                'ResourceType': resource,
                'ResourceName': name,
                'Configs': [
                    {'Name': key, 'ConfigOperation': operation, 'Value': value} for key, operation, value in changes
                ],
            }
        ],
        'ValidateOnly': validate_only,
    }
    return k.call('IncrementalAlterConfigs', body)['Responses'][0]


def becomes(k, topic, key, value):
    until(lambda: k.configs(topic)[key]['Value'] == value, f'{key} becomes {value!r}')


def describe(k, name, resource=TOPIC, keys=None):
    return k.call(
        'DescribeConfigs', {'Resources': [{'ResourceType': resource, 'ResourceName': name, 'ConfigurationKeys': keys}]}
    )['Results'][0]


@case(
    "DescribeConfigs of a topic gives every topic setting with its value, type and source: 1 set on the "
    "topic, 5 default"
)
def describe_topic(k):
    configs = k.configs(k.topic(retention_ms='12345'))
    for key, value, source, kind in (
        ('retention.ms', '12345', 1, 5),
        ('cleanup.policy', 'delete', 5, 7),
        ('max.message.bytes', '1048588', 5, 3),
        ('compression.type', 'producer', 5, 2),
        ('min.cleanable.dirty.ratio', '0.5', 5, 6),
    ):
        entry = configs.get(key) or {}
        equal(
            (entry.get('Value'), entry.get('ConfigSource'), entry.get('ConfigType')),
            (value, source, kind),
            f'value, source, type of {key}',
        )
        equal((entry['ReadOnly'], entry['IsSensitive']), (False, False), f'read-only, sensitive of {key}')
    for key in (
        'retention.bytes',
        'segment.bytes',
        'segment.ms',
        'delete.retention.ms',
        'min.compaction.lag.ms',
        'max.compaction.lag.ms',
        'message.timestamp.type',
        'message.timestamp.after.max.ms',
        'message.timestamp.before.max.ms',
        'min.insync.replicas',
        'flush.messages',
        'flush.ms',
        'file.delete.delay.ms',
        'index.interval.bytes',
        'unclean.leader.election.enable',
    ):
        true(key in configs, f'{key} is described', sorted(configs))


@case('DescribeConfigs with keys gives those that exist and passes over the others; no keys or null gives all')
def describe_keys(k):
    topic = k.topic()
    equal(
        [c['Name'] for c in describe(k, topic, keys=['retention.ms', 'no.such.key'])['Configs']],
        ['retention.ms'],
        'configs',
    )
    for keys in (None, []):
        true(len(describe(k, topic, keys=keys)['Configs']) > 15, f'keys {keys} gives all')


@case('Synonyms and documentation come when asked for: a topic setting names itself, then what it inherits from')
def describe_synonyms(k):
    configs = k.configs(k.topic(retention_ms='777'), IncludeSynonyms=True, IncludeDocumentation=True)
    equal(
        [(s['Name'], s['Value'], s['Source']) for s in configs['retention.ms']['Synonyms']][0],
        ('retention.ms', '777', 1),
        'first synonym',
    )
    equal([s['Name'] for s in configs['cleanup.policy']['Synonyms']], ['log.cleanup.policy'], 'synonyms of a default')
    true(configs['retention.ms']['Documentation'], 'documentation')


@case(
    'DescribeConfigs of an unknown topic is UNKNOWN_TOPIC_OR_PARTITION, of a bad name INVALID_TOPIC_EXCEPTION, of a '
    'bad type INVALID_REQUEST'
)
def describe_errors(k):
    error(describe(k, k.name()), 'UNKNOWN_TOPIC_OR_PARTITION')
    for name in ('two words', ''):
        error(describe(k, name), 'INVALID_TOPIC_EXCEPTION', what=repr(name))
    error(describe(k, 'x', resource=99), 'INVALID_REQUEST')


@case('SET sets, DELETE goes back to the default and may be repeated')
def set_and_delete(k):
    topic = k.topic()
    default = k.configs(topic)['retention.ms']['Value']
    error(alter(k, topic, ('retention.ms', SET, '999')))
    becomes(k, topic, 'retention.ms', '999')
    equal(k.configs(topic)['retention.ms']['ConfigSource'], 1, 'source')
    for _ in range(2):
        error(alter(k, topic, ('retention.ms', DELETE, None)))
    becomes(k, topic, 'retention.ms', default)
    equal(k.configs(topic)['retention.ms']['ConfigSource'], 5, 'source')


@case('APPEND adds to a list and SUBTRACT takes away; adding what is there and taking what is not changes nothing')
def append_and_subtract(k):
    topic = k.topic()
    for operation, value, result in (
        (APPEND, 'compact', 'delete,compact'),
        (APPEND, 'compact', 'delete,compact'),
        (SUBTRACT, 'delete', 'compact'),
        (SUBTRACT, 'delete', 'compact'),
    ):
        error(alter(k, topic, ('cleanup.policy', operation, value)))
        becomes(k, topic, 'cleanup.policy', result)


@case('APPEND and SUBTRACT on a setting that is not a list are INVALID_CONFIG')
def append_to_scalar(k):
    topic = k.topic()
    for operation in (APPEND, SUBTRACT):
        error(alter(k, topic, ('retention.ms', operation, '5')), 'INVALID_CONFIG')


@case(
    'An unknown setting or a bad value is INVALID_CONFIG, a null value or a setting named twice INVALID_REQUEST, '
    'and nothing changes'
)
def alter_errors(k):
    topic = k.topic(retention_ms='4000')
    error(alter(k, topic, ('no.such.config', SET, '1')), 'INVALID_CONFIG')
    error(alter(k, topic, ('retention.ms', SET, 'abc')), 'INVALID_CONFIG')
    error(alter(k, topic, ('cleanup.policy', SET, 'shred')), 'INVALID_CONFIG')
    error(
        alter(k, topic, ('max.message.bytes', SET, '5000'), ('no.such.config', SET, '1')),
        'INVALID_CONFIG',
        what='one of two is bad',
    )
    error(alter(k, topic, ('retention.ms', SET, None)), 'INVALID_REQUEST')
    error(alter(k, topic, ('retention.ms', SET, '1'), ('retention.ms', SET, '2')), 'INVALID_REQUEST')
    configs = k.configs(topic)
    equal(
        (configs['retention.ms']['Value'], configs['max.message.bytes']['ConfigSource']),
        ('4000', 5),
        'settings afterwards',
    )


@case(
    'IncrementalAlterConfigs of an unknown topic is UNKNOWN_TOPIC_OR_PARTITION, of an unknown resource '
    'type INVALID_REQUEST'
)
def alter_unknown_resource(k):
    error(alter(k, k.name(), ('retention.ms', SET, '1')), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(alter(k, 'x', ('retention.ms', SET, '1'), resource=99), 'INVALID_REQUEST')


@case('A resource named twice in one IncrementalAlterConfigs is INVALID_REQUEST, for both entries')
def alter_resource_twice(k):
    entry = {
        'ResourceType': TOPIC,
        'ResourceName': k.topic(),
        'Configs': [{'Name': 'retention.ms', 'ConfigOperation': SET, 'Value': '1'}],
    }
    for reply in k.call('IncrementalAlterConfigs', {'Resources': [entry, entry]})['Responses']:
        error(reply, 'INVALID_REQUEST')


@case('validateOnly reports what the change would give and changes nothing')
def alter_validate_only(k):
    topic = k.topic(retention_ms='4000')
    error(alter(k, topic, ('retention.ms', SET, '1'), validate_only=True))
    error(alter(k, topic, ('retention.ms', SET, 'x'), validate_only=True), 'INVALID_CONFIG')
    equal(k.configs(topic)['retention.ms']['Value'], '4000', 'retention.ms')


@case('An unknown configuration operation is INVALID_REQUEST', beyond='answers UNKNOWN_SERVER_ERROR')
def alter_unknown_operation(k):
    error(alter(k, k.topic(), ('retention.ms', 9, '5')), 'INVALID_REQUEST')


@case('AlterConfigs replaces all settings of a topic: what it does not name goes back to its default')
def alter_replaces(k):
    topic = k.topic(retention_ms='4000')

    def replace(**configs):
        body = {
            'Resources': [
                {
                    'ResourceType': TOPIC,
                    'ResourceName': topic,
                    'Configs': [{'Name': n.replace('_', '.'), 'Value': v} for n, v in configs.items()],
                }
            ],
            'ValidateOnly': False,
        }
        return k.call('AlterConfigs', body)['Responses'][0]

    def own():
        return {n: c['Value'] for n, c in k.configs(topic).items() if c['ConfigSource'] == 1}

    error(replace(max_message_bytes='2222'))
    until(lambda: own() == {'max.message.bytes': '2222'}, 'only max.message.bytes is set')
    error(replace(no_such='1'), 'INVALID_CONFIG')
    error(replace(retention_ms=None), 'INVALID_REQUEST')
    error(replace())
    until(lambda: own() == {}, 'nothing is set')


@case('A changed max.message.bytes applies to the next Produce')
def change_takes_effect(k):
    topic, big = k.topic(), batch([(None, k.bytes(1000))])
    error(alter(k, topic, ('max.message.bytes', SET, '500')))
    until(lambda: answers(k.produce(topic, big), 'MESSAGE_TOO_LARGE'), 'a batch of 1,000 bytes is refused')
    error(alter(k, topic, ('max.message.bytes', DELETE, None)))
    until(lambda: answers(k.produce(topic, big), 'NONE'), 'the batch is accepted')
