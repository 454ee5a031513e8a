//! A cluster of fake brokers: finding it, its controller, what is tried again, and what is not.

#![expect(clippy::disallowed_methods, reason = "reads and waits on the clock that the test has paused")]

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fake::{Asked, METADATA, Network, Reply, config, metadata, reply, serve};
use millpond_client::{Admin, ClientConfig, Cluster, Error, ErrorCode, NewTopic, Target};
use millpond_wire::ApiKey;
use millpond_wire::create_topics::{CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse};
use millpond_wire::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};
use millpond_wire::metadata::MetadataRequest;

const CREATE: (ApiKey, i16, i16) = (ApiKey::CREATE_TOPICS, 2, 7);
const TWO: &[(i32, &str, i32)] = &[(1, "a", 1), (2, "b", 1)];

async fn connect(network: &Arc<Network>) -> Admin {
    Admin::connect_with(config(), network.clone()).await.expect("a broker answers")
}

/// Answers CreateTopics with this code for each topic.
fn created(asked: &Asked, code: ErrorCode) -> Reply {
    let request: CreateTopicsRequest = asked.body();
    let topic = |topic: &millpond_wire::create_topics::CreatableTopic| CreatableTopicResult {
        name: topic.name.clone(),
        error_code: code.0,
        num_partitions: 3,
        replication_factor: 1,
        ..Default::default()
    };
    reply(asked, &CreateTopicsResponse { topics: request.topics.iter().map(topic).collect(), ..Default::default() })
}

#[tokio::test]
async fn any_address_of_the_list_finds_the_whole_cluster() {
    let network = Network::new().broker("b:1", |peer| async move {
        serve(peer, &[METADATA], |asked| reply(asked, &metadata(2, TWO))).await;
    });
    let config = ClientConfig::new("gone:1, b:1").expect("two addresses");
    let cluster = Cluster::connect_with(config, network.clone()).await.expect("the second answers");
    assert_eq!(cluster.controller(), Some(2));
    let brokers: Vec<_> = cluster.brokers().iter().map(|broker| (broker.id, broker.address.to_string())).collect();
    assert_eq!(brokers, [(1, "a:1".to_owned()), (2, "b:1".to_owned())]);
}

#[tokio::test]
async fn when_no_address_answers_it_is_said_at_once_for_each() {
    let network = Network::new();
    let config = ClientConfig::new("gone:1,away:2").expect("two addresses");
    let error = Cluster::connect_with(config, network.clone()).await.expect_err("nobody is there");
    assert!(error.is_retriable());
    let text = error.to_string();
    assert!(text.starts_with("no broker answers: gone:1 cannot be reached") && text.contains("; away:2 "), "{text}");
    assert_eq!((network.connects("gone:1"), network.connects("away:2")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_for_the_controller_follows_it_when_it_moves() {
    let controller = Arc::new(AtomicUsize::new(1));
    let network = Network::new();
    for (id, address) in [(1, "a:1"), (2, "b:1")] {
        let controller = Arc::clone(&controller);
        network.broker(address, move |peer| {
            let controller = Arc::clone(&controller);
            async move {
                serve(peer, &[METADATA, CREATE], |asked| {
                    let now = controller.load(Ordering::Relaxed);
                    if asked.is(ApiKey::METADATA) {
                        return reply(asked, &metadata(i32::try_from(now).expect("small"), TWO));
                    }
                    // The first controller learns while it is asked that it is none any more.
                    if id == 1 {
                        controller.store(2, Ordering::Relaxed);
                        return created(asked, ErrorCode::NOT_CONTROLLER);
                    }
                    created(asked, ErrorCode::NONE)
                })
                .await;
            }
        });
    }
    let admin = connect(&network).await;
    let outcome = admin.create_topics(&[NewTopic::new("logs")]).await.expect("the second broker does it");
    assert_eq!(outcome["logs"].as_ref().expect("created").partitions, Some(3));
    assert_eq!(admin.cluster().controller(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_made_again_and_the_call_is_tried_again() {
    let network = Network::new();
    let lost = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lost);
    network.broker("a:1", move |peer| {
        let lost = Arc::clone(&counted);
        async move {
            serve(peer, &[METADATA, CREATE], |asked| {
                if asked.is(ApiKey::METADATA) {
                    reply(asked, &metadata(1, &[(1, "a", 1)]))
                } else if lost.fetch_add(1, Ordering::Relaxed) < 3 {
                    Reply::Close
                } else {
                    created(asked, ErrorCode::NONE)
                }
            })
            .await;
        }
    });
    let admin = connect(&network).await;
    let outcome = admin.create_topics(&[NewTopic::new("logs")]).await.expect("the fourth time");
    assert!(outcome["logs"].is_ok());
    assert_eq!(lost.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stays_away_is_given_up_at_the_deadline_and_not_hammered() {
    let network = Network::new().broker("a:1", |peer| async move {
        serve(peer, &[METADATA], |asked| match asked.body::<MetadataRequest>().topics {
            Some(none) if none.is_empty() => reply(asked, &metadata(1, &[(1, "a", 1)])),
            _ => Reply::Close,
        })
        .await;
    });
    let admin = connect(&network).await;
    network.remove("a:1");
    let started = tokio::time::Instant::now();
    let error = admin.list_topics().await.expect_err("nobody is there");
    assert!(matches!(error, Error::GaveUp { .. }) && error.is_retriable(), "{error}");
    assert!(started.elapsed() <= Duration::from_secs(20) && started.elapsed() > Duration::from_secs(17));
    let connects = network.connects("a:1");
    assert!((10..40).contains(&connects), "{connects} attempts in 20 s with pauses of up to a second");
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_holds_a_call_no_longer_than_its_deadline() {
    let network = Network::new().broker("a:1", |peer| async move {
        serve(peer, &[METADATA], |asked| match asked.body::<MetadataRequest>().topics {
            Some(none) if none.is_empty() => reply(asked, &metadata(1, &[(1, "a", 1)])),
            _ => Reply::Nothing,
        })
        .await;
    });
    let admin = connect(&network).await;
    let started = tokio::time::Instant::now();
    let error = admin.list_topics().await.expect_err("no answer");
    assert!(error.is_retriable(), "{error}");
    assert!(started.elapsed() <= Duration::from_secs(21), "{:?}", started.elapsed());
    assert!(network.connects("a:1") > 2, "it was tried again on new connections");
}

#[tokio::test]
async fn what_does_not_pass_is_not_tried_again() {
    let asked_for = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked_for);
    let network = Network::new().broker("a:1", move |peer| {
        let counted = Arc::clone(&counted);
        async move {
            serve(peer, &[METADATA, CREATE], |asked| {
                if asked.is(ApiKey::METADATA) {
                    return reply(asked, &metadata(1, &[(1, "a", 1)]));
                }
                counted.fetch_add(1, Ordering::Relaxed);
                created(asked, ErrorCode::TOPIC_ALREADY_EXISTS)
            })
            .await;
        }
    });
    let admin = connect(&network).await;
    let outcome = admin.create_topics(&[NewTopic::new("logs")]).await.expect("an answer");
    let error = outcome["logs"].as_ref().expect_err("it exists");
    assert_eq!(error.to_string(), "the topic logs is not created: TOPIC_ALREADY_EXISTS");
    assert_eq!(asked_for.load(Ordering::Relaxed), 1);
    let error = admin.describe_quorum().await.expect_err("the broker does not serve it");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let error = admin.cluster().connection_to(Target::Broker(9)).await.err().expect("there is no such broker");
    assert_eq!(error.code(), Some(ErrorCode::BROKER_NOT_AVAILABLE));
}

#[tokio::test]
async fn a_broker_before_kafka_2_8_describes_its_cluster_by_its_metadata() {
    let network = Network::new().broker("a:1", |peer| async move {
        serve(peer, &[(ApiKey::METADATA, 0, 9)], |asked| reply(asked, &metadata(2, TWO))).await;
    });
    let cluster = connect(&network).await.describe_cluster().await.expect("both can say it");
    assert_eq!((cluster.id.as_deref(), cluster.controller, cluster.brokers.len()), (Some("fake"), Some(2), 2));
}

#[tokio::test]
async fn topics_are_deleted_in_the_field_that_the_version_has() {
    for version in [5, 6] {
        let network = Network::new().broker("a:1", move |peer| async move {
            serve(peer, &[METADATA, (ApiKey::DELETE_TOPICS, 1, version)], |asked| {
                if asked.is(ApiKey::METADATA) {
                    return reply(asked, &metadata(1, &[(1, "a", 1)]));
                }
                let request: DeleteTopicsRequest = asked.body();
                let by_state = request.topics.iter().filter_map(|topic| topic.name.clone());
                let names = request.topic_names.iter().cloned().chain(by_state);
                let result = |name| DeletableTopicResult { name: Some(name), ..Default::default() };
                reply(asked, &DeleteTopicsResponse { responses: names.map(result).collect(), ..Default::default() })
            })
            .await;
        });
        let outcome = connect(&network).await.delete_topics(&["logs"]).await.expect("an answer");
        assert!(outcome["logs"].is_ok(), "version {version}");
    }
}

#[tokio::test]
async fn asking_for_topics_never_creates_them() {
    let network = Network::new().broker("a:1", |peer| async move {
        serve(peer, &[METADATA], |asked| {
            let request: MetadataRequest = asked.body();
            assert!(!request.allow_auto_topic_creation);
            reply(asked, &metadata(1, &[(1, "a", 1)]))
        })
        .await;
    });
    let admin = connect(&network).await;
    assert!(admin.describe_topics(&["logs"]).await.expect("an answer").is_empty());
    assert!(admin.describe_topics(&[]).await.expect("nothing is asked").is_empty());
    assert_eq!(admin.list_topics().await.expect("an answer"), []);
}

#[tokio::test]
async fn addresses_that_nobody_can_connect_to_are_left_out() {
    let network = Network::new().broker("a:1", |peer| async move {
        let told: &[(i32, &str, i32)] = &[(1, "a", 1), (2, "", 9), (3, "c", -1), (4, "d", 70_000)];
        serve(peer, &[METADATA], move |asked| reply(asked, &metadata(3, told))).await;
    });
    let admin = connect(&network).await;
    assert_eq!(admin.cluster().brokers().len(), 1);
    assert_eq!(admin.cluster().controller(), None);
}

#[tokio::test]
async fn every_call_can_run_in_a_task_of_its_own() {
    fn in_a_task<F: Future + Send + 'static>(_: F) {}
    let network = Network::new().broker("a:1", |peer| async move {
        serve(peer, &[METADATA], |asked| reply(asked, &metadata(1, &[(1, "a", 1)]))).await;
    });
    let admin = connect(&network).await;
    in_a_task({
        let admin = admin.clone();
        async move { (admin.create_topics(&[]).await, admin.delete_topics(&[]).await, admin.list_topics().await) }
    });
    in_a_task({
        let admin = admin.clone();
        async move { (admin.describe_configs(&[]).await, admin.alter_configs(&[]).await) }
    });
    in_a_task({
        let admin = admin.clone();
        async move {
            let moves = admin.alter_reassignments(&Default::default()).await;
            (moves, admin.list_reassignments(None).await, admin.create_partitions(&[], &[]).await)
        }
    });
    in_a_task(async move {
        let elected = admin.elect_leaders(millpond_client::ElectionType::Preferred, None).await;
        (elected, admin.describe_cluster().await, admin.describe_quorum().await, admin.unregister_broker(1).await)
    });
}

#[tokio::test(start_paused = true)]
async fn where_any_broker_will_do_one_that_is_not_trusted_is_passed_over() {
    let network = Network::new().broker("a:1", |mut peer| async move {
        peer.versions(&[METADATA]).await;
        // One answer to a connection, so that with each call it is somebody's turn.
        if let Some(asked) = peer.request().await {
            peer.answer(&asked, &metadata(1, TWO)).await;
        }
    });
    network.distrust("b:1");
    let cluster = Cluster::connect_with(config(), network.clone()).await.expect("the first answers");
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.metadata(None).await.expect("the first answers");
    }
    assert!(network.connects("b:1") > 0, "it had its turn");
    network.distrust("a:1");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let error = cluster.metadata(None).await.expect_err("nobody is left");
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
}
