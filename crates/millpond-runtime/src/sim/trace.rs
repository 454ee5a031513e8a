//! The record of a run: a hash always, text for humans when asked for.

use std::fmt::Arguments;

use super::rng::{mix, mix_bytes};
use super::world::NodeId;

/// Where lines of text go.
pub(super) type Sink = Box<dyn FnMut(&str) + Send>;

/// All that happened so far, folded into one number.
#[derive(Default)]
pub(super) struct Trace {
    hash: u64,
    events: u64,
    sink: Option<Sink>,
}

impl Trace {
    pub(super) fn hash(&self) -> u64 {
        mix(self.hash ^ self.events)
    }

    pub(super) fn set_sink(&mut self, sink: Sink) {
        self.sink = Some(sink);
    }

    /// Records an event. `values` and `kind` count for the hash; `text` is formatted only when somebody reads along.
    pub(super) fn record(&mut self, micros: u64, node: NodeId, kind: &str, values: &[u64], text: Arguments<'_>) {
        self.events += 1;
        self.hash = mix_bytes(mix(self.hash ^ micros) ^ u64::from(node.0), kind.as_bytes());
        for &value in values {
            self.hash = mix(self.hash ^ value);
        }
        if let Some(sink) = &mut self.sink {
            sink(&format!("{:>6}.{:03} {node} {kind:<8} {text}", micros / 1_000_000, micros / 1000 % 1000));
        }
    }
}
