//! Why a group does not get on: sentences from what is known of it, the worst first.

use super::facts::{Course, Facts, Partition};
use crate::cluster::counted;

/// Partitions and members that a sentence names; the rest is counted.
const NAMED: usize = 5;
/// A group that rebalanced this often within the last minutes is in a storm.
const STORM: usize = 3;
const STORM_SECONDS: f64 = 600.0;
/// An owner that reads commits more often than this.
const SILENT_SECONDS: f64 = 60.0;

/// The sentences. There is always one.
pub(super) fn explain(facts: &Facts) -> Vec<String> {
    let mut said = Vec::new();
    members(facts, &mut said);
    storm(facts, &mut said);
    owners(facts, &mut said);
    places(facts, &mut said);
    silence(facts, &mut said);
    unread(facts, &mut said);
    said
}

fn members(facts: &Facts, said: &mut Vec<String>) {
    if facts.members.is_empty() {
        let state = match facts.state.as_str() {
            "Empty" => String::new(),
            state => format!(" (it is {state})"),
        };
        return said.push(format!("The group has no members{state}: nobody reads."));
    }
    let rebalancing = ["PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling"];
    if !rebalancing.contains(&facts.state.as_str()) {
        return;
    }
    let (mut since, mut waits, mut why) = (String::new(), String::new(), String::new());
    if let Some(course) = &facts.course {
        since = course.state_seconds.map(|seconds| format!(" for {}", age(seconds))).unwrap_or_default();
        if course.awaited_members > 0 {
            let awaited = usize::try_from(course.awaited_members).unwrap_or(usize::MAX);
            waits = format!(", and waits for {}", counted(awaited, "member"));
        }
        why = course.recent_rebalances.last().map(|last| format!(": {}", last.reason)).unwrap_or_default();
    }
    said.push(format!("The group is rebalancing ({}){since}{waits}{why}.", facts.state));
}

fn storm(facts: &Facts, said: &mut Vec<String>) {
    let Some(course) = &facts.course else { return };
    let recent: Vec<_> = course.recent_rebalances.iter().filter(|one| one.seconds_ago < STORM_SECONDS).collect();
    let (Some(first), true) = (recent.first(), recent.len() >= STORM) else { return };
    let span = age(first.seconds_ago);
    let ended: Vec<&str> = recent.iter().map(|one| one.reason.as_str()).filter(|why| is_end_of_session(why)).collect();
    said.push(format!("The group rebalanced {} times in the last {span}; members wait meanwhile.", recent.len()));
    if ended.is_empty() {
        let last = recent.last().map(|one| one.reason.as_str()).unwrap_or_default();
        said.push(format!("The last rebalance began because {last}."));
    } else {
        let mut names = ended.clone();
        names.sort_unstable();
        names.dedup();
        said.push(format!(
            "{} of these began because a member was not heard of in time: {}. Such a client works longer on what it \
             reads than its session or poll interval allows, or its connection is bad.",
            ended.len(),
            list(names.iter().map(|why| (*why).to_owned()))
        ));
    }
}

/// Whether the reason of a rebalance, in the words of a Millpond coordinator, is that a member was not heard of.
fn is_end_of_session(why: &str) -> bool {
    ["timed out", "was not heard of", "did not follow within", "did not sync in time"]
        .iter()
        .any(|part| why.contains(part))
}

fn owners(facts: &Facts, said: &mut Vec<String>) {
    // What members of other groups have are no partitions.
    if facts.members.is_empty() || facts.state != "Stable" || facts.protocol_type != "consumer" {
        return;
    }
    let orphans: Vec<&Partition> =
        facts.partitions.iter().filter(|of| of.owner.is_none() && of.lag_records != Some(0)).collect();
    if !orphans.is_empty() {
        said.push(format!(
            "Nobody has {}, for which the group has committed offsets: {}. Its members may no longer subscribe to {}.",
            counted(orphans.len(), "partition"),
            names(&orphans),
            if orphans.len() == 1 { "it" } else { "them" }
        ));
    }
    let idle = facts.members.iter().filter(|member| member.partitions == 0).count();
    if idle > 0 {
        said.push(format!(
            "{} of {} without a partition: there may be fewer partitions than members, or they do not subscribe to the \
             same.",
            idle,
            counted(facts.members.len(), "member")
        ));
    }
}

fn places(facts: &Facts, said: &mut Vec<String>) {
    let of = |wrong: fn(&Partition) -> Option<bool>| {
        facts.partitions.iter().filter(|of| wrong(of) == Some(true)).collect::<Vec<_>>()
    };
    let below = of(|of| Some(of.committed? < of.start?));
    if !below.is_empty() {
        said.push(format!(
            "What the group would read next is deleted already in {}; its consumers begin where their \
             auto.offset.reset says.",
            names(&below)
        ));
    }
    let beyond = of(|of| Some(of.committed? > of.end?));
    if !beyond.is_empty() {
        // Never without --topic: all others would be reset, too.
        let topics: Vec<String> =
            beyond.iter().take(NAMED).map(|of| format!(" --topic {}:{}", of.topic, of.partition)).collect();
        let more = if beyond.len() > NAMED { " (and so on)" } else { "" };
        said.push(format!(
            "The committed offset lies behind the end of {}; its topic may have been created again. \
             `millpond group reset-offsets {} --to earliest{}`{more} has the group read from the beginning there, once \
             it has no members.",
            names(&beyond),
            quoted(&facts.group),
            topics.concat()
        ));
    }
    let unknown = of(|of| Some(of.start.is_none() || of.end.is_none()));
    if !unknown.is_empty() {
        said.push(format!(
            "It is not known where {} begins or ends: the topic is deleted, or has no leader now.",
            names(&unknown)
        ));
    }
}

fn silence(facts: &Facts, said: &mut Vec<String>) {
    let silent = |of: &&Partition| {
        let behind = of.lag_records.is_none_or(|lag| lag > 0);
        // Only what came before it was silent shows that it does not read.
        let old = of.lag_seconds.is_some_and(|seconds| seconds > SILENT_SECONDS);
        of.owner.is_some() && behind && old && of.commit_age_seconds.is_some_and(|seconds| seconds > SILENT_SECONDS)
    };
    let silent: Vec<&Partition> = facts.partitions.iter().filter(silent).collect();
    let longest = silent.iter().filter_map(|of| of.commit_age_seconds).fold(0.0, f64::max);
    let mut owners: Vec<String> = silent.iter().filter_map(|of| of.owner.clone()).collect();
    owners.sort();
    owners.dedup();
    if !owners.is_empty() {
        said.push(format!(
            "{} that {} did not commit for up to {}, while there is something to read: {}.",
            if owners.len() == 1 { "The member" } else { "Members" },
            if silent.len() == 1 { "has one partition" } else { "have partitions" },
            age(longest),
            list(owners.into_iter())
        ));
    }
    let never: Vec<&Partition> = facts
        .partitions
        .iter()
        .filter(|of| of.owner.is_some() && of.committed.is_none() && of.start.zip(of.end).is_some_and(|(a, b)| a < b))
        .collect();
    if !never.is_empty() {
        said.push(format!("Nothing was ever committed for {}.", names(&never)));
    }
}

fn unread(facts: &Facts, said: &mut Vec<String>) {
    let committed: Vec<&Partition> = facts.partitions.iter().filter(|of| of.committed.is_some()).collect();
    if committed.is_empty() {
        return said.push("The group has committed no offset.".to_owned());
    }
    let mut behind: Vec<&Partition> =
        committed.iter().copied().filter(|of| of.lag_records.is_some_and(|lag| lag > 0)).collect();
    if behind.is_empty() {
        if facts.lag_records() == Some(0) {
            said.push("Nothing is unread: the group is at the end of all its partitions.".to_owned());
        }
        return;
    }
    behind.sort_by_key(|of| std::cmp::Reverse(of.lag_records));
    let total: i64 = behind.iter().filter_map(|of| of.lag_records).fold(0, i64::saturating_add);
    let oldest = behind.iter().filter_map(|of| of.lag_seconds).fold(0.0, f64::max);
    let oldest = if oldest > 0.0 { format!("; the oldest is {} old", age(oldest)) } else { String::new() };
    let most = behind.first().map(|of| name(of)).unwrap_or_default();
    let unread = if total == 1 { "1 record is unread".to_owned() } else { format!("{total} records are unread") };
    said.push(match behind.len() {
        1 => format!("{unread} in {most}{oldest}."),
        partitions => format!("{unread} in {}, most of them in {most}{oldest}.", counted(partitions, "partition")),
    });
}

/// How often and why the group rebalanced, as a line of its description.
pub(super) fn rebalances(course: &Course) -> String {
    let since = course.counted_seconds.map(|seconds| format!(" in {}", age(seconds))).unwrap_or_default();
    let times = counted(usize::try_from(course.rebalances).unwrap_or(usize::MAX), "rebalance");
    match course.recent_rebalances.last() {
        Some(last) => format!("{times}{since}, the last one {} ago: {}", age(last.seconds_ago), last.reason),
        None => format!("{times}{since}, since its coordinator came to this broker"),
    }
}

fn name(of: &Partition) -> String {
    format!("{}-{}", of.topic, of.partition)
}

fn names(partitions: &[&Partition]) -> String {
    list(partitions.iter().map(|of| name(of)))
}

fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    let all = names.len();
    let named: Vec<String> = names.take(NAMED).collect();
    match all - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// A name as a shell takes it for one word.
fn quoted(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    match name.chars().all(is_plain) && !name.is_empty() {
        true => name.to_owned(),
        false => format!("'{}'", name.replace('\'', r"'\''")),
    }
}

/// A time as people say it, in one unit.
pub(super) fn age(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 2.0 * 3600.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 48.0 * 3600.0 => format!("{:.0} h", seconds / 3600.0),
        seconds => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Member, Rebalance};
    use super::*;

    fn partition(committed: i64, start: i64, end: i64) -> Partition {
        Partition {
            topic: "t".into(),
            committed: Some(committed),
            start: Some(start),
            end: Some(end),
            lag_records: Some((end - committed.max(start)).max(0)),
            owner: Some("m".into()),
            ..Partition::default()
        }
    }

    fn facts(partitions: Vec<Partition>) -> Facts {
        let member = Member { member_id: "m".into(), partitions: partitions.len(), ..Member::default() };
        Facts {
            group: "g".into(),
            state: "Stable".into(),
            protocol_type: "consumer".into(),
            members: vec![member],
            partitions,
            ..Facts::default()
        }
    }

    fn course(reasons: &[(f64, &str)]) -> Option<Course> {
        let one =
            |(seconds_ago, reason): &(f64, &str)| Rebalance { seconds_ago: *seconds_ago, reason: (*reason).into() };
        Some(Course {
            state_seconds: Some(30.0),
            rebalances: reasons.len() as u64,
            awaited_members: 2,
            recent_rebalances: reasons.iter().map(one).collect(),
            ..Course::default()
        })
    }

    #[test]
    fn each_trouble_is_said_in_a_sentence() {
        let well = partition(10, 0, 10);
        let behind = partition(4, 0, 10);
        let unread = "6 records are unread in t-0.";
        let nobody = Facts { members: Vec::new(), state: "Empty".into(), ..facts(vec![behind.clone()]) };
        let rebalancing = Facts {
            state: "PreparingRebalance".into(),
            course: course(&[(30.0, "member x is new")]),
            ..facts(vec![well.clone()])
        };
        let orphan = Partition { owner: None, ..behind.clone() };
        let old = Partition { lag_seconds: Some(300.0), commit_age_seconds: Some(400.0), ..behind.clone() };
        let idle = Member { member_id: "n".into(), ..Member::default() };
        let nothing = "Nothing is unread: the group is at the end of all its partitions.";
        let other = Facts { protocol_type: "connect".into(), ..facts(vec![orphan.clone()]) };
        let uncommitted = Partition { committed: None, lag_records: None, partition: 1, ..behind.clone() };
        let unknown = Partition { start: None, end: None, ..uncommitted.clone() };
        let mut crowded = facts(vec![well.clone()]);
        crowded.members.push(idle);
        for (facts, expected) in [
            (facts(vec![well.clone()]), &[nothing][..]),
            (nobody, &["The group has no members: nobody reads.", unread]),
            (
                rebalancing,
                &[
                    "The group is rebalancing (PreparingRebalance) for 30 s, and waits for 2 members: member x is new.",
                    nothing,
                ],
            ),
            (
                facts(vec![orphan]),
                &[
                    "Nobody has 1 partition, for which the group has committed offsets: t-0. Its members may no longer \
                     subscribe to it.",
                    unread,
                ],
            ),
            (other, &[unread]),
            (
                crowded,
                &[
                    "1 of 2 members without a partition: there may be fewer partitions than members, or they do not \
                     subscribe to the same.",
                    nothing,
                ],
            ),
            (facts(vec![well.clone(), uncommitted]), &["Nothing was ever committed for t-1."]),
            (
                facts(vec![well.clone(), unknown]),
                &["It is not known where t-1 begins or ends: the topic is deleted, or has no leader now."],
            ),
            (
                facts(vec![partition(4, 7, 10)]),
                &[
                    "What the group would read next is deleted already in t-0; its consumers begin where their \
                     auto.offset.reset says.",
                    "3 records are unread in t-0.",
                ],
            ),
            (
                facts(vec![partition(12, 0, 10)]),
                &[
                    "The committed offset lies behind the end of t-0; its topic may have been created again. `millpond \
                     group reset-offsets g --to earliest --topic t:0` has the group read from the beginning there, \
                     once it has no members.",
                    nothing,
                ],
            ),
            (
                facts(vec![Partition { end: None, lag_records: None, ..well.clone() }]),
                &["It is not known where t-0 begins or ends: the topic is deleted, or has no leader now."],
            ),
            (
                facts(vec![old]),
                &[
                    "The member that has one partition did not commit for up to 7 min, while there is something \
                     to read: m.",
                    "6 records are unread in t-0; the oldest is 5 min old.",
                ],
            ),
            (
                facts(vec![Partition { committed: None, lag_records: None, ..behind.clone() }]),
                &["Nothing was ever committed for t-0.", "The group has committed no offset."],
            ),
        ] {
            assert_eq!(explain(&facts), expected);
        }
    }

    #[test]
    fn a_storm_is_told_with_the_members_whose_sessions_end() {
        let lost = "the session of member a timed out";
        let reasons = [(900.0, "long ago"), (300.0, lost), (200.0, "member b is new"), (100.0, lost)];
        let stormy = Facts { course: course(&reasons), ..facts(vec![partition(10, 0, 10)]) };
        let said = explain(&stormy);
        assert_eq!(said[0], "The group rebalanced 3 times in the last 5 min; members wait meanwhile.");
        assert!(
            said[1].starts_with("2 of these began because a member was not heard of in time: the session of member a")
        );
        let joining = [(30.0, "member a is new"), (20.0, "member b is new"), (10.0, "member c left")];
        let said = explain(&Facts { course: course(&joining), ..stormy.clone() });
        assert_eq!(said[1], "The last rebalance began because member c left.");
        let calm = explain(&Facts { course: course(&joining[..2]), ..stormy });
        assert_eq!(calm.len(), 1, "two rebalances are no storm: {calm:?}");
    }

    #[test]
    fn an_advice_is_one_command_for_what_is_named() {
        let beyond = |partition| Partition { partition, ..super::tests::partition(12, 0, 10) };
        let many = Facts { group: "it's".into(), ..facts((0..7).map(beyond).collect()) };
        let said = explain(&many);
        let command = r"`millpond group reset-offsets 'it'\''s' --to earliest --topic t:0 --topic t:1 --topic t:2";
        assert!(said[0].contains(command) && said[0].contains("--topic t:4` (and so on) has"), "{said:?}");
    }

    #[test]
    fn a_time_is_said_in_one_unit() {
        for (seconds, said) in [
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (59.0, "59 s"),
            (300.0, "5 min"),
            (7_300.0, "2 h"),
            (400_000.0, "5 days"),
        ] {
            assert_eq!(age(seconds), said);
        }
    }

    #[test]
    fn a_description_says_how_often_and_why_the_group_rebalanced() {
        let two =
            Course { counted_seconds: Some(3600.0), ..course(&[(50.0, "x"), (20.0, "member a left")]).expect("some") };
        assert_eq!(rebalances(&two), "2 rebalances in 60 min, the last one 20 s ago: member a left");
        assert_eq!(rebalances(&Course::default()), "0 rebalances, since its coordinator came to this broker");
    }
}
