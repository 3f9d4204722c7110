//! Records on disk: one directory per container, its record replaced as a whole and synced.
//!
//! ```text
//! DATA/lock                   held by the agent that works here
//! DATA/ID/container.json      Record; a directory without one is a creation or removal that was cut off
//!        /log, log.1, log.2   output, written and rotated by the shim; higher numbers are older
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use runtime::container::ContainerId;

use super::EngineError;
use super::record::Record;
use crate::durable;

/// A killed agent's lock may live on for the moment in which a child of its has not executed its program yet.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The directory of all records. Methods block.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// Released with the process, whatever ends it.
    _lock: File,
}

/// What a directory of the store holds.
#[derive(Debug)]
pub(super) enum Entry {
    Container(Box<Record>),
    /// A creation that never became durable, or a removal that was almost done.
    Leftover(ContainerId),
    /// Neither; nothing of it may be touched.
    Unreadable(ContainerId, EngineError),
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Self, EngineError> {
        durable::make_private_directory(directory).map_err(failed("make", directory))?;
        let path = directory.join("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&path).map_err(failed("open", &path))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(EngineError::InUse {
                        path: directory.to_owned(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// The container's log; rotated files lie beside it.
    pub(super) fn log(&self, id: &str) -> PathBuf {
        self.directory.join(id).join("log")
    }

    /// Makes the container durable.
    pub(super) fn create(&self, record: &Record) -> Result<(), EngineError> {
        let path = self.directory.join(&record.id);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(failed("make", &path))?;
        self.save(record)?;
        sync(&self.directory)
    }

    /// Replaces the record; what it says survives a power cut once this returns.
    pub(super) fn save(&self, record: &Record) -> Result<(), EngineError> {
        let path = self.directory.join(&record.id).join("container.json");
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|text| durable::replace(&path, &text))
            .map_err(failed("replace", &path))
    }

    /// Removes all of a container; absence is fine. The record goes first, so that what is left of a removal that was
    /// cut off is a leftover and never a container without its log.
    pub(super) fn remove(&self, id: &str) -> Result<(), EngineError> {
        let directory = self.directory.join(id);
        let record = directory.join("container.json");
        let is_there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        };
        if is_there(fs::remove_file(&record)).map_err(failed("remove", &record))? {
            sync(&directory)?;
        }
        is_there(fs::remove_dir_all(&directory)).map_err(failed("remove", &directory))?;
        sync(&self.directory)
    }

    /// Everything in the store.
    pub(super) fn list(&self) -> Result<Vec<Entry>, EngineError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed("list", &self.directory))? {
            let entry = entry.map_err(failed("list", &self.directory))?;
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| ContainerId::parse(name).ok()) else {
                continue;
            };
            if !is_directory {
                continue;
            }
            let path = entry.path().join("container.json");
            let record = match fs::read(&path) {
                Ok(text) => serde_json::from_slice::<Record>(&text).map_err(io::Error::from),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    found.push(Entry::Leftover(id));
                    continue;
                }
                Err(error) => Err(error),
            };
            found.push(match record {
                Ok(record) if record.id == id.as_str() => Entry::Container(Box::new(record)),
                Ok(record) => {
                    let error = io::Error::other(format!("it is the record of {}", record.id));
                    Entry::Unreadable(id, failed("read", &path)(error))
                }
                Err(error) => Entry::Unreadable(id, failed("read", &path)(error)),
            });
        }
        Ok(found)
    }
}

/// Puts a [`EngineError::File`] around an error.
pub(super) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError + use<> {
    let path = path.to_owned();
    move |source| EngineError::File { step, path, source }
}

fn sync(directory: &Path) -> Result<(), EngineError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", directory))
}
