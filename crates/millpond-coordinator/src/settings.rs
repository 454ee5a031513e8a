//! The limits that a broker sets for its groups.

/// Settings of all groups of a shard; the defaults are Kafka's unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long the first members of an empty group wait for more.
    pub initial_rebalance_delay_ms: u64,
    /// `group.max.size`, in members. Kafka has no limit by default; ours keeps one group from taking all memory.
    pub max_group_size: usize,
    /// `offset.metadata.max.bytes`; like Kafka, we count UTF-16 units.
    pub max_offset_metadata: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_ms: u64,
    /// How long a new member's JoinGroup waits until it must be asked again.
    pub new_member_join_timeout_ms: u64,
    /// `group.consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: u64,
    /// `group.consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: i32,
    /// The heartbeat interval while members of the group have not followed its assignment. Not a setting of Kafka.
    pub consumer_following_interval_ms: i32,
    /// The largest record that the log takes: the record of a group holds all its members. Not a setting of Kafka.
    pub max_record_bytes: usize,
    /// What members and offsets of a shard may take in memory, about. Not a setting of Kafka.
    pub max_state_bytes: usize,
}

impl Default for GroupSettings {
    fn default() -> GroupSettings {
        GroupSettings {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_group_size: 10_000,
            max_offset_metadata: 4096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1000,
            offsets_retention_check_ms: 600_000,
            new_member_join_timeout_ms: 300_000,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
            consumer_following_interval_ms: 500,
            max_record_bytes: 1_000_000,
            max_state_bytes: 512 << 20,
        }
    }
}
