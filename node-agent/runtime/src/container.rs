//! The record of a container: one directory `<root>/<id>` with `state.json` and, until it is started, the
//! gate's socket.
//!
//! ```text
//! <root>/<id>/            0700
//!   state.json            Record, replaced atomically
//!   start.sock            init listens here until somebody starts it; gone afterwards
//! ```
//! A process id alone is never trusted: the record holds the start time too. runtime-spec `runtime.md`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerState, Hooks};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::clock;
use crate::failure::{Context, Failure, Result};
use crate::shim::protocol::ProcessRecord;

const STEP: &str = "state";

/// The runtime-spec version implemented.
pub const OCI_VERSION: &str = "1.2.0";

/// A container id: letters, digits and `_+-.`, at most 1024 characters, and not `.` or `..`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerId(String);

impl ContainerId {
    /// Parses an id.
    ///
    /// # Errors
    /// When the text could not be a directory's name, or holds other characters.
    pub fn parse(text: &str) -> Result<Self> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if text.is_empty() || text.len() > 1024 || text == "." || text == ".." || !text.chars().all(is_good) {
            return Err(
                Failure::new("arguments", format!("{text:?} is not a container id"))
                    .advise("letters, digits and _ + - . are allowed"),
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Content of `state.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Record {
    /// The container's id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Init.
    pub init: ProcessRecord,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Annotations of the configuration.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
    /// Where its processes are accounted.
    pub cgroup: Cgroup,
    /// Hooks that are still to come, kept because the bundle may change or go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
}

/// The state of a container as the specification has it: what `state` prints and hooks read.
pub fn state(
    id: &str,
    status: &str,
    pid: i32,
    bundle: &Path,
    annotations: &HashMap<String, String>,
) -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "id": id,
        "status": status,
        "pid": pid,
        "bundle": bundle,
        "annotations": annotations,
    })
}

/// The directory of one container.
#[derive(Clone, Debug)]
pub struct Directory {
    id: ContainerId,
    path: PathBuf,
}

impl Directory {
    /// Names the directory of `id` under `root`; touches nothing.
    pub fn new(root: &Path, id: &ContainerId) -> Self {
        Self {
            id: id.clone(),
            path: root.join(id.as_str()),
        }
    }

    /// Makes it.
    ///
    /// # Errors
    /// When a container of this id exists.
    pub fn create(&self) -> Result<()> {
        if let Some(root) = self.path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root)
                .step(STEP, || format!("make state root {}", root.display()))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::new(
                STEP,
                format!("container {} exists already", self.id.as_str()),
            )),
            Err(error) => Err(error).step(STEP, || format!("make {}", self.path.display())),
        }
    }

    /// Where init listens until it is started.
    pub fn gate(&self) -> PathBuf {
        self.path.join("start.sock")
    }

    /// Writes the record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record).step(STEP, || "encode the state")?;
        let (temporary, file) = (self.path.join("state.json.new"), self.path.join("state.json"));
        fs::write(&temporary, text).step(STEP, || format!("write {}", temporary.display()))?;
        fs::rename(&temporary, &file).step(STEP, || format!("replace {}", file.display()))
    }

    /// Reads the record.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn load(&self) -> Result<Record> {
        let file = self.path.join("state.json");
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).step(STEP, || format!("parse {}", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
                STEP,
                format!("container {} does not exist", self.id.as_str()),
            )),
            Err(error) => Err(error).step(STEP, || format!("read {}", file.display())),
        }
    }

    /// Where the container is in its life.
    pub fn status(&self, record: &Record) -> ContainerState {
        if !is_alive(&record.init) {
            ContainerState::Stopped
        } else if self.gate().exists() {
            ContainerState::Created
        } else {
            ContainerState::Running
        }
    }

    /// Removes the directory; absence is fine.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).step(STEP, || format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the very process of the record still runs (a zombie does not).
pub fn is_alive(process: &ProcessRecord) -> bool {
    matches!(clock::process_stat(process.pid), Ok((state, ticks)) if state != 'Z' && state != 'X' && ticks == process.start_ticks)
}

/// The record of a process that exists now.
///
/// # Errors
/// When it does not.
pub fn identify(pid: i32) -> Result<ProcessRecord> {
    let (_, start_ticks) = clock::process_stat(pid).step(STEP, || format!("read /proc/{pid}/stat"))?;
    Ok(ProcessRecord { pid, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_the_state_root_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "a\n", "../x"] {
            assert!(ContainerId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            ContainerId::parse("web-1.a_b+c").expect("is good").as_str(),
            "web-1.a_b+c"
        );
    }

    #[test]
    fn a_reused_process_id_is_not_alive() {
        let me = identify(std::process::id() as i32).expect("this process exists");
        assert!(is_alive(&me));
        assert!(!is_alive(&ProcessRecord {
            start_ticks: me.start_ticks + 1,
            ..me
        }));
    }
}
