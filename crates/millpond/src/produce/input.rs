//! What is read: standard input or files, as lines or as wholes.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use millpond_runtime::Runtime;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;

type Reader = Box<dyn Read + Send>;

/// The sources, one after the other.
pub(super) struct Input {
    runtime: Runtime,
    files: VecDeque<PathBuf>,
    /// What was read last, of all but standard input.
    file: Option<String>,
    /// `None` between two sources; its name is said when it cannot be read.
    current: Option<(Reader, String)>,
}

impl Input {
    /// Reads standard input, or these files if there are any.
    pub(super) fn new(runtime: &Runtime, files: &[PathBuf]) -> Input {
        let stdin: (Reader, String) = (Box::new(io::stdin()), "standard input".to_owned());
        let current = files.is_empty().then_some(stdin);
        Input { runtime: runtime.clone(), files: files.iter().cloned().collect(), file: None, current }
    }

    /// Where the record of this number stands in what was read last, for messages.
    pub(super) fn place(&self, number: u64, whole: bool) -> String {
        match &self.file {
            Some(file) if whole => file.clone(),
            Some(file) => format!("line {number} of {file}"),
            None => format!("line {number}"),
        }
    }

    /// Appends what there is by now, at least a byte, to `buffer`. At the end of a source it appends nothing, and gives
    /// `Some(true)`; `None` when there is no further source.
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Option<bool>> {
        let (mut reader, name) = match self.current.take() {
            Some(current) => current,
            None => match self.files.pop_front() {
                Some(path) => {
                    let name = path.display().to_string();
                    self.file = Some(name.clone());
                    (open(&path)?, name)
                }
                None => return Ok(None),
            },
        };
        let mut filled = std::mem::take(buffer);
        let read = self.runtime.blocking(move || {
            let before = filled.len();
            filled.resize(before + CHUNK_BYTES, 0);
            let read = loop {
                match reader.read(&mut filled[before..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            filled.truncate(before + read.as_ref().copied().unwrap_or(0));
            (reader, filled, read)
        });
        let (reader, filled, read) = read.await;
        *buffer = filled;
        let count = read.with_context(|| format!("cannot read {name}"))?;
        if count > 0 {
            self.current = Some((reader, name));
        }
        Ok(Some(count == 0))
    }
}

#[expect(clippy::disallowed_methods, reason = "reads what a person names, which is no data directory")]
fn open(path: &Path) -> Result<Reader> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(file))
}

/// Cuts what is read into the values of records.
pub(super) struct Cutter {
    pub(super) whole: bool,
    /// What one record may have.
    most_bytes: usize,
    /// Read and not yet handed out.
    pub(super) buffer: Vec<u8>,
    /// How far it was searched for a line end, from `start` on.
    searched: usize,
    start: usize,
    /// How many records of this source were handed out.
    pub(super) count: u64,
}

impl Cutter {
    pub(super) fn new(whole: bool, most_bytes: usize) -> Cutter {
        Cutter { whole, most_bytes, buffer: Vec::new(), searched: 0, start: 0, count: 0 }
    }

    /// The next record's bytes, if they are all there. `ended`: the source has no more.
    pub(super) fn next(&mut self, ended: bool) -> Result<Option<&[u8]>, TooLong> {
        let from = self.start + self.searched;
        let end = match self.whole {
            true => None,
            false => self.buffer[from..].iter().position(|byte| *byte == b'\n').map(|at| from + at),
        };
        let (end, next) = match end {
            Some(end) => (end, end + 1),
            // A file that is empty is a record without bytes; what is left of lines is one only if there is something.
            None if ended && (self.whole || self.start < self.buffer.len()) => (self.buffer.len(), self.buffer.len()),
            None => {
                self.searched = self.buffer.len() - self.start;
                if self.searched > self.most_bytes {
                    return Err(TooLong(self.most_bytes));
                }
                return Ok(None);
            }
        };
        if end - self.start > self.most_bytes {
            return Err(TooLong(self.most_bytes));
        }
        let record = self.start..end;
        (self.start, self.searched) = (next, 0);
        self.count += 1;
        Ok(Some(&self.buffer[record]))
    }

    /// Makes room behind what was not handed out yet.
    pub(super) fn compact(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
    }
}

/// Longer than so many bytes.
#[derive(Debug)]
pub(super) struct TooLong(usize);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is longer than {} bytes, which is more than a record may have", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of these chunks, each as it comes.
    fn cut(whole: bool, chunks: &[&str]) -> Vec<String> {
        let mut cutter = Cutter::new(whole, 10);
        let mut found = Vec::new();
        for (number, chunk) in chunks.iter().enumerate() {
            cutter.compact();
            cutter.buffer.extend_from_slice(chunk.as_bytes());
            let ended = number + 1 == chunks.len();
            while let Some(record) = cutter.next(ended).expect("short records") {
                found.push(String::from_utf8(record.to_vec()).expect("text"));
                if whole {
                    break;
                }
            }
        }
        found
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        assert_eq!(cut(false, &["a\nbc\n"]), ["a", "bc"]);
        assert_eq!(cut(false, &["a", "", "b\n\nc", "d"]), ["ab", "", "cd"]);
        assert_eq!(cut(false, &["\n"]), [""]);
        assert_eq!(cut(false, &["a\r\n"]), ["a\r"]);
        assert!(cut(false, &[""]).is_empty());
    }

    #[test]
    fn a_whole_file_is_one_record_even_without_bytes() {
        assert_eq!(cut(true, &["a\n", "b\n"]), ["a\nb\n"]);
        assert_eq!(cut(true, &[""]), [""]);
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let mut cutter = Cutter::new(false, 10);
        cutter.buffer = b"ok\nmuch too long".to_vec();
        assert_eq!(cutter.next(false).expect("short"), Some(&b"ok"[..]));
        let error = cutter.next(false).expect_err("too long").to_string();
        assert_eq!(error, "is longer than 10 bytes, which is more than a record may have");
    }
}
