//! Response bytes on their way to the socket: in memory, or left in a file.

use bytes::{Buf, Bytes};
use millpond_storage::FileRun;
use millpond_wire::Chunk;

use crate::dispatch::CloseReason;

/// Response bytes that are to be written.
pub(crate) enum Outgoing {
    Bytes(Bytes),
    File(FileRun),
}

impl Outgoing {
    pub(crate) fn of(chunk: Chunk) -> Result<Outgoing, CloseReason> {
        match chunk {
            Chunk::Here(bytes) => Ok(Outgoing::Bytes(bytes)),
            Chunk::Elsewhere(elsewhere) => match elsewhere.place::<FileRun>() {
                Some(run) => Ok(Outgoing::File(run.clone())),
                None => Err(CloseReason::Refused("its answer has bytes of which nobody knows where they are".into())),
            },
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Outgoing::Bytes(bytes) => bytes.len(),
            Outgoing::File(run) => run.len(),
        }
    }

    pub(crate) fn advance(&mut self, sent: usize) {
        match self {
            Outgoing::Bytes(bytes) => bytes.advance(sent),
            Outgoing::File(run) => run.advance(sent),
        }
    }
}
