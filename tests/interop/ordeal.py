#!/usr/bin/env python3
"""Troubles three brokers under the load of ordinary clients, and tells what these saw.

    ordeal.py restart|pause|cut|refill|coordinator --port P --dir FOLDER [--rounds 3]
              --start 'COMMAND with {node} {kafka} {peers} {dir}'

restart  each broker is stopped and started again, one after the other
pause    one broker, or two, stand still for up to three seconds (SIGSTOP)
cut      brokers are cut off from one another: one from both others, one way, two of them, or on and off; each runs in a
         network namespace of its own, which needs root and Linux
refill   each broker loses its data directory, {dir}/data, with --gb of records, and is filled again by the others; at
         the end `verify --cluster` must find the replicas of all brokers equal
coordinator
         every ten seconds the broker that coordinates a group is killed (-9) and started again; a group of three
         members of the classic protocol (cooperative) and one of KIP-848 commit what they were given meanwhile

Broker N serves clients at the port P + N - 1 and brokers at P + N + 2. Needs confluent-kafka. Fails if a client saw an
error, if a record was lost, came twice or out of order, and, for restarts, if a partition took no writes for longer
than --longest-ms, not counting while the machine itself took none (a write and sync of ours beside it). What a group
did not commit comes again when its coordinator dies; there, nothing may be left out, and no committed offset may go
back.
"""

import argparse, collections, os, random, shlex, shutil, signal, socket, subprocess, sys, threading, time
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('trouble', choices=['restart', 'pause', 'cut', 'refill', 'coordinator'])
parser.add_argument('--port', type=int, required=True)
parser.add_argument('--dir', required=True)
parser.add_argument('--start', required=True)
parser.add_argument('--rounds', type=int, default=1)
parser.add_argument('--partitions', type=int, default=6)
parser.add_argument('--rate', type=int, default=600, help='records a second, over all partitions')
parser.add_argument('--gb', type=float, default=1.0, help='how much there is to fill a broker with')
parser.add_argument('--longest-ms', type=float, default=1000)
parser.add_argument('--seed', type=int, default=None)
a = parser.parse_args()

NODES = (1, 2, 3)
MEMBERS = 3
PROTOCOLS = {
    'classic': {'partition.assignment.strategy': 'cooperative-sticky', 'session.timeout.ms': 6000},
    'consumer': {'group.protocol': 'consumer'},
}
# librdkafka doubles the delay of its reconnects to a broker, up to 10 s, until the last one is 10 s ago
# (reconnect.backoff.max.ms). A broker that is restarted more often is seen by its clients when that delay is over,
# whatever it does; operators restart one broker of three every 15 s at most.
STEP_EVERY_S = {'restart': 5, 'coordinator': 10}
seed = a.seed if a.seed is not None else random.randrange(1 << 30)
rng = random.Random(seed)
topic = f'ordeal-{time.time_ns()}'
topics = [topic]
# A namespace for each broker, and a bridge between them in the namespace of the clients.
bridge, net = f'mpb{os.getpid()}', f'10.{128 + os.getpid() % 64}.{os.getpid() // 64 % 256}'


def host(node):
    return f'{net}.{node}' if a.trouble == 'cut' else '127.0.0.1'


kafka = {node: f'{host(node)}:{a.port + node - 1}' for node in NODES}
peers = ','.join(f'{node}@{host(node)}:{a.port + node + 2}' for node in NODES)
bootstrap = ','.join(kafka.values())
errors, processes = [], {}


def start(node):
    folder = os.path.join(a.dir, str(node))
    os.makedirs(folder, exist_ok=True)
    command = a.start.format(node=node, kafka=kafka[node], peers=peers, dir=folder)
    if a.trouble == 'cut':
        command = f'ip netns exec {bridge}-{node} {command}'
    log = open(os.path.join(folder, 'broker.log'), 'ab')
    processes[node] = subprocess.Popen(shlex.split(command), stdout=log, stderr=log)


def wait_for(what, done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f'FAIL {what}: not within {seconds} s')
        time.sleep(0.02)


def serves(node):
    try:
        socket.create_connection((host(node), a.port + node - 1), 1).close()
        return True
    except OSError:
        return False


def all_in_sync():
    known = [admin.list_topics(name, timeout=10).topics[name].partitions.values() for name in topics]
    return all(len(partitions) == a.partitions for partitions in known) and all(
        len(p.isrs) == 3 and p.leader in NODES for partitions in known for p in partitions
    )


def ip(command, node=None):
    where = ['ip', '-n', f'{bridge}-{node}'] if node else ['ip']
    subprocess.run(where + command.split(), check=True, stdout=subprocess.DEVNULL)


def lay_network():
    ip(f'link add {bridge} type bridge')
    ip(f'addr add {net}.254/24 dev {bridge}')
    ip(f'link set {bridge} up')
    for node in NODES:
        ip(f'netns add {bridge}-{node}')
        ip(f'link add {bridge}v{node} type veth peer name eth0 netns {bridge}-{node}')
        ip(f'link set {bridge}v{node} master {bridge} up')
        ip(f'addr add {host(node)}/24 dev eth0', node)
        ip('link set eth0 up', node)
        ip('link set lo up', node)


def remove_network():
    for node in NODES:
        subprocess.run(['ip', 'netns', 'del', f'{bridge}-{node}'], stderr=subprocess.DEVNULL)
    subprocess.run(['ip', 'link', 'del', bridge], stderr=subprocess.DEVNULL)


def cut(ways, seconds):
    """What the first of a pair sends to the second is lost. Clients reach all brokers all the time."""
    for sender, receiver in ways:
        ip(f'route add blackhole {host(receiver)}/32', sender)
    time.sleep(seconds)
    for sender, receiver in ways:
        ip(f'route del blackhole {host(receiver)}/32', sender)


def both(one, other):
    return [(one, other), (other, one)]


def some_cut():
    one, two, three = rng.sample(NODES, 3)
    kind = rng.choice(['alone', 'sends nothing', 'hears nothing', 'one way', 'a pair', 'on and off'])
    if kind == 'alone':
        cut(both(one, two) + both(one, three), rng.uniform(0.5, 6))
    elif kind == 'sends nothing':
        cut([(one, two), (one, three)], rng.uniform(0.5, 6))
    elif kind == 'hears nothing':
        cut([(two, one), (three, one)], rng.uniform(0.5, 6))
    elif kind == 'one way':
        cut([(one, two)], rng.uniform(0.5, 6))
    elif kind == 'a pair':
        cut(both(one, two), rng.uniform(0.5, 6))
    else:
        for _ in range(10):
            cut(both(one, two) + both(one, three), rng.uniform(0.05, 0.7))
            time.sleep(rng.uniform(0.05, 0.7))
    return f'{kind}: {one}, {two}'


def some_pause():
    paused = rng.sample(NODES, rng.choice([1, 1, 2]))
    for node in paused:
        processes[node].send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0, 0.3))
    time.sleep(rng.uniform(0.1, 3))
    for node in paused:
        processes[node].send_signal(signal.SIGCONT)
    return f'paused {paused}'


def restart(node):
    processes[node].send_signal(signal.SIGTERM)
    if processes[node].wait(60) != 0:
        errors.append(f'broker {node} ended with {processes[node].returncode}')
    start(node)
    wait_for(f'broker {node} serves again', lambda: serves(node))
    return f'restarted {node}'


def string_hash(text):
    """As Java has it, without the sign, which is how the partition of a group is chosen."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


def kill_coordinator(protocol):
    # Not asked of an admin client: librdkafka 2.16 crashes when a coordinator goes while it is asked for one.
    partitions = admin.list_topics('__consumer_offsets', timeout=10).topics['__consumer_offsets'].partitions
    node = partitions[string_hash(f'{topic}-{protocol}') % len(partitions)].leader
    processes[node].kill()
    processes[node].wait()
    start(node)
    wait_for(f'broker {node} serves again', lambda: serves(node))
    return f'killed {node}, the coordinator of the {protocol} group'


class Group:
    """Members that commit what they were given, and a look at what is committed."""

    def __init__(self, protocol):
        self.name, self.protocol = f'{topic}-{protocol}', protocol
        self.seen, self.committed = collections.defaultdict(set), {}
        self.commits, self.looks, self.back, self.again = 0, 0, [], 0
        self.threads = [threading.Thread(target=self.member, daemon=True) for _ in range(MEMBERS)]
        self.threads.append(threading.Thread(target=self.watch, daemon=True))

    def member(self):
        settings = {'group.id': self.name, 'auto.offset.reset': 'earliest', 'enable.auto.commit': False}
        settings |= {'bootstrap.servers': bootstrap, 'error_cb': client_error(f'{self.protocol} member')}
        consumer, given = Consumer(settings | PROTOCOLS[self.protocol]), 0
        consumer.subscribe([topic])
        while not consumed_all.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error():
                errors.append(f'{self.protocol} member: {message.error()}')
            elif message is not None:
                number = int(message.value())
                self.again += number in self.seen[message.partition()]
                self.seen[message.partition()].add(number)
                given += 1
                if given % 50 == 0:
                    self.commit(consumer)
        consumer.close()

    def commit(self, consumer):
        try:
            consumer.commit(asynchronous=False)
            self.commits += 1
        except KafkaException as failed:
            # A member that was put out while its coordinator was away joins again, and is given these once more.
            code = failed.args[0].code()
            put_out = (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS)
            put_out += (KafkaError.STALE_MEMBER_EPOCH, KafkaError.FENCED_MEMBER_EPOCH, KafkaError._NO_OFFSET)
            if code not in put_out and not failed.args[0].retriable() and code not in UNREACHED:
                errors.append(f'{self.protocol} commit: {failed}')

    def watch(self):
        asking = Consumer({'bootstrap.servers': bootstrap, 'group.id': self.name})
        asked = [TopicPartition(topic, partition) for partition in range(a.partitions)]
        while not consumed_all.wait(0.2):
            try:
                found = asking.committed(asked, timeout=10)
            except KafkaException:
                continue
            self.looks += 1
            for at in (at for at in found if at.offset >= 0):
                before = self.committed.get(at.partition, 0)
                if at.offset < before:
                    self.back.append((at.partition, before, at.offset))
                self.committed[at.partition] = at.offset

    def count(self):
        return sum(map(len, self.seen.values()))


def fill():
    filled = f'{topic}-filled'
    admin.create_topics([NewTopic(filled, a.partitions, 3)])[filled].result(30)
    topics.append(filled)
    wait_for('the topic is replicated', all_in_sync)
    filling = Producer(
        {
            'bootstrap.servers': bootstrap,
            'linger.ms': 20,
            'batch.size': 1 << 20,
            'acks': 'all',
            'queue.buffering.max.kbytes': 1 << 18,
            'queue.buffering.max.messages': 1 << 20,
        }
    )
    value = rng.randbytes(1 << 20)
    for number in range(int(a.gb * 1e9 / 1024)):
        start_at = number * 37 % ((1 << 20) - 1024)
        while True:
            try:
                filling.produce(filled, value[start_at : start_at + 1024], partition=number % a.partitions)
                break
            except BufferError:
                filling.poll(0.01)
        if number % 1000 == 0:
            filling.poll(0)
    if filling.flush(120):
        sys.exit('FAIL the records to fill a broker with are not written')


def folder_bytes(folder):
    files = (os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)
    return sum(os.stat(file).st_blocks * 512 for file in files)


def refill(node):
    folder = os.path.join(a.dir, str(node), 'data')
    had = folder_bytes(folder)
    processes[node].send_signal(signal.SIGTERM)
    processes[node].wait(60)
    shutil.rmtree(folder)
    slowest[:] = [0.0, None]
    begin = time.monotonic()
    start(node)
    wait_for(f'broker {node} serves again', lambda: serves(node))
    # The others name it among the replicas that are in sync when it has all that they have.
    wait_for(f'broker {node} is filled', all_in_sync, 600)
    took = time.monotonic() - begin
    return (
        f'emptied {node}: {had / 1e9:.2f} GB there again at {had / 1e6 / took:.0f} MB/s from its start on, '
        f'slowest write meanwhile {slowest[0]:.0f} ms'
    )


def verify():
    folders = [part for node in NODES for part in ('--data-dir', os.path.join(a.dir, str(node), 'data'))]
    found = subprocess.run([shlex.split(a.start)[0], 'verify', '--cluster', *folders], capture_output=True, text=True)
    print('\n'.join(found.stdout.splitlines()[-3:]))
    if found.returncode != 0:
        errors.append(f'verify --cluster: {found.stdout[-2000:]} {found.stderr}')


# That one broker's connection broke is not an error of the application: the client goes on with the others.
UNREACHED = (KafkaError._TRANSPORT, KafkaError._RESOLVE)
UNREACHED += (KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT) if a.trouble != 'restart' else ()


def client_error(who):
    return lambda error: error.code() in UNREACHED or errors.append(f'{who}: {error}')


def stop_all():
    for process in processes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
    for process in processes.values():
        process.wait()


def produce():
    number, begin = 0, time.monotonic()
    while not stopping.is_set():
        due = int((time.monotonic() - begin) * a.rate)
        while number < due:
            partition, sent = number % a.partitions, time.monotonic()
            producer.produce(
                topic,
                str(number // a.partitions).encode(),
                partition=partition,
                on_delivery=lambda error, message, sent=sent: delivered(error, message, sent),
            )
            number += 1
        producer.poll(0.005)
    producer.flush(60)
    total.append(number)


def watch_machine():
    """
    Writes and syncs a little every 20 ms, and notes when that takes longer than all that the brokers write here could
    make it: the disk has better to do, or no core is free for anybody.
    """
    with open(os.path.join(a.dir, 'probe'), 'wb', buffering=0) as probe:
        while not consumed_all.wait(0.02):
            begin = time.monotonic()
            probe.write(b'x')
            os.fdatasync(probe.fileno())
            end = time.monotonic()
            if end - begin > 0.25:
                stalls.append((begin, end))


def without_stalls(begin, end):
    return end - begin - sum(max(0, min(end, to) - max(begin, at)) for at, to in stalls)


def delivered(error, message, sent):
    if error is not None:
        errors.append(f'not delivered: {error}')
        return
    now, partition = time.monotonic(), message.partition()
    took = (now - sent) * 1000
    if took > slowest[0]:
        slowest[:] = [took, partition]
    if partition in last and now - last[partition] > 0.1:
        pauses.append((last[partition], now))
    last[partition] = now


def arrived():
    """How many records each group has been given at least once."""
    return [group.count() for group in groups] or [sum(map(len, seen.values()))]


def consume():
    while not (consumed_all.is_set()):
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error():
            errors.append(f'consumer: {message.error()}')
        else:
            seen[message.partition()].append(int(message.value()))
            if total and sum(map(len, seen.values())) >= total[0]:
                return


try:
    if a.trouble == 'cut':
        lay_network()
    for node in NODES:
        start(node)
    for node in NODES:
        wait_for(f'broker {node} serves', lambda: serves(node))
    admin = AdminClient({'bootstrap.servers': bootstrap})
    wait_for('all brokers are known', lambda: len(admin.list_topics(timeout=10).brokers) == 3)
    admin.create_topics([NewTopic(topic, a.partitions, 3, config={'min.insync.replicas': '2'})])[topic].result(30)
    wait_for('the topic is replicated', all_in_sync)
    if a.trouble == 'refill':
        fill()

    stopping, consumed_all, total = threading.Event(), threading.Event(), []
    last, pauses, stalls = {}, [], []
    slowest, seen = [0.0, None], collections.defaultdict(list)
    producer = Producer(
        {
            'bootstrap.servers': bootstrap,
            'enable.idempotence': True,
            'linger.ms': 5,
            'error_cb': client_error('producer'),
        }
    )
    consumer = Consumer(
        {
            'bootstrap.servers': bootstrap,
            'group.id': topic,
            'auto.offset.reset': 'earliest',
            'error_cb': client_error('consumer'),
        }
    )
    groups = [Group(protocol) for protocol in PROTOCOLS] if a.trouble == 'coordinator' else []
    producing = threading.Thread(target=produce, daemon=True)
    consuming = [thread for group in groups for thread in group.threads]
    if not groups:
        consumer.subscribe([topic])
        consuming = [threading.Thread(target=consume, daemon=True)]
    watching = threading.Thread(target=watch_machine, daemon=True)
    for thread in [producing, watching, *consuming]:
        thread.start()
    wait_for('records arrive', lambda: min(arrived()) > a.rate)
    for step in range(3 * a.rounds):
        begin = time.monotonic()
        node = NODES[step % 3]
        troubles = {
            'restart': lambda: restart(node),
            'pause': some_pause,
            'cut': some_cut,
            'refill': lambda: refill(node),
            'coordinator': lambda: kill_coordinator(list(PROTOCOLS)[step % 2]),
        }
        did = troubles[a.trouble]()
        took = time.monotonic() - begin
        wait_for(f'all replicas are in sync ({did})', all_in_sync)
        before = arrived()
        wait_for('records arrive', lambda: all(now > then + a.rate for now, then in zip(arrived(), before)))
        whole = time.monotonic() - begin - took
        print(f'{step + 1}: {did}, {took:.1f} s; in sync and a second of records {whole:.1f} s later', flush=True)
        for node, process in processes.items():
            if process.poll() is not None:
                sys.exit(f'FAIL broker {node} ended by itself with {process.returncode}')
        stopping.wait(max(0, begin + STEP_EVERY_S.get(a.trouble, 0) - time.monotonic()))
    stopping.set()
    producing.join()
    if groups:
        wait_for('all groups have all records', lambda: min(arrived()) == total[0])
    else:
        consuming[0].join(60)
    consumed_all.set()
    for thread in [watching, *consuming]:
        thread.join()
    consumer.close()
finally:
    stop_all()
    if a.trouble == 'cut':
        remove_network()

if a.trouble == 'refill':
    verify()
for group in groups:
    print(
        f'{group.protocol} group: {group.count()} of {total[0]} records, {group.again} given again, {group.commits} '
        f'commits, {group.looks} looks at them, {len(group.back)} committed offsets went back'
    )
    errors += [f'{group.protocol} group: committed offset of {back}' for back in group.back]
lost = total[0] - min(arrived()) if groups else total[0] - sum(len(set(values)) for values in seen.values())
twice = sum(len(values) - len(set(values)) for values in seen.values())
disordered = sum(1 for values in seen.values() for x, y in zip(values, values[1:]) if y < x)
longest = max((without_stalls(*pause) for pause in pauses), default=0) * 1000
gross = max((end - begin for begin, end in pauses), default=0) * 1000
stalled = max((end - begin for begin, end in stalls), default=0) * 1000
# The probe shares the disk and the cores with the brokers: what slows it for long may be their doing.
if a.trouble == 'restart' and (longest > a.longest_ms or gross > 3 * a.longest_ms):
    errors.append(f'a partition took no writes for {longest:.0f} ms, {gross:.0f} with the pauses of the machine')
for error in errors[:10]:
    print('FAIL', error)
good = not (errors or lost or twice or disordered)
print(
    f'{3 * a.rounds} times {a.trouble}, seed {seed}, under {total[0]} records: {len(errors)} errors, '
    f'lost {lost}, twice {twice}, out of order {disordered}; '
    f'longest pause of a partition {longest:.0f} ms, {gross:.0f} with those of the machine, '
    f'slowest write {slowest[0]:.0f} ms, '
    f'slowest sync of the machine {stalled:.0f} ms'
)
print('1 passed, 0 failed' if good else '0 passed, 1 failed')
sys.exit(0 if good else 1)
