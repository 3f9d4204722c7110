//! The container's log: Docker's json-file form, one object per line, rotated by size.
//!
//! A line longer than 16 KiB is written in parts; only its last part ends with a newline inside `log`,
//! which is how readers of this form put it together again.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::clock;
use crate::failure::{Context, Result};

const LONGEST_PART: usize = 16 * 1024;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stream {
    Out,
    Err,
}

#[derive(Serialize)]
struct Line<'a> {
    log: &'a str,
    stream: &'a str,
    time: &'a str,
}

/// An open log with what is left of each stream's last line.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_files: u32,
    partial: [Vec<u8>; 2],
}

impl Log {
    /// Opens `path` for appending. It is rotated when longer than `max_size_bytes` (0: never) and at most
    /// `max_files` files are kept, the current one included.
    pub(super) fn open(path: &Path, max_size_bytes: u64, max_files: u32) -> Result<Self> {
        let file = open(path)?;
        let size = file
            .metadata()
            .step("log", || format!("look at {}", path.display()))?
            .len();
        let partial = [Vec::new(), Vec::new()];
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_size: max_size_bytes,
            max_files: max_files.max(1),
            partial,
        })
    }

    /// Takes what a stream delivered.
    pub(super) fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let mut pending = std::mem::take(&mut self.partial[stream as usize]);
            let room = LONGEST_PART - pending.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len().min(room), |at| at + 1);
            pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if end.is_some() || pending.len() == LONGEST_PART {
                self.line(stream, &pending)?;
                pending.clear();
            }
            self.partial[stream as usize] = pending;
        }
        Ok(())
    }

    /// Writes what a stream left without a newline. At its end.
    pub(super) fn finish(&mut self, stream: Stream) -> Result<()> {
        let pending = std::mem::take(&mut self.partial[stream as usize]);
        if pending.is_empty() {
            Ok(())
        } else {
            self.line(stream, &pending)
        }
    }

    fn line(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        let name = match stream {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        };
        let (text, time) = (String::from_utf8_lossy(bytes), clock::now());
        let mut line = serde_json::to_vec(&Line {
            log: &text,
            stream: name,
            time: &time,
        })
        .step("log", || "encode a line")?;
        line.push(b'\n');
        if self.max_size > 0 && self.size > 0 && self.size + line.len() as u64 > self.max_size {
            self.rotate()?;
        }
        self.file
            .write_all(&line)
            .step("log", || format!("write {}", self.path.display()))?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// `log` → `log.1` → `log.2` …; the oldest goes.
    fn rotate(&mut self) -> Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.max_files.saturating_sub(1)).rev() {
            // A number that is not there yet has nothing to move.
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        let tried = || format!("rotate {}", self.path.display());
        if self.max_files > 1 {
            fs::rename(&self.path, numbered(1)).step("log", tried)?;
        } else {
            fs::remove_file(&self.path).step("log", tried)?;
        }
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options
        .open(path)
        .step("log", || format!("open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_framed_and_files_rotated() {
        let directory = std::env::temp_dir().join(format!("pierhead-log-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("makes");
        let path = directory.join("log");
        let mut log = Log::open(&path, 400, 2).expect("opens");
        log.write(Stream::Out, b"one\ntw").expect("writes");
        log.write(Stream::Err, b"oops\n").expect("writes");
        log.write(Stream::Out, b"o\nend").expect("writes");
        log.finish(Stream::Out).expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        let logs: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("is JSON")["log"].to_string())
            .collect();
        assert_eq!(logs, [r#""one\n""#, r#""oops\n""#, r#""two\n""#, r#""end""#]);
        for _ in 0..20 {
            log.write(Stream::Out, b"a line of some length to fill the file\n")
                .expect("writes");
        }
        assert!(directory.join("log.1").exists());
        assert!(!directory.join("log.2").exists());
        assert!(fs::metadata(&path).expect("exists").len() <= 400);
        fs::remove_dir_all(&directory).expect("removes");
    }
}
