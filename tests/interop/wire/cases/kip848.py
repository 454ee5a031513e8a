"""Consumer groups of KIP-848: their heartbeat and description, and the other group APIs on them."""

import struct, time

from harness import area, between, equal, error, member_uuid, subscription, true, until
from kwire import CODES, Codec

case = area('kip848', tier=5)


class Consumer:
    """A member that sends heartbeats only when told to, and reports what it owns as real clients do."""

    def __init__(self, k, group, *topics, version=None, rebalance_ms=5000, **fields):
        self.k, self.group, self.id, self.epoch, self.owned = k, group, member_uuid(), 0, {}
        self.version = k.range('ConsumerGroupHeartbeat')[1] if version is None else version
        self.joining = {
            'RebalanceTimeoutMs': rebalance_ms,
            'SubscribedTopicNames': list(topics),
            'TopicPartitions': [],
            **fields,
        }

    def raw(self, epoch=None, member_id=None, **fields):
        body = {
            'GroupId': self.group,
            'MemberId': self.id if member_id is None else member_id,
            'MemberEpoch': self.epoch if epoch is None else epoch,
            'InstanceId': None,
            'RackId': None,
            'RebalanceTimeoutMs': -1,
            'SubscribedTopicNames': None,
            'ServerAssignor': None,
            'TopicPartitions': None,
        }
        if self.version >= 1:
            body['SubscribedTopicRegex'] = None
        return self.k.call('ConsumerGroupHeartbeat', {**body, **fields}, self.version)

    def join(self, **fields):
        return self._follow(self.raw(0, **{**self.joining, **fields}))

    def beat(self, report=True):
        """A heartbeat; with report it names the owned partitions, as after a revocation."""
        owned = [{'TopicId': i, 'Partitions': p} for i, p in self.owned.items()] if report else None
        instance = {'InstanceId': self.joining['InstanceId']} if self.joining.get('InstanceId') else {}
        return self._follow(self.raw(TopicPartitions=owned, **instance))

    def _follow(self, reply):
        if reply['ErrorCode'] == 0:
            self.epoch = reply['MemberEpoch']
            if reply['Assignment'] is not None:
                self.owned = {t['TopicId']: sorted(t['Partitions']) for t in reply['Assignment']['TopicPartitions']}
        return reply

    def has(self, count):
        """Sends heartbeats until the member owns that many partitions; gives them."""

        def owned():
            error(self.beat())
            return sum(map(len, self.owned.values())) == count

        until(owned, f'{count} partitions', timeout=20, every=0.1)
        return sorted(p for partitions in self.owned.values() for p in partitions)

    def leave(self, epoch=-1, **fields):
        return self.raw(epoch, **fields)


def settle(*members, total):
    """Sends heartbeats for all until they own disjoint partitions, `total` in all, and nothing changes any more."""

    def done():
        for m in members:
            error(m.beat())
        owned = [(i, p) for m in members for i, ps in m.owned.items() for p in ps]
        return len(owned) == total == len(set(owned)) and len({m.epoch for m in members}) == 1

    until(done, f'{total} partitions owned by one member each, all in one epoch', timeout=30, every=0.1)


@case(
    'A single member is given epoch 1, a heartbeat interval and all partitions; unchanged heartbeats '
    'carry no assignment'
)
def join(k):
    topic = k.topic(4)
    m = Consumer(k, k.group(), topic)
    reply = error(m.join())
    true(
        reply['MemberEpoch'] >= 1 and reply['HeartbeatIntervalMs'] > 0 and reply['MemberId'] == m.id,
        'epoch, interval, member id',
        reply,
    )
    equal(m.has(4), [0, 1, 2, 3], 'partitions')
    equal(list(m.owned), [k.topic_id(topic)], 'topic id')
    epoch = m.epoch
    for _ in range(3):
        equal(error(m.beat(report=False))['Assignment'], None, 'assignment when nothing changed')
    equal(m.epoch, epoch, 'epoch')


@case('In version 0 the broker gives the member id; from version 1 an empty one is INVALID_REQUEST')
def member_ids(k):
    topic = k.topic()
    old = Consumer(k, k.group(), topic, version=0)
    true(error(old.raw(0, member_id='', **old.joining))['MemberId'], 'a member id')
    k.require('ConsumerGroupHeartbeat', 1)
    new = Consumer(k, k.group(), topic, version=1)
    error(new.raw(0, member_id='', **new.joining), 'INVALID_REQUEST')


@case('A second member gets partitions only when the first has given them up: no partition has two owners at any time')
def second_member(k):
    topic = k.topic(4)
    first, second = (Consumer(k, group, topic) for group in [k.group()] * 2)
    first.join()
    first.has(4)
    error(second.join())
    for _ in range(3):
        error(second.beat())
        equal(second.owned.get(k.topic_id(topic), []), [], 'partitions of the second before the first has revoked any')
    until(
        lambda: error(first.beat(report=False)) and len(first.owned[k.topic_id(topic)]) == 2,
        'the first is told to keep two',
        timeout=10,
    )
    error(second.beat())
    equal(second.owned.get(k.topic_id(topic), []), [], 'partitions of the second before the first has confirmed')
    settle(first, second, total=4)
    equal([len(m.owned[k.topic_id(topic)]) for m in (first, second)], [2, 2], 'partitions each')


@case('A member that leaves (epoch -1) gives its partitions to the others; leaving again is UNKNOWN_MEMBER_ID')
def leave(k):
    topic = k.topic(4)
    first, second = (Consumer(k, group, topic) for group in [k.group()] * 2)
    first.join(), second.join()
    settle(first, second, total=4)
    equal(error(second.leave())['MemberEpoch'], -1, 'epoch in the answer')
    error(second.leave(), 'UNKNOWN_MEMBER_ID')
    first.has(4)


@case(
    'Errors: an epoch to come is FENCED_MEMBER_EPOCH, a stranger UNKNOWN_MEMBER_ID, an unknown group GROUP_ID_NOT_FOUND'
)
def epoch_errors(k):
    topic = k.topic()
    m = Consumer(k, k.group(), topic)
    m.join()
    m.has(1)
    error(m.raw(m.epoch + 7), 'FENCED_MEMBER_EPOCH')
    error(m.raw(m.epoch, member_id=member_uuid()), 'UNKNOWN_MEMBER_ID')
    error(m.raw(1, GroupId=k.name('g')), 'GROUP_ID_NOT_FOUND')
    error(m.beat(), what='the member itself')


@case(
    'A heartbeat whose answer was lost may be sent again with the epoch before, if what it owns fits; '
    'otherwise it is fenced'
)
def previous_epoch(k):
    topic = k.topic(2)
    first, second = (Consumer(k, group, topic) for group in [k.group()] * 2)
    first.join()
    first.has(2)
    old = first.epoch
    second.join()
    settle(first, second, total=2)
    true(first.epoch > old, 'a higher epoch', first.epoch)
    error(
        first.raw(old, TopicPartitions=[{'TopicId': i, 'Partitions': p} for i, p in first.owned.items()]),
        what='the epoch before, with what is assigned',
    )
    everything = [{'TopicId': k.topic_id(topic), 'Partitions': [0, 1]}]
    error(
        first.raw(old, TopicPartitions=everything),
        'FENCED_MEMBER_EPOCH',
        what='the epoch before, with a partition of the other member',
    )


@case(
    'A join that lacks what it needs is INVALID_REQUEST: no group, timeout or subscription, partitions owned '
    'already, empty instance or rack'
)
def bad_joins(k):
    topic = k.topic()
    for what, fields in (
        ('empty group id', {'GroupId': ''}),
        ('no rebalance timeout', {'RebalanceTimeoutMs': -1}),
        ('no subscription', {'SubscribedTopicNames': None}),
        ('owned partitions', {'TopicPartitions': [{'TopicId': k.topic_id(topic), 'Partitions': [0]}]}),
        ('null owned partitions', {'TopicPartitions': None}),
        ('empty instance id', {'InstanceId': ''}),
        ('empty rack', {'RackId': ''}),
    ):
        error(Consumer(k, k.group(), topic).join(**fields), 'INVALID_REQUEST', what=what)
    error(Consumer(k, k.group(), topic).raw(-3), 'INVALID_REQUEST', what='epoch -3')


@case('The assignors uniform and range are known; another one is UNSUPPORTED_ASSIGNOR')
def assignors(k):
    topic = k.topic(2)
    for assignor in ('uniform', 'range'):
        m = Consumer(k, k.group(), topic, ServerAssignor=assignor)
        error(m.join(), what=assignor)
        m.has(2)
    error(Consumer(k, k.group(), topic, ServerAssignor='mine').join(), 'UNSUPPORTED_ASSIGNOR')


@case(
    'Subscriptions may name topics that do not exist or nothing at all; a change of the subscription '
    'changes the assignment'
)
def subscriptions(k):
    first, second = k.topic(2), k.topic(3)
    m = Consumer(k, k.group(), k.name())
    error(m.join())
    equal(m.owned, {}, 'assignment for a topic that does not exist')
    for topics, count in (([first], 2), ([first, second], 5), ([], 0), ([second], 3)):
        m._follow(error(m.raw(SubscribedTopicNames=topics)))
        m.has(count)


@case('A topic that is created later, and partitions that are added, are assigned without the member asking', slow=True)
def new_partitions(k):
    name = k.name()
    m = Consumer(k, k.group(), name)
    error(m.join())
    k.topic(2, name=name)
    m.has(2)
    k.call(
        'CreatePartitions',
        {'Topics': [{'Name': name, 'Count': 5, 'Assignments': None}], 'TimeoutMs': 5000, 'ValidateOnly': False},
    )
    m.has(5)


@case(
    'Version 1 subscribes by regular expression, which must match the whole name; a bad one is '
    'INVALID_REGULAR_EXPRESSION',
    slow=True,
)
def regular_expression(k):
    k.require('ConsumerGroupHeartbeat', 1)
    base = k.name('rx')
    k.topic(2, name=base + '.orders'), k.topic(3, name=base + '.payments'), k.topic(1, name='x-' + base + '.orders')
    m = Consumer(k, k.group(), version=1)
    error(m.join(SubscribedTopicNames=None, SubscribedTopicRegex='('), 'INVALID_REGULAR_EXPRESSION')
    error(m.join(SubscribedTopicNames=None, SubscribedTopicRegex=base + r'\..*'))
    m.has(5)
    m._follow(error(m.raw(SubscribedTopicRegex=base + r'\.pay.*')))
    m.has(3)


@case(
    'A static member that leaves for a moment (epoch -2) finds its partitions again under a new member id, and the '
    'old one is fenced'
)
def static_member(k):
    topic = k.topic(4)
    old = Consumer(k, k.group(), topic, InstanceId='i1')
    error(old.join())
    old.has(4)
    new = Consumer(k, old.group, topic, InstanceId='i1')
    error(new.join(), 'UNRELEASED_INSTANCE_ID', what='while the first holds the instance id')
    equal(error(old.leave(-2, InstanceId='i1'))['MemberEpoch'], -2, 'epoch in the answer')
    error(new.join())
    equal(new.has(4), [0, 1, 2, 3], 'partitions')
    error(old.raw(InstanceId='i1'), 'FENCED_INSTANCE_ID')
    error(new.raw(InstanceId='another'), 'UNKNOWN_MEMBER_ID')


@case(
    'Commits carry the member epoch: an old one is STALE_MEMBER_EPOCH (before version 9 UNSUPPORTED_VERSION), a '
    'stranger UNKNOWN_MEMBER_ID'
)
def commits(k):
    topic = k.topic()
    m = Consumer(k, k.group(), topic)
    m.join()
    m.has(1)
    error(k.commit(m.group, topic, 5, generation=m.epoch, member_id=m.id, version=9))
    for epoch in (m.epoch - 1, m.epoch + 5):
        error(
            k.commit(m.group, topic, 6, generation=epoch, member_id=m.id, version=9),
            'STALE_MEMBER_EPOCH',
            what=f'epoch {epoch}, is {m.epoch}',
        )
    error(
        k.commit(m.group, topic, 6, generation=m.epoch - 1, member_id=m.id, version=8), 'UNSUPPORTED_VERSION', what='v8'
    )
    error(k.commit(m.group, topic, 6, generation=m.epoch, member_id='ghost', version=9), 'UNKNOWN_MEMBER_ID')
    error(k.commit(m.group, topic, 6, version=9), 'UNKNOWN_MEMBER_ID', what='from outside the live group')

    def fetch(member_id, epoch):
        return k.call(
            'OffsetFetch',
            {'Groups': [{'GroupId': m.group, 'MemberId': member_id, 'MemberEpoch': epoch, 'Topics': None}]},
            9,
        )['Groups'][0]

    for member_id, epoch in ((m.id, m.epoch), (None, -1)):
        equal(error(fetch(member_id, epoch))['Topics'][0]['Partitions'][0]['CommittedOffset'], 5, 'offset')
    error(fetch(m.id, m.epoch - 1), 'STALE_MEMBER_EPOCH')
    error(fetch('ghost', 1), 'UNKNOWN_MEMBER_ID')


@case(
    'ConsumerGroupDescribe shows state, epochs, assignor and each member with subscription, assignment and target; '
    'a classic group is GROUP_ID_NOT_FOUND'
)
def describe(k):
    topic = k.topic(2)
    m = Consumer(k, k.group(), topic, RackId='r1')
    m.join()
    m.has(2)
    classic = k.member(k.group()).join_alone()
    groups = {
        g['GroupId']: g
        for g in k.call('ConsumerGroupDescribe', {'GroupIds': [m.group, classic.group, 'no such group']})['Groups']
    }
    for name in (classic.group, 'no such group'):
        error(groups[name], 'GROUP_ID_NOT_FOUND', what=name)
    group = error(groups[m.group])
    equal(
        (group['GroupState'], group['GroupEpoch'], group['AssignmentEpoch'], group['AssignorName']),
        ('Stable', m.epoch, m.epoch, 'uniform'),
        'group',
    )
    member = group['Members'][0]
    equal(
        (
            member['MemberId'],
            member['MemberEpoch'],
            member['ClientId'],
            member['RackId'],
            member['SubscribedTopicNames'],
        ),
        (m.id, m.epoch, 'kwire', 'r1', [topic]),
        'member',
    )
    for part in ('Assignment', 'TargetAssignment'):
        equal(
            [(t['TopicName'], sorted(t['Partitions'])) for t in member[part]['TopicPartitions']],
            [(topic, [0, 1])],
            part,
        )


@case(
    'The other group APIs know such a group: it is listed as type consumer, not described as classic, and deleted '
    'only when empty'
)
def other_apis(k):
    topic = k.topic()
    m = Consumer(k, k.group(), topic)
    m.join()
    m.has(1)

    def listed(**filters):
        return [
            (g['ProtocolType'], g['GroupState'], g['GroupType'])
            for g in k.call('ListGroups', filters, 5)['Groups']
            if g['GroupId'] == m.group
        ]

    equal(listed(TypesFilter=['consumer']), [('consumer', 'Stable', 'consumer')], 'listed by type consumer')
    equal(listed(TypesFilter=['classic']), [], 'listed by type classic')
    equal(
        k.call('DescribeGroups', {'Groups': [m.group]}, 5)['Groups'][0]['GroupState'],
        'Dead',
        'state in DescribeGroups 5',
    )
    error(k.call('DescribeGroups', {'Groups': [m.group]}, 6)['Groups'][0], 'GROUP_ID_NOT_FOUND')
    error(k.call('DeleteGroups', {'GroupsNames': [m.group]})['Results'][0], 'NON_EMPTY_GROUP')
    body = {'GroupId': m.group, 'Topics': [{'Name': topic, 'Partitions': [{'PartitionIndex': 0}]}]}
    error(k.call('OffsetDelete', body)['Topics'][0]['Partitions'][0], 'GROUP_SUBSCRIBED_TO_TOPIC')
    error(m.leave())
    equal(listed(), [('consumer', 'Empty', 'consumer')], 'listed when empty')
    error(k.call('DeleteGroups', {'GroupsNames': [m.group]})['Results'][0])


@case(
    'A classic consumer that joins such a group takes part in it; an empty group of one kind becomes the other when '
    'its first member joins'
)
def mixed(k):
    topic = k.topic(2)
    m = Consumer(k, k.group(), topic)
    m.join()
    m.has(2)
    classic = k.member(m.group, protocols=[('range', subscription(topic))])
    error(classic.join(), what='a classic member in a KIP-848 group')
    error(classic.leave()), error(m.leave())
    alone = k.member(m.group, protocols=[('range', subscription(topic))]).join_alone()
    until(
        lambda: [g['GroupType'] for g in k.call('ListGroups', {}, 5)['Groups'] if g['GroupId'] == m.group]
        == ['classic'],
        'the group is classic now',
    )
    error(alone.leave())
    again = Consumer(k, m.group, topic)
    error(again.join(), what='a KIP-848 member in the empty classic group')
    again.has(2)


@case(
    'A KIP-848 member that joins a live classic group of consumers turns it into a KIP-848 group; the classic '
    'members are told to rebalance'
)
def upgrade(k):
    topic = k.topic(2)
    classic = k.member(k.group(), protocols=[('range', subscription(topic))])
    error(classic.join())
    assignment = struct.pack('>h', 0) + Codec('ConsumerProtocolAssignment', 0).encode(
        {'AssignedPartitions': [{'Topic': topic, 'Partitions': [0, 1]}], 'UserData': None}
    )
    error(classic.sync({classic.id: assignment}))
    m = Consumer(k, classic.group, topic)
    error(m.join())
    until(lambda: classic.heartbeat() == CODES['REBALANCE_IN_PROGRESS'], 'the classic member is told to rebalance')
    equal(
        [g['GroupType'] for g in k.call('ListGroups', {}, 5)['Groups'] if g['GroupId'] == m.group],
        ['consumer'],
        'type of the group',
    )


@case(
    'A member that does not give up partitions within its rebalance timeout is removed, and the others get them',
    slow=True,
)
def rebalance_timeout(k):
    topic = k.topic(2)
    stuck, other = (Consumer(k, group, topic, rebalance_ms=2000) for group in [k.group()] * 2)
    stuck.join()
    stuck.has(2)
    error(other.join())
    start = time.monotonic()

    def fenced():
        other.beat()
        return stuck.raw()['ErrorCode'] in (CODES['FENCED_MEMBER_EPOCH'], CODES['UNKNOWN_MEMBER_ID'])

    until(fenced, 'the stuck member is removed', timeout=20, every=0.2)
    between(time.monotonic() - start, 1.5, 15, 'seconds')
    other.has(2)
