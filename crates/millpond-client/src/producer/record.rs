//! A record as it is handed to a producer.

use millpond_record::BatchBuilder;

/// A record to be sent. It borrows what it is made of: the bytes are copied once, into the batch.
///
/// ```
/// use millpond_client::NewRecord;
///
/// let record = NewRecord::to("logs").key(b"host-1").value(b"up").headers(&[("trace", Some(b"7"))]);
/// assert!(record.most_bytes() > 10);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a str, Option<&'a [u8]>)],
    pub(crate) timestamp: Option<i64>,
}

impl<'a> NewRecord<'a> {
    /// A record of this topic: without key, value and headers, with the time at which it is sent.
    pub fn to(topic: &'a str) -> NewRecord<'a> {
        NewRecord { topic, partition: None, key: None, value: None, headers: &[], timestamp: None }
    }

    /// Sends it to this partition. Without one it goes where its key says, as with Kafka's clients (murmur2); without
    /// a key, to partitions in turn, a batch to each (KIP-794).
    #[must_use]
    pub fn partition(mut self, partition: i32) -> NewRecord<'a> {
        self.partition = Some(partition);
        self
    }

    /// Its key.
    #[must_use]
    pub fn key(mut self, key: &'a [u8]) -> NewRecord<'a> {
        self.key = Some(key);
        self
    }

    /// Its value. Without one it is a tombstone on a compacted topic.
    #[must_use]
    pub fn value(mut self, value: &'a [u8]) -> NewRecord<'a> {
        self.value = Some(value);
        self
    }

    /// Its headers: names, which may repeat, and values.
    #[must_use]
    pub fn headers(mut self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> NewRecord<'a> {
        self.headers = headers;
        self
    }

    /// Its time in milliseconds since 1970 UTC.
    #[must_use]
    pub fn timestamp(mut self, timestamp_ms: i64) -> NewRecord<'a> {
        self.timestamp = Some(timestamp_ms);
        self
    }

    /// The most bytes that it takes in a batch. So much of the producer's memory is set aside for it.
    pub fn most_bytes(&self) -> usize {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers = self.headers.iter().map(|(name, value)| (name.len(), length(*value)));
        BatchBuilder::most_record_bytes(length(self.key), length(self.value), headers)
    }
}
