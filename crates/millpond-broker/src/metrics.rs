//! What the broker counts, and its text for Prometheus.
//!
//! Every broker has a recorder of its own, not the process-wide one, because many brokers may live in one process.

use std::fmt::Write;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use millpond_raft::PeerFigures;
use millpond_record::BatchHeader;
use millpond_storage::{GroupRow, ROUND_BYTES_BOUNDS, ROUND_RECORDS_BOUNDS, SYNC_MICROS_BOUNDS, StorageStats};

use crate::coordinator::{AllLags, CoordinatorFigures, GroupLag, PartitionLag};
use crate::disk_space::DiskWatch;
use crate::dispatch::APIS;
use crate::leadership::LeadershipFigures;
use crate::metadata::Snapshot;
use crate::session_cache::CacheFigures;

/// Partitions whose offsets are listed, so that a broker with very many of them still answers in a short text.
const MAX_LISTED_PARTITIONS: usize = 2_000;

/// Groups with longer names, in bytes, are not listed.
const MAX_LABEL: usize = 1_000;

/// Upper bounds of the request latency buckets, in seconds.
const LATENCY_SECONDS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

pub(crate) struct Metrics {
    handle: PrometheusHandle,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) fetched_bytes: Counter,
    pub(crate) offset_commits: Counter,
    pub(crate) group_joins: Counter,
    produced_batches: Counter,
    produced_records: Counter,
    produced_bytes: Counter,
    pub(crate) connections_timed_out: Counter,
    pub(crate) answers_recalled: Counter,
    connections: Gauge,
    /// By place in [`APIS`].
    request_seconds: Vec<Histogram>,
}

const METADATA: Metadata<'static> = Metadata::new("millpond", Level::INFO, None);

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let builder = PrometheusBuilder::new().set_buckets(&LATENCY_SECONDS).expect("there are buckets");
        let recorder = builder.build_recorder();
        let describe = |name: &'static str, text: &'static str| {
            recorder.describe_counter(name.into(), None, text.into());
        };
        describe("millpond_bytes_in_total", "Bytes received from Kafka clients.");
        describe("millpond_bytes_out_total", "Bytes sent to Kafka clients.");
        describe("millpond_produced_batches_total", "Record batches accepted from producers.");
        describe("millpond_produced_records_total", "Records in those batches.");
        describe("millpond_produced_bytes_total", "Bytes of those batches, compressed as they are stored.");
        describe("millpond_fetched_bytes_total", "Bytes of record batches read for consumers.");
        describe("millpond_offset_commits_total", "Offsets committed, each on disk.");
        describe("millpond_group_joins_total", "Times that a member entered a generation of its group.");
        describe("millpond_connections_refused_total", "Connections closed on arrival.");
        describe("millpond_answers_recalled_total", "Parts of answers that waited too long in their file.");
        describe("millpond_connections_timed_out_total", "Connections closed because the client did nothing for long.");
        recorder.describe_gauge("millpond_connections".into(), None, "Open Kafka connections.".into());
        let text = "Time from a request's last byte to its answer's first, by API.";
        recorder.describe_histogram("millpond_request_seconds".into(), None, text.into());
        let seconds = |name| histogram(&recorder, name);
        Metrics {
            bytes_in: counter(&recorder, "millpond_bytes_in_total"),
            bytes_out: counter(&recorder, "millpond_bytes_out_total"),
            connections_refused: counter(&recorder, "millpond_connections_refused_total"),
            produced_batches: counter(&recorder, "millpond_produced_batches_total"),
            produced_records: counter(&recorder, "millpond_produced_records_total"),
            produced_bytes: counter(&recorder, "millpond_produced_bytes_total"),
            fetched_bytes: counter(&recorder, "millpond_fetched_bytes_total"),
            offset_commits: counter(&recorder, "millpond_offset_commits_total"),
            group_joins: counter(&recorder, "millpond_group_joins_total"),
            answers_recalled: counter(&recorder, "millpond_answers_recalled_total"),
            connections_timed_out: counter(&recorder, "millpond_connections_timed_out_total"),
            connections: recorder.register_gauge(&Key::from_name("millpond_connections"), &METADATA),
            request_seconds: APIS.iter().map(|api| seconds(api.key.name().unwrap_or("unknown"))).collect(),
            handle: recorder.handle(),
        }
    }

    /// Counts an answered request; `api` is its place in [`APIS`].
    pub(crate) fn answered(&self, api: usize, took: Duration) {
        if let Some(histogram) = self.request_seconds.get(api) {
            histogram.record(took.as_secs_f64());
        }
    }

    /// Counts a batch that was accepted from a producer.
    pub(crate) fn produced(&self, header: &BatchHeader) {
        self.produced_batches.increment(1);
        self.produced_records.increment(u64::from(header.record_count.unsigned_abs()));
        self.produced_bytes.increment(u64::from(header.size_bytes));
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn connection_opened(&self) -> OpenConnection {
        self.connections.increment(1.0);
        OpenConnection(self.connections.clone())
    }

    /// Moves what was recorded into the buckets; called every few seconds, or samples pile up.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// All figures as Prometheus reads them. `memory`: bytes of produce requests and of answers in flight.
    pub(crate) fn render(
        &self,
        storage: &StorageStats,
        (produce_bytes, answer_bytes): (u64, u64),
        (sessions, coordinators): (CacheFigures, CoordinatorFigures),
        disk: &DiskWatch,
        (snapshot, leadership, peers): (&Snapshot, &LeadershipFigures, &[PeerFigures]),
        (groups, lags, now_ms): (&[GroupRow], Option<&AllLags>, i64),
    ) -> String {
        let mut text = self.handle.render();
        let mut page = Page(&mut text);
        page.figure("millpond_produce_in_flight_bytes", "gauge", "Bytes of produce requests in flight.", produce_bytes);
        let about = "Bytes of requests that are handled and of answers on their way to clients.";
        page.figure("millpond_answers_in_flight_bytes", "gauge", about, answer_bytes);
        page.sessions(&sessions);
        page.coordinators(coordinators);
        page.disk(disk);
        page.storage(storage);
        page.leadership(leadership);
        page.peers(peers);
        page.partitions(snapshot, groups);
        page.lags(lags.unwrap_or(&AllLags::default()), now_ms);
        text
    }
}

fn counter(recorder: &PrometheusRecorder, name: &'static str) -> Counter {
    recorder.register_counter(&Key::from_name(name), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, api: &'static str) -> Histogram {
    let key = Key::from_parts("millpond_request_seconds", vec![Label::from_static_parts("api", api)]);
    recorder.register_histogram(&key, &METADATA)
}

/// An open connection.
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Figures that are read when they are asked for. Writing to a `String` cannot fail.
struct Page<'a>(&'a mut String);

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, about: &str) {
        let _ = writeln!(self.0, "# HELP {name} {about}\n# TYPE {name} {kind}");
    }

    fn figure(&mut self, name: &str, kind: &str, about: &str, value: u64) {
        self.head(name, kind, about);
        let _ = writeln!(self.0, "{name} {value}\n");
    }

    fn sessions(&mut self, figures: &CacheFigures) {
        let (sessions, partitions) = (figures.sessions as u64, figures.size.partitions as u64);
        self.figure("millpond_fetch_sessions", "gauge", "Fetch sessions that are kept.", sessions);
        self.figure("millpond_fetch_session_partitions", "gauge", "Partitions that they follow.", partitions);
        let about = "Fetch sessions that had to go for others.";
        self.figure("millpond_fetch_session_evictions_total", "counter", about, figures.evictions);
    }

    fn coordinators(&mut self, figures: CoordinatorFigures) {
        let about = "Partitions of __consumer_offsets whose groups are in memory.";
        self.figure("millpond_loaded_group_partitions", "gauge", about, figures.loaded);
        let about = "Memory that groups and their offsets take, about.";
        self.figure("millpond_group_state_bytes", "gauge", about, figures.state_bytes);
    }

    fn disk(&mut self, disk: &DiskWatch) {
        let Some((free, total, refused)) = disk.figures() else { return };
        self.figure("millpond_disk_free_bytes", "gauge", "Free bytes of the data directory's file system.", free);
        self.figure("millpond_disk_total_bytes", "gauge", "Bytes of that file system.", total);
        let about = "0: enough free space, 1: below the warning, 2: below the reserve, produce is refused.";
        self.figure("millpond_disk_level", "gauge", about, disk.level() as u64);
        let about = "Produce and CreateTopics requests refused because the disk is full.";
        self.figure("millpond_disk_refused_total", "counter", about, refused);
    }

    fn storage(&mut self, stats: &StorageStats) {
        for (name, about, value) in [
            ("millpond_journal_rounds_total", "Journal writes followed by one sync.", stats.journal_rounds),
            ("millpond_journal_records_total", "Records in those rounds.", stats.journal_records),
            ("millpond_journal_bytes_total", "Bytes of those records.", stats.journal_bytes),
            (
                "millpond_read_ahead_used_total",
                "Cold reads that found what they asked for proven.",
                stats.read_ahead_used,
            ),
            ("millpond_journal_waits_total", "Times that the journal waited for a free file.", stats.journal_waits),
            ("millpond_checkpoints_total", "Checkpoints of the data directory.", stats.checkpoints),
        ] {
            self.figure(name, "counter", about, value);
        }
        for (name, about, value) in [
            ("millpond_journal_pending_bytes", "Bytes that wait for the next round.", stats.journal_pending_bytes),
            ("millpond_tail_cache_bytes", "Bytes that the tail cache holds.", stats.cache_bytes),
            ("millpond_open_logs", "Partition logs that are open.", stats.open_logs),
            ("millpond_stalled_logs", "Partition logs that cannot be written for now.", stats.stalled_logs),
        ] {
            self.figure(name, "gauge", about, value);
        }
        self.histogram(
            ("millpond_journal_sync_seconds", "Time of a journal round's write and sync."),
            &stats.journal_sync_micros,
            &SYNC_MICROS_BOUNDS.map(|micros| micros as f64 / 1e6),
            stats.journal_sync_micros_sum as f64 / 1e6,
        );
        self.histogram(
            ("millpond_journal_round_records", "Records of a journal round."),
            &stats.journal_round_records,
            &ROUND_RECORDS_BOUNDS.map(|records| records as f64),
            stats.journal_records as f64,
        );
        self.histogram(
            ("millpond_journal_round_bytes", "Bytes of a journal round."),
            &stats.journal_round_bytes,
            &ROUND_BYTES_BOUNDS.map(|bytes| bytes as f64),
            stats.journal_bytes as f64,
        );
    }

    /// A histogram; `counts` has one bucket more than there are bounds.
    fn histogram(&mut self, (name, about): (&str, &str), counts: &[u64], bounds: &[f64], sum: f64) {
        self.head(name, "histogram", about);
        let mut total = 0;
        for (count, bound) in counts.iter().zip(bounds) {
            total += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        total += counts.last().copied().unwrap_or(0);
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}\n");
    }

    fn leadership(&mut self, figures: &LeadershipFigures) {
        self.figure("millpond_leaders", "gauge", "Partitions that this broker leads.", figures.led_here);
        let about = "Partitions led here of which a replica is not in sync.";
        self.figure("millpond_under_replicated_partitions", "gauge", about, figures.under_replicated);
        let about = "Partitions of the cluster without a leader that answers.";
        self.figure("millpond_leaderless_partitions", "gauge", about, figures.leaderless);
        let about = "Partitions whose replica here lost power with a relaxed log and takes no part.";
        self.figure("millpond_tainted_partitions", "gauge", about, figures.tainted);
        let name = "millpond_follower_entries_behind";
        self.head(name, "gauge", "Most entries that a broker's replica of a partition led here is behind.");
        for (broker, entries) in &figures.entries_behind {
            let _ = writeln!(self.0, "{name}{{broker=\"{broker}\"}} {entries}");
        }
    }

    fn peers(&mut self, peers: &[PeerFigures]) {
        for (name, kind, about, value) in [
            (
                "millpond_peer_alive",
                "gauge",
                "1 for another broker that answers, 0 for one that does not.",
                (|peer| f64::from(u8::from(peer.alive))) as fn(&PeerFigures) -> f64,
            ),
            ("millpond_peer_in_flight_bytes", "gauge", "Bytes of Raft messages that it has not answered.", |peer| {
                peer.bytes_in_flight as f64
            }),
            ("millpond_peer_beat_seconds", "gauge", "How long its last answer to a beat took.", |peer| {
                peer.beat_us as f64 / 1e6
            }),
            ("millpond_peer_connects_total", "counter", "How often it was connected to.", |peer| peer.connects as f64),
            ("millpond_peer_frames_sent_total", "counter", "Frames sent over that connection.", |peer| {
                peer.frames_sent as f64
            }),
            ("millpond_peer_frames_received_total", "counter", "Frames received over it.", |peer| {
                peer.frames_received as f64
            }),
        ] {
            self.head(name, kind, about);
            for peer in peers {
                let _ = writeln!(self.0, "{name}{{broker=\"{}\"}} {}", peer.broker, value(peer));
            }
        }
    }

    fn partitions(&mut self, snapshot: &Snapshot, groups: &[GroupRow]) {
        self.figure("millpond_topics", "gauge", "Topics.", snapshot.topics().count() as u64);
        let listed = &groups[..groups.len().min(MAX_LISTED_PARTITIONS)];
        let unlisted = (groups.len() - listed.len()) as u64;
        self.figure("millpond_unlisted_partitions", "gauge", "Partitions beyond those that are listed.", unlisted);
        for (name, about, offset) in [
            (
                "millpond_log_end_offset",
                "The offset that the next record gets.",
                (|row| row.log_end) as fn(&GroupRow) -> _,
            ),
            ("millpond_log_start_offset", "The first offset that can be read.", |row| row.log_start),
        ] {
            self.head(name, "gauge", about);
            for row in listed {
                // Topic names have no character that would need an escape.
                let (topic, partition, at) = (&row.topic, row.partition, offset(row));
                let _ = writeln!(self.0, "{name}{{topic=\"{topic}\",partition=\"{partition}\"}} {at}");
            }
        }
    }

    /// How the groups that this broker coordinates get on. What is not known is left out.
    fn lags(&mut self, lags: &AllLags, now_ms: i64) {
        // A name of many kilobytes would stand in every line.
        let groups: Vec<&GroupLag> = lags.groups.iter().filter(|group| group.group_id.len() <= MAX_LABEL).collect();
        for (name, kind, about, value) in [
            (
                "millpond_group_members",
                "gauge",
                "Members of a group.",
                (|group, _| Some(group.members as f64)) as fn(&GroupLag, i64) -> Option<f64>,
            ),
            (
                "millpond_group_rebalances_total",
                "counter",
                "Rebalances since this broker coordinates it.",
                |group, _| Some(group.rebalances as f64),
            ),
            (
                "millpond_group_last_commit_age_seconds",
                "gauge",
                "Time since it committed an offset.",
                |group, now_ms| Some(now_ms.saturating_sub(group.last_commit_ms?).max(0) as f64 / 1e3),
            ),
        ] {
            self.head(name, kind, about);
            for group in &groups {
                if let Some(value) = value(group, now_ms) {
                    let _ = writeln!(self.0, "{name}{{group=\"{}\"}} {value}", Escaped(&group.group_id));
                }
            }
        }
        let committed = || {
            let of = |group| GroupLag::committed(group).map(move |partition| (group, partition));
            groups.iter().copied().flat_map(of)
        };
        for (name, about, value) in [
            (
                "millpond_group_lag_records",
                "Records between the committed offset and the end.",
                (|lag, _| Some(lag.records()? as f64)) as fn(&PartitionLag, i64) -> Option<f64>,
            ),
            ("millpond_group_lag_seconds", "How old the first unread record is.", PartitionLag::seconds),
        ] {
            self.head(name, "gauge", about);
            for (group, lag) in committed().take(MAX_LISTED_PARTITIONS) {
                if let Some(value) = value(lag, now_ms) {
                    let (group, topic, partition) = (Escaped(&group.group_id), Escaped(&lag.topic), lag.partition);
                    let labels = format_args!("group=\"{group}\",topic=\"{topic}\",partition=\"{partition}\"");
                    let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
                }
            }
        }
        let beyond = committed().count().saturating_sub(MAX_LISTED_PARTITIONS);
        let left_out: usize = groups.iter().map(|group| group.left_out).sum();
        let about = "Partitions of groups beyond those that are listed.";
        self.figure("millpond_group_unlisted_partitions", "gauge", about, (beyond + left_out) as u64);
        let unlisted = lags.left_out + (lags.groups.len() - groups.len());
        self.figure("millpond_unlisted_groups", "gauge", "Groups beyond those that are listed.", unlisted as u64);
    }
}

/// A label's value: any text may be the name of a group.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::lag_tests::{group, lag};

    #[test]
    fn a_groups_figures_are_listed_as_far_as_they_are_known_and_any_name_is_escaped() {
        let partitions = vec![lag(Some(4), Some((0, 10, Some(7_000)))), lag(Some(5), None), lag(None, None)];
        let silent = GroupLag { members: 0, ..group("silent", Vec::new()) };
        let long = group(&"x".repeat(MAX_LABEL + 1), vec![lag(Some(4), Some((0, 10, None)))]);
        let lags = AllLags { groups: vec![group("a\"b\\c\nd", partitions), silent, long], left_out: 7, loading: 0 };
        let mut text = String::new();
        Page(&mut text).lags(&lags, 10_000);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let name = r#"group="a\"b\\c\nd""#;
        assert_eq!(
            lines,
            [
                &*format!("millpond_group_members{{{name}}} 1"),
                "millpond_group_members{group=\"silent\"} 0",
                &*format!("millpond_group_rebalances_total{{{name}}} 3"),
                "millpond_group_rebalances_total{group=\"silent\"} 3",
                &*format!("millpond_group_last_commit_age_seconds{{{name}}} 9.5"),
                &*format!("millpond_group_lag_records{{{name},topic=\"t\",partition=\"0\"}} 6"),
                &*format!("millpond_group_lag_seconds{{{name},topic=\"t\",partition=\"0\"}} 3"),
                "millpond_group_unlisted_partitions 0",
                "millpond_unlisted_groups 8",
            ]
        );
    }

    #[test]
    fn partitions_of_groups_are_listed_up_to_a_limit() {
        let many = vec![lag(Some(4), Some((0, 10, Some(7_000)))); MAX_LISTED_PARTITIONS + 3];
        let mut text = String::new();
        Page(&mut text).lags(&AllLags { groups: vec![group("g", many)], left_out: 0, loading: 0 }, 10_000);
        let listed = text.lines().filter(|line| line.starts_with("millpond_group_lag_records{")).count();
        assert_eq!(listed, MAX_LISTED_PARTITIONS);
        assert!(text.contains("\nmillpond_group_unlisted_partitions 3\n"));
    }
}
