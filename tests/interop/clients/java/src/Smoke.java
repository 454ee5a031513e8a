import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.quota.*;
import org.apache.kafka.common.resource.*;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * The Java client as an application uses it: producer, consumer (both group protocols),
 * transactions, admin.
 */
public class Smoke {
    static Admin admin;

    static String unique(String prefix) {
        return prefix + "-" + UUID.randomUUID().toString().substring(0, 13);
    }

    static Map<String, Object> config(Object... pairs) {
        Map<String, Object> c = new HashMap<>(Map.of("bootstrap.servers", Cases.BOOTSTRAP));
        for (int i = 0; i < pairs.length; i += 2) c.put((String) pairs[i], pairs[i + 1]);
        return c;
    }

    static KafkaProducer<String, String> producer(Object... pairs) {
        return new KafkaProducer<>(config(pairs), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String protocol, String group, Object... pairs) {
        Map<String, Object> c = config(pairs);
        c.putIfAbsent("group.id", group);
        c.putIfAbsent("auto.offset.reset", "earliest");
        c.put("group.protocol", protocol);
        if (protocol.equals("classic")) {
            c.putIfAbsent("session.timeout.ms", 10000);
            c.putIfAbsent("heartbeat.interval.ms", 500);
        }
        return new KafkaConsumer<>(c, new StringDeserializer(), new StringDeserializer());
    }

    static String topic(int partitions, String... configPairs) throws Exception {
        String name = unique("j");
        topicNamed(name, partitions, configPairs);
        return name;
    }

    static void topicNamed(String name, int partitions, String... configPairs) throws Exception {
        Map<String, String> c = new HashMap<>();
        for (int i = 0; i < configPairs.length; i += 2) c.put(configPairs[i], configPairs[i + 1]);
        admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1).configs(c)))
                .all()
                .get(20, TimeUnit.SECONDS);
        Cases.until(10, () -> exists(name), () -> Thread.sleep(50), () -> "topic visible");
        // Kafka answers CreateTopics before every leader can take writes, and an idempotent
        // producer that meets such a partition
        // can stall until its delivery timeout; so wait until each partition answers.
        get(
                admin.listOffsets(
                                IntStream.range(0, partitions)
                                        .boxed()
                                        .collect(
                                                Collectors.toMap(
                                                        i -> tp(name, i),
                                                        i -> OffsetSpec.latest())))
                        .all());
    }

    static boolean exists(String name) throws Exception {
        return admin.listTopics().names().get(10, TimeUnit.SECONDS).contains(name);
    }

    static void fill(String topic, int partition, List<String> values, Object... pairs)
            throws Exception {
        try (var p = producer(pairs)) {
            List<java.util.concurrent.Future<RecordMetadata>> sent = new ArrayList<>();
            for (String v : values)
                sent.add(p.send(new ProducerRecord<>(topic, partition, "k", v)));
            p.flush();
            for (var f : sent) f.get(20, TimeUnit.SECONDS);
        }
    }

    static List<ConsumerRecord<String, String>> take(
            Consumer<String, String> c, int count, int seconds) {
        List<ConsumerRecord<String, String>> got = new ArrayList<>();
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (got.size() < count && System.nanoTime() < end)
            c.poll(Duration.ofMillis(200)).forEach(got::add);
        return got;
    }

    static List<ConsumerRecord<String, String>> read(
            String topic, int partition, int count, int seconds, Object... pairs) {
        try (var c = consumer("classic", unique("g"), pairs)) {
            TopicPartition tp = new TopicPartition(topic, partition);
            c.assign(List.of(tp));
            c.seekToBeginning(List.of(tp));
            return take(c, count, seconds);
        }
    }

    static List<String> values(List<ConsumerRecord<String, String>> records) {
        return records.stream().map(ConsumerRecord::value).collect(Collectors.toList());
    }

    static List<String> numbered(int n) {
        return IntStream.range(0, n).mapToObj(i -> "v" + i).collect(Collectors.toList());
    }

    static TopicPartition tp(String topic, int partition) {
        return new TopicPartition(topic, partition);
    }

    static <T> T get(KafkaFuture<T> f) throws Exception {
        return f.get(20, TimeUnit.SECONDS);
    }

    static long offset(String topic, int partition, OffsetSpec spec, IsolationLevel level)
            throws Exception {
        return get(admin.listOffsets(
                                Map.of(tp(topic, partition), spec), new ListOffsetsOptions(level))
                        .partitionResult(tp(topic, partition)))
                .offset();
    }

    static long offset(String topic, OffsetSpec spec) throws Exception {
        return offset(topic, 0, spec, IsolationLevel.READ_UNCOMMITTED);
    }

    public static void main(String[] args) throws Exception {
        admin = Admin.create(config());
        basics();
        for (String protocol : List.of("classic", "consumer")) groups(protocol);
        classicGroups();
        newGroups();
        transactions();
        administration();
        Cases.runAll();
    }

    static void basics() {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd"))
            Cases.add(
                    1,
                    codec + " batches read back unchanged, at contiguous offsets",
                    () -> {
                        String t = topic(1);
                        fill(t, 0, numbered(2000), "compression.type", codec, "linger.ms", 5);
                        var got = read(t, 0, 2000, 20);
                        Cases.equal(values(got), numbered(2000), "values");
                        Cases.equal(got.get(1999).offset(), 1999L, "last offset");
                    });
        Cases.add(
                1,
                "acks 0, 1 and all arrive",
                () -> {
                    for (String acks : List.of("0", "1", "all")) {
                        String t = topic(1);
                        fill(
                                t,
                                0,
                                numbered(10),
                                "acks",
                                acks,
                                "enable.idempotence",
                                acks.equals("all") ? "true" : "false");
                        Cases.equal(values(read(t, 0, 10, 20)), numbered(10), "acks=" + acks);
                    }
                });
        Cases.add(
                1,
                "five small idempotent batches in flight keep their order",
                () -> {
                    String t = topic(1);
                    fill(
                            t,
                            0,
                            numbered(3000),
                            "batch.size",
                            100,
                            "linger.ms",
                            0,
                            "max.in.flight.requests.per.connection",
                            5);
                    Cases.equal(values(read(t, 0, 3000, 20)), numbered(3000), "values");
                });
        Cases.add(
                1,
                "key, null value, headers and timestamp survive",
                () -> {
                    String t = topic(1);
                    long stamp = System.currentTimeMillis() - 12345;
                    try (var p = producer()) {
                        var r = new ProducerRecord<String, String>(t, 0, stamp, "k", null);
                        r.headers()
                                .add("a", "1".getBytes())
                                .add("a", "2".getBytes())
                                .add("n", null);
                        RecordMetadata m = p.send(r).get(20, TimeUnit.SECONDS);
                        Cases.equal(m.timestamp(), stamp, "timestamp in the reply");
                    }
                    var r = read(t, 0, 1, 20).get(0);
                    Cases.check(
                            r.value() == null
                                    && r.key().equals("k")
                                    && r.timestamp() == stamp
                                    && r.headers().toArray().length == 3
                                    && r.headers().lastHeader("n").value() == null,
                            r);
                });
        Cases.add(
                1,
                "LogAppendTime: the reply and the record carry the broker's time",
                () -> {
                    String t = topic(1, "message.timestamp.type", "LogAppendTime");
                    try (var p = producer()) {
                        long got =
                                p.send(new ProducerRecord<>(t, 0, 1000L, "k", "v"))
                                        .get(20, TimeUnit.SECONDS)
                                        .timestamp();
                        Cases.check(Math.abs(got - System.currentTimeMillis()) < 60000, got);
                    }
                    Cases.equal(
                            read(t, 0, 1, 20).get(0).timestampType().toString(),
                            "LogAppendTime",
                            "type");
                });
        Cases.add(
                1,
                "offsetsForTimes, beginningOffsets and endOffsets",
                () -> {
                    String t = topic(1);
                    long base = System.currentTimeMillis() - 10000;
                    try (var p = producer()) {
                        for (int i = 0; i < 10; i++)
                            p.send(new ProducerRecord<>(t, 0, base + i * 100, "k", "v")).get();
                    }
                    try (var c = consumer("classic", unique("g"))) {
                        Cases.equal(
                                c.offsetsForTimes(Map.of(tp(t, 0), base + 350))
                                        .get(tp(t, 0))
                                        .offset(),
                                4L,
                                "between");
                        Cases.check(
                                c.offsetsForTimes(Map.of(tp(t, 0), base + 99999)).get(tp(t, 0))
                                        == null,
                                "after the end");
                        Cases.equal(
                                c.beginningOffsets(List.of(tp(t, 0))).get(tp(t, 0)),
                                0L,
                                "beginning");
                        Cases.equal(c.endOffsets(List.of(tp(t, 0))).get(tp(t, 0)), 10L, "end");
                    }
                });
        Cases.add(
                1,
                "listOffsets: earliest, latest, max timestamp, earliest local, latest tiered",
                () -> {
                    String t = topic(1);
                    long base = System.currentTimeMillis() - 10000;
                    try (var p = producer()) {
                        for (int i : List.of(5, 9, 7))
                            p.send(new ProducerRecord<>(t, 0, base + i, "k", "v")).get();
                    }
                    Cases.equal(offset(t, OffsetSpec.earliest()), 0L, "earliest");
                    Cases.equal(offset(t, OffsetSpec.latest()), 3L, "latest");
                    Cases.equal(offset(t, OffsetSpec.maxTimestamp()), 1L, "max timestamp");
                    Cases.equal(offset(t, OffsetSpec.forTimestamp(base + 6)), 1L, "by time");
                    Cases.equal(offset(t, OffsetSpec.earliestLocal()), 0L, "earliest local");
                    Cases.equal(offset(t, OffsetSpec.latestTiered()), -1L, "latest tiered");
                });
        Cases.add(
                1,
                "seek, position, and an offset out of range without a reset policy",
                () -> {
                    String t = topic(1);
                    fill(t, 0, numbered(10));
                    try (var c = consumer("classic", unique("g"), "auto.offset.reset", "none")) {
                        c.assign(List.of(tp(t, 0)));
                        c.seek(tp(t, 0), 7);
                        Cases.equal(values(take(c, 3, 20)), numbered(10).subList(7, 10), "values");
                        Cases.equal(c.position(tp(t, 0)), 10L, "position");
                        c.seek(tp(t, 0), 99);
                        Cases.fails(
                                org.apache.kafka.clients.consumer.OffsetOutOfRangeException.class,
                                () -> {
                                    for (int i = 0; i < 50; i++) c.poll(Duration.ofMillis(200));
                                    return 0;
                                });
                    }
                });
        Cases.add(
                1,
                "one consumer over 100 partitions reads everything through incremental fetch"
                    + " sessions",
                () -> {
                    String t = topic(100);
                    try (var p = producer("linger.ms", 5)) {
                        for (int i = 0; i < 10000; i++)
                            p.send(new ProducerRecord<>(t, i % 100, "k", "v" + i));
                    }
                    try (var c = consumer("classic", unique("g"))) {
                        c.assign(IntStream.range(0, 100).mapToObj(i -> tp(t, i)).toList());
                        c.seekToBeginning(c.assignment());
                        Set<String> seen = new HashSet<>(values(take(c, 10000, 30)));
                        Cases.equal(seen.size(), 10000, "first pass");
                        c.pause(IntStream.range(0, 50).mapToObj(i -> tp(t, i)).toList());
                        fill(t, 99, List.of("late"));
                        fill(t, 3, List.of("paused"));
                        Cases.equal(
                                values(take(c, 2, 3)), List.of("late"), "while half are paused");
                        c.resume(c.paused());
                        Cases.equal(values(take(c, 1, 10)), List.of("paused"), "after resume");
                    }
                });
        Cases.add(
                1,
                "a record over max.message.bytes is refused, a smaller one is taken",
                () -> {
                    String t = topic(1, "max.message.bytes", "1000");
                    try (var p = producer()) {
                        Cases.fails(
                                RecordTooLargeException.class,
                                () ->
                                        p.send(new ProducerRecord<>(t, "x".repeat(5000)))
                                                .get(20, TimeUnit.SECONDS));
                        Cases.equal(
                                p.send(new ProducerRecord<>(t, "ok"))
                                        .get(20, TimeUnit.SECONDS)
                                        .offset(),
                                0L,
                                "offset");
                    }
                });
        Cases.add(
                1,
                "a batch too large as a whole is split by the client and arrives",
                () -> {
                    String t = topic(1, "max.message.bytes", "3000");
                    fill(
                            t,
                            0,
                            IntStream.range(0, 100).mapToObj(i -> i + "x".repeat(200)).toList(),
                            "batch.size",
                            16000,
                            "linger.ms",
                            200);
                    Cases.equal(read(t, 0, 100, 20).size(), 100, "records");
                });
        Cases.add(
                1,
                "one fetch returns a batch larger than max.partition.fetch.bytes",
                () -> {
                    String t = topic(1);
                    fill(t, 0, List.of("x".repeat(500000), "y"));
                    Cases.equal(
                            read(
                                            t,
                                            0,
                                            2,
                                            20,
                                            "max.partition.fetch.bytes",
                                            1000,
                                            "fetch.max.bytes",
                                            1000)
                                    .size(),
                            2,
                            "records");
                });
        Cases.add(
                1,
                "fetch.min.bytes waits for fetch.max.wait.ms, then answers with what there is",
                () -> {
                    String t = topic(1);
                    fill(t, 0, List.of("x"));
                    long start = System.nanoTime();
                    Cases.equal(
                            read(t, 0, 1, 20, "fetch.min.bytes", 100000, "fetch.max.wait.ms", 2000)
                                    .size(),
                            1,
                            "records");
                    long ms = (System.nanoTime() - start) / 1_000_000;
                    Cases.check(ms >= 1900 && ms < 8000, "took " + ms + " ms");
                });
        Cases.add(
                1,
                "sending to an unknown topic creates it (auto.create.topics.enable)",
                () -> {
                    String t = unique("auto");
                    try (var p = producer()) {
                        p.send(new ProducerRecord<>(t, "x")).get(20, TimeUnit.SECONDS);
                    }
                    Cases.check(exists(t), "topic");
                });
        Cases.add(
                1,
                "a consumer with allow.auto.create.topics=false does not create its topic",
                () -> {
                    String t = unique("none");
                    try (var c =
                            consumer("classic", unique("g"), "allow.auto.create.topics", "false")) {
                        c.assign(List.of(tp(t, 0)));
                        take(c, 1, 2);
                    }
                    Cases.check(!exists(t), "created");
                });
        Cases.add(
                1,
                "create reports partitions, replication, id and configs; describe by name and by id"
                    + " agree",
                () -> {
                    String t = unique("j");
                    var made =
                            admin.createTopics(
                                    List.of(
                                            new NewTopic(t, Optional.of(3), Optional.empty())
                                                    .configs(Map.of("retention.ms", "1234567"))));
                    Cases.equal(get(made.numPartitions(t)), 3, "partitions");
                    Cases.equal(get(made.replicationFactor(t)), 1, "replication factor by default");
                    Cases.equal(
                            get(made.config(t)).get("retention.ms").value(), "1234567", "config");
                    Uuid id = get(made.topicId(t));
                    Cases.until(10, () -> exists(t), () -> Thread.sleep(50), () -> "visible");
                    TopicDescription byName =
                            get(admin.describeTopics(List.of(t)).topicNameValues().get(t));
                    TopicDescription byId =
                            get(
                                    admin.describeTopics(TopicCollection.ofTopicIds(List.of(id)))
                                            .topicIdValues()
                                            .get(id));
                    Cases.equal(byName.topicId(), id, "id");
                    Cases.equal(byId.name(), t, "name");
                    Cases.equal(byName.partitions().size(), 3, "partitions");
                });
        Cases.add(
                1,
                "topic errors: exists, invalid name, bad partitions, replication factor, config;"
                    + " unknown topic",
                () -> {
                    String t = topic(2);
                    Cases.fails(
                            TopicExistsException.class,
                            () ->
                                    get(
                                            admin.createTopics(
                                                            List.of(new NewTopic(t, 1, (short) 1)))
                                                    .all()));
                    Cases.fails(
                            InvalidTopicException.class,
                            () ->
                                    get(
                                            admin.createTopics(
                                                            List.of(
                                                                    new NewTopic(
                                                                            "a/b", 1, (short) 1)))
                                                    .all()));
                    Cases.fails(
                            InvalidPartitionsException.class,
                            () ->
                                    get(
                                            admin.createTopics(
                                                            List.of(
                                                                    new NewTopic(
                                                                            unique("x"),
                                                                            0,
                                                                            (short) 1)))
                                                    .all()));
                    Cases.fails(
                            InvalidReplicationFactorException.class,
                            () ->
                                    get(
                                            admin.createTopics(
                                                            List.of(
                                                                    new NewTopic(
                                                                            unique("x"),
                                                                            1,
                                                                            (short) 99)))
                                                    .all()));
                    Cases.fails(
                            InvalidConfigurationException.class,
                            () ->
                                    get(
                                            admin.createTopics(
                                                            List.of(
                                                                    new NewTopic(
                                                                                    unique("x"),
                                                                                    1,
                                                                                    (short) 1)
                                                                            .configs(
                                                                                    Map.of(
                                                                                            "retention.ms",
                                                                                            "soon"))))
                                                    .all()));
                    Cases.fails(
                            InvalidPartitionsException.class,
                            () ->
                                    get(
                                            admin.createPartitions(
                                                            Map.of(t, NewPartitions.increaseTo(2)))
                                                    .all()));
                    Cases.fails(
                            UnknownTopicOrPartitionException.class,
                            () -> get(admin.describeTopics(List.of(unique("x"))).allTopicNames()));
                    Cases.fails(
                            UnknownTopicOrPartitionException.class,
                            () -> get(admin.deleteTopics(List.of(unique("x"))).all()));
                });
        Cases.add(
                1,
                "grow a topic; delete it by name and another by id",
                () -> {
                    String t = topic(2), u = topic(1);
                    get(admin.createPartitions(Map.of(t, NewPartitions.increaseTo(5))).all());
                    Cases.until(
                            10,
                            () ->
                                    get(admin.describeTopics(List.of(t)).allTopicNames())
                                                    .get(t)
                                                    .partitions()
                                                    .size()
                                            == 5,
                            () -> Thread.sleep(50),
                            () -> "grown");
                    Uuid id =
                            get(admin.describeTopics(List.of(u)).allTopicNames()).get(u).topicId();
                    get(admin.deleteTopics(List.of(t)).all());
                    get(admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all());
                    Cases.until(
                            10,
                            () -> !exists(t) && !exists(u),
                            () -> Thread.sleep(50),
                            () -> "deleted");
                });
        Cases.add(
                1,
                "a producer carries on when its topic is deleted and created again",
                90,
                () -> {
                    String t = topic(1);
                    try (var p = producer("metadata.max.age.ms", 1000)) {
                        p.send(new ProducerRecord<>(t, "old")).get(20, TimeUnit.SECONDS);
                        get(admin.deleteTopics(List.of(t)).all());
                        Cases.until(10, () -> !exists(t), () -> Thread.sleep(50), () -> "deleted");
                        topicNamed(t, 1);
                        Thread.sleep(2000);
                        Cases.equal(
                                p.send(new ProducerRecord<>(t, "new"))
                                        .get(60, TimeUnit.SECONDS)
                                        .offset(),
                                0L,
                                "first offset");
                    }
                });
        Cases.add(
                1,
                "the cluster has an id, a controller and nodes",
                () -> {
                    var d = admin.describeCluster();
                    Cases.check(
                            !get(d.clusterId()).isEmpty()
                                    && get(d.controller()) != null
                                    && !get(d.nodes()).isEmpty(),
                            "cluster");
                });
    }

    interface Group {
        void run(String topic, String group) throws Exception;
    }

    static String shares(List<KafkaConsumer<String, String>> members) {
        return members.stream().map(c -> c.assignment().size()).sorted().toList().toString();
    }

    /**
     * Polls the members in turn (each by this thread) until their shares are these, in ascending
     * order.
     */
    static void settle(List<KafkaConsumer<String, String>> members, String want, Set<String> seen)
            throws Exception {
        Cases.until(
                45,
                () -> shares(members).equals(want),
                () -> {
                    for (var c : members)
                        c.poll(Duration.ofMillis(100)).forEach(r -> seen.add(r.value()));
                },
                () -> shares(members) + ", want " + want);
    }

    static void groups(String protocol) {
        String name = protocol + " group: ";
        Cases.add(
                2,
                name
                        + "two members share, read everything, one leaves, and a new one resumes at"
                        + " the commits",
                120,
                () -> {
                    String t = topic(4), g = unique("g");
                    for (int i = 0; i < 4; i++) {
                        int partition = i;
                        fill(
                                t,
                                i,
                                IntStream.range(0, 50).mapToObj(k -> partition + "-" + k).toList());
                    }
                    var one = consumer(protocol, g);
                    var two = consumer(protocol, g);
                    Set<String> seen = new HashSet<>();
                    one.subscribe(List.of(t));
                    two.subscribe(List.of(t));
                    settle(List.of(one, two), "[2, 2]", seen);
                    Cases.until(
                            30,
                            () -> seen.size() == 200,
                            () -> {
                                for (var c : List.of(one, two))
                                    c.poll(Duration.ofMillis(100))
                                            .forEach(r -> seen.add(r.value()));
                            },
                            seen::size);
                    one.commitSync();
                    two.commitSync();
                    two.close();
                    settle(List.of(one), "[4]", seen);
                    one.close();
                    try (var c = consumer(protocol, g)) {
                        c.subscribe(List.of(t));
                        Cases.equal(values(take(c, 1, 5)), List.of(), "after the commits");
                    }
                });
        Cases.add(
                2,
                name + "commits keep offset, metadata and leader epoch",
                () -> {
                    String t = topic(2), g = unique("g");
                    try (var c = consumer(protocol, g, "enable.auto.commit", "false")) {
                        c.subscribe(List.of(t));
                        settle(new ArrayList<>(List.of(c)), "[2]", new HashSet<>());
                        c.commitSync(
                                Map.of(tp(t, 0), new OffsetAndMetadata(7, Optional.of(0), "note")));
                        var got = c.committed(Set.of(tp(t, 0), tp(t, 1)));
                        Cases.equal(
                                got.get(tp(t, 0)),
                                new OffsetAndMetadata(7, Optional.of(0), "note"),
                                "committed");
                        Cases.check(got.get(tp(t, 1)) == null, "uncommitted partition");
                    }
                });
        Cases.add(
                2,
                name + "auto-commit on close",
                () -> {
                    String t = topic(1), g = unique("g");
                    fill(t, 0, numbered(10));
                    try (var c = consumer(protocol, g)) {
                        c.subscribe(List.of(t));
                        Cases.equal(take(c, 10, 30).size(), 10, "records");
                    }
                    Cases.equal(
                            get(admin.listConsumerGroupOffsets(g).partitionsToOffsetAndMetadata())
                                    .get(tp(t, 0))
                                    .offset(),
                            10L,
                            "committed");
                });
        Cases.add(
                2,
                name + "a commit by someone outside the group is refused while it has members",
                () -> {
                    String t = topic(1), g = unique("g");
                    try (var c = consumer(protocol, g)) {
                        c.subscribe(List.of(t));
                        settle(new ArrayList<>(List.of(c)), "[1]", new HashSet<>());
                        Cases.fails(
                                ApiException.class,
                                () ->
                                        get(
                                                admin.alterConsumerGroupOffsets(
                                                                g,
                                                                Map.of(
                                                                        tp(t, 0),
                                                                        new OffsetAndMetadata(1)))
                                                        .all()));
                    }
                });
        Cases.add(
                2,
                name
                        + "describe shows state, type, members and assignment; listed by state and"
                        + " type",
                () -> {
                    String t = topic(2), g = unique("g");
                    try (var c = consumer(protocol, g, "client.id", "who")) {
                        c.subscribe(List.of(t));
                        settle(new ArrayList<>(List.of(c)), "[2]", new HashSet<>());
                        Cases.until(
                                20,
                                () ->
                                        get(admin.describeConsumerGroups(List.of(g)).all())
                                                        .get(g)
                                                        .groupState()
                                                == GroupState.STABLE,
                                () -> c.poll(Duration.ofMillis(100)),
                                () -> "stable");
                        ConsumerGroupDescription d =
                                get(admin.describeConsumerGroups(List.of(g)).all()).get(g);
                        GroupType type =
                                protocol.equals("classic") ? GroupType.CLASSIC : GroupType.CONSUMER;
                        Cases.equal(d.type(), type, "type");
                        Cases.equal(d.members().size(), 1, "members");
                        MemberDescription m = d.members().iterator().next();
                        Cases.check(
                                m.clientId().equals("who")
                                        && !m.consumerId().isEmpty()
                                        && m.host().startsWith("/"),
                                m);
                        Cases.equal(
                                m.assignment().topicPartitions(),
                                Set.of(tp(t, 0), tp(t, 1)),
                                "assignment");
                        var listed =
                                get(
                                        admin.listGroups(
                                                        ListGroupsOptions.forConsumerGroups()
                                                                .inGroupStates(
                                                                        Set.of(GroupState.STABLE))
                                                                .withTypes(Set.of(type)))
                                                .all());
                        Cases.check(listed.stream().anyMatch(x -> x.groupId().equals(g)), "listed");
                    }
                });
        Cases.add(
                2,
                name + "delete is refused with members; then offsets and the group go",
                () -> {
                    String t = topic(2), g = unique("g");
                    try (var c = consumer(protocol, g)) {
                        c.subscribe(List.of(t));
                        settle(new ArrayList<>(List.of(c)), "[2]", new HashSet<>());
                        c.commitSync(
                                Map.of(
                                        tp(t, 0),
                                        new OffsetAndMetadata(1),
                                        tp(t, 1),
                                        new OffsetAndMetadata(2)));
                        Cases.fails(
                                GroupNotEmptyException.class,
                                () -> get(admin.deleteConsumerGroups(List.of(g)).all()));
                        Cases.fails(
                                GroupSubscribedToTopicException.class,
                                () ->
                                        get(
                                                admin.deleteConsumerGroupOffsets(
                                                                g, Set.of(tp(t, 0)))
                                                        .all()));
                    }
                    get(
                            admin.alterConsumerGroupOffsets(
                                            g, Map.of(tp(t, 0), new OffsetAndMetadata(9)))
                                    .all());
                    get(admin.deleteConsumerGroupOffsets(g, Set.of(tp(t, 1))).all());
                    Cases.equal(
                            get(admin.listConsumerGroupOffsets(g).partitionsToOffsetAndMetadata()),
                            Map.of(tp(t, 0), new OffsetAndMetadata(9)),
                            "offsets");
                    get(admin.deleteConsumerGroups(List.of(g)).all());
                    Cases.fails(
                            GroupIdNotFoundException.class,
                            () -> get(admin.deleteConsumerGroups(List.of(g)).all()));
                });
        Cases.add(
                2,
                name + "a pattern subscription follows new topics",
                90,
                () -> {
                    String prefix = unique("rx"), g = unique("g");
                    try (var c = consumer(protocol, g, "metadata.max.age.ms", 1000)) {
                        c.subscribe(Pattern.compile(prefix + ".*"));
                        take(c, 1, 1);
                        topicNamed(prefix + "-a", 1);
                        fill(prefix + "-a", 0, List.of("a"));
                        Cases.equal(values(take(c, 1, 40)), List.of("a"), "records");
                    }
                });
        Cases.add(
                2,
                name + "a static member that returns keeps its partitions and disturbs nobody",
                120,
                () -> {
                    String t = topic(4), g = unique("g");
                    List<Integer> revoked = Collections.synchronizedList(new ArrayList<>());
                    var one = consumer(protocol, g, "group.instance.id", "one");
                    var two = consumer(protocol, g, "group.instance.id", "two");
                    one.subscribe(
                            List.of(t),
                            new ConsumerRebalanceListener() {
                                public void onPartitionsRevoked(Collection<TopicPartition> ps) {
                                    revoked.add(ps.size());
                                }

                                public void onPartitionsAssigned(Collection<TopicPartition> ps) {}
                            });
                    two.subscribe(List.of(t));
                    settle(List.of(one, two), "[2, 2]", new HashSet<>());
                    for (int i = 0; i < 10; i++) {
                        one.poll(Duration.ofMillis(100));
                        two.poll(Duration.ofMillis(100));
                    }
                    Set<TopicPartition> held = new HashSet<>(two.assignment());
                    int before = revoked.size();
                    two.close();
                    var again = consumer(protocol, g, "group.instance.id", "two");
                    again.subscribe(List.of(t));
                    settle(List.of(one, again), "[2, 2]", new HashSet<>());
                    Cases.equal(again.assignment(), held, "partitions");
                    Cases.equal(revoked.size(), before, "revocations of the other");
                    one.close();
                    again.close();
                });
    }

    static void classicGroups() {
        for (String assignor :
                List.of(
                        "RangeAssignor",
                        "RoundRobinAssignor",
                        "StickyAssignor",
                        "CooperativeStickyAssignor"))
            Cases.add(
                    2,
                    "classic group: " + assignor + " shares six partitions",
                    90,
                    () -> {
                        String t = topic(6), g = unique("g");
                        var one =
                                consumer(
                                        "classic",
                                        g,
                                        "partition.assignment.strategy",
                                        "org.apache.kafka.clients.consumer." + assignor);
                        var two =
                                consumer(
                                        "classic",
                                        g,
                                        "partition.assignment.strategy",
                                        "org.apache.kafka.clients.consumer." + assignor);
                        List<Integer> revoked = new ArrayList<>();
                        one.subscribe(
                                List.of(t),
                                new ConsumerRebalanceListener() {
                                    public void onPartitionsRevoked(Collection<TopicPartition> ps) {
                                        if (!ps.isEmpty()) revoked.add(ps.size());
                                    }

                                    public void onPartitionsAssigned(
                                            Collection<TopicPartition> ps) {}
                                });
                        settle(List.of(one), "[6]", new HashSet<>());
                        two.subscribe(List.of(t));
                        settle(List.of(one, two), "[3, 3]", new HashSet<>());
                        Cases.equal(
                                revoked.get(0),
                                assignor.startsWith("Coop") ? 3 : 6,
                                "first revocation");
                        one.close();
                        two.close();
                    });
        Cases.add(
                2,
                "classic group: a second holder of an instance id fences the first",
                90,
                () -> {
                    String t = topic(2), g = unique("g");
                    var one = consumer("classic", g, "group.instance.id", "same");
                    one.subscribe(List.of(t));
                    settle(List.of(one), "[2]", new HashSet<>());
                    var two = consumer("classic", g, "group.instance.id", "same");
                    two.subscribe(List.of(t));
                    Cases.fails(
                            FencedInstanceIdException.class,
                            () -> {
                                for (int i = 0; i < 150; i++) {
                                    two.poll(Duration.ofMillis(100));
                                    one.poll(Duration.ofMillis(100));
                                }
                                return 0;
                            });
                    two.close();
                });
        Cases.add(
                2,
                "classic group: the admin removes a static member",
                60,
                () -> {
                    String t = topic(2), g = unique("g");
                    var one =
                            consumer(
                                    "classic",
                                    g,
                                    "group.instance.id",
                                    "gone",
                                    "session.timeout.ms",
                                    30000);
                    one.subscribe(List.of(t));
                    settle(List.of(one), "[2]", new HashSet<>());
                    one.close(); // a static member leaves no LeaveGroup behind
                    Cases.equal(
                            get(admin.describeConsumerGroups(List.of(g)).all())
                                    .get(g)
                                    .members()
                                    .size(),
                            1,
                            "members after close");
                    get(
                            admin.removeMembersFromConsumerGroup(
                                            g,
                                            new RemoveMembersFromConsumerGroupOptions(
                                                    List.of(new MemberToRemove("gone"))))
                                    .all());
                    Cases.equal(
                            get(admin.describeConsumerGroups(List.of(g)).all())
                                    .get(g)
                                    .members()
                                    .size(),
                            0,
                            "members after removal");
                });
    }

    static void newGroups() {
        Cases.add(
                2,
                "consumer group: a broker-side RE2J pattern finds its topics",
                60,
                () -> {
                    String prefix = unique("re2j"), g = unique("g");
                    topicNamed(prefix + "-a", 1);
                    fill(prefix + "-a", 0, List.of("a"));
                    try (var c = consumer("consumer", g)) {
                        c.subscribe(new SubscriptionPattern(prefix + "-.*"));
                        Cases.equal(values(take(c, 1, 40)), List.of("a"), "records");
                    }
                });
        Cases.add(
                2,
                "consumer group: a bad RE2J pattern is refused",
                () -> {
                    try (var c = consumer("consumer", unique("g"))) {
                        c.subscribe(new SubscriptionPattern("(unclosed"));
                        Cases.fails(InvalidRegularExpression.class, () -> take(c, 1, 20));
                    }
                });
        Cases.add(
                2,
                "consumer group: an unknown server-side assignor is refused",
                () -> {
                    String t = topic(1);
                    try (var c =
                            consumer("consumer", unique("g"), "group.remote.assignor", "nope")) {
                        c.subscribe(List.of(t));
                        Cases.fails(UnsupportedAssignorException.class, () -> take(c, 1, 20));
                    }
                });
        Cases.add(
                2,
                "consumer group: rolling upgrade, a new member joins a classic group and both"
                    + " share",
                90,
                () -> {
                    String t = topic(4), g = unique("g");
                    var old = consumer("classic", g);
                    old.subscribe(List.of(t));
                    settle(List.of(old), "[4]", new HashSet<>());
                    var fresh = consumer("consumer", g);
                    fresh.subscribe(List.of(t));
                    settle(List.of(old, fresh), "[2, 2]", new HashSet<>());
                    Cases.equal(
                            get(admin.describeConsumerGroups(List.of(g)).all()).get(g).type(),
                            GroupType.CONSUMER,
                            "type");
                    old.close();
                    settle(List.of(fresh), "[4]", new HashSet<>());
                    fresh.close();
                });
        Cases.add(
                2,
                "consumer group: group configs (session timeout, heartbeat) can be set and"
                    + " described",
                () -> {
                    String g = unique("g");
                    var r = new ConfigResource(ConfigResource.Type.GROUP, g);
                    get(
                            admin.incrementalAlterConfigs(
                                            Map.of(
                                                    r,
                                                    List.of(
                                                            new AlterConfigOp(
                                                                    new ConfigEntry(
                                                                            "consumer.session.timeout.ms",
                                                                            "50000"),
                                                                    AlterConfigOp.OpType.SET))))
                                    .all());
                    Cases.until(
                            10,
                            () ->
                                    get(admin.describeConfigs(List.of(r)).all())
                                            .get(r)
                                            .get("consumer.session.timeout.ms")
                                            .value()
                                            .equals("50000"),
                            () -> Thread.sleep(100),
                            () -> "set");
                });
        Cases.add(
                2,
                "an empty classic group turns into a consumer group and keeps its offsets",
                60,
                () -> {
                    String t = topic(1), g = unique("g");
                    fill(t, 0, numbered(10));
                    try (var c = consumer("classic", g, "enable.auto.commit", "false")) {
                        c.subscribe(List.of(t));
                        take(c, 10, 20);
                        c.commitSync(Map.of(tp(t, 0), new OffsetAndMetadata(6)));
                    }
                    try (var c = consumer("consumer", g)) {
                        c.subscribe(List.of(t));
                        Cases.equal(values(take(c, 4, 20)), numbered(10).subList(6, 10), "values");
                    }
                });
    }

    static KafkaProducer<String, String> transactional(String id, Object... pairs) {
        List<Object> all = new ArrayList<>(List.of(pairs));
        all.addAll(List.of("transactional.id", id));
        var p = producer(all.toArray());
        p.initTransactions();
        return p;
    }

    static final Object[] COMMITTED = {"isolation.level", "read_committed"};

    static void transactions() {
        Cases.add(
                3,
                "aborted records are invisible to read_committed",
                () -> {
                    String t = topic(1);
                    try (var p = transactional(unique("tx"))) {
                        p.beginTransaction();
                        p.send(new ProducerRecord<>(t, "bad"));
                        p.flush();
                        p.abortTransaction();
                        p.beginTransaction();
                        p.send(new ProducerRecord<>(t, "good"));
                        p.commitTransaction();
                    }
                    Cases.equal(
                            values(read(t, 0, 2, 4, COMMITTED)), List.of("good"), "read_committed");
                    Cases.equal(
                            values(read(t, 0, 2, 20)), List.of("bad", "good"), "read_uncommitted");
                    Cases.until(
                            10,
                            () -> offset(t, OffsetSpec.latest()) == 4L,
                            () -> Thread.sleep(50),
                            () -> "log end with two markers");
                });
        Cases.add(
                3,
                "two open transactions: the last stable offset follows the oldest",
                () -> {
                    String t = topic(1);
                    try (var a = transactional(unique("tx"));
                            var b = transactional(unique("tx"))) {
                        a.beginTransaction();
                        b.beginTransaction();
                        a.send(new ProducerRecord<>(t, "a")).get();
                        b.send(new ProducerRecord<>(t, "b")).get();
                        b.commitTransaction();
                        Cases.equal(
                                offset(t, 0, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED),
                                0L,
                                "stable");
                        a.commitTransaction();
                        // EndTxn is answered when the decision is logged; the markers follow
                        Cases.until(
                                10,
                                () ->
                                        offset(
                                                        t,
                                                        0,
                                                        OffsetSpec.latest(),
                                                        IsolationLevel.READ_COMMITTED)
                                                == 4L,
                                () -> Thread.sleep(50),
                                () -> "stable after both");
                    }
                    Cases.equal(values(read(t, 0, 2, 20, COMMITTED)), List.of("a", "b"), "values");
                });
        for (String protocol : List.of("classic", "consumer"))
            Cases.add(
                    3,
                    protocol + " group: consume, transform, produce is all or nothing",
                    90,
                    () -> {
                        String in = topic(1), out = topic(3), g = unique("g");
                        fill(in, 0, numbered(20));
                        try (var c = consumer(protocol, g, "enable.auto.commit", "false");
                                var p = transactional(unique("tx"))) {
                            c.subscribe(List.of(in));
                            var got = take(c, 20, 30);
                            for (boolean commit : List.of(false, true)) {
                                p.beginTransaction();
                                for (int i = 0; i < got.size(); i++)
                                    p.send(
                                            new ProducerRecord<>(
                                                    out,
                                                    i % 3,
                                                    "k",
                                                    commit ? got.get(i).value() : "bad"));
                                p.sendOffsetsToTransaction(
                                        Map.of(tp(in, 0), new OffsetAndMetadata(20)),
                                        c.groupMetadata());
                                if (commit) p.commitTransaction();
                                else p.abortTransaction();
                                OffsetAndMetadata now =
                                        c.committed(Set.of(tp(in, 0))).get(tp(in, 0));
                                Cases.check(
                                        commit ? now.offset() == 20 : now == null,
                                        "committed " + now);
                            }
                        }
                        List<String> all = new ArrayList<>();
                        for (int i = 0; i < 3; i++)
                            all.addAll(values(read(out, i, 8, 4, COMMITTED)));
                        Cases.equal(new TreeSet<>(all), new TreeSet<>(numbered(20)), "values");
                        Cases.equal(all.size(), 20, "count");
                    });
        Cases.add(
                3,
                "a zombie is fenced on send, on commit and on offsets",
                () -> {
                    String t = topic(1), id = unique("tx");
                    var old = transactional(id);
                    old.beginTransaction();
                    old.send(new ProducerRecord<>(t, "zombie")).get();
                    try (var fresh = transactional(id)) {
                        Cases.fails(
                                ApiException.class,
                                () -> {
                                    old.send(new ProducerRecord<>(t, "more")).get();
                                    return 0;
                                });
                        Cases.fails(
                                KafkaException.class,
                                () -> {
                                    old.commitTransaction();
                                    return 0;
                                });
                        fresh.beginTransaction();
                        fresh.send(new ProducerRecord<>(t, "alive"));
                        fresh.commitTransaction();
                    }
                    old.close(Duration.ZERO);
                    Cases.equal(values(read(t, 0, 2, 4, COMMITTED)), List.of("alive"), "values");
                });
        Cases.add(
                3,
                "a stale group member's offsets are refused (KIP-447)",
                60,
                () -> {
                    String t = topic(2), g = unique("g");
                    try (var c = consumer("classic", g, "enable.auto.commit", "false");
                            var d = consumer("classic", g);
                            var p = transactional(unique("tx"))) {
                        c.subscribe(List.of(t));
                        settle(List.of(c), "[2]", new HashSet<>());
                        ConsumerGroupMetadata stale = c.groupMetadata();
                        d.subscribe(List.of(t));
                        settle(List.of(c, d), "[1, 1]", new HashSet<>());
                        p.beginTransaction();
                        p.send(new ProducerRecord<>(t, 0, "k", "x"));
                        Cases.fails(
                                CommitFailedException.class,
                                () -> {
                                    p.sendOffsetsToTransaction(
                                            Map.of(tp(t, 0), new OffsetAndMetadata(1)), stale);
                                    p.commitTransaction();
                                    return 0;
                                });
                        p.abortTransaction();
                    }
                });
        Cases.add(
                3,
                "a transaction over its timeout is aborted and the producer learns it",
                90,
                () -> {
                    String t = topic(1);
                    var p = transactional(unique("tx"), "transaction.timeout.ms", 2000);
                    p.beginTransaction();
                    p.send(new ProducerRecord<>(t, "late")).get();
                    fill(t, 0, List.of("next"));
                    Cases.equal(values(read(t, 0, 1, 45, COMMITTED)), List.of("next"), "values");
                    Cases.fails(
                            KafkaException.class,
                            () -> {
                                p.commitTransaction();
                                return 0;
                            });
                    p.close(Duration.ZERO);
                });
        Cases.add(
                3,
                "transaction.timeout.ms above the broker's maximum is refused",
                () ->
                        Cases.check(
                                Cases.fails(
                                                KafkaException.class,
                                                () ->
                                                        transactional(
                                                                unique("tx"),
                                                                "transaction.timeout.ms",
                                                                100_000_000))
                                        .getMessage()
                                        .contains("timeout is larger"),
                                "message"));
        Cases.add(
                3,
                "a hundred transactions over four partitions commit or abort exactly",
                90,
                () -> {
                    String t = topic(4);
                    List<String> want = new ArrayList<>();
                    try (var p = transactional(unique("tx"))) {
                        for (int i = 0; i < 100; i++) {
                            p.beginTransaction();
                            for (int k = 0; k < 4; k++) {
                                p.send(new ProducerRecord<>(t, k, "k", i + "-" + k));
                                if (i % 4 != 3) want.add(i + "-" + k);
                            }
                            if (i % 4 == 3) {
                                p.flush();
                                p.abortTransaction();
                            } else p.commitTransaction();
                        }
                    }
                    List<String> got = new ArrayList<>();
                    for (int k = 0; k < 4; k++) got.addAll(values(read(t, k, 75, 20, COMMITTED)));
                    Cases.equal(new TreeSet<>(got), new TreeSet<>(want), "values");
                    Cases.equal(got.size(), want.size(), "count");
                });
        Cases.add(
                3,
                "an abort right after the error of one record lets the producer go on",
                () -> {
                    String t = topic(1, "max.message.bytes", "1000");
                    try (var p = transactional(unique("tx"))) {
                        p.beginTransaction();
                        Cases.fails(
                                RecordTooLargeException.class,
                                () -> p.send(new ProducerRecord<>(t, "x".repeat(5000))).get());
                        p.abortTransaction();
                        p.beginTransaction();
                        p.send(new ProducerRecord<>(t, "ok")).get();
                        p.commitTransaction();
                    }
                    Cases.equal(values(read(t, 0, 1, 20, COMMITTED)), List.of("ok"), "values");
                });
        Cases.add(
                3,
                "list and describe transactions, describe producers, fence by the admin",
                () -> {
                    String t = topic(1), id = unique("tx");
                    var p = transactional(id);
                    p.beginTransaction();
                    p.send(new ProducerRecord<>(t, "x")).get();
                    var listed =
                            get(
                                    admin.listTransactions(
                                                    new ListTransactionsOptions()
                                                            .filterStates(
                                                                    Set.of(
                                                                            TransactionState
                                                                                    .ONGOING)))
                                            .all());
                    Cases.check(
                            listed.stream().anyMatch(l -> l.transactionalId().equals(id)),
                            "listed");
                    TransactionDescription d =
                            get(admin.describeTransactions(List.of(id)).description(id));
                    Cases.equal(d.state(), TransactionState.ONGOING, "state");
                    Cases.equal(d.topicPartitions(), Set.of(tp(t, 0)), "partitions");
                    ProducerState s =
                            get(admin.describeProducers(List.of(tp(t, 0)))
                                            .partitionResult(tp(t, 0)))
                                    .activeProducers()
                                    .get(0);
                    Cases.equal(s.producerId(), d.producerId(), "producer id");
                    Cases.equal(
                            s.currentTransactionStartOffset().getAsLong(), 0L, "transaction start");
                    get(admin.fenceProducers(List.of(id)).all());
                    Cases.fails(
                            KafkaException.class,
                            () -> {
                                p.commitTransaction();
                                return 0;
                            });
                    p.close(Duration.ZERO);
                    Cases.until(
                            10,
                            () ->
                                    offset(t, 0, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
                                            == 2L,
                            () -> Thread.sleep(100),
                            () -> "aborted");
                });
    }

    static Config described(ConfigResource r) throws Exception {
        return get(admin.describeConfigs(List.of(r)).all()).get(r);
    }

    static void alter(ConfigResource r, String key, String value, AlterConfigOp.OpType op)
            throws Exception {
        get(
                admin.incrementalAlterConfigs(
                                Map.of(
                                        r,
                                        List.of(
                                                new AlterConfigOp(
                                                        new ConfigEntry(key, value), op))))
                        .all());
    }

    static void administration() {
        Cases.add(
                4,
                "topic configs: sources, set, append, subtract, delete, refusal, validate only",
                () -> {
                    var r =
                            new ConfigResource(
                                    ConfigResource.Type.TOPIC, topic(1, "retention.ms", "12345"));
                    Config c = described(r);
                    Cases.equal(
                            c.get("retention.ms").source(),
                            ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG,
                            "source of a set value");
                    Cases.equal(
                            c.get("cleanup.policy").source(),
                            ConfigEntry.ConfigSource.DEFAULT_CONFIG,
                            "source of a default");
                    Cases.check(c.entries().size() > 20, c.entries().size());
                    alter(r, "retention.ms", "777", AlterConfigOp.OpType.SET);
                    alter(r, "cleanup.policy", "compact", AlterConfigOp.OpType.APPEND);
                    Cases.until(
                            10,
                            () ->
                                    described(r)
                                                    .get("cleanup.policy")
                                                    .value()
                                                    .equals("delete,compact")
                                            && described(r)
                                                    .get("retention.ms")
                                                    .value()
                                                    .equals("777"),
                            () -> Thread.sleep(50),
                            () -> "set and appended");
                    alter(r, "cleanup.policy", "delete", AlterConfigOp.OpType.SUBTRACT);
                    alter(r, "retention.ms", null, AlterConfigOp.OpType.DELETE);
                    Cases.until(
                            10,
                            () ->
                                    described(r).get("cleanup.policy").value().equals("compact")
                                            && described(r)
                                                    .get("retention.ms")
                                                    .value()
                                                    .equals("604800000"),
                            () -> Thread.sleep(50),
                            () -> "subtracted and deleted");
                    Cases.fails(
                            InvalidConfigurationException.class,
                            () -> {
                                alter(r, "retention.ms", "soon", AlterConfigOp.OpType.SET);
                                return 0;
                            });
                    Cases.fails(
                            ApiException.class,
                            () -> {
                                alter(r, "no.such.config", "1", AlterConfigOp.OpType.SET);
                                return 0;
                            });
                    get(
                            admin.incrementalAlterConfigs(
                                            Map.of(
                                                    r,
                                                    List.of(
                                                            new AlterConfigOp(
                                                                    new ConfigEntry(
                                                                            "retention.ms", "1"),
                                                                    AlterConfigOp.OpType.SET))),
                                            new AlterConfigsOptions().validateOnly(true))
                                    .all());
                    Cases.equal(
                            described(r).get("retention.ms").value(),
                            "604800000",
                            "after validate only");
                });
        Cases.add(
                4,
                "configs with synonyms and documentation",
                () -> {
                    var r =
                            new ConfigResource(
                                    ConfigResource.Type.TOPIC, topic(1, "retention.ms", "12345"));
                    ConfigEntry e =
                            get(admin.describeConfigs(
                                                    List.of(r),
                                                    new DescribeConfigsOptions()
                                                            .includeSynonyms(true)
                                                            .includeDocumentation(true))
                                            .all())
                                    .get(r)
                                    .get("retention.ms");
                    Cases.check(
                            !e.synonyms().isEmpty()
                                    && e.synonyms().get(0).name().equals("retention.ms")
                                    && e.type() == ConfigEntry.ConfigType.LONG
                                    && e.documentation() != null,
                            e);
                });
        Cases.add(
                4,
                "broker configs: describe, change the cluster default, undo",
                () -> {
                    String node =
                            String.valueOf(
                                    get(admin.describeCluster().nodes()).iterator().next().id());
                    Cases.check(
                            described(new ConfigResource(ConfigResource.Type.BROKER, node))
                                            .get("log.retention.ms")
                                    != null,
                            "describe");
                    var all = new ConfigResource(ConfigResource.Type.BROKER, "");
                    alter(all, "log.cleaner.threads", "2", AlterConfigOp.OpType.SET);
                    Cases.until(
                            10,
                            () -> described(all).get("log.cleaner.threads") != null,
                            () -> Thread.sleep(50),
                            () -> "set");
                    alter(all, "log.cleaner.threads", null, AlterConfigOp.OpType.DELETE);
                });
        Cases.add(
                4,
                "delete records moves the log start; beyond the end is refused",
                () -> {
                    String t = topic(1);
                    fill(t, 0, numbered(10));
                    Cases.equal(
                            get(admin.deleteRecords(
                                                    Map.of(
                                                            tp(t, 0),
                                                            RecordsToDelete.beforeOffset(5)))
                                            .lowWatermarks()
                                            .get(tp(t, 0)))
                                    .lowWatermark(),
                            5L,
                            "low watermark");
                    Cases.equal(offset(t, OffsetSpec.earliest()), 5L, "earliest");
                    Cases.equal(values(read(t, 0, 5, 20)), numbered(10).subList(5, 10), "values");
                    Cases.fails(
                            org.apache.kafka.common.errors.OffsetOutOfRangeException.class,
                            () ->
                                    get(
                                            admin.deleteRecords(
                                                            Map.of(
                                                                    tp(t, 0),
                                                                    RecordsToDelete.beforeOffset(
                                                                            99)))
                                                    .all()));
                    Cases.equal(
                            get(admin.deleteRecords(
                                                    Map.of(
                                                            tp(t, 0),
                                                            RecordsToDelete.beforeOffset(-1)))
                                            .lowWatermarks()
                                            .get(tp(t, 0)))
                                    .lowWatermark(),
                            10L,
                            "all of them");
                });
        Cases.add(
                4,
                "log dirs report partition sizes and disk totals",
                () -> {
                    String t = topic(1);
                    fill(t, 0, numbered(10));
                    Cases.until(
                            20,
                            () ->
                                    get(
                                                    admin.describeLogDirs(
                                                                    List.of(
                                                                            get(admin.describeTopics(
                                                                                                    List
                                                                                                            .of(
                                                                                                                    t))
                                                                                            .allTopicNames())
                                                                                    .get(t)
                                                                                    .partitions()
                                                                                    .get(0)
                                                                                    .leader()
                                                                                    .id()))
                                                            .allDescriptions())
                                            .values()
                                            .stream()
                                            .flatMap(m -> m.values().stream())
                                            .anyMatch(
                                                    d ->
                                                            d.replicaInfos().containsKey(tp(t, 0))
                                                                    && d.replicaInfos()
                                                                                    .get(tp(t, 0))
                                                                                    .size()
                                                                            > 0
                                                                    && d.totalBytes().orElse(0)
                                                                            > 0),
                            () -> Thread.sleep(100),
                            () -> "size");
                });
        Cases.add(
                4,
                "a consumer validates its position with the leader epoch (OffsetForLeaderEpoch)",
                () -> {
                    String t = topic(1);
                    fill(t, 0, numbered(5));
                    try (var c = consumer("classic", unique("g"))) {
                        c.assign(List.of(tp(t, 0)));
                        c.seek(tp(t, 0), new OffsetAndMetadata(3, Optional.of(0), ""));
                        var got = take(c, 2, 20);
                        Cases.equal(values(got), List.of("v3", "v4"), "values");
                        Cases.check(
                                got.get(0).leaderEpoch().isPresent(),
                                "record without a leader epoch");
                    }
                });
        Cases.add(
                4,
                "preferred leader election of a healthy partition: not needed",
                () -> {
                    String t = topic(1);
                    var result =
                            get(admin.electLeaders(ElectionType.PREFERRED, Set.of(tp(t, 0)))
                                            .partitions())
                                    .get(tp(t, 0));
                    Cases.check(
                            result.isPresent()
                                    && result.get() instanceof ElectionNotNeededException,
                            result);
                });
        Cases.add(
                4,
                "reassignment onto the same replicas completes and lists as done",
                () -> {
                    String t = topic(1);
                    int id =
                            get(admin.describeTopics(List.of(t)).allTopicNames())
                                    .get(t)
                                    .partitions()
                                    .get(0)
                                    .leader()
                                    .id();
                    get(
                            admin.alterPartitionReassignments(
                                            Map.of(
                                                    tp(t, 0),
                                                    Optional.of(
                                                            new NewPartitionReassignment(
                                                                    List.of(id)))))
                                    .all());
                    Cases.until(
                            20,
                            () ->
                                    get(admin.listPartitionReassignments(Set.of(tp(t, 0)))
                                                    .reassignments())
                                            .isEmpty(),
                            () -> Thread.sleep(100),
                            () -> "done");
                });
        Cases.add(
                4,
                "client quotas: set, describe, remove",
                () -> {
                    var entity =
                            new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, unique("c")));
                    get(
                            admin.alterClientQuotas(
                                            List.of(
                                                    new ClientQuotaAlteration(
                                                            entity,
                                                            List.of(
                                                                    new ClientQuotaAlteration.Op(
                                                                            "producer_byte_rate",
                                                                            1000000.0)))))
                                    .all());
                    Cases.until(
                            10,
                            () ->
                                    Double.valueOf(1000000.0)
                                            .equals(
                                                    get(admin.describeClientQuotas(
                                                                            ClientQuotaFilter.all())
                                                                    .entities())
                                                            .getOrDefault(entity, Map.of())
                                                            .get("producer_byte_rate")),
                            () -> Thread.sleep(100),
                            () -> "set");
                    get(
                            admin.alterClientQuotas(
                                            List.of(
                                                    new ClientQuotaAlteration(
                                                            entity,
                                                            List.of(
                                                                    new ClientQuotaAlteration.Op(
                                                                            "producer_byte_rate",
                                                                            null)))))
                                    .all());
                    Cases.until(
                            10,
                            () ->
                                    !get(admin.describeClientQuotas(ClientQuotaFilter.all())
                                                    .entities())
                                            .containsKey(entity),
                            () -> Thread.sleep(100),
                            () -> "removed");
                });
        Cases.add(
                4,
                "a producer quota slows the producer through throttle times",
                60,
                () -> {
                    String t = topic(1), id = unique("slow");
                    var entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, id));
                    get(
                            admin.alterClientQuotas(
                                            List.of(
                                                    new ClientQuotaAlteration(
                                                            entity,
                                                            List.of(
                                                                    new ClientQuotaAlteration.Op(
                                                                            "producer_byte_rate",
                                                                            100000.0)))))
                                    .all());
                    Thread.sleep(1000);
                    long start = System.nanoTime();
                    fill(
                            t,
                            0,
                            Collections.nCopies(40, "x".repeat(50000)),
                            "client.id",
                            id,
                            "batch.size",
                            60000);
                    double s = (System.nanoTime() - start) / 1e9;
                    Cases.check(s > 4, "2 MB at 0.1 MB/s took only " + s + " s");
                });
        Cases.add(
                4,
                "ACLs: create, describe, delete",
                () -> {
                    String t = unique("acl");
                    var acl =
                            new AclBinding(
                                    new ResourcePattern(
                                            ResourceType.TOPIC, t, PatternType.PREFIXED),
                                    new AccessControlEntry(
                                            "User:x",
                                            "*",
                                            AclOperation.READ,
                                            AclPermissionType.ALLOW));
                    try {
                        get(admin.createAcls(List.of(acl)).all());
                    } catch (Exception e) {
                        if (e.getCause() instanceof SecurityDisabledException)
                            throw new Cases.Skip("the broker runs without an authorizer");
                        throw e;
                    }
                    Cases.until(
                            10,
                            () -> get(admin.describeAcls(acl.toFilter()).values()).contains(acl),
                            () -> Thread.sleep(100),
                            () -> "described");
                    Cases.equal(
                            get(admin.deleteAcls(List.of(acl.toFilter())).all()).size(),
                            1,
                            "deleted");
                });
        Cases.add(
                4,
                "SCRAM users: upsert, describe, delete",
                () -> {
                    String user = unique("u");
                    get(
                            admin.alterUserScramCredentials(
                                            List.of(
                                                    new UserScramCredentialUpsertion(
                                                            user,
                                                            new ScramCredentialInfo(
                                                                    ScramMechanism.SCRAM_SHA_512,
                                                                    8192),
                                                            "secret")))
                                    .all());
                    Cases.until(
                            10,
                            () -> get(admin.describeUserScramCredentials().users()).contains(user),
                            () -> Thread.sleep(100),
                            () -> "described");
                    get(
                            admin.alterUserScramCredentials(
                                            List.of(
                                                    new UserScramCredentialDeletion(
                                                            user, ScramMechanism.SCRAM_SHA_512)))
                                    .all());
                });
        Cases.add(
                4,
                "features and metadata quorum can be described",
                () -> {
                    Cases.check(
                            get(admin.describeFeatures().featureMetadata())
                                    .finalizedFeatures()
                                    .containsKey("metadata.version"),
                            "metadata.version");
                    QuorumInfo q = get(admin.describeMetadataQuorum().quorumInfo());
                    Cases.check(q.voters().size() >= 1 && q.highWatermark() > 0, q);
                });
        Cases.add(
                4,
                "a topic deleted under a group leaves it running",
                60,
                () -> {
                    String a = topic(1), b = topic(1), g = unique("g");
                    try (var c = consumer("classic", g, "metadata.max.age.ms", 1000)) {
                        c.subscribe(List.of(a, b));
                        settle(List.of(c), "[2]", new HashSet<>());
                        get(admin.deleteTopics(List.of(a)).all());
                        fill(b, 0, List.of("still"));
                        Cases.equal(values(take(c, 1, 30)), List.of("still"), "values");
                    }
                });
        Cases.add(
                4,
                "compaction keeps the last value of each key",
                120,
                () -> {
                    String t =
                            topic(
                                    1,
                                    "cleanup.policy",
                                    "compact",
                                    "segment.ms",
                                    "500",
                                    "min.cleanable.dirty.ratio",
                                    "0.01",
                                    "max.compaction.lag.ms",
                                    "1000");
                    try (var p = producer()) {
                        for (int round = 0; round < 20; round++)
                            for (int k = 0; k < 5; k++)
                                p.send(new ProducerRecord<>(t, 0, "k" + k, "" + round)).get();
                        Cases.until(
                                90,
                                () -> {
                                    p.send(new ProducerRecord<>(t, 0, "roll", "x")).get();
                                    Map<String, List<String>> got = new TreeMap<>();
                                    for (var r : read(t, 0, 500, 2))
                                        got.computeIfAbsent(r.key(), k -> new ArrayList<>())
                                                .add(r.value());
                                    return IntStream.range(0, 5)
                                            .allMatch(k -> List.of("19").equals(got.get("k" + k)));
                                },
                                () -> Thread.sleep(1000),
                                () -> "compacted");
                    }
                });
        Cases.add(
                4,
                "share group: records are delivered and acknowledged (KIP-932)",
                60,
                () -> {
                    String t = topic(2), g = unique("sg");
                    var r = new ConfigResource(ConfigResource.Type.GROUP, g);
                    try {
                        alter(r, "share.auto.offset.reset", "earliest", AlterConfigOp.OpType.SET);
                    } catch (Exception e) {
                        throw new Cases.Skip("the broker has no share groups");
                    }
                    fill(t, 0, numbered(10));
                    try (var c =
                            new KafkaShareConsumer<>(
                                    config("group.id", g),
                                    new StringDeserializer(),
                                    new StringDeserializer())) {
                        c.subscribe(List.of(t));
                        Set<String> seen = new HashSet<>();
                        Cases.until(
                                40,
                                () -> seen.size() == 10,
                                () ->
                                        c.poll(Duration.ofMillis(200))
                                                .forEach(x -> seen.add(x.value())),
                                seen::size);
                        c.commitSync();
                    }
                });
    }
}
