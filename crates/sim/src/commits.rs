//! What groups have committed. Each group has one committer, which has one commit under way at a time
//! and commits no offset twice.
//!
//! - (8) an offset whose commit was acknowledged is the group's until another one is committed, whatever the broker
//!   goes through. A commit without an answer may have happened, or happen as long as the connection that it was sent
//!   on may still be read: it stays possible until it is seen, and then counts as acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::History;

/// What the history knows of committed offsets, by group.
#[derive(Debug, Default)]
pub(crate) struct Commits(BTreeMap<String, Commit>);

#[derive(Debug, Default)]
struct Commit {
    acknowledged: Option<i64>,
    /// Sent, and not answered.
    possible: BTreeSet<i64>,
    count: u64,
}

impl History {
    /// The group's committer sends an offset.
    pub fn committing(&mut self, group: &str, offset: i64) {
        self.commits.0.entry(group.to_owned()).or_default().possible.insert(offset);
    }

    /// The commit of the offset is acknowledged.
    pub fn committed(&mut self, group: &str, offset: i64) {
        let commit = self.commits.0.entry(group.to_owned()).or_default();
        commit.acknowledged = Some(offset);
        commit.possible.remove(&offset);
        commit.count += 1;
    }

    /// The commit of the offset is refused for good.
    pub fn not_committed(&mut self, group: &str, offset: i64) {
        self.commits.0.entry(group.to_owned()).or_default().possible.remove(&offset);
    }

    /// The group's offset as it was read: -1 if there is none.
    pub fn found_committed(&mut self, group: &str, offset: i64) {
        let commit = self.commits.0.entry(group.to_owned()).or_default();
        let found = (offset >= 0).then_some(offset);
        // What was seen is on disk, as if it had been acknowledged: the group does not go back behind it.
        if found.is_some_and(|found| commit.possible.remove(&found)) {
            commit.acknowledged = found;
        }
        if found != commit.acknowledged {
            let acknowledged = commit.acknowledged;
            self.fail(format!("(8) {group} is at {found:?}, and {acknowledged:?} was acknowledged as committed"));
        }
    }

    /// Groups of which a commit was acknowledged.
    pub fn committed_groups(&self) -> Vec<String> {
        let groups = self.commits.0.iter().filter(|(_, commit)| commit.acknowledged.is_some());
        groups.map(|(group, _)| group.clone()).collect()
    }

    /// Commits that were acknowledged.
    pub fn commit_count(&self) -> u64 {
        self.commits.0.values().map(|commit| commit.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_where_its_last_acknowledged_commit_or_an_unanswered_one_has_it() {
        let mut history = History::default();
        history.found_committed("g", -1);
        history.committing("g", 5);
        history.found_committed("g", -1);
        history.found_committed("g", 5);
        history.committed("g", 5);
        history.committing("g", 2);
        for possible in [5, 2] {
            history.found_committed("g", possible);
        }
        assert_eq!(history.failures(), &[] as &[String]);
        assert_eq!(history.commit_count(), 1);
        history.found_committed("g", 5);
        assert_eq!(history.failures().len(), 1, "2 was seen, and 5 was before it");
    }

    #[test]
    fn an_offset_that_is_lost_goes_back_or_was_never_sent_is_found() {
        for wrong in [-1, 4, 7] {
            let mut history = History::default();
            for offset in [4, 6] {
                history.committing("g", offset);
                history.committed("g", offset);
            }
            history.found_committed("g", wrong);
            assert_eq!(history.failures().len(), 1, "{wrong}");
        }
    }
}
