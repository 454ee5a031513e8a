//! Who leads which group, as far as this broker knows.
//!
//! Raft decides; nobody has to be asked. Every replica that begins to lead says so to all brokers, and of two leaders
//! of one group the one of the higher term counts.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use millpond_record::{BrokerId, GroupId, LeaderEpoch, Term};
use tokio::sync::watch;

/// The leader of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The broker that has the leading replica.
    pub broker: BrokerId,
    /// The term it leads in.
    pub epoch: LeaderEpoch,
}

/// The leaders of all groups of the cluster.
#[derive(Debug)]
pub struct Leaders {
    known: RwLock<BTreeMap<GroupId, (Term, Option<BrokerId>)>>,
    changes: watch::Sender<u64>,
}

impl Default for Leaders {
    fn default() -> Self {
        Leaders { known: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl Leaders {
    /// Who leads the group, if anybody is known to. Whether that broker is alive is another question.
    pub fn of(&self, group: GroupId) -> Option<Leader> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let (term, broker) = *known.get(&group)?;
        Some(Leader { broker: broker?, epoch: term.leader_epoch() })
    }

    /// Counts changes.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A replica on `broker` leads the group in `term`; with `None` the leader of that term has given up. What is older
    /// than what is known changes nothing. Tells whether something changed.
    pub(crate) fn learn(&self, group: GroupId, term: Term, broker: Option<BrokerId>) -> bool {
        self.learn_all(std::iter::once((group, term, broker)))
    }

    /// As [`Leaders::learn`], many at once.
    pub(crate) fn learn_all(&self, news: impl Iterator<Item = (GroupId, Term, Option<BrokerId>)>) -> bool {
        let mut changed = false;
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            for (group, term, broker) in news {
                if term > Term::MAX {
                    continue;
                }
                let newer = match known.get(&group) {
                    // Within a term there is one leader, which may only give up.
                    Some((known_term, leader)) => {
                        term > *known_term || (term == *known_term && leader.is_some() && broker.is_none())
                    }
                    None => broker.is_some(),
                };
                if newer {
                    known.insert(group, (term, broker));
                    changed = true;
                }
            }
        }
        if changed {
            self.changes.send_modify(|changes| *changes += 1);
        }
        changed
    }

    /// The group is no more.
    pub(crate) fn forget(&self, group: GroupId) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }

    /// All groups that `broker` leads, in order.
    pub(crate) fn led_by(&self, broker: BrokerId) -> Vec<(GroupId, Term)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .filter(|(_, (_, leader))| *leader == Some(broker))
            .map(|(group, (term, _))| (*group, *term))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_term_counts_and_a_leader_may_give_up() {
        let leaders = Leaders::default();
        let (group, one, two) = (GroupId(7), BrokerId(1), BrokerId(2));
        assert_eq!(leaders.of(group), None);
        assert!(leaders.learn(group, Term(3), Some(one)));
        assert!(!leaders.learn(group, Term(2), Some(two)), "older");
        assert!(!leaders.learn(group, Term(3), Some(two)), "a term has one leader");
        assert_eq!(leaders.of(group), Some(Leader { broker: one, epoch: Term(3).leader_epoch() }));
        assert!(leaders.learn(group, Term(3), None));
        assert_eq!(leaders.of(group), None);
        assert!(!leaders.learn(group, Term(3), Some(one)), "it has given up");
        assert!(leaders.learn(group, Term(4), Some(two)));
        assert_eq!(leaders.led_by(two), [(group, Term(4))]);
        assert_eq!(*leaders.changed().borrow(), 3);
        leaders.forget(group);
        assert_eq!(leaders.of(group), None);
    }
}
