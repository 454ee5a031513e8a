//! The topics of the cluster, as consumer groups see them.

use std::sync::Arc;

use millpond_cluster::is_internal_topic;
use millpond_coordinator::Topics;
use millpond_record::TopicId;
use millpond_wire::Str;

use crate::metadata::{Metadata, Snapshot};

/// The topics at the moment of the call. Taken where a coordinator works, so that a group never looks back: requests of
/// several connections come with what was known when they arrived.
pub(crate) struct KnownTopics(Arc<Snapshot>);

impl KnownTopics {
    pub(crate) fn now(metadata: &Metadata) -> KnownTopics {
        KnownTopics(metadata.snapshot())
    }
}

impl Topics for KnownTopics {
    /// New partitions take group ids that are never used again, and without new ones only the number of topics changes.
    fn version(&self) -> u64 {
        let image = &self.0.image;
        (image.next_group().0 << 24).wrapping_add(image.topic_count() as u64)
    }

    fn topic(&self, name: &str) -> Option<(TopicId, i32)> {
        let topic = self.0.image.topic(name)?;
        Some((topic.id, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)))
    }

    fn name(&self, id: TopicId) -> Option<Str> {
        self.0.image.topic_by_id(id).map(|topic| Str::from(&*topic.name))
    }

    fn for_each_name(&self, see: &mut dyn FnMut(&str)) {
        self.0.image.topics().map(|topic| &*topic.name).filter(|name| !is_internal_topic(name)).for_each(see);
    }
}
