//! A connection against brokers that answer well, badly, late, or not at all.

#![expect(clippy::disallowed_methods, reason = "reads the clock that the test has paused")]

mod fake;

use std::sync::Arc;
use std::time::Duration;

use fake::{Network, Peer, config, metadata, versions};
use millpond_client::{Connection, Error, ErrorCode};
use millpond_wire::ApiKey;
use millpond_wire::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use millpond_wire::heartbeat::HeartbeatRequest;
use millpond_wire::metadata::MetadataRequest;

const LIMIT: Duration = Duration::from_secs(5);
const ROWS: &[(ApiKey, i16, i16)] = &[(ApiKey::METADATA, 0, 13)];

async fn open(network: &Arc<Network>) -> Result<Connection, Error> {
    Connection::open(&**network, &"a:1".parse().expect("an address"), &config()).await
}

/// A connection whose broker tells its versions and then does as the script says.
async fn opened<F, W>(script: F) -> Connection
where
    F: Fn(Peer) -> W + Send + Sync + Clone + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let network = Network::new().broker("a:1", move |mut peer| {
        let script = script.clone();
        async move {
            peer.versions(ROWS).await;
            script(peer).await;
        }
    });
    open(&network).await.expect("the broker is good so far")
}

async fn ask(connection: &Connection) -> Result<i32, Error> {
    let answer = connection.call(9, &MetadataRequest::default(), LIMIT).await?;
    Ok(answer.controller_id)
}

fn broken(result: Result<i32, Error>) -> String {
    match result {
        Err(error @ Error::Protocol { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_knows_the_versions_that_its_broker_told() {
    let connection = opened(Peer::until_closed).await;
    assert_eq!(connection.versions().of(ApiKey::METADATA), Some((0, 13)));
    assert_eq!(connection.version::<MetadataRequest>(4).expect("both speak it"), 13);
    let error = connection.version::<HeartbeatRequest>(0).expect_err("it is not served");
    assert!(matches!(error, Error::Unsupported { api: ApiKey::HEARTBEAT, .. }) && !error.is_retriable(), "{error}");
}

#[tokio::test]
async fn a_broker_that_does_not_know_the_newest_question_is_asked_as_it_can_be() {
    // What the first answer names as the range of ApiVersions, and the version of the second question.
    for (named, expected) in [(Some((0, 2)), 2), (Some((0, 0)), 0), (Some((0, 99)), 3), (None, 0)] {
        let network = Network::new().broker("a:1", move |mut peer| async move {
            let first = peer.request().await.expect("a question");
            assert_eq!(first.header.api_version, 4);
            let rows: Vec<_> = named.map(|(low, high)| (ApiKey::API_VERSIONS, low, high)).into_iter().collect();
            let error_code = ErrorCode::UNSUPPORTED_VERSION.0;
            let refusal = ApiVersionsResponse { error_code, ..versions(&rows) };
            peer.answer_as(first.header.correlation_id, 0, &refusal).await;
            let second = peer.request().await.expect("another question");
            assert_eq!(second.header.api_version, expected);
            let _: ApiVersionsRequest = second.body();
            peer.answer(&second, &versions(ROWS)).await;
            peer.until_closed().await;
        });
        let connection = open(&network).await.expect("they agree");
        assert_eq!(connection.versions().of(ApiKey::METADATA), Some((0, 13)));
    }
}

#[tokio::test]
async fn a_broker_that_refuses_the_question_for_versions_is_refused() {
    let network = Network::new().broker("a:1", |mut peer| async move {
        let asked = peer.request().await.expect("a question");
        let refusal = ApiVersionsResponse { error_code: ErrorCode::INVALID_REQUEST.0, ..Default::default() };
        peer.answer(&asked, &refusal).await;
        peer.until_closed().await;
    });
    let error = open(&network).await.err().expect("no versions, no connection");
    assert_eq!(error.code(), Some(ErrorCode::INVALID_REQUEST));
}

#[tokio::test]
async fn calls_leave_without_waiting_for_each_other_and_get_their_own_answers() {
    let connection = opened(|mut peer: Peer| async move {
        let mut asked = Vec::new();
        for _ in 0..3 {
            asked.push(peer.request().await.expect("all three come before an answer"));
        }
        for (controller, asked) in (7..).zip(&asked) {
            peer.answer(asked, &metadata(controller, &[])).await;
        }
        peer.until_closed().await;
    })
    .await;
    let (a, b, c) = tokio::join!(ask(&connection), ask(&connection), ask(&connection));
    assert_eq!([a, b, c].map(|answer| answer.expect("an answer")), [7, 8, 9]);
}

#[tokio::test]
async fn a_dropped_call_neither_disturbs_the_next_nor_keeps_its_place() {
    let connection = opened(|mut peer: Peer| async move {
        let first = peer.request().await.expect("the call that is dropped");
        let second = peer.request().await.expect("the call after it");
        peer.answer(&first, &metadata(1, &[])).await;
        peer.answer(&second, &metadata(2, &[])).await;
        peer.until_closed().await;
    })
    .await;
    {
        let dropped = ask(&connection);
        tokio::pin!(dropped);
        // Until the task of the connection has sent it.
        for _ in 0..10 {
            assert!(futures::poll!(&mut dropped).is_pending());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(ask(&connection).await.expect("its own answer"), 2);
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_waits_for_room_is_never_sent() {
    let network = Network::new().broker("a:1", |mut peer| async move {
        peer.versions(ROWS).await;
        let only = peer.request().await.expect("the first call");
        // A second request would have to come before the first is answered; the last call says that it did not.
        let early = tokio::time::timeout(Duration::from_secs(1), peer.request()).await;
        assert!(early.is_err(), "one request at a time");
        peer.answer(&only, &metadata(1, &[])).await;
        let last = peer.request().await.expect("the last call");
        assert_eq!(last.header.correlation_id, only.header.correlation_id + 2, "the second took an id and was dropped");
        peer.answer(&last, &metadata(3, &[])).await;
        peer.until_closed().await;
    });
    tokio::time::pause();
    let config = config().max_in_flight(1);
    let address = "a:1".parse().expect("an address");
    let connection = Connection::open(&*network, &address, &config).await.expect("a good broker");
    let first = ask(&connection);
    tokio::pin!(first);
    assert!(futures::poll!(&mut first).is_pending());
    {
        let second = ask(&connection);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
    }
    assert_eq!(first.await.expect("an answer"), 1);
    assert_eq!(ask(&connection).await.expect("an answer"), 3);
}

#[tokio::test]
async fn an_answer_to_another_request_ends_the_connection() {
    let connection = opened(|mut peer: Peer| async move {
        let asked = peer.request().await.expect("a call");
        peer.answer_as(asked.header.correlation_id + 5, 9, &metadata(1, &[])).await;
        peer.until_closed().await;
    })
    .await;
    let error = broken(ask(&connection).await);
    assert!(error.contains("correlation id 6 instead of 1"), "{error}");
    assert!(connection.is_closed());
    broken(ask(&connection).await);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let connection = opened(|mut peer: Peer| async move {
        peer.answer_as(1, 9, &metadata(1, &[])).await;
        peer.until_closed().await;
    })
    .await;
    while !connection.is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(broken(ask(&connection).await).contains("nobody asked for"));
}

#[tokio::test]
async fn frames_that_cannot_be_end_the_connection_and_take_no_memory() {
    let cases: [(&'static [u8], &str); 5] = [
        (b"\xff\xff\xff\xff", "where 104857600 are allowed"),
        (b"\x7f\xff\xff\xff", "an answer of 2147483647 bytes"),
        (b"\x0c\x80\0\0", "an answer of 209715200 bytes"),
        (b"\0\0\0\x03abc", "too short for its header"),
        (b"\0\0\0\x0c\0\0\0\x01\0\0\0\0\0\x7f\xff\xff", "its answer to MetadataRequest"),
    ];
    for (bytes, expected) in cases {
        let connection = opened(move |mut peer: Peer| async move {
            peer.request().await.expect("a call");
            peer.bytes(bytes).await;
            peer.until_closed().await;
        })
        .await;
        let error = broken(ask(&connection).await);
        assert!(error.contains(expected), "{error}");
        assert!(connection.is_closed());
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_end_the_connection() {
    let connection = opened(|mut peer: Peer| async move {
        let asked = peer.request().await.expect("a call");
        let frame = millpond_wire::encode_response(asked.header.correlation_id, 9, &metadata(1, &[]));
        let mut frame = frame.expect("it can be said").to_bytes().to_vec();
        frame.push(0);
        let length = i32::try_from(frame.len() - 4).expect("short").to_be_bytes();
        frame[..4].copy_from_slice(&length);
        peer.bytes(&frame).await;
        peer.until_closed().await;
    })
    .await;
    assert!(broken(ask(&connection).await).contains("left behind the message"));
}

#[tokio::test]
async fn a_broker_that_closes_in_the_middle_of_an_answer_is_lost_not_wrong() {
    for sent in [&b""[..], b"\0\0", b"\0\0\x10\0abc"] {
        let connection = opened(move |mut peer: Peer| async move {
            peer.request().await.expect("a call");
            peer.bytes(sent).await;
        })
        .await;
        let (first, second) = tokio::join!(ask(&connection), ask(&connection));
        for error in [first.expect_err("it closed"), second.expect_err("it closed")] {
            assert!(matches!(error, Error::Disconnected { .. }) && error.is_retriable(), "{error}");
            assert!(error.to_string().contains("the broker closed it"), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_is_given_up_after_the_limit() {
    let connection = opened(Peer::until_closed).await;
    let started = tokio::time::Instant::now();
    let error = ask(&connection).await.expect_err("no answer");
    assert!(matches!(error, Error::TimedOut { after: LIMIT, .. }) && error.is_retriable(), "{error}");
    assert!(started.elapsed() >= LIMIT && started.elapsed() < LIMIT * 2);
    let error = ask(&connection).await.expect_err("what comes now could be the old answer");
    assert!(error.to_string().contains("was not answered within 5000 ms"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_trickles_in_is_read_as_long_as_it_is_in_time() {
    let connection = opened(|mut peer: Peer| async move {
        let asked = peer.request().await.expect("a call");
        let frame = millpond_wire::encode_response(asked.header.correlation_id, 9, &metadata(5, &[(1, "b", 2)]));
        for byte in frame.expect("it can be said").to_bytes() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            peer.bytes(&[byte]).await;
        }
        peer.until_closed().await;
    })
    .await;
    assert_eq!(ask(&connection).await.expect("it came in time"), 5);
}

#[tokio::test(start_paused = true)]
async fn one_who_takes_the_connection_and_says_nothing_is_given_up_after_the_limit_for_connecting() {
    let network = Network::new().broker("a:1", Peer::until_closed);
    let started = tokio::time::Instant::now();
    let error = open(&network).await.err().expect("no versions");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_connection() {
    let (closed, told) = tokio::sync::oneshot::channel();
    let closed = Arc::new(std::sync::Mutex::new(Some(closed)));
    let connection = opened(move |peer: Peer| {
        let closed = Arc::clone(&closed);
        async move {
            peer.until_closed().await;
            let closed = closed.lock().expect("no test panics here").take();
            closed.expect("one connection").send(()).expect("the test waits");
        }
    })
    .await;
    let other = connection.clone();
    drop(connection);
    assert!(!other.is_closed());
    drop(other);
    told.await.expect("the broker sees the end");
}
