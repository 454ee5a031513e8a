"""kafka-python: the newest and, from a second environment, 2.0.2, which many still run.

That one has no idempotence, no transactions and no static members.
"""

import sys, threading, time
import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from harness import BOOTSTRAP, Skip, case, equal, main, raises, unique, until

OLD = kafka.__version__.startswith('2.0')
NUMBERED = [b'v%05d' % i for i in range(500)]


def admin():
    return KafkaAdminClient(bootstrap_servers=BOOTSTRAP)


def make_topic(partitions=1, name=None, **config):
    name, a = name or unique(), admin()
    a.create_topics([NewTopic(name, partitions, 1, topic_configs={k.replace('_', '.'): v for k, v in config.items()})])
    until(lambda: name in a.list_topics(), 10)
    a.close()
    return name


def commit_of(offset, note=''):
    return OffsetAndMetadata(offset, note) if OLD else OffsetAndMetadata(offset, note, -1)


def fill(topic, values, partition=0, **config):
    p = KafkaProducer(bootstrap_servers=BOOTSTRAP, **config)
    futures = [p.send(topic, v, partition=partition) for v in values]
    p.flush(20)
    out = [f.get(20) for f in futures]
    p.close()
    return out


def consumer(*topics, **config):
    return KafkaConsumer(
        *topics, bootstrap_servers=BOOTSTRAP, auto_offset_reset=config.pop('auto_offset_reset', 'earliest'), **config
    )


def take(c, count, limit_s=20):
    got, end = [], time.monotonic() + limit_s
    while len(got) < count and time.monotonic() < end:
        for batch in c.poll(200).values():
            got.extend(batch)
    return got


def read(topic, count, limit_s=20, **config):
    c = consumer(topic, group_id=config.pop('group_id', None), **config)
    got = take(c, count, limit_s)
    c.close()
    return [m.value for m in got]


for codec in (None, 'gzip', 'snappy', 'lz4') + (() if OLD else ('zstd',)):

    @case(1, f'{codec or "none"} batches read back unchanged, at contiguous offsets')
    def _(codec=codec):
        topic = make_topic()
        out = fill(topic, NUMBERED, compression_type=codec, linger_ms=5)
        equal([m.offset for m in out], list(range(500)), 'offsets')
        equal(read(topic, 500), NUMBERED)


@case(1, 'acks 0, 1 and all arrive')
def _():
    for acks in (0, 1, 'all'):
        topic = make_topic()
        fill(topic, [b'a', b'b'], acks=acks, **({} if OLD or acks == 'all' else {'enable_idempotence': False}))
        equal(read(topic, 2), [b'a', b'b'], f'acks={acks}')


@case(1, 'key, headers, null value and timestamp survive')
def _():
    topic, p, stamp = (
        make_topic(),
        KafkaProducer(bootstrap_servers=BOOTSTRAP),
        int(time.time() * 1000) - 12345,
    )  # older than retention.ms would be deleted
    p.send(topic, None, key=b'k', headers=[('h', b'1')], timestamp_ms=stamp).get(10)
    p.close()
    c = consumer(topic, group_id=None)
    (m,) = take(c, 1)
    c.close()
    equal((m.key, m.value, list(m.headers), m.timestamp), (b'k', None, [('h', b'1')], stamp))


@case(1, 'the default partitioner sends one key to one partition')
def _():
    topic, p = make_topic(4), KafkaProducer(bootstrap_servers=BOOTSTRAP)
    equal(len({p.send(topic, b'x', key=b'same').get(10).partition for _ in range(10)}), 1)
    p.close()


@case(1, 'offsets at both ends and by time')
def _():
    topic, p, base = make_topic(), KafkaProducer(bootstrap_servers=BOOTSTRAP), int(time.time() * 1000) - 10000
    for i in range(10):
        p.send(topic, b'x', timestamp_ms=base + i * 100).get(10)
    p.close()
    c, tp = consumer(group_id=None), TopicPartition(topic, 0)
    equal((c.beginning_offsets([tp])[tp], c.end_offsets([tp])[tp]), (0, 10))
    equal(c.offsets_for_times({tp: base + 350})[tp].offset, 4)
    equal(c.offsets_for_times({tp: base + 99999})[tp], None)
    c.close()


@case(1, 'assign, seek, and position')
def _():
    topic = make_topic()
    fill(topic, NUMBERED[:10])
    c, tp = consumer(group_id=None), TopicPartition(topic, 0)
    c.assign([tp])
    c.seek(tp, 7)
    equal([m.value for m in take(c, 3)], NUMBERED[7:10])
    equal(c.position(tp), 10)
    c.close()


@case(1, 'a record over the topic\'s max.message.bytes is refused')
def _():
    topic, p = make_topic(max_message_bytes='2000'), KafkaProducer(bootstrap_servers=BOOTSTRAP)
    raises(errors.MessageSizeTooLargeError, lambda: p.send(topic, b'x' * 5000).get(20))
    p.close()


@case(1, 'producing to an unknown topic creates it (auto.create.topics.enable)')
def _():
    topic = unique()
    fill(topic, [b'x'])
    equal(read(topic, 1), [b'x'])


@case(1, 'create, list, describe, grow and delete a topic')
def _():
    topic, a = make_topic(2), admin()
    raises(errors.TopicAlreadyExistsError, lambda: a.create_topics([NewTopic(topic, 1, 1)]))
    equal(len(a.describe_topics([topic])[0]['partitions']), 2)
    a.create_partitions({topic: NewPartitions(4)})
    until(lambda: len(a.describe_topics([topic])[0]['partitions']) == 4, 10)
    a.delete_topics([topic])
    until(lambda: topic not in a.list_topics(), 10)
    a.close()


GROUP = dict(session_timeout_ms=10000, heartbeat_interval_ms=500, metadata_max_age_ms=2000)


class Member(threading.Thread):
    """A group member that polls in its own thread until it is stopped."""

    def __init__(self, topic, group, **config):
        super().__init__(daemon=True)
        self.make = lambda: consumer(topic, group_id=group, **GROUP, **config)
        self.got, self.share, self.stopped = [], 0, threading.Event()
        self.start()

    def run(self):
        c = self.make()
        while not self.stopped.is_set():
            for batch in c.poll(200).values():
                self.got.extend(m.value for m in batch)
            self.share = len(c.assignment())
        c.close()

    def stop(self):
        self.stopped.set()
        self.join(15)


@case(
    2,
    'group: two members share four partitions and read everything; one leaves, the other takes over; the group resumes',
)
def _():
    topic, group = make_topic(4), unique('g')
    for partition in range(4):
        fill(topic, [b'%d-%d' % (partition, i) for i in range(50)], partition)
    one, two = Member(topic, group), Member(topic, group)
    until(
        lambda: [one.share, two.share] == [2, 2] and len(set(one.got + two.got)) == 200,
        40,
        what=lambda: (one.share, two.share, len(one.got), len(two.got)),
    )
    two.stop()
    until(lambda: one.share == 4, 30)
    one.stop()
    equal(read(topic, 1, 4, group_id=group, **GROUP), [])


@case(2, 'group: commits are read back with metadata and resumed from')
def _():
    topic, group = make_topic(), unique('g')
    fill(topic, NUMBERED[:20])
    tp, c = TopicPartition(topic, 0), consumer(topic, group_id=group, enable_auto_commit=False, **GROUP)
    equal(len(take(c, 20)), 20)
    c.commit({tp: commit_of(15, 'note')})
    equal(c.committed(tp), 15)
    c.close()
    equal(read(topic, 5, group_id=group, **GROUP), NUMBERED[15:20])


@case(2, 'group: a pattern picks up a topic created later')
def _():
    prefix = unique('rx')
    c = consumer(group_id=unique('g'), **GROUP)
    c.subscribe(pattern=f'^{prefix}.*')
    c.poll(500)
    make_topic(name=f'{prefix}-a')
    fill(f'{prefix}-a', [b'1'])
    equal([m.value for m in take(c, 1, 30)], [b'1'])
    c.close()


@case(2, 'group: list, describe, offsets and delete through the admin client')
def _():
    topic, group, a = make_topic(), unique('g'), admin()
    fill(topic, [b'x'] * 3)
    c = consumer(topic, group_id=group, enable_auto_commit=False, **GROUP)
    equal(len(take(c, 3)), 3)
    c.commit()
    if OLD:
        assert (group, 'consumer') in [tuple(g)[:2] for g in a.list_consumer_groups()], 'not listed'
        equal(a.describe_consumer_groups([group])[0].state, 'Stable')
        equal(a.list_consumer_group_offsets(group)[TopicPartition(topic, 0)].offset, 3)
        c.close()
        time.sleep(0.5)
        equal(a.delete_consumer_groups([group])[0][1], errors.NoError)
    else:
        assert group in str(a.list_groups()), 'not listed'
        assert 'Stable' in str(a.describe_groups([group])) or 'STABLE' in str(
            a.describe_groups([group])
        ), a.describe_groups([group])
        assert '3' in str(a.list_group_offsets({group: None})), a.list_group_offsets({group: None})
        c.close()
        time.sleep(0.5)
        a.delete_groups([group])
        assert group not in str(a.list_groups())
    a.close()


if not OLD:

    @case(2, 'group: a static member comes back within its session and keeps its partitions')
    def _():
        topic, group = make_topic(2), unique('g')
        for _ in range(2):
            c = consumer(topic, group_id=group, group_instance_id='one', **GROUP)
            until(lambda: len(c.assignment()) == 2, 8, lambda: c.poll(200))
            c.close()

    @case(2, 'group: cooperative-sticky members share the partitions')
    def _():
        try:
            from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyPartitionAssignor as assignor
        except ImportError:
            try:
                from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor as assignor
            except ImportError:
                raise Skip('this client has no such assignor')
        topic, group = make_topic(4), unique('g')
        one = Member(topic, group, partition_assignment_strategy=[assignor])
        until(
            lambda: one.share == 4, 20
        )  # two that join at the same moment sometimes stay at 4 and 0 for good: this client's fault
        two = Member(topic, group, partition_assignment_strategy=[assignor])
        until(lambda: [one.share, two.share] == [2, 2], 40, what=lambda: (one.share, two.share))
        one.stop()
        two.stop()

    @case(1, 'an idempotent producer keeps its order')
    def _():
        topic = make_topic()
        fill(topic, NUMBERED, enable_idempotence=True, batch_size=100)
        equal(read(topic, 500), NUMBERED)

    def transactional(name=None):
        p = KafkaProducer(bootstrap_servers=BOOTSTRAP, transactional_id=name or unique('tx'))
        p.init_transactions()
        return p

    @case(3, 'transactions: the aborted record is invisible, the committed one is read')
    def _():
        topic, p = make_topic(), transactional()
        p.begin_transaction()
        p.send(topic, b'bad').get(10)
        p.abort_transaction()
        p.begin_transaction()
        p.send(topic, b'good').get(10)
        p.commit_transaction()
        p.close()
        equal(read(topic, 2, 4, isolation_level='read_committed'), [b'good'])
        equal(read(topic, 2), [b'bad', b'good'])

    @case(3, 'transactions: offsets commit with the records')
    def _():
        topic, group, p = make_topic(), unique('g'), transactional()
        tp = TopicPartition(topic, 0)
        for commit in (False, True):
            p.begin_transaction()
            p.send(topic, b'x').get(10)
            p.send_offsets_to_transaction({tp: commit_of(5)}, group)
            p.commit_transaction() if commit else p.abort_transaction()
            c = consumer(group_id=group)
            c.assign([tp])
            equal(c.committed(tp), 5 if commit else None)
            c.close()
        p.close()

    @case(3, 'transactions: a second producer with the id fences the first')
    def _():
        topic, name = make_topic(), unique('tx')
        old = transactional(name)
        old.begin_transaction()
        old.send(topic, b'zombie').get(10)
        new = transactional(name)
        raises(errors.KafkaError, old.commit_transaction)
        new.begin_transaction()
        new.send(topic, b'alive').get(10)
        new.commit_transaction()
        new.close()
        equal(read(topic, 2, 4, isolation_level='read_committed'), [b'alive'])

    @case(4, 'delete records moves the beginning')
    def _():
        topic, a = make_topic(), admin()
        fill(topic, NUMBERED[:10])
        a.delete_records({TopicPartition(topic, 0): 4})
        equal(read(topic, 6), NUMBERED[4:10])
        a.close()

    @case(4, 'log dirs, cluster, features, metadata quorum and transactions can be described')
    def _():
        topic, a = make_topic(), admin()
        fill(topic, [b'x'])
        assert topic in str(a.describe_log_dirs()), 'log dirs'
        assert a.describe_cluster()['cluster_id'], 'cluster id'
        a.describe_features()
        a.list_transactions()
        a.close()

    @case(4, 'producers of a partition can be described')
    def _():
        topic, a = make_topic(), admin()
        fill(topic, [b'x'], enable_idempotence=True)
        assert 'producer_id' in str(a.describe_producers([TopicPartition(topic, 0)])), a.describe_producers(
            [TopicPartition(topic, 0)]
        )
        a.close()


@case(4, 'topic configs: describe and alter')
def _():
    topic, a = make_topic(retention_ms='12345'), admin()
    described = lambda: str(a.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))
    assert '12345' in described(), described()[:200]
    a.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={'retention.ms': '77712'})])
    until(lambda: '77712' in described(), 10)
    a.close()


@case(4, 'the cluster can be described')
def _():
    a = admin()
    cluster = a.describe_cluster()
    assert len(cluster['brokers']) >= 1 and cluster['controller_id'] is not None, cluster
    a.close()


main(f'kafka-python {kafka.__version__}')
