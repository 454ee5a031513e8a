//! Every command that connects, with TLS between it and the broker, which has none itself.

#![expect(clippy::disallowed_methods, reason = "drives real processes over real sockets")]

#[path = "../../millpond-client/tests/fake/authority.rs"]
mod authority;
mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use authority::{Authority, acceptor};
use support::{Broker, Folder};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// A broker behind TLS: its clients reach it there only.
struct Secured {
    broker: Broker,
    /// Where TLS is talked.
    address: String,
    folder: Folder,
}

impl Secured {
    /// Its certificate is for `name`. With `clients`, it wants one that this authority has signed.
    async fn start(test: &str, authority: &Authority, name: &str, clients: Option<&Authority>) -> Secured {
        let folder = Folder::new(test);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let broker = Broker::start(&folder.path().join("data"), &["--advertise", &address]);
        let (acceptor, plain) = (acceptor(&authority.sign(name), clients), broker.kafka);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who is not let in has its reason at the other end.
                    if let Ok(mut secured) = acceptor.accept(stream).await {
                        let mut plain = TcpStream::connect(plain).await.expect("the broker");
                        let _ = copy_bidirectional(&mut secured, &mut plain).await;
                    }
                });
            }
        });
        Secured { broker, address, folder }
    }

    /// A file with this in it.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.file(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    /// Output, error and status of a command that is given this on standard input.
    fn run(&self, line: &[&str], input: &str) -> (String, String, Option<i32>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.args(line).args(["--bootstrap", &self.address]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        // Who does not read it may have ended.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr), output.status.code())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_talks_tls_when_it_is_told_to() {
    let authority = Authority::new("authority");
    let secured = Secured::start("tls-commands", &authority, "127.0.0.1", None).await;
    let ca = secured.file("ca.pem", &authority.pem);
    for (line, input, expected) in [
        (&["topic", "create", "logs"][..], "", "logs is created"),
        (&["topic", "describe", "logs"], "", "logs"),
        (&["produce", "logs"], "a\nb\n", "2 records"),
        (&["consume", "logs", "--from", "earliest", "--count", "2"], "", "a\nb\n"),
        (&["consume", "logs", "--group", "readers", "--from", "earliest", "--count", "1"], "", "a\n"),
        (&["group", "list"], "", "readers"),
        (&["group", "describe", "readers"], "", "logs"),
        (&["cluster", "status"], "", &secured.address),
        (&["bench", "produce", "logs", "--records", "10"], "", "RECORDS"),
        (&["bench", "consume", "logs"], "", "RECORDS"),
        (&["bench", "latency", "logs", "--seconds", "1", "--warmup", "0", "--rate", "10"], "", "RECORDS"),
    ] {
        let (out, err, code) = secured.run(&[line, &["--tls-ca", &ca]].concat(), input);
        assert!(code == Some(0) && out.contains(expected), "{line:?}: {out} {err}");
    }
    drop(secured.broker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_trusted_and_who_asks_can_be_said() {
    let (brokers, clients) = (Authority::new("brokers"), Authority::new("clients"));
    let secured = Secured::start("tls-names", &brokers, "broker.test", Some(&clients)).await;
    let (chain, key) = clients.sign("client.test");
    let ca = secured.file("ca.pem", &brokers.pem);
    let (cert, key) = (secured.file("client.pem", &chain), secured.file("client.key", &key));
    let all = ["--tls-ca", &ca, "--tls-server-name", "broker.test", "--tls-cert", &cert, "--tls-key", &key];
    let (out, err, code) = secured.run(&[&["topic", "list"][..], &all].concat(), "");
    assert_eq!((err.as_str(), code), ("", Some(0)), "{out}");
    let other = secured.file("other.pem", &Authority::new("others").pem);
    let missing = secured.folder.file("missing.pem");
    let flags = "; --tls-ca, --tls-server-name, --tls-cert and --tls-key say whom to trust and who asks\n";
    for (line, expected, end) in [
        (&all[..2], "its certificate is not for '127.0.0.1'", flags),
        (&all[..4], "if it asks for a certificate, it must be shown one that it trusts", flags),
        (&["--tls-ca", &other, all[2], all[3]], "its certificate leads to no authority that is trusted here", flags),
        (&[], "no broker answers: ", "--tls that it talks TLS\n"),
        (&["--tls-ca", &missing], "cannot read ", "No such file or directory (os error 2)\n"),
        (&["--tls-ca", &key], "there is no certificate of the authorities", "(--tls-ca)\n"),
        (&["--tls", "--tls-server-name", "a b"], "TLS cannot be used: ", "\n"),
    ] {
        let (out, err, code) = secured.run(&[&["topic", "list"][..], line].concat(), "");
        assert_eq!((out.as_str(), code, err.lines().count()), ("", Some(1), 1), "{line:?}: {err}");
        assert!(err.contains(expected) && err.ends_with(end), "{line:?}: {err}");
    }
    let (_, err, code) = secured.run(&["topic", "list", "--tls-cert", &cert], "");
    assert_eq!(err, "millpond: --tls-key <FILE> is missing (see millpond topic list --help)\n");
    assert_eq!(code, Some(2));
    drop(secured.broker);
}
