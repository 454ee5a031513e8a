//! Accepting connections, as many as there is room for.
//!
//! Both listeners, Kafka's and HTTP's, run [`accept`]. A [`Room`] counts who is in, in all and by address; who finds no
//! place is closed on arrival, which costs the broker nothing and tells the client at once.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millpond_runtime::{Listener, Runtime, Stream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// A pause after a failed accept: the reason (too many open files) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a connection is closed on arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// As many connections as are allowed are open.
    InAll,
    /// As many as one address may have are open from it.
    FromAddress,
}

/// Places for connections.
pub(crate) struct Room {
    max: usize,
    max_per_address: usize,
    taken: Mutex<Taken>,
    left: Notify,
}

#[derive(Default)]
struct Taken {
    total: usize,
    /// Addresses without a connection are not listed.
    by_address: BTreeMap<IpAddr, usize>,
}

/// A connection's place; dropping it makes room for another.
pub(crate) struct Place {
    room: Arc<Room>,
    address: IpAddr,
}

impl Room {
    pub(crate) fn new(max: usize, max_per_address: usize) -> Arc<Room> {
        Arc::new(Room { max, max_per_address, taken: Mutex::default(), left: Notify::new() })
    }

    /// A place for a connection from this address.
    pub(crate) fn enter(self: &Arc<Room>, address: IpAddr) -> Result<Place, NoRoom> {
        // An IPv4 client of an IPv6 socket is the same client.
        let address = address.to_canonical();
        let mut taken = self.taken();
        if taken.total >= self.max {
            return Err(NoRoom::InAll);
        }
        let from_address = taken.by_address.get(&address).copied().unwrap_or(0);
        if from_address >= self.max_per_address {
            return Err(NoRoom::FromAddress);
        }
        taken.by_address.insert(address, from_address + 1);
        taken.total += 1;
        Ok(Place { room: Arc::clone(self), address })
    }

    /// Waits until nobody is in.
    pub(crate) async fn emptied(&self) {
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            if self.taken().total == 0 {
                return;
            }
            left.await;
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing that can panic runs under the lock.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.total -= 1;
        match taken.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.by_address.remove(&self.address)),
        }
        if taken.total == 0 {
            self.room.left.notify_waiters();
        }
    }
}

/// Accepts connections until `stopping`, and spawns what `serve` makes of each.
pub(crate) async fn accept<F>(
    runtime: Runtime,
    stopping: CancellationToken,
    listener: Listener,
    room: Arc<Room>,
    refused: impl Fn(NoRoom, SocketAddr),
    serve: impl Fn(Stream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match room.enter(peer.ip()) {
                Ok(place) => {
                    let served = serve(stream, peer);
                    runtime.spawn(async move {
                        served.await;
                        drop(place);
                    });
                }
                Err(why) => refused(why, peer),
            },
            Err(error) => {
                warn!("connection not accepted: {error}");
                runtime.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_room_is_full_in_all_or_for_one_address_and_a_place_that_is_left_is_free() {
        let room = Room::new(3, 2);
        let (a, b) = (address("10.0.0.1"), address("10.0.0.2"));
        let first = room.enter(a).expect("empty");
        let second = room.enter(address("::ffff:10.0.0.1")).expect("two may come from one address");
        assert_eq!(room.enter(a).err(), Some(NoRoom::FromAddress));
        let third = room.enter(b).expect("another address");
        assert_eq!(room.enter(b).err(), Some(NoRoom::InAll));
        drop(first);
        assert_eq!(room.enter(a).map(drop), Ok(()));
        assert_eq!(room.emptied().now_or_never(), None);
        drop((second, third));
        assert_eq!(room.emptied().now_or_never(), Some(()));
        assert!(room.taken().by_address.is_empty());
    }

    #[test]
    fn who_waits_for_an_empty_room_is_woken_by_the_last_to_leave() {
        let room = Room::new(3, 3);
        let place = room.enter(address("::1")).expect("empty");
        let mut emptied = Box::pin(room.emptied());
        assert_eq!(emptied.as_mut().now_or_never(), None);
        drop(place);
        assert_eq!(emptied.as_mut().now_or_never(), Some(()));
    }
}
