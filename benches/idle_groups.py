#!/usr/bin/env python3
"""What many groups of one member cost a broker while nothing is read: each member keeps its connection and sends the
heartbeats that its client would. Prints the CPU of the broker, in percent of a core, and its memory before and after.

  benches/idle_groups.py --bootstrap HOST:PORT --pid PID [--protocol classic|consumer] [--groups 1000] [--seconds 30]
"""
import argparse
import heapq
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'interop', 'wire'))
import kwire  # noqa: E402

# The defaults of Java's consumer and of the broker: heartbeat.interval.ms, group.consumer.heartbeat.interval.ms.
INTERVAL_S = {'classic': 3, 'consumer': 5}
TOPIC = 'idle-groups'
# The version of the member's subscription, one topic, no user data.
SUBSCRIPTION = bytes(2) + (1).to_bytes(4) + len(TOPIC).to_bytes(2) + TOPIC.encode() + b'\xff' * 4


def checked(reply, what):
    if reply['ErrorCode']:
        sys.exit(f'{what}: {kwire.error_name(reply["ErrorCode"])}')
    return reply


def coordinator(bootstrap, group):
    connection = kwire.Conn(bootstrap)
    while True:
        found = connection.call('FindCoordinator', 2, {'Key': group, 'KeyType': 0})
        if found['ErrorCode'] == 0:
            return f'{found["Host"]}:{found["Port"]}'
        time.sleep(0.05)


class Classic:
    """A member of a classic group."""

    def __init__(self, bootstrap, group):
        self.conn = kwire.Conn(coordinator(bootstrap, group))
        join = {
            'GroupId': group,
            'SessionTimeoutMs': 45000,
            'RebalanceTimeoutMs': 300000,
            'MemberId': '',
            'ProtocolType': 'consumer',
            'Protocols': [{'Name': 'range', 'Metadata': SUBSCRIPTION}],
        }
        joined = checked(self.conn.call('JoinGroup', 3, join), 'JoinGroup')
        self.body = {'GroupId': group, 'GenerationId': joined['GenerationId'], 'MemberId': joined['MemberId']}
        assignments = [{'MemberId': joined['MemberId'], 'Assignment': b''}]
        checked(self.conn.call('SyncGroup', 2, {**self.body, 'Assignments': assignments}), 'SyncGroup')

    def beat(self):
        checked(self.conn.call('Heartbeat', 2, self.body), 'Heartbeat')


class Consumer:
    """A member of a consumer group (KIP-848)."""

    def __init__(self, bootstrap, group):
        self.conn = kwire.Conn(coordinator(bootstrap, group))
        nothing = {'InstanceId': None, 'RackId': None, 'ServerAssignor': None}
        join = {'GroupId': group, 'MemberId': '', 'MemberEpoch': 0, 'RebalanceTimeoutMs': 300000, 'TopicPartitions': []}
        join = {**nothing, **join, 'SubscribedTopicNames': [TOPIC]}
        joined = checked(self.conn.call('ConsumerGroupHeartbeat', 0, join), 'ConsumerGroupHeartbeat')
        unchanged = {'RebalanceTimeoutMs': -1, 'SubscribedTopicNames': None, 'TopicPartitions': None}
        self.body = {**nothing, **unchanged, 'GroupId': group, 'MemberId': joined['MemberId']}
        self.body['MemberEpoch'] = joined['MemberEpoch']

    def beat(self):
        beat = checked(self.conn.call('ConsumerGroupHeartbeat', 0, self.body), 'ConsumerGroupHeartbeat')
        self.body['MemberEpoch'] = beat['MemberEpoch']


def cpu_s(pid):
    """What the threads have run, to the nanosecond: work of microseconds between two ticks is not in /proc/PID/stat."""
    tasks = f'/proc/{pid}/task'
    return sum(int(open(f'{tasks}/{task}/schedstat').read().split()[0]) for task in os.listdir(tasks)) / 1e9


def rss_mb(pid):
    return int(open(f'/proc/{pid}/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


def beat_for(members, interval_s, seconds):
    """Each member's heartbeats, spread evenly over the interval."""
    begun = time.monotonic()
    due = [(begun + interval_s * number / len(members), number) for number in range(len(members))]
    sent = 0
    while due[0][0] < begun + seconds:
        at, number = due[0]
        time.sleep(max(0.0, at - time.monotonic()))
        members[number].beat()
        sent += 1
        heapq.heapreplace(due, (at + interval_s, number))
    return sent, time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bootstrap', required=True)
    parser.add_argument('--pid', type=int, required=True, help='the broker whose CPU and memory are read')
    parser.add_argument('--protocol', choices=sorted(INTERVAL_S), default='classic')
    parser.add_argument('--groups', type=int, default=1000)
    parser.add_argument('--seconds', type=float, default=30)
    options = parser.parse_args()
    interval_s = INTERVAL_S[options.protocol]
    make = Classic if options.protocol == 'classic' else Consumer
    before_mb = rss_mb(options.pid)
    members = [make(options.bootstrap, f'idle-{os.getpid()}-{number}') for number in range(options.groups)]
    beat_for(members, interval_s, interval_s)
    began_s = cpu_s(options.pid)
    sent, took_s = beat_for(members, interval_s, options.seconds)
    percent = (cpu_s(options.pid) - began_s) / took_s * 100
    print(
        f'{options.groups} {options.protocol} groups of one member: {sent} heartbeats in {took_s:.0f} s, '
        f'{percent:.2f} % of a core, {before_mb:.0f} MB before and {rss_mb(options.pid):.0f} MB after'
    )


if __name__ == '__main__':
    main()
