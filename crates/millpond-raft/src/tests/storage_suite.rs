//! openraft's own storage test suite on our log store, on the real disk and on the simulated one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millpond_runtime::Runtime;
use millpond_storage::DataDir;
use openraft::StorageError;
use openraft::storage::RaftLogStorage;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{LogIdOptionExt, RaftLogReader};

use super::world::{close, on_the_real_disk, open, simulated, spec, stores};
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::types::{Entry, TypeConfig, to_raft};

/// Every store is a new group of one data directory.
struct Stores {
    runtime: Runtime,
    data_dir: DataDir,
    next: AtomicU64,
}

impl Stores {
    async fn log(&self) -> Arc<millpond_storage::Log> {
        let spec = spec(self.next.fetch_add(1, Ordering::Relaxed));
        let data_dir = self.data_dir.clone();
        let created = self.runtime.blocking(move || data_dir.create_group(spec, Box::new(|_| {}))).await;
        created.expect("a new group")
    }
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for Stores {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (store, state_machine) = stores(&self.runtime, &self.data_dir, &self.log().await);
        Ok(((), store, state_machine))
    }
}

async fn suite(runtime: Runtime, path: PathBuf) {
    let data_dir = open(&runtime, &path).await;
    let stores = Stores { runtime: runtime.clone(), data_dir: data_dir.clone(), next: AtomicU64::new(1) };
    Suite::test_all(stores).await.expect("openraft's suite");
    close(&runtime, data_dir).await;
}

#[test]
fn openrafts_suite_passes_on_the_real_disk() {
    on_the_real_disk(suite);
}

#[test]
fn openrafts_suite_passes_on_the_simulated_disk() {
    simulated(1, suite);
}

fn blank(term: u64, index: u64) -> Entry {
    use millpond_record::{LogId, RaftIndex, Term};
    use openraft::entry::RaftEntry;
    Entry::new_blank(to_raft(LogId { term: Term(term), index: RaftIndex(index) }))
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) {
    use openraft::storage::RaftLogStorageExt;
    store.blocking_append(entries).await.expect("appended");
}

#[test]
fn a_saved_commit_beyond_the_recovered_end_is_clamped_to_it() {
    simulated(1, |runtime, path| async move {
        let data_dir = open(&runtime, &path).await;
        let stores = Stores { runtime: runtime.clone(), data_dir: data_dir.clone(), next: AtomicU64::new(1) };
        let (mut store, _) = super::world::stores(&runtime, &data_dir, &stores.log().await);
        store.save_committed(Some(blank(1, 9).log_id)).await.expect("saved");
        assert_eq!(store.read_committed().await.expect("read"), None, "an empty log has nothing committed");
        append(&mut store, vec![blank(1, 0), blank(1, 1)]).await;
        assert_eq!(store.read_committed().await.expect("read").index(), Some(1));
    });
}

#[test]
fn the_key_log_ids_are_the_last_of_each_term_and_need_no_entry() {
    simulated(1, |runtime, path| async move {
        let data_dir = open(&runtime, &path).await;
        let stores = Stores { runtime: runtime.clone(), data_dir: data_dir.clone(), next: AtomicU64::new(1) };
        let (mut store, _) = super::world::stores(&runtime, &data_dir, &stores.log().await);
        let terms = [0, 1, 1, 1, 2, 5, 5, 9];
        append(&mut store, terms.iter().enumerate().map(|(index, term)| blank(*term, index as u64)).collect()).await;
        let ids = store.get_key_log_ids(blank(0, 0).log_id..=blank(9, 7).log_id).await.expect("known terms");
        let expected = [(0, 0), (1, 3), (2, 4), (5, 6), (9, 7)].map(|(term, index)| blank(term, index).log_id);
        assert_eq!(ids, expected);
        let ids = store.get_key_log_ids(blank(1, 2).log_id..=blank(5, 5).log_id).await.expect("known terms");
        assert_eq!(ids, [(1, 3), (2, 4), (5, 5)].map(|(term, index)| blank(term, index).log_id));
    });
}

#[test]
fn a_read_for_a_peer_is_bounded_by_bytes_and_a_read_to_apply_is_whole() {
    simulated(1, |runtime, path| async move {
        use crate::types::Payload;
        use openraft::EntryPayload;
        use openraft::entry::RaftEntry;

        let data_dir = open(&runtime, &path).await;
        let stores = Stores { runtime: runtime.clone(), data_dir: data_dir.clone(), next: AtomicU64::new(1) };
        let (mut store, _) = super::world::stores(&runtime, &data_dir, &stores.log().await);
        let value = "x".repeat(300_000);
        for index in 0..10 {
            let payload = EntryPayload::Normal(Payload::Proposed(super::world::proposal(&value), None));
            append(&mut store, vec![Entry::new(blank(1, index).log_id, payload)]).await;
        }
        let some = store.limited_get_log_entries(0, 10).await.expect("readable");
        assert!((1..=5).contains(&some.len()), "{} entries of 300 kB", some.len());
        assert_eq!(store.try_get_log_entries(0..10).await.expect("readable").len(), 10);
    });
}
