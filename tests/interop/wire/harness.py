"""What the cases are written with: the case registry, the checks, and `Kit`, a small set of verbs over raw requests."""

import base64, os, random, re, struct, time, traceback

from kwire import CODES, Codec, Conn, SCHEMAS, api_key, batch, error_name, parse, version_range

CASES = []


class Case:
    def __init__(self, area, tier, function, sentence, slow, beyond, security):
        self.id, self.tier, self.function, self.sentence = f'{area}.{function.__name__}', tier, function, sentence
        self.slow, self.beyond, self.security = slow, beyond, security


def area(name, tier, security=False):
    """case = area('produce', tier=1), then @case('The sentence that states what a broker must do') above each function.

    slow: takes more than two seconds. beyond: what Kafka does instead, where we want to do better than Kafka."""

    def case(sentence, slow=False, beyond=None, tier=tier):
        def register(function):
            entry = Case(name, tier, function, sentence, slow, beyond, security)
            assert entry.id not in {c.id for c in CASES}, f'{entry.id} is defined twice'
            CASES.append(entry)
            return function

        return register

    return case


class Skip(Exception):
    """The case does not apply to this broker."""


class Mismatch(AssertionError):
    def __init__(self, what, expected, got):
        super().__init__(f'{what}: expected {expected}, got {got}')
        self.what, self.expected, self.got = what, expected, got


def code_of(response):
    return response if isinstance(response, int) else response['ErrorCode']


def error(response, *names, what='error code'):
    """The response (or code) carries one of the named errors; no name means NONE."""
    names = names or ('NONE',)
    code = code_of(response)
    if code not in [CODES[n] for n in names]:
        detail = (
            '' if isinstance(response, int) or not response.get('ErrorMessage') else f' "{response["ErrorMessage"]}"'
        )
        raise Mismatch(what, ' or '.join(error_name(CODES[n]) for n in names), error_name(code) + detail)
    return response


def answers(response, name):
    """Whether the response (or code) carries the named error; for waiting with `until`."""
    return code_of(response) == CODES[name]


def equal(got, want, what):
    if got != want:
        raise Mismatch(what, repr(want), repr(got))


def true(condition, what, got='not so'):
    if not condition:
        raise Mismatch('check', what, got)


def between(value, low, high, what):
    if not low <= value <= high:
        raise Mismatch(what, f'{low} to {high}', f'{value:.3f}' if isinstance(value, float) else value)


def until(condition, what, timeout=10, every=0.05):
    """Polls until the condition gives something true and returns that; fails with the last value after the timeout."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Mismatch(f'within {timeout} s', what, repr(value))
        time.sleep(every)


# The versions that the cases speak unless they say otherwise: flexible, but still with topic names, and with the
# transaction protocol before version 2. An API that is not listed is spoken in its newest version.
SPOKEN = {
    'Produce': 9,
    'Fetch': 12,
    'ListOffsets': 7,
    'Metadata': 12,
    'OffsetCommit': 8,
    'OffsetFetch': 7,
    'FindCoordinator': 3,
    'JoinGroup': 7,
    'Heartbeat': 4,
    'LeaveGroup': 4,
    'SyncGroup': 5,
    'DescribeGroups': 5,
    'ListGroups': 4,
    'CreateTopics': 7,
    'DeleteTopics': 5,
    'InitProducerId': 4,
    'AddPartitionsToTxn': 3,
    'AddOffsetsToTxn': 3,
    'EndTxn': 3,
    'TxnOffsetCommit': 3,
    'ApiVersions': 3,
    'DescribeCluster': 1,
}
RETRY = {
    CODES[n]
    for n in ('COORDINATOR_LOAD_IN_PROGRESS', 'COORDINATOR_NOT_AVAILABLE', 'NOT_COORDINATOR', 'CONCURRENT_TRANSACTIONS')
}


class Target:
    """The broker under test and what it advertises."""

    def __init__(self, address):
        self.address, self.run = address, '%08x' % random.SystemRandom().getrandbits(32)
        conn = Conn(address)
        reply = conn.call('ApiVersions', 0, {})
        conn.close()
        self.advertised = {k['ApiKey']: (k['MinVersion'], k['MaxVersion']) for k in reply['ApiKeys']}


class Kit:
    """One per case: a connection, unique names, and verbs. Everything it opens is closed when the case ends."""

    def __init__(self, target, case_id):
        self.target, self.address, self.opened, self.count = target, target.address, [], 0
        self.prefix = re.sub(r'\W', '-', case_id)
        self.random = random.Random(case_id)  # the same bytes in every run
        self._conn = None

    @property
    def conn(self):
        if self._conn is None:
            self._conn = self.connect()
        return self._conn

    def connect(self, timeout=30):
        conn = Conn(self.address, timeout)
        self.opened.append(conn)
        return conn

    def close(self):
        for conn in self.opened:
            conn.close()

    def name(self, kind='t'):
        self.count += 1
        return f'{kind}-{self.target.run}-{self.prefix}-{self.count}'

    def bytes(self, size):
        return self.random.randbytes(size)

    def alive(self):
        """The broker answers a new connection, and the connection that the case used before still works."""
        for conn in (self.connect(), self.conn):
            error(conn.call('ApiVersions', 0, {}), what='the broker still serves other connections')

    # versions
    def range(self, api):
        """The versions that both the broker advertises and the specifications know; skips if there are none."""
        if api_key(api) not in self.target.advertised:
            raise Skip(f'{api} is not advertised')
        low, high = self.target.advertised[api_key(api)]
        known_low, known_high = version_range(SCHEMAS[api + 'Request']['validVersions'])
        return max(low, known_low), min(high, known_high)

    def version(self, api):
        low, high = self.range(api)
        return max(low, min(SPOKEN.get(api, high), high))

    def require(self, api, version):
        low, high = self.range(api)
        if not low <= version <= high:
            raise Skip(f'{api} v{version} is not advertised')

    def call(self, api, body, version=None, conn=None):
        if version is None:
            version = self.version(api)
        else:
            self.require(api, version)
        return (conn or self.conn).call(api, version, body)

    # topics
    def metadata(self, topics=None, version=None, auto_create=False, **more):
        version = self.version('Metadata') if version is None else version
        body = {'Topics': None if topics is None else [{'Name': t} for t in topics], **more}
        if version >= 4:
            body['AllowAutoTopicCreation'] = auto_create
        return self.call('Metadata', body, version)

    def create_topic(
        self, name=None, partitions=1, replication=1, assignments=None, validate_only=False, version=None, configs=None
    ):
        """The topic's entry in the CreateTopics response, whatever it says."""
        topic = {
            'Name': self.name() if name is None else name,
            'NumPartitions': partitions,
            'ReplicationFactor': replication,
            'Configs': [{'Name': n, 'Value': v} for n, v in (configs or {}).items()],
            'Assignments': [{'PartitionIndex': p, 'BrokerIds': b} for p, b in (assignments or {}).items()],
        }
        return self.call(
            'CreateTopics', {'Topics': [topic], 'timeoutMs': 10000, 'validateOnly': validate_only}, version
        )['Topics'][0]

    def topic(self, partitions=1, name=None, **configs):
        """Creates a topic and waits until it has leaders. Settings have underscores: retention_ms='1000'."""
        name = name or self.name()
        error(
            self.create_topic(name, partitions, configs={k.replace('_', '.'): v for k, v in configs.items()}),
            what=f'CreateTopics {configs or ""}',
        )
        self.wait_for_topic(name, partitions)
        return name

    def wait_for_topic(self, name, partitions=1):
        """Waits until the metadata names every leader and every leader serves: a broker may learn the former first."""

        def ready():
            topic = self.metadata([name])['Topics'][0]
            return (
                topic['ErrorCode'] == 0
                and len(topic['Partitions']) == partitions
                and all(p['LeaderId'] >= 0 and p['ErrorCode'] == 0 for p in topic['Partitions'])
                and all(self.offset(name, -1, p)['ErrorCode'] == 0 for p in range(partitions))
            )

        until(ready, f'{name} has {partitions} partitions with leaders that serve', every=0.01)

    def topic_id(self, name):
        return self.metadata([name], version=12)['Topics'][0]['TopicId']

    def delete_topic(self, name):
        return self.call('DeleteTopics', {'TopicNames': [name], 'TimeoutMs': 10000})['Responses'][0]

    def configs(self, name, resource=2, keys=None, **more):
        """The configs of a resource (2 topic, 4 broker, 8 broker logger) by name."""
        body = {'Resources': [{'ResourceType': resource, 'ResourceName': name, 'ConfigurationKeys': keys}], **more}
        result = error(self.call('DescribeConfigs', body)['Results'][0], what='DescribeConfigs')
        return {c['Name']: c for c in result['Configs']}

    # produce and fetch
    def produce(
        self, topic, records, partition=0, acks=-1, version=None, transactional_id=None, conn=None, timeout_ms=10000
    ):
        """Sends one partition's bytes; returns the partition's response (None for acks=0)."""
        version = self.version('Produce') if version is None else version
        self.require('Produce', version)
        conn = conn or self.conn
        entry = {'PartitionData': [{'Index': partition, 'Records': records}]}
        entry.update({'TopicId': self.topic_id(topic)} if version >= 13 else {'Name': topic})
        body = {'TransactionalId': transactional_id, 'Acks': acks, 'TimeoutMs': timeout_ms, 'TopicData': [entry]}
        if acks == 0:
            conn.send('Produce', version, body, answered=False)
            return None
        conn.send('Produce', version, body)
        return conn.recv('Produce', version)['Responses'][0]['PartitionResponses'][0]

    def put(self, topic, *values, partition=0, **batch_options):
        """Produces values (key b'k') as one batch and insists on success."""
        return error(self.produce(topic, batch(records(*values), **batch_options), partition), what='Produce')

    def fetch_body(
        self,
        topic,
        offset,
        partition=0,
        version=None,
        max_wait_ms=500,
        min_bytes=1,
        max_bytes=50 << 20,
        partition_max_bytes=1 << 20,
        isolation=0,
        current_leader_epoch=-1,
        session=(0, -1),
        topic_id=None,
    ):
        part = {
            'Partition': partition,
            'CurrentLeaderEpoch': current_leader_epoch,
            'FetchOffset': offset,
            'PartitionMaxBytes': partition_max_bytes,
        }
        entry = {'Partitions': [part]}
        entry.update({'TopicId': topic_id or self.topic_id(topic)} if version >= 13 else {'Topic': topic})
        body = {
            'MaxWaitMs': max_wait_ms,
            'MinBytes': min_bytes,
            'MaxBytes': max_bytes,
            'IsolationLevel': isolation,
            'SessionId': session[0],
            'SessionEpoch': session[1],
            'Topics': [entry] if topic or topic_id else [],
        }
        if version < 15:
            body['ReplicaId'] = -1
        return body

    def start_fetch(self, topic, offset, conn=None, **options):
        """Sends a fetch and does not wait; give what it returns to finish_fetch."""
        version = options.pop('version', None)
        version = self.version('Fetch') if version is None else version
        self.require('Fetch', version)
        conn = conn or self.connect()
        conn.send('Fetch', version, self.fetch_body(topic, offset, version=version, **options))
        return conn, version

    @staticmethod
    def finish_fetch(started, whole=False):
        reply = started[0].recv('Fetch', started[1])
        if whole:
            return reply
        error(reply, what='Fetch, whole response')
        return reply['Responses'][0]['Partitions'][0]

    def fetch(self, topic, offset, whole=False, conn=None, **options):
        return self.finish_fetch(self.start_fetch(topic, offset, conn=conn or self.conn, **options), whole)

    def batches(self, topic, offset=0, partition=0, isolation=0, timeout=10):
        """(batches, aborted transactions) from the offset to the high watermark, or to the last stable offset."""
        found, aborted, end = [], [], time.monotonic() + timeout
        while time.monotonic() < end:
            reply = error(
                self.fetch(topic, offset, partition=partition, isolation=isolation, max_wait_ms=100), what='Fetch'
            )
            part = parse(reply['Records'])
            true(all(b.crc_ok for b in part), 'fetched batches have a right CRC')
            found += part
            aborted += reply.get('AbortedTransactions') or []
            if part:
                offset = part[-1].last + 1
            if offset >= (reply['LastStableOffset'] if isolation else reply['HighWatermark']):
                return found, aborted
        raise Mismatch('reading the partition', f'its end within {timeout} s', f'offset {offset}')

    def values(self, topic, committed=False, **options):
        """The values that a consumer sees; committed=True filters aborted transactions exactly as clients do."""
        found, aborted = self.batches(topic, isolation=int(committed), **options)
        queue, open_, out = sorted((a['FirstOffset'], a['ProducerId']) for a in aborted), set(), []
        for b in found:
            while queue and queue[0][0] <= b.last:
                open_.add(queue.pop(0)[1])
            if b.control:
                open_.discard(b.producer_id)
            elif not (b.transactional and b.producer_id in open_):
                out += [r.value for r in b.records]
        return out

    def offset(self, topic, timestamp, partition=0, isolation=0, version=None, current_leader_epoch=-1):
        """The partition's response to ListOffsets. -1 latest, -2 earliest, -3 the newest timestamp."""
        version = self.version('ListOffsets') if version is None else version
        part = {'PartitionIndex': partition, 'Timestamp': timestamp}
        if version >= 4:
            part['CurrentLeaderEpoch'] = current_leader_epoch
        body = {'ReplicaId': -1, 'Topics': [{'Name': topic, 'Partitions': [part]}]}
        if version >= 2:
            body['IsolationLevel'] = isolation
        return self.call('ListOffsets', body, version)['Topics'][0]['Partitions'][0]

    def end_offset(self, topic, partition=0, isolation=0):
        return error(self.offset(topic, -1, partition, isolation), what='ListOffsets')['Offset']

    # producers and transactions
    def coordinator(self, key, kind=0):
        """Finds the coordinator (0 group, 1 transaction, 2 share), which may create its internal topic on first use."""

        def found():
            reply = self.call('FindCoordinator', {'Key': key, 'KeyType': kind}, 3)
            return reply['ErrorCode'] == 0 and reply

        return until(found, f'a coordinator for {key}', timeout=60, every=0.2)

    def init_producer_id(
        self, transactional_id=None, timeout_ms=60000, producer_id=-1, epoch=-1, version=None, retry=True
    ):
        version = self.version('InitProducerId') if version is None else version
        body = {'TransactionalId': transactional_id, 'TransactionTimeoutMs': timeout_ms}
        if version >= 3:
            body.update(ProducerId=producer_id, ProducerEpoch=epoch)
        for _ in range(100):
            reply = self.call('InitProducerId', body, version)
            if not retry or reply['ErrorCode'] not in RETRY:
                break
            time.sleep(0.1)
        return reply

    def transactional(self, timeout_ms=60000, transactional_id=None, version=None):
        return Transactional(self, transactional_id or self.name('tx'), timeout_ms, version)

    # groups
    def group(self):
        group = self.name('g')
        self.coordinator(group)
        return group

    def member(self, group, **options):
        return Member(self, group, **options)

    def commit(
        self,
        group,
        topic,
        offset,
        generation=-1,
        member_id='',
        instance=None,
        metadata='',
        leader_epoch=-1,
        partition=0,
        version=None,
    ):
        """The partition's error code of an OffsetCommit."""
        version = self.version('OffsetCommit') if version is None else version
        part = {'PartitionIndex': partition, 'CommittedOffset': offset, 'CommittedMetadata': metadata}
        if version >= 6:
            part['CommittedLeaderEpoch'] = leader_epoch
        body = {
            'GroupId': group,
            'GenerationIdOrMemberEpoch': generation,
            'MemberId': member_id,
            'Topics': [{'Name': topic, 'Partitions': [part]}],
        }
        if version >= 7:
            body['GroupInstanceId'] = instance
        return self.call('OffsetCommit', body, version)['Topics'][0]['Partitions'][0]['ErrorCode']

    def committed(self, group, topic, partition=0, require_stable=False, version=None):
        """The partition's response to OffsetFetch (versions up to 7)."""
        version = self.version('OffsetFetch') if version is None else version
        body = {'GroupId': group, 'Topics': [{'Name': topic, 'PartitionIndexes': [partition]}]}
        if version >= 7:
            body['RequireStable'] = require_stable
        return self.call('OffsetFetch', body, version)['Topics'][0]['Partitions'][0]


def records(*values):
    """Records with key b'k' and the given values (str or bytes)."""
    return [(b'k', v.encode() if isinstance(v, str) else v) for v in values]


def subscription(*topics, user_data=None):
    """The metadata of a classic consumer, as clients send it: a version, then the embedded protocol's subscription."""
    return struct.pack('>h', 0) + Codec('ConsumerProtocolSubscription', 0).encode(
        {'Topics': list(topics), 'UserData': user_data}
    )


def member_uuid():
    return base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip('=')


class Transactional:
    """A transactional producer of before transaction version 2, unless told otherwise."""

    def __init__(self, kit, transactional_id, timeout_ms=60000, version=None):
        self.kit, self.id, self.sequence = kit, transactional_id, {}
        kit.coordinator(transactional_id, 1)
        reply = error(kit.init_producer_id(transactional_id, timeout_ms, version=version), what='InitProducerId')
        self.producer_id, self.epoch = reply['ProducerId'], reply['ProducerEpoch']

    def add(self, topic, *partitions, retry=True):
        """AddPartitionsToTxn; the first partition's error code."""
        body = {
            'V3AndBelowTransactionalId': self.id,
            'V3AndBelowProducerId': self.producer_id,
            'V3AndBelowProducerEpoch': self.epoch,
            'V3AndBelowTopics': [{'Name': topic, 'Partitions': list(partitions or [0])}],
        }
        return self._retried(
            lambda: self.kit.call('AddPartitionsToTxn', body)['ResultsByTopicV3AndBelow'][0]['ResultsByPartition'][0][
                'PartitionErrorCode'
            ],
            retry,
        )

    def produce(self, topic, *values, partition=0, version=None, sequence=None):
        """The partition's response; the sequence advances on success."""
        at = self.sequence.get((topic, partition), 0) if sequence is None else sequence
        data = batch(
            records(*values), producer_id=self.producer_id, producer_epoch=self.epoch, sequence=at, transactional=True
        )
        reply = self.kit.produce(topic, data, partition, transactional_id=self.id, version=version)
        if reply['ErrorCode'] == 0 and sequence is None:
            self.sequence[topic, partition] = at + len(values)
        return reply

    def write(self, topic, *values, partition=0):
        """Adds the partition and produces; both must succeed."""
        error(self.add(topic, partition), what='AddPartitionsToTxn')
        return error(self.produce(topic, *values, partition=partition), what='transactional Produce')

    def end(self, commit, retry=True):
        """EndTxn before transaction version 2; its error code."""
        body = {
            'TransactionalId': self.id,
            'ProducerId': self.producer_id,
            'ProducerEpoch': self.epoch,
            'Committed': commit,
        }
        return self._retried(lambda: self.kit.call('EndTxn', body)['ErrorCode'], retry)

    def add_offsets(self, group, retry=True):
        body = {
            'TransactionalId': self.id,
            'ProducerId': self.producer_id,
            'ProducerEpoch': self.epoch,
            'GroupId': group,
        }
        return self._retried(lambda: self.kit.call('AddOffsetsToTxn', body)['ErrorCode'], retry)

    def commit_offset(self, group, topic, offset, generation=-1, member_id='', instance=None, version=None):
        """TxnOffsetCommit; the partition's error code."""
        body = {
            'TransactionalId': self.id,
            'GroupId': group,
            'ProducerId': self.producer_id,
            'ProducerEpoch': self.epoch,
            'GenerationId': generation,
            'MemberId': member_id,
            'GroupInstanceId': instance,
            'Topics': [
                {
                    'Name': topic,
                    'Partitions': [{'PartitionIndex': 0, 'CommittedOffset': offset, 'CommittedMetadata': ''}],
                }
            ],
        }
        return self._retried(
            lambda: self.kit.call('TxnOffsetCommit', body, version)['Topics'][0]['Partitions'][0]['ErrorCode'], True
        )

    @staticmethod
    def _retried(request, retry):
        for _ in range(100):
            code = request()
            if not retry or code not in RETRY:
                break
            time.sleep(0.05)
        return code

    def settled(self, topic, end, partition=0):
        """Waits until the last stable offset is `end`: the markers are written."""
        until(
            lambda: self.kit.end_offset(topic, partition, isolation=1) == end, f'last stable offset {end}', timeout=20
        )


class Member:
    """A member of a classic group with its own connection, so that a join may wait while others act."""

    def __init__(
        self,
        kit,
        group,
        instance=None,
        session_ms=10000,
        rebalance_ms=5000,
        protocols=None,
        protocol_type='consumer',
        member_id='',
    ):
        self.kit, self.group, self.instance, self.conn = kit, group, instance, kit.connect(60)
        self.session_ms, self.rebalance_ms, self.protocol_type = session_ms, rebalance_ms, protocol_type
        self.protocols = [('range', subscription('topic'))] if protocols is None else protocols
        self.id, self.generation, self.version = member_id, -1, kit.version('JoinGroup')

    def start_join(self, version=None):
        self.version = self.kit.version('JoinGroup') if version is None else version
        body = {
            'GroupId': self.group,
            'SessionTimeoutMs': self.session_ms,
            'MemberId': self.id,
            'ProtocolType': self.protocol_type,
            'Protocols': [{'Name': n, 'Metadata': m} for n, m in self.protocols],
        }
        if self.version >= 1:
            body['RebalanceTimeoutMs'] = self.rebalance_ms
        if self.version >= 5:
            body['GroupInstanceId'] = self.instance
        self.conn.send('JoinGroup', self.version, body)
        return self

    def finish_join(self):
        reply = self.conn.recv('JoinGroup', self.version)
        if reply['ErrorCode'] == CODES['MEMBER_ID_REQUIRED'] and not self.id:
            self.id = reply['MemberId']
            return self.start_join(self.version).finish_join()
        if reply['ErrorCode'] == 0:
            self.id, self.generation, self.reply = reply['MemberId'], reply['GenerationId'], reply
            self.leads = reply['Leader'] == self.id
        return reply

    def obtain_id(self):
        """For one that joins a group that others hold: gets its id first, so that finish_join cannot block."""
        if self.version >= 4 and not self.instance and not self.id:
            self.start_join()
            reply = self.conn.recv('JoinGroup', self.version)
            error(reply, 'MEMBER_ID_REQUIRED', what='first JoinGroup without member id')
            self.id = reply['MemberId']
        return self

    def join(self, version=None):
        return self.start_join(version).finish_join()

    def start_sync(self, assignments=None, generation=None, member_id=None, protocol_type=None, protocol=None):
        version = self.kit.version('SyncGroup')
        body = {
            'GroupId': self.group,
            'GenerationId': self.generation if generation is None else generation,
            'MemberId': self.id if member_id is None else member_id,
            'Assignments': [{'MemberId': m, 'Assignment': a} for m, a in (assignments or {}).items()],
        }
        if version >= 3:
            body['GroupInstanceId'] = self.instance
        if version >= 5:
            body['ProtocolType'] = protocol_type or self.protocol_type
            body['ProtocolName'] = protocol or (
                self.reply['ProtocolName'] if hasattr(self, 'reply') else self.protocols[0][0]
            )
        self.conn.send('SyncGroup', version, body)
        return self

    def finish_sync(self):
        return self.conn.recv('SyncGroup', self.kit.version('SyncGroup'))

    def sync(self, assignments=None, **options):
        return self.start_sync(assignments, **options).finish_sync()

    def join_alone(self):
        """Joins as the only member and takes the assignment b'all'."""
        error(self.join(), what='JoinGroup')
        error(self.sync({self.id: b'all'}), what='SyncGroup')
        return self

    def heartbeat(self, generation=None, member_id=None, instance=None):
        body = {
            'GroupId': self.group,
            'GenerationId': self.generation if generation is None else generation,
            'MemberId': self.id if member_id is None else member_id,
            'GroupInstanceId': instance or self.instance,
        }
        return self.kit.call('Heartbeat', body, conn=self.conn)['ErrorCode']

    def commit(self, topic, offset, **options):
        return self.kit.commit(
            self.group,
            topic,
            offset,
            **{'generation': self.generation, 'member_id': self.id, 'instance': self.instance, **options},
        )

    def leave(self, member_id=None, instance=None):
        """The member's error code in the LeaveGroup response."""
        body = {
            'GroupId': self.group,
            'Members': [
                {'MemberId': self.id if member_id is None else member_id, 'GroupInstanceId': instance or self.instance}
            ],
        }
        reply = self.kit.call('LeaveGroup', body, conn=self.conn)
        return reply['ErrorCode'] or reply['Members'][0]['ErrorCode']


def place_of(exception):
    """file:line in a case file where the exception comes from, innermost first."""
    frames = [f for f in traceback.extract_tb(exception.__traceback__) if os.sep + 'cases' + os.sep in f.filename]
    return f'cases/{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}' if frames else ''
