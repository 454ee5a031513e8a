//! The journal: one file after the other takes everything that changes a group, and one sync per round makes all of it
//! durable.

pub(crate) mod file;
mod group_commit;
pub(crate) mod kept;
mod placing;
pub(crate) mod record;
mod recycle;
mod round;
pub(crate) mod scan;
#[cfg(test)]
mod tests;

pub(crate) use group_commit::{JournalHandle, JournalStart};
pub(crate) use placing::Segments;
pub(crate) use record::JournalEntry;
