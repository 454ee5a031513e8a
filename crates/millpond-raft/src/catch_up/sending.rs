//! Sending side: the manifests that are in use, and their pieces.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use millpond_record::{BrokerId, GroupId, LogId};
use millpond_runtime::Runtime;
use millpond_storage::{DataDir, SegmentPart, Shipment};
use tokio::time::Instant;

use super::PIECE_BYTES;
use super::messages::{Done, Piece, Request, Stretch, Unproven, Wish};

/// A manifest that nobody has asked for so long is let go, and its files with it.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// Manifests in use at a time; each may have megabytes.
const MOST: usize = 64;

/// What is being shipped to whom. A clone is the same.
#[derive(Clone)]
pub(crate) struct Shipments(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    data_dir: DataDir,
    open: Mutex<InUse>,
}

#[derive(Default)]
struct InUse {
    all: BTreeMap<(GroupId, BrokerId), Open>,
    /// A task looks after those that nobody asks for any more.
    watched: bool,
}

struct Open {
    p: LogId,
    manifest: Bytes,
    shipment: Arc<Shipment>,
    used: Instant,
}

impl Shipments {
    pub(crate) fn new(runtime: Runtime, data_dir: DataDir) -> Shipments {
        Shipments(Arc::new(Inner { runtime, data_dir, open: Mutex::default() }))
    }

    fn open(&self) -> MutexGuard<'_, InUse> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many manifests are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open().all.len()
    }

    /// Answers another broker. The error is a sentence for it.
    pub(crate) async fn answer(&self, from: BrokerId, body: Bytes) -> Result<Bytes, String> {
        let Request { group, p, wish } = Request::decode(body)?;
        match wish {
            Wish::Manifest(stretch) => self.manifest(from, group, p, stretch).await,
            Wish::Piece(piece) => self.piece(from, group, p, piece).await,
            Wish::Done(Done { damaged }) => {
                let used = self.end((group, from), p);
                if let (Some(used), Some(unproven)) = (used, damaged) {
                    self.look_through(group, used, unproven).await;
                }
                Ok(Bytes::new())
            }
        }
    }

    /// Nobody asks for a manifest any more.
    fn end(&self, key: (GroupId, BrokerId), p: LogId) -> Option<Arc<Shipment>> {
        let mut open = self.open();
        open.all.get(&key).filter(|found| found.p == p)?;
        open.all.remove(&key).map(|found| found.shipment)
    }

    /// Finds out whether a segment that another broker could not prove is damaged here. The storage layer has the
    /// operator told.
    async fn look_through(&self, group: GroupId, used: Arc<Shipment>, unproven: Unproven) {
        let segment = unproven.segment as usize;
        if used.hash_of(segment) != Some(unproven.hash) {
            return;
        }
        let found = self.0.runtime.blocking(move || used.look_through(segment)).await;
        match found {
            Ok(()) => tracing::warn!(
                group = group.0,
                segment,
                "another broker received a segment that it could not prove, and here it is whole: what is between the \
                 two changes it"
            ),
            Err(error) => tracing::debug!(group = group.0, %error, "a segment cannot be shipped"),
        }
    }

    /// The group is deleted here.
    pub(crate) fn forget(&self, group: GroupId) {
        self.open().all.retain(|(of, _), _| *of != group);
    }

    /// What is in use, if it is as of P.
    fn find<T>(&self, key: (GroupId, BrokerId), p: LogId, look: impl FnOnce(&Open) -> T) -> Option<T> {
        let mut open = self.open();
        let found = open.all.get_mut(&key).filter(|found| found.p == p)?;
        found.used = self.0.runtime.now();
        Some(look(found))
    }

    async fn manifest(&self, from: BrokerId, group: GroupId, p: LogId, wanted: Stretch) -> Result<Bytes, String> {
        let known = self.find((group, from), p, |open| open.manifest.clone());
        let manifest = match known {
            Some(manifest) => manifest,
            None => self.begin(from, group, p).await?,
        };
        let end = wanted.position.checked_add(u64::from(wanted.length)).filter(|end| *end <= manifest.len() as u64);
        let length = wanted.length as usize;
        if end.is_none() || length > PIECE_BYTES {
            return Err(format!("the manifest of group {group} has {} bytes", manifest.len()));
        }
        let from = wanted.position as usize;
        let mut answer = BytesMut::with_capacity(8 + length);
        answer.put_u64_le(manifest.len() as u64);
        answer.put_slice(&manifest[from..from + length]);
        Ok(answer.freeze())
    }

    /// Takes a log's manifest into use.
    async fn begin(&self, from: BrokerId, group: GroupId, p: LogId) -> Result<Bytes, String> {
        if self.open().all.keys().filter(|key| **key != (group, from)).count() >= MOST {
            return Err(format!("{MOST} replicas are being filled from this broker already; try again"));
        }
        let data_dir = self.0.data_dir.clone();
        let made = self.0.runtime.blocking(move || match data_dir.log(group)? {
            Some(log) => log.manifest(),
            None => Ok(None),
        });
        let made = made.await.map_err(|error| error.to_string())?;
        let (manifest, shipment) = made.ok_or_else(|| format!("there is no snapshot of group {group} here"))?;
        let found = manifest.position.log_id();
        if found != p {
            return Err(format!("the snapshot of group {group} is as of entry {found} now, not {p}"));
        }
        let manifest = manifest.encode();
        let (used, shipment) = (self.0.runtime.now(), Arc::new(shipment));
        let watched = {
            let mut open = self.open();
            open.all.insert((group, from), Open { p, manifest: manifest.clone(), shipment, used });
            std::mem::replace(&mut open.watched, true)
        };
        if !watched {
            let shipments = self.clone();
            self.0.runtime.spawn(async move { shipments.let_go_of_idle().await });
        }
        Ok(manifest)
    }

    async fn piece(&self, from: BrokerId, group: GroupId, p: LogId, piece: Piece) -> Result<Bytes, String> {
        let shipment = self.find((group, from), p, |open| Arc::clone(&open.shipment));
        let shipment = shipment.ok_or_else(|| format!("the manifest of group {group} is no longer in use here"))?;
        if piece.length as usize > PIECE_BYTES {
            return Err(format!("a piece has {PIECE_BYTES} bytes at most"));
        }
        if shipment.hash_of(piece.segment as usize) != Some(piece.hash) {
            return Err(format!("the manifest of group {group} names other segments now"));
        }
        let part = if piece.index { SegmentPart::Index } else { SegmentPart::Log };
        let read = self
            .0
            .runtime
            .blocking(move || shipment.read(piece.segment as usize, part, piece.position, piece.length as usize));
        read.await.map_err(|error| error.to_string())
    }

    /// Ends with the last manifest in use.
    async fn let_go_of_idle(self) {
        loop {
            self.0.runtime.sleep(IDLE / 2).await;
            let now = self.0.runtime.now();
            let mut open = self.open();
            open.all.retain(|_, open| now.saturating_duration_since(open.used) < IDLE);
            if open.all.is_empty() {
                open.watched = false;
                return;
            }
        }
    }
}
