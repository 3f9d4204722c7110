//! What can go wrong with containers: each variant names its subject and, where a person can help, what to do.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use super::spec::SpecError;
use super::user::UserError;
use crate::chain::Chain;
use crate::network::NetworkError;
use crate::supervise::ShimError;

/// An error of whoever provides root file systems.
pub type RootError = Box<dyn std::error::Error + Send + Sync>;

/// A failure of this module.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing is called so.
    #[error("no container is called {query:?}")]
    NotFound {
        /// A name, an id or the beginning of one.
        query: String,
    },
    /// Several ids begin so.
    #[error("{query:?} is the beginning of {count} container ids: give more of the one you mean")]
    Ambiguous {
        /// The beginning.
        query: String,
        /// How many.
        count: usize,
    },
    /// A name that cannot be one.
    #[error(
        "{name:?} is not a container name: 2 to 255 letters, digits, `_`, `.` or `-`, beginning with a letter or digit"
    )]
    NameMalformed {
        /// What was written.
        name: String,
    },
    /// Names are unique.
    #[error(
        "the name {name:?} is in use by container {holder}: remove that container or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// A container that cannot be made from what was asked for.
    #[error("container {name}")]
    Spec {
        /// The container's name.
        name: String,
        /// What is wrong.
        source: SpecError,
    },
    /// It runs already.
    #[error("container {name} is already running: stop it before starting it again")]
    AlreadyRunning {
        /// The container's name.
        name: String,
    },
    /// It does not run.
    #[error("cannot {operation} container {name}, which is {state}: start it first")]
    NotRunning {
        /// The container's name.
        name: String,
        /// What was asked for.
        operation: &'static str,
        /// `created` or `exited`.
        state: &'static str,
    },
    /// It runs, and removal was not forced.
    #[error("container {name} is running: stop it before removing it, or force the removal")]
    RemoveRunning {
        /// The container's name.
        name: String,
    },
    /// Its removal has begun.
    #[error("container {name} is being removed")]
    BeingRemoved {
        /// The container's name.
        name: String,
    },
    /// It does not end although it was killed.
    #[error(
        "container {name} did not end within {seconds} s of SIGKILL: look for a process in uninterruptible sleep"
    )]
    DoesNotEnd {
        /// The container's name.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A number that is no signal.
    #[error("{signal} is not a signal: use a number from 1 to 64")]
    NoSignal {
        /// The number.
        signal: i32,
    },
    /// A container could not be started; it is as it was before.
    #[error("start container {name}{}", cleanup(.leftovers))]
    Start {
        /// The container's name.
        name: String,
        /// The step that failed.
        source: Box<EngineError>,
        /// What could not be undone; it is tried again by the next start, removal or open.
        leftovers: Vec<EngineError>,
    },
    /// The root file system.
    #[error("{step} the root file system of container {container}")]
    Root {
        /// `mount`, `unmount`, `remove` or `list`.
        step: &'static str,
        /// The container's id.
        container: String,
        /// Why.
        source: RootError,
    },
    /// The network.
    #[error("{step} container {container} {} the network", if *.step == "attach" { "to" } else { "from" })]
    Network {
        /// `attach` or `detach`.
        step: &'static str,
        /// The container's id.
        container: String,
        /// Why.
        source: NetworkError,
    },
    /// The user that the program runs as.
    #[error("find user {user:?}")]
    User {
        /// As written.
        user: String,
        /// Why.
        source: UserError,
    },
    /// The bundle.
    #[error("write the configuration of container {container}")]
    Bundle {
        /// The container's id.
        container: String,
        /// Why.
        source: oci_spec::OciSpecError,
    },
    /// The shim, and through it the runtime.
    #[error("{step} container {container}")]
    Shim {
        /// What was being done.
        step: &'static str,
        /// The container's id.
        container: String,
        /// Why.
        source: ShimError,
    },
    /// A file of ours.
    #[error("{step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent works on the same data.
    #[error("{} is in use by another agent: stop it, or choose another data directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Not everything of a container could be taken back.
    #[error("container {name}: {}; call again to retry what is left", listed(.failures))]
    Teardown {
        /// The container's name.
        name: String,
        /// Every step that failed; the others were carried out.
        failures: Vec<EngineError>,
    },
}

fn listed(errors: &[EngineError]) -> String {
    let mut text = String::new();
    for error in errors {
        let separator = if text.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{}", Chain(error));
    }
    text
}

fn cleanup(leftovers: &[EngineError]) -> String {
    if leftovers.is_empty() {
        return String::new();
    }
    format!(" (cleaning up failed too: {})", listed(leftovers))
}
