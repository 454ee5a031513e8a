//! The cluster's metadata as a pure state machine: brokers, topics, partitions, id allocators and topic settings.
//!
//! State changes in one way only: a decision (`create_topics`, `delete_topic`, `register_broker`,
//! `allocate_producer_ids`) reads an [`Image`] and returns [`MetadataRecord`]s; they are appended to group 0 as one
//! record batch ([`encode_batch`]); once committed, every broker hands the same batch to [`decode_batch`] and
//! [`Image::apply`], which returns the next image. Nothing here reads a clock, draws a random number or does I/O.
//!
//! | file | story |
//! | --- | --- |
//! | `record.rs` | the records, and their bytes as key and value |
//! | `batch.rs` | records to and from one v2 batch of group 0 |
//! | `image.rs` | the immutable image and how a record changes it |
//! | `names.rs` | which topic names are allowed |
//! | `config_table.rs` | every topic setting: type, default, range, documentation, what this broker does with it |
//! | `config.rs` | checking values against the table, effective settings |
//! | `topics.rs` | create and delete topics |
//! | `grow.rs` | add partitions |
//! | `alter_configs.rs` | change settings of topics and brokers |
//! | `quotas.rs` | quotas of clients: set, describe, and which one counts |
//! | `placement.rs`, `allocation.rs` | which broker gets which replica; the ids of new partitions |
//! | `brokers.rs` | register, decommission and unregister a broker |
//! | `reassign.rs` | move replicas: as asked, off a broker, evenly over brokers, onto a disk that was lost |
//! | `voters.rs` | which brokers vote in group 0 |
//! | `features.rs` | the feature level, as Kafka's tools see it |
//! | `producer_ids.rs` | hand out a block of producer ids |

mod allocation;
mod alter_configs;
mod batch;
mod brokers;
mod config;
mod config_table;
mod features;
mod grow;
mod image;
mod names;
mod placement;
mod producer_ids;
mod quotas;
mod reassign;
mod record;
mod topics;
mod voters;

pub use alter_configs::{
    AlterConfigError, AlterConfigs, ConfigAlteration, ConfigOperation, ConfigResource, alter_configs,
};
pub use batch::{BatchFormatError, MAX_METADATA_BATCH_BYTES, decode_batch, encode_batch};
pub use brokers::{
    BrokerError, Registered, Registration, cancel_decommission, decommission, left_to_move, register_broker,
    replicas_on, unregister_broker,
};
pub use config::{
    CleanupPolicy, CompressionType, ConfigError, ConfigSource, EffectiveConfig, FlushSetting, MAX_CONFIG_VALUE_BYTES,
    Synonym, TimestampType, TopicDefaults, TopicSettings, Validation, check_topic_configs, effective_configs,
    topic_synonyms,
};
pub use config_table::{ConfigKind, Support, TOPIC_CONFIGS, TopicConfig, topic_config, topic_config_of_broker};
pub use features::{FEATURE_NAME, FeatureError, FeatureUpdate, UpdateFeatures, update_features};
pub use grow::{CreatePartitions, GrownTopic, MorePartitions, create_partitions};
pub use image::{ApplyError, FIRST_METADATA_REPLICA, Image, METADATA_GROUP, Topic};
pub use names::{MAX_TOPIC_NAME_BYTES, OFFSETS_TOPIC_NAME, TopicNameError, check_topic_name, is_internal_topic};
pub use producer_ids::{PRODUCER_ID_BLOCK, ProducerIdBlock, ProducerIdError, allocate_producer_ids};
pub use quotas::{
    AlterClientQuotas, ClientQuota, EntityName, MAX_QUOTA_ENTITIES, QuotaAlteration, QuotaEntity, QuotaError,
    QuotaFilter, QuotaScope, alter_client_quotas, describe_client_quotas, quota_for,
};
pub use reassign::{
    Moving, ReassignError, ReassignPartitions, Reassignment, drain, lost_replicas, moving, reassign_partitions,
    rebalance, replace_replica, replace_replicas, settle_partition,
};
pub use record::{Broker, DirectoryId, FEATURE_LEVEL, MetadataRecord, Partition, RecordError, Replica, TopicRecord};
pub use topics::{
    CreateTopics, CreatedTopic, DeleteTopics, DeletedTopic, MAX_REPLICATION_FACTOR, NewTopic, TopicError, TopicLimits,
    TopicReference, create_topics, delete_topics,
};
pub use voters::metadata_voters;
