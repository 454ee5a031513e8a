//! This broker among others: how a cluster comes to be and brokers join it, what brokers ask of each other, and what
//! the controller sees to.
//!
//! | file | story |
//! | --- | --- |
//! | `messages.rs` | what brokers ask of each other, in protobuf |
//! | `services.rs` | what this broker does when it is asked |
//! | `founding.rs` | found a cluster, join one, or wait: a pure decision |
//! | `start.rs`, `joining.rs` | the start of a broker up to its registration: alone, and among others |
//! | `forward.rs` | clients' requests that go to the controller |
//! | `producer_ids.rs` | the producer ids that this broker gives out |
//! | `keeper.rs` | what the controller sees to: voters, lost replicas, brokers that leave, preferred leaders |
//! | `admin.rs` | what an operator asks for over HTTP |
//! | `handover.rs` | giving away what a broker leads that stops |
//! | `mending.rs` | having damaged and tainted replicas here replaced |
//! | `unclean.rs` | what remains of partitions whose relaxed replicas lost power, and whom an operator has trusted |
//! | `mover.rs` | bringing the partitions led here to the replicas that they should have |

use std::collections::BTreeMap;

use millpond_cluster::{Broker, Image};
use millpond_record::BrokerId;
use millpond_runtime::HostPort;

pub(crate) mod admin;
pub(crate) mod forward;
mod founding;
pub(crate) mod handover;
pub(crate) mod joining;
pub(crate) mod keeper;
pub(crate) mod mending;
pub(crate) mod messages;
pub(crate) mod mover;
pub(crate) mod producer_ids;
pub(crate) mod services;
pub(crate) mod start;
pub(crate) mod unclean;

/// Where the brokers of a cluster reach each other.
pub(crate) fn places(image: &Image) -> BTreeMap<BrokerId, HostPort> {
    image.brokers().filter_map(|broker| place(broker)).collect()
}

fn place(broker: &Broker) -> Option<(BrokerId, HostPort)> {
    Some((broker.id, broker.peer.parse().ok()?))
}
