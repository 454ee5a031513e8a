"""The classic group protocol: FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup."""

import time

from harness import answers, area, between, equal, error, subscription, true, until

case = area('groups', tier=2)


def two_members(k, **options):
    """(leader, follower) of a stable group with the assignments b'L' and b'F'."""
    group = k.group()
    first = k.member(group, **options).join_alone()
    second = k.member(group, **options).obtain_id().start_join()
    until(lambda: answers(first.heartbeat(), 'REBALANCE_IN_PROGRESS'), 'the heartbeat tells of the rebalance')
    error(first.join(), what='JoinGroup of the first member')
    error(second.finish_join(), what='JoinGroup of the second member')
    leader, follower = (first, second) if first.leads else (second, first)
    follower.start_sync()
    error(leader.sync({leader.id: b'L', follower.id: b'F'}), what='SyncGroup of the leader')
    equal(error(follower.finish_sync())['Assignment'], b'F', "the follower's assignment")
    return leader, follower


@case(
    'FindCoordinator gives a live broker for groups (0) and transactions (1) in every version; from 4 '
    'for many keys at once'
)
def find_coordinator(k):
    low, high = k.range('FindCoordinator')
    brokers = [b['NodeId'] for b in k.metadata([])['Brokers']]
    k.coordinator('a'), k.coordinator('a', 1)
    for version in range(low, high + 1):
        for kind in (0, 1) if version else (0,):
            if version < 4:
                replies = [k.call('FindCoordinator', {'Key': 'a', **({'KeyType': kind} if version else {})}, version)]
            else:
                replies = k.call('FindCoordinator', {'KeyType': kind, 'CoordinatorKeys': ['a', 'b']}, version)[
                    'Coordinators'
                ]
                equal(sorted(r['Key'] for r in replies), ['a', 'b'], f'v{version} keys')
            for reply in replies:
                true(error(reply)['NodeId'] in brokers, f'v{version}: a live broker', reply)


@case('FindCoordinator for a key type that does not exist is INVALID_REQUEST')
def find_coordinator_bad_type(k):
    error(k.call('FindCoordinator', {'Key': 'a', 'KeyType': 9}, 3), 'INVALID_REQUEST')


@case(
    'A single member becomes the leader of generation 1, sees itself in the list, and gets the assignment that it sent'
)
def join_and_sync(k):
    m = k.member(k.group())
    reply = error(m.join())
    equal(
        (reply['GenerationId'], reply['Leader'], reply['ProtocolName'], reply['ProtocolType']),
        (1, m.id, 'range', 'consumer'),
        'the join',
    )
    equal([(x['MemberId'], x['Metadata']) for x in reply['Members']], [(m.id, subscription('topic'))], 'members')
    for _ in range(2):
        reply = error(m.sync({m.id: b'mine'}))
        equal(
            (reply['Assignment'], reply['ProtocolName'], reply['ProtocolType']),
            (b'mine', 'range', 'consumer'),
            'the sync',
        )
    error(m.heartbeat())


@case(
    'From JoinGroup 4 the first join without member id is MEMBER_ID_REQUIRED with the id to use; before, it is '
    'admitted at once'
)
def member_id_required(k):
    low, high = k.range('JoinGroup')
    for version in range(low, high + 1):
        m = k.member(k.group()).start_join(version)
        reply = m.conn.recv('JoinGroup', version)
        error(reply, 'MEMBER_ID_REQUIRED' if version >= 4 else 'NONE', what=f'v{version}')
        true(reply['MemberId'], f'v{version}: a member id', reply)
        if version >= 4:
            m.id = reply['MemberId']
            equal(error(m.join(version))['GenerationId'], 1, f'v{version} generation')


@case('A static member is admitted without a member id in the first request')
def static_needs_no_id(k):
    m = k.member(k.group(), instance='i1').start_join()
    true(error(m.conn.recv('JoinGroup', m.version))['MemberId'], 'a member id')


@case(
    'Errors of JoinGroup: empty group id, session timeout out of bounds, unknown member id, no '
    'protocols, no protocol type'
)
def join_errors(k):
    error(k.member('').join(), 'INVALID_GROUP_ID')
    for session_ms in (-1, 0, 5999, 1800001):
        error(
            k.member(k.group(), session_ms=session_ms).join(),
            'INVALID_SESSION_TIMEOUT',
            what=f'session timeout {session_ms}',
        )
    error(k.member(k.group(), member_id='ghost').join(), 'UNKNOWN_MEMBER_ID')
    error(k.member(k.group(), protocols=[]).join(), 'INCONSISTENT_GROUP_PROTOCOL', what='no protocols')
    error(k.member(k.group(), protocol_type='').join(), 'INCONSISTENT_GROUP_PROTOCOL', what='no protocol type')


@case('Errors of SyncGroup and Heartbeat: unknown member, other generation, other protocol, unknown group')
def sync_and_heartbeat_errors(k):
    m = k.member(k.group())
    error(m.join())
    error(m.sync(generation=7), 'ILLEGAL_GENERATION')
    error(m.sync(member_id='ghost'), 'UNKNOWN_MEMBER_ID')
    error(m.sync(protocol_type='connect'), 'INCONSISTENT_GROUP_PROTOCOL')
    error(m.sync(protocol='other'), 'INCONSISTENT_GROUP_PROTOCOL')
    error(m.sync({m.id: b'x'}))
    for generation in (0, 2, -1):
        error(m.heartbeat(generation=generation), 'ILLEGAL_GENERATION', what=f'heartbeat of generation {generation}')
    for member in ('ghost', ''):
        error(m.heartbeat(member_id=member), 'UNKNOWN_MEMBER_ID', what=f'heartbeat of {member!r}')
    stranger = k.member(k.group(), member_id='ghost')
    error(stranger.heartbeat(generation=1), 'UNKNOWN_MEMBER_ID', what='heartbeat in an unknown group')
    error(stranger.sync(generation=1), 'UNKNOWN_MEMBER_ID', what='sync in an unknown group')


@case(
    'A second member starts a rebalance: heartbeats say REBALANCE_IN_PROGRESS, both join the next generation, only '
    'the leader sees the members'
)
def rebalance_on_join(k):
    first = k.member(k.group()).join_alone()
    second = k.member(first.group).obtain_id().start_join()
    until(lambda: answers(first.heartbeat(), 'REBALANCE_IN_PROGRESS'), 'the heartbeat is REBALANCE_IN_PROGRESS')
    error(first.sync(), 'REBALANCE_IN_PROGRESS', what='a sync meanwhile')
    replies = [error(first.join()), error(second.finish_join())]
    equal([r['GenerationId'] for r in replies], [2, 2], 'generations')
    equal(len({r['Leader'] for r in replies}), 1, 'leaders')
    leader, follower = (first, second) if first.leads else (second, first)
    equal({m['MemberId'] for m in leader.reply['Members']}, {first.id, second.id}, 'members that the leader sees')
    equal(follower.reply['Members'], [], 'members that the follower sees')
    for m in (leader, follower):
        error(m.heartbeat(), what='heartbeat between join and sync')
    follower.start_sync()
    start = time.monotonic()
    follower.conn.socket.settimeout(0.4)
    try:
        follower.conn.socket.recv(1)
        true(False, "the follower's sync waits for the leader's", 'answered')
    except TimeoutError:
        pass
    follower.conn.socket.settimeout(30)
    error(leader.sync({leader.id: b'L', follower.id: b'F'}))
    equal(error(follower.finish_sync())['Assignment'], b'F', "the follower's assignment")
    between(time.monotonic() - start, 0.4, 5, 'seconds')
    error(first.heartbeat(generation=1), 'ILLEGAL_GENERATION', what='heartbeat of the old generation')


@case('A member that gets no assignment from the leader gets empty bytes')
def no_assignment(k):
    first = k.member(k.group()).join_alone()
    second = k.member(first.group).obtain_id().start_join()
    first.join(), second.finish_join()
    leader, follower = (first, second) if first.leads else (second, first)
    follower.start_sync()
    error(leader.sync({leader.id: b'L'}))
    equal(error(follower.finish_sync())['Assignment'], b'', "the follower's assignment")


@case('Five members end up in one generation with one leader, who sees all five')
def five_members(k):
    first = k.member(k.group()).join_alone()
    others = [k.member(first.group).obtain_id().start_join() for _ in range(4)]
    until(
        lambda: len(k.call('DescribeGroups', {'Groups': [first.group]})['Groups'][0]['Members']) == 5,
        'the group knows five members',
    )
    replies = [error(first.join())] + [error(m.finish_join()) for m in others]
    equal([r['GenerationId'] for r in replies], [2] * 5, 'generations')
    equal(len({r['Leader'] for r in replies}), 1, 'leaders')
    equal(sorted(len(r['Members']) for r in replies), [0, 0, 0, 0, 5], 'members seen')


@case(
    'A member that joins again unchanged: as follower it is answered at once with the generation, as leader it '
    'starts a rebalance'
)
def join_again(k):
    leader, follower = two_members(k)
    equal(error(follower.join())['GenerationId'], 2, 'generation for the follower')
    error(leader.heartbeat(), what="the leader's heartbeat")
    leader.start_join()
    until(
        lambda: answers(follower.heartbeat(), 'REBALANCE_IN_PROGRESS'),
        "the follower's heartbeat is REBALANCE_IN_PROGRESS",
    )
    error(follower.join())
    equal(error(leader.finish_join())['GenerationId'], 3, 'generation after the leader joined again')


@case('A member that joins again with another subscription starts a rebalance')
def join_again_changed(k):
    leader, follower = two_members(k)
    follower.protocols = [('range', subscription('topic', 'other'))]
    follower.start_join()
    until(
        lambda: answers(leader.heartbeat(), 'REBALANCE_IN_PROGRESS'), "the leader's heartbeat is REBALANCE_IN_PROGRESS"
    )
    reply = error(leader.join())
    equal(error(follower.finish_join())['GenerationId'], 3, 'generation')
    equal(
        {m['MemberId']: m['Metadata'] for m in reply['Members']}[follower.id],
        subscription('topic', 'other'),
        'subscription that the leader sees',
    )


@case(
    'The protocol is one that all members support; a member that shares none, or has another protocol type, is '
    'INCONSISTENT_GROUP_PROTOCOL'
)
def protocol_selection(k):
    group, s = k.group(), subscription('topic')
    first = k.member(group, protocols=[('range', s), ('roundrobin', s)]).join_alone()
    error(k.member(group, protocols=[('sticky', s)]).join(), 'INCONSISTENT_GROUP_PROTOCOL', what='no shared protocol')
    error(k.member(group, protocol_type='connect').join(), 'INCONSISTENT_GROUP_PROTOCOL', what='other protocol type')
    second = k.member(group, protocols=[('sticky', s), ('roundrobin', s)]).obtain_id().start_join()
    equal(error(first.join())['ProtocolName'], 'roundrobin', 'protocol')
    equal(error(second.finish_join())['ProtocolName'], 'roundrobin', 'protocol')


@case('A group of another protocol type (Kafka Connect) carries any bytes as metadata and assignment')
def other_protocol_type(k):
    m = k.member(k.group(), protocol_type='connect', protocols=[('sessioned', b'\xff\x00 any bytes')])
    equal(error(m.join())['Members'][0]['Metadata'], b'\xff\x00 any bytes', 'metadata')
    equal(error(m.sync({m.id: b'\x00\xff'}))['Assignment'], b'\x00\xff', 'assignment')


@case(
    'Leaving starts a rebalance for the others and forgets the member; leaving twice, or as a stranger, '
    'is UNKNOWN_MEMBER_ID'
)
def leave(k):
    leader, follower = two_members(k)
    error(follower.leave(member_id='ghost'), 'UNKNOWN_MEMBER_ID')
    error(follower.leave())
    error(follower.leave(), 'UNKNOWN_MEMBER_ID', what='leaving again')
    error(follower.heartbeat(), 'UNKNOWN_MEMBER_ID', what="the leaver's heartbeat")
    until(
        lambda: answers(leader.heartbeat(), 'REBALANCE_IN_PROGRESS'), "the other's heartbeat is REBALANCE_IN_PROGRESS"
    )
    equal(len(error(leader.join())['Members']), 1, 'members afterwards')


@case('LeaveGroup before version 3 names one member; from 3 many, each with its own error')
def leave_versions(k):
    m = k.member(k.group()).join_alone()
    error(k.call('LeaveGroup', {'GroupId': m.group, 'MemberId': 'ghost'}, 2), 'UNKNOWN_MEMBER_ID')
    error(k.call('LeaveGroup', {'GroupId': m.group, 'MemberId': m.id}, 2))
    error(m.heartbeat(), 'UNKNOWN_MEMBER_ID')
    leader, follower = two_members(k)
    reply = error(
        k.call(
            'LeaveGroup',
            {
                'GroupId': leader.group,
                'Members': [{'MemberId': x, 'GroupInstanceId': None} for x in (leader.id, 'ghost', follower.id)],
            },
            4,
        )
    )
    equal([x['ErrorCode'] for x in reply['Members']], [0, 25, 0], 'error codes')


@case('When all have left and a member joins again, the generation goes on and does not start at 1')
def generation_goes_on(k):
    m = k.member(k.group()).join_alone()
    error(m.leave())
    true(error(k.member(m.group).join())['GenerationId'] > 1, 'a generation above 1')


@case('A static member that restarts keeps assignment and generation without a rebalance, under a new member id')
def static_restart(k):
    old = k.member(k.group(), instance='i1').join_alone()
    new = k.member(old.group, instance='i1')
    reply = error(new.join())
    true(reply['MemberId'] != old.id, 'a new member id')
    equal(reply['GenerationId'], old.generation, 'generation')
    equal(error(new.sync())['Assignment'], b'all', 'assignment')


@case(
    'The replaced static member is FENCED_INSTANCE_ID in every request, and an instance id that the group does not '
    'know is UNKNOWN_MEMBER_ID'
)
def static_fencing(k):
    topic = k.topic()
    old = k.member(k.group(), instance='i1').join_alone()
    new = k.member(old.group, instance='i1')
    error(new.join())
    error(new.sync())
    for what, code in (
        ('Heartbeat', old.heartbeat()),
        ('OffsetCommit', old.commit(topic, 1)),
        ('SyncGroup', old.sync()),
        ('JoinGroup', old.join()),
        ('LeaveGroup', old.leave()),
    ):
        error(code, 'FENCED_INSTANCE_ID', what=what)
    error(new.heartbeat())
    error(new.heartbeat(instance='never seen'), 'UNKNOWN_MEMBER_ID')
    error(new.leave(member_id='', instance='never seen'), 'UNKNOWN_MEMBER_ID')


@case('A static member can be removed by its instance id alone, as the admin client does')
def static_removal(k):
    m = k.member(k.group(), instance='i1').join_alone()
    error(m.leave(member_id=''))
    error(m.heartbeat(), 'UNKNOWN_MEMBER_ID')


@case(
    'From JoinGroup 9 a restarted static leader is told that it leads and may skip the assignment; before, it is '
    'told of its old id'
)
def static_leader_restart(k):
    for version in (8, 9):
        k.require('JoinGroup', version)
        old = k.member(k.group(), instance='i1')
        error(old.join(version))
        error(old.sync({old.id: b'A'}))
        reply = error(k.member(old.group, instance='i1').join(version))
        if version == 8:
            equal((reply['Leader'], reply['Members']), (old.id, []), 'v8 leader and members')
        else:
            equal(
                (reply['Leader'], reply['SkipAssignment'], len(reply['Members'])),
                (reply['MemberId'], True, 1),
                'v9 leader, skip, members',
            )


@case('A member that sends no heartbeat for its session timeout is removed, and the others rebalance', slow=True)
def session_timeout(k):
    group = k.group()
    quiet = k.member(group, session_ms=6000).join_alone()
    lively = k.member(group, session_ms=30000).obtain_id().start_join()
    error(quiet.join()), error(lively.finish_join())
    leader, follower = (quiet, lively) if quiet.leads else (lively, quiet)
    follower.start_sync()
    leader.sync({leader.id: b'L', follower.id: b'F'}), follower.finish_sync()
    start = time.monotonic()
    until(
        lambda: answers(lively.heartbeat(), 'REBALANCE_IN_PROGRESS'),
        'the other member is told of a rebalance',
        timeout=20,
        every=0.2,
    )
    between(time.monotonic() - start, 4, 12, 'seconds until the session of 6 s ran out')
    equal(len(error(lively.join())['Members']), 1, 'members afterwards')
    error(quiet.heartbeat(), 'UNKNOWN_MEMBER_ID')


@case(
    'A member that does not join again within the rebalance timeout is dropped; those that wait are not kept longer',
    slow=True,
)
def rebalance_timeout(k):
    group = k.group()
    laggard = k.member(group, session_ms=30000, rebalance_ms=2500).join_alone()
    start, other = time.monotonic(), k.member(group, session_ms=30000, rebalance_ms=2500).obtain_id().start_join()
    equal(len(error(other.finish_join())['Members']), 1, 'members')
    between(time.monotonic() - start, 2, 8, 'seconds until the rebalance timeout of 2.5 s ran out')
    error(laggard.heartbeat(), 'UNKNOWN_MEMBER_ID')


@case('A leader that does not sync within the rebalance timeout does not hold the group for ever', slow=True)
def sync_timeout(k):
    group = k.group()
    first = k.member(group, session_ms=30000, rebalance_ms=2500).join_alone()
    second = k.member(group, session_ms=30000, rebalance_ms=2500).obtain_id().start_join()
    error(first.join()), error(second.finish_join())
    leader, follower = (first, second) if first.leads else (second, first)
    start = time.monotonic()
    error(follower.sync(), 'REBALANCE_IN_PROGRESS')
    between(time.monotonic() - start, 2, 8, 'seconds until the follower is released')


@case(
    'A heartbeat long after the connection of the join was closed still belongs to the member: membership is not '
    'bound to a connection'
)
def member_outlives_connection(k):
    m = k.member(k.group()).join_alone()
    m.conn.close()
    m.conn = k.connect()
    error(m.heartbeat())


@case(
    'Subscription bytes that do not parse do not harm the group',
    beyond='answers UNKNOWN_SERVER_ERROR to one member and nothing to the other',
)
def unreadable_subscription(k):
    group = k.group()
    first = k.member(group, protocols=[('range', b'\x63\x68anged')])
    first.conn.socket.settimeout(8)
    error(first.join())
    error(first.sync({first.id: b''}))
    second = k.member(group).obtain_id().start_join()
    error(first.join())
    second.conn.socket.settimeout(8)
    error(second.finish_join())
