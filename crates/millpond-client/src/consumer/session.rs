//! A fetch session (KIP-227): the broker remembers what is fetched, and a request names only what has changed.

use std::collections::BTreeMap;

use millpond_record::TopicId;
use millpond_wire::Str;

use super::positions::{Place, Wanted};

/// What a broker that keeps the session knows of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    topic: Str,
    topic_id: Option<TopicId>,
    offset: i64,
    leader_epoch: Option<i32>,
}

/// The session on one connection.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// 0 while there is none.
    id: i32,
    epoch: i32,
    /// Topics are named by their ids.
    by_id: bool,
    known: BTreeMap<Place, Known>,
}

/// What the next request of a session says.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    pub(crate) id: i32,
    pub(crate) epoch: i32,
    /// New and changed.
    pub(crate) send: Vec<&'a Wanted>,
    /// No more wanted: name, id and number.
    pub(crate) forget: Vec<(Str, Option<TopicId>, i32)>,
}

impl Session {
    /// The next request, in which exactly `wanted` is fetched.
    pub(crate) fn step<'a>(&mut self, wanted: &'a [Wanted], by_id: bool) -> Step<'a> {
        if self.by_id != by_id {
            *self = Session { by_id, ..Session::default() };
        }
        let of = |wanted: &Wanted| Known {
            topic: wanted.topic.clone(),
            topic_id: wanted.topic_id,
            offset: wanted.offset,
            leader_epoch: wanted.leader_epoch,
        };
        let now: BTreeMap<Place, Known> = wanted.iter().map(|wanted| (wanted.place, of(wanted))).collect();
        let changed = |wanted: &&Wanted| self.known.get(&wanted.place) != now.get(&wanted.place);
        let send = wanted.iter().filter(changed).collect();
        // A topic that was made again under its name is another one to the broker.
        let gone = |(place, known): &(&Place, &Known)| now.get(place).is_none_or(|now| now.topic_id != known.topic_id);
        let forget = self.known.iter().filter(gone);
        let forget = forget.map(|(place, known)| (known.topic.clone(), known.topic_id, place.1)).collect();
        self.known = now;
        Step { id: self.id, epoch: self.epoch, send, forget }
    }

    /// An answer came, with the id of the session that the broker keeps, if it keeps one.
    pub(crate) fn answered(&mut self, id: i32) {
        if id == 0 {
            return self.lost();
        }
        // Epochs go round, but not to 0, which begins a session.
        self.epoch = if id == self.id { self.epoch.checked_add(1).unwrap_or(1) } else { 1 };
        self.id = id;
    }

    /// Whether a request belonged to a session that was there before.
    pub(crate) fn is_kept(&self) -> bool {
        self.id != 0
    }

    /// The broker does not know it any more, or does not keep any.
    pub(crate) fn lost(&mut self) {
        *self = Session { by_id: self.by_id, ..Session::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partition: i32, offset: i64) -> Wanted {
        Wanted {
            place: (0, partition),
            generation: 0,
            topic: "logs".into(),
            topic_id: Some(TopicId([1; 16])),
            offset,
            leader_epoch: Some(1),
        }
    }

    fn step(session: &mut Session, wanted: &[Wanted]) -> (i32, i32, Vec<i32>, Vec<i32>) {
        let step = session.step(wanted, true);
        let send = step.send.iter().map(|wanted| wanted.place.1).collect();
        (step.id, step.epoch, send, step.forget.iter().map(|(_, _, partition)| *partition).collect())
    }

    #[test]
    fn a_session_names_what_has_changed() {
        let mut session = Session::default();
        assert_eq!(step(&mut session, &[wanted(0, 5), wanted(1, 5)]), (0, 0, vec![0, 1], vec![]));
        session.answered(77);
        assert_eq!(step(&mut session, &[wanted(0, 9), wanted(1, 5)]), (77, 1, vec![0], vec![]));
        session.answered(77);
        assert_eq!(step(&mut session, &[wanted(1, 5)]), (77, 2, vec![], vec![0]));
        session.answered(77);
        assert_eq!(step(&mut session, &[wanted(1, 5), wanted(0, 9)]), (77, 3, vec![0], vec![]));
        session.lost();
        assert_eq!(step(&mut session, &[wanted(1, 5), wanted(0, 9)]), (0, 0, vec![1, 0], vec![]));
        session.answered(0);
        assert_eq!(step(&mut session, &[wanted(1, 5)]), (0, 0, vec![1], vec![]), "the broker keeps none");
    }

    #[test]
    fn a_topic_that_was_made_again_is_forgotten_and_named_anew() {
        let mut session = Session::default();
        step(&mut session, &[wanted(0, 5)]);
        session.answered(77);
        let again = Wanted { topic_id: Some(TopicId([2; 16])), ..wanted(0, 5) };
        assert_eq!(step(&mut session, &[again]), (77, 1, vec![0], vec![0]));
    }

    #[test]
    fn epochs_go_round_to_one() {
        let mut session = Session { id: 7, epoch: i32::MAX, ..Session::default() };
        session.answered(7);
        assert_eq!(session.epoch, 1);
    }
}
