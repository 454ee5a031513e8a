//! Tasks, and which runtime the code that is running belongs to.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::runtime::Runtime;

thread_local! {
    static CURRENT: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// The runtime of the task, round or blocking call that is running on this thread.
pub(crate) fn current() -> Option<Runtime> {
    CURRENT.with_borrow(Clone::clone)
}

/// Makes `runtime` the current one until the value is dropped.
pub(crate) struct Scope {
    previous: Option<Runtime>,
}

impl Scope {
    pub(crate) fn enter(runtime: &Runtime) -> Scope {
        Scope { previous: CURRENT.replace(Some(runtime.clone())) }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.previous.take());
    }
}

/// A future that is polled and dropped with its runtime as the current one.
pub(crate) struct Scoped<F> {
    runtime: Runtime,
    future: Option<Pin<Box<F>>>,
}

impl<F> Scoped<F> {
    pub(crate) fn new(runtime: Runtime, future: F) -> Scoped<F> {
        Scoped { runtime, future: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _scope = Scope::enter(&this.runtime);
        match &mut this.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Scoped<F> {
    fn drop(&mut self) {
        let _scope = Scope::enter(&self.runtime);
        self.future = None;
    }
}

/// Why a task gave no result.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The task was aborted, or its runtime (or simulated node) is gone.
    #[error("the task was cancelled")]
    Cancelled,
    /// The task panicked.
    #[error("the task panicked")]
    Panicked,
}

/// Awaits a task's result. Dropping it lets the task run on.
pub struct JoinHandle<T>(pub(crate) Option<tokio::task::JoinHandle<T>>);

impl<T> JoinHandle<T> {
    /// Cancels the task at its next await.
    pub fn abort(&self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A task that was never started (its simulated node is dead) counts as cancelled.
        let Some(handle) = &mut self.0 else { return Poll::Ready(Err(JoinError::Cancelled)) };
        Pin::new(handle)
            .poll(context)
            .map_err(|error| if error.is_panic() { JoinError::Panicked } else { JoinError::Cancelled })
    }
}
