//! CRC-32C (Castagnoli), the checksum of Kafka's batches. It covers a batch from its attributes on.

use crc_fast::{CrcAlgorithm, Digest};

use crate::batch::{CRC_AT, CRC_COVERS_FROM, HEADER_BYTES, read_u32};

/// The CRC-32C of the parts, as if they were one slice.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    match parts {
        [] => 0,
        [whole] => crc_fast::crc32_iscsi(whole),
        _ => {
            let mut digest = Crc32c::new();
            for part in parts {
                digest.update(part);
            }
            digest.finish()
        }
    }
}

/// The CRC-32C of bytes that come in pieces.
#[derive(Clone)]
pub struct Crc32c(Digest);

impl Crc32c {
    /// That of no bytes.
    pub fn new() -> Crc32c {
        Crc32c(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn finish(&self) -> u32 {
        // The digest holds checksums of any width; this algorithm fills the low 32 bits.
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c::new()
    }
}

/// Whether the batch carries the CRC of its bytes. A slice too short for a batch does not.
///
/// The slice must be exactly one batch: what stands behind it would be taken for its records.
pub fn verify_crc(batch: &[u8]) -> bool {
    batch.len() >= HEADER_BYTES && crc32c(&[&batch[CRC_COVERS_FROM..]]) == read_u32(batch, CRC_AT)
}

/// Puts the CRC of the batch's bytes into its header.
///
/// # Panics
///
/// If the slice is shorter than [`HEADER_BYTES`].
pub fn rewrite_crc(batch: &mut [u8]) {
    assert!(batch.len() >= HEADER_BYTES, "a batch has a header of {HEADER_BYTES} bytes, this one is {}", batch.len());
    let crc = crc32c(&[&batch[CRC_COVERS_FROM..]]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_known_vectors_of_rfc_3720_hold() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0xff; 32]]), 0x62a8_ab43);
        assert_eq!(crc32c(&[&ascending]), 0x46dd_794e);
        assert_eq!(crc32c(&[&descending]), 0x113f_db5c);
        assert_eq!(crc32c(&[]), 0);
        assert_eq!(crc32c(&[b""]), 0);
    }

    #[test]
    fn a_slice_too_short_for_a_batch_has_no_crc() {
        assert!(!verify_crc(&[]));
        assert!(!verify_crc(&[0; HEADER_BYTES - 1]));
    }

    proptest! {
        #[test]
        fn the_crc_of_parts_is_the_crc_of_the_whole(whole: Vec<u8>, cut: prop::sample::Index) {
            let (head, tail) = whole.split_at(cut.index(whole.len() + 1));
            prop_assert_eq!(crc32c(&[head, tail]), crc32c(&[&whole]));
            prop_assert_eq!(crc32c(&[head, &[], tail]), crc32c(&[&whole]));
        }
    }
}
