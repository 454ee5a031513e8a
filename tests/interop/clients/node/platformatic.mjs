// @platformatic/kafka: a young client that uses new API versions; needs Node 22.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { brokers, equal, numbered, rejects, runAll, scenario, sleep, unique, until } from './harness.mjs';

const require = createRequire(process.env.NODE_HOME + '/');
const { Admin, Consumer, ListOffsetTimestamps, MessagesStreamModes, Producer, stringDeserializers, stringSerializers } =
  await import(pathToFileURL(require.resolve('@platformatic/kafka')));
const base = () => ({ clientId: unique('c'), bootstrapBrokers: brokers, retries: 5, retryDelay: 200 });
const admin = new Admin(base());

async function makeTopic(partitions = 1) {
  const topic = unique();
  await admin.createTopics({ topics: [topic], partitions, replicas: 1 });
  await until(async () => (await admin.listTopics()).includes(topic), 10000);
  await sleep(300);
  return topic;
}
async function send(topic, values, options = {}) {
  const p = new Producer({ ...base(), serializers: stringSerializers, ...options });
  try {
    return await p.send({
      messages: values.map((value) => ({ topic, key: 'k', value, partition: 0, headers: { h: '1' } })),
      acks: -1,
    });
  } finally {
    await p.close();
  }
}
async function read(topics, count, limitMs = 20000, options = {}) {
  const c = new Consumer({
    ...base(),
    groupId: options.groupId ?? unique('g'),
    deserializers: stringDeserializers,
    ...(options.consumer ?? {}),
  });
  const stream = await c.consume({
    topics,
    autocommit: true,
    mode: options.mode ?? MessagesStreamModes.EARLIEST,
    sessionTimeout: 10000,
    heartbeatInterval: 500,
    maxWaitTime: 300,
    ...(options.consume ?? {}),
  });
  const got = [];
  stream.on('data', (m) => got.push(m));
  stream.on('error', () => {});
  const end = Date.now() + limitMs;
  while (got.length < count && Date.now() < end) await sleep(50);
  await c.close(true);
  return got;
}

for (const compression of ['none', 'gzip', 'snappy', 'lz4', 'zstd']) {
  scenario(1, `platformatic: ${compression} batches read back unchanged`, async () => {
    const topic = await makeTopic();
    await send(topic, numbered(300), compression === 'none' ? {} : { compression });
    equal(
      (await read([topic], 300)).map((m) => m.value),
      numbered(300),
    );
  });
}
scenario(1, 'platformatic: the idempotent producer keeps its order', async () => {
  const topic = await makeTopic();
  await send(topic, numbered(100), { idempotent: true });
  equal(
    (await read([topic], 100)).map((m) => m.value),
    numbered(100),
  );
});
scenario(1, 'platformatic: metadata, cluster and topic deletion', async () => {
  const topic = await makeTopic(3);
  equal((await admin.metadata({ topics: [topic] })).topics.get(topic).partitionsCount, 3);
  await admin.deleteTopics({ topics: [topic] });
  await until(async () => !(await admin.listTopics()).includes(topic), 10000);
});
scenario(2, 'platformatic: a group resumes at its commits', async () => {
  const [topic, groupId] = [await makeTopic(2), unique('g')];
  await send(topic, numbered(50));
  equal((await read([topic], 50, 20000, { groupId })).length, 50);
  await send(topic, ['late']);
  equal(
    (await read([topic], 1, 20000, { groupId, mode: MessagesStreamModes.COMMITTED })).map((m) => m.value),
    ['late'],
  );
});
scenario(2, 'platformatic: list, describe and delete a group', async () => {
  const [topic, groupId] = [await makeTopic(), unique('g')];
  await send(topic, numbered(5));
  await read([topic], 5, 20000, { groupId });
  const groups = await admin.listGroups();
  equal(groups.has(groupId), true, 'listed');
  equal((await admin.describeGroups({ groups: [groupId] })).get(groupId).state.toUpperCase(), 'EMPTY');
  await admin.deleteGroups({ groups: [groupId] });
});
await runAll();
