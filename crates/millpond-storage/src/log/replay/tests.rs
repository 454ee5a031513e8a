//! A test a row of the decision table, on a real log.

use millpond_record::{Offset, StampedBatch, Term, Timestamp};
use millpond_runtime::sim::Crash;

use super::*;
use crate::log::tests::{Bench, GROUP, durable, plain, relaxed, small_options, with_log};
use crate::types::{LogOptions, Vote};
use millpond_record::ReplicaId;

/// A record as another life of the log wrote it.
fn record(index: u64, term: u64, base_offset: i64) -> JournalEntry {
    let batch = StampedBatch::new(plain(1, 8, 0), Offset(base_offset), Term(term).leader_epoch()).unwrap();
    let (index, term) = (RaftIndex(index), Term(term));
    JournalEntry::Append { group: GROUP, index, term, append_time: Timestamp(5), begins_segment: false, batch }
}

/// Replays a record over a log of indexes 0 to 4 (terms 1, 1, 2, 2, 4) that a checkpoint covers; gives what it did and
/// the (index, term) of the last entry after it.
fn replayed(options: LogOptions, record: JournalEntry) -> (Result<Replayed, StorageError>, (u64, u64)) {
    let out = std::sync::Arc::new(std::sync::Mutex::new(None));
    let seen = out.clone();
    with_log(1, small_options(), options, |mut bench: Bench| async move {
        for term in [1, 1, 2, 2, 4] {
            bench.put(term, 1, 8, 0);
        }
        bench.log.commit(RaftIndex(1));
        bench.checkpoint();
        bench.log.advance_p(RaftIndex(1), bytes::Bytes::new(), Box::new(|_| {})).ok();
        bench.checkpoint();
        bench.crash(Crash::Kill, 0);
        let log = Log::recover(&bench.context, &bench.table).unwrap();
        let result = log.replay(record);
        let last = log.row().last.unwrap();
        *seen.lock().unwrap() = Some((result, (last.index.0, last.term.0)));
    });
    out.lock().unwrap().take().unwrap()
}

/// Segments of one batch each, so that every index is a boundary and P can be 1.
fn tiny() -> LogOptions {
    durable(1)
}

#[test]
fn a_record_at_or_below_p_is_skipped() {
    for (index, term) in [(0, 1), (1, 1), (1, 9)] {
        let (result, last) = replayed(tiny(), record(index, term, index as i64));
        assert_eq!((result.unwrap(), last), (Replayed::Skipped, (4, 4)));
    }
}

#[test]
fn a_record_of_the_same_index_and_term_is_skipped() {
    let (result, last) = replayed(tiny(), record(3, 2, 3));
    assert_eq!((result.unwrap(), last), (Replayed::Skipped, (4, 4)));
}

#[test]
fn a_record_of_a_higher_term_cuts_the_log_there_and_is_appended() {
    let (result, last) = replayed(tiny(), record(3, 5, 3));
    assert_eq!((result.unwrap(), last), (Replayed::Applied, (3, 5)));
}

#[test]
fn a_record_of_a_lower_term_than_the_entry_in_its_place_is_skipped() {
    let (result, last) = replayed(tiny(), record(4, 3, 4));
    assert_eq!((result.unwrap(), last), (Replayed::Skipped, (4, 4)));
}

#[test]
fn the_next_record_is_appended() {
    for term in [4, 6] {
        let (result, last) = replayed(tiny(), record(5, term, 5));
        assert_eq!((result.unwrap(), last), (Replayed::Applied, (5, term)));
    }
}

#[test]
fn a_record_of_a_lower_term_than_the_tail_is_skipped_right_behind_it_and_further() {
    for index in [5, 6, 100] {
        let (result, last) = replayed(tiny(), record(index, 3, 5));
        assert_eq!((result.unwrap(), last), (Replayed::Skipped, (4, 4)));
    }
}

#[test]
fn a_record_beyond_the_end_is_refused_in_a_durable_log() {
    let (result, _) = replayed(tiny(), record(6, 4, 6));
    assert!(result.unwrap_err().to_string().contains("the journal goes on with entry 4/6 but the log ends with 4/4"));
}

#[test]
fn a_record_beyond_the_end_of_a_relaxed_log_is_lost_with_what_came_before_it() {
    let (result, last) = replayed(relaxed(1), record(6, 4, 6));
    assert_eq!((result.unwrap(), last), (Replayed::Lost, (4, 4)));
}

#[test]
fn a_record_whose_offset_does_not_continue_the_log_is_refused() {
    let (result, _) = replayed(tiny(), record(5, 4, 9));
    assert!(result.unwrap_err().to_string().contains("does not continue the log"));
}

#[test]
fn the_table_has_a_row_for_every_case_and_no_row_too_many() {
    let mut used = [false; DECISIONS.len()];
    for place in [Where::Purged, Where::Within, Where::Next, Where::Beyond] {
        for (term, other) in [(1, 2), (2, 2), (3, 2)] {
            for tolerated in [false, true] {
                let action = decide(place, Term(term), Term(other), tolerated);
                let fits = |row: &(Where, TermIs, Gaps, Action)| {
                    let gaps = if tolerated { Gaps::Tolerated } else { Gaps::Impossible };
                    row.0 == place && row.1.fits(Term(term), Term(other)) && (row.2 == Gaps::Any || row.2 == gaps)
                };
                let row = DECISIONS.iter().position(fits).unwrap();
                assert_eq!(DECISIONS[row].3, action);
                used[row] = true;
            }
        }
    }
    assert_eq!(used, [true; DECISIONS.len()], "every row decides something");
}

#[test]
fn a_replayed_vote_never_goes_back() {
    with_log(1, small_options(), durable(1000), |mut bench: Bench| async move {
        bench.checkpoint();
        bench.crash(Crash::Kill, 0);
        let log = Log::recover(&bench.context, &bench.table).unwrap();
        let known = bench.table.vote;
        let vote = |term, committed| Vote { term: Term(term), replica: ReplicaId(9), committed };
        for older in [vote(99, true), vote(100, false), vote(100, true)] {
            assert_eq!(log.replay(JournalEntry::Vote { group: GROUP, vote: older }).unwrap(), Replayed::Skipped);
            assert_eq!(log.vote(), known);
        }
        assert_eq!(log.replay(JournalEntry::Vote { group: GROUP, vote: vote(101, false) }).unwrap(), Replayed::Applied);
        assert_eq!(log.vote(), vote(101, false));
    });
}

/// What the journal says of an entry that was synced in its segment.
fn placed(index: u64, term: u64) -> JournalEntry {
    JournalEntry::Placed { group: GROUP, index: RaftIndex(index), term: Term(term), append_time: Timestamp(5) }
}

/// Recovers a log of indexes 0 to 4 (all of term 1), replays the records and ends the recovery; gives its last index.
fn recovered(records: Vec<JournalEntry>) -> Result<u64, StorageError> {
    let out = std::sync::Arc::new(std::sync::Mutex::new(None));
    let seen = out.clone();
    with_log(1, small_options(), durable(1 << 20), |mut bench: Bench| async move {
        for _ in 0..5 {
            bench.put(1, 1, 8, 0);
        }
        bench.checkpoint();
        bench.crash(Crash::Kill, 0);
        let log = Log::recover(&bench.context, &bench.table).unwrap();
        let vote = Vote { term: Term(9), replica: ReplicaId(7), committed: true };
        log.replay(JournalEntry::Vote { group: GROUP, vote }).unwrap();
        for record in records {
            log.replay(record).unwrap();
        }
        let finished = log.finish_recovery();
        *seen.lock().unwrap() = Some(finished.map(|()| log.row().last.unwrap().index.0));
    });
    out.lock().unwrap().take().unwrap()
}

fn truncate(after: u64) -> JournalEntry {
    JournalEntry::Truncate { group: GROUP, after: Some(RaftIndex(after)) }
}

#[test]
fn an_entry_that_was_synced_in_its_segment_and_is_there_changes_nothing() {
    assert_eq!(recovered(vec![placed(3, 1), placed(4, 1)]).unwrap(), 4);
}

#[test]
fn an_entry_that_was_synced_in_its_segment_and_is_missing_is_a_loss() {
    for records in [
        vec![placed(5, 1)],
        vec![placed(8, 1), record(9, 1, 9)],
        // A truncation behind it explains nothing.
        vec![placed(6, 1), record(7, 1, 7), truncate(5)],
        vec![placed(4, 2)],
    ] {
        let error = recovered(records).unwrap_err();
        assert!(error.to_string().contains("which was synced"), "{error}");
    }
}

#[test]
fn a_truncation_explains_why_a_synced_entry_and_what_followed_it_are_missing() {
    let records = vec![placed(7, 1), record(8, 1, 8), truncate(4), record(5, 3, 5)];
    assert_eq!(recovered(records).unwrap(), 5);
    let records = vec![placed(7, 1), truncate(6), record(7, 3, 7), truncate(3), record(4, 4, 4)];
    assert_eq!(recovered(records).unwrap(), 4);
}
