//! Hand out producer ids in blocks, so that group 0 sees one record per thousand producers (KIP-730).

use millpond_record::ProducerId;

use crate::image::Image;
use crate::record::MetadataRecord;

/// How many producer ids a broker gets at a time.
pub const PRODUCER_ID_BLOCK: u32 = 1000;

/// `count` producer ids from `first` on. They belong to the broker that asked, once its records are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    pub first: ProducerId,
    pub count: u32,
}

/// All 2^63 producer ids are used.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("no producer id is left")]
pub struct ProducerIdError;

/// A block of producer ids that nobody had before, and the records that take it.
pub fn allocate_producer_ids(image: &Image) -> Result<(ProducerIdBlock, Vec<MetadataRecord>), ProducerIdError> {
    let first = image.next_producer_id();
    let next = first.0.checked_add(i64::from(PRODUCER_ID_BLOCK)).ok_or(ProducerIdError)?;
    let mut records = image.opening();
    records.push(MetadataRecord::NextProducerId(ProducerId(next)));
    Ok((ProducerIdBlock { first, count: PRODUCER_ID_BLOCK }, records))
}
