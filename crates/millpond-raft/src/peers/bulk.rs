//! The connection over which replicas here are filled from another broker.
//!
//! Segments have one of their own, so that nothing that Raft sends waits behind them, in no buffer on the way either.
//! It is dialled when something is asked for, and closed a while after the last answer. It has no beats: the connection
//! of [`super::link`] says whether the peer lives, and when that one ends so does this one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_runtime::{ReadHalf, WriteHalf};
use tracing::debug;

use super::frame::FrameReader;
use super::link::{Dialled, Link, Peer, dial};
use super::{CallError, Inner, call_over};

/// How long it is kept without anybody who waits for an answer, up to twice that: less than the other side keeps one on
/// which nothing arrives.
const KEPT: Duration = Duration::from_secs(3);

/// The connection, if there is one. Locked while it is dialled.
pub(super) type Slot = tokio::sync::Mutex<Option<Arc<Link>>>;

/// Makes a call over the peer's connection for bulk data, which is dialled if need be.
pub(super) async fn call(inner: &Arc<Inner>, peer: &Arc<Peer>, service: u16, body: &Bytes) -> Result<Bytes, CallError> {
    loop {
        let (link, is_new) = linked(inner, peer).await?;
        match call_over(&link, peer.broker, service, body.clone()).await {
            // It was closed between here and there: nobody had used it for a while.
            Err(CallError::NoLink(_)) if !is_new => {}
            answer => return answer,
        }
    }
}

/// Gives the connection up: somebody has waited for an answer for too long. It has no beats that would tell.
pub(super) fn give_up(peer: &Peer) {
    // While it is locked a new one is being dialled.
    if let Ok(mut slot) = peer.bulk.try_lock()
        && let Some(link) = slot.take()
    {
        link.close();
    }
}

async fn linked(inner: &Arc<Inner>, peer: &Arc<Peer>) -> Result<(Arc<Link>, bool), CallError> {
    let mut slot = peer.bulk.lock().await;
    if let Some(link) = slot.as_ref().filter(|link| link.is_open()) {
        return Ok((Arc::clone(link), false));
    }
    let address = peer.address.borrow().clone().ok_or(CallError::NoLink(peer.broker))?;
    // It asks for nobody by id: the newest connection that does is the one that Raft uses.
    let Dialled { reader, writer, other } = match dial(&inner.runtime, &inner.standing(), &address, None).await {
        Ok(dialled) if dialled.other.broker == peer.broker => dialled,
        Ok(dialled) => {
            debug!(broker = %peer.broker, %address, "broker {} answers there", dialled.other.broker);
            return Err(CallError::NoLink(peer.broker));
        }
        Err(end) => {
            debug!(broker = %peer.broker, %address, "no connection for bulk data: {end}");
            return Err(CallError::NoLink(peer.broker));
        }
    };
    debug!(broker = %other.broker, %address, "connected to the broker for bulk data");
    let link = Arc::new(Link::new());
    let (carried, carrying, of) = (Arc::clone(&link), Arc::clone(inner), Arc::clone(peer));
    inner.runtime.spawn(async move {
        let (mut closing, mut alive) = (carrying.closing(), carrying.alive.subscribe());
        tokio::select! {
            biased;
            () = closing.closed() => {}
            _ = alive.wait_for(|alive| !alive.contains(&of.broker)) => {}
            () = carry(&carried, reader, writer) => {}
            () = unused(&carrying, &carried) => {}
        }
        carried.close();
    });
    *slot = Some(Arc::clone(&link));
    Ok((link, true))
}

/// Writes what is sent over a connection and hands out the answers, until it ends; then it is closed.
pub(super) async fn carry(link: &Link, mut reader: FrameReader<ReadHalf>, writer: WriteHalf) {
    let reading = async {
        while let Ok(Some(frame)) = reader.next().await {
            if link.received(frame).is_err() {
                break;
            }
        }
    };
    let writing = async {
        // When it fails the reader finds out.
        let _ = link.outbox().run(writer).await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        biased;
        () = reading => {}
        () = writing => {}
    }
    link.close();
}

/// Resolves when nobody has asked for anything for a while.
async fn unused(inner: &Inner, link: &Link) {
    let mut asked = link.asked();
    loop {
        inner.runtime.sleep(KEPT).await;
        let before = std::mem::replace(&mut asked, link.asked());
        if before == asked && link.close_if_idle() {
            return;
        }
    }
}
