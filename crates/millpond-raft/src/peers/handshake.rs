//! Who is there: the first frames of a connection.
//!
//! The dialling side sends [`MAGIC`] and a Hello with the versions that it speaks; the other side sends [`MAGIC`] and a
//! Welcome with the version that both go on in, or a Refusal. The dialling side may refuse too, once it knows who
//! answered. A refusal is one sentence, which the refused side logs.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use millpond_record::BrokerId;
use millpond_runtime::{ReadHalf, WriteHalf};
use millpond_storage::DirectoryId;

use super::frame::{Frame, FrameError, FrameReader, Kind, MAGIC, Outgoing};
use super::outbox::write_all;

/// The versions of the protocol between brokers that this program speaks.
const MIN_VERSION: u32 = 1;
const MAX_VERSION: u32 = 1;

/// Sentences of others are cut here before they are logged, in characters.
const MAX_SENTENCE: usize = 300;

/// Who a broker is, as others hear it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub broker: BrokerId,
    /// The cluster that it belongs to; `None` while it has not been founded or joined.
    pub cluster_id: Option<String>,
    /// Its data directory.
    pub directory_id: DirectoryId,
    /// This run of it.
    pub boot_id: DirectoryId,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(uint32, tag = "1")]
    min_version: u32,
    #[prost(uint32, tag = "2")]
    max_version: u32,
    #[prost(message, optional, tag = "3")]
    me: Option<Identity>,
    /// The broker that is looked for.
    #[prost(int32, optional, tag = "4")]
    wanted: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Welcome {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    me: Option<Identity>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Identity {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(string, optional, tag = "2")]
    cluster_id: Option<String>,
    #[prost(bytes = "bytes", tag = "3")]
    directory_id: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    boot_id: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Refusal {
    #[prost(string, tag = "1")]
    pub(super) why: String,
}

/// Why two brokers do not talk.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The other side said so.
    #[error("it refuses: {0}")]
    Refused(String),
    /// This side said so.
    #[error("{0}")]
    Refusing(String),
    #[error("what is there is no peer listener of a millpond broker")]
    NotMillpond,
    #[error("it ended the connection before it said who it is")]
    Ended,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Identity {
    fn of(standing: &Standing) -> Identity {
        Identity {
            broker: standing.broker.0,
            cluster_id: standing.cluster_id.clone(),
            directory_id: Bytes::copy_from_slice(&standing.directory_id.0),
            boot_id: Bytes::copy_from_slice(&standing.boot_id.0),
        }
    }

    fn standing(self) -> Option<Standing> {
        let id = |bytes: &Bytes| bytes[..].try_into().ok().map(DirectoryId);
        Some(Standing {
            broker: BrokerId(self.broker),
            directory_id: id(&self.directory_id)?,
            boot_id: id(&self.boot_id)?,
            cluster_id: self.cluster_id,
        })
    }
}

/// Text of somebody else, fit for a line of a log.
pub(super) fn sentence(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SENTENCE).collect()
}

/// Whether two brokers may belong to one cluster.
pub(super) fn same_cluster(mine: &Standing, other: &Standing) -> Result<(), String> {
    match (&mine.cluster_id, &other.cluster_id) {
        (Some(my_cluster), Some(theirs)) if my_cluster != theirs => Err(format!(
            "broker {} belongs to cluster {}, broker {} to cluster {}",
            mine.broker,
            sentence(my_cluster),
            other.broker,
            sentence(theirs),
        )),
        _ => Ok(()),
    }
}

/// Whether `other`, at the other end, may be talked to.
fn acceptable(mine: &Standing, other: &Standing) -> Result<(), String> {
    if mine.directory_id == other.directory_id {
        return Err(format!("broker {} was connected to itself", mine.broker));
    }
    if mine.broker == other.broker {
        return Err(format!("there are two brokers with the id {}", mine.broker));
    }
    same_cluster(mine, other)
}

async fn send(stream: &mut WriteHalf, mut frame: Outgoing) -> io::Result<()> {
    write_all(stream, &mut VecDeque::from(frame.take_chunks()), &AtomicU64::new(0)).await
}

async fn greet(stream: &mut WriteHalf, mut frame: Outgoing) -> io::Result<()> {
    let mut chunks = VecDeque::from(frame.take_chunks());
    chunks.push_front(Bytes::from_static(&MAGIC));
    write_all(stream, &mut chunks, &AtomicU64::new(0)).await
}

async fn receive(reader: &mut FrameReader<ReadHalf>) -> Result<Frame, HandshakeError> {
    if !reader.magic().await? {
        return Err(HandshakeError::NotMillpond);
    }
    let frame = reader.next().await?.ok_or(HandshakeError::Ended)?;
    if frame.kind == Kind::Refusal {
        let Refusal { why } = frame.head()?;
        return Err(HandshakeError::Refused(sentence(&why)));
    }
    Ok(frame)
}

fn refusal(why: &str) -> Outgoing {
    Outgoing::new(Kind::Refusal, 0, &Refusal { why: why.to_owned() }, &[])
}

/// The dialling side. Gives who answered.
pub(super) async fn dial(
    reader: &mut FrameReader<ReadHalf>,
    writer: &mut WriteHalf,
    mine: &Standing,
    wanted: Option<BrokerId>,
) -> Result<Standing, HandshakeError> {
    let hello = Hello {
        min_version: MIN_VERSION,
        max_version: MAX_VERSION,
        me: Some(Identity::of(mine)),
        wanted: wanted.map(|broker| broker.0),
    };
    greet(writer, Outgoing::new(Kind::Hello, 0, &hello, &[])).await?;
    let frame = receive(reader).await?;
    if frame.kind != Kind::Welcome {
        return Err(frame.malformed("no place in a handshake").into());
    }
    let Welcome { version, me } = frame.head()?;
    let other = me.and_then(Identity::standing).ok_or_else(|| frame.malformed("no identity"))?;
    let judged = match wanted {
        _ if !(MIN_VERSION..=MAX_VERSION).contains(&version) => Err(format!(
            "broker {} answers in version {version} of the protocol between brokers, broker {} speaks {MIN_VERSION} to \
             {MAX_VERSION}",
            other.broker, mine.broker
        )),
        Some(wanted) if wanted != other.broker => Err(format!("broker {} answers for broker {wanted}", other.broker)),
        _ => acceptable(mine, &other),
    };
    if let Err(why) = judged {
        send(writer, refusal(&why)).await?;
        return Err(HandshakeError::Refusing(why));
    }
    reader.trust();
    Ok(other)
}

/// The accepting side. Gives who has dialled, and whether to stay: a broker that looks for this one does, one that
/// calls an address does not.
pub(super) async fn accept(
    reader: &mut FrameReader<ReadHalf>,
    writer: &mut WriteHalf,
    mine: &Standing,
) -> Result<(Standing, bool), HandshakeError> {
    let frame = receive(reader).await?;
    if frame.kind != Kind::Hello {
        return Err(frame.malformed("no place in a handshake").into());
    }
    let Hello { min_version, max_version, me, wanted } = frame.head()?;
    let other = me.and_then(Identity::standing).ok_or_else(|| frame.malformed("no identity"))?;
    let version = max_version.min(MAX_VERSION);
    let judged = match wanted {
        _ if version < min_version.max(MIN_VERSION) => Err(format!(
            "broker {} speaks versions {min_version} to {max_version} of the protocol between brokers, broker {} \
             {MIN_VERSION} to {MAX_VERSION}",
            other.broker, mine.broker
        )),
        Some(wanted) if wanted != mine.broker.0 => {
            Err(format!("this is broker {}, and broker {wanted} was looked for", mine.broker))
        }
        _ => acceptable(mine, &other),
    };
    if let Err(why) = judged {
        greet(writer, refusal(&why)).await?;
        return Err(HandshakeError::Refusing(why));
    }
    greet(writer, Outgoing::new(Kind::Welcome, 0, &Welcome { version, me: Some(Identity::of(mine)) }, &[])).await?;
    reader.trust();
    Ok((other, wanted.is_some()))
}
