//! Random numbers that follow from a seed.

/// A generator (xoshiro256++, seeded by SplitMix64). Independent generators are forked by name, so that one more draw
/// in one place does not shift what others draw.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    state: [u64; 4],
}

/// One step of SplitMix64; also used to mix numbers into a hash.
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Folds bytes into a hash, eight at a time.
pub(super) fn mix_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word: [u8; 8] = word.try_into().expect("chunks_exact gives eight bytes");
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    for &byte in words.remainder() {
        hash = (hash.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    mix(hash ^ bytes.len() as u64)
}

impl Rng {
    /// A generator that follows from `seed`.
    pub fn new(seed: u64) -> Rng {
        let mut state = [0; 4];
        let mut next = seed;
        for word in &mut state {
            next = mix(next);
            *word = next;
        }
        Rng { seed, state }
    }

    /// Another generator, which follows from this one's seed, `purpose` and `number` alone: not from what was drawn.
    pub fn fork(&self, purpose: &str, number: u64) -> Rng {
        Rng::new(mix(mix_bytes(self.seed, purpose.as_bytes()) ^ mix(number)))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`, which must not be 0. (The bias of the modulus does not matter here.)
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// An index into something of `len` elements, which must not be 0.
    pub fn index(&mut self, len: usize) -> usize {
        // Below `len`, so it fits.
        self.below(len as u64) as usize
    }

    /// One of some values; there must be one.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.index(values.len())]
    }

    /// True with a probability of `0.0..=1.0`. Draws nothing for 0 and 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        probability >= 1.0 || ((self.draw() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_fork_does_not_depend_on_what_was_drawn() {
        let mut drawn = Rng::new(7);
        drawn.draw();
        assert_eq!(drawn.fork("disk", 1).draw(), Rng::new(7).fork("disk", 1).draw());
    }

    #[test]
    fn forks_differ_by_purpose_and_by_number() {
        let rng = Rng::new(7);
        let draws = [rng.fork("disk", 1), rng.fork("disk", 2), rng.fork("net", 1)].map(|mut fork| fork.draw());
        assert!(draws[0] != draws[1] && draws[0] != draws[2] && draws[1] != draws[2]);
    }

    #[test]
    fn a_chance_comes_about_as_often_as_it_says() {
        let mut rng = Rng::new(3);
        let hits = (0..10_000).filter(|_| rng.chance(0.25)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        assert!(!rng.chance(0.0) && rng.chance(1.0));
    }
}
