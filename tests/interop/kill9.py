#!/usr/bin/env python3
"""Durability check: producers write with acks=all, brokers are killed with -9 and started again.

Afterwards every acknowledged record must be at its acknowledged offset, once, and each producer's records in order.

  kill9.py --start 'COMMAND with {node} {dir} {port}' [--nodes 3] [--cycles 5] [--transactions]
           [--between 'COMMAND with {node} {dir} {port}']     run while the broker is down (to damage its data, say)
           [--writer 'COMMAND with {bootstrap} {topic} {partitions} {rate} {number}']
           [--reader 'COMMAND with {bootstrap} {topic} {partitions}']

COMMAND is run by the shell in a process group of its own; it must run the broker in the foreground, keep what is in
{dir}, and serve clients on 127.0.0.1:{port}. With --nodes N the nodes get ports PORT, PORT+1 … and folders DIR/1, DIR/2
…; one random node is killed a cycle, in every fourth cycle a majority at once; topics have replication factor N and
min.insync.replicas N/2+1. Needs confluent-kafka, which `run setup` installs. Only processes started here are killed.

Records are written and read through librdkafka, or by programs: a writer sends 'number:0', 'number:1' … to the
partitions in turn and prints {"value": …, "partition": …, "offset": …} for each acknowledged one and {"value": …,
"error": …} for one of which it does not know; it ends, all told, on SIGTERM. A reader prints each record likewise, and
{"ended": partition} where a partition ends. Topics are made, and leaders waited for, through librdkafka in any case.
"""

import argparse, collections, contextlib, json, os, random, signal, subprocess, sys, tempfile, threading, time, uuid
from confluent_kafka import Consumer, KafkaError, KafkaException, OFFSET_BEGINNING, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--start', required=True)
parser.add_argument('--between')
parser.add_argument('--writer', help='a program that produces; default: librdkafka')
parser.add_argument('--reader', help='a program that reads everything; default: librdkafka')
parser.add_argument('--nodes', type=int, default=1)
parser.add_argument('--port', type=int, default=19192)
parser.add_argument('--dir', default=None)
parser.add_argument('--cycles', type=int, default=5)
parser.add_argument('--uptime-s', type=float, default=4, help='mean seconds of writing between two kills')
parser.add_argument('--producers', type=int, default=3)
parser.add_argument('--partitions', type=int, default=4)
parser.add_argument('--rate', type=int, default=2000, help='records a second and producer')
parser.add_argument(
    '--transactions', action='store_true', help='write in transactions of 20 records, a third of them aborted'
)
parser.add_argument('--start-limit-s', type=float, default=90)
parser.add_argument('--limit-s', type=float, default=600, help='the whole run')
parser.add_argument('--seed', type=int, default=None)
args = parser.parse_args()
if args.transactions and args.writer:
    parser.error('--writer knows no --transactions')

seed = args.seed if args.seed is not None else random.randrange(1 << 30)
rng = random.Random(seed)
base_dir = args.dir or tempfile.mkdtemp(prefix='millpond-kill9-')
os.makedirs(base_dir, exist_ok=True)
NODES = list(range(1, args.nodes + 1))
PORT = {n: args.port + n - 1 for n in NODES}
BOOTSTRAP = ','.join(f'127.0.0.1:{PORT[n]}' for n in NODES)
CLIENT = {
    'bootstrap.servers': BOOTSTRAP,
    'log_level': 0,
    'reconnect.backoff.max.ms': 500,
    'socket.connection.setup.timeout.ms': 2000,
}
TOPIC = 'kill9-' + uuid.uuid4().hex[:8]
processes = {}
programs = []


def folder(node):
    path = os.path.join(base_dir, str(node)) if args.nodes > 1 else base_dir
    os.makedirs(path, exist_ok=True)
    return path


def fill_in(command, node):
    return command.replace('{node}', str(node)).replace('{dir}', folder(node)).replace('{port}', str(PORT[node]))


def start(node):
    log = open(f'{base_dir}.broker-{node}.out', 'ab')
    processes[node] = subprocess.Popen(
        fill_in(args.start, node), shell=True, stdout=log, stderr=log, start_new_session=True
    )


def kill(node):
    process = processes.pop(node, None)
    if process:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # the group of the process that start() made
        except ProcessLookupError:
            pass  # it has ended by itself
        process.wait()


def end_all():
    for node in list(processes):
        kill(node)
    for process in programs:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def serving(limit_s):
    """Waits until every partition of the topic (or, before there is one, the cluster) names a leader."""
    begin = time.monotonic()
    while time.monotonic() - begin < limit_s:
        for node, process in processes.items():
            if process.poll() is not None:
                raise SystemExit(
                    f'FAIL broker {node} ended by itself with {process.returncode}: '
                    f'see {base_dir}.broker-{node}.out\n0 passed, 1 failed'
                )
        admin = AdminClient(CLIENT)
        try:
            topics = admin.list_topics(timeout=2).topics
            if TOPIC not in topics or all(p.leader >= 0 for p in topics[TOPIC].partitions.values()):
                return
        except KafkaException:
            pass
        time.sleep(0.2)
    raise SystemExit(f'FAIL no broker serves within {limit_s:.0f} s: see {base_dir}\n0 passed, 1 failed')


lock = threading.Lock()
acked = {}  # value -> (partition, offset)
uncertain = set()  # sent, fate unknown: may be there or not
aborted = set()
stop = threading.Event()


class Writer(threading.Thread):
    """Values are 'writer:number'; the numbers of a writer in a partition must stay in order."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.number, self.next, self.trouble = number, 0, None

    def make(self):
        config = {
            **CLIENT,
            'enable.idempotence': True,
            'linger.ms': 2,
            'delivery.timeout.ms': 120000,
            'retry.backoff.ms': 50,
            'retry.backoff.max.ms': 500,
            'request.timeout.ms': 5000,
        }
        if args.transactions:
            config.update(
                {
                    'transactional.id': f'{TOPIC}-{self.number}',
                    'transaction.timeout.ms': 30000,
                    'delivery.timeout.ms': 25000,
                }
            )
        producer = Producer(config)
        if args.transactions:
            producer.init_transactions(60)
        return producer

    def delivered(self, error, message):
        with lock:
            if error is None:
                acked[message.value().decode()] = (message.partition(), message.offset())
            else:
                uncertain.add(message.value().decode())

    def send(self, producer, partition):
        value = f'{self.number}:{self.next}'
        self.next += 1
        producer.produce(TOPIC, value, partition=partition, on_delivery=self.delivered)
        producer.poll(0)
        return value

    def run(self):
        producer = None
        while not stop.is_set():
            batch = []
            try:
                producer = producer or self.make()
                if not args.transactions:
                    self.send(producer, self.next % args.partitions)
                    if self.next % 50 == 0:
                        producer.poll(50 / args.rate)
                    continue
                producer.begin_transaction()
                for _ in range(20):
                    batch.append(self.send(producer, rng.randrange(args.partitions)))
                if rng.random() < 0.3:
                    producer.flush(30)
                    producer.abort_transaction(60)
                    with lock:
                        aborted.update(batch)
                else:
                    with lock:
                        uncertain.update(batch)
                    producer.commit_transaction(60)
                    with lock:
                        uncertain.difference_update(batch)
            except BufferError:
                producer.poll(0.2)
            except KafkaException as error:
                self.trouble = error
                with lock:
                    uncertain.update(v for v in batch if v not in aborted)
                producer = None  # a new one fences the old and aborts what it left
                time.sleep(0.2)
        if producer:
            producer.flush(90)


def program(command, **more):
    """Starts a program that writes or reads, in a process group of its own."""
    places = {'bootstrap': BOOTSTRAP, 'topic': TOPIC, 'partitions': args.partitions, 'rate': args.rate, **more}
    for name, value in places.items():
        command = command.replace('{' + name + '}', str(value))
    log = open(f'{base_dir}.client.out', 'ab')
    process = subprocess.Popen(
        command, shell=True, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
    )
    programs.append(process)
    return process


class WritingProgram(threading.Thread):
    """Believes what the program of --writer says."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.trouble = self.broken = None
        self.process = program(args.writer, number=number)

    def run(self):
        for line in self.process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                self.broken = f'a writer says what is no JSON: {line!r}'
                continue
            with lock:
                if 'error' in told:
                    self.trouble = told['error']
                    uncertain.add(told['value'])
                else:
                    acked[told['value']] = (told['partition'], told['offset'])
        code = self.process.wait()
        if code or not stop.is_set():
            self.trouble = self.broken = f'a writer ended by itself with {code}: see {base_dir}.client.out'

    def finish(self):
        with contextlib.suppress(ProcessLookupError):  # it has ended, and says so above
            os.killpg(self.process.pid, signal.SIGTERM)


def read_by_program():
    """As read_all."""
    seen, ended = collections.defaultdict(list), set()
    reader = program(args.reader)
    for line in reader.stdout:
        told = json.loads(line)
        if 'ended' in told:
            ended.add(told['ended'])
        else:
            seen[told['value']].append((told['partition'], told['offset']))
    if code := reader.wait():
        print(f'the reader ended with {code}: see {base_dir}.client.out', flush=True)
        ended.clear()
    return seen, ended


def read_all():
    """value -> [(partition, offset)], and the partitions whose end was reached."""
    if args.reader:
        return read_by_program()
    consumer = Consumer(
        {
            **CLIENT,
            'group.id': TOPIC,
            'enable.auto.commit': False,
            'enable.partition.eof': True,
            'check.crcs': True,
            'isolation.level': 'read_committed' if args.transactions else 'read_uncommitted',
        }
    )
    consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in range(args.partitions)])
    seen, ended, end = collections.defaultdict(list), set(), time.monotonic() + 120
    while len(ended) < args.partitions and time.monotonic() < end:
        for m in consumer.consume(1000, 0.5):
            if not m.error():
                seen[m.value().decode()].append((m.partition(), m.offset()))
            elif m.error().code() == KafkaError._PARTITION_EOF:
                ended.add(m.partition())
    consumer.close()
    return seen, ended


results = collections.Counter()


def check(name, ok, detail=''):
    results['passed' if ok else 'failed'] += 1
    print(f'{"PASS" if ok else "FAIL"} kill9: {name}' + (f': {detail}' if detail and not ok else ''), flush=True)


def out_of_time():
    print(f'FAIL kill9: time limit: {args.limit_s:.0f} s\n0 passed, 1 failed, 0 skipped', flush=True)
    end_all()
    os._exit(1)


def main():
    timer = threading.Timer(args.limit_s, out_of_time)
    timer.daemon = True
    timer.start()
    print(f'seed {seed}, data in {base_dir}', flush=True)
    for node in NODES:
        start(node)
    serving(args.start_limit_s)
    admin = AdminClient(CLIENT)
    topic = NewTopic(TOPIC, args.partitions, args.nodes, config={'min.insync.replicas': str(args.nodes // 2 + 1)})
    end = time.monotonic() + 60
    while True:  # a cluster may need a moment until all its nodes are in
        try:
            admin.create_topics([topic])[TOPIC].result(20)
            break
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                break
            if time.monotonic() > end:
                raise
            time.sleep(1)
    time.sleep(1)
    writers = [(WritingProgram if args.writer else Writer)(n) for n in range(args.producers)]
    for writer in writers:
        writer.start()
    for cycle in range(1, args.cycles + 1):
        time.sleep(args.uptime_s * rng.uniform(0.5, 1.5))
        before = len(acked)
        count = args.nodes // 2 + 1 if args.nodes > 1 and cycle % 4 == 0 else 1
        victims = rng.sample(NODES, count)
        for node in victims:
            kill(node)
        time.sleep(rng.uniform(0.1, 1) + (3 if args.nodes > 1 else 0))
        while_down = len(acked) - before
        base, begin = len(acked), time.monotonic()
        for node in victims:
            if args.between:
                subprocess.run(fill_in(args.between, node), shell=True, check=True)
            start(node)
        serving(args.start_limit_s)
        end = time.monotonic() + args.start_limit_s
        while len(acked) == base and time.monotonic() < end:
            time.sleep(0.05)
        took = time.monotonic() - begin
        print(
            f'cycle {cycle}: killed {victims}, acks {took:.1f} s after the restart, acked {base} ({while_down} '
            'while down)',
            flush=True,
        )
        if len(acked) == base:
            check(
                f'writes go on after cycle {cycle}',
                False,
                f'none acked within {args.start_limit_s:.0f} s, last error {[w.trouble for w in writers][:1]}',
            )
            break
    time.sleep(args.uptime_s)
    stop.set()
    for writer in writers if args.writer else ():
        writer.finish()
    for writer in writers:
        writer.join(120)
    serving(args.start_limit_s)
    seen, ended = read_all()
    with lock:
        known = {v: at for v, at in acked.items() if v not in uncertain and v not in aborted}
    lost = [v for v in known if v not in seen]
    twice = [v for v, places in seen.items() if len(places) > 1]
    # librdkafka acknowledges a batch whose answer was lost when a later one is acknowledged; it has no offset then.
    moved = [v for v, at in known.items() if v in seen and at[1] is not None and at not in seen[v]]
    offsets = collections.Counter(at for places in seen.values() for at in places)
    disorder, latest = 0, {}
    for at, value in sorted((at, v) for v, places in seen.items() for at in places):
        writer, number = map(int, value.split(':'))
        disorder += latest.get((at[0], writer), -1) >= number
        latest[at[0], writer] = number
    print(
        f'cycles {args.cycles}, acked {len(known)}, seen {len(seen)}, uncertain {len(uncertain)}, aborted '
        f'{len(aborted)}, '
        f'lost {len(lost)}, duplicated {len(twice)}, moved {len(moved)}, out of order {disorder}',
        flush=True,
    )
    if args.writer:
        silent = [w.broken for w in writers if w.broken or w.is_alive()]
        check('every writer has told of all its records', not silent, silent)
        placed = sum(offset is not None for _, offset in known.values())
        check('most acknowledgements say where the record is', placed > 0.9 * len(known), f'{placed} of {len(known)}')
    check(
        'every partition can be read to its end', len(ended) == args.partitions, f'{sorted(ended)} of {args.partitions}'
    )
    check('something was acknowledged', len(known) > 100 * args.cycles, len(known))
    check('no acknowledged record is lost', not lost, f'{len(lost)}, first {sorted(lost)[:3]}')
    check('no record is there twice (idempotent producers)', not twice, f'{len(twice)}, first {twice[:3]}')
    check(
        'every acknowledged record is at its acknowledged offset',
        not moved,
        f'{len(moved)}, first {[(v, known[v], seen[v]) for v in moved[:2]]}',
    )
    check('one record per offset', max(offsets.values(), default=1) == 1)
    check('each producer\'s records are in order in each partition', disorder == 0, f'{disorder} inversions')
    if args.transactions:
        check(
            'no aborted record is visible to read_committed',
            not any(v in seen for v in aborted),
            [v for v in aborted if v in seen][:3],
        )
    end_all()
    print(f'{results["passed"]} passed, {results["failed"]} failed, 0 skipped', flush=True)
    os._exit(1 if results['failed'] else 0)


try:
    main()
except SystemExit as error:
    end_all()
    print(error.code if isinstance(error.code, str) else '0 passed, 1 failed, 0 skipped', flush=True)
    os._exit(1)
except BaseException:
    end_all()
    raise
