//! The output of a child, line by line.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// A line is cut here: a child that writes without an end must not take memory without one.
const MAX_LINE_BYTES: usize = 64 << 10;

/// The next line without its end; `None` at the end of the output, or when it cannot be read.
pub(super) async fn next_line(read: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let some = read.fill_buf().await.ok()?;
        if some.is_empty() {
            return (!line.is_empty()).then(|| text(&line));
        }
        let room = MAX_LINE_BYTES - line.len();
        let end = some.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(some.len()).min(room);
        line.extend_from_slice(&some[..taken]);
        let whole = end == Some(taken);
        read.consume(taken + usize::from(whole));
        if whole || line.len() == MAX_LINE_BYTES {
            return Some(text(&line));
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_end_at_their_ends_at_the_end_and_at_the_limit() {
        let long = "x".repeat(MAX_LINE_BYTES);
        let output = format!("one\r\n\ntwo\n{long}y\nlast");
        let mut read = output.as_bytes();
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut read).await {
            lines.push(line);
        }
        assert_eq!(lines, ["one", "", "two", &long, "y", "last"]);
    }
}
