//! What a seed decides about a cluster: topics, load, and what goes wrong when.

use millpond_runtime::sim::{Crash, DiskFaults, NetworkDelays, Rng};

use crate::producer::{Kind, Volume};

/// How many brokers there are. Their node ids are 1 to this, and so are their nodes.
pub const BROKERS: i32 = 3;

/// A topic to create.
#[derive(Clone, Debug)]
pub struct ClusterTopic {
    /// Its name.
    pub name: String,
    /// Its number of partitions.
    pub partitions: i32,
    /// Replicas of each, 1 to [`BROKERS`].
    pub replicas: i16,
    /// `min.insync.replicas`, 1 to `replicas`.
    pub min_insync: i16,
    /// `millpond.flush=relaxed`; it has two replicas or more then.
    pub relaxed: bool,
}

/// Something that goes wrong with one broker, or with all.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// The process or its machine dies.
    Dies(Crash),
    /// It dies at its disk operation of this number from now.
    DiesAtOperation(u64, Crash),
    /// All brokers die at once.
    AllDie(Crash),
    /// A clean stop.
    Stops,
    /// The process stands still, as after SIGSTOP.
    Pauses,
    /// Its syncs take so many milliseconds, most of them.
    SyncsSlowly(u64),
    /// Nothing gets from it to the other brokers or back.
    Isolated,
    /// As that, and no client reaches it.
    CutOff,
    /// What it sends does not arrive at the other brokers; what they send does.
    Mute,
    /// What the other brokers send does not arrive; what it sends does.
    Deaf,
    /// It is isolated and reached again, several times.
    Flaps,
    /// The way between it and one other is closed; both reach the third.
    Estranged,
    /// Its connections to the other brokers and to the clients break, again and again: what is on its way is dropped,
    /// and what is sent on the next connection may arrive before what was sent on the last.
    Breaks,
    /// Its wall clock is wrong by so many milliseconds, and then right again.
    ClockJumps(i64),
    /// Its syncs fail, so that it ends.
    SyncsFail,
    /// It dies and comes back with an empty disk.
    LosesDisk,
    /// It dies, and one partition's copy on it, drawn by this number, is damaged when it comes back.
    DamagesCopy(u64),
    /// All brokers are stopped and started, one after the other.
    RollingRestart,
}

/// A trouble with its place and time.
#[derive(Clone, Copy, Debug)]
pub struct Blow {
    /// What goes wrong.
    pub trouble: Trouble,
    /// The broker that it strikes.
    pub broker: i32,
    /// For how many milliseconds.
    pub hold_ms: u64,
}

/// What an operator does while the cluster is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chores {
    /// Nothing.
    None,
    /// Partitions are handed to their preferred brokers, and the order of preference is changed.
    Elections,
    /// Replicas are moved, added and taken away as well.
    Moves,
}

/// One run.
#[derive(Clone, Debug)]
pub struct ClusterScenario {
    /// The topics.
    pub topics: Vec<ClusterTopic>,
    /// The producers.
    pub producers: Vec<(Kind, Volume)>,
    /// How many consumers.
    pub consumers: usize,
    /// How often something goes wrong.
    pub rounds: u32,
    /// Whether it begins before the cluster is founded.
    pub early: bool,
    /// Whether one broker loses its disk, or one copy on it, once.
    pub loses_disk: bool,
    /// What an operator does meanwhile.
    pub chores: Chores,
    /// The network's delays.
    pub delays: NetworkDelays,
    /// What the disks do between the troubles.
    pub faults: DiskFaults,
    /// Bytes of a journal file.
    pub journal_file_bytes: u64,
    /// Bytes of the tail cache.
    pub tail_cache_bytes: u64,
}

impl ClusterScenario {
    /// Draws a run.
    pub fn draw(rng: &mut Rng) -> ClusterScenario {
        let loses_disk = rng.chance(0.2);
        // At least one topic whose every record is on all brokers; all of them on two if a disk is lost.
        let topics = (0..rng.between(1, 3)).map(|number| {
            let replicas = match number {
                0 => 3,
                _ if loses_disk => rng.pick(&[2, 2, 3]),
                _ => rng.pick(&[1, 2, 3, 3]),
            };
            ClusterTopic {
                name: format!("topic-{number}"),
                partitions: rng.between(1, 3) as i32,
                replicas,
                min_insync: rng.between(1, replicas as u64) as i16,
                relaxed: false,
            }
        });
        let topics: Vec<ClusterTopic> = topics.collect();
        let mut kinds = vec![if rng.chance(0.7) { Kind::Idempotent } else { Kind::All }];
        for _ in 0..rng.below(3) {
            kinds.push(rng.pick(&[Kind::Idempotent, Kind::Idempotent, Kind::All, Kind::Leader]));
        }
        let producers = kinds.into_iter().map(|kind| {
            let (batch_records, record_bytes) = (rng.between(1, 10), rng.pick(&[20, 300, 2_000]));
            (kind, Volume { batch_records, record_bytes, uniform: false, pause_ms: rng.pick(&[10, 50, 300]) })
        });
        let mut scenario = ClusterScenario {
            topics,
            producers: producers.collect(),
            consumers: rng.between(1, 2) as usize,
            rounds: rng.between(2, 6) as u32,
            early: !loses_disk && rng.chance(0.15),
            loses_disk,
            chores: match rng.below(4) {
                0 => Chores::None,
                1 => Chores::Elections,
                // With a replica less a lost disk may be the last that has a record.
                _ if loses_disk => Chores::Elections,
                _ => Chores::Moves,
            },
            delays: NetworkDelays {
                usual_ms: rng.between(0, 5),
                slow_ms: rng.pick(&[20, 100, 400]),
                ..NetworkDelays::default()
            },
            faults: DiskFaults {
                slow_sync: rng.pick(&[0.0, 0.0, 0.02]),
                slow_sync_ms: rng.between(10, 700),
                ..DiskFaults::default()
            },
            journal_file_bytes: (256 << 10) << rng.below(3),
            tail_cache_bytes: (64 << 10) << rng.below(5),
        };
        // With a lost disk what power cuts leave may be too little for any majority.
        if !loses_disk && rng.chance(0.4) {
            let replicas = rng.pick(&[2, 3, 3]);
            scenario.topics.push(ClusterTopic {
                name: "topic-relaxed".to_owned(),
                partitions: rng.between(1, 2) as i32,
                replicas,
                min_insync: rng.between(1, replicas as u64) as i16,
                relaxed: true,
            });
        }
        scenario
    }
}

impl ClusterScenario {
    /// How many machines must have lost power before a partition may be without a majority that misses nothing.
    pub fn least_power_cuts(&self) -> usize {
        if self.chores == Chores::Moves { 1 } else { 2 }
    }
}

impl Blow {
    /// Draws what goes wrong next, one thing or two at a time.
    pub fn draw(rng: &mut Rng) -> Vec<Blow> {
        let first = rng.between(1, BROKERS as u64) as i32;
        let blow = Blow { trouble: Trouble::draw(rng), broker: first, hold_ms: rng.pick(&[100, 700, 2_000, 6_000]) };
        let mut blows = vec![blow];
        let touches_all = |trouble| matches!(trouble, Trouble::AllDie(_) | Trouble::RollingRestart);
        if !touches_all(blow.trouble) && rng.chance(0.3) {
            let broker = 1 + (first - 1 + rng.between(1, 2) as i32) % BROKERS;
            let trouble = Trouble::draw(rng);
            if !touches_all(trouble) {
                blows.push(Blow { trouble, broker, hold_ms: rng.between(50, 4_000) });
            }
        }
        blows
    }
}

impl Trouble {
    fn draw(rng: &mut Rng) -> Trouble {
        let crash = if rng.chance(0.6) { Crash::PowerCut } else { Crash::Kill };
        match rng.below(20) {
            0..3 => Trouble::Dies(crash),
            3..5 => Trouble::DiesAtOperation(rng.between(1, 300), crash),
            5 => Trouble::AllDie(crash),
            6 => Trouble::Stops,
            7..9 => Trouble::Pauses,
            9 => Trouble::SyncsSlowly(rng.between(50, 2_000)),
            10 => Trouble::Isolated,
            11 => Trouble::CutOff,
            12 => Trouble::Mute,
            13 => Trouble::Deaf,
            14 => Trouble::Flaps,
            15 => Trouble::Estranged,
            16 => Trouble::Breaks,
            17 => Trouble::ClockJumps(rng.pick(&[-3_600_000, -5_000, 5_000, 86_400_000])),
            18 => Trouble::SyncsFail,
            _ => Trouble::RollingRestart,
        }
    }
}
