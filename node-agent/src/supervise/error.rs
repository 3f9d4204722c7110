//! What can go wrong between the agent and a shim.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::failure::Failure;

use crate::chain::Chain;

/// A failure of this module.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The program cannot be executed.
    #[error("execute {} as a shim", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim ended without having said anything.
    #[error("the shim ended without a word: {status}")]
    Silent {
        /// How it ended.
        status: String,
    },
    /// What the shim printed is not an announcement.
    #[error("read the shim's announcement")]
    Announcement {
        /// Why.
        source: io::Error,
    },
    /// An operation took longer than any should.
    #[error("the shim did not {operation} within {} s", limit.as_secs())]
    Slow {
        /// The operation.
        operation: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The runtime could not do what was asked.
    #[error("{operation}")]
    Refused {
        /// The operation.
        operation: &'static str,
        /// The step and why.
        #[source]
        failure: Box<Failure>,
    },
    /// The shim cannot be asked.
    #[error("ask the shim to {operation}")]
    Request {
        /// The operation.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The shim has ended.
    #[error("the shim has ended")]
    Gone,
    /// A file of the shim's.
    #[error("{step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Control groups that cannot be removed.
    #[error("remove what is left of the container")]
    Leftovers(#[source] Box<Failure>),
    /// Everything that failed while a container was cleared away.
    #[error("{}", listed(.0))]
    Clear(Vec<ShimError>),
}

impl ShimError {
    pub(super) fn file(step: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            step,
            path: path.to_owned(),
            source,
        }
    }
}

fn listed(errors: &[ShimError]) -> String {
    let mut text = String::new();
    for error in errors {
        let separator = if text.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{}", Chain(error));
    }
    text
}
