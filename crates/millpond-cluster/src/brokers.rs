//! Register a broker.

use millpond_record::BrokerId;

use crate::image::Image;
use crate::record::{Broker, DirectoryId, MetadataRecord};

/// Why a broker cannot register.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    #[error("broker id {0} is negative: set node.id to 0 or more")]
    NegativeId(BrokerId),
    #[error("broker {id} advertises {host:?}:{port}, which no client can connect to: set advertised.listeners")]
    NoAddress { id: BrokerId, host: String, port: u16 },
    #[error(
        "broker {id} has replicas in data directory {registered:02x?}, it comes with {found:02x?}: start it on the \
         data directory that it had, or give it another node.id"
    )]
    OtherDirectory { id: BrokerId, registered: DirectoryId, found: DirectoryId },
}

/// The records that register the broker; none when it is registered just so.
pub fn register_broker(image: &Image, broker: &Broker) -> Result<Vec<MetadataRecord>, BrokerError> {
    let id = broker.id;
    if id.0 < 0 {
        return Err(BrokerError::NegativeId(id));
    }
    if broker.host.is_empty() || broker.port == 0 {
        return Err(BrokerError::NoAddress { id, host: broker.host.clone(), port: broker.port });
    }
    if let Some(registered) = image.broker(id) {
        if **registered == *broker {
            return Ok(Vec::new());
        }
        if registered.directory != broker.directory && has_replicas(image, id, registered.directory) {
            let (registered, found) = (registered.directory, broker.directory);
            return Err(BrokerError::OtherDirectory { id, registered, found });
        }
    }
    let mut records = image.opening();
    records.push(MetadataRecord::Broker(broker.clone()));
    Ok(records)
}

fn has_replicas(image: &Image, broker: BrokerId, directory: DirectoryId) -> bool {
    let mut replicas = image.topics().flat_map(|topic| &topic.partitions).flat_map(|partition| &partition.replicas);
    replicas.any(|replica| replica.broker == broker && replica.directory == directory)
}
