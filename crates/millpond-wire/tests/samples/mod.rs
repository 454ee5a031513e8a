//! Random values of every message for one version: the generator's own trait over a seeded source.

use bytes::Bytes;
use millpond_wire::Str;

/// SplitMix64: the same seed gives the same values on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `one_in`.
    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// Mostly short, sometimes empty, now and then long enough for a second length byte, and not only ASCII.
    pub fn text(&mut self) -> Str {
        let length = if self.chance(12) { 100 + self.below(900) } else { self.below(9) };
        (0..length).map(|_| ['a', 'Z', '.', '-', '7', 'ö', '水', '🪵'][self.below(8)]).collect::<String>().into()
    }

    pub fn bytes(&mut self, most: usize) -> Bytes {
        let length = if self.chance(3) { self.below(most) } else { self.below(20) };
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub fn uuid(&mut self) -> [u8; 16] {
        let mut uuid = [0; 16];
        if !self.chance(5) {
            uuid[..8].copy_from_slice(&self.next().to_be_bytes());
            uuid[8..].copy_from_slice(&self.next().to_be_bytes());
        }
        uuid
    }
}

/// A value in which only the fields that the version has are set.
pub trait Arbitrary {
    fn arbitrary(random: &mut Random, version: i16) -> Self;
}

include!(concat!(env!("OUT_DIR"), "/samples.rs"));
pub(crate) use for_each_message;
