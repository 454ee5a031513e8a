//! A Kafka client in pure Rust, usable against Millpond and against Apache Kafka from 2.4 on.
//!
//! What there is so far: connections, also by TLS, what is known of the cluster, the admin client, the producer, and
//! the consumer, of partitions that are assigned to it or as a member of a group; no transactions and no SASL yet. A
//! program makes a [`ClientConfig`] from a list of addresses and an [`Admin`] from it:
//!
//! ```no_run
//! use millpond_client::{Admin, ClientConfig, NewTopic};
//!
//! # async fn run() -> Result<(), millpond_client::Error> {
//! let admin = Admin::connect(ClientConfig::new("127.0.0.1:9092")?).await?;
//! let created = admin.create_topics(&[NewTopic::new("logs").partitions(6)]).await?;
//! match &created["logs"] {
//!     Ok(topic) => assert_eq!(topic.partitions, Some(6)),
//!     Err(error) => assert!(!error.is_retriable(), "{error}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! and a [`Producer`] to send records:
//!
//! ```no_run
//! use millpond_client::{ClientConfig, Codec, NewRecord, Producer, ProducerConfig};
//!
//! # async fn run() -> Result<(), millpond_client::Error> {
//! let config = ProducerConfig::default().codec(Codec::Lz4);
//! let producer = Producer::connect(ClientConfig::new("127.0.0.1:9092")?, config).await?;
//! let written = producer.send(NewRecord::to("logs").key(b"host-1").value(b"up")).await?.await?;
//! assert!(written.offset.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! and a [`Consumer`] to read them:
//!
//! ```no_run
//! use millpond_client::{ClientConfig, Consumer, ConsumerConfig, OffsetReset, TopicPartition};
//!
//! # async fn run() -> Result<(), millpond_client::Error> {
//! let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
//! let mut consumer = Consumer::connect(ClientConfig::new("127.0.0.1:9092")?, config).await?;
//! consumer.assign([TopicPartition::new("logs", 0)])?;
//! let record = consumer.recv().await?;
//! assert_eq!(&*record.topic, "logs");
//! # Ok(())
//! # }
//! ```
//!
//! | module | story |
//! | --- | --- |
//! | `transport` | sockets, tasks and chance behind one trait, and TCP |
//! | `tls` | TLS over another transport, with the cargo feature `tls`, which is on by default |
//! | `link` | frames of one connection: pipelined, answers matched to requests, both bounded |
//! | `connection` | a link to a broker whose versions are known; typed calls |
//! | `cluster` | the brokers, who is the controller, reconnecting, trying again within a deadline |
//! | `metadata` | topics, their ids, and who leads their partitions |
//! | `admin` | topics, partitions, replicas, leaders, settings, groups, offsets, the cluster itself |
//! | `producer` | batches, sequences, what is sent again, back-pressure |
//! | `consumer` | positions, what is fetched ahead, resets, aborted transactions, groups, commits |
//!
//! Every call can be dropped at any point: a request that has not left is not sent, and the answer to one that has is
//! read and forgotten; a record that a producer has not taken in is not sent, and one that a consumer has not given is
//! kept. Nothing that a broker sends panics or allocates without a bound. The crate shares `millpond-record` and
//! `millpond-wire` with the broker and nothing else.

mod address;
mod admin;
mod clock;
mod cluster;
mod config;
mod connection;
mod consumer;
mod error;
mod link;
mod metadata;
mod producer;
mod slot;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod versions;

pub use address::Address;
pub use admin::{
    Admin, AlterConfig, BrokerDescription, ClusterDescription, ConfigChange, ConfigEntry, ConfigResource, ConfigSource,
    CreatedTopic, ElectionType, GroupDescription, GroupListing, GroupMember, GroupOffset, NewTopic, OffsetAt, Outcomes,
    PartitionDescription, QuorumDescription, QuorumReplica, Reassignment, ResourceKind, TopicDescription, TopicListing,
    TopicPartition,
};
pub use cluster::{BrokerAddress, Cluster, Target};
pub use config::ClientConfig;
pub use connection::Connection;
pub use consumer::{
    Assignor, Commit, Consumer, ConsumerConfig, ConsumerRecord, GroupProtocol, Isolation, OffsetReset, Rebalance,
    RebalanceKind, Rebalances,
};
pub use error::{Error, Result};
pub use millpond_record::{Codec, TopicId};
pub use millpond_wire::ErrorCode;
pub use producer::{Acknowledged, Acks, Delivery, NewRecord, Producer, ProducerConfig, TrySendError};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsConfig};
pub use transport::{Duplex, Tcp, Transport};
pub use versions::Versions;
