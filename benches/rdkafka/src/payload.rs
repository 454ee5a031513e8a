//! The same values as those of `millpond bench`: random bytes and text in turn.

const POOL_BYTES: usize = 4 << 20;
const TURN_BYTES: usize = 32;
const TEXT: &[u8; TURN_BYTES] = b" level=info service=mill status=";

pub struct Payload {
    pool: Vec<u8>,
    size: usize,
    at: usize,
}

impl Payload {
    pub fn new(size: usize) -> Payload {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mut random = since.map_or(0, |since| since.as_nanos() as u64);
        let length = POOL_BYTES + size;
        let mut pool = Vec::with_capacity(length + 2 * TURN_BYTES);
        while pool.len() < length {
            for _ in 0..TURN_BYTES / 8 {
                pool.extend_from_slice(&split_mix(&mut random).to_le_bytes());
            }
            pool.extend_from_slice(TEXT);
        }
        Payload { pool, size, at: 0 }
    }

    pub fn next(&mut self) -> &[u8] {
        let at = self.at;
        self.at = if at + self.size < POOL_BYTES { at + self.size } else { 0 };
        &self.pool[at..at + self.size]
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
