//! The shim's loop: output to the log, requests from the socket, the end of init.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid, read};

use super::log::{Log, Stream};
use super::protocol::{EXIT_FILE_NAME, ExitRecord, Request, Response, SOCKET_NAME, State, Status};
use super::record;
use crate::clock;
use crate::failure::{Context, Failure, Result};
use crate::lifecycle::Container;
use crate::process::gate::short_path;

/// Clients at one time; more are let in when others leave.
const MOST_CLIENTS: usize = 64;
/// A request longer than this is not one of ours.
const LONGEST_REQUEST: usize = 4096;

/// A shim that watches one container.
#[derive(Debug)]
pub(super) struct Shim {
    directory: PathBuf,
    container: Container,
    pidfd: OwnedFd,
    listener: UnixListener,
    log: Option<Log>,
    streams: Vec<(Stream, OwnedFd)>,
    clients: Vec<Client>,
    started_at: Option<String>,
}

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    pending: Vec<u8>,
    is_waiting: bool,
}

/// Listens in the run directory.
pub(super) fn listen(directory: &Path) -> Result<UnixListener> {
    let path = directory.join(SOCKET_NAME);
    let tried = || format!("listen at {}", path.display());
    let (_held, short) = short_path(&path)?;
    let listener = UnixListener::bind(&short).step("shim", tried)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).step("shim", tried)?;
    listener.set_nonblocking(true).step("shim", tried)?;
    Ok(listener)
}

impl Shim {
    pub(super) fn new(
        directory: PathBuf,
        container: Container,
        pidfd: OwnedFd,
        listener: UnixListener,
        log: Option<Log>,
        streams: [(Stream, OwnedFd); 2],
    ) -> Self {
        let (streams, clients, started_at) = (streams.into(), Vec::new(), None);
        Self {
            directory,
            container,
            pidfd,
            listener,
            log,
            streams,
            clients,
            started_at,
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.container.record.init.pid
    }

    /// Serves until the container has ended and everything of it is gone.
    pub(super) fn serve(mut self) -> Result<()> {
        loop {
            self.turn(PollTimeout::NONE)?;
            if let Some(status) = self.reap()? {
                return self.finish(status);
            }
        }
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, patience: PollTimeout) -> Result<bool> {
        let mut polled = vec![
            PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        polled.extend(
            self.streams
                .iter()
                .map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
        );
        polled.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut polled, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).step("shim", || "poll"),
        }
        let happened: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let (streams, clients) = happened[2..].split_at(self.streams.len());
        let (streams, clients) = (streams.to_vec(), clients.to_vec());
        // From the back, so that removing one leaves the others where they are.
        for at in (0..clients.len()).rev().filter(|at| clients[*at]) {
            if !self.hear(at) {
                self.clients.remove(at);
            }
        }
        for at in (0..streams.len()).rev().filter(|at| streams[*at]) {
            self.drain(at);
        }
        if happened[1] && self.clients.len() < MOST_CLIENTS {
            self.accept();
        }
        Ok(streams.contains(&true))
    }

    /// Takes the status of every child that has ended; returns init's when it is among them.
    fn reap(&self) -> Result<Option<WaitStatus>> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
                Ok(status) if status.pid() == Some(Pid::from_raw(self.pid())) => return Ok(Some(status)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).step("shim", || "wait for children"),
            }
        }
    }

    /// One read of a stream. A log that cannot be written must not block the container, so its output is
    /// dropped then.
    fn drain(&mut self, at: usize) {
        let mut buffer = [0u8; 64 * 1024];
        let (stream, fd) = &self.streams[at];
        let stream = *stream;
        match read(fd, &mut buffer) {
            Ok(0) => {
                self.streams.remove(at);
                if let Some(log) = &mut self.log {
                    drop(log.finish(stream));
                }
            }
            Ok(length) => {
                if let Some(log) = &mut self.log {
                    drop(log.write(stream, &buffer[..length]));
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => drop(self.streams.remove(at)),
        }
    }

    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else {
            return;
        };
        let is_ours =
            getsockopt(&socket.as_fd(), PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw());
        // Answers are short; a client that does not read them is dropped rather than waited for.
        let is_bounded = socket.set_nonblocking(true).is_ok();
        if is_ours && is_bounded {
            self.clients.push(Client {
                socket,
                pending: Vec::new(),
                is_waiting: false,
            });
        }
    }

    /// Reads what a client sent and answers every whole line. False when the client is to be dropped.
    fn hear(&mut self, at: usize) -> bool {
        let mut buffer = [0u8; 1024];
        match self.clients[at].socket.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => self.clients[at].pending.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return true;
            }
            Err(_) => return false,
        }
        while let Some(end) = self.clients[at].pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.clients[at].pending.drain(..=end).collect();
            let response = match serde_json::from_slice::<Request>(&line) {
                Ok(Request::Wait) => {
                    self.clients[at].is_waiting = true;
                    continue;
                }
                Ok(request) => self.answer(&request),
                Err(error) => Response::Error(Failure::caused("request", "parse a request", &error)),
            };
            if send(&mut self.clients[at].socket, &response).is_err() {
                return false;
            }
        }
        self.clients[at].pending.len() <= LONGEST_REQUEST
    }

    fn answer(&mut self, request: &Request) -> Response {
        match request {
            Request::Start => match self.container.start() {
                Ok(()) => {
                    let started_at = clock::now();
                    self.started_at = Some(started_at.clone());
                    Response::Started {
                        pid: self.pid(),
                        started_at,
                    }
                }
                Err(failure) => Response::Error(failure),
            },
            Request::State | Request::Wait => Response::State(State {
                status: if self.started_at.is_some() {
                    Status::Running
                } else {
                    Status::Created
                },
                pid: self.pid(),
                started_at: self.started_at.clone(),
                exit: None,
            }),
            Request::Kill { signal, all } => match self.container.kill(*signal, *all) {
                Ok(()) => Response::Killed {},
                Err(failure) => Response::Error(failure),
            },
        }
    }

    /// Init has ended: the rest of the container ends, its output is kept, its end is written down, and only
    /// then do waiters hear of it.
    fn finish(mut self, status: WaitStatus) -> Result<()> {
        let finished_at = clock::now();
        let cgroup = &self.container.record.cgroup;
        let is_oom_killed = cgroup.oom_kills() > 0;
        let killed = cgroup.kill_all(Duration::from_secs(10));
        // With all writers gone the pipes run dry; a descriptor handed out of the container must not hold
        // this up for ever.
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.streams.is_empty() && Instant::now() < deadline {
            self.drain_ready();
        }
        let (exit_code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            _ => (255, None),
        };
        let exit = ExitRecord {
            pid: self.pid(),
            exit_code,
            signal,
            oom_killed: is_oom_killed,
            started_at: self.started_at.clone(),
            finished_at,
        };
        let written = record::write(&self.directory, EXIT_FILE_NAME, &exit);
        let removed = self.container.remove();
        // Requests that came while the container was ending are heard, and answered with how it ended.
        drop(self.turn(PollTimeout::ZERO));
        for client in &mut self.clients {
            let response = Response::Exited(exit.clone());
            if client.is_waiting {
                // A waiter that has left finds the record in the file.
                let _ = send(&mut client.socket, &response);
            }
        }
        // A socket without a shim behind it would make an agent wait.
        let _ = std::fs::remove_file(self.directory.join(SOCKET_NAME));
        killed.and(written).and(removed)
    }

    fn drain_ready(&mut self) {
        let mut polled: Vec<PollFd<'_>> = self
            .streams
            .iter()
            .map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
            .collect();
        let happened = match poll(&mut polled, PollTimeout::from(100u8)) {
            Ok(_) => polled.iter().map(|fd| fd.any().unwrap_or(false)).collect(),
            Err(_) => vec![false; polled.len()],
        };
        for at in (0..happened.len()).rev().filter(|at| happened[*at]) {
            self.drain(at);
        }
    }
}

fn send(socket: &mut UnixStream, response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    socket.write_all(&line)
}
