//! What is known of a group: over the Kafka protocol, and from Millpond's HTTP port where that is given.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use millpond_client::{Admin, Error, GroupDescription, GroupOffset, OffsetAt, TopicPartition};
use millpond_runtime::Runtime;
use serde::{Deserialize, Serialize};

use crate::cluster::{get, hint};
use crate::output::printable;

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Facts {
    pub(super) group: String,
    /// `classic` or `consumer`.
    pub(super) kind: &'static str,
    pub(super) state: String,
    /// `consumer` for those that read topics; others give their members something else than partitions.
    pub(super) protocol_type: String,
    pub(super) protocol: String,
    pub(super) members: Vec<Member>,
    pub(super) partitions: Vec<Partition>,
    /// Only a Millpond broker tells.
    pub(super) course: Option<Course>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Member {
    pub(super) member_id: String,
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) host: String,
    pub(super) partitions: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) committed: Option<i64>,
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
    pub(super) lag_records: Option<i64>,
    /// How old the first unread record is.
    pub(super) lag_seconds: Option<f64>,
    /// How long ago the offset was committed.
    pub(super) commit_age_seconds: Option<f64>,
    /// The member id.
    pub(super) owner: Option<String>,
}

/// What the group went through.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Course {
    /// For how long the group is in its state.
    pub(super) state_seconds: Option<f64>,
    /// For how long the coordinator is on its broker, which is how long rebalances are counted.
    pub(super) counted_seconds: Option<f64>,
    pub(super) rebalances: u64,
    pub(super) awaited_members: u64,
    /// The oldest first.
    pub(super) recent_rebalances: Vec<Rebalance>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rebalance {
    pub(super) seconds_ago: f64,
    pub(super) reason: String,
}

/// Looks a group up; `None` when there is none of the name.
pub(super) async fn look(runtime: &Runtime, admin: &Admin, group: &str, http: Option<&str>) -> Result<Option<Facts>> {
    let Some(described) = admin.describe_group(group).await.map_err(hint)? else { return Ok(None) };
    let offsets = admin.group_offsets(group).await.map_err(hint)?;
    let mut wanted = offsets.keys().cloned().collect::<Vec<_>>();
    wanted.extend(described.members.iter().flat_map(|member| member.assignment.iter().cloned()));
    let of = |at: OffsetAt| wanted.iter().cloned().map(|of| (of, at)).collect::<BTreeMap<_, _>>();
    let known = |(of, found): (_, Result<Option<i64>, Error>)| Some((of, found.ok()??));
    let starts = admin.list_offsets(&of(OffsetAt::Earliest)).await.map_err(hint)?;
    let ends = admin.list_offsets(&of(OffsetAt::Latest)).await.map_err(hint)?;
    let starts = starts.into_iter().filter_map(known).collect();
    let ends = ends.into_iter().filter_map(known).collect();
    let mut facts = Facts::new(&described, &offsets, &starts, &ends);
    if let Some(address) = http {
        facts.add(told(runtime, address, group).await?);
    }
    Ok(Some(facts))
}

type Places = BTreeMap<TopicPartition, i64>;

impl Facts {
    fn new(
        described: &GroupDescription,
        offsets: &BTreeMap<TopicPartition, GroupOffset>,
        starts: &Places,
        ends: &Places,
    ) -> Facts {
        let mut owners: BTreeMap<&TopicPartition, &str> = BTreeMap::new();
        for member in &described.members {
            owners.extend(member.assignment.iter().map(|of| (of, member.member_id.as_str())));
        }
        let mut all: Vec<&TopicPartition> = offsets.keys().chain(owners.keys().copied()).collect();
        all.sort();
        all.dedup();
        let partition = |of: &TopicPartition| {
            let committed = offsets.get(of).map(|found| found.offset).filter(|offset| *offset >= 0);
            let (start, end) = (starts.get(of).copied(), ends.get(of).copied());
            // What was deleted cannot be read any more.
            let lag = |((committed, start), end): ((i64, i64), i64)| end.saturating_sub(committed.max(start)).max(0);
            Partition {
                topic: of.topic.clone(),
                partition: of.partition,
                committed,
                start,
                end,
                lag_records: committed.zip(start).zip(end).map(lag),
                owner: owners.get(of).map(|owner| (*owner).to_owned()),
                ..Partition::default()
            }
        };
        let members = described.members.iter().map(|member| Member {
            member_id: member.member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            host: member.host.clone(),
            partitions: member.assignment.len(),
        });
        Facts {
            group: described.group.clone(),
            kind: if described.is_kip848 { "consumer" } else { "classic" },
            state: described.state.clone(),
            protocol_type: described.protocol_type.clone(),
            protocol: described.protocol.clone(),
            members: members.collect(),
            partitions: all.into_iter().map(partition).collect(),
            course: None,
        }
    }

    /// Records that the group is behind in all; `None` where a part of it is not known, or nothing was committed.
    pub(super) fn lag_records(&self) -> Option<i64> {
        if self.partitions.iter().all(|of| of.committed.is_none()) {
            return None;
        }
        // Where a group without a committed offset begins is its consumers' choice, but nothing is no choice of theirs.
        let lag = |of: &Partition| match of.committed {
            Some(_) => of.lag_records,
            None => of.start.zip(of.end).filter(|(start, end)| start >= end).map(|_| 0),
        };
        self.partitions.iter().map(lag).try_fold(0_i64, |sum, lag| Some(sum.saturating_add(lag?)))
    }

    /// Takes over what the protocol does not tell.
    fn add(&mut self, page: Page) {
        let ago = |at_ms: i64| page.now_ms.saturating_sub(at_ms).max(0) as f64 / 1e3;
        let lags: BTreeMap<(&str, i32), &PageLag> =
            page.lags.iter().map(|lag| ((lag.topic.as_str(), lag.partition), lag)).collect();
        for of in &mut self.partitions {
            if let Some(found) = lags.get(&(of.topic.as_str(), of.partition)) {
                of.lag_seconds = found.lag_seconds;
                of.commit_age_seconds = found.committed_at_ms.map(ago);
            }
        }
        let rebalances = page.recent_rebalances.iter();
        self.course = Some(Course {
            state_seconds: page.state_since_ms.map(ago),
            counted_seconds: page.counted_since_ms.map(ago),
            rebalances: page.rebalances,
            awaited_members: page.awaited_members,
            recent_rebalances: rebalances
                .map(|one| Rebalance { seconds_ago: ago(one.at_ms), reason: one.reason.clone() })
                .collect(),
        });
    }
}

/// What `/groups/NAME` says, as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Page {
    now_ms: i64,
    state_since_ms: Option<i64>,
    counted_since_ms: Option<i64>,
    rebalances: u64,
    awaited_members: u64,
    recent_rebalances: Vec<PageRebalance>,
    lags: Vec<PageLag>,
}

#[derive(Debug, Deserialize)]
struct PageRebalance {
    at_ms: i64,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct PageLag {
    topic: String,
    partition: i32,
    committed_at_ms: Option<i64>,
    lag_seconds: Option<f64>,
}

/// What a broker says that is no page of a group.
#[derive(Debug, Deserialize)]
struct Refusal {
    error: String,
}

/// Asks a broker's HTTP port.
async fn told(runtime: &Runtime, address: &str, group: &str) -> Result<Page> {
    let answer = get(runtime, address, &format!("/groups/{}", encoded(group))).await?;
    if answer.status != 200 {
        match serde_json::from_str::<Refusal>(&answer.body) {
            Ok(refusal) if answer.status == 421 => {
                bail!("{}; --http must name that broker's HTTP port", printable(&refusal.error))
            }
            Ok(refusal) => bail!("{address}: {}", printable(&refusal.error)),
            Err(_) => bail!("{address} does not tell of groups (status {}); is it an older broker?", answer.status),
        }
    }
    serde_json::from_str(&answer.body).with_context(|| format!("{address} does not answer as a broker's HTTP port"))
}

/// A name as a part of a path.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_client::GroupMember;

    /// A group whose one member owns two partitions.
    fn described() -> GroupDescription {
        GroupDescription {
            group: "g".into(),
            is_kip848: false,
            state: "Stable".into(),
            protocol_type: "consumer".into(),
            protocol: "range".into(),
            epoch: None,
            members: vec![GroupMember {
                member_id: "m".into(),
                instance_id: None,
                client_id: "c".into(),
                host: "/1.2.3.4".into(),
                assignment: vec![TopicPartition::new("t", 0), TopicPartition::new("t", 1)],
            }],
        }
    }

    #[test]
    fn facts_are_brought_together_from_both_sides() {
        let described = described();
        let offset = |offset| GroupOffset { offset, metadata: String::new() };
        let offsets = [(TopicPartition::new("t", 1), offset(4)), (TopicPartition::new("u", 0), offset(9))];
        let places = |of: &[(&str, i32, i64)]| -> Places {
            of.iter().map(|(topic, partition, at)| (TopicPartition::new(*topic, *partition), *at)).collect()
        };
        let (starts, ends) = (places(&[("t", 1, 2)]), places(&[("t", 0, 5), ("t", 1, 10)]));
        let mut facts = Facts::new(&described, &offsets.into_iter().collect(), &starts, &ends);
        let page = r#"{"now_ms":10000,"state_since_ms":4000,"counted_since_ms":null,"rebalances":2,"awaited_members":0,
            "recent_rebalances":[{"at_ms":4000,"reason":"member m is new"}],"more":1,
            "lags":[{"topic":"t","partition":1,"committed_at_ms":9000,"lag_seconds":2.5}]}"#;
        facts.add(serde_json::from_str(page).expect("a page"));
        let seen: Vec<_> = facts
            .partitions
            .iter()
            .map(|of| {
                (of.topic.as_str(), of.partition, of.committed, of.lag_records, of.lag_seconds, of.owner.is_some())
            })
            .collect();
        let expected = [
            ("t", 0, None, None, None, true),
            ("t", 1, Some(4), Some(6), Some(2.5), true),
            ("u", 0, Some(9), None, None, false),
        ];
        assert_eq!(seen, expected);
        assert_eq!(facts.partitions[1].commit_age_seconds, Some(1.0));
        let course = facts.course.expect("told");
        assert_eq!((course.state_seconds, course.rebalances), (Some(6.0), 2));
        assert_eq!(course.recent_rebalances[0], Rebalance { seconds_ago: 6.0, reason: "member m is new".into() });
    }

    #[test]
    fn a_total_is_told_only_where_every_part_of_it_is_known() {
        let of = |committed: Option<i64>, start: Option<i64>, end: Option<i64>| {
            let places = |first: i64, second: Option<i64>| -> Places {
                let second = second.map(|second| (TopicPartition::new("t", 1), second));
                [(TopicPartition::new("t", 0), first)].into_iter().chain(second).collect()
            };
            let offset = |offset| GroupOffset { offset, metadata: String::new() };
            let mut offsets = BTreeMap::from([(TopicPartition::new("t", 0), offset(7))]);
            offsets.extend(committed.map(|at| (TopicPartition::new("t", 1), offset(at))));
            Facts::new(&described(), &offsets, &places(0, start), &places(10, end)).lag_records()
        };
        for (committed, start, end, expected) in [
            (Some(4), Some(0), Some(10), Some(3 + 6)),
            (Some(4), Some(8), Some(10), Some(3 + 2)),
            (Some(4), None, Some(10), None),
            (Some(4), Some(0), None, None),
            (Some(-1), Some(0), Some(10), None),
            (None, Some(0), Some(10), None),
            (None, Some(10), Some(10), Some(3)),
            (None, None, None, None),
        ] {
            assert_eq!(of(committed, start, end), expected, "{committed:?} {start:?} {end:?}");
        }
        assert_eq!(Facts::default().lag_records(), None, "nothing was committed");
    }

    #[test]
    fn a_name_is_encoded_for_a_path() {
        assert_eq!(encoded("orders-1.a_b~"), "orders-1.a_b~");
        assert_eq!(encoded("a/b c%ü"), "a%2Fb%20c%25%C3%BC");
    }
}
