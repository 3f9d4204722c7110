//! One living shim: requests over its socket, and its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use runtime::container;
use runtime::shim::protocol::{ExitRecord, ProcessRecord, Request, Response, SOCKET_NAME, ShimRecord, State};
use runtime::sys::process::{pidfd_open, pidfd_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ShimError, exit_record};

const SIGKILL: i32 = 9;
/// How long a shim may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a shim may take to end a container that was killed: it kills what is left in the cgroup (10 s), lets
/// output run dry (2 s) and removes the cgroup (2 s).
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A shim that lived when this handle was made. Clones share it.
#[derive(Clone, Debug)]
pub struct Shim(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    process: ProcessRecord,
    init: Option<ProcessRecord>,
    pidfd: AsyncFd<OwnedFd>,
}

impl Shim {
    /// Takes hold of the very process of the record; `None` when it has ended.
    pub(super) fn hold(directory: &Path, record: &ShimRecord) -> Result<Option<Self>, ShimError> {
        let Ok(pidfd) = pidfd_open(record.shim.pid) else {
            return Ok(None);
        };
        // After the descriptor was taken: a number that was reused before shows another start time, and one that is
        // reused later does not matter.
        if !container::is_alive(&record.shim) {
            return Ok(None);
        }
        #[expect(
            deprecated,
            reason = "its successor is an unsafe function whose condition an owned descriptor always meets"
        )]
        let pidfd =
            AsyncFd::with_interest(pidfd, Interest::READABLE).map_err(|source| ShimError::Request {
                operation: "be watched",
                source,
            })?;
        Ok(Some(Self(Arc::new(Inner {
            directory: directory.to_owned(),
            process: record.shim,
            init: record.init,
            pidfd,
        }))))
    }

    /// The shim's own process.
    pub fn process(&self) -> ProcessRecord {
        self.0.process
    }

    /// The container's init; `None` when the shim ended the creation before there was one.
    pub fn init(&self) -> Option<ProcessRecord> {
        self.0.init
    }

    /// Whether the container's init has ended by now, and with it all that could be asked for.
    pub fn is_ending(&self) -> bool {
        self.0.init.is_none_or(|init| !container::is_alive(&init))
    }

    /// Lets the program run; returns when it does, with the time.
    ///
    /// # Errors
    /// When the program cannot be executed, with the step, or the shim cannot be asked.
    ///
    /// # Cancel safety
    /// The request may have been sent.
    pub async fn start(&self) -> Result<String, ShimError> {
        match self.ask("start", &Request::Start).await? {
            Response::Started { started_at, .. } => Ok(started_at),
            other => Err(unexpected("start", &other)),
        }
    }

    /// Where the container is in its life.
    ///
    /// # Errors
    /// When the shim cannot be asked, as when it ends just now.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn state(&self) -> Result<State, ShimError> {
        match self.ask("state", &Request::State).await? {
            Response::State(state) => Ok(state),
            other => Err(unexpected("state", &other)),
        }
    }

    /// Sends a signal to the container's init; past the shim when that does not answer.
    ///
    /// # Errors
    /// When it has ended, see [`Shim::is_ending`], or takes no signals.
    ///
    /// # Cancel safety
    /// The signal may have been sent.
    pub async fn kill(&self, signal: i32) -> Result<(), ShimError> {
        let request = Request::Kill { signal, all: false };
        match self.ask("kill", &request).await {
            Ok(Response::Killed {}) => Ok(()),
            Ok(other) => Err(unexpected("kill", &other)),
            Err(error @ ShimError::Refused { .. }) => Err(error),
            Err(error) => self.signal_init(signal).map_err(|_| error),
        }
    }

    /// Waits until the container and its shim have ended. The record is missing when the shim was killed before it
    /// could write one; then the container may not be all gone.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost, the record stays on disk.
    pub async fn ended(&self) -> Option<ExitRecord> {
        // The answer is there even when the file could not be written.
        let told = tokio::select! {
            told = self.told() => Some(told),
            () = self.gone() => None,
        };
        // A shim that has answered still removes its socket, so the directory is its own a moment longer.
        drop(timeout(END_TIMEOUT, self.gone()).await);
        told.or_else(|| match exit_record(&self.0.directory) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(error = %crate::chain::Chain(&error), "a container's exit record is unreadable");
                None
            }
        })
    }

    /// Kills the container, then the shim if it does not end by itself.
    pub(super) async fn destroy(&self) -> Result<(), ShimError> {
        let request = Request::Kill {
            signal: SIGKILL,
            all: true,
        };
        // A shim that cannot be asked is ended without being asked.
        let is_asked = self.ask("kill", &request).await.is_ok();
        if is_asked && timeout(END_TIMEOUT, self.gone()).await.is_ok() {
            return Ok(());
        }
        if let Err(source) = pidfd_signal(self.0.pidfd.get_ref().as_fd(), SIGKILL)
            && source.raw_os_error() != Some(nix::errno::Errno::ESRCH as i32)
        {
            return Err(ShimError::Request {
                operation: "end",
                source,
            });
        }
        timeout(END_TIMEOUT, self.gone())
            .await
            .map_err(|_| ShimError::Slow {
                operation: "end",
                limit: END_TIMEOUT,
            })
    }

    fn signal_init(&self, signal: i32) -> io::Result<()> {
        let init = self.0.init.ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(init.pid)?;
        // After the descriptor was taken, so that a reused number is noticed.
        if !container::is_alive(&init) {
            return Err(io::ErrorKind::NotFound.into());
        }
        pidfd_signal(pidfd.as_fd(), signal)
    }

    /// The answer to `wait`; never ready when there is none.
    async fn told(&self) -> ExitRecord {
        if let Ok(stream) = self.connect().await
            && let Ok(Response::Exited(record)) = converse(stream, &Request::Wait).await
        {
            return record;
        }
        std::future::pending().await
    }

    /// Ready once the shim's process has ended.
    async fn gone(&self) {
        if self.0.pidfd.readable().await.is_err() {
            // The async runtime shuts down: this says nothing about the shim.
            std::future::pending::<()>().await;
        }
    }

    async fn ask(&self, operation: &'static str, request: &Request) -> Result<Response, ShimError> {
        let failed = |source| ShimError::Request { operation, source };
        let answer = timeout(ANSWER_TIMEOUT, async {
            converse(self.connect().await?, request).await
        });
        match answer.await {
            Ok(Ok(Response::Error(failure))) => Err(ShimError::Refused {
                operation,
                failure: Box::new(failure),
            }),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(ShimError::Slow {
                operation,
                limit: ANSWER_TIMEOUT,
            }),
        }
    }

    /// A socket's path may have 107 bytes; through the directory's descriptor any path is short.
    async fn connect(&self) -> io::Result<UnixStream> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(&self.0.directory, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
        UnixStream::connect(path).await
    }
}

async fn converse(stream: UnixStream, request: &Request) -> io::Result<Response> {
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    let mut stream = BufReader::new(stream);
    stream.write_all(line.as_bytes()).await?;
    line.clear();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

fn unexpected(operation: &'static str, response: &Response) -> ShimError {
    ShimError::Request {
        operation,
        source: io::Error::other(format!("unexpected answer {response:?}")),
    }
}
