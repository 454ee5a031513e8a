//! One request to a broker's HTTP port, for what the Kafka protocol lacks.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use millpond_client::{Address, Tcp, Transport};
use millpond_runtime::Runtime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// What an answer may take before it is given up.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 8 << 20;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Posts nothing to a path and gives the answer, whatever its status.
pub(super) async fn post(runtime: &Runtime, address: &str, path: &str) -> Result<Answer> {
    ask(runtime, address, "POST", path).await
}

/// Gets what is at a path, whatever the status of the answer.
pub(crate) async fn get(runtime: &Runtime, address: &str, path: &str) -> Result<Answer> {
    ask(runtime, address, "GET", path).await
}

async fn ask(runtime: &Runtime, address: &str, method: &str, path: &str) -> Result<Answer> {
    let address: Address = address.parse().map_err(|error| anyhow!("{error} (--http)"))?;
    let asked = async {
        let connected = Tcp.connect(&address).await;
        let mut stream = connected.with_context(|| {
            format!("no broker answers at {address}; --http HOST:PORT names the HTTP port of another Millpond broker")
        })?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nAccept: application/json\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        read(stream).await.with_context(|| format!("{address} does not answer as a broker's HTTP port"))
    };
    match runtime.timeout(LIMIT, asked).await {
        Ok(answer) => answer,
        Err(_) => bail!("{address} did not answer within {} s", LIMIT.as_secs()),
    }
}

/// The answer up to the end of the connection, which was asked for.
async fn read(stream: impl AsyncRead + Unpin) -> Result<Answer> {
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > MAX_ANSWER_BYTES {
        bail!("its answer is longer than {MAX_ANSWER_BYTES} bytes");
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("the head of its answer has no end")?;
    let status = head.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok()).context("its answer has no status")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())?.ok()
    });
    if length.is_some_and(|length| body.len() < length) {
        bail!("its answer breaks off");
    }
    Ok(Answer { status, body: body.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(text: &str) -> Result<Answer, String> {
        read(text.as_bytes()).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_answer_is_its_status_and_its_body() {
        let good = answer("HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\nyes").await;
        assert_eq!(good, Ok(Answer { status: 202, body: "yes".into() }));
        assert_eq!(answer("HTTP/1.1 404 x\r\n\r\n").await, Ok(Answer { status: 404, body: String::new() }));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        for bad in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 \r\n\r\n", "HTTP/1.1 abc\r\n\r\n"] {
            answer(bad).await.expect_err(bad);
        }
        let cut = answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nyes").await;
        assert_eq!(cut, Err("its answer breaks off".into()));
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(9 << 20));
        assert!(answer(&long).await.expect_err("too long").contains("longer than"));
    }
}
