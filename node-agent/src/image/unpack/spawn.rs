//! The daemon's side of the child.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::{Reason, Report, Request, UnpackError};

/// A report is a few hundred bytes; an error names one entry of at most 4 KiB, escaped.
const REPORT_MAX_BYTES: u64 = 256 * 1024;

/// A running child that is fed with one layer. Its methods block; dropping it kills the child.
#[derive(Debug)]
pub struct Unpacker {
    child: Child,
    input: Option<ChildStdin>,
}

impl Unpacker {
    /// Starts `program unpack REQUEST` in `directory`, which is to become the layer's root.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(program: &Path, directory: &Path, request: &Request) -> Result<Self, UnpackError> {
        let request = serde_json::to_string(request).map_err(|error| broken("describe the layer", &error))?;
        let mut child = Command::new(program)
            .args(["unpack", &request])
            .current_dir(directory)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| broken(&format!("start {} to unpack", program.display()), &error))?;
        Ok(Self {
            input: child.stdin.take(),
            child,
        })
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Hands over the next bytes of the layer. False when the child takes no more of them: [`Unpacker::finish`] tells
    /// why.
    ///
    /// # Errors
    /// When the pipe fails for another reason.
    pub fn write(&mut self, bytes: &[u8]) -> Result<bool, UnpackError> {
        let Some(input) = &mut self.input else {
            return Ok(false);
        };
        match input.write_all(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.input = None;
                Ok(false)
            }
            Err(error) => Err(broken("hand the layer over", &error)),
        }
    }

    /// Ends the layer and waits for the child's verdict.
    ///
    /// # Errors
    /// The child's, or that it ended without one.
    pub fn finish(mut self) -> Result<Report, UnpackError> {
        self.input = None;
        let mut line = Vec::new();
        if let Some(output) = self.child.stdout.take() {
            output
                .take(REPORT_MAX_BYTES)
                .read_to_end(&mut line)
                .map_err(|error| broken("read the unpacker's report", &error))?;
        }
        let status = self
            .child
            .wait()
            .map_err(|error| broken("wait for the unpacker", &error))?;
        match serde_json::from_slice(&line) {
            Ok(outcome) => outcome,
            Err(_) => Err(Reason::Child {
                what: format!("the unpacker ended without a report: {status}"),
            }
            .alone()),
        }
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        // Both fail when it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn broken(step: &str, error: &dyn std::error::Error) -> UnpackError {
    Reason::Child {
        what: format!("{step}: {error}"),
    }
    .alone()
}
