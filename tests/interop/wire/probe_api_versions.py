#!/usr/bin/env python3
"""Does a broker advertise what real clients need? Compares its ApiVersions answer with what they look for.

    BOOTSTRAP=127.0.0.1:9092 probe_api_versions.py [--tier 1,2,3] [--table]

Every line is one API with the versions that must lie inside the advertised range, and who needs them. --table prints
what the broker advertises as well. Ends with 'N passed, N failed'; exit status 1 if something failed. Apache Kafka
4.2.1 passes all.
"""

import argparse, os, sys

sys.dont_write_bytecode = True  # leaves no __pycache__ behind
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kwire import API_NAMES, SCHEMAS, Conn, api_key, version_range

# (tier, API, versions, who needs them). "gate": librdkafka before 2.11.1 turns a feature off when this exact version
# lies outside the range. The others were seen on the wire or read in the source: librdkafka 2.0.2 (Debian's kcat) and
# 2.15, Java 4.2.1, kafka-python 3.0.12, aiokafka 0.14, kafkajs 2.
NEEDED = [
    (1, 'ApiVersions', [0, 2, 3], 'aiokafka 0, kafkajs 2, librdkafka 3; gate 0'),
    (1, 'ApiVersions', [4], 'Java, kafka-python (they fall back)'),
    (1, 'Produce', [0], 'gate: gzip, snappy and lz4 in librdkafka before 2.11.1'),
    (1, 'Produce', [3, 7], 'gate 3: record batches, gate 7: zstd; librdkafka 2.0, aiokafka, kafkajs 7'),
    (1, 'Produce', [9, 10, 12], 'kafka-python 9, librdkafka 2.15 10, Java 12 and 11 in old transactions'),
    (1, 'Fetch', [4, 10], 'gate 4: record batches, gate 10: zstd'),
    (1, 'Fetch', [11, 12, 16], 'librdkafka 2.0, aiokafka, kafkajs 11, kafka-python 12, librdkafka 2.15 16'),
    (1, 'ListOffsets', [1, 2, 3, 7], 'librdkafka 2.0 2, aiokafka, kafkajs 3, librdkafka 2.15 7'),
    (1, 'Metadata', [4, 5, 6, 12, 13], 'librdkafka 2.0 4, aiokafka 5, kafkajs 6, topic ids 12, Java, kafka-python 13'),
    (1, 'OffsetCommit', [2, 3, 5, 7, 8, 9], 'aiokafka 3, kafkajs 5, librdkafka 7 and 9, kafka-python 8, Java 9'),
    (1, 'OffsetFetch', [1, 3, 4, 7, 8, 9], 'aiokafka 3, kafkajs 4, librdkafka 7 and 9, kafka-python 8, Java 9'),
    (
        1,
        'FindCoordinator',
        [0, 1, 2, 4, 6],
        'gate 0: coordinator, lz4; aiokafka 1, librdkafka, kafkajs 2, Java, kafka-python 6',
    ),
    (1, 'JoinGroup', [0, 5, 7, 9], 'gate 0: SASL GSSAPI; librdkafka, aiokafka, kafkajs 5, kafka-python 7, Java 9'),
    (1, 'SyncGroup', [0, 3, 5], 'librdkafka, aiokafka, kafkajs 3, Java, kafka-python 5'),
    (1, 'Heartbeat', [0, 3, 4], 'librdkafka 3, Java 4'),
    (1, 'LeaveGroup', [0, 1, 3, 5], 'librdkafka, aiokafka 1, kafkajs 3, Java, kafka-python 5'),
    (1, 'DescribeGroups', [0, 4, 5], 'admin clients'),
    (1, 'ListGroups', [0, 4, 5], 'admin clients; Java 5'),
    (1, 'CreateTopics', [3, 4, 7], 'kafkajs 3, librdkafka 4, Java, kafka-python 7'),
    (1, 'DeleteTopics', [1, 4, 6], 'librdkafka 2.11 1, librdkafka 2.15 4, Java, kafka-python 6'),
    (1, 'DeleteRecords', [1, 2], 'librdkafka'),
    (1, 'InitProducerId', [0, 1, 4], 'gate 0: idempotence; aiokafka 0, kafkajs 1, librdkafka, kafka-python 4'),
    (1, 'OffsetForLeaderEpoch', [2, 4], 'librdkafka speaks 2 only'),
    (1, 'DescribeConfigs', [1, 4], 'librdkafka 1'),
    (1, 'AlterConfigs', [0, 2], 'librdkafka 2.0 0, 2.15 2'),
    (1, 'IncrementalAlterConfigs', [0, 1], 'librdkafka 1'),
    (1, 'CreatePartitions', [0, 2, 3], 'librdkafka 2.11 speaks 0 only, 2.15 2'),
    (1, 'DeleteGroups', [1, 2], 'librdkafka'),
    (1, 'OffsetDelete', [0], 'librdkafka, Java'),
    (1, 'DescribeCluster', [0, 1, 2], 'Java 2'),
    (1, 'SaslHandshake', [0, 1], 'gate 0 and gate 1'),
    (1, 'SaslAuthenticate', [0, 1, 2], 'gate 0; librdkafka 1'),
    (2, 'AddPartitionsToTxn', [0, 1, 3], 'librdkafka speaks 0 only; aiokafka 0, kafkajs 1, Java 3 in old transactions'),
    (2, 'AddOffsetsToTxn', [0, 3, 4], 'librdkafka speaks 0 only; Java 4 in old transactions'),
    (2, 'EndTxn', [0, 1, 4], 'aiokafka 0, librdkafka, kafkajs 1, Java 4 in old transactions'),
    (2, 'TxnOffsetCommit', [0, 3, 4], 'librdkafka 3, Java 4 in old transactions'),
    (2, 'EndTxn', [5], 'transactions version 2: Java'),
    (2, 'TxnOffsetCommit', [5], 'transactions version 2: Java'),
    (2, 'InitProducerId', [5], 'Java'),
    (2, 'Produce', [13], 'topic ids: Java'),
    (2, 'Fetch', [13, 18], 'topic ids; Java 18'),
    (2, 'ListOffsets', [11], 'Java, kafka-python'),
    (2, 'OffsetCommit', [10], 'topic ids: Java with KIP-848'),
    (2, 'OffsetFetch', [10], 'topic ids: Java with KIP-848'),
    (2, 'DescribeAcls', [1, 3], 'librdkafka 1 and 2'),
    (2, 'CreateAcls', [1, 3], 'librdkafka 1'),
    (2, 'DeleteAcls', [1, 3], 'librdkafka 1'),
    (2, 'DescribeLogDirs', [1, 4], 'admin clients'),
    (2, 'DescribeUserScramCredentials', [0], 'librdkafka, Java'),
    (2, 'AlterUserScramCredentials', [0], 'librdkafka, Java'),
    (2, 'ConsumerGroupHeartbeat', [0, 1], 'librdkafka 2.4 to 2.9 speaks 0 only, from 2.10 1 only; Java 1'),
    (2, 'ConsumerGroupDescribe', [0, 1], 'librdkafka speaks 0 only'),
    (2, 'DescribeTopicPartitions', [0], 'Java admin (falls back to Metadata)'),
    (3, 'ElectLeaders', [2], 'librdkafka, Java'),
    (3, 'AlterPartitionReassignments', [0, 1], 'Java'),
    (3, 'ListPartitionReassignments', [0], 'Java'),
    (3, 'DescribeClientQuotas', [0, 1], 'Java'),
    (3, 'AlterClientQuotas', [0, 1], 'Java'),
    (3, 'DescribeProducers', [0], 'kafka-transactions'),
    (3, 'DescribeTransactions', [0], 'kafka-transactions'),
    (3, 'ListTransactions', [0, 2], 'kafka-transactions'),
    (3, 'WriteTxnMarkers', [1, 2], 'kafka-transactions abort'),
    (3, 'DescribeQuorum', [0, 2], 'kafka-metadata-quorum'),
    (3, 'UpdateFeatures', [0, 2], 'kafka-features'),
    (3, 'ListConfigResources', [0, 1], 'Java admin'),
    (3, 'ShareGroupHeartbeat', [1], 'Java share consumer'),
    (3, 'ShareGroupDescribe', [1], 'Java admin'),
    (3, 'ShareFetch', [1, 2], 'Java share consumer'),
    (3, 'ShareAcknowledge', [1, 2], 'Java share consumer'),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--bootstrap', default=os.environ.get('BOOTSTRAP', '127.0.0.1:9092').split(',')[0], metavar='HOST:PORT'
    )
    parser.add_argument(
        '--tier', default='1,2,3', metavar='N[,N]', help='1 must have, 2 transactions, ACLs, KIP-848, 3 the rest'
    )
    parser.add_argument('--table', action='store_true', help='print every advertised API with its range')
    args = parser.parse_args()
    tiers = {int(t) for t in args.tier.split(',')}
    conn = Conn(args.bootstrap)
    advertised = {k['ApiKey']: (k['MinVersion'], k['MaxVersion']) for k in conn.call('ApiVersions', 0, {})['ApiKeys']}
    conn.close()
    if args.table:
        print('key  API                             advertised  Kafka 4.2.1 knows')
        for key, (low, high) in sorted(advertised.items()):
            name = API_NAMES.get(key, '(no specification here)')
            known = version_range(SCHEMAS[name + 'Request']['validVersions']) if key in API_NAMES else ('', '')
            print(f'{key:>3}  {name:<30}  {low:>2} to {high:<2}    {known[0]} to {known[1]}')
    passed = failed = 0
    for tier, api, versions, who in NEEDED:
        if tier not in tiers:
            continue
        low, high = advertised.get(api_key(api), (1, 0))
        ok = all(low <= v <= high for v in versions)
        passed, failed = passed + ok, failed + (not ok)
        have = f'{low} to {high}' if low <= high else 'nothing'
        print(
            f'{"PASS" if ok else "FAIL"} tier {tier} {api} ({api_key(api)}) has {", ".join(map(str, versions))}: {who}'
            + ('' if ok else f'\n       got:      {have} advertised')
        )
    print(f'{passed} passed, {failed} failed')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
