//! What a seed decides: the broker's settings, the load, and what goes wrong when.

use millpond_runtime::sim::{Crash, DiskFaults, NetworkDelays, Rng};

use crate::admin::NewTopic;
use crate::producer::{Kind, Volume};
use crate::trouble::Troubles;

/// One run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The topics that stay.
    pub topics: Vec<NewTopic>,
    /// The producers.
    pub producers: Vec<(Kind, Volume)>,
    /// How many consumers.
    pub consumers: usize,
    /// How many clients commit offsets.
    pub committers: usize,
    /// How many lives the broker loses before things calm down.
    pub crashes: u32,
    /// What goes wrong on the disk until then.
    pub faults: DiskFaults,
    /// What else goes wrong with it.
    pub troubles: Troubles,
    /// The network's delays.
    pub delays: NetworkDelays,
    /// Milliseconds between two looks for old records.
    pub retention_check_interval_ms: u64,
    /// How many clients delete records.
    pub deleters: usize,
    /// Bytes of a journal file.
    pub journal_file_bytes: u64,
    /// Journal files.
    pub journal_files: u32,
    /// Bytes of the tail cache.
    pub tail_cache_bytes: u64,
    /// Bytes between two index entries.
    pub index_interval_bytes: u32,
    /// From how many bytes of a round on a segment is synced instead.
    pub segment_sync_bytes: u64,
}

/// How a life of the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the disk operation of this number, counted from the life's beginning.
    AtOperation(u64, Crash),
    /// After so many milliseconds.
    AtTime(u64, Crash),
    /// A clean stop after so many milliseconds.
    Stop(u64),
}

impl Scenario {
    /// Draws a run.
    pub fn draw(rng: &mut Rng) -> Scenario {
        let journal_file_bytes = (64 << 10) << rng.below(3);
        // A few runs write batches as long as a journal file may hold, so that segments roll.
        let record_bytes = if rng.chance(0.2) { journal_file_bytes / 4 } else { rng.pick(&[20, 300, 3_000]) };
        let topics = (0..rng.between(1, 3)).map(|number| NewTopic {
            name: format!("topic-{number}"),
            partitions: rng.between(1, 3) as i32,
            configs: vec![("segment.bytes", (1 << 20).to_string())],
        });
        let mut topics: Vec<NewTopic> = topics.collect();
        // At least one producer whose every acknowledgement counts.
        let mut kinds = vec![if rng.chance(0.5) { Kind::Idempotent } else { Kind::All }];
        for _ in 0..rng.below(4) {
            kinds.push(rng.pick(&[Kind::Idempotent, Kind::All, Kind::Leader, Kind::None]));
        }
        // Batches of one size let what a recycled journal file still holds line up with what is written over it.
        let uniform = rng.chance(0.3);
        let producers = kinds.into_iter().map(|kind| {
            let batch_records = if record_bytes > 3_000 { 3 } else { rng.between(1, 20) };
            (kind, Volume { batch_records, record_bytes, uniform, pause_ms: rng.pick(&[5, 30, 300]) })
        });
        let producers = producers.collect();
        let faults = DiskFaults {
            sync_error_in: "/journal/",
            sync_error: rng.pick(&[0.0, 0.0, 0.0005, 0.005]),
            slow_sync: rng.pick(&[0.0, 0.0, 0.01, 0.1]),
            slow_sync_ms: rng.between(10, 1_500),
            ..DiskFaults::default()
        };
        // What was drawn before is the same as without retention.
        for topic in &mut topics {
            if rng.chance(0.5) {
                // Segments that fill up by their age, so that there is something to delete.
                topic.configs.push(("segment.ms", rng.between(100, 3_000).to_string()));
                topic.configs.push(("segment.jitter.ms", rng.pick(&[0, 50]).to_string()));
            }
            match rng.below(4) {
                0 => topic.configs.push(("retention.ms", rng.between(500, 8_000).to_string())),
                1 => topic.configs.push(("retention.bytes", rng.between(0, 20_000).to_string())),
                _ => {}
            }
        }
        Scenario {
            retention_check_interval_ms: rng.between(50, 2_000),
            deleters: rng.below(2) as usize,
            topics,
            producers,
            consumers: rng.between(1, 2) as usize,
            crashes: rng.between(2, 8) as u32,
            faults,
            troubles: Troubles::default(),
            committers: 0,
            delays: NetworkDelays { usual_ms: rng.between(0, 5), ..NetworkDelays::default() },
            journal_file_bytes,
            journal_files: rng.between(3, 5) as u32,
            tail_cache_bytes: (32 << 10) << rng.below(6),
            index_interval_bytes: 128 << rng.below(6),
            segment_sync_bytes: rng.pick(&[1, 4 << 10, 32 << 10, u64::MAX]),
        }
    }

    /// Draws how a life ends.
    pub fn draw_end(rng: &mut Rng) -> End {
        let kind = if rng.chance(0.6) { Crash::PowerCut } else { Crash::Kill };
        match rng.below(10) {
            // Many of them early: inside recovery, and in the first rounds after it.
            0..3 => End::AtOperation(rng.between(1, 30), kind),
            3..7 => End::AtOperation(rng.between(1, 600), kind),
            7..9 => End::AtTime(rng.between(1, 6_000), kind),
            _ => End::Stop(rng.between(100, 6_000)),
        }
    }
}
