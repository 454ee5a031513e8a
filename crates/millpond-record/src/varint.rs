//! The variable-length numbers of records: zigzag, seven bits a byte, least significant first (`ByteUtils`).

/// The most bytes that a 32-bit number takes.
pub(crate) const MAX_VARINT_BYTES: usize = 5;
/// The most bytes that a 64-bit number takes.
pub(crate) const MAX_VARLONG_BYTES: usize = 10;

pub(crate) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// How many bytes [`put`] writes for the value.
pub(crate) fn size(value: i64) -> usize {
    let zigzag = (value << 1 ^ value >> 63) as u64;
    // Seven bits a byte; zero takes one, too.
    (70 - (zigzag | 1).leading_zeros() as usize) / 7
}

pub(crate) fn unzigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_number_is_that_of_its_bytes() {
        for bits in 0..64 {
            for value in [(1_i64 << bits).wrapping_sub(1), 1_i64 << bits, (1_i64 << bits).wrapping_neg()] {
                let mut out = Vec::new();
                put(&mut out, value);
                assert_eq!(size(value), out.len(), "{value}");
            }
        }
    }
}
