// kafkajs: the most used Node client; speaks old versions of every API (Metadata 6, Produce 7, Fetch 11, JoinGroup 5).
import { createRequire } from 'node:module';
import zlib from 'node:zlib';
import { brokers, equal, numbered, rejects, runAll, scenario, sleep, unique, until } from './harness.mjs';

const require = createRequire(process.env.NODE_HOME + '/');
const { Kafka, CompressionCodecs, CompressionTypes, logLevel, Partitioners } = require('kafkajs');
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy');
const lz4 = require('lz4-napi');
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (e) => lz4.compressFrame(e.buffer),
  decompress: async (b) => lz4.decompressFrame(b),
});
if (zlib.zstdCompressSync)
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async (e) => zlib.zstdCompressSync(e.buffer),
    decompress: async (b) => zlib.zstdDecompressSync(b),
  });

const kafka = new Kafka({
  clientId: 'conformance',
  brokers,
  logLevel: logLevel.NOTHING,
  retry: { retries: 8, initialRetryTime: 100 },
});
const admin = kafka.admin();
await admin.connect();
const GROUP = { sessionTimeout: 10000, heartbeatInterval: 500, rebalanceTimeout: 10000, metadataMaxAge: 2000 };

async function makeTopic(numPartitions = 1, configs = {}) {
  const topic = unique();
  const configEntries = Object.entries(configs).map(([name, value]) => ({ name, value }));
  await admin.createTopics({
    waitForLeaders: true,
    topics: [{ topic, numPartitions, replicationFactor: 1, configEntries }],
  });
  return topic;
}

async function send(topic, values, { config = {}, ...rest } = {}) {
  const p = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, ...config });
  await p.connect();
  try {
    return await p.send({
      topic,
      messages: values.map((value) => ({ key: 'k', value, partition: 0, headers: { h: '1' } })),
      ...rest,
    });
  } finally {
    await p.disconnect();
  }
}

async function member(topics, groupId, options = {}) {
  const c = kafka.consumer({ groupId, ...GROUP, ...options });
  const m = { c, got: [], share: 0, fetched: 0 };
  c.on(c.events.GROUP_JOIN, (e) => {
    m.share = Object.values(e.payload.memberAssignment).flat().length;
  });
  await c.connect();
  await c.subscribe({ topics, fromBeginning: true });
  await c.run({
    eachMessage: async ({ message, partition }) => {
      m.got.push({ ...message, partition });
    },
  });
  return m;
}

async function read(topic, count, limitMs = 20000, options = {}) {
  const m = await member([topic], unique('g'), options);
  const end = Date.now() + limitMs;
  while (m.got.length < count && Date.now() < end) await sleep(50);
  await m.c.disconnect();
  return m.got;
}
const values = (messages) => messages.map((m) => m.value?.toString() ?? null);

for (const [name, type] of [
  ['none', 0],
  ['gzip', 1],
  ['snappy', 2],
  ['lz4', 3],
  ['zstd', 4],
]) {
  if (name === 'zstd' && !zlib.zstdCompressSync) continue;
  scenario(1, `kafkajs: ${name} batches read back unchanged`, async () => {
    const topic = await makeTopic();
    await send(topic, numbered(500), { compression: type });
    equal(values(await read(topic, 500)), numbered(500));
  });
}
scenario(1, 'kafkajs: idempotent producer, acks 0 and 1', async () => {
  const topic = await makeTopic();
  await send(topic, ['a', 'b'], { config: { idempotent: true, maxInFlightRequests: 1 }, acks: -1 });
  await send(topic, ['c'], { acks: 1 });
  await send(topic, ['d'], { acks: 0 });
  equal(values(await read(topic, 4)), ['a', 'b', 'c', 'd']);
});
scenario(1, 'kafkajs: key, headers, null value and timestamp survive', async () => {
  const [topic, stamp] = [await makeTopic(), String(Date.now() - 12345)];
  const p = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await p.connect();
  await p.send({ topic, messages: [{ key: 'k', value: null, headers: { h: 'x' }, timestamp: stamp }] });
  await p.disconnect();
  const [m] = await read(topic, 1);
  equal([m.key.toString(), m.value, m.headers.h.toString(), m.timestamp], ['k', null, 'x', stamp]);
});
scenario(1, 'kafkajs: offsets at both ends and by time', async () => {
  const topic = await makeTopic();
  const before = Date.now();
  await send(topic, ['a', 'b', 'c']);
  const [o] = await admin.fetchTopicOffsets(topic);
  equal([o.low, o.high], ['0', '3']);
  equal((await admin.fetchTopicOffsetsByTimestamp(topic, before - 1000))[0].offset, '0');
});
scenario(1, 'kafkajs: create, list, grow and delete a topic', async () => {
  const topic = await makeTopic(2);
  equal(await admin.createTopics({ topics: [{ topic }] }), false, 'created again');
  equal((await admin.listTopics()).includes(topic), true);
  await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
  await until(
    async () => (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length === 4,
    10000,
  );
  await admin.deleteTopics({ topics: [topic] });
  await until(async () => !(await admin.listTopics()).includes(topic), 10000);
});
scenario(
  2,
  'kafkajs: a group of two shares, hands over and resumes',
  async () => {
    const [topic, group] = [await makeTopic(4), unique('g')];
    const p = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
    await p.connect();
    await p.send({ topic, messages: numbered(100).map((value, i) => ({ partition: i % 4, value })) });
    await p.disconnect();
    const members = [await member([topic], group), await member([topic], group)];
    const all = () => new Set(members.flatMap((m) => values(m.got)));
    await until(
      () => members.every((m) => m.share === 2) && all().size === 100,
      40000,
      () => `${members.map((m) => m.share)} ${all().size}`,
    );
    await members[1].c.disconnect();
    await until(() => members[0].share === 4, 30000);
    await members[0].c.disconnect();
    const late = await member([topic], group);
    await until(() => late.share === 4, 20000);
    await sleep(2000);
    equal(late.got.length, 0, 'records after the commits');
    await late.c.disconnect();
  },
  120000,
);
scenario(2, 'kafkajs: seek, pause and resume inside a group', async () => {
  const topic = await makeTopic();
  await send(topic, numbered(10));
  const m = await member([topic], unique('g'));
  await until(() => m.got.length === 10);
  m.c.pause([{ topic }]);
  m.c.seek({ topic, partition: 0, offset: '7' });
  await sleep(1500);
  equal(m.got.length, 10, 'while paused');
  m.c.resume([{ topic }]);
  await until(() => m.got.length === 13);
  await m.c.disconnect();
});
scenario(2, 'kafkajs: list, describe, offsets, reset and delete of a group', async () => {
  const [topic, groupId] = [await makeTopic(), unique('g')];
  await send(topic, numbered(10));
  const m = await member([topic], groupId);
  await until(() => m.got.length === 10);
  equal((await admin.describeGroups([groupId])).groups[0].state, 'Stable');
  equal(
    (await admin.listGroups()).groups.some((g) => g.groupId === groupId && g.protocolType === 'consumer'),
    true,
    'listed',
  );
  await m.c.disconnect();
  equal((await admin.fetchOffsets({ groupId, topics: [topic] }))[0].partitions[0].offset, '10');
  await admin.setOffsets({ groupId, topic, partitions: [{ partition: 0, offset: '4' }] });
  equal((await admin.fetchOffsets({ groupId, topics: [topic] }))[0].partitions[0].offset, '4');
  equal((await admin.deleteGroups([groupId]))[0].errorCode, 0);
});
scenario(3, 'kafkajs: aborted records stay invisible, committed ones are read', async () => {
  const topic = await makeTopic();
  const p = kafka.producer({
    transactionalId: unique('tx'),
    idempotent: true,
    maxInFlightRequests: 1,
    createPartitioner: Partitioners.DefaultPartitioner,
  });
  await p.connect();
  for (const value of ['bad', 'good']) {
    const t = await p.transaction();
    await t.send({ topic, messages: [{ value }] });
    await (value === 'bad' ? t.abort() : t.commit());
  }
  await p.disconnect();
  equal(values(await read(topic, 2, 4000)), ['good'], 'read_committed is the default');
  equal(values(await read(topic, 2, 20000, { readUncommitted: true })), ['bad', 'good']);
});
scenario(3, 'kafkajs: offsets commit with the transaction', async () => {
  const [topic, groupId] = [await makeTopic(), unique('g')];
  const p = kafka.producer({
    transactionalId: unique('tx'),
    idempotent: true,
    maxInFlightRequests: 1,
    createPartitioner: Partitioners.DefaultPartitioner,
  });
  await p.connect();
  for (const commit of [false, true]) {
    const t = await p.transaction();
    await t.send({ topic, messages: [{ value: 'x' }] });
    await t.sendOffsets({ consumerGroupId: groupId, topics: [{ topic, partitions: [{ partition: 0, offset: '5' }] }] });
    await (commit ? t.commit() : t.abort());
    await until(
      async () =>
        (await admin.fetchOffsets({ groupId, topics: [topic] }))[0].partitions[0].offset === (commit ? '5' : '-1'),
      10000,
    );
  }
  await p.disconnect();
});
scenario(4, 'kafkajs: configs, cluster', async () => {
  const topic = await makeTopic(1, { 'retention.ms': '12345' });
  const read1 = async () =>
    (
      await admin.describeConfigs({
        includeSynonyms: false,
        resources: [{ type: 2, name: topic, configNames: ['retention.ms'] }],
      })
    ).resources[0].configEntries[0].configValue;
  equal(await read1(), '12345');
  await admin.alterConfigs({
    validateOnly: false,
    resources: [{ type: 2, name: topic, configEntries: [{ name: 'retention.ms', value: '777000' }] }],
  });
  await until(async () => (await read1()) === '777000', 10000);
  equal((await admin.describeCluster()).brokers.length >= 1, true);
});
scenario(1, 'kafkajs: a record over max.message.bytes is MESSAGE_TOO_LARGE', async () => {
  const topic = await makeTopic(1, { 'max.message.bytes': '1000' });
  await rejects(send(topic, ['x'.repeat(5000)]), /MESSAGE_TOO_LARGE|larger than the max/);
});
await runAll();
