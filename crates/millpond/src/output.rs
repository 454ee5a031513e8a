//! Standard output of the commands that print: buffered, and quiet when its reader has gone away.

use std::io::{self, BufWriter, StdoutLock, Write};

/// Standard output.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(crate) fn stdout() -> Output {
        Output(BufWriter::with_capacity(1 << 16, io::stdout().lock()))
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.write_all(b"\n")
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A text that may come from others, fit for a terminal: what is no letter but an order to it is shown as its number.
pub(crate) fn printable(text: &str) -> String {
    // Orders of direction let a text look like another.
    let turns = |letter| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() || turns(letter) {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    shown
}

/// A reader that has seen enough (`| head`) is no error.
pub(crate) fn quiet(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_text_of_others_gives_a_terminal_no_orders() {
        assert_eq!(printable("grün o'clock \\ 'x'"), "grün o'clock \\ 'x'");
        assert_eq!(printable("a\x1b[2J\tb\r\n\u{9b}c\u{202e}"), r"a\u{1b}[2J\tb\r\n\u{9b}c\u{202e}");
    }
}
