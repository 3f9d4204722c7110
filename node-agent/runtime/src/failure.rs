//! One failure, as it crosses process boundaries: init → parent → command or shim → agent.
//!
//! A failure is a value and not a string, so that whoever reads it can say which step failed, look at
//! the errno, and print the chain. It never carries paths of the reader, only of the writer.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// What went wrong and where, serialisable so that it survives the way out of a container's init.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// The step that failed, a stable machine-readable word such as `mount` or `seccomp`.
    pub step: String,
    /// The kernel's error number, when a system call was the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Causes from the outermost to the innermost.
    #[serde(default)]
    pub chain: Vec<String>,
    /// One sentence for people: what was tried, on what, and why it failed.
    pub message: String,
}

/// The result of everything that may have to explain itself in another process.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure without a kernel error behind it: wrong input, or a rule of this program.
    pub fn new(step: &str, message: impl Into<String>) -> Self {
        Self {
            step: step.to_owned(),
            errno: None,
            chain: Vec::new(),
            message: message.into(),
        }
    }

    /// A failure caused by `source`, described by what was being tried.
    pub fn caused(step: &str, tried: impl fmt::Display, source: &(dyn std::error::Error + 'static)) -> Self {
        let mut chain = Vec::new();
        let mut errno = None;
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(source);
        while let Some(error) = next {
            errno = errno.or_else(|| errno_of(error));
            chain.push(error.to_string());
            next = error.source();
        }
        let message = format!("{tried}: {}", chain.join(": "));
        Self {
            step: step.to_owned(),
            errno,
            chain,
            message,
        }
    }

    /// The same failure with one sentence of advice after it.
    #[must_use]
    pub fn advise(mut self, advice: &str) -> Self {
        self.message = format!("{} ({advice})", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.message)
    }
}

impl std::error::Error for Failure {}

/// Adds the step and the subject to an error on its way up.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] of `step`; `tried` says what was being done, on what.
    ///
    /// # Errors
    /// The failure, when `self` is an error.
    fn step<D: fmt::Display>(self, step: &str, tried: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: std::error::Error + 'static> Context<T> for std::result::Result<T, E> {
    fn step<D: fmt::Display>(self, step: &str, tried: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Failure::caused(step, tried(), &error))
    }
}

fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.raw_os_error();
    }
    error
        .downcast_ref::<nix::errno::Errno>()
        .map(|errno| *errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_the_errno_and_survives_json() {
        let result: std::result::Result<(), _> = Err(io::Error::from_raw_os_error(2));
        let failure = result.step("mount", || "open /x").expect_err("was an error");
        assert_eq!(failure.errno, Some(2));
        let text = serde_json::to_string(&failure).expect("serialises");
        assert_eq!(serde_json::from_str::<Failure>(&text).expect("parses"), failure);
        assert!(failure.message.starts_with("open /x: "));
    }
}
