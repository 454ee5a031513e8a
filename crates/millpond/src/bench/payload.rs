//! What the records of a measurement hold: as compressible as logs and events are, and never the same twice.

use std::time::Duration;

use millpond_runtime::Runtime;

use super::arguments::Load;

/// The bytes that values are cut out of. Longer than the window in which zstd looks for what came before, at the levels
/// that the client uses, so that a value that comes again is not found.
const POOL_BYTES: usize = 4 << 20;
/// Random bytes and text take turns of this length: shorter than records are, longer than what a match costs.
const TURN_BYTES: usize = 32;
/// The text: any, as long as a turn.
const TEXT: &[u8; TURN_BYTES] = b" level=info service=mill status=";

/// What each value of a stamped run begins with: which run it is of, and when it was due, in nanoseconds since the run
/// began.
pub(super) const STAMP_BYTES: usize = 16;

/// Which run a record is of.
pub(super) type Run = [u8; 8];

/// Keys and values of the records of a run.
pub(super) struct Contents {
    payload: Payload,
    keys: Option<Keys>,
    run: Option<Run>,
    /// The last value that was stamped.
    stamped: Vec<u8>,
}

impl Contents {
    /// As the load says; stamped if there is a `run`, and then at least [`STAMP_BYTES`] long.
    pub(super) fn new(runtime: &Runtime, load: &Load, run: Option<Run>) -> Contents {
        Contents {
            payload: Payload::new(runtime, load.size()),
            keys: load.keys.map(|count| Keys::new(runtime, count)),
            run,
            stamped: Vec::new(),
        }
    }

    /// Key and value of the next record, which is due so long after the run's begin.
    pub(super) fn next(&mut self, due: Duration) -> (Option<&[u8]>, &[u8]) {
        let key = self.keys.as_mut().map(Keys::next);
        let value = self.payload.next();
        let Some(run) = self.run else { return (key, value) };
        let nanos = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        self.stamped.clear();
        self.stamped.extend_from_slice(&run);
        self.stamped.extend_from_slice(&nanos.to_le_bytes());
        self.stamped.extend_from_slice(value.get(STAMP_BYTES..).unwrap_or_default());
        (key, &self.stamped)
    }
}

/// When a value of this run was due, since the run began; `None` for what others have written.
pub(super) fn stamped(value: &[u8], run: Run) -> Option<Duration> {
    let (of, rest) = value.split_first_chunk::<8>()?;
    let (nanos, _) = rest.split_first_chunk::<8>()?;
    (*of == run).then(|| Duration::from_nanos(u64::from_le_bytes(*nanos)))
}

/// Values, one after the other out of a pool. Half of the bytes are random, half are the same text again and again.
struct Payload {
    pool: Vec<u8>,
    size: usize,
    at: usize,
}

impl Payload {
    /// Values of `size` bytes.
    fn new(runtime: &Runtime, size: usize) -> Payload {
        let mut random = Random::new(runtime.random_u64());
        let length = POOL_BYTES + size;
        let mut pool = Vec::with_capacity(length + 2 * TURN_BYTES);
        while pool.len() < length {
            for _ in 0..TURN_BYTES / 8 {
                pool.extend_from_slice(&random.next().to_le_bytes());
            }
            pool.extend_from_slice(TEXT);
        }
        Payload { pool, size, at: 0 }
    }

    /// The next value.
    fn next(&mut self) -> &[u8] {
        let at = self.at;
        self.at = if at + self.size < POOL_BYTES { at + self.size } else { 0 };
        &self.pool[at..at + self.size]
    }
}

/// Keys in random order, each one of so many.
struct Keys {
    random: Random,
    count: u32,
    key: Vec<u8>,
}

impl Keys {
    fn new(runtime: &Runtime, count: u32) -> Keys {
        Keys { random: Random::new(runtime.random_u64()), count, key: Vec::new() }
    }

    fn next(&mut self) -> &[u8] {
        let number = self.random.next() % u64::from(self.count);
        self.key.clear();
        self.key.extend_from_slice(b"key-");
        self.key.extend_from_slice(number.to_string().as_bytes());
        &self.key
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): fast, and random enough for a compressor.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_record::{BatchBuilder, Codec, Timestamp};
    use millpond_runtime::RealDisk;

    fn runtime() -> Runtime {
        Runtime::real(RealDisk::shared())
    }

    #[test]
    fn values_compress_to_about_a_half() {
        for (size, codec) in [(100, Codec::Lz4), (100, Codec::Zstd), (1024, Codec::Lz4), (1024, Codec::Zstd)] {
            let mut payload = Payload::new(&runtime(), size);
            let mut batch = BatchBuilder::new().codec(codec);
            let records = 200_000 / size;
            for _ in 0..records {
                batch.append(Timestamp(0), None, Some(payload.next()));
            }
            let ratio = batch.into_batch().len() as f64 / (records * size) as f64;
            assert!((0.45..0.7).contains(&ratio), "{codec:?} makes {ratio:.2} of values of {size} bytes");
        }
    }

    #[test]
    fn values_have_their_size_and_go_round() {
        for size in [0, 1, 1000, POOL_BYTES + 1] {
            let mut payload = Payload::new(&runtime(), size);
            let first = payload.next().to_vec();
            assert_eq!(first.len(), size);
            let rest = POOL_BYTES.checked_div(size).unwrap_or(10);
            assert!((0..rest + 2).all(|_| payload.next().len() == size));
        }
    }

    #[test]
    fn keys_are_of_so_many() {
        let mut keys = Keys::new(&runtime(), 3);
        let mut seen: Vec<Vec<u8>> = (0..200).map(|_| keys.next().to_vec()).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, [b"key-0", b"key-1", b"key-2"]);
    }

    #[test]
    fn a_record_says_when_it_was_due_and_others_say_nothing() {
        let run = 5_u64.to_le_bytes();
        let payload = Payload::new(&runtime(), 20);
        let mut contents = Contents { payload, keys: None, run: Some(run), stamped: Vec::new() };
        for nanos in [0, 123_456] {
            let (key, value) = contents.next(Duration::from_nanos(nanos));
            assert_eq!((key, value.len()), (None, 20));
            assert_eq!(stamped(value, run), Some(Duration::from_nanos(nanos)));
            assert_eq!(stamped(value, 6_u64.to_le_bytes()), None);
            assert_eq!(stamped(&value[..15], run), None);
        }
        assert_eq!(stamped(b"", run), None);
    }
}
