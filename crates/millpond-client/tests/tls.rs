//! TLS in front of a fake broker: who is trusted, who is not, and what is said then.

#[path = "fake/authority.rs"]
mod authority;
mod fake;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use authority::{Authority, acceptor};
use fake::{METADATA, Network, metadata, reply, serve};
use futures::future::BoxFuture;
use millpond_client::{Address, ClientConfig, Cluster, Duplex, Error, Tls, TlsConfig, Transport};
use tokio_rustls::TlsAcceptor;

/// Longer than a pipe and a record of TLS hold.
const LONG_NAME: usize = 30_000;

/// Who trusts it alone.
fn trusted(authority: &Authority) -> TlsConfig {
    TlsConfig::authorities(authority.pem.as_bytes()).expect("an authority")
}

/// The network, with TLS in front of its brokers.
struct Secured {
    network: Arc<Network>,
    acceptor: TlsAcceptor,
}

impl Secured {
    /// Its broker is `broker.test:9093`. With `clients`, it wants a certificate that this authority has signed.
    fn new(own: (String, String), clients: Option<&Authority>) -> Secured {
        let network = Network::new();
        network.broker("broker.test:9093", |peer| {
            serve(peer, &[METADATA], |asked| {
                let mut told = metadata(1, &[(1, "broker.test", 9093)]);
                told.cluster_id = Some("x".repeat(LONG_NAME).into());
                reply(asked, &told)
            })
        });
        Secured { network, acceptor: acceptor(&own, clients) }
    }
}

impl Transport for Secured {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let mut plain = self.network.connect(address).await?;
            let (here, there) = tokio::io::duplex(4096);
            let acceptor = self.acceptor.clone();
            self.spawn(Box::pin(async move {
                // Who is not let in has its reason at the other end.
                if let Ok(mut secured) = acceptor.accept(there).await {
                    let _ = tokio::io::copy_bidirectional(&mut secured, &mut plain).await;
                }
            }));
            Ok(Box::new(here) as Box<dyn Duplex>)
        })
    }
}

async fn connect(secured: Secured, config: TlsConfig) -> Result<Cluster, Error> {
    let tls = Tls::over(secured, config).expect("good settings");
    let client = ClientConfig::new("broker.test:9093").expect("an address").deadline(Duration::from_secs(20));
    Cluster::connect_with(client, Arc::new(tls)).await
}

/// Why the only broker is not trusted.
async fn refusal(secured: Secured, config: TlsConfig) -> String {
    let error = connect(secured, config).await.expect_err("it is not trusted");
    let Error::NoBroker(reasons) = &error else { panic!("{error}") };
    assert!(matches!(reasons[..], [Error::Untrusted { .. }]) && !error.is_retriable(), "{error}");
    reasons[0].to_string()
}

#[tokio::test]
async fn a_broker_whose_authority_is_trusted_is_talked_to() {
    let authority = Authority::new("authority");
    let secured = Secured::new(authority.sign("broker.test"), None);
    let cluster = connect(secured, trusted(&authority)).await.expect("it is trusted");
    let told = cluster.metadata(None).await.expect("an answer");
    assert_eq!(told.cluster_id.map(|id| id.len()), Some(LONG_NAME));
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_unless_that_name_is_expected() {
    let authority = Authority::new("authority");
    let told = refusal(Secured::new(authority.sign("other.test"), None), trusted(&authority)).await;
    assert_eq!(
        told,
        "broker.test:9093 is not trusted: its certificate is not for 'broker.test'; where that is right, the server's \
         name to expect must be set"
    );
    let expecting = trusted(&authority).server_name("other.test").expect("a name");
    connect(Secured::new(authority.sign("other.test"), None), expecting).await.expect("it is trusted");
}

#[tokio::test]
async fn an_authority_that_is_not_trusted_is_refused() {
    for name in ["another", "authority"] {
        let secured = Secured::new(Authority::new("authority").sign("broker.test"), None);
        assert_eq!(
            refusal(secured, trusted(&Authority::new(name))).await,
            "broker.test:9093 is not trusted: its certificate leads to no authority that is trusted here; the \
             one that signed it must be among them"
        );
    }
}

#[tokio::test]
async fn a_broker_that_wants_a_certificate_is_shown_one() {
    let (brokers, clients) = (Authority::new("authority"), Authority::new("authority"));
    let secured = || Secured::new(brokers.sign("broker.test"), Some(&clients));
    let (chain, key) = clients.sign("client.test");
    let shown = trusted(&brokers).certificate(chain.as_bytes(), key.as_bytes()).expect("good");
    connect(secured(), shown).await.expect("it is let in");
    let told = refusal(secured(), trusted(&brokers)).await;
    assert!(told.contains("CertificateRequired") && told.contains("must be shown one"), "{told}");
    let (chain, key) = Authority::new("authority").sign("client.test");
    let stranger = trusted(&brokers).certificate(chain.as_bytes(), key.as_bytes()).expect("good");
    let told = refusal(secured(), stranger).await;
    assert!(told.contains("UnknownCA") || told.contains("DecryptError"), "{told}");
}

#[tokio::test]
async fn a_port_for_plain_text_is_told_from_one_for_tls() {
    let network = Network::new();
    network.broker("broker.test:9093", |mut peer| async move {
        peer.bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.until_closed().await;
    });
    let tls = Tls::over(PlainText(network), trusted(&Authority::new("authority"))).expect("good settings");
    let client = ClientConfig::new("broker.test:9093").expect("an address");
    let error = Cluster::connect_with(client, Arc::new(tls)).await.expect_err("no TLS").to_string();
    assert!(error.ends_with("it does not answer as TLS; its port may be one for plain text"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_ends_the_connection_while_tls_is_set_up_may_be_one_for_plain_text() {
    let network = Network::new();
    // As a broker does to whom the first bytes are the length of a request that is too long.
    network.broker("broker.test:9093", |peer| async move { drop(peer) });
    let tls = Tls::over(PlainText(network), trusted(&Authority::new("authority"))).expect("good settings");
    let client = ClientConfig::new("broker.test:9093").expect("an address").deadline(Duration::from_secs(1));
    let error = Cluster::connect_with(client, Arc::new(tls)).await.expect_err("no TLS");
    assert!(error.is_retriable(), "it may be going away: {error}");
    let error = error.to_string();
    assert!(error.ends_with("while TLS is set up; its port may be one for plain text"), "{error}");
}

/// A transport by value, which the network is not.
struct PlainText(Arc<Network>);

impl Transport for PlainText {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>> {
        self.0.connect(address)
    }
}

#[test]
fn settings_that_are_of_no_use_are_refused_with_their_reason() {
    let authority = Authority::new("authority");
    let (chain, key) = authority.sign("client.test");
    let (_, other_key) = authority.sign("client.test");
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    let told = |result: Result<TlsConfig, Error>| result.expect_err("of no use").to_string();
    for (found, expected) in [
        (
            told(TlsConfig::authorities(b"")),
            "TLS cannot be used: there is no certificate of the authorities in the PEM",
        ),
        (
            told(TlsConfig::authorities(key.as_bytes())),
            "TLS cannot be used: there is no certificate of the authorities",
        ),
        (told(TlsConfig::authorities(broken.as_bytes())), "TLS cannot be used: the certificates of the authorities"),
        (
            told(trusted(&authority).certificate(chain.as_bytes(), chain.as_bytes())),
            "TLS cannot be used: there is no private key in the PEM",
        ),
        (told(trusted(&authority).server_name("a b")), "TLS cannot be used: 'a b' is neither a host's name"),
    ] {
        assert!(found.starts_with(expected), "{found}");
    }
    let torn = trusted(&authority).certificate(chain.as_bytes(), other_key.as_bytes()).expect("each is good");
    let shown = format!("{torn:?}");
    assert!(shown.contains("has_certificate: true") && !shown.contains("PRIVATE"), "{shown}");
    let error = Tls::new(torn).err().expect("they do not belong together").to_string();
    assert!(error.starts_with("TLS cannot be used: the client's certificate is of no use"), "{error}");
}
