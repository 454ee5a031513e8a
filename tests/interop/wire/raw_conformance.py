#!/usr/bin/env python3
"""Wire-level conformance cases for one Kafka-compatible broker: raw requests, no client library.

    BOOTSTRAP=127.0.0.1:9092 raw_conformance.py                    everything but security
    raw_conformance.py --tier 1 --fast                             the core, without the slow cases
    raw_conformance.py --only 'produce\\.' --exclude snappy         by case id
    raw_conformance.py --list                                      what there is
    raw_conformance.py --security                                  tier 6 too (for a broker that is set up for it)
    raw_conformance.py --beyond                                    also what we do better than Kafka

Every case passes against Apache Kafka 4.2.1, except those marked 'beyond', which run only with --beyond.
Exit status 0: nothing failed.
"""

import argparse, json, os, re, sys, time

sys.dont_write_bytecode = True  # leaves no __pycache__ behind
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness
import cases  # noqa: F401  (registers every case)

TIERS = {
    1: 'core',
    2: 'groups and offsets',
    3: 'transactions',
    4: 'admin and log maintenance',
    5: 'KIP-848 groups',
    6: 'security',
}


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--bootstrap',
        default=os.environ.get('BOOTSTRAP', '127.0.0.1:9092').split(',')[0],
        metavar='HOST:PORT',
        help='the broker; default: the environment variable BOOTSTRAP, else 127.0.0.1:9092',
    )
    parser.add_argument('--list', action='store_true', help='print the cases and stop')
    parser.add_argument('--only', metavar='REGEX', default='', help='only cases whose id or sentence matches')
    parser.add_argument('--exclude', metavar='REGEX', help='leave out cases whose id or sentence matches')
    parser.add_argument(
        '--tier', metavar='N[,N]', help='only these tiers: ' + ', '.join(f'{n} {t}' for n, t in TIERS.items())
    )
    parser.add_argument('--fast', action='store_true', help='leave out cases that take more than two seconds')
    parser.add_argument('--security', action='store_true', help='run tier 6 too')
    parser.add_argument('--beyond', action='store_true', help='run the cases that go beyond Kafka too')
    parser.add_argument(
        '--no-skip', action='store_true', help='a case that does not apply (an API is not advertised) fails'
    )
    parser.add_argument(
        '--json', metavar='FILE', help='write the results here as well (- is standard output, instead of the text)'
    )
    return parser.parse_args()


def chosen(args):
    tiers = {int(t) for t in args.tier.split(',')} if args.tier else set(TIERS)
    for case in sorted(harness.CASES, key=lambda c: c.tier):  # stable: the file's order within a tier
        text = f'{case.id} {case.sentence}'
        if (
            case.tier in tiers
            and re.search(args.only, text)
            and not (args.exclude and re.search(args.exclude, text))
            and not (args.fast and case.slow)
            and (args.beyond or not case.beyond)
            and (args.security or not case.security or args.list)
        ):
            yield case


def run(case, target):
    kit, start, result = (
        harness.Kit(target, case.id),
        time.monotonic(),
        {'id': case.id, 'tier': case.tier, 'sentence': case.sentence},
    )
    try:
        case.function(kit)
        result['result'] = 'PASS'
    except harness.Skip as skip:
        result.update(result='SKIP', why=str(skip))
    except harness.Mismatch as e:
        result.update(
            result='FAIL', what=e.what, expected=str(e.expected), got=str(e.got)[:2000], where=harness.place_of(e)
        )
    except Exception as e:
        result.update(
            result='FAIL',
            what='no exception',
            expected='the case runs to its end',
            got=f'{type(e).__name__}: {e}'[:2000],
            where=harness.place_of(e),
        )
    finally:
        kit.close()
    result['seconds'] = round(time.monotonic() - start, 2)
    if case.beyond:
        result['kafka'] = case.beyond
    return result


def show(result):
    print(f'{result["result"]} {result["id"]} ({result["seconds"]:.1f} s) {result["sentence"]}', flush=True)
    if result['result'] == 'SKIP':
        print(f'       skipped:  {result["why"]}')
    if result['result'] == 'FAIL':
        print(
            f'       expected: {result["what"]}: {result["expected"]}\n'
            f'       got:      {result["got"]}\n       at:       {result["where"]}'
        )
        if 'kafka' in result:
            print(f'       beyond Kafka, which {result["kafka"]}')


def main():
    args = options()
    selection = list(chosen(args))
    if args.list:
        tier = None
        for case in selection:
            if case.tier != tier:
                tier = case.tier
                print(f'Tier {tier}: {TIERS[tier]}')
            marks = ''.join(f' [{m}]' for m in ('slow', 'beyond', 'security') if getattr(case, m))
            print(f'  {case.id}: {case.sentence}{marks}')
        print(f'{len(selection)} cases')
        return 0
    try:
        target = harness.Target(args.bootstrap)
    except (OSError, AssertionError) as e:
        print(f'no Kafka-compatible broker at {args.bootstrap}: {e}', file=sys.stderr)
        return 2
    results = []
    for case in selection:
        result = run(case, target)
        if args.no_skip and result['result'] == 'SKIP':
            result.update(result='FAIL', what='no skip', expected='the case applies', got=result['why'], where='')
        results.append(result)
        if args.json != '-':
            show(result)
    failed = [r['id'] for r in results if r['result'] == 'FAIL']
    counts = {name: sum(r['result'] == name for r in results) for name in ('PASS', 'FAIL', 'SKIP')}
    if args.json:
        document = json.dumps(
            {'broker': args.bootstrap, 'results': results, **{k.lower(): v for k, v in counts.items()}}, indent=1
        )
        print(document) if args.json == '-' else open(args.json, 'w').write(document + '\n')
    if args.json != '-':
        if failed:
            print('failed: ' + ' '.join(failed))
        print(f'{counts["PASS"]} passed, {counts["FAIL"]} failed, {counts["SKIP"]} skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
