"""Cases for one client: a decorator that registers them, and a runner that gives each a thread and a time limit."""

import asyncio, logging, os, re, sys, threading, time, traceback, uuid

logging.disable(logging.CRITICAL)
BOOTSTRAP = os.environ.get('BOOTSTRAP', '127.0.0.1:9092')
TIER = os.environ.get('TIER', '4')
ONLY = re.compile(os.environ.get('ONLY', '.'))
CASES = []


class Skip(Exception):
    """Raised by a case that this client or broker set-up cannot run."""


def unique(prefix='t'):
    return f'{prefix}-{uuid.uuid4().hex[:12]}'


def case(tier, name, limit_s=60):
    def register(function):
        CASES.append((tier, name, limit_s, function))
        return function

    return register


def wanted(tier, name):
    chosen = tier == int(TIER[1:]) if TIER.startswith('=') else tier <= int(TIER)
    return chosen and ONLY.search(name)


def equal(got, want, what=''):
    if got != want:
        raise AssertionError(f'{what} got {got!r}, want {want!r}'[:260])


def raises(kinds, function):
    try:
        function()
    except kinds as error:
        return error
    raise AssertionError(f'no error, want one of {kinds}')


def until(condition, limit_s=30, step=None, what='condition'):
    """Waits for the condition; step is called between the looks (a poll, say)."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return
        step() if step else time.sleep(0.05)
    raise AssertionError(f'not within {limit_s} s: {what() if callable(what) else what}')


def _attempt(function, limit_s):
    outcome = []

    def body():
        try:
            if asyncio.iscoroutinefunction(function):
                asyncio.run(function())
            else:
                function()
            outcome.append(('PASS', ''))
        except Skip as skip:
            outcome.append(('SKIP', str(skip)))
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)
            mine = [f for f in where if f.filename.endswith('_cases.py')]
            outcome.append(('FAIL', f'{type(error).__name__}: {error} (line {mine[-1].lineno if mine else "?"})'))
            if os.environ.get('TRACE'):
                traceback.print_exc()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(limit_s)
    return outcome[0] if outcome else ('FAIL', f'not finished within {limit_s} s')


def main(client):
    """Runs the cases some at a time; one that fails then runs again by itself, and that counts: on a busy machine
    kafka-python 3.0.12 now and then spins with a partition assigned and asks the broker for nothing."""
    slots, again, failed, output = threading.Semaphore(int(os.environ.get('JOBS', '4'))), [], [], threading.Lock()

    def run(case, is_last):
        name, limit_s, function = case
        start = time.monotonic()
        result, reason = _attempt(function, limit_s)
        with output:
            if result == 'FAIL':
                (failed if is_last else again).append(case)
                result = 'FAIL' if is_last else 'AGAIN'
            took = f' ({time.monotonic() - start:.1f} s)' if os.environ.get('TIMES') else ''
            print(f'{result} {name}{took}' + (f': {reason}'.replace('\n', ' ')[:300] if reason else ''), flush=True)

    def worker(case):
        with slots:
            run(case, is_last=False)

    threads = []
    for tier, name, limit_s, function in sorted(CASES, key=lambda c: c[0]):
        full = f'[{tier}] {client}: {name}'
        if wanted(tier, full):
            threads.append(threading.Thread(target=worker, args=((full, limit_s, function),)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for case in again:
        run(case, is_last=True)
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # clients leave threads behind
