#!/usr/bin/env python3
"""Restarts three brokers one after the other under the load of ordinary clients, and tells what these saw.

    rolling_restart.py --port P --dir FOLDER --start 'COMMAND with {node} {port} {dir}' [--rounds 1]

Broker N serves clients at P + N - 1. Needs confluent-kafka. Fails if a client saw an error, if a record was lost, came
twice or out of order, or if a partition took no writes for longer than --longest-ms.
"""
import argparse, collections, os, shlex, signal, socket, subprocess, sys, threading, time
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--port', type=int, required=True)
parser.add_argument('--dir', required=True)
parser.add_argument('--start', required=True)
parser.add_argument('--rounds', type=int, default=1)
parser.add_argument('--partitions', type=int, default=6)
parser.add_argument('--rate', type=int, default=600, help='records a second, over all partitions')
parser.add_argument('--longest-ms', type=float, default=1000)
a = parser.parse_args()

NODES = (1, 2, 3)
bootstrap = ','.join(f'127.0.0.1:{a.port + node - 1}' for node in NODES)
topic = f'rolling-{time.time_ns()}'
errors, processes = [], {}


def start(node):
    folder = os.path.join(a.dir, str(node))
    os.makedirs(folder, exist_ok=True)
    command = a.start.format(node=node, port=a.port + node - 1, dir=folder)
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
        socket.create_connection(('127.0.0.1', a.port + node - 1), 1).close()
        return True
    except OSError:
        return False


def all_in_sync():
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions.values()
    return len(partitions) == a.partitions and all(len(p.isrs) == 3 and p.leader in NODES for p in partitions)


def client_error(who):
    # That one broker's connection broke is not an error of the application: the client goes on with the others.
    transport = (KafkaError._TRANSPORT, KafkaError._RESOLVE)
    return lambda error: error.code() in transport or errors.append(f'{who}: {error}')


def stop_all():
    for process in processes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes.values():
        process.wait()


def produce():
    number, begin = 0, time.monotonic()
    while not stopping.is_set():
        due = int((time.monotonic() - begin) * a.rate)
        while number < due:
            partition, sent = number % a.partitions, time.monotonic()
            producer.produce(topic, str(number // a.partitions).encode(), partition=partition,
                             on_delivery=lambda error, message, sent=sent: delivered(error, message, sent))
            number += 1
        producer.poll(0.005)
    producer.flush(60)
    total.append(number)


def delivered(error, message, sent):
    if error is not None:
        errors.append(f'not delivered: {error}')
        return
    now, partition = time.monotonic(), message.partition()
    took = (now - sent) * 1000
    if took > slowest[0]:
        slowest[:] = [took, partition]
    if partition in last:
        gaps[partition] = max(gaps[partition], (now - last[partition]) * 1000)
    last[partition] = now


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
    for node in NODES:
        start(node)
    for node in NODES:
        wait_for(f'broker {node} serves', lambda: serves(node))
    admin = AdminClient({'bootstrap.servers': bootstrap})
    wait_for('all brokers are known', lambda: len(admin.list_topics(timeout=10).brokers) == 3)
    admin.create_topics([NewTopic(topic, a.partitions, 3, config={'min.insync.replicas': '2'})])[topic].result(30)
    wait_for('the topic is replicated', all_in_sync)

    stopping, consumed_all, total = threading.Event(), threading.Event(), []
    last, gaps, slowest, seen = {}, collections.Counter(), [0.0, None], collections.defaultdict(list)
    producer = Producer({'bootstrap.servers': bootstrap, 'enable.idempotence': True, 'linger.ms': 5,
                         'error_cb': client_error('producer')})
    consumer = Consumer({'bootstrap.servers': bootstrap, 'group.id': topic, 'auto.offset.reset': 'earliest',
                         'error_cb': client_error('consumer')})
    consumer.subscribe([topic])
    threads = [threading.Thread(target=produce), threading.Thread(target=consume)]
    for thread in threads:
        thread.start()
    wait_for('records arrive', lambda: sum(map(len, seen.values())) > a.rate)
    for _ in range(a.rounds):
        for node in NODES:
            processes[node].send_signal(signal.SIGTERM)
            if processes[node].wait(60) != 0:
                errors.append(f'broker {node} ended with {processes[node].returncode}')
            start(node)
            wait_for(f'broker {node} serves again', lambda: serves(node))
            wait_for(f'all replicas are in sync after broker {node}', all_in_sync)
            enough = sum(map(len, seen.values())) + a.rate
            wait_for('records arrive', lambda: sum(map(len, seen.values())) > enough)
    stopping.set()
    threads[0].join()
    threads[1].join(60)
    consumed_all.set()
    threads[1].join()
    consumer.close()
finally:
    stop_all()

lost = total[0] - sum(len(set(values)) for values in seen.values())
twice = sum(len(values) - len(set(values)) for values in seen.values())
disordered = sum(1 for values in seen.values() for x, y in zip(values, values[1:]) if y < x)
longest = max(gaps.values())
for error in errors[:10]:
    print('FAIL', error)
good = not (errors or lost or twice or disordered) and longest <= a.longest_ms
print(f'{3 * a.rounds} restarts under {total[0]} records: {len(errors)} client errors, lost {lost}, twice {twice}, '
      f'out of order {disordered}; longest pause of a partition {longest:.0f} ms, slowest write {slowest[0]:.0f} ms')
print('1 passed, 0 failed' if good else '0 passed, 1 failed')
sys.exit(0 if good else 1)
