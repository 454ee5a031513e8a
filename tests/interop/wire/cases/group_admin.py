"""ListGroups, DescribeGroups, DeleteGroups."""

from harness import area, equal, error, subscription, true, until

case = area('group_admin', tier=2)


def describe(k, group, version=5):
    return k.call('DescribeGroups', {'Groups': [group]}, version)['Groups'][0]


def listed(k, version, *groups, **filters):
    reply = error(k.call('ListGroups', filters, version), what=f'ListGroups v{version} {filters or ""}')
    return {g['GroupId']: g for g in reply['Groups'] if g['GroupId'] in groups}


@case('DescribeGroups follows a group through its states and shows protocol, metadata and assignment once it is Stable')
def states(k):
    m = k.member(k.group(), instance='i9')
    error(m.join())
    reply = error(describe(k, m.group))
    equal(
        (reply['GroupState'], reply['ProtocolType'], reply['ProtocolData']),
        ('CompletingRebalance', 'consumer', ''),
        'between join and sync',
    )
    error(m.sync({m.id: b'assignment'}))
    reply = error(describe(k, m.group))
    equal((reply['GroupState'], reply['ProtocolData']), ('Stable', 'range'), 'after the sync')
    member = reply['Members'][0]
    equal(
        (
            member['MemberId'],
            member['GroupInstanceId'],
            member['ClientId'],
            member['MemberMetadata'],
            member['MemberAssignment'],
        ),
        (m.id, 'i9', 'kwire', subscription('topic'), b'assignment'),
        'member',
    )
    true('127.0.0.1' in member['ClientHost'], "the client's address", member['ClientHost'])
    other = k.member(m.group).obtain_id().start_join()
    until(lambda: describe(k, m.group)['GroupState'] == 'PreparingRebalance', 'PreparingRebalance')
    error(m.join()), error(other.finish_join())
    error(m.leave(member_id='')), error(other.leave())
    reply = error(describe(k, m.group))
    equal((reply['GroupState'], reply['Members'], reply['ProtocolType']), ('Empty', [], 'consumer'), 'after all left')


@case('An unknown group is described as Dead without error; from version 6 with GROUP_ID_NOT_FOUND')
def describe_unknown(k):
    group = k.name('g')
    low, high = k.range('DescribeGroups')
    for version in range(low, high + 1):
        reply = describe(k, group, version)
        error(reply, 'GROUP_ID_NOT_FOUND' if version >= 6 else 'NONE', what=f'v{version}')
        equal((reply['GroupState'], reply['Members']), ('Dead', []), f'v{version} state, members')


@case('A group that has only offsets, committed from outside, is Empty with an empty protocol type')
def simple_group(k):
    group = k.group()
    k.commit(group, k.topic(), 1)
    reply = error(describe(k, group))
    equal((reply['GroupState'], reply['ProtocolType']), ('Empty', ''), 'state, protocol type')


@case('ListGroups gives every group with its protocol type, from version 4 with the state, from 5 with the type')
def list_versions(k):
    live, simple = k.member(k.group()).join_alone(), k.group()
    k.commit(simple, k.topic(), 1)
    low, high = k.range('ListGroups')
    for version in range(low, high + 1):
        found = listed(k, version, live.group, simple)
        equal(
            {g: e['ProtocolType'] for g, e in found.items()},
            {live.group: 'consumer', simple: ''},
            f'v{version} protocol types',
        )
        if version >= 4:
            equal(
                {g: e['GroupState'] for g, e in found.items()},
                {live.group: 'Stable', simple: 'Empty'},
                f'v{version} states',
            )
        if version >= 5:
            equal({e['GroupType'] for e in found.values()}, {'classic'}, f'v{version} types')


@case(
    'ListGroups filters by state (version 4) and type (5), in any case of letters; a name that does not '
    'exist matches nothing'
)
def list_filters(k):
    live, simple = k.member(k.group()).join_alone(), k.group()
    k.commit(simple, k.topic(), 1)
    both = {live.group, simple}
    for states, want in (
        (['Stable'], {live.group}),
        (['stable'], {live.group}),
        (['Empty'], {simple}),
        (['Stable', 'Empty'], both),
        (['Dead'], set()),
        (['Bogus'], set()),
        ([], both),
    ):
        equal(set(listed(k, 4, *both, StatesFilter=states)), want, f'groups in states {states}')
    k.require('ListGroups', 5)
    for types, want in ((['classic'], both), (['Classic'], both), (['consumer'], set()), (['bogus'], set())):
        equal(set(listed(k, 5, *both, TypesFilter=types)), want, f'groups of types {types}')


@case(
    'DeleteGroups deletes an empty group with its offsets; a live group is NON_EMPTY_GROUP, an unknown '
    'one GROUP_ID_NOT_FOUND'
)
def delete(k):
    topic, live, simple, unknown = k.topic(), k.member(k.group()).join_alone(), k.group(), k.name('g')
    live.commit(topic, 5), k.commit(simple, topic, 6)

    def forget(*groups):
        return {r['GroupId']: r['ErrorCode'] for r in k.call('DeleteGroups', {'GroupsNames': list(groups)})['Results']}

    equal(forget(live.group, unknown, simple), {live.group: 68, unknown: 69, simple: 0}, 'error codes')
    equal(k.committed(simple, topic)['CommittedOffset'], -1, 'offset of the deleted group')
    equal(k.committed(live.group, topic)['CommittedOffset'], 5, 'offset of the live group')
    error(live.leave())
    equal(forget(live.group), {live.group: 0}, 'after the last member left')
    equal(listed(k, 4, live.group, simple), {}, 'groups still listed')
    equal(forget(live.group), {live.group: 69}, 'deleting it again')
