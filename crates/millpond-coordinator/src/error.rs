//! Why a request about groups is refused.

use thiserror::Error;

/// A refusal. The broker chooses the Kafka error code; the name of the usual one stands at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// INVALID_GROUP_ID.
    #[error("the group id is empty")]
    InvalidGroupId,
    /// GROUP_ID_NOT_FOUND; for a commit before version 9 of OffsetCommit ILLEGAL_GENERATION.
    #[error("there is no such group")]
    UnknownGroup,
    /// UNKNOWN_MEMBER_ID.
    #[error("the group has no such member")]
    UnknownMember,
    /// FENCED_INSTANCE_ID.
    #[error("another member has taken over this group instance id")]
    FencedInstance,
    /// ILLEGAL_GENERATION.
    #[error("generation {given} is not the group's current generation {current}")]
    IllegalGeneration { given: i32, current: i32 },
    /// REBALANCE_IN_PROGRESS.
    #[error("the group is rebalancing: join again")]
    RebalanceInProgress,
    /// INCONSISTENT_GROUP_PROTOCOL.
    #[error("the member has no protocol in common with the group, or another protocol type")]
    InconsistentProtocol,
    /// INVALID_SESSION_TIMEOUT.
    #[error("a session timeout of {given_ms} ms is not between {min_ms} and {max_ms} ms")]
    InvalidSessionTimeout { given_ms: i32, min_ms: i32, max_ms: i32 },
    /// MEMBER_ID_REQUIRED (KIP-394).
    #[error("join again with the member id that this answer gives")]
    MemberIdRequired,
    /// GROUP_MAX_SIZE_REACHED.
    #[error("the group has its most members, {max}")]
    GroupFull { max: usize },
    /// GROUP_MAX_SIZE_REACHED for a join, INVALID_COMMIT_OFFSET_SIZE for a commit.
    #[error("this coordinator's groups and offsets have taken all the memory that they may take")]
    NoMemory,
    /// INVALID_REQUEST.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// FENCED_MEMBER_EPOCH.
    #[error("member epoch {given} is not the member's current epoch {current}: join again")]
    FencedMemberEpoch { given: i32, current: i32 },
    /// STALE_MEMBER_EPOCH.
    #[error("member epoch {given} is not the member's current epoch {current}: send a heartbeat first")]
    StaleMemberEpoch { given: i32, current: i32 },
    /// UNRELEASED_INSTANCE_ID.
    #[error("another member has this instance id and has not left")]
    UnreleasedInstance,
    /// UNSUPPORTED_ASSIGNOR.
    #[error("there is no such assignor: uniform and range are known")]
    UnsupportedAssignor,
    /// INVALID_REGULAR_EXPRESSION.
    #[error("the regular expression of the subscription cannot be read, or is too large")]
    InvalidRegex,
    /// UNSUPPORTED_VERSION.
    #[error("a member of the consumer protocol commits with version 9 of OffsetCommit or later")]
    CommitVersionTooOld,
    /// OFFSET_METADATA_TOO_LARGE.
    #[error("the metadata of a committed offset has more than {max} characters")]
    MetadataTooLarge { max: usize },
    /// INVALID_REQUEST for a join, INVALID_COMMIT_OFFSET_SIZE for a commit.
    #[error("a name in the request is too long for a record")]
    NamesTooLong,
    /// GROUP_MAX_SIZE_REACHED: with fewer members, or shorter subscriptions, it would fit.
    #[error("the record of the group would have {bytes} bytes, {max} allowed")]
    RecordTooLarge { bytes: usize, max: usize },
    /// NON_EMPTY_GROUP.
    #[error("the group has members")]
    NonEmptyGroup,
    /// GROUP_SUBSCRIBED_TO_TOPIC.
    #[error("the group is subscribed to the topic")]
    SubscribedToTopic,
}

impl GroupError {
    /// Whether it says what the group is, who is in it or what it takes, and a client takes that as settled: from a
    /// coordinator whose successor has written since it may be wrong. Whoever hears of it then gives up its place, or
    /// ends.
    pub fn is_of_the_group(&self) -> bool {
        match self {
            GroupError::UnknownGroup
            | GroupError::UnknownMember
            | GroupError::FencedInstance
            | GroupError::IllegalGeneration { .. }
            | GroupError::InconsistentProtocol
            | GroupError::GroupFull { .. }
            | GroupError::FencedMemberEpoch { .. }
            | GroupError::StaleMemberEpoch { .. }
            | GroupError::UnreleasedInstance
            | GroupError::CommitVersionTooOld
            | GroupError::NonEmptyGroup
            | GroupError::SubscribedToTopic
            // To a consumer these are what a full group is.
            | GroupError::NoMemory
            | GroupError::RecordTooLarge { .. } => true,
            // They ask again soon.
            GroupError::RebalanceInProgress | GroupError::MemberIdRequired => false,
            // True whatever the group is.
            GroupError::InvalidGroupId
            | GroupError::InvalidSessionTimeout { .. }
            | GroupError::InvalidRequest(_)
            | GroupError::UnsupportedAssignor
            | GroupError::InvalidRegex
            | GroupError::MetadataTooLarge { .. }
            | GroupError::NamesTooLong => false,
        }
    }
}
