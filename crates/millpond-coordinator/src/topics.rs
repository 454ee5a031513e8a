//! What a consumer group must know of the cluster's topics.

use millpond_record::TopicId;
use millpond_wire::Str;

/// The topics of the cluster at one time.
pub trait Topics {
    /// Differs whenever another method would answer differently.
    fn version(&self) -> u64;

    /// The id and the number of partitions of the topic of this name.
    fn topic(&self, name: &str) -> Option<(TopicId, i32)>;

    /// The name of the topic of this id.
    fn name(&self, id: TopicId) -> Option<Str>;

    /// Shows the name of each topic that may be subscribed to by a regular expression.
    fn for_each_name(&self, see: &mut dyn FnMut(&str));
}
