//! What can go wrong, as far as a caller can do something about it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use millpond_wire::{ApiKey, ErrorCode};
use thiserror::Error;

use crate::address::Address;
use crate::admin::TopicPartition;

/// The result of everything that talks to a broker.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// A text that should be an address is none.
    #[error("'{text}' is no address; it must have the form HOST:PORT")]
    Address {
        /// The text.
        text: String,
    },
    /// No connection could be made.
    #[error("{broker} cannot be reached: {source}")]
    Unreachable {
        /// The broker.
        broker: Address,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// Who answers is not who it must be, or does not let this client in. A call does not ask it again; what goes on by
    /// itself does, after a pause.
    #[error("{broker} is not trusted: {reason}")]
    Untrusted {
        /// The broker.
        broker: Address,
        /// Why not.
        reason: String,
    },
    /// What TLS is set up with is of no use.
    #[error("TLS cannot be used: {reason}")]
    Tls {
        /// Why not.
        reason: String,
    },
    /// Not one of the bootstrap addresses answers.
    #[error("no broker answers: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoBroker(
        /// Why not, for each address.
        Vec<Error>,
    ),
    /// The connection was lost before the answer came. Whether the request had an effect is not known.
    #[error("the connection to {broker} was lost: {reason}")]
    Disconnected {
        /// The broker.
        broker: Address,
        /// How it ended.
        reason: String,
    },
    /// No answer came in time. Whether the request had an effect is not known.
    #[error("{broker} did not answer within {} ms ({what})", after.as_millis())]
    TimedOut {
        /// The broker.
        broker: Address,
        /// What it was asked.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came back is not what the protocol says. The connection is closed.
    #[error("{broker} does not keep to the Kafka protocol: {reason}")]
    Protocol {
        /// The broker.
        broker: Address,
        /// What is wrong.
        reason: String,
    },
    /// The broker has no version of the API that this client speaks.
    #[error("{broker} does not serve {api} in a version that this client speaks ({asked})")]
    Unsupported {
        /// The broker.
        broker: Address,
        /// The API.
        api: ApiKey,
        /// The versions that were looked for.
        asked: String,
    },
    /// The request cannot be said in the protocol, for example because a name is too long.
    #[error("the request cannot be sent: {reason}")]
    Request {
        /// Why not.
        reason: String,
    },
    /// The cluster says no.
    #[error("{what}: {}", refusal(*code, message.as_deref()))]
    Refused {
        /// What was asked for.
        what: String,
        /// Kafka's error code.
        code: ErrorCode,
        /// The broker's own words, if it has any.
        message: Option<String>,
    },
    /// A record is longer than a request may be, or than all memory of the producer.
    #[error("a record of up to {bytes} bytes is refused: {limit} bytes are allowed")]
    TooLarge {
        /// The most bytes that it may take in a batch.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A partition has no offset to be read from, and the consumer's reset policy gives none. It stands still until it
    /// is sought.
    #[error("{partition} cannot be read {}; seek says where to go on", where_from(*offset))]
    NoOffset {
        /// The partition.
        partition: TopicPartition,
        /// What is not in the log; `None` if there was no offset to begin with.
        offset: Option<i64>,
    },
    /// Records that were given are gone: a leader was elected that did not have them (KIP-320), and the consumer's
    /// reset policy does not say where to go on. The partition stands still until it is sought.
    #[error("{partition} has lost records that were read, up to offset {offset}; {}", agrees(*end))]
    Truncated {
        /// The partition.
        partition: TopicPartition,
        /// Behind the last record that was given.
        offset: i64,
        /// Behind the last record that is still there of those that were given; `None` if that is not known.
        end: Option<i64>,
    },
    /// What is stored cannot be read. The partition stands still until it is sought, for example beyond it.
    #[error("{partition} cannot be read at offset {offset}: {reason}")]
    Damaged {
        /// The partition.
        partition: TopicPartition,
        /// The first offset that was not read.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// What was asked for was closed before.
    #[error("it was closed")]
    Closed,
    /// It was tried again until the deadline.
    #[error("not done within {} ms: {last}", after.as_millis())]
    GaveUp {
        /// The deadline, from the beginning of the call.
        after: Duration,
        /// Why the last try failed.
        last: Box<Error>,
    },
}

fn where_from(offset: Option<i64>) -> String {
    match offset {
        Some(offset) => format!("from offset {offset}, which its log does not have"),
        None => "because nothing says from where".to_owned(),
    }
}

fn agrees(end: Option<i64>) -> String {
    match end {
        Some(end) => format!("its log has what was read up to offset {end}; seek says where to go on"),
        None => "seek says where to go on".to_owned(),
    }
}

fn refusal(code: ErrorCode, message: Option<&str>) -> String {
    let known = code.spec().map_or_else(|| format!("error code {}", code.0), |spec| spec.name.to_owned());
    match message.map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{message} ({known})"),
        None => known,
    }
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything: lost connections, time limits, and
    /// the error codes that Kafka's clients try again. A request that is not idempotent may have had its effect.
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Disconnected { .. } | Error::TimedOut { .. } => true,
            Error::NoBroker(reasons) => reasons.iter().all(Error::is_retriable),
            Error::Refused { code, .. } => code.is_retriable(),
            Error::GaveUp { last, .. } => last.is_retriable(),
            Error::Address { .. }
            | Error::Untrusted { .. }
            | Error::Tls { .. }
            | Error::Protocol { .. }
            | Error::Unsupported { .. }
            | Error::Request { .. }
            | Error::TooLarge { .. }
            | Error::NoOffset { .. }
            | Error::Truncated { .. }
            | Error::Damaged { .. }
            | Error::Closed => false,
        }
    }

    /// Kafka's error code, when a broker gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            Error::GaveUp { last, .. } => last.code(),
            _ => None,
        }
    }

    /// Whether it stays so until somebody changes something: who asks may not, or one side cannot. A task that goes on
    /// by itself tries everything else again, also what is not worth another try in one call: a leader that has no
    /// address yet, a broker that does not know what went wrong, another's answer that broke the connection of both.
    pub(crate) fn is_definitive(&self) -> bool {
        match self {
            Error::Untrusted { .. } | Error::Unsupported { .. } | Error::Request { .. } => true,
            Error::Refused { code, .. } => matches!(
                *code,
                ErrorCode::TOPIC_AUTHORIZATION_FAILED
                    | ErrorCode::GROUP_AUTHORIZATION_FAILED
                    | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
                    | ErrorCode::INVALID_GROUP_ID
                    | ErrorCode::INVALID_TOPIC_EXCEPTION
                    | ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
                    | ErrorCode::UNSUPPORTED_VERSION
            ),
            Error::GaveUp { last, .. } => last.is_definitive(),
            _ => false,
        }
    }

    /// Whether who answers is not who it must be: another broker may be, and this one again with another certificate.
    pub(crate) fn is_of_trust(&self) -> bool {
        match self {
            Error::Untrusted { .. } => true,
            Error::NoBroker(reasons) => reasons.iter().all(Error::is_of_trust),
            Error::GaveUp { last, .. } => last.is_of_trust(),
            _ => false,
        }
    }

    /// Whether it is the connection that failed, not what was asked.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. } | Error::Disconnected { .. } | Error::TimedOut { .. } | Error::NoBroker(_)
        )
    }

    /// An error code of a response as a result.
    pub(crate) fn check(code: i16, message: Option<&str>, what: impl FnOnce() -> String) -> Result<()> {
        let code = ErrorCode(code);
        if code.is_none() {
            return Ok(());
        }
        Err(Error::Refused { what: what(), code, message: message.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: ErrorCode, message: Option<&str>) -> Error {
        Error::check(code.0, message, || "creating logs".into()).expect_err("an error code")
    }

    #[test]
    fn an_error_says_what_was_asked_and_what_the_broker_said() {
        let exists = refused(ErrorCode::TOPIC_ALREADY_EXISTS, Some("there is one"));
        assert_eq!(exists.to_string(), "creating logs: there is one (TOPIC_ALREADY_EXISTS)");
        assert_eq!(refused(ErrorCode(9999), None).to_string(), "creating logs: error code 9999");
        assert!(Error::check(0, Some("ignored"), String::new).is_ok());
    }

    #[test]
    fn retriable_is_what_kafka_tries_again_and_whatever_the_network_does() {
        let broker: Address = "a:1".parse().expect("an address");
        let lost = Error::Disconnected { broker: broker.clone(), reason: "closed".into() };
        assert!(lost.is_retriable());
        assert!(Error::GaveUp { after: Duration::from_secs(1), last: Box::new(lost.clone()) }.is_retriable());
        assert!(refused(ErrorCode::NOT_CONTROLLER, None).is_retriable());
        assert!(!refused(ErrorCode::TOPIC_ALREADY_EXISTS, None).is_retriable());
        let broken = Error::Protocol { broker, reason: "a length of -1".into() };
        assert!(!broken.is_retriable());
        assert!(!Error::NoBroker(vec![lost, broken]).is_retriable());
    }
}
