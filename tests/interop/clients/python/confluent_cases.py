"""confluent-kafka (librdkafka): the client most C, C++, Python, Go, .NET and PHP users have underneath."""

import threading, time
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    ConsumerGroupType,
    IsolationLevel,
    KafkaError,
    KafkaException,
    OFFSET_BEGINNING,
    Producer,
    TIMESTAMP_LOG_APPEND_TIME,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)
from harness import BOOTSTRAP, Skip, case, equal, main, raises, unique, until

BASE = {'bootstrap.servers': BOOTSTRAP, 'log_level': 0}
ADMIN = AdminClient(BASE)


def make_topic(partitions=1, name=None, **config):
    name = name or unique()
    ADMIN.create_topics([NewTopic(name, partitions, 1, config={k.replace('_', '.'): v for k, v in config.items()})])[
        name
    ].result(20)
    until(
        lambda: name in ADMIN.list_topics(timeout=10).topics
        and len(ADMIN.list_topics(timeout=10).topics[name].partitions) == partitions
    )
    return name


def producer(**config):
    return Producer({**BASE, **{k.replace('_', '.'): v for k, v in config.items()}})


def fill(topic, values, partition=0, **config):
    p, errors = producer(**config), []
    for value in values:
        p.produce(topic, value, partition=partition, on_delivery=lambda e, m: errors.append(e) if e else None)
        p.poll(0)
    equal(p.flush(30), 0, 'unsent')
    equal(errors, [], 'delivery errors')


def consumer(group=None, protocol='classic', **config):
    config = {
        **BASE,
        'group.id': group or unique('g'),
        'auto.offset.reset': 'earliest',
        **{k if k == 'error_cb' else k.replace('_', '.'): v for k, v in config.items()},
    }
    if protocol == 'consumer':
        config['group.protocol'] = 'consumer'
    else:
        config = {'session.timeout.ms': 10000, 'heartbeat.interval.ms': 500, **config}
    return Consumer(config)


def take(c, count, limit_s=25):
    """Up to count messages; fewer if the time is up."""
    got, end = [], time.monotonic() + limit_s
    while len(got) < count and time.monotonic() < end:
        m = c.poll(0.2)
        if m is not None:
            if m.error():
                raise KafkaException(m.error())
            got.append(m)
    return got


def read(topic, count, partition=0, offset=OFFSET_BEGINNING, limit_s=25, **config):
    c = consumer(**config)
    c.assign([TopicPartition(topic, partition, offset)])
    got = take(c, count, limit_s)
    c.close()
    return got


def values(messages):
    return [m.value() for m in messages]


NUMBERED = [b'v%05d' % i for i in range(1000)]


# ---- tier 1: produce, consume, offsets, topics

for codec in ('none', 'gzip', 'snappy', 'lz4', 'zstd'):

    @case(1, f'{codec} batches from an idempotent producer read back unchanged')
    def _(codec=codec):
        topic = make_topic()
        fill(topic, NUMBERED, compression_type=codec, enable_idempotence=True, linger_ms=5)
        got = read(topic, 1000, check_crcs=True)
        equal(values(got), NUMBERED)
        equal([m.offset() for m in got], list(range(1000)), 'offsets')


@case(1, 'five idempotent requests in flight keep their order')
def _():
    topic = make_topic()
    fill(topic, NUMBERED, enable_idempotence=True, batch_num_messages=10, linger_ms=0, max_in_flight=5)
    equal(values(read(topic, 1000)), NUMBERED)


@case(1, 'acks 0, 1 and all: the delivery report carries the offset (none for 0)')
def _():
    for acks, want in ((0, [None] * 3), (1, [0, 1, 2]), ('all', [0, 1, 2])):
        topic, offsets, p = make_topic(), [], producer(acks=acks)
        for _ in range(3):
            p.produce(topic, b'x', on_delivery=lambda e, m: offsets.append(m.offset()))
        equal(p.flush(20), 0)
        equal(offsets, want, f'acks={acks}')
        equal(len(read(topic, 3)), 3)


@case(1, 'key, headers, null value, null header and create time survive')
def _():
    topic, p, stamp = (
        make_topic(),
        producer(),
        int(time.time() * 1000) - 12345,
    )  # older than retention.ms would be deleted
    p.produce(topic, None, key=b'k', headers=[('a', b'1'), ('a', b'2'), ('n', None)], timestamp=stamp)
    p.flush(20)
    (m,) = read(topic, 1)
    equal(
        (m.key(), m.value(), m.headers(), m.timestamp()),
        (b'k', None, [('a', b'1'), ('a', b'2'), ('n', None)], (1, stamp)),
    )


@case(1, 'message.timestamp.type=LogAppendTime stamps the broker\'s clock')
def _():
    topic, p = make_topic(message_timestamp_type='LogAppendTime'), producer()
    p.produce(topic, b'x', timestamp=1000)
    p.flush(20)
    (m,) = read(topic, 1)
    kind, stamp = m.timestamp()
    equal(kind, TIMESTAMP_LOG_APPEND_TIME)
    assert abs(stamp / 1000 - time.time()) < 60, stamp


@case(1, 'watermark offsets, and offsets for times between, before and after the records')
def _():
    topic, p, base = make_topic(), producer(), int(time.time() * 1000) - 10000
    for i in range(10):
        p.produce(topic, b'x', timestamp=base + i * 100)
        p.flush(20)
    c = consumer()
    equal(c.get_watermark_offsets(TopicPartition(topic, 0), 10), (0, 10))
    for at, want in ((base + 350, 4), (base, 0), (0, 0), (base + 901, -1)):
        equal(c.offsets_for_times([TopicPartition(topic, 0, at)], 10)[0].offset, want, f'at {at - base}')
    c.close()


@case(1, 'ListOffsets: earliest, latest, by time, and the record with the largest timestamp')
def _():
    topic, p, base = make_topic(), producer(), int(time.time() * 1000) - 10000
    for i in (5, 9, 7):
        p.produce(topic, b'x', timestamp=base + i)
        p.flush(20)
    for spec, want in (
        (OffsetSpec.earliest(), 0),
        (OffsetSpec.latest(), 3),
        (OffsetSpec.max_timestamp(), 1),
        (OffsetSpec.for_timestamp(base + 6), 1),
    ):
        (future,) = ADMIN.list_offsets({TopicPartition(topic, 0): spec}).values()
        equal(future.result(10).offset, want, str(spec))


@case(1, 'an offset out of range resets by policy: earliest, latest, error')
def _():
    topic = make_topic()
    fill(topic, [b'a', b'b'])
    equal(values(read(topic, 2, offset=99)), [b'a', b'b'])
    c = consumer(auto_offset_reset='error')
    c.assign([TopicPartition(topic, 0, 99)])
    error = raises(KafkaException, lambda: take(c, 1, 10)).args[0]
    equal(error.code(), KafkaError._AUTO_OFFSET_RESET, str(error))
    c.close()


@case(1, 'seek, pause and resume')
def _():
    topic = make_topic()
    fill(topic, NUMBERED[:20])
    c = consumer()
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    equal(len(take(c, 20)), 20)
    c.seek(TopicPartition(topic, 0, 15))
    equal(values(take(c, 1)), [NUMBERED[15]])
    c.pause([TopicPartition(topic, 0)])
    equal(take(c, 1, 2), [])
    c.resume([TopicPartition(topic, 0)])
    equal(values(take(c, 1)), [NUMBERED[16]])
    c.close()


@case(1, 'a record over max.message.bytes of the topic is refused with MSG_SIZE_TOO_LARGE, others go on')
def _():
    topic, errors, p = make_topic(max_message_bytes='2000'), [], producer(retries=2)
    for value in (b'x' * 5000, b'ok'):
        p.produce(topic, value, on_delivery=lambda e, m: errors.append(e and e.code()))
        p.flush(20)
    equal(errors, [KafkaError.MSG_SIZE_TOO_LARGE, None])


@case(1, 'a 3 MB record fits when the topic allows it')
def _():
    topic, value = make_topic(max_message_bytes='4000000'), bytes(range(256)) * 12000
    fill(topic, [value], message_max_bytes=4000000)
    equal(values(read(topic, 1)) == [value], True)


@case(1, 'create, describe, grow and delete a topic')
def _():
    topic = make_topic(2)
    description = ADMIN.describe_topics(TopicCollection([topic]))[topic].result(10)
    equal((len(description.partitions), description.is_internal, len(str(description.topic_id))), (2, False, 22))
    equal([len(p.isr) for p in description.partitions], [1, 1])
    ADMIN.create_partitions([NewPartitions(topic, 4)])[topic].result(10)
    until(lambda: len(ADMIN.list_topics(timeout=10).topics[topic].partitions) == 4)
    ADMIN.delete_topics([topic])[topic].result(10)
    until(lambda: topic not in ADMIN.list_topics(timeout=10).topics)


@case(
    1,
    'topic errors: exists, invalid name, zero partitions, too many replicas, unknown config, fewer '
    'partitions, unknown topic',
)
def _():
    topic = make_topic(2)
    for new, want in (
        (NewTopic(topic, 1, 1), KafkaError.TOPIC_ALREADY_EXISTS),
        (NewTopic('no/slash', 1, 1), KafkaError.TOPIC_EXCEPTION),
        (NewTopic(unique(), 1, 30), KafkaError.INVALID_REPLICATION_FACTOR),
        (NewTopic(unique(), 1, 1, config={'no.such': '1'}), KafkaError.INVALID_CONFIG),
    ):
        error = raises(KafkaException, ADMIN.create_topics([new])[new.topic].result)
        equal(error.args[0].code(), want, new.topic)
    error = raises(KafkaException, ADMIN.create_partitions([NewPartitions(topic, 1)])[topic].result)
    equal(error.args[0].code(), KafkaError.INVALID_PARTITIONS)
    gone = unique()
    error = raises(KafkaException, ADMIN.delete_topics([gone])[gone].result)
    equal(error.args[0].code(), KafkaError.UNKNOWN_TOPIC_OR_PART)


@case(1, 'validate_only creates nothing')
def _():
    topic = unique()
    ADMIN.create_topics([NewTopic(topic, 1, 1)], validate_only=True)[topic].result(10)
    equal(topic in ADMIN.list_topics(timeout=10).topics, False)


@case(1, 'a deleted and recreated topic starts empty at offset 0')
def _():
    topic = make_topic()
    fill(topic, [b'old'] * 5)
    ADMIN.delete_topics([topic])[topic].result(10)
    until(lambda: topic not in ADMIN.list_topics(timeout=10).topics)
    make_topic(name=topic)
    fill(topic, [b'new'])
    (m,) = read(topic, 1)
    equal((m.value(), m.offset()), (b'new', 0))


@case(1, 'one producer fills 50 partitions')
def _():
    topic, p, errors = make_topic(50), producer(linger_ms=5), []
    for i in range(5000):
        p.produce(topic, b'%d' % i, partition=i % 50, on_delivery=lambda e, m: errors.append(e) if e else None)
    equal((p.flush(30), errors), (0, []))
    c = consumer()
    c.assign([TopicPartition(topic, i, OFFSET_BEGINNING) for i in range(50)])
    equal(len({m.value() for m in take(c, 5000)}), 5000)
    c.close()


@case(1, 'the broker reports a cluster id and a controller')
def _():
    cluster = ADMIN.describe_cluster().result(10)
    equal((bool(cluster.cluster_id), cluster.controller is not None, len(cluster.nodes) >= 1), (True, True, True))


# ---- tier 2: groups, classic and KIP-848


def group_case(name, limit_s=90, protocols=('classic', 'consumer')):
    def register(function):
        for protocol in protocols:
            case(2, f'{protocol} group: {name}', limit_s)(lambda protocol=protocol: function(protocol))

    return register


def poll_all(members, got=None, wait_s=0.05):
    for c in members:
        m = c.poll(wait_s)
        if m is not None and not m.error() and got is not None:
            got.append(m)


def shares(members):
    return sorted(len(c.assignment()) for c in members)


@group_case('two members share four partitions, read everything, and a third resumes at the commits')
def _(protocol):
    topic, group = make_topic(4), unique('g')
    for partition in range(4):
        fill(topic, [b'%d-%d' % (partition, i) for i in range(50)], partition)
    members, got = [consumer(group, protocol), consumer(group, protocol)], []
    for c in members:
        c.subscribe([topic])
    until(
        lambda: len(set(values(got))) == 200 and shares(members) == [2, 2],
        60,
        lambda: poll_all(members, got),
        lambda: f'{len(set(values(got)))} records, shares {shares(members)}',
    )
    for c in members:
        try:
            c.commit(asynchronous=False)
        except KafkaException as error:
            equal(
                error.args[0].code(), KafkaError._NO_OFFSET, str(error)
            )  # this member read nothing since its last commit
        c.close()
    late = consumer(group, protocol)
    late.subscribe([topic])
    equal(values(take(late, 1, 6)), [], 'records after the commit')
    late.close()


@group_case('a member that closes hands its partitions over')
def _(protocol):
    topic, group = make_topic(4), unique('g')
    members = [consumer(group, protocol), consumer(group, protocol)]
    for c in members:
        c.subscribe([topic])
    until(lambda: shares(members) == [2, 2], 40, lambda: poll_all(members), lambda: shares(members))
    members.pop().close()
    until(lambda: shares(members) == [4], 40, lambda: poll_all(members), lambda: shares(members))
    members[0].close()


@group_case('commits carry offset and metadata; committed() gives them back; unknown partitions give no offset')
def _(protocol):
    topic, group = make_topic(2), unique('g')
    c = consumer(group, protocol, enable_auto_commit=False)
    c.subscribe([topic])
    until(lambda: len(c.assignment()) == 2, 40, lambda: c.poll(0.2))
    c.commit(offsets=[TopicPartition(topic, 0, 7, metadata='note')], asynchronous=False)
    first, second = c.committed([TopicPartition(topic, 0), TopicPartition(topic, 1)], 10)
    equal((first.offset, first.metadata, second.offset), (7, 'note', -1001))
    c.close()


@group_case('a regex subscription picks up a topic created later')
def _(protocol):
    prefix, group = unique('rx'), unique('g')
    make_topic(name=f'{prefix}-1')
    c = consumer(group, protocol, topic_metadata_refresh_interval_ms=1000)
    c.subscribe([f'^{prefix}-.*'])
    fill(f'{prefix}-1', [b'1'])
    equal(values(take(c, 1)), [b'1'])
    make_topic(name=f'{prefix}-2')
    fill(f'{prefix}-2', [b'2'])
    equal(values(take(c, 1, 40)), [b'2'])
    c.close()


@group_case('new partitions of a subscribed topic are assigned')
def _(protocol):
    topic, group = make_topic(1), unique('g')
    c = consumer(group, protocol, topic_metadata_refresh_interval_ms=1000, metadata_max_age_ms=2000)
    c.subscribe([topic])
    until(lambda: len(c.assignment()) == 1, 40, lambda: c.poll(0.2))
    ADMIN.create_partitions([NewPartitions(topic, 3)])[topic].result(10)
    until(lambda: len(c.assignment()) == 3, 40, lambda: c.poll(0.2))
    c.close()


@group_case('list, describe, and delete (refused while it has members)')
def _(protocol):
    topic, group = make_topic(2), unique('g')
    c = consumer(group, protocol, client_id='describe-me')
    c.subscribe([topic])
    until(lambda: len(c.assignment()) == 2, 40, lambda: c.poll(0.2))
    until(
        lambda: ADMIN.describe_consumer_groups([group])[group].result(10).state == ConsumerGroupState.STABLE,
        20,
        lambda: c.poll(0.2),
    )
    d = ADMIN.describe_consumer_groups([group])[group].result(10)
    equal(
        (d.type, len(d.members), d.members[0].client_id),
        (ConsumerGroupType.CLASSIC if protocol == 'classic' else ConsumerGroupType.CONSUMER, 1, 'describe-me'),
    )
    equal(sorted((p.topic, p.partition) for p in d.members[0].assignment.topic_partitions), [(topic, 0), (topic, 1)])
    listed = {g.group_id: g for g in ADMIN.list_consumer_groups().result(10).valid}
    equal((listed[group].state, listed[group].type), (ConsumerGroupState.STABLE, d.type))
    error = raises(KafkaException, ADMIN.delete_consumer_groups([group])[group].result)
    equal(error.args[0].code(), KafkaError.NON_EMPTY_GROUP)
    c.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)
    c.close()
    until(lambda: ADMIN.describe_consumer_groups([group])[group].result(10).state == ConsumerGroupState.EMPTY, 20)
    ADMIN.delete_consumer_groups([group])[group].result(10)
    equal(group in {g.group_id for g in ADMIN.list_consumer_groups().result(10).valid}, False)


@group_case('alter and list offsets of an empty group')
def _(protocol):
    topic, group = make_topic(2), unique('g')
    c = consumer(group, protocol)
    c.subscribe([topic])
    until(lambda: len(c.assignment()) == 2, 40, lambda: c.poll(0.2))
    c.commit(offsets=[TopicPartition(topic, 0, 3), TopicPartition(topic, 1, 4)], asynchronous=False)
    c.close()
    ADMIN.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 9)])])[
        group
    ].result(10)
    got = ADMIN.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(10)
    equal(sorted((p.partition, p.offset) for p in got.topic_partitions), [(0, 9), (1, 4)])


@group_case('a static member that comes back within the session keeps its partitions without a rebalance of the others')
def _(protocol):
    topic, group, revoked = make_topic(4), unique('g'), []
    extra = {'session_timeout_ms': 30000} if protocol == 'classic' else {}
    one, two = consumer(group, protocol, group_instance_id='one', **extra), consumer(
        group, protocol, group_instance_id='two', **extra
    )
    one.subscribe([topic], on_revoke=lambda c, ps: revoked.append(ps))
    two.subscribe([topic])
    until(lambda: shares([one, two]) == [2, 2], 40, lambda: poll_all([one, two]), lambda: shares([one, two]))
    for _ in range(20):
        poll_all([one, two])
    held, before = sorted(p.partition for p in two.assignment()), len(revoked)
    two.close()
    again = consumer(group, protocol, group_instance_id='two', **extra)
    again.subscribe([topic])
    until(
        lambda: sorted(p.partition for p in again.assignment()) == held,
        20,
        lambda: poll_all([one, again]),
        lambda: again.assignment(),
    )
    equal(len(revoked), before, 'revocations of the other member')
    one.close()
    again.close()


@group_case('a second holder of a static instance id fences the first', protocols=('classic',))
def _(protocol):
    topic, group, fatal = make_topic(2), unique('g'), []
    first = consumer(group, protocol, group_instance_id='same', error_cb=fatal.append)
    first.subscribe([topic])
    until(lambda: len(first.assignment()) == 2, 30, lambda: first.poll(0.2))
    second = consumer(group, protocol, group_instance_id='same')
    second.subscribe([topic])

    def step():
        second.poll(0.1)
        m = first.poll(0.1)
        if m is not None and m.error():
            fatal.append(m.error())

    until(lambda: any('fenced' in e.str().lower() for e in fatal), 30, step, lambda: f'fenced, saw {fatal}')
    second.close()


@group_case('cooperative-sticky revokes only what moves', protocols=('classic',))
def _(protocol):
    topic, group, revoked = make_topic(6), unique('g'), []
    one = consumer(group, protocol, partition_assignment_strategy='cooperative-sticky')
    one.subscribe([topic], on_revoke=lambda c, ps: revoked.append(len(ps)))
    until(lambda: len(one.assignment()) == 6, 30, lambda: one.poll(0.2))
    two = consumer(group, protocol, partition_assignment_strategy='cooperative-sticky')
    two.subscribe([topic])
    until(lambda: shares([one, two]) == [3, 3], 40, lambda: poll_all([one, two]), lambda: shares([one, two]))
    equal(revoked, [3])
    one.close()
    two.close()


@group_case('a member that stops heartbeating is removed after its session timeout', protocols=('classic',))
def _(protocol):
    topic, group = make_topic(2), unique('g')
    stuck = consumer(group, protocol, session_timeout_ms=6000, max_poll_interval_ms=6000)
    stuck.subscribe([topic])
    until(lambda: len(stuck.assignment()) == 2, 30, lambda: stuck.poll(0.2))
    live = consumer(group, protocol, session_timeout_ms=6000)
    live.subscribe([topic])
    until(lambda: len(live.assignment()) == 2, 40, lambda: live.poll(0.2))
    live.close()
    threading.Thread(target=stuck.close, daemon=True).start()


@group_case('the server-side assignors range and uniform spread the partitions', protocols=('consumer',))
def _(protocol):
    for assignor in ('range', 'uniform'):
        topic, group = make_topic(4), unique('g')
        members = [consumer(group, protocol, group_remote_assignor=assignor) for _ in range(2)]
        for c in members:
            c.subscribe([topic])
        until(lambda: shares(members) == [2, 2], 40, lambda: poll_all(members), lambda: shares(members))
        equal(sorted(p.partition for c in members for p in c.assignment()), [0, 1, 2, 3])
        for c in members:
            c.close()


@group_case('an unknown server-side assignor is refused', protocols=('consumer',))
def _(protocol):
    errors = []
    c = consumer(None, protocol, group_remote_assignor='nope', error_cb=errors.append)
    c.subscribe([make_topic()])

    def step():
        m = c.poll(0.2)
        if m is not None and m.error():
            errors.append(m.error())

    until(lambda: any('assignor' in e.str() for e in errors), 20, step, lambda: f'refused, saw {errors}')
    c.close()


@group_case('a classic member joining a KIP-848 group takes its share (online migration)', protocols=('consumer',))
def _(protocol):
    topic, group = make_topic(4), unique('g')
    new, old = consumer(group, 'consumer'), consumer(group, 'classic')
    for c in (new, old):
        c.subscribe([topic])
    until(lambda: shares([new, old]) == [2, 2], 60, lambda: poll_all([new, old]), lambda: shares([new, old]))
    new.close()
    old.close()


# ---- tier 3: transactions


def transactional(name=None, **config):
    p = producer(transactional_id=name or unique('tx'), **config)
    p.init_transactions(30)
    return p


@case(3, 'aborted records are invisible to read_committed and visible to read_uncommitted')
def _():
    topic, p = make_topic(), transactional()
    p.begin_transaction()
    p.produce(topic, b'bad')
    p.flush(20)
    p.abort_transaction(20)
    p.begin_transaction()
    p.produce(topic, b'good')
    p.commit_transaction(20)
    equal(values(read(topic, 2, isolation_level='read_committed', limit_s=4)), [b'good'])
    equal(values(read(topic, 2, isolation_level='read_uncommitted')), [b'bad', b'good'])


@case(3, 'an open transaction holds read_committed back at the last stable offset until it commits')
def _():
    topic, p = make_topic(), transactional()
    p.begin_transaction()
    p.produce(topic, b'open')
    p.flush(20)
    fill(topic, [b'after'])
    equal(values(read(topic, 1, isolation_level='read_committed', limit_s=3)), [])
    for isolation, want in ((IsolationLevel.READ_COMMITTED, 0), (IsolationLevel.READ_UNCOMMITTED, 2)):
        (future,) = ADMIN.list_offsets(
            {TopicPartition(topic, 0): OffsetSpec.latest()}, isolation_level=isolation
        ).values()
        equal(future.result(10).offset, want, str(isolation))
    p.commit_transaction(20)
    equal(values(read(topic, 2, isolation_level='read_committed')), [b'open', b'after'])


@case(3, 'consume, transform, produce: outputs and offsets commit together')
def _():
    source, sink, group = make_topic(), make_topic(3), unique('g')
    fill(source, [b'%d' % i for i in range(20)])
    c, p = consumer(group, enable_auto_commit=False), transactional()
    c.subscribe([source])
    got = take(c, 20)
    for commit in (False, True):
        p.begin_transaction()
        for i, m in enumerate(got):
            p.produce(sink, m.value() if commit else b'bad', partition=i % 3)
        p.send_offsets_to_transaction(c.position(c.assignment()), c.consumer_group_metadata(), 20)
        if (
            not commit
        ):  # the broker answers UNSTABLE_OFFSET_COMMIT until the transaction ends, and the client asks again
            equal(
                raises(KafkaException, lambda: c.committed([TopicPartition(source, 0)], 2)).args[0].code(),
                KafkaError._TIMED_OUT,
            )
        p.commit_transaction(20) if commit else p.abort_transaction(20)
        equal(c.committed([TopicPartition(source, 0)], 10)[0].offset, 20 if commit else -1001, 'committed offset')
    c.close()
    seen = [
        m.value()
        for partition in range(3)
        for m in read(sink, 8, partition, isolation_level='read_committed', limit_s=4)
    ]
    equal(sorted(seen), sorted(values(got)))


@case(3, 'a new producer with the same transactional id fences the old one and aborts its transaction')
def _():
    topic, name = make_topic(), unique('tx')
    old = transactional(name)
    old.begin_transaction()
    old.produce(topic, b'zombie')
    old.flush(10)
    new = transactional(name)
    error = raises(KafkaException, lambda: old.commit_transaction(20)).args[0]
    assert error.fatal() or error.code() == KafkaError._FENCED, error
    new.begin_transaction()
    new.produce(topic, b'alive')
    new.commit_transaction(20)
    equal(values(read(topic, 2, isolation_level='read_committed', limit_s=4)), [b'alive'])


@case(3, 'a transaction left open is aborted after transaction.timeout.ms', 90)
def _():
    topic, p = make_topic(), transactional(transaction_timeout_ms=3000)
    p.begin_transaction()
    p.produce(topic, b'late')
    p.flush(10)
    fill(topic, [b'next'])
    equal(values(read(topic, 1, isolation_level='read_committed', limit_s=45)), [b'next'])
    raises(KafkaException, lambda: p.commit_transaction(10))


@case(3, 'an empty transaction commits')
def _():
    p = transactional()
    for _ in range(3):
        p.begin_transaction()
        p.commit_transaction(20)


@case(3, 'fifty short transactions over three partitions commit or abort exactly')
def _():
    topic, p, want = make_topic(3), transactional(), set()
    for i in range(50):
        p.begin_transaction()
        for partition in range(3):
            p.produce(topic, b'%d-%d' % (i, partition), partition=partition)
        if i % 5 == 4:
            p.abort_transaction(20)
        else:
            p.commit_transaction(20)
            want |= {b'%d-%d' % (i, partition) for partition in range(3)}
    got = [
        m.value()
        for partition in range(3)
        for m in read(topic, 40, partition, isolation_level='read_committed', limit_s=20)
    ]
    equal((len(got), set(got)), (len(want), want))


@case(3, 'offsets of a group cannot be committed by a transaction with a stale generation')
def _():
    topic, group = make_topic(2), unique('g')
    c, p = consumer(group, enable_auto_commit=False), transactional()
    c.subscribe([topic])
    until(lambda: len(c.assignment()) == 2, 30, lambda: c.poll(0.2))
    stale = c.consumer_group_metadata()
    other = consumer(group)
    other.subscribe([topic])
    until(lambda: shares([c, other]) == [1, 1], 30, lambda: poll_all([c, other]))
    p.begin_transaction()
    p.produce(topic, b'x')
    error = raises(
        KafkaException, lambda: p.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], stale, 20)
    ).args[0]
    assert error.txn_requires_abort(), error
    p.abort_transaction(20)
    c.close()
    other.close()


# ---- tier 4: the rest of the admin surface


def topic_config(topic):
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return ADMIN.describe_configs([resource])[resource].result(10)


def change(topic, name, value, operation):
    entry = ConfigEntry(name, value, incremental_operation=operation)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    ADMIN.incremental_alter_configs([resource])[resource].result(10)


@case(4, 'topic configs: describe with source and default flag, set, append, subtract, delete')
def _():
    topic = make_topic(retention_ms='12345')
    config = topic_config(topic)
    equal((config['retention.ms'].value, config['retention.ms'].is_default), ('12345', False))
    for name in (
        'cleanup.policy',
        'segment.bytes',
        'min.insync.replicas',
        'max.message.bytes',
        'compression.type',
        'message.timestamp.type',
    ):
        assert name in config, name
    change(topic, 'retention.ms', '777', AlterConfigOpType.SET)
    change(topic, 'cleanup.policy', 'compact', AlterConfigOpType.APPEND)
    until(
        lambda: topic_config(topic)['retention.ms'].value == '777'
        and set(topic_config(topic)['cleanup.policy'].value.split(',')) == {'delete', 'compact'},
        10,
    )
    change(topic, 'cleanup.policy', 'delete', AlterConfigOpType.SUBTRACT)
    change(topic, 'retention.ms', None, AlterConfigOpType.DELETE)
    until(
        lambda: topic_config(topic)['cleanup.policy'].value == 'compact'
        and topic_config(topic)['retention.ms'].value == '604800000',
        10,
    )
    raises(KafkaException, lambda: change(topic, 'retention.ms', 'soon', AlterConfigOpType.SET))


@case(4, 'broker configs can be described')
def _():
    node = next(iter(ADMIN.list_topics(timeout=10).brokers))
    resource = ConfigResource(ResourceType.BROKER, str(node))
    config = ADMIN.describe_configs([resource])[resource].result(10)
    assert len(config) > 20 and 'log.retention.ms' in config, len(config)


@case(4, 'delete records moves the log start, and consumers start there')
def _():
    topic = make_topic()
    fill(topic, NUMBERED[:10])
    (future,) = ADMIN.delete_records([TopicPartition(topic, 0, 5)]).values()
    equal(future.result(10).low_watermark, 5)
    equal(values(read(topic, 5)), NUMBERED[5:10])
    c = consumer()
    equal(c.get_watermark_offsets(TopicPartition(topic, 0), 10), (5, 10))
    c.close()
    (future,) = ADMIN.delete_records([TopicPartition(topic, 0, 50)]).values()
    equal(raises(KafkaException, future.result).args[0].code(), KafkaError.OFFSET_OUT_OF_RANGE)


@case(4, 'records carry the partition leader epoch')
def _():
    topic = make_topic()
    fill(topic, [b'x'])
    (m,) = read(topic, 1)
    assert m.leader_epoch() is not None and m.leader_epoch() >= 0, m.leader_epoch()


@case(4, 'ACLs: create, describe, delete')
def _():
    acl = AclBinding(
        ResourceType.TOPIC,
        unique(),
        ResourcePatternType.LITERAL,
        'User:someone',
        '*',
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    only = AclBindingFilter(
        ResourceType.TOPIC, acl.name, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    try:
        ADMIN.create_acls([acl])[acl].result(10)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.SECURITY_DISABLED:
            raise Skip('the broker runs without an authorizer')
        raise
    until(lambda: len(ADMIN.describe_acls(only).result(10)) == 1, 10)
    equal(len(ADMIN.delete_acls([only])[only].result(10)), 1)


@case(4, 'SCRAM users: upsert, describe, delete')
def _():
    from confluent_kafka.admin import (
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialDeletion,
        UserScramCredentialUpsertion,
    )

    user = unique('u')
    ADMIN.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), b'secret')]
    )[user].result(10)
    until(
        lambda: user in (described := ADMIN.describe_user_scram_credentials(None).result(10))
        and described[user].scram_credential_infos[0].iterations == 4096,
        10,
    )
    ADMIN.alter_user_scram_credentials([UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_256)])[user].result(
        10
    )
    until(lambda: user not in ADMIN.describe_user_scram_credentials(None).result(10), 10)


@case(4, 'electing the preferred leader of a healthy partition says that none is needed')
def _():
    from confluent_kafka import ElectionType

    topic = make_topic()
    result = ADMIN.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, 0)]).result(10)
    (error,) = result.values()
    equal(error.name() if error else None, 'ELECTION_NOT_NEEDED')


@case(4, 'compaction keeps the last value of each key', 120)
def _():
    topic = make_topic(
        cleanup_policy='compact',
        segment_ms='500',
        min_cleanable_dirty_ratio='0.01',
        max_compaction_lag_ms='1000',
        delete_retention_ms='100',
    )
    p = producer()
    for round_ in range(20):
        for key in range(5):
            p.produce(topic, b'%d' % round_, key=b'k%d' % key)
        p.flush(10)

    def compacted():
        time.sleep(1.5)
        p.produce(topic, b'roll', key=b'last')
        p.flush(10)
        got = {}
        messages = read(topic, 200, limit_s=2)
        for m in messages:
            got.setdefault(m.key(), []).append(m.value())
        return all(got.get(b'k%d' % k) == [b'19'] for k in range(5))

    until(compacted, 90)


@case(4, 'retention.bytes removes old segments and moves the log start', 90)
def _():
    topic = make_topic(segment_bytes='1048576', retention_bytes='1048576', file_delete_delay_ms='100')
    fill(topic, [b'x' * 10000] * 500)
    c = consumer()
    until(lambda: c.get_watermark_offsets(TopicPartition(topic, 0), 10)[0] > 100, 60, lambda: time.sleep(1))
    c.close()


main('confluent-kafka')
