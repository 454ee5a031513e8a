//! The fetch sessions that a broker keeps (KIP-227; Kafka's `FetchSessionCache`): as many as there are slots for, in
//! bounded memory. Pure: times are milliseconds since any moment, random numbers come from outside.
//!
//! | a new session finds no room | what makes room |
//! | --- | --- |
//! | some session was unused for two minutes | it goes, the longest unused first |
//! | some session that is older than two minutes has fewer partitions than the new one | the one with the fewest goes |
//! | neither | nothing; the client works without a session |
//!
//! A session is lent to the request that uses it, and is nobody's prey meanwhile; one whose request never ends, because
//! its connection did, is gone.

use std::collections::{BTreeMap, BTreeSet};

/// The epoch of a request for a new session.
pub(crate) const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request without session, which ends the one that it names.
pub(crate) const FINAL_EPOCH: i32 = -1;

/// A session that was unused for this long makes room for any other, and a younger one for none (Kafka's
/// `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`).
const STALE_MS: u64 = 120_000;

/// The epoch of a session's next request.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

/// Why a session cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// There is no such session (any more).
    NotFound,
    /// It is another request's turn.
    Epoch,
    /// The session names topics by id and the request by name, or the other way round.
    TopicIds,
}

/// What a session takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) partitions: usize,
    pub(crate) bytes: usize,
}

/// The right to give a session back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    id: i32,
    serial: u64,
}

impl Loan {
    /// The id of the session.
    pub(crate) fn id(&self) -> i32 {
        self.id
    }
}

struct Kept<T> {
    serial: u64,
    /// The epoch that the next request has.
    epoch: i32,
    by_id: bool,
    created_ms: u64,
    used_ms: u64,
    size: Size,
    /// `None` while it is lent.
    state: Option<T>,
}

pub(crate) struct SessionCache<T> {
    slots: usize,
    max_bytes: usize,
    sessions: BTreeMap<i32, Kept<T>>,
    /// Those that are not lent, the longest unused first.
    by_use: BTreeSet<(u64, i32)>,
    /// Of these those that were old when they were used last, the smallest first.
    by_size: BTreeSet<(usize, i32)>,
    taken: Size,
    evictions: u64,
    next_serial: u64,
}

/// How many sessions there are, what they take, and how many had to go for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheFigures {
    pub(crate) sessions: usize,
    pub(crate) size: Size,
    pub(crate) evictions: u64,
}

impl<T> SessionCache<T> {
    pub(crate) fn new(slots: usize, max_bytes: usize) -> SessionCache<T> {
        SessionCache {
            slots,
            max_bytes,
            sessions: BTreeMap::new(),
            by_use: BTreeSet::new(),
            by_size: BTreeSet::new(),
            taken: Size::default(),
            evictions: 0,
            next_serial: 0,
        }
    }

    pub(crate) fn figures(&self) -> CacheFigures {
        CacheFigures { sessions: self.sessions.len(), size: self.taken, evictions: self.evictions }
    }

    /// Lends a session to the request with this id and epoch. What is refused changes nothing.
    pub(crate) fn lend(&mut self, id: i32, epoch: i32, by_id: bool) -> Result<(T, Loan), Unusable> {
        let kept = self.sessions.get_mut(&id).ok_or(Unusable::NotFound)?;
        if kept.epoch != epoch || kept.state.is_none() {
            return Err(Unusable::Epoch);
        }
        if kept.by_id != by_id {
            return Err(Unusable::TopicIds);
        }
        let state = kept.state.take().ok_or(Unusable::Epoch)?;
        kept.epoch = next_epoch(epoch);
        let (used_ms, partitions, serial) = (kept.used_ms, kept.size.partitions, kept.serial);
        self.by_use.remove(&(used_ms, id));
        self.by_size.remove(&(partitions, id));
        Ok((state, Loan { id, serial }))
    }

    /// Takes a session back that may have grown. Gives it to be dropped if it was closed meanwhile or is too large now;
    /// its client then learns with the next request that there is none.
    pub(crate) fn give_back(&mut self, loan: Loan, now_ms: u64, size: Size, state: T) -> Option<T> {
        let Some(kept) = self.sessions.get_mut(&loan.id).filter(|kept| kept.serial == loan.serial) else {
            return Some(state);
        };
        if self.taken.bytes - kept.size.bytes + size.bytes > self.max_bytes {
            self.remove(loan.id);
            return Some(state);
        }
        self.taken.bytes = self.taken.bytes - kept.size.bytes + size.bytes;
        self.taken.partitions = self.taken.partitions - kept.size.partitions + size.partitions;
        (kept.state, kept.size, kept.used_ms) = (Some(state), size, now_ms);
        let is_old = now_ms.saturating_sub(kept.created_ms) > STALE_MS;
        self.by_use.insert((now_ms, loan.id));
        if is_old {
            self.by_size.insert((size.partitions, loan.id));
        }
        None
    }

    /// The request that a session was lent to is over without an answer.
    pub(crate) fn abandon(&mut self, loan: &Loan) {
        if self.sessions.get(&loan.id).is_some_and(|kept| kept.serial == loan.serial) {
            self.remove(loan.id);
        }
    }

    /// Ends a session, if there is one with this id.
    pub(crate) fn close(&mut self, id: i32) -> Option<T> {
        self.remove(id)
    }

    /// Keeps a new session if there is room or can be made: its id, and those that went for it. `draw` gives random
    /// numbers.
    pub(crate) fn create(
        &mut self,
        now_ms: u64,
        by_id: bool,
        size: Size,
        state: T,
        mut draw: impl FnMut() -> u64,
    ) -> (Option<i32>, Vec<T>) {
        let mut gone = Vec::new();
        let Some(prey) = self.prey(now_ms, size) else {
            gone.push(state);
            return (None, gone);
        };
        for id in prey {
            gone.extend(self.remove(id));
            self.evictions += 1;
        }
        let id = loop {
            // Positive: 0 says that there is no session.
            let id = (draw() >> 33) as i32;
            if id > 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let epoch = next_epoch(INITIAL_EPOCH);
        let state = Some(state);
        self.sessions.insert(id, Kept { serial, epoch, by_id, created_ms: now_ms, used_ms: now_ms, size, state });
        self.by_use.insert((now_ms, id));
        self.taken.partitions += size.partitions;
        self.taken.bytes += size.bytes;
        (Some(id), gone)
    }

    /// Whether there is room for a new session, or can be made.
    pub(crate) fn has_room(&self, now_ms: u64, size: Size) -> bool {
        self.prey(now_ms, size).is_some()
    }

    /// Ends the sessions that nobody has used since a time.
    pub(crate) fn expire(&mut self, unused_since_ms: u64) -> Vec<T> {
        let mut gone = Vec::new();
        while let Some((used_ms, id)) = self.by_use.first().copied()
            && used_ms < unused_since_ms
        {
            gone.extend(self.remove(id));
        }
        gone
    }

    /// The sessions that must go for a new one: the longest unused of those that are stale, then the smallest that are
    /// old and smaller. None if there is no room even then: nobody goes in vain.
    fn prey(&self, now_ms: u64, size: Size) -> Option<Vec<i32>> {
        if self.slots == 0 || size.bytes > self.max_bytes {
            return None;
        }
        let is_stale = |used_ms: u64| now_ms.saturating_sub(used_ms) > STALE_MS;
        let stale = self.by_use.iter().take_while(|(used_ms, _)| is_stale(*used_ms)).map(|(_, id)| *id);
        let smaller = self.by_size.iter().take_while(|(partitions, _)| *partitions < size.partitions);
        let smaller = smaller.map(|(_, id)| *id).filter(|id| !is_stale(self.sessions[id].used_ms));
        let (mut prey, mut left, mut bytes) = (Vec::new(), self.sessions.len(), self.taken.bytes);
        let mut candidates = stale.chain(smaller);
        while left >= self.slots || bytes + size.bytes > self.max_bytes {
            let id = candidates.next()?;
            (left, bytes) = (left - 1, bytes - self.sessions[&id].size.bytes);
            prey.push(id);
        }
        Some(prey)
    }

    fn remove(&mut self, id: i32) -> Option<T> {
        let kept = self.sessions.remove(&id)?;
        self.by_use.remove(&(kept.used_ms, id));
        self.by_size.remove(&(kept.size.partitions, id));
        self.taken.partitions -= kept.size.partitions;
        self.taken.bytes -= kept.size.bytes;
        kept.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn size(partitions: usize) -> Size {
        Size { partitions, bytes: partitions * 10 }
    }

    /// A cache and the random numbers for it, which give the ids 1, 2, 3 …
    struct Fixture {
        cache: SessionCache<&'static str>,
        drawn: u64,
    }

    impl Fixture {
        fn new(slots: usize, max_bytes: usize) -> Fixture {
            Fixture { cache: SessionCache::new(slots, max_bytes), drawn: 0 }
        }

        fn create(&mut self, now_ms: u64, partitions: usize, name: &'static str) -> Option<i32> {
            let drawn = &mut self.drawn;
            let draw = || {
                *drawn += 1;
                *drawn << 33
            };
            self.cache.create(now_ms, true, size(partitions), name, draw).0
        }

        /// One request of a session.
        fn used(&mut self, id: i32, epoch: i32, now_ms: u64, partitions: usize) {
            let (state, loan) = self.cache.lend(id, epoch, true).expect("it is there");
            assert_eq!(self.cache.give_back(loan, now_ms, size(partitions), state), None);
        }

        fn ids(&self) -> Vec<i32> {
            self.cache.sessions.keys().copied().collect()
        }
    }

    #[test]
    fn a_session_is_lent_to_the_request_with_its_id_the_next_epoch_and_its_way_to_name_topics() {
        let mut fixture = Fixture::new(2, 1000);
        let id = fixture.create(0, 5, "a").expect("room");
        let cache = &mut fixture.cache;
        assert_eq!(cache.lend(id + 1, 1, true).err(), Some(Unusable::NotFound));
        assert_eq!(cache.lend(id, 2, true).err(), Some(Unusable::Epoch));
        assert_eq!(cache.lend(id, 1, false).err(), Some(Unusable::TopicIds));
        let (state, loan) = cache.lend(id, 1, true).expect("it is there");
        assert_eq!((state, loan.id()), ("a", id));
        assert_eq!(cache.lend(id, 2, true).err(), Some(Unusable::Epoch), "another request has it");
        assert_eq!(cache.give_back(loan, 1, size(7), state), None);
        assert_eq!(cache.figures(), CacheFigures { sessions: 1, size: size(7), evictions: 0 });
        assert_eq!(cache.lend(id, 1, true).err(), Some(Unusable::Epoch), "a request that is sent twice");
        assert!(cache.lend(id, 2, true).is_ok());
    }

    #[test]
    fn epochs_go_round_and_leave_out_those_with_a_meaning() {
        assert_eq!([0, 1, i32::MAX - 1, i32::MAX].map(next_epoch), [1, 2, i32::MAX, 1]);
    }

    #[test]
    fn without_room_the_longest_unused_goes_if_it_is_stale_else_the_smallest_that_is_old_and_smaller() {
        // Sessions by (partitions, minute of the last use), made in minute 0; the new one's minute and partitions, and
        // the place of the session that goes for it.
        type Row = (&'static str, &'static [(usize, u64)], (u64, usize), Option<usize>);
        let rows: &[Row] = &[
            ("all are young", &[(5, 1), (1, 1)], (2, 100), None),
            ("the longest unused is stale", &[(5, 2), (9, 1)], (4, 1), Some(1)),
            ("two minutes are not enough", &[(5, 2), (9, 3)], (4, 1), None),
            ("the smallest of the old goes for a larger one", &[(5, 3), (4, 3)], (4, 5), Some(1)),
            ("but not for one as large", &[(5, 3), (4, 3)], (4, 4), None),
            ("one is old by its last use, not by now", &[(5, 2), (4, 2)], (3, 100), None),
        ];
        for (what, sessions, (minute, partitions), expected) in rows {
            let mut fixture = Fixture::new(sessions.len(), 10_000);
            for (at, (partitions, _)) in sessions.iter().enumerate() {
                assert_eq!(fixture.create(0, *partitions, "old"), Some(at as i32 + 1));
            }
            for (at, (partitions, used)) in sessions.iter().enumerate() {
                fixture.used(at as i32 + 1, 1, used * MINUTE, *partitions);
            }
            let created = fixture.create(minute * MINUTE, *partitions, "new");
            assert_eq!(created.is_some(), expected.is_some(), "{what}");
            let gone = expected.map(|at| at as i32 + 1);
            let left: Vec<i32> = (1..=sessions.len() as i32).filter(|id| Some(*id) != gone).chain(created).collect();
            assert_eq!(fixture.ids(), left, "{what}");
            assert_eq!(fixture.cache.figures().evictions, u64::from(expected.is_some()), "{what}");
        }
    }

    #[test]
    fn a_session_that_is_lent_goes_for_no_other_and_can_be_closed() {
        let mut fixture = Fixture::new(1, 1000);
        let id = fixture.create(0, 1, "a").expect("room");
        let (state, loan) = fixture.cache.lend(id, 1, true).expect("it is there");
        assert_eq!(fixture.create(100 * MINUTE, 50, "b"), None);
        assert!(fixture.cache.expire(u64::MAX).is_empty());
        assert_eq!(fixture.cache.close(id), None);
        let other = fixture.create(100 * MINUTE, 50, "b").expect("room");
        assert_eq!(fixture.cache.give_back(loan, 101 * MINUTE, size(1), state), Some("a"), "it is closed");
        assert_eq!(fixture.ids(), [other]);
    }

    #[test]
    fn a_session_whose_request_has_no_end_is_gone() {
        let mut fixture = Fixture::new(1, 1000);
        let id = fixture.create(0, 1, "a").expect("room");
        let (_, loan) = fixture.cache.lend(id, 1, true).expect("it is there");
        fixture.cache.abandon(&loan);
        assert_eq!(fixture.cache.figures(), CacheFigures::default());
        fixture.cache.abandon(&loan);
        assert_eq!(fixture.cache.lend(id, 2, true).err(), Some(Unusable::NotFound));
    }

    #[test]
    fn all_sessions_together_stay_within_their_memory() {
        let mut fixture = Fixture::new(10, 100);
        assert_eq!(fixture.create(0, 11, "too large"), None);
        let first = fixture.create(0, 6, "a").expect("room");
        assert_eq!(fixture.create(0, 5, "b"), None, "60 of 100 are taken");
        let second = fixture.create(0, 4, "b").expect("room");
        let (state, loan) = fixture.cache.lend(second, 1, true).expect("it is there");
        assert_eq!(fixture.cache.give_back(loan, 1, size(5), state), Some("b"), "it grew beyond what there is");
        assert_eq!((fixture.ids(), fixture.cache.figures().size), (vec![first], size(6)));
        fixture.create(3 * MINUTE, 10, "c").expect("the first one is stale");
        assert_eq!(fixture.cache.figures(), CacheFigures { sessions: 1, size: size(10), evictions: 1 });
    }

    #[test]
    fn nobody_goes_for_a_session_that_gets_no_room_even_so() {
        let mut fixture = Fixture::new(10, 1000);
        fixture.create(0, 10, "stale").expect("room");
        fixture.create(3 * MINUTE, 80, "young").expect("room");
        assert_eq!(fixture.create(3 * MINUTE, 50, "too large"), None);
        assert_eq!(fixture.ids(), [1, 2]);
        assert!(fixture.create(3 * MINUTE, 20, "instead of the stale one").is_some());
        assert_eq!(fixture.ids(), [2, 3]);
    }

    #[test]
    fn sessions_that_nobody_uses_end_and_none_are_kept_without_slots() {
        let mut fixture = Fixture::new(10, 1000);
        let first = fixture.create(0, 1, "a").expect("room");
        let second = fixture.create(5, 2, "b").expect("room");
        fixture.used(first, 1, 9, 1);
        assert_eq!(fixture.cache.expire(9), ["b"]);
        assert_eq!(fixture.ids(), [first]);
        assert_eq!(fixture.cache.close(second), None);
        assert_eq!(fixture.cache.close(first), Some("a"));
        assert_eq!(fixture.cache.figures(), CacheFigures::default());
        assert_eq!(Fixture::new(0, 1000).create(0, 1, "a"), None);
    }
}
