//! Reads a container's output back: the json-file log that its shim writes, rotated files included.
//!
//! Files are told apart by inode, never by name, because a rotation renames them at any moment: the current file is
//! opened before its older neighbours, and one that is met twice under two names is the same.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{LogQuery, LogStream};
use futures::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::watch;

use super::EngineError;
use super::record::Record;
use super::store::failed;
use crate::supervise::LOG_MAX_FILES;

/// How soon a follower sees a new line: soon after the last one, and at the latest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Lines read at once.
const BATCH: usize = 1024;
/// The shim cuts lines at 16 KiB, which JSON makes six times longer at most; more is not one of its lines.
const LONGEST_LINE: u64 = 256 * 1024;

/// One line of a container's output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogEntry {
    /// The text, with its line end if it had one.
    pub log: String,
    /// Where it was written.
    pub stream: LogStream,
    /// When. RFC 3339 with nanoseconds, UTC.
    pub time: String,
}

/// Streams what `reader` comes to; `is_live` says of a container's record whether more may come.
pub(super) fn read<F: Fn(&Record) -> bool + Send + 'static>(
    reader: Reader,
    query: &LogQuery,
    records: watch::Receiver<Record>,
    is_live: F,
) -> impl Stream<Item = Result<LogEntry, EngineError>> + Send + 'static + use<F> {
    let state = Follow {
        reader: Some(reader),
        tail: query.tail,
        is_follow: query.follow,
        records,
        is_live,
        pause: SHORTEST_PAUSE,
        ready: VecDeque::new(),
        is_done: false,
    };
    stream::unfold(state, |mut state| async {
        loop {
            if let Some(entry) = state.ready.pop_front() {
                return Some((Ok(entry), state));
            }
            if state.is_done {
                return None;
            }
            // Asked before reading: what was written before the end is then read after it.
            let is_more_coming = state.is_follow && state.is_more_coming();
            let tail = state.tail.take();
            let mut reader = state.reader.take()?;
            let read = tokio::task::spawn_blocking(move || {
                let batch = tail
                    .map_or(Ok(()), |lines| reader.seek_to_tail(lines))
                    .and_then(|()| reader.batch());
                (reader, batch)
            });
            let (reader, batch) = match read.await {
                Ok(done) => done,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            match batch {
                Ok(batch) => {
                    state.reader = Some(reader);
                    if batch.is_empty() {
                        if is_more_coming {
                            state.rest().await;
                        } else {
                            state.is_done = true;
                        }
                    } else {
                        state.pause = SHORTEST_PAUSE;
                    }
                    state.ready = batch;
                }
                // Without a reader the stream ends after this.
                Err(error) => return Some((Err(error), state)),
            }
        }
    })
}

struct Follow<F> {
    reader: Option<Reader>,
    tail: Option<u64>,
    is_follow: bool,
    records: watch::Receiver<Record>,
    is_live: F,
    pause: Duration,
    ready: VecDeque<LogEntry>,
    is_done: bool,
}

impl<F: Fn(&Record) -> bool> Follow<F> {
    /// Nothing comes from a container that is gone.
    fn is_more_coming(&mut self) -> bool {
        self.records.has_changed().is_ok() && (self.is_live)(&self.records.borrow_and_update())
    }

    /// Until it is time to look again, which it is at once when the container starts or ends.
    async fn rest(&mut self) {
        // Both are cancel safe.
        tokio::select! {
            () = tokio::time::sleep(self.pause) => self.pause = (self.pause * 2).min(LONGEST_PAUSE),
            _ = self.records.changed() => self.pause = SHORTEST_PAUSE,
        }
    }
}

/// A place in the sequence of files. Methods block.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    current: Option<Open>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    file: BufReader<File>,
    inode: u64,
}

impl Reader {
    /// Before everything that is written.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            current: None,
            partial: Vec::new(),
        }
    }

    /// After everything that is written so far.
    pub(super) fn at_end(path: PathBuf) -> Result<Self, EngineError> {
        let mut reader = Self::new(path);
        reader.seek_to_tail(0)?;
        Ok(reader)
    }

    /// Goes to where `lines` lines are left.
    fn seek_to_tail(&mut self, lines: u64) -> Result<(), EngineError> {
        let mut files = open_all(&self.path)?;
        let mut missing = lines;
        // From the newest backwards, until there are enough.
        while let Some(mut open) = files.pop() {
            let is_oldest = files.is_empty();
            let count = count_lines(&mut open.file).map_err(failed("read", &self.path))?;
            if count >= missing || is_oldest {
                let skipped = count.saturating_sub(missing);
                skip(&mut open.file, skipped).map_err(failed("read", &self.path))?;
                self.current = Some(open);
                return Ok(());
            }
            missing -= count;
        }
        Ok(())
    }

    /// The next lines; none at the end of what is written so far.
    fn batch(&mut self) -> Result<VecDeque<LogEntry>, EngineError> {
        let mut entries = VecDeque::new();
        while entries.len() < BATCH {
            let is_at_end = match &mut self.current {
                None => true,
                Some(open) => {
                    let room = LONGEST_LINE.saturating_sub(self.partial.len() as u64);
                    let mut limited = (&mut open.file).take(room);
                    let length = limited
                        .read_until(b'\n', &mut self.partial)
                        .map_err(failed("read", &self.path))?;
                    let is_line = self.partial.ends_with(b"\n");
                    if is_line || self.partial.len() as u64 >= LONGEST_LINE {
                        let line = std::mem::take(&mut self.partial);
                        match serde_json::from_slice(&line) {
                            Ok(entry) => entries.push_back(entry),
                            // A power cut leaves a torn line; it must not hide those after it.
                            Err(error) => {
                                tracing::warn!(%error, path = %self.path.display(), "a line of a log is not one");
                            }
                        }
                    }
                    length == 0
                }
            };
            if is_at_end && !self.advance()? {
                break;
            }
        }
        Ok(entries)
    }

    /// Moves on to the next file, when there is one and nothing can be added to this one any more.
    fn advance(&mut self) -> Result<bool, EngineError> {
        let files = open_all(&self.path)?;
        let Some(current) = &mut self.current else {
            self.current = files.into_iter().next();
            return Ok(self.current.is_some());
        };
        let at = files.iter().position(|open| open.inode == current.inode);
        if at.is_some_and(|at| at + 1 == files.len()) {
            return Ok(false);
        }
        // It was the newest when its end was reached, and something may have been written before it was rotated.
        let mut rest = [0];
        if current.file.read(&mut rest).map_err(failed("read", &self.path))? > 0 {
            current
                .file
                .seek_relative(-1)
                .map_err(failed("read", &self.path))?;
            return Ok(true);
        }
        // One that is gone has been overtaken: the oldest that is left comes next.
        let next = at.map_or(0, |at| at + 1);
        let Some(open) = files.into_iter().nth(next) else {
            return Ok(false);
        };
        self.partial.clear();
        self.current = Some(open);
        Ok(true)
    }
}

/// All files of the log, oldest first.
fn open_all(path: &Path) -> Result<Vec<Open>, EngineError> {
    let mut files: Vec<Open> = Vec::new();
    for number in 0..LOG_MAX_FILES {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let file = match File::open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("open", Path::new(&name))(error)),
        };
        let inode = file
            .metadata()
            .map_err(failed("look at", Path::new(&name)))?
            .ino();
        // Renamed since the last one was opened: already in hand.
        if !files.iter().any(|open| open.inode == inode) {
            let file = BufReader::with_capacity(64 * 1024, file);
            files.push(Open { file, inode });
        }
    }
    files.reverse();
    Ok(files)
}

fn count_lines(file: &mut BufReader<File>) -> io::Result<u64> {
    let mut count = 0;
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        count += buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
        let length = buffer.len();
        file.consume(length);
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(count)
}

fn skip(file: &mut BufReader<File>, lines: u64) -> io::Result<()> {
    for _ in 0..lines {
        file.skip_until(b'\n')?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn line(number: usize) -> String {
        format!("{{\"log\":\"{number}\\n\",\"stream\":\"stdout\",\"time\":\"t\"}}\n")
    }

    fn numbers(batch: VecDeque<LogEntry>) -> Vec<usize> {
        batch
            .iter()
            .map(|entry| entry.log.trim().parse().expect("a number"))
            .collect()
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("opens");
        file.write_all(text.as_bytes()).expect("writes");
    }

    fn rotate(path: &Path) {
        let numbered = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
        let _ = fs::rename(numbered(1), numbered(2));
        fs::rename(path, numbered(1)).expect("renames");
    }

    #[test]
    fn a_follower_misses_nothing_over_rotations() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("log");
        let mut reader = Reader::new(path.clone());
        assert!(reader.batch().expect("reads").is_empty(), "there is no log yet");
        append(&path, &line(0));
        append(&path, &line(1));
        assert_eq!(numbers(reader.batch().expect("reads")), [0, 1]);
        append(&path, &line(2));
        rotate(&path);
        append(&path, &line(3));
        rotate(&path);
        append(&path, &line(4));
        assert_eq!(numbers(reader.batch().expect("reads")), [2, 3, 4]);
        let five = line(5);
        let (start, end) = five.split_at(9);
        append(&path, start);
        assert!(reader.batch().expect("reads").is_empty(), "half a line is none");
        append(&path, end);
        append(&path, "\0\0torn\n");
        append(&path, &line(6));
        assert_eq!(numbers(reader.batch().expect("reads")), [5, 6]);
        for number in 7..10 {
            rotate(&path);
            append(&path, &line(number));
        }
        assert_eq!(numbers(reader.batch().expect("reads")), [7, 8, 9]);
    }

    #[test]
    fn a_tail_reaches_into_older_files() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("log");
        for number in 0..9 {
            append(&path, &line(number));
            if number % 3 == 2 && number < 8 {
                rotate(&path);
            }
        }
        for (tail, expected) in [
            (0, vec![]),
            (1, vec![8]),
            (3, vec![6, 7, 8]),
            (4, vec![5, 6, 7, 8]),
            (9, (0..9).collect()),
            (99, (0..9).collect()),
        ] {
            let mut reader = Reader::new(path.clone());
            reader.seek_to_tail(tail).expect("seeks");
            assert_eq!(numbers(reader.batch().expect("reads")), expected, "tail {tail}");
        }
    }
}
