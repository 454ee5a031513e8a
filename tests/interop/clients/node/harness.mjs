// Registers cases and runs them a few at a time, each with a time limit; prints one PASS, FAIL or SKIP line a case.
export const brokers = (process.env.BOOTSTRAP || '127.0.0.1:9092').split(',');
const tier = process.env.TIER || '4';
const only = new RegExp(process.env.ONLY || '.');
const cases = [];
let counter = 0;

export class Skip extends Error {}

export const unique = (prefix = 'n') =>
  `${prefix}-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}-${counter++}`;
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const numbered = (n) => Array.from({ length: n }, (_, i) => `v${String(i).padStart(5, '0')}`);

export function equal(got, want, what = '') {
  const [a, b] = [JSON.stringify(got), JSON.stringify(want)];
  if (a !== b) throw new Error(`${what} got ${a?.slice(0, 120)}, want ${b?.slice(0, 120)}`);
}

export async function rejects(promise, pattern) {
  try {
    await promise;
  } catch (error) {
    const text = [error, ...(error.errors ?? [])].map((e) => `${e.type ?? ''} ${e.apiId ?? ''} ${e.message}`).join(' ');
    if (pattern.test(text)) return;
    throw new Error(`want ${pattern}, got ${text.slice(0, 200)}`);
  }
  throw new Error(`no error, want ${pattern}`);
}

export async function until(condition, limitMs = 30000, what = () => 'condition') {
  const end = Date.now() + limitMs;
  while (Date.now() < end) {
    if (await condition()) return;
    await sleep(50);
  }
  throw new Error(`not within ${limitMs} ms: ${what()}`);
}

export function scenario(level, name, run, limitMs = 60000) {
  const full = `[${level}] ${name}`;
  const wanted = tier.startsWith('=') ? level === +tier.slice(1) : level <= +tier;
  if (wanted && only.test(full)) cases.push({ level, full, run, limitMs });
}

async function attempt({ full, run, limitMs }) {
  const begin = Date.now();
  let timer,
    line,
    ok = true;
  const took = () => (process.env.TIMES ? ` (${((Date.now() - begin) / 1000).toFixed(1)} s)` : '');
  const limit = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished within ${limitMs / 1000} s`)), limitMs);
  });
  try {
    await Promise.race([run(), limit]);
    line = `PASS ${full}${took()}`;
  } catch (error) {
    ok = error instanceof Skip;
    const at = ok
      ? ''
      : ` (${
          (error.stack ?? '')
            .split('\n')
            .map((l) => l.match(/(\w+\.mjs:\d+)/)?.[1])
            .find((l) => l && !l.startsWith('harness')) ?? '?'
        })`;
    line = `${ok ? 'SKIP' : 'FAIL'} ${full}${took()}: ${String(error.message ?? error)
      .split('\n')[0]
      .slice(0, 250)}${at}`;
  }
  clearTimeout(timer);
  console.log(line);
  return ok;
}

export async function runAll() {
  cases.sort((a, b) => a.level - b.level);
  let good = true;
  const worker = async () => {
    while (cases.length) good = (await attempt(cases.shift())) && good;
  };
  await Promise.all(Array.from({ length: +(process.env.JOBS || 4) }, worker));
  process.exit(good ? 0 : 1);
}
