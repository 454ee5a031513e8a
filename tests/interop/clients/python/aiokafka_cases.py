"""aiokafka: pure Python, asyncio."""

import asyncio, time
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    ProducerFenced,
    TopicAlreadyExistsError,
    IncompatibleBrokerVersion,
)
from aiokafka.structs import OffsetAndMetadata
from harness import BOOTSTRAP, Skip, case, equal, main, unique

NUMBERED = [b'v%05d' % i for i in range(500)]


async def until(condition, limit_s=30, step=None, what=''):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return
        await (step() if step else asyncio.sleep(0.05))
    raise AssertionError(f'not within {limit_s} s: {what() if callable(what) else what}')


async def with_admin(use):
    admin = AIOKafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    await admin.start()
    try:
        return await use(admin)
    finally:
        await admin.close()


async def make_topic(partitions=1, **config):
    name = unique()
    settings = {k.replace('_', '.'): v for k, v in config.items()}

    async def create(admin):
        response = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
        equal([e[1] for e in response.topic_errors], [0])
        end = time.monotonic() + 10
        while name not in await admin.list_topics() and time.monotonic() < end:
            await asyncio.sleep(0.05)

    await with_admin(create)
    return name


async def producer(**config):
    p = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, **config)
    await p.start()
    return p


async def consumer(*topics, **config):
    c = AIOKafkaConsumer(
        *topics, bootstrap_servers=BOOTSTRAP, auto_offset_reset=config.pop('auto_offset_reset', 'earliest'), **config
    )
    await c.start()
    return c


async def fill(topic, values, partition=0, **config):
    p = await producer(**config)
    futures = [await p.send(topic, v, partition=partition) for v in values]
    out = [await f for f in futures]
    await p.stop()
    return out


async def take(c, count, limit_s=20):
    got, end = [], time.monotonic() + limit_s
    while len(got) < count and time.monotonic() < end:
        for batch in (await c.getmany(timeout_ms=200)).values():
            got.extend(batch)
    return got


async def read(topic, count, limit_s=20, **config):
    c = await consumer(topic, **config)
    got = await take(c, count, limit_s)
    await c.stop()
    return [m.value for m in got]


for codec in (None, 'gzip', 'snappy', 'lz4', 'zstd'):

    @case(1, f'{codec or "none"} batches from an idempotent producer read back unchanged')
    async def _(codec=codec):
        topic = await make_topic()
        out = await fill(topic, NUMBERED, compression_type=codec, enable_idempotence=True, linger_ms=5)
        equal([m.offset for m in out], list(range(500)), 'offsets')
        equal(await read(topic, 500), NUMBERED)


@case(1, 'acks 0, 1 and all arrive')
async def _():
    for acks in (0, 1, 'all'):
        topic = await make_topic()
        await fill(topic, [b'a', b'b'], acks=acks)
        equal(await read(topic, 2), [b'a', b'b'], f'acks={acks}')


@case(1, 'key, headers, null value and timestamp survive')
async def _():
    topic, p, stamp = (
        await make_topic(),
        await producer(),
        int(time.time() * 1000) - 12345,
    )  # older than retention.ms would be deleted
    await p.send_and_wait(topic, None, key=b'k', headers=[('h', b'1')], timestamp_ms=stamp)
    await p.stop()
    c = await consumer(topic)
    (m,) = await take(c, 1)
    await c.stop()
    equal((m.key, m.value, m.headers, m.timestamp), (b'k', None, (('h', b'1'),), stamp))


@case(1, 'offsets at both ends and by time')
async def _():
    topic, p, base = await make_topic(), await producer(), int(time.time() * 1000) - 10000
    for i in range(10):
        await p.send_and_wait(topic, b'x', timestamp_ms=base + i * 100)
    await p.stop()
    c, tp = await consumer(), TopicPartition(topic, 0)
    equal(((await c.beginning_offsets([tp]))[tp], (await c.end_offsets([tp]))[tp]), (0, 10))
    equal((await c.offsets_for_times({tp: base + 350}))[tp].offset, 4)
    equal((await c.offsets_for_times({tp: base + 99999}))[tp], None)
    await c.stop()


@case(1, 'assign, seek, and an offset out of range')
async def _():
    topic = await make_topic()
    await fill(topic, NUMBERED[:10])
    c, tp = await consumer(auto_offset_reset='none'), TopicPartition(topic, 0)
    c.assign([tp])
    c.seek(tp, 7)
    equal([m.value for m in await take(c, 3)], NUMBERED[7:10])
    c.seek(tp, 70)
    try:
        await take(c, 1, 10)
        raise AssertionError('no error')
    except OffsetOutOfRangeError:
        pass
    await c.stop()


@case(1, 'a record over the topic\'s max.message.bytes is refused')
async def _():
    topic, p = await make_topic(max_message_bytes='2000'), await producer()
    try:
        await p.send_and_wait(topic, b'x' * 5000)
        raise AssertionError('accepted')
    except MessageSizeTooLargeError:
        pass
    await p.stop()


@case(1, 'create, list, describe, grow and delete a topic')
async def _():
    topic = await make_topic(2)

    async def use(admin):
        response = await admin.create_topics([NewTopic(topic, 1, 1)])
        equal(response.topic_errors[0][1], TopicAlreadyExistsError.errno)
        equal(len((await admin.describe_topics([topic]))[0]['partitions']), 2)
        await admin.create_partitions({topic: NewPartitions(4)})
        await asyncio.sleep(0.5)
        equal(len((await admin.describe_topics([topic]))[0]['partitions']), 4)
        await admin.delete_topics([topic])
        await asyncio.sleep(1)
        equal(topic in await admin.list_topics(), False)

    await with_admin(use)


GROUP = dict(session_timeout_ms=10000, heartbeat_interval_ms=500, metadata_max_age_ms=2000)


@case(2, 'group: two members share four partitions; one leaves, the other takes over')
async def _():
    topic, group = await make_topic(4), unique('g')
    one, two = await consumer(topic, group_id=group, **GROUP), await consumer(topic, group_id=group, **GROUP)
    shares = lambda: [len(c.assignment()) for c in (one, two)]
    await until(
        lambda: shares() == [2, 2], 40, lambda: asyncio.gather(*(c.getmany(timeout_ms=200) for c in (one, two))), shares
    )
    await two.stop()
    await until(lambda: len(one.assignment()) == 4, 30, lambda: one.getmany(timeout_ms=200))
    await one.stop()


@case(2, 'group: commits are read back and resumed from')
async def _():
    topic, group, tp = await make_topic(), unique('g'), None
    await fill(topic, NUMBERED[:20])
    tp = TopicPartition(topic, 0)
    c = await consumer(topic, group_id=group, enable_auto_commit=False, **GROUP)
    equal(len(await take(c, 20)), 20)
    await c.commit({tp: OffsetAndMetadata(15, 'note')})
    equal(await c.committed(tp), 15)
    await c.stop()
    equal(await read(topic, 5, group_id=group, **GROUP), NUMBERED[15:20])


@case(2, 'group: a pattern picks up a topic created later')
async def _():
    prefix = unique('rx')
    c = await consumer(group_id=unique('g'), **GROUP)
    c.subscribe(pattern=f'^{prefix}.*')
    await c.getmany(timeout_ms=500)
    p = await producer()
    await with_admin(lambda a: a.create_topics([NewTopic(prefix + '-a', 1, 1)]))
    await p.send_and_wait(prefix + '-a', b'1')
    equal([m.value for m in await take(c, 1, 30)], [b'1'])
    await p.stop()
    await c.stop()


@case(2, 'group: a static member comes back within its session and keeps its partitions')
async def _():
    topic, group = await make_topic(2), unique('g')
    c = await consumer(topic, group_id=group, group_instance_id='one', **GROUP)
    await until(lambda: len(c.assignment()) == 2, 20, lambda: c.getmany(timeout_ms=200))
    await c.stop()
    again = await consumer(topic, group_id=group, group_instance_id='one', **GROUP)
    await until(lambda: len(again.assignment()) == 2, 8, lambda: again.getmany(timeout_ms=200))
    await again.stop()


@case(2, 'group: list, describe and offsets through the admin client')
async def _():
    topic, group = await make_topic(), unique('g')
    await fill(topic, [b'x'] * 3)
    c = await consumer(topic, group_id=group, enable_auto_commit=False, **GROUP)
    equal(len(await take(c, 3)), 3)
    await c.commit()

    async def use(admin):
        assert (group, 'consumer') in [tuple(g)[:2] for g in await admin.list_consumer_groups()], 'not listed'
        described = (await admin.describe_consumer_groups([group]))[0]
        equal([g[2] for g in described.groups], ['Stable'])
        equal((await admin.list_consumer_group_offsets(group))[TopicPartition(topic, 0)].offset, 3)

    await with_admin(use)
    await c.stop()


@case(3, 'transactions: the aborted record is invisible, the committed one is read')
async def _():
    topic, p = await make_topic(), await producer(transactional_id=unique('tx'))
    await p.begin_transaction()
    await p.send_and_wait(topic, b'bad')
    await p.abort_transaction()
    async with p.transaction():
        await p.send_and_wait(topic, b'good')
    await p.stop()
    equal(await read(topic, 2, 4, isolation_level='read_committed'), [b'good'])
    equal(await read(topic, 2), [b'bad', b'good'])


@case(3, 'transactions: offsets commit with the records')
async def _():
    topic, group, p = await make_topic(), unique('g'), await producer(transactional_id=unique('tx'))
    tp = TopicPartition(topic, 0)
    for commit in (False, True):
        await p.begin_transaction()
        await p.send_and_wait(topic, b'x')
        await p.send_offsets_to_transaction({tp: OffsetAndMetadata(5, '')}, group)
        await (p.commit_transaction() if commit else p.abort_transaction())
        c = await consumer(group_id=group, **GROUP)
        c.assign([tp])
        equal(await c.committed(tp), 5 if commit else None)
        await c.stop()
    await p.stop()


@case(3, 'transactions: a second producer with the id fences the first')
async def _():
    topic, name = await make_topic(), unique('tx')
    old = await producer(transactional_id=name)
    await old.begin_transaction()
    await old.send_and_wait(topic, b'zombie')
    new = await producer(transactional_id=name)
    try:
        await old.commit_transaction()
        raise AssertionError('the zombie committed')
    except KafkaError:
        pass
    async with new.transaction():
        await new.send_and_wait(topic, b'alive')
    await new.stop()
    equal(await read(topic, 2, 4, isolation_level='read_committed'), [b'alive'])
    await asyncio.wait_for(old.stop(), 5)


@case(4, 'topic configs: describe and alter')
async def _():
    topic = await make_topic(retention_ms='12345')
    resource = lambda configs=None: ConfigResource(ConfigResourceType.TOPIC, topic, configs)

    async def retention(admin):
        response = (await admin.describe_configs([resource()]))[0]
        return {entry[0]: entry[1] for entry in response.resources[0][4]}['retention.ms']

    async def use(admin):
        equal(await retention(admin), '12345')
        await admin.alter_configs([resource({'retention.ms': '777'})])
        await asyncio.sleep(0.5)
        equal(await retention(admin), '777')

    await with_admin(use)


@case(4, 'delete records moves the beginning')
async def _():
    topic = await make_topic()
    await fill(topic, NUMBERED[:10])
    tp = TopicPartition(topic, 0)
    equal(await with_admin(lambda a: a.delete_records({tp: RecordsToDelete(4)})), {tp: 4})
    equal(await read(topic, 6), NUMBERED[4:10])


main('aiokafka')
