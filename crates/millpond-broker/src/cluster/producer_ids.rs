//! The producer ids that this broker gives out: a block of them at a time, which the controller hands to no other.

use millpond_cluster::{ProducerIdBlock, allocate_producer_ids};
use millpond_record::ProducerId;
use millpond_runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::messages::{self, Block, PRODUCER_IDS};
use crate::controller::Controller;
use crate::errors::ControllerError;

/// Requests that wait in the mailbox; more wait as requests of their connections.
const MAILBOX: usize = 1;

type Answer = oneshot::Sender<Result<ProducerId, ControllerError>>;

/// A handle to the task that has the block.
#[derive(Clone)]
pub(crate) struct ProducerIds(mpsc::Sender<Answer>);

impl ProducerIds {
    pub(crate) fn start(runtime: &Runtime, controller: Controller) -> ProducerIds {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        runtime.spawn(give_out(controller, mailbox));
        ProducerIds(sender)
    }

    /// A producer id that nobody had before, on any broker, whatever crashed.
    pub(crate) async fn next(&self) -> Result<ProducerId, ControllerError> {
        let (answer, id) = oneshot::channel();
        self.0.send(answer).await.map_err(|_| ControllerError::Stopped)?;
        id.await.map_err(|_| ControllerError::Stopped)?
    }
}

async fn give_out(controller: Controller, mut mailbox: mpsc::Receiver<Answer>) {
    let mut left = ProducerIdBlock { first: ProducerId(0), count: 0 };
    while let Some(answer) = mailbox.recv().await {
        if left.count == 0 {
            match block(&controller).await {
                Ok(block) => left = block,
                Err(error) => {
                    drop(answer.send(Err(error)));
                    continue;
                }
            }
        }
        let id = left.first;
        left = ProducerIdBlock { first: ProducerId(id.0 + 1), count: left.count - 1 };
        // Nobody may wait any more: the id is then not used.
        drop(answer.send(Ok(id)));
    }
}

/// A block that has an id at least.
async fn block(controller: &Controller) -> Result<ProducerIdBlock, ControllerError> {
    if controller.is_here() {
        let decided = controller.change(|image| match allocate_producer_ids(image) {
            Ok((block, records)) => (Ok(block), records),
            Err(error) => (Err(error), Vec::new()),
        });
        return Ok(decided.await?.decision?);
    }
    let answer = controller.ask_controller(PRODUCER_IDS, bytes::Bytes::new()).await?;
    let Block { first, count } = messages::read(answer).map_err(ControllerError::Said)?;
    let end = first.checked_add(i64::from(count));
    match end.filter(|_| first >= 0 && count > 0) {
        Some(_) => Ok(ProducerIdBlock { first: ProducerId(first), count }),
        None => Err(ControllerError::Said("the controller gave no producer ids".to_owned())),
    }
}
