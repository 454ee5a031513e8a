"""OffsetCommit, OffsetFetch, OffsetDelete in classic groups (in transactions: see transactions.py)."""

import os

from harness import answers, area, equal, error, subscription, until

case = area('group_offsets', tier=2)


def fields(reply):
    return reply['CommittedOffset'], reply['Metadata'], reply['CommittedLeaderEpoch'], reply['ErrorCode']


@case('A commit from outside a group is stored with its metadata and leader epoch and replaces the one before')
def simple_commit(k):
    topic, group = k.topic(), k.group()
    equal(fields(k.committed(group, topic)), (-1, '', -1, 0), 'before the first commit')
    error(k.commit(group, topic, 42, metadata='héllo', leader_epoch=3))
    equal(fields(k.committed(group, topic)), (42, 'héllo', 3, 0), 'offset, metadata, leader epoch, error')
    error(k.commit(group, topic, 7, metadata=None))
    equal(fields(k.committed(group, topic)), (7, '', -1, 0), 'after a second commit, backwards, with null metadata')


@case('Every version of OffsetCommit and OffsetFetch stores and gives the offset')
def every_version(k):
    topic, group = k.topic(), k.group()
    low, high = k.range('OffsetCommit')
    for version in range(low, min(high, 9) + 1):
        error(k.commit(group, topic, 100 + version, version=version), what=f'OffsetCommit v{version}')
        equal(k.committed(group, topic)['CommittedOffset'], 100 + version, f'offset committed with v{version}')
    for version in range(max(1, k.range('OffsetFetch')[0]), 8):
        equal(
            error(k.committed(group, topic, version=version))['CommittedOffset'],
            100 + min(high, 9),
            f'OffsetFetch v{version}',
        )


@case('Metadata of more than 4096 bytes is OFFSET_METADATA_TOO_LARGE; the offset before stays')
def metadata_size(k):
    topic, group = k.topic(), k.group()
    error(k.commit(group, topic, 1, metadata='x' * 4096))
    error(k.commit(group, topic, 2, metadata='x' * 4097), 'OFFSET_METADATA_TOO_LARGE')
    equal(k.committed(group, topic)['CommittedOffset'], 1, 'offset')


@case(
    'A commit for an unknown topic or partition is UNKNOWN_TOPIC_OR_PARTITION; the other partitions of the request '
    'are committed'
)
def unknown_partition(k):
    topic, group, missing = k.topic(2), k.group(), k.name()
    reply = k.call(
        'OffsetCommit',
        {
            'GroupId': group,
            'GenerationIdOrMemberEpoch': -1,
            'MemberId': '',
            'Topics': [
                {'Name': topic, 'Partitions': [{'PartitionIndex': p, 'CommittedOffset': 5} for p in (0, 9, 1)]},
                {'Name': missing, 'Partitions': [{'PartitionIndex': 0, 'CommittedOffset': 5}]},
            ],
        },
    )
    codes = {(t['Name'], p['PartitionIndex']): p['ErrorCode'] for t in reply['Topics'] for p in t['Partitions']}
    equal(codes, {(topic, 0): 0, (topic, 1): 0, (topic, 9): 3, (missing, 0): 3}, 'error codes')
    equal(k.committed(group, topic, 1)['CommittedOffset'], 5, 'offset of partition 1')


@case('Offset -1 stands for a group, partition or topic without commit, never an error')
def nothing_committed(k):
    topic, group = k.topic(), k.group()
    k.commit(group, topic, 5)
    for g, t, p in ((k.name('g'), topic, 0), (group, k.name(), 0), (group, topic, 9)):
        equal(fields(k.committed(g, t, p)), (-1, '', -1, 0), 'offset, metadata, leader epoch, error')


@case('Null topics (version 2) give all committed partitions of the group; an empty list gives none')
def fetch_all(k):
    first, second, group = k.topic(2), k.topic(), k.group()
    for topic, partition in ((first, 1), (second, 0)):
        k.commit(group, topic, 5, partition=partition)
    for version in range(2, 8):
        reply = error(k.call('OffsetFetch', {'GroupId': group, 'Topics': None}, version), what=f'v{version}')
        equal(
            sorted((t['Name'], [p['PartitionIndex'] for p in t['Partitions']]) for t in reply['Topics']),
            sorted([(first, [1]), (second, [0])]),
            f'v{version} partitions',
        )
    equal(k.call('OffsetFetch', {'GroupId': group, 'Topics': []}, 7)['Topics'], [], 'topics for an empty list')


@case(
    'From version 8 one request asks for many groups, each with its own answer; an unknown group is '
    'empty, without error'
)
def many_groups(k):
    k.require('OffsetFetch', 8)
    topic, first, second, unknown = k.topic(), k.group(), k.group(), k.name('g')
    k.commit(first, topic, 1), k.commit(second, topic, 2)
    for version in (8, 9):
        reply = k.call(
            'OffsetFetch',
            {
                'Groups': [
                    {'GroupId': first, 'Topics': [{'Name': topic, 'PartitionIndexes': [0]}]},
                    {'GroupId': second, 'Topics': None},
                    {'GroupId': unknown, 'Topics': None},
                ]
            },
            version,
        )
        found = {
            g['GroupId']: (g['ErrorCode'], [p['CommittedOffset'] for t in g['Topics'] for p in t['Partitions']])
            for g in reply['Groups']
        }
        equal(
            found, {first: (0, [1]), second: (0, [2]), unknown: (0, [])}, f'v{version}: error code and offsets by group'
        )


@case('Version 10 of OffsetCommit and OffsetFetch names topics by id; an unknown id is UNKNOWN_TOPIC_ID')
def by_topic_id(k):
    k.require('OffsetCommit', 10), k.require('OffsetFetch', 10)
    topic, group, stranger = k.topic(), k.group(), os.urandom(16)
    topic_id = k.topic_id(topic)
    reply = k.call(
        'OffsetCommit',
        {
            'GroupId': group,
            'GenerationIdOrMemberEpoch': -1,
            'MemberId': '',
            'Topics': [
                {'TopicId': i, 'Partitions': [{'PartitionIndex': 0, 'CommittedOffset': 5}]}
                for i in (topic_id, stranger)
            ],
        },
        10,
    )
    equal(
        {t['TopicId']: t['Partitions'][0]['ErrorCode'] for t in reply['Topics']},
        {topic_id: 0, stranger: 100},
        'OffsetCommit error codes',
    )
    reply = k.call(
        'OffsetFetch',
        {
            'Groups': [
                {'GroupId': group, 'Topics': [{'TopicId': i, 'PartitionIndexes': [0]} for i in (topic_id, stranger)]}
            ]
        },
        10,
    )['Groups'][0]
    found = {
        t['TopicId']: (t['Partitions'][0]['CommittedOffset'], t['Partitions'][0]['ErrorCode']) for t in reply['Topics']
    }
    equal(found, {topic_id: (5, 0), stranger: (-1, 100)}, 'OffsetFetch offsets and error codes')


@case(
    'In a live group a commit needs a member of the current generation: else UNKNOWN_MEMBER_ID or '
    'ILLEGAL_GENERATION, and nothing changes'
)
def needs_membership(k):
    topic, m = k.topic(), k.member(k.group()).join_alone()
    error(m.commit(topic, 5))
    error(m.commit(topic, 6, generation=0), 'ILLEGAL_GENERATION', what='an old generation')
    error(m.commit(topic, 6, generation=9), 'ILLEGAL_GENERATION', what='a generation to come')
    error(m.commit(topic, 6, member_id='ghost'), 'UNKNOWN_MEMBER_ID', what='a stranger')
    error(k.commit(m.group, topic, 6), 'UNKNOWN_MEMBER_ID', what='a commit from outside')
    equal(k.committed(m.group, topic)['CommittedOffset'], 5, 'offset')


@case(
    'A commit with a generation in an unknown group is ILLEGAL_GENERATION; in a group without members UNKNOWN_MEMBER_ID'
)
def generation_without_group(k):
    topic, group = k.topic(), k.group()
    error(k.commit(group, topic, 1, generation=5, member_id='ghost'), 'ILLEGAL_GENERATION')
    m = k.member(k.group()).join_alone()
    error(m.leave())
    error(m.commit(topic, 1), 'UNKNOWN_MEMBER_ID')
    error(k.commit(m.group, topic, 2), what='a commit from outside to the empty group')


@case(
    'While members join, the old generation may still commit; between join and sync a commit is REBALANCE_IN_PROGRESS'
)
def during_rebalance(k):
    topic, first = k.topic(), k.member(k.group()).join_alone()
    second = k.member(first.group).obtain_id().start_join()
    until(lambda: answers(first.heartbeat(), 'REBALANCE_IN_PROGRESS'), 'a rebalance')
    error(first.commit(topic, 5), what='a commit of the old generation while members join')
    error(first.join()), error(second.finish_join())
    for m in (first, second):
        error(m.commit(topic, 6), 'REBALANCE_IN_PROGRESS', what='a commit before the sync')
    equal(k.committed(first.group, topic)['CommittedOffset'], 5, 'offset')


@case('Offsets outlive the members: after all have left, the next member finds them')
def outlive_members(k):
    topic, m = k.topic(), k.member(k.group()).join_alone()
    error(m.commit(topic, 5))
    error(m.leave())
    k.member(m.group).join_alone()
    equal(k.committed(m.group, topic)['CommittedOffset'], 5, 'offset')


@case('Deleting a topic forgets its committed offsets')
def topic_deleted(k):
    topic, other, group = k.topic(), k.topic(), k.group()
    k.commit(group, topic, 5), k.commit(group, other, 6)
    error(k.delete_topic(topic))
    until(lambda: k.committed(group, topic)['CommittedOffset'] == -1, 'the offset is gone', timeout=30)
    equal(k.committed(group, other)['CommittedOffset'], 6, 'offset of the other topic')


@case(
    'OffsetDelete forgets offsets, may be repeated, and names unknown partitions; an unknown group is '
    'GROUP_ID_NOT_FOUND'
)
def delete(k):
    topic, group = k.topic(), k.group()
    k.commit(group, topic, 5)

    def forget(g, name, partition=0):
        reply = k.call(
            'OffsetDelete', {'GroupId': g, 'Topics': [{'Name': name, 'Partitions': [{'PartitionIndex': partition}]}]}
        )
        return reply['ErrorCode'] or reply['Topics'][0]['Partitions'][0]['ErrorCode']

    for _ in range(2):
        error(forget(group, topic))
        equal(k.committed(group, topic)['CommittedOffset'], -1, 'offset')
    error(forget(group, k.name()), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(forget(group, topic, 9), 'UNKNOWN_TOPIC_OR_PARTITION')
    error(forget(k.name('g'), topic), 'GROUP_ID_NOT_FOUND')
    error(forget('', topic), 'INVALID_GROUP_ID')


@case(
    'OffsetDelete refuses topics that a live group is subscribed to (GROUP_SUBSCRIBED_TO_TOPIC) and any in a live '
    'group of another type'
)
def delete_subscribed(k):
    topic, other = k.topic(), k.topic()
    m = k.member(k.group(), protocols=[('range', subscription(topic))]).join_alone()
    m.commit(topic, 5), m.commit(other, 6)
    reply = error(
        k.call(
            'OffsetDelete',
            {
                'GroupId': m.group,
                'Topics': [{'Name': t, 'Partitions': [{'PartitionIndex': 0}]} for t in (topic, other)],
            },
        )
    )
    equal({t['Name']: t['Partitions'][0]['ErrorCode'] for t in reply['Topics']}, {topic: 86, other: 0}, 'error codes')
    worker = k.member(k.group(), protocol_type='connect').join_alone()
    worker.commit(topic, 5)
    body = {'GroupId': worker.group, 'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0}]}]}
    error(k.call('OffsetDelete', body), 'NON_EMPTY_GROUP')
