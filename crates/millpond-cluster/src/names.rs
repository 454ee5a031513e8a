//! Which topic names are allowed (Kafka's `Topic.validate`).

/// The longest topic name: a folder is named after the topic and the partition, and file names end at 255 bytes.
pub const MAX_TOPIC_NAME_BYTES: usize = 249;

/// What the log of the cluster's metadata is called, in Kafka too.
pub const METADATA_TOPIC_NAME: &str = "__cluster_metadata";

/// Where consumer groups and their offsets are kept.
pub const OFFSETS_TOPIC_NAME: &str = "__consumer_offsets";

/// Why a topic name is refused. All of them are INVALID_TOPIC_EXCEPTION to a client.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TopicNameError {
    #[error("a topic name cannot be empty")]
    Empty,
    #[error("{METADATA_TOPIC_NAME} is the cluster's own metadata")]
    Reserved,
    #[error("a topic name cannot be \".\" or \"..\"")]
    Dots,
    #[error("a topic name of {0} bytes is too long: the limit is {MAX_TOPIC_NAME_BYTES}")]
    TooLong(usize),
    #[error("topic name {0:?} has a character other than ASCII letters, digits, '.', '_' and '-'")]
    BadCharacter(String),
    #[error(
        "topic {name:?} differs from the existing topic {existing:?} only in '.' and '_': their metrics would collide"
    )]
    Collides { name: String, existing: String },
}

/// Checks a name by itself; whether it exists or collides is a question to the image.
pub fn check_topic_name(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name == METADATA_TOPIC_NAME {
        return Err(TopicNameError::Reserved);
    }
    if name.len() > MAX_TOPIC_NAME_BYTES {
        return Err(TopicNameError::TooLong(name.len()));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.bytes().all(allowed) { Ok(()) } else { Err(TopicNameError::BadCharacter(name.to_owned())) }
}

/// Topics that coordinators keep for themselves: no client produces to them, deletes them or changes how many
/// partitions they have.
pub fn is_internal_topic(name: &str) -> bool {
    name == OFFSETS_TOPIC_NAME || matches!(name, "__transaction_state" | "__share_group_state")
}

/// What the name is in a metric, where '.' and '_' are the same: two topics must not share it.
pub(crate) fn metric_name(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_kafka_checks_them() {
        for good in ["a", "A-b_c.9", "...", "a.", &"a".repeat(249)] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        assert_eq!(check_topic_name(""), Err(TopicNameError::Empty));
        assert_eq!(check_topic_name("."), Err(TopicNameError::Dots));
        assert_eq!(check_topic_name("__cluster_metadata"), Err(TopicNameError::Reserved));
        assert_eq!(check_topic_name(".."), Err(TopicNameError::Dots));
        assert_eq!(check_topic_name(&"a".repeat(250)), Err(TopicNameError::TooLong(250)));
        for bad in ["two words", "a/b", "ä", "a\n", "a:b", "a\0"] {
            assert_eq!(check_topic_name(bad), Err(TopicNameError::BadCharacter(bad.to_owned())));
        }
    }
}
