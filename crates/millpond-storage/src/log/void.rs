//! The payloads of Raft-only entries that the log itself reads or writes.
//!
//! ```text
//! void, 17 bytes                                    log start, 8 bytes
//!   0  1  reason: 1 duplicate, 2 order, 3 epoch       0  8  the first readable offset
//!   1  8  first number
//!   9  8  second number
//! ```
//!
//! All numbers are little-endian. The numbers of a void are, by its reason: the original's first and last offset; the
//! sequence found and the one expected; the epoch found and the current one.

use bytes::Bytes;
use millpond_record::Offset;

use crate::SequenceError;

/// Why a proposal became a void entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoidReason {
    /// It was in the log already, at these offsets.
    Duplicate {
        /// The offset of the original's first record.
        base_offset: Offset,
        /// The offset of the original's last record.
        last_offset: Offset,
    },
    /// The sequence check refused it.
    Refused(SequenceError),
}

impl VoidReason {
    /// The payload of the void entry.
    pub(crate) fn payload(&self) -> [u8; 17] {
        let (reason, first, second) = match *self {
            VoidReason::Duplicate { base_offset, last_offset } => (1, base_offset.0, last_offset.0),
            VoidReason::Refused(SequenceError::OutOfOrder { found, expected }) => (2, found.into(), expected.into()),
            VoidReason::Refused(SequenceError::OldEpoch { found, current }) => (3, found.into(), current.into()),
        };
        let mut payload = [0; 17];
        payload[0] = reason;
        payload[1..9].copy_from_slice(&i64::to_le_bytes(first));
        payload[9..].copy_from_slice(&i64::to_le_bytes(second));
        payload
    }

    /// The reason in the payload of a void entry; `None` if it is not one.
    pub fn read(payload: &[u8]) -> Option<VoidReason> {
        let payload: &[u8; 17] = payload.try_into().ok()?;
        let (reason, numbers) = payload.split_first()?;
        let (first, second) = numbers.split_at(8);
        let first = i64::from_le_bytes(first.try_into().ok()?);
        let second = i64::from_le_bytes(second.try_into().ok()?);
        Some(match reason {
            1 => VoidReason::Duplicate { base_offset: Offset(first), last_offset: Offset(second) },
            2 => VoidReason::Refused(SequenceError::OutOfOrder {
                found: first.try_into().ok()?,
                expected: second.try_into().ok()?,
            }),
            3 => VoidReason::Refused(SequenceError::OldEpoch {
                found: first.try_into().ok()?,
                current: second.try_into().ok()?,
            }),
            _ => return None,
        })
    }
}

/// The payload of a [`RaftOnlyKind::LogStart`](millpond_record::RaftOnlyKind::LogStart) entry.
pub fn log_start_payload(offset: Offset) -> Bytes {
    Bytes::copy_from_slice(&offset.0.to_le_bytes())
}
