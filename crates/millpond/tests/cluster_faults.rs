//! Three brokers in three processes, and what must hold whatever happens to them.

#![expect(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millpond_wire::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use millpond_wire::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use millpond_wire::metadata::MetadataRequest;
use support::cluster::{Cluster, IDS, throughout, until};
use support::{Broker, Client, batch, refused};

/// For so long nothing that must not happen happens. An election takes tenths of a second.
const WATCHED: Duration = Duration::from_secs(4);

/// The folders of partitions of a topic in a broker's data directory.
fn folders(cluster: &Cluster, id: i32, topic: &str) -> Vec<String> {
    let found = std::fs::read_dir(cluster.path(id)).expect("a data directory");
    let names = found.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with(topic)).collect()
}

#[test]
fn a_wiped_broker_makes_no_leader_of_one_that_lacks_what_was_acknowledged() {
    let mut cluster = Cluster::start("wiped-one", &[]);
    cluster.create_topic("logs", 1, &IDS);
    let writer = cluster.writer("logs", 0);
    writer.more(50);
    // The third misses what the first two acknowledge; then the second loses it, and the first is not there.
    cluster.kill(3);
    writer.more(50);
    let acknowledged = writer.stop();
    cluster.kill(2);
    cluster.wipe(2);
    cluster.kill(1);
    let (second, third) = (cluster.begin(2), cluster.begin(3));
    // Under its old id the emptied one would vote for the third, and two of three are a majority.
    let second = second.ready(WATCHED).err().expect("it has no controller to register with");
    let third = third.ready(Duration::ZERO).err().expect("it has no controller either");
    assert!(folders(&cluster, 2, "logs").is_empty());

    cluster.restart(&[1]);
    for (id, starting) in [(2, second), (3, third)] {
        cluster.joined(id, starting.ready(support::PATIENCE).unwrap_or_else(|_| panic!("broker {id} is not ready")));
    }
    cluster.assert_kept("logs", 0, &acknowledged);
    // The emptied one is filled under a new replica id, and may lead then: with everything.
    let filled = || (folders(&cluster, 2, "logs").len() == 1).then_some(());
    until("the emptied broker has a replica again", filled);
    let writer = cluster.writer("logs", 0);
    writer.more(20);
    let more = writer.stop();
    cluster.assert_kept("logs", 0, &more);
    cluster.assert_kept("logs", 0, &acknowledged);
}

/// Brokers that have all of the first partition of a topic, as one of them says.
fn in_sync(cluster: &Cluster, id: i32, topic: &str) -> usize {
    let answer = cluster.client(id).call(12, &MetadataRequest { topics: None, ..Default::default() });
    let found = answer.topics.iter().find(|found| found.name.as_deref() == Some(topic)).expect("the topic");
    found.partitions[0].isr_nodes.len()
}

#[test]
fn one_of_two_replicas_goes_on_when_the_disk_of_the_other_is_lost() {
    let mut cluster = Cluster::start("pair", &[]);
    let topics = ["led-there", "led-here"];
    cluster.create_topic(topics[0], 1, &[3, 2]);
    cluster.create_topic(topics[1], 1, &[2, 3]);
    let mut acknowledged = topics.map(|_| BTreeMap::new());
    let write = |cluster: &Cluster, all: &mut [BTreeMap<i64, String>]| {
        for (topic, acknowledged) in topics.iter().zip(all) {
            let writer = cluster.writer(topic, 0);
            writer.more(20);
            acknowledged.extend(writer.stop());
        }
    };
    write(&cluster, &mut acknowledged);
    cluster.kill(3);
    cluster.wipe(3);
    assert!(!cluster.takes(2, topics[1], 0, "alone"), "what it had may come back");
    cluster.restart(&[3]);
    write(&cluster, &mut acknowledged);
    for topic in topics {
        until("the emptied broker has it again", || (in_sync(&cluster, 2, topic) == 2).then_some(()));
        assert_eq!(folders(&cluster, 3, topic).len(), 1);
    }
    // They are pairs like any other.
    cluster.kill(2);
    throughout(WATCHED, || assert!(topics.iter().all(|topic| !cluster.takes(3, topic, 0, "alone"))));
    cluster.restart(&[2]);
    write(&cluster, &mut acknowledged);
    for (topic, acknowledged) in topics.iter().zip(&acknowledged) {
        cluster.assert_kept(topic, 0, acknowledged);
    }
}

#[test]
fn a_broker_that_has_a_cluster_of_its_own_does_not_join_another_with_it() {
    let mut cluster = Cluster::start("two-clusters", &[]);
    std::fs::create_dir_all(cluster.path(4)).expect("a folder for the broker");
    Broker::start(&cluster.path(4), &["--node-id", "4"]).kill();
    let output = refused(cluster.joining(4));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success());
    assert!(said.contains("belongs to cluster"), "{said}");
    cluster.wipe(4);
    let joined = Broker::run(cluster.joining(4));
    let mut client = joined.client();
    let controller = until("it knows all", || {
        let answer = client.call(12, &MetadataRequest::default());
        (answer.brokers.len() == 4 && IDS.contains(&answer.controller_id)).then_some(answer.controller_id)
    });
    // Its cluster is the one that it asks for: it comes back, at another address, whatever of the metadata it knows to
    // be committed.
    joined.kill();
    let joined = Broker::run(cluster.joining(4));
    // Also while the controller that it knew is away.
    joined.kill();
    cluster.kill(controller);
    drop(Broker::run(cluster.joining(4)));
}

#[test]
fn a_directory_that_was_replaced_meanwhile_is_refused_with_a_sentence() {
    let mut cluster = Cluster::start("put-back", &[]);
    cluster.create_topic("logs", 1, &IDS);
    cluster.kill(3);
    let aside = cluster.path(4);
    std::fs::rename(cluster.path(3), &aside).expect("it is moved aside");
    cluster.restart(&[3]);
    until("it has a replica again", || (folders(&cluster, 3, "logs").len() == 1).then_some(()));
    cluster.kill(3);
    let (current, held) = (cluster.path(5), folders(&cluster, 3, "logs"));
    std::fs::rename(cluster.path(3), &current).expect("it is moved aside");
    std::fs::rename(&aside, cluster.path(3)).expect("it is moved back");
    let output = cluster.refused(3);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success());
    assert!(said.contains("is not what the cluster has of this broker any more"), "{said}");
    // That it was tried has changed nothing: the directory in use is what the cluster has.
    cluster.wipe(3);
    std::fs::rename(&current, cluster.path(3)).expect("it is moved back");
    cluster.restart(&[3]);
    assert_eq!(folders(&cluster, 3, "logs"), held);
    // As it says.
    cluster.kill(3);
    cluster.wipe(3);
    cluster.restart(&[3]);
    until("it has a replica again", || (folders(&cluster, 3, "logs").len() == 1).then_some(()));
}

#[test]
fn two_wiped_brokers_of_three_found_no_cluster_and_lead_nothing() {
    let mut cluster = Cluster::start("wiped-two", &[]);
    cluster.create_topic("logs", 1, &IDS);
    let leader = cluster.leader("logs", 0);
    assert!(until("it is written", || cluster.takes(leader, "logs", 0, "x").then_some(true)));
    IDS.iter().for_each(|id| cluster.kill(*id));
    // The first of the list, who would found, and another.
    cluster.wipe(1);
    cluster.wipe(2);
    let wiped = [cluster.begin(1), cluster.begin(2)].map(|starting| starting.ready(WATCHED).err());
    assert!(wiped.iter().all(Option::is_some), "they wait for the third");
    assert!(folders(&cluster, 1, "__cluster_metadata").is_empty());
    let third = cluster.begin(3);
    assert!(third.ready(WATCHED).is_err(), "one of three votes makes no controller");
    for id in [1, 2] {
        assert!(folders(&cluster, id, "__cluster_metadata").is_empty(), "broker {id}");
    }
    assert_eq!(folders(&cluster, 3, "logs").len(), 1);
}

#[test]
fn a_broker_that_was_away_serves_only_the_new_topic_of_a_name() {
    let mut cluster = Cluster::start("made-again", &[]);
    // The third leads the old one, and is to lead the new one.
    cluster.create_topic("logs", 1, &[3, 1, 2]);
    let writer = cluster.writer("logs", 0);
    writer.more(30);
    drop(writer.stop());
    cluster.kill(3);
    let old = DeleteTopicState { name: Some("logs".into()), ..Default::default() };
    let delete = DeleteTopicsRequest { topics: vec![old], timeout_ms: 20_000, ..Default::default() };
    until("the topic is deleted", || {
        let code = cluster.client(1).call(6, &delete).responses[0].error_code;
        matches!(code, 0 | 3).then_some(())
    });
    cluster.create_topic("logs", 1, &[3, 1, 2]);
    let writer = cluster.writer("logs", 0);
    writer.more(10);
    let new = writer.stop();
    cluster.restart(&[3]);
    // From its start on: nothing of the old topic, whoever is asked.
    let mut third = cluster.client(3);
    let mine = || third.try_read_all("logs", 0).expect("it answers").ok();
    until("the third leads again", || {
        elect_preferred(&mut cluster.client(1), "logs", 0);
        (cluster.leader("logs", 0) == 3).then_some(())
    });
    let read = until("the third serves", mine);
    assert!(read.len() >= new.len() && read.len() < 30, "{} records", read.len());
    cluster.assert_kept("logs", 0, &new);
    assert_eq!(folders(&cluster, 3, "logs").len(), 1, "the old one is gone");
}

fn elect_preferred(client: &mut Client, topic: &str, partition: i32) {
    let wanted = TopicPartitions { topic: topic.to_owned().into(), partitions: vec![partition] };
    let request = ElectLeadersRequest { election_type: 0, topic_partitions: Some(vec![wanted]), timeout_ms: 5000 };
    drop(client.try_call(2, &request));
}

#[test]
fn writes_go_on_when_the_broker_that_takes_over_dies_at_that_moment() {
    let mut cluster = Cluster::start("taken-and-dead", &[]);
    cluster.create_topic("logs", 1, &[3, 1, 2]);
    let mut acknowledged = None;
    for delay_ms in [0, 1, 3, 10] {
        // It is preferred, but another leads because it was away.
        cluster.kill(3);
        assert_ne!(cluster.leader("logs", 0), 3);
        cluster.restart(&[3]);
        let writer = cluster.writer("logs", 0);
        writer.more(100);
        let before = writer.longest_pause();
        let mut client = cluster.client(1);
        let transfer = std::thread::spawn(move || elect_preferred(&mut client, "logs", 0));
        std::thread::park_timeout(Duration::from_millis(delay_ms));
        cluster.kill(3);
        writer.more(100);
        let pause = writer.longest_pause();
        println!("killed after {delay_ms} ms: writes paused for {pause:?} (for {before:?} before)");
        assert!(pause < Duration::from_secs(3), "writes paused for {pause:?}");
        transfer.join().expect("it ends");
        acknowledged = Some(writer.stop());
        cluster.restart(&[3]);
        cluster.assert_kept("logs", 0, acknowledged.as_ref().expect("just written"));
    }
    cluster.assert_kept("logs", 0, &acknowledged.expect("four rounds"));
}

#[test]
fn all_partitions_take_writes_soon_after_all_brokers_were_restarted() {
    const PARTITIONS: i32 = 300;
    let mut cluster = Cluster::start("restarted", &[]);
    cluster.create_topic("logs", PARTITIONS, &IDS);
    let mut acknowledged = Vec::new();
    for partition in 0..PARTITIONS {
        acknowledged.push(until("it is written", || {
            let leader = cluster.leader_by(1, "logs", partition)?;
            let (code, offset) = cluster.client(leader).produce("logs", partition, -1, batch(&["before"]));
            (code == 0).then_some(offset)
        }));
    }
    IDS.iter().for_each(|id| cluster.kill(*id));
    let start = Instant::now();
    cluster.restart(&IDS);
    let ready = start.elapsed();
    let mut clients = IDS.map(|id| (id, cluster.client(id)));
    for partition in 0..PARTITIONS {
        until("it takes a write", || {
            let leader = cluster.leader_by(1, "logs", partition)?;
            let (_, client) = clients.iter_mut().find(|(id, _)| *id == leader)?;
            (client.produce("logs", partition, -1, batch(&["after"])).0 == 0).then_some(())
        });
    }
    let writable = start.elapsed();
    println!("{PARTITIONS} partitions: brokers ready after {ready:?}, all written to after {writable:?}");
    assert!(writable < Duration::from_secs(30), "{writable:?}");
    for partition in [0, PARTITIONS / 2, PARTITIONS - 1] {
        let read = cluster.read("logs", partition);
        assert_eq!(read[&acknowledged[partition as usize]], "before");
    }
}

/// Has a partition's folder say that it is another one's, as after a file system that was repaired wrongly.
fn damage(cluster: &Cluster, id: i32, folder: &str) {
    let owner = cluster.path(id).join(folder).join("partition.metadata");
    std::fs::write(owner, "version: 1\ngroup: 999\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA\n").expect("written");
}

#[test]
fn a_replica_that_finds_itself_damaged_is_replaced_and_filled_and_its_files_are_kept() {
    let mut cluster = Cluster::start("damaged", &[]);
    cluster.create_topic("logs", 2, &[3, 1, 2]);
    let writer = cluster.writer("logs", 0);
    writer.more(300);
    let acknowledged = writer.stop();
    cluster.kill(3);
    damage(&cluster, 3, "logs-0");
    cluster.restart(&[3]);
    let kept = || folders(&cluster, 3, "logs").contains(&"logs-0.1.stray".to_owned()).then_some(());
    until("the damaged files are set aside", kept);
    until("there is a replica again", || folders(&cluster, 3, "logs").contains(&"logs-0".to_owned()).then_some(()));
    until("it may lead again, with everything", || {
        elect_preferred(&mut cluster.client(1), "logs", 0);
        (cluster.leader("logs", 0) == 3).then_some(())
    });
    cluster.assert_kept("logs", 0, &acknowledged);
    let writer = cluster.writer("logs", 0);
    writer.more(20);
    let more = writer.stop();
    cluster.assert_kept("logs", 0, &more);
    // The other partition of the broker was served all the time.
    assert!(folders(&cluster, 3, "logs").contains(&"logs-1".to_owned()));
}
