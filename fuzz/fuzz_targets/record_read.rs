//! Reading batches and decompressing: within the limit, or refused; what is compressed comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millpond_record::{BatchView, Codec, DecompressLimit, HEADER_BYTES, compress, decompress, records, verify_crc};

const LIMIT: DecompressLimit = DecompressLimit(256 << 10);

fuzz_target!(|data: &[u8]| {
    let [mode, data @ ..] = data else { return };
    let codec = Codec::ALL[usize::from(mode >> 2) % Codec::ALL.len()];
    match mode & 3 {
        0 => {
            if let Ok(bytes) = decompress(codec, data, LIMIT) {
                assert!(bytes.len() <= LIMIT.0);
            }
        }
        1 => {
            let compressed = compress(codec, data);
            assert_eq!(decompress(codec, &compressed, LIMIT).expect("what was compressed"), data);
        }
        _ => {
            let mut batch = data.to_vec();
            if batch.len() >= HEADER_BYTES {
                let length = (batch.len() - 12) as i32;
                batch[8..12].copy_from_slice(&length.to_be_bytes());
                batch[16] = 2;
            }
            verify_crc(&batch);
            let _ = BatchView::first_of(data);
            if let Ok(records) = records(&batch, LIMIT) {
                let errors = records.iter().filter(Result::is_err).count();
                assert!(errors <= 1, "the first error ends the iteration");
            }
        }
    }
});
