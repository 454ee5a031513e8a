//! What the simulated producers write: every record names itself, and its bytes follow from its name.

use millpond_runtime::sim::Rng;

/// Names one record for a whole run. The same record sent again keeps its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u64);

/// Bytes that a record's name takes.
const NAME_BYTES: usize = 8;

/// The value of a record: its name, and `filler_bytes` that follow from it.
pub fn value(id: RecordId, filler_bytes: usize) -> Vec<u8> {
    let mut value = id.0.to_be_bytes().to_vec();
    value.resize(NAME_BYTES + filler_bytes, 0);
    // Half of it compresses well and half does not.
    let random = filler_bytes / 2;
    Rng::new(id.0).fill(&mut value[NAME_BYTES..NAME_BYTES + random]);
    value[NAME_BYTES + random..].fill(id.0 as u8);
    value
}

/// Reads a record's name and checks that all else is as it was written.
pub fn parse(bytes: &[u8]) -> Option<RecordId> {
    let id = RecordId(u64::from_be_bytes(bytes.get(..NAME_BYTES)?.try_into().ok()?));
    (value(id, bytes.len() - NAME_BYTES) == bytes).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_changed_anywhere_is_not_recognised() {
        let whole = value(RecordId(77), 30);
        assert_eq!(parse(&whole), Some(RecordId(77)));
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(parse(&changed), None, "byte {at}");
        }
        assert_eq!(parse(&whole[..7]), None);
    }
}
