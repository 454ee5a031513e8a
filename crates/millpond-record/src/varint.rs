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

pub(crate) fn unzigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}
