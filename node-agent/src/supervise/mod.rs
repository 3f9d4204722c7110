//! Shims, as the agent sees them: starts them, speaks to them, notices their end, finds them again.
//!
//! Owns the directories below RUN that shims work in. Leaves to `engine` what a container is and what becomes of it.
//! Invariants: at most one shim per container; a shim is held by pidfd, taken while its start time was checked; a
//! container's directory is reused only after its shim has ended, because a shim removes its socket last.
//!
//! ```text
//! RUN/containers/ID/bundle/         what the runtime reads; written by `engine`
//!                   creating.lock   locked through the shim's standard input until it has announced itself
//!                   shim.json       who the shim and the container's init are
//!                   shim.sock       requests (runtime::shim::protocol)
//!                   exit.json       how the container ended
//! RUN/runtime/ID/                   the runtime's own state
//! ```

mod clear;
mod error;
mod shim;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use runtime::container::ContainerId;
use runtime::shim::protocol::{Announcement, EXIT_FILE_NAME, ExitRecord, SHIM_FILE_NAME, ShimRecord};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};

pub use error::ShimError;
pub use shim::Shim;

/// How long the making of a container may take, mounts and all.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a lock held by a shim that is being born is looked at.
const LOCK_PERIOD: Duration = Duration::from_millis(10);
/// No announcement is longer.
const LONGEST_ANNOUNCEMENT: u64 = 64 * 1024;
/// Bytes of a log file before it is rotated.
const LOG_MAX_SIZE_BYTES: u64 = 10 * 1024 * 1024;
/// Log files kept for each container, the current one included.
pub const LOG_MAX_FILES: u32 = 3;

/// Starts shims and finds them again.
#[derive(Debug)]
pub struct Supervisor {
    program: PathBuf,
    run: PathBuf,
}

/// What is left of a container's shim.
#[derive(Debug)]
pub enum Found {
    /// It lives.
    Alive(Shim),
    /// It has ended; with its record unless it was killed.
    Ended(Option<ExitRecord>),
}

impl Supervisor {
    /// `program` understands the first argument `shim`; `run` is RUN, an absolute path.
    pub fn new(program: PathBuf, run: PathBuf) -> Self {
        Self { program, run }
    }

    /// The directory of one container; see the module's layout.
    pub fn directory(&self, id: &ContainerId) -> PathBuf {
        self.run.join("containers").join(id.as_str())
    }

    /// The bundle of one container.
    pub fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.directory(id).join("bundle")
    }

    /// Makes the container's directory with an empty bundle.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prepare(&self, id: &ContainerId) -> Result<PathBuf, ShimError> {
        let bundle = self.bundle(id);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&bundle);
        made.map_err(|source| ShimError::file("make", &bundle, source))?;
        Ok(bundle)
    }

    /// Ids of all containers that have a directory below RUN, also of those that nobody knows any more.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn list(&self) -> Result<Vec<String>, ShimError> {
        let mut ids = Vec::new();
        for directory in [self.run.join("containers"), self.runtime_root()] {
            match fs::read_dir(&directory) {
                Ok(entries) => ids.extend(
                    entries
                        .flatten()
                        .map(|entry| entry.file_name().to_string_lossy().into_owned()),
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ShimError::file("list", &directory, source)),
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Starts a shim, which creates the container of the prepared bundle; its program does not run yet.
    ///
    /// # Errors
    /// With the step of the runtime that failed. What the shim left is removed by [`Supervisor::clear`].
    ///
    /// # Cancel safety
    /// The shim goes on when the future is dropped; [`Supervisor::find`] finds it and [`Supervisor::clear`] ends it.
    pub async fn create(&self, id: &ContainerId, log: &Path) -> Result<Shim, ShimError> {
        let directory = self.directory(id);
        let lock = lock_file(&directory)?;
        lock.try_lock()
            .map_err(|error| ShimError::file("lock", &directory, error.into()))?;
        let mut command = Command::new(&self.program);
        command
            .arg0("pierhead-node")
            .args(["shim", "--id", id.as_str(), "--bundle"])
            .arg(self.bundle(id))
            .arg("--dir")
            .arg(&directory)
            .arg("--root")
            .arg(self.runtime_root())
            .arg("--log")
            .arg(log)
            .args(["--log-max-size", &LOG_MAX_SIZE_BYTES.to_string()])
            .args(["--log-max-files", &LOG_MAX_FILES.to_string()])
            // What the agent was told by its environment is no business of anything it starts.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(lock))
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|source| ShimError::Spawn {
            program: self.program.clone(),
            source,
        })?;
        // With it goes our copy of the lock; from here on only the shim holds it.
        drop(command);
        let output = child.stdout.take();
        let announced = timeout(CREATE_TIMEOUT, announcement(output)).await;
        let announced = match announced {
            Ok(Ok(Some(announcement))) => Ok(announcement),
            Ok(Ok(None)) => Err(ShimError::Silent {
                status: child
                    .wait()
                    .await
                    .map_or_else(|error| error.to_string(), |status| status.to_string()),
            }),
            Ok(Err(source)) => Err(ShimError::Announcement { source }),
            Err(_) => Err(ShimError::Slow {
                operation: "create",
                limit: CREATE_TIMEOUT,
            }),
        };
        if announced.is_err() {
            // Otherwise nobody would: it may hang for good.
            drop(child.start_kill());
        }
        tokio::spawn(reap(child));
        match announced? {
            Announcement::Created { .. } => {}
            Announcement::Error(failure) => {
                return Err(ShimError::Refused {
                    operation: "create",
                    failure: Box::new(failure),
                });
            }
        }
        let record: Option<ShimRecord> = read(&directory.join(SHIM_FILE_NAME))?;
        let shim = record.and_then(|record| Shim::hold(&directory, &record).transpose());
        shim.transpose()?.ok_or(ShimError::Gone)
    }

    /// Looks for the shim of a container, also one that an agent before this one was just starting; waits for such a
    /// birth to end. `None` when there never was one.
    ///
    /// # Errors
    /// When a file cannot be read, or a birth takes longer than any should.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn find(&self, id: &ContainerId) -> Result<Option<Found>, ShimError> {
        let directory = self.directory(id);
        if !directory.exists() {
            return Ok(None);
        }
        born(&directory).await?;
        let Some(record) = read::<ShimRecord>(&directory.join(SHIM_FILE_NAME))? else {
            return Ok(None);
        };
        if let Some(shim) = Shim::hold(&directory, &record)? {
            return Ok(Some(Found::Alive(shim)));
        }
        // After it was found dead: a shim writes its record before it ends.
        Ok(Some(Found::Ended(exit_record(&directory)?)))
    }

    /// Ends whatever of the container still runs and removes everything of it below RUN and its control groups.
    /// `cgroup` is its path in each hierarchy. Nothing to do is no error.
    ///
    /// # Errors
    /// With every step that failed; the others were carried out.
    ///
    /// # Cancel safety
    /// May be repeated.
    pub async fn clear(&self, id: &ContainerId, cgroup: &Path) -> Result<(), ShimError> {
        let mut failures = Vec::new();
        match self.find(id).await {
            Ok(Some(Found::Alive(shim))) => failures.extend(shim.destroy().await.err()),
            Ok(Some(Found::Ended(_)) | None) => {}
            Err(error) => failures.push(error),
        }
        let (id, cgroup) = (id.clone(), cgroup.to_owned());
        let (directory, root) = (self.directory(&id), self.runtime_root());
        let cleared =
            tokio::task::spawn_blocking(move || clear::remove(&id, &directory, &root, &cgroup)).await;
        match cleared {
            Ok(more) => failures.extend(more),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(ShimError::Clear(failures))
        }
    }

    fn runtime_root(&self) -> PathBuf {
        self.run.join("runtime")
    }
}

/// The one line a shim prints; `None` when it ended without.
async fn announcement(output: Option<ChildStdout>) -> io::Result<Option<Announcement>> {
    let Some(output) = output else { return Ok(None) };
    let mut line = String::new();
    BufReader::new(output)
        .take(LONGEST_ANNOUNCEMENT)
        .read_line(&mut line)
        .await?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::from)
}

/// Takes the exit status of a shim of ours, so that it does not stay a zombie.
async fn reap(mut child: Child) {
    // Its exit code says nothing that its files do not say better.
    drop(child.wait().await);
}

/// Waits until no shim is being born in `directory`.
async fn born(directory: &Path) -> Result<(), ShimError> {
    let deadline = Instant::now() + CREATE_TIMEOUT;
    loop {
        match lock_file(directory)?.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(source)) => return Err(ShimError::file("lock", directory, source)),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(ShimError::Slow {
                    operation: "create",
                    limit: CREATE_TIMEOUT,
                });
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PERIOD).await,
        }
    }
}

/// Opens the file that is locked while a shim is being born. The lock belongs to the open file, so it passes to the
/// shim with its standard input and goes when the last of both has let go: an agent killed between the two leaves no
/// moment in which a shim is on its way and the lock is free.
fn lock_file(directory: &Path) -> Result<File, ShimError> {
    let path = directory.join("creating.lock");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options
        .open(&path)
        .map_err(|source| ShimError::file("open", &path, source))
}

fn exit_record(directory: &Path) -> Result<Option<ExitRecord>, ShimError> {
    read(&directory.join(EXIT_FILE_NAME))
}

/// Reads one of the shim's small files; `None` when it is not there.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ShimError> {
    match fs::read(path) {
        Ok(text) => {
            let value = serde_json::from_slice(&text)
                .map_err(|error| ShimError::file("read", path, io::Error::from(error)))?;
            Ok(Some(value))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ShimError::file("read", path, source)),
    }
}
