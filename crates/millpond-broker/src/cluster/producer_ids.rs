//! The producer ids that this broker gives out: a block of them at a time, which the controller hands to no other.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::BoxFuture;
use millpond_cluster::{ProducerIdBlock, allocate_producer_ids};
use millpond_record::ProducerId;
use millpond_runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::messages::{self, Block, PRODUCER_IDS};
use crate::controller::Controller;
use crate::errors::ControllerError;

/// Requests that wait in the mailbox; more wait as requests of their connections.
const MAILBOX: usize = 1;
/// Requests that wait for one block.
const WAITING: usize = 10_000;
/// How long a block is waited for before producers are told to ask again. It is not asked for once more meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

type Answer = oneshot::Sender<Result<ProducerId, ControllerError>>;

/// A handle to the task that has the block.
#[derive(Clone)]
pub(crate) struct ProducerIds(mpsc::Sender<Answer>);

impl ProducerIds {
    pub(crate) fn start(runtime: &Runtime, controller: Controller) -> ProducerIds {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let asking = move || block(controller.clone());
        runtime.spawn(give_out(runtime.clone(), asking, mailbox));
        ProducerIds(sender)
    }

    /// A producer id that nobody had before, on any broker, whatever crashed.
    ///
    /// # Errors
    /// [`ControllerError::Elsewhere`] and [`ControllerError::NoAnswer`] when there is none now, within about a second.
    pub(crate) async fn next(&self) -> Result<ProducerId, ControllerError> {
        let (answer, id) = oneshot::channel();
        self.0.send(answer).await.map_err(|_| ControllerError::Stopped)?;
        id.await.map_err(|_| ControllerError::Stopped)?
    }
}

type Asked = BoxFuture<'static, Result<ProducerIdBlock, ControllerError>>;

/// Answers from the block at hand. While the next one is asked for all requests wait for it together, and not for long.
async fn give_out(runtime: Runtime, ask: impl Fn() -> Asked, mut mailbox: mpsc::Receiver<Answer>) {
    let mut left = ProducerIdBlock { first: ProducerId(0), count: 0 };
    let mut waiting: VecDeque<Answer> = VecDeque::new();
    let mut asked: Option<Asked> = None;
    let mut until = runtime.now();
    loop {
        while left.count > 0
            && let Some(answer) = waiting.pop_front()
        {
            let id = left.first;
            left = ProducerIdBlock { first: ProducerId(id.0 + 1), count: left.count - 1 };
            // Nobody may wait any more: the id is then not used.
            drop(answer.send(Ok(id)));
        }
        if asked.is_none() && !waiting.is_empty() {
            asked = Some(ask());
        }
        let block = async {
            match &mut asked {
                Some(asked) => asked.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            block = block => {
                asked = None;
                match block {
                    Ok(block) => left = block,
                    Err(ControllerError::Elsewhere | ControllerError::NoAnswer) => refuse(&mut waiting),
                    Err(error) => {
                        tracing::debug!("no producer ids: {error}");
                        let mut waiting = waiting.drain(..);
                        waiting.next().map(|first| first.send(Err(error)));
                        waiting.for_each(|answer| drop(answer.send(Err(ControllerError::Elsewhere))));
                    }
                }
            }
            () = runtime.sleep_until(until), if !waiting.is_empty() => refuse(&mut waiting),
            answer = mailbox.recv(), if waiting.len() < WAITING => match answer {
                Some(answer) => {
                    if waiting.is_empty() {
                        until = runtime.now() + PATIENCE;
                    }
                    waiting.push_back(answer);
                }
                None => return,
            },
        }
    }
}

/// Tells all who wait that there are no ids now.
fn refuse(waiting: &mut VecDeque<Answer>) {
    waiting.drain(..).for_each(|answer| drop(answer.send(Err(ControllerError::Elsewhere))));
}

/// A block that has an id at least.
fn block(controller: Controller) -> Asked {
    Box::pin(async move { ask(&controller).await })
}

async fn ask(controller: &Controller) -> Result<ProducerIdBlock, ControllerError> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use millpond_runtime::sim::{self, NodeId, World};
    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn requests_share_one_block_and_are_told_to_come_again_when_there_is_none_soon() {
        sim::block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NodeId(1));
            let (asked, given) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
            let (times, gives) = (Arc::clone(&asked), Arc::clone(&given));
            let ask = move || -> Asked {
                let first = 1000 * times.fetch_add(1, Ordering::Relaxed) as i64;
                let given = Arc::clone(&gives);
                Box::pin(async move {
                    given.notified().await;
                    Ok(ProducerIdBlock { first: ProducerId(first), count: 3 })
                })
            };
            let (sender, mailbox) = mpsc::channel(MAILBOX);
            runtime.spawn(give_out(runtime.clone(), ask, mailbox));
            let ids = ProducerIds(sender);
            let all = || futures::future::join_all((0..4).map(|_| ids.next()));
            let before = runtime.now();
            for refused in all().await {
                assert!(matches!(refused, Err(ControllerError::Elsewhere)), "{refused:?}");
            }
            let took = runtime.now() - before;
            assert!(took >= PATIENCE && took < 2 * PATIENCE, "{took:?}");
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            // The block that comes late is used, and the fourth waits for the next one.
            given.notify_one();
            let (ids, ()) = tokio::join!(all(), async {
                runtime.sleep(PATIENCE / 2).await;
                given.notify_one();
            });
            let ids: Vec<i64> = ids.into_iter().map(|id| id.expect("an id").0).collect();
            assert_eq!(ids, [0, 1, 2, 1000]);
            assert_eq!(asked.load(Ordering::Relaxed), 2);
        });
    }
}
