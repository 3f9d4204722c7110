//! Staying with a program until it ends: its signals, its terminal, its status.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, read};
use oci_spec::runtime::Process;

use crate::failure::{Context, Failure, Result};
use crate::sys::process::pidfd_signal;
use crate::{sys, tty};

const STEP: &str = "wait";

/// Where the terminal of a new program goes.
#[derive(Debug)]
pub(super) enum Console {
    /// It has none.
    None,
    /// To an engine's socket.
    Engine(UnixStream),
    /// To this process, which passes on what comes and goes.
    Ours { near: UnixStream, far: UnixStream },
}

impl Console {
    /// Decides for `process`, given `--console-socket` and whether the command returns at once.
    ///
    /// # Errors
    /// When socket and terminal do not go together, or nobody listens at the socket.
    pub(super) fn of(process: &Process, socket: Option<&Path>, is_detached: bool) -> Result<Self> {
        match (process.terminal() == Some(true), socket) {
            (false, None) => Ok(Self::None),
            (false, Some(_)) => Err(Failure::new(
                "arguments",
                "--console-socket is given, but process.terminal is not set",
            )),
            (true, Some(path)) => tty::connect(path).map(Self::Engine),
            (true, None) if is_detached => Err(Failure::new(
                "arguments",
                "process.terminal is set, and nothing stays to hold the terminal: give --console-socket",
            )),
            (true, None) => {
                let (near, far) = UnixStream::pair().step("terminal", || "make a socket pair")?;
                Ok(Self::Ours { near, far })
            }
        }
    }

    /// The end that init sends the terminal over.
    pub(super) fn far(&self) -> Option<&UnixStream> {
        match self {
            Self::None => None,
            Self::Engine(socket) | Self::Ours { far: socket, .. } => Some(socket),
        }
    }

    /// The terminal, when it is for this process.
    pub(super) fn take(self) -> Result<Option<OwnedFd>> {
        match self {
            Self::None | Self::Engine(_) => Ok(None),
            Self::Ours { near, far } => {
                // With this end closed a container that never sends one shows as end-of-file.
                drop(far);
                tty::receive(&near).map(Some)
            }
        }
    }
}

/// Stays with the child `pid` until it ends and returns what a shell would. Signals to this process go to the child.
pub(super) fn stay(pid: i32, pidfd: BorrowedFd<'_>, terminal: Option<OwnedFd>) -> Result<u8> {
    let mut forwarded = SigSet::all();
    // These tell about this process itself and its own doings.
    for own in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGPIPE,
        Signal::SIGCHLD,
    ] {
        forwarded.remove(own);
    }
    forwarded.thread_block().step(STEP, || "block signals")?;
    let signals = SignalFd::with_flags(&forwarded, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .step(STEP, || "watch for signals")?;
    let mut relay = terminal.map(Relay::new);
    loop {
        let wanted = relay.as_ref();
        let input = std::io::stdin();
        let mut polled = vec![
            PollFd::new(pidfd, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(relay) = wanted {
            polled.push(PollFd::new(relay.terminal.as_fd(), PollFlags::POLLIN));
            if relay.has_input {
                polled.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).step(STEP, || "poll"),
        }
        let happened: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let is_set = |at: usize| happened.get(at).copied().unwrap_or(false);
        while let Ok(Some(signal)) = signals.read_signal() {
            pass_on(signal.ssi_signo, pidfd, relay.as_ref());
        }
        if let Some(open) = &mut relay {
            if is_set(3) {
                open.send_input();
            }
            if is_set(2) && !open.show_output() {
                relay = None;
            }
        }
        if is_set(0) {
            if let Some(mut relay) = relay {
                relay.show_rest();
            }
            return status(pid);
        }
    }
}

fn pass_on(number: u32, pidfd: BorrowedFd<'_>, relay: Option<&Relay>) {
    match (number.cast_signed(), relay) {
        (libc::SIGWINCH, Some(relay)) => relay.resize(),
        // The child may have ended; its status tells more than the error would.
        (number, _) => drop(pidfd_signal(pidfd, number)),
    }
}

fn status(pid: i32) -> Result<u8> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, code)) => return Ok((code & 0xff) as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as u8),
            Ok(_) => {}
            Err(error) => return Err(error).step(STEP, || format!("wait for process {pid}")),
        }
    }
}

/// Between the caller's terminal and the container's.
struct Relay {
    terminal: File,
    has_input: bool,
    /// The caller's settings, put back at the end.
    before: Option<Termios>,
}

impl Relay {
    fn new(terminal: OwnedFd) -> Self {
        let input = std::io::stdin();
        let before = tcgetattr(&input).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            // A terminal that stays as it was shows what is typed twice, and works.
            let _ = tcsetattr(&input, SetArg::TCSANOW, &raw);
        }
        let relay = Self {
            terminal: terminal.into(),
            has_input: true,
            before,
        };
        relay.resize();
        relay
    }

    /// Gives the container's terminal the caller's size.
    fn resize(&self) {
        if let Ok(size) = sys::tty::size(std::io::stdin().as_fd()) {
            drop(sys::tty::set_size(self.terminal.as_fd(), size));
        }
    }

    fn send_input(&mut self) {
        const END_OF_FILE: u8 = 4;
        let mut buffer = [0u8; 4096];
        match read(std::io::stdin(), &mut buffer) {
            Ok(0) => {
                // What a person would type; a terminal has no other end.
                drop(self.terminal.write_all(&[END_OF_FILE]));
                self.has_input = false;
            }
            Ok(length) => drop(self.terminal.write_all(&buffer[..length])),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.has_input = false,
        }
    }

    /// One read of output. False when the container has let go of the terminal.
    fn show_output(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        match self.terminal.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                let mut output = std::io::stdout().lock();
                // A caller that reads no more does not stop the program.
                drop(output.write_all(&buffer[..length]).and_then(|()| output.flush()));
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::Interrupted,
        }
    }

    /// What the program wrote before it ended.
    fn show_rest(&mut self) {
        loop {
            let mut polled = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            let is_ready = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0);
            if !is_ready || !self.show_output() {
                return;
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The caller's shell sets its own terminal right if this fails.
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}
