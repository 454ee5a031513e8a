//! Who leads which group, as far as this broker knows.
//!
//! Raft decides; nobody has to be asked. Every replica that begins to lead, to serve, or to lead no more says so to all
//! brokers, and of two leaders of one group the one of the higher term counts.

use std::collections::{BTreeMap, BTreeSet};
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

/// What a leader is in its term. It goes from one to the next and never back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It did not name the group among all that it leads: it may lead it no more, or not have said so yet. Nobody says
    /// this; whatever the broker says of the same term counts for more.
    Unnamed,
    /// It was elected.
    Leads,
    /// It has applied all that was committed before, and serves clients.
    Serves,
    /// It leads no more, though nobody else may lead yet.
    GaveUp,
}

/// What is said of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) group: GroupId,
    pub(crate) term: Term,
    pub(crate) broker: BrokerId,
    pub(crate) standing: Standing,
}

impl News {
    /// The broker that leads, unless it does no more.
    pub(crate) fn leads(&self) -> Option<BrokerId> {
        (!self.is_over()).then_some(self.broker)
    }

    fn is_over(&self) -> bool {
        matches!(self.standing, Standing::GaveUp | Standing::Unnamed)
    }
}

/// The leaders of all groups of the cluster.
#[derive(Debug)]
pub struct Leaders {
    known: RwLock<BTreeMap<GroupId, News>>,
    changes: watch::Sender<u64>,
}

impl Default for Leaders {
    fn default() -> Self {
        Leaders { known: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl Leaders {
    /// Who leads and serves the group, if anybody is known to. Whether that broker is alive is another question.
    pub fn of(&self, group: GroupId) -> Option<Leader> {
        let news = self.last(group).filter(|news| news.standing == Standing::Serves)?;
        Some(Leader { broker: news.broker, epoch: news.term.leader_epoch() })
    }

    /// Counts changes.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The last that was said of a group.
    pub(crate) fn last(&self, group: GroupId) -> Option<News> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }

    /// Takes in what is newer than what is known. Gives the groups of which something was.
    pub(crate) fn learn(&self, all: impl IntoIterator<Item = News>) -> Vec<GroupId> {
        let mut changed = Vec::new();
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            for news in all.into_iter().filter(|news| news.term <= Term::MAX) {
                let newer = known.get(&news.group).is_none_or(|last| {
                    // A term has one leader.
                    let same = news.term == last.term && news.broker == last.broker;
                    // Whoever gave it up may not have led it: it says what it believed.
                    let other = news.term == last.term && last.is_over();
                    news.term > last.term
                        || (same && news.standing > last.standing)
                        || (same && news.standing == Standing::Unnamed && !last.is_over())
                        || (other && news.broker != last.broker && !news.is_over())
                });
                if newer {
                    known.insert(news.group, news);
                    changed.push(news.group);
                }
            }
        }
        if !changed.is_empty() {
            self.changes.send_modify(|changes| *changes += 1);
        }
        changed
    }

    /// A broker says that these are all groups that it leads. Gives what that changes of any other.
    pub(crate) fn leads_only(&self, broker: BrokerId, groups: &BTreeSet<GroupId>) -> Vec<GroupId> {
        let given_up: Vec<News> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let of_broker = known.values().filter(|news| news.broker == broker && !groups.contains(&news.group));
            of_broker.map(|news| News { standing: Standing::Unnamed, ..*news }).collect()
        };
        self.learn(given_up)
    }

    /// The group is no more.
    pub(crate) fn forget(&self, group: GroupId) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }

    /// Forgets the groups that nobody leads, but for those `here`: they may be no more.
    pub(crate) fn forget_ended(&self, here: &BTreeSet<GroupId>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|group, news| !news.is_over() || here.contains(group));
    }

    /// All that is known of groups that `broker` leads, in order.
    pub(crate) fn led_by(&self, broker: BrokerId) -> Vec<News> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let leads = |news: &&News| news.leads() == Some(broker);
        known.values().filter(leads).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_term_counts_and_a_leader_serves_and_gives_up_once() {
        let leaders = Leaders::default();
        let (group, one, two) = (GroupId(7), BrokerId(1), BrokerId(2));
        let learn =
            |term, broker, standing| !leaders.learn([News { group, term: Term(term), broker, standing }]).is_empty();
        assert_eq!(leaders.of(group), None);
        assert!(learn(3, one, Standing::Leads));
        assert_eq!(leaders.of(group), None, "it does not serve yet");
        assert!(learn(3, one, Standing::Serves));
        assert_eq!(leaders.of(group), Some(Leader { broker: one, epoch: Term(3).leader_epoch() }));
        assert!(!learn(2, two, Standing::Serves), "older");
        assert!(!learn(3, two, Standing::GaveUp), "a term has one leader");
        assert!(learn(3, one, Standing::GaveUp));
        assert_eq!(leaders.of(group), None);
        assert!(!learn(3, one, Standing::Serves), "it has given up");
        assert!(learn(4, two, Standing::Serves));
        assert_eq!(leaders.led_by(two).len(), 1);
        assert_eq!(leaders.leads_only(one, &BTreeSet::new()), []);
        assert_eq!(leaders.leads_only(two, &BTreeSet::from([group])), []);
        assert_eq!(leaders.leads_only(two, &BTreeSet::new()), [group]);
        assert_eq!(leaders.leads_only(two, &BTreeSet::new()), []);
        assert_eq!(leaders.of(group), None);
        assert_eq!(*leaders.changed().borrow(), 5);
        leaders.forget(group);
        assert_eq!(leaders.last(group), None);
    }

    #[test]
    fn a_list_of_all_that_a_broker_leads_does_not_bury_what_it_says_of_the_same_term_afterwards() {
        let leaders = Leaders::default();
        let (group, one) = (GroupId(7), BrokerId(1));
        let news = |standing| News { group, term: Term(3), broker: one, standing };
        // A replica here has heard of the leader before its broker has said so, and the list was made in between.
        assert_eq!(leaders.learn([news(Standing::Unnamed)]), [group]);
        assert_eq!(leaders.last(group).and_then(|said| said.leads()), None);
        assert_eq!(leaders.learn([news(Standing::Leads)]), [group]);
        assert_eq!(leaders.learn([news(Standing::Serves)]), [group]);
        assert_eq!(leaders.of(group).map(|leader| leader.broker), Some(one));
        // What it gives up in so many words it does not take back.
        assert_eq!(leaders.learn([news(Standing::GaveUp)]), [group]);
        assert_eq!(leaders.leads_only(one, &BTreeSet::new()), []);
        assert_eq!(leaders.learn([news(Standing::Serves)]), []);
    }

    #[test]
    fn groups_that_nobody_leads_are_forgotten_where_they_have_no_replica() {
        let leaders = Leaders::default();
        let news = |group, standing| News { group: GroupId(group), term: Term(3), broker: BrokerId(1), standing };
        leaders.learn([news(1, Standing::GaveUp), news(2, Standing::Serves), news(3, Standing::GaveUp)]);
        leaders.forget_ended(&BTreeSet::from([GroupId(3)]));
        assert_eq!([1, 2, 3].map(|group| leaders.last(GroupId(group)).is_some()), [false, true, true]);
        leaders.leads_only(BrokerId(1), &BTreeSet::new());
        leaders.forget_ended(&BTreeSet::new());
        assert!([1, 2, 3].iter().all(|group| leaders.last(GroupId(*group)).is_none()));
    }
}
