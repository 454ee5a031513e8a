//! Which Kafka error code an error of the layers below is. Nothing else in Millpond chooses error codes.

use millpond_cluster::{
    AlterConfigError, BatchFormatError, BrokerError, FeatureError, ProducerIdError, QuotaError, ReassignError,
    TopicError, TopicNameError,
};
use millpond_coordinator::GroupError;
use millpond_raft::{ProposeError, RaftError};
use millpond_record::{BatchError, InvalidBatch, InvalidKind, Offset, RecordsError};
use millpond_storage::{Frontiers, ReadError, SequenceError, StorageError};
use millpond_wire::{ErrorCode, Str};

use crate::coordinator::Unavailable;
use crate::disk_space::DiskFull;

/// An error as a response tells it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<Str>,
}

/// The longest message, in bytes. Messages quote what a request names, which may be megabytes; before flexible versions
/// a string has 32,767 bytes at most, and the answer could not be written.
const MAX_MESSAGE_BYTES: usize = 1000;

impl Fault {
    fn new(code: ErrorCode, mut message: String) -> Fault {
        if message.len() > MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
            message.push('…');
            message.shrink_to_fit();
        }
        Fault { code, message: Some(message.into()) }
    }
}

impl From<ErrorCode> for Fault {
    fn from(code: ErrorCode) -> Fault {
        Fault { code, message: None }
    }
}

/// What a request with a transactional id is answered: clients take it as final, and as "this broker cannot".
pub(crate) const TRANSACTIONS_NOT_SERVED: ErrorCode = ErrorCode::UNSUPPORTED_VERSION;

/// Why the controller did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    #[error("the broker stops")]
    Stopped,
    /// Nothing was done: this broker is not the controller, or no majority said in time that it still is.
    #[error("the cluster has no controller now, or it is another broker")]
    Elsewhere,
    /// It was asked, and may have done it.
    #[error("the controller did not answer; it may have done what it was asked for")]
    NoAnswer,
    /// What another broker says that is the controller.
    #[error("{0}")]
    Said(String),
    #[error(transparent)]
    Group(#[from] RaftError),
    #[error(transparent)]
    Batch(#[from] BatchFormatError),
    #[error(transparent)]
    ProducerIds(#[from] ProducerIdError),
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
}

impl ControllerError {
    /// This broker is not the controller; nothing was done here.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self, ControllerError::Elsewhere | ControllerError::Group(RaftError::NotLeader(_)))
    }

    /// There may be a controller that does it a moment later, or it is done already.
    pub(crate) fn is_retriable(&self) -> bool {
        self.is_elsewhere() || matches!(self, ControllerError::NoAnswer | ControllerError::Stopped)
    }

    /// What the metadata is refuses it: nothing was handed to its group.
    pub(crate) fn is_of_the_metadata(&self) -> bool {
        matches!(self, ControllerError::Batch(_) | ControllerError::Group(RaftError::TooLarge { .. }))
    }
}

pub(crate) fn controller(error: &ControllerError) -> Fault {
    let code = match error {
        ControllerError::Stopped | ControllerError::Elsewhere => ErrorCode::NOT_CONTROLLER,
        ControllerError::NoAnswer => ErrorCode::REQUEST_TIMED_OUT,
        ControllerError::Group(RaftError::NotLeader(_)) => ErrorCode::NOT_CONTROLLER,
        ControllerError::Group(error) => return raft(error),
        ControllerError::DiskFull(error) => return disk_full(error),
        ControllerError::Batch(_) => ErrorCode::POLICY_VIOLATION,
        ControllerError::ProducerIds(_) | ControllerError::Said(_) => ErrorCode::UNKNOWN_SERVER_ERROR,
    };
    Fault::new(code, error.to_string())
}

/// Why there is no producer id. Clients ask this broker again where the controller gave none (as in Kafka).
pub(crate) fn producer_ids(error: &ControllerError) -> ErrorCode {
    match error {
        ControllerError::Elsewhere | ControllerError::NoAnswer => ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        ControllerError::Stopped => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        error => controller(error).code,
    }
}

pub(crate) fn topic_name(error: &TopicNameError) -> Fault {
    Fault::new(ErrorCode::INVALID_TOPIC_EXCEPTION, error.to_string())
}

pub(crate) fn topic(error: &TopicError) -> Fault {
    let code = match error {
        TopicError::InvalidName(error) => return topic_name(error),
        TopicError::Internal(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
        TopicError::Exists(_) => ErrorCode::TOPIC_ALREADY_EXISTS,
        TopicError::InvalidPartitions(_) | TopicError::NotMorePartitions { .. } => ErrorCode::INVALID_PARTITIONS,
        TopicError::TooManyPartitions { .. } | TopicError::ClusterFull { .. } => ErrorCode::POLICY_VIOLATION,
        TopicError::InvalidReplicationFactor { .. } => ErrorCode::INVALID_REPLICATION_FACTOR,
        TopicError::AssignmentGap(_)
        | TopicError::AssignmentEmpty(_)
        | TopicError::AssignmentRepeats { .. }
        | TopicError::AssignmentUnknownBroker { .. }
        | TopicError::AssignmentCount { .. }
        | TopicError::AssignmentUneven { .. } => ErrorCode::INVALID_REPLICA_ASSIGNMENT,
        TopicError::InvalidConfig(_) => ErrorCode::INVALID_CONFIG,
        TopicError::UnknownName(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        TopicError::UnknownId(_) => ErrorCode::UNKNOWN_TOPIC_ID,
        TopicError::NamedTwice(_)
        | TopicError::AssignmentWithCounts
        | TopicError::NameAndId
        | TopicError::NeitherNameNorId => ErrorCode::INVALID_REQUEST,
    };
    Fault::new(code, error.to_string())
}

/// What became of topics, one by one.
pub(crate) fn topics<T>(results: Vec<Result<T, TopicError>>) -> Vec<Result<T, Fault>> {
    results.into_iter().map(|result| result.map_err(|error| topic(&error))).collect()
}

pub(crate) fn alter_config(error: &AlterConfigError) -> Fault {
    let code = match error {
        AlterConfigError::InvalidName(error) => return topic_name(error),
        AlterConfigError::UnknownTopic(_) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        AlterConfigError::NotAList(_) | AlterConfigError::Invalid(_) => ErrorCode::INVALID_CONFIG,
        AlterConfigError::UnknownBroker(_)
        | AlterConfigError::ResourceTwice
        | AlterConfigError::SettingTwice(_)
        | AlterConfigError::NoTopic
        | AlterConfigError::InvalidOnBroker(_)
        | AlterConfigError::NotAtRunTime(_) => ErrorCode::INVALID_REQUEST,
    };
    Fault::new(code, error.to_string())
}

/// A quota that is not changed.
pub(crate) fn quota(error: &QuotaError) -> Fault {
    Fault::new(ErrorCode::INVALID_REQUEST, error.to_string())
}

/// A filter of quotas that nothing can fit.
pub(crate) fn quota_filter(error: &QuotaError) -> Fault {
    let code = match error {
        QuotaError::UnknownEntityType(_) => ErrorCode::UNSUPPORTED_VERSION,
        _ => ErrorCode::INVALID_REQUEST,
    };
    Fault::new(code, error.to_string())
}

/// No room for more. See [`crate::disk_space`] for why it is this code.
pub(crate) fn disk_full(error: &DiskFull) -> Fault {
    Fault::new(ErrorCode::POLICY_VIOLATION, error.to_string())
}

/// A coordinator that does not answer.
pub(crate) fn coordinator(unavailable: Unavailable) -> ErrorCode {
    match unavailable {
        Unavailable::Loading => ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        Unavailable::NotHere => ErrorCode::NOT_COORDINATOR,
    }
}

/// Why a group refuses.
pub(crate) fn group(error: &GroupError) -> Fault {
    let code = match error {
        GroupError::InvalidGroupId => ErrorCode::INVALID_GROUP_ID,
        GroupError::UnknownGroup => ErrorCode::GROUP_ID_NOT_FOUND,
        GroupError::UnknownMember => ErrorCode::UNKNOWN_MEMBER_ID,
        GroupError::FencedInstance => ErrorCode::FENCED_INSTANCE_ID,
        GroupError::IllegalGeneration { .. } => ErrorCode::ILLEGAL_GENERATION,
        GroupError::RebalanceInProgress => ErrorCode::REBALANCE_IN_PROGRESS,
        GroupError::InconsistentProtocol => ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        GroupError::InvalidSessionTimeout { .. } => ErrorCode::INVALID_SESSION_TIMEOUT,
        GroupError::MemberIdRequired => ErrorCode::MEMBER_ID_REQUIRED,
        GroupError::GroupFull { .. } | GroupError::NoMemory | GroupError::RecordTooLarge { .. } => {
            ErrorCode::GROUP_MAX_SIZE_REACHED
        }
        GroupError::MetadataTooLarge { .. } => ErrorCode::OFFSET_METADATA_TOO_LARGE,
        GroupError::NamesTooLong => ErrorCode::INVALID_REQUEST,
        GroupError::InvalidRequest(_) => ErrorCode::INVALID_REQUEST,
        GroupError::FencedMemberEpoch { .. } => ErrorCode::FENCED_MEMBER_EPOCH,
        GroupError::StaleMemberEpoch { .. } => ErrorCode::STALE_MEMBER_EPOCH,
        GroupError::UnreleasedInstance => ErrorCode::UNRELEASED_INSTANCE_ID,
        GroupError::UnsupportedAssignor => ErrorCode::UNSUPPORTED_ASSIGNOR,
        GroupError::InvalidRegex => ErrorCode::INVALID_REGULAR_EXPRESSION,
        GroupError::CommitVersionTooOld => ErrorCode::UNSUPPORTED_VERSION,
        GroupError::NonEmptyGroup => ErrorCode::NON_EMPTY_GROUP,
        GroupError::SubscribedToTopic => ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
    };
    Fault::new(code, error.to_string())
}

/// The first version of OffsetCommit that tells a group that is not there from an old generation.
const FIRST_COMMIT_WITH_NOT_FOUND: i16 = 9;

/// Why an offset is not committed, in a version of OffsetCommit.
pub(crate) fn commit(error: &GroupError, version: i16) -> Fault {
    let code = match error {
        GroupError::UnknownGroup if version < FIRST_COMMIT_WITH_NOT_FOUND => ErrorCode::ILLEGAL_GENERATION,
        GroupError::NoMemory | GroupError::NamesTooLong => ErrorCode::INVALID_COMMIT_OFFSET_SIZE,
        error => return group(error),
    };
    Fault::new(code, error.to_string())
}

/// Replicas that do not move.
pub(crate) fn reassign(error: &ReassignError) -> Fault {
    let code = match error {
        ReassignError::UnknownPartition { .. } => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ReassignError::NotMoving { .. } => ErrorCode::NO_REASSIGNMENT_IN_PROGRESS,
        ReassignError::Empty
        | ReassignError::Repeats(_)
        | ReassignError::UnknownBroker(_)
        | ReassignError::Draining(_) => ErrorCode::INVALID_REPLICA_ASSIGNMENT,
        ReassignError::TooMany(_) | ReassignError::OtherFactor { .. } => ErrorCode::INVALID_REPLICATION_FACTOR,
        ReassignError::NamedTwice { .. } => ErrorCode::INVALID_REQUEST,
    };
    Fault::new(code, error.to_string())
}

/// A broker that is not registered, decommissioned or unregistered.
pub(crate) fn broker(error: &BrokerError) -> Fault {
    let code = match error {
        BrokerError::NotRegistered(_) => ErrorCode::BROKER_ID_NOT_REGISTERED,
        _ => ErrorCode::INVALID_REQUEST,
    };
    Fault::new(code, error.to_string())
}

/// A feature that keeps its level.
pub(crate) fn feature(error: &FeatureError) -> Fault {
    Fault::new(ErrorCode::INVALID_UPDATE_VERSION, error.to_string())
}

/// The partition is led as it should be.
pub(crate) fn election_not_needed() -> Fault {
    Fault::new(ErrorCode::ELECTION_NOT_NEEDED, "the partition has the leader that it should have".to_owned())
}

/// The preferred broker cannot lead now.
pub(crate) fn preferred_not_available(why: impl Into<String>) -> Fault {
    Fault::new(ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE, why.into())
}

/// What remains of a partition is not enough for a leader, or could not be brought together.
pub(crate) fn too_little_remains(why: impl Into<String>) -> Fault {
    Fault::new(ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE, why.into())
}

/// A leader that may lack what was acknowledged.
pub(crate) fn no_unclean_election() -> Fault {
    let message = "a majority of the partition's replicas is not there, and nobody is elected without one: what was \
                   acknowledged could be lost";
    Fault::new(ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE, message.to_owned())
}

/// A request, or a part of it, that asks for what cannot be.
pub(crate) fn invalid_request(why: impl Into<String>) -> Fault {
    Fault::new(ErrorCode::INVALID_REQUEST, why.into())
}

/// A change of topics that is not done in the time that the request gave it.
pub(crate) fn not_in_time() -> Fault {
    let message = "it is not done within the request's timeout, and may be done later";
    Fault::new(ErrorCode::REQUEST_TIMED_OUT, message.to_owned())
}

/// A topic that was written to the metadata, but whose partitions could not all be made.
pub(crate) fn not_served(topic: &str) -> Fault {
    let message =
        format!("topic {topic:?} exists, but not all of its partitions could be made; the broker's log says why");
    Fault::new(ErrorCode::KAFKA_STORAGE_ERROR, message)
}

/// A topic that is gone from the metadata, but whose data could not be deleted.
pub(crate) fn not_deleted(topic: &str) -> Fault {
    let message = format!("topic {topic:?} is gone, but its data could not be deleted yet; the broker's log says why");
    Fault::new(ErrorCode::KAFKA_STORAGE_ERROR, message)
}

pub(crate) fn invalid_batch(error: &InvalidBatch) -> Fault {
    let code = match error.kind() {
        InvalidKind::CorruptMessage => ErrorCode::CORRUPT_MESSAGE,
        InvalidKind::InvalidRecord => ErrorCode::INVALID_RECORD,
        InvalidKind::InvalidTimestamp => ErrorCode::INVALID_TIMESTAMP,
        InvalidKind::MessageTooLarge => ErrorCode::MESSAGE_TOO_LARGE,
        InvalidKind::RecordListTooLarge => ErrorCode::RECORD_LIST_TOO_LARGE,
        InvalidKind::UnsupportedCompressionType => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
    };
    Fault::new(code, error.to_string())
}

pub(crate) fn storage(error: &StorageError) -> Fault {
    let code = match error {
        StorageError::BatchTooLarge { .. } => ErrorCode::MESSAGE_TOO_LARGE,
        StorageError::NoSuchGroup(_) | StorageError::LogClosed(_) => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        _ => ErrorCode::KAFKA_STORAGE_ERROR,
    };
    Fault::new(code, error.to_string())
}

pub(crate) fn read(error: &ReadError) -> Fault {
    match error {
        ReadError::OutOfRange { .. } => Fault::new(ErrorCode::OFFSET_OUT_OF_RANGE, error.to_string()),
        ReadError::Storage(error) => storage(error),
    }
}

pub(crate) fn raft(error: &RaftError) -> Fault {
    let code = match error {
        RaftError::NoSuchGroup(_) | RaftError::Closed(_) | RaftError::NotLeader(_) => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        RaftError::Storage(error) => return storage(error),
        RaftError::Fatal { .. } => ErrorCode::KAFKA_STORAGE_ERROR,
        RaftError::TooLarge { .. } => ErrorCode::POLICY_VIOLATION,
        _ => ErrorCode::UNKNOWN_SERVER_ERROR,
    };
    Fault::new(code, error.to_string())
}

pub(crate) fn propose(error: &ProposeError) -> Fault {
    let code = match error {
        ProposeError::NotLeader | ProposeError::Closed => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ProposeError::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ProposeError::Sequence(SequenceError::OldEpoch { .. }) => ErrorCode::INVALID_PRODUCER_EPOCH,
        ProposeError::NotEnoughReplicas { .. } => ErrorCode::NOT_ENOUGH_REPLICAS,
        ProposeError::TooLarge { .. } => ErrorCode::MESSAGE_TOO_LARGE,
        ProposeError::Stalled(_) | ProposeError::Fatal(_) => ErrorCode::KAFKA_STORAGE_ERROR,
    };
    Fault::new(code, error.to_string())
}

/// Records that cannot be put into the topic's codec.
pub(crate) fn records(error: &RecordsError) -> Fault {
    Fault::new(ErrorCode::INVALID_RECORD, error.to_string())
}

/// Bytes that are no batch.
pub(crate) fn batch(error: &BatchError) -> Fault {
    Fault::new(ErrorCode::CORRUPT_MESSAGE, error.to_string())
}

/// A fetch below the log start or above the log end.
pub(crate) fn out_of_range(offset: Offset, frontiers: &Frontiers) -> Fault {
    let message = format!("offset {offset} is not in {} to {}", frontiers.log_start, frontiers.log_end);
    Fault::new(ErrorCode::OFFSET_OUT_OF_RANGE, message)
}
