//! The record of a container and its legal transitions.
//!
//! ```text
//! Idle ──start──▶ Starting ──▶ Running ──exit──▶ Releasing ──▶ Idle
//!                     └──────── failure ───────────▲
//! Idle, Releasing ──remove──▶ Removing ──▶ gone
//! ```
//! A phase is on disk before what it announces is done, so that an agent that finds it knows what may exist.

use std::collections::BTreeMap;

use api::{ContainerSpec, Resources};
use oci::Digest;
use runtime::shim::protocol::{ExitRecord, ProcessRecord};
use serde::{Deserialize, Serialize};

use super::EngineError;
use super::spec::Program;
use crate::network::PortRequest;

/// Content of `container.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image: Digest,
    #[serde(default)]
    pub(super) image_name: Option<String>,
    #[serde(default)]
    pub(super) is_removed_at_end: bool,
    pub(super) created_at: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) program: Program,
    pub(super) container: ContainerSpec,
    pub(super) resources: Resources,
    pub(super) ports: Vec<PortRequest>,
    pub(super) phase: Phase,
    #[serde(default)]
    pub(super) last_exit: Option<Exit>,
    /// How often it has ended. Tells a waiter that its exit has come, whatever came after.
    #[serde(default)]
    pub(super) exit_count: u64,
}

/// What may exist of a container outside its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// Nothing but, perhaps, the writable layer of its root file system.
    Idle,
    /// Anything.
    Starting,
    /// Everything; the program runs.
    Running(Running),
    /// Anything, and it is to go.
    Releasing,
    /// Anything, and all of the container is to go.
    Removing,
}

/// A program that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    /// Which run of the host's kernel the processes belong to.
    pub(super) boot_id: String,
    pub(super) shim: ProcessRecord,
    pub(super) init: ProcessRecord,
    pub(super) started_at: String,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The program's exit status; 128 + signal when a signal ended it; 255 when it is unknown, see `reason`.
    pub exit_code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel's out-of-memory killer ended a process of the container.
    pub oom_killed: bool,
    /// When the program was executed. RFC 3339 with nanoseconds, UTC.
    pub started_at: Option<String>,
    /// When it ended, or when that was noticed. RFC 3339 with nanoseconds, UTC.
    pub finished_at: String,
    /// Why the exit code is not the program's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Exit {
    /// An end of which nothing but `reason` is known.
    pub(super) fn unknown(started_at: Option<String>, reason: &str) -> Self {
        Self {
            exit_code: 255,
            signal: None,
            oom_killed: false,
            started_at,
            finished_at: runtime::clock::now(),
            reason: Some(reason.to_owned()),
        }
    }
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Self {
        Self {
            exit_code: record.exit_code,
            signal: record.signal,
            oom_killed: record.oom_killed,
            started_at: record.started_at,
            finished_at: record.finished_at,
            reason: None,
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// It has never run.
    Created,
    /// Its program runs.
    Running {
        /// Init's process id on the host.
        pid: i32,
        /// RFC 3339 with nanoseconds, UTC.
        started_at: String,
    },
    /// Its program has ended.
    Exited(Exit),
}

impl ContainerState {
    /// One word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
        }
    }
}

impl Record {
    pub(super) fn state(&self) -> ContainerState {
        match (&self.phase, &self.last_exit) {
            (Phase::Running(running), _) => ContainerState::Running {
                pid: running.init.pid,
                started_at: running.started_at.clone(),
            },
            (_, Some(exit)) => ContainerState::Exited(exit.clone()),
            (_, None) => ContainerState::Created,
        }
    }

    /// Before anything of a start is made. Leftovers of an earlier run must have been released.
    pub(super) fn begin_start(&self) -> Result<Self, EngineError> {
        let name = self.name.clone();
        match self.phase {
            Phase::Idle => Ok(self.with(Phase::Starting)),
            Phase::Removing => Err(EngineError::BeingRemoved { name }),
            Phase::Starting | Phase::Running(_) | Phase::Releasing => {
                Err(EngineError::AlreadyRunning { name })
            }
        }
    }

    /// After the program was executed.
    pub(super) fn run(&self, running: Running) -> Self {
        self.with(Phase::Running(running))
    }

    /// After a start failed: everything goes, and the container is as it was before.
    pub(super) fn give_up(&self) -> Self {
        self.with(Phase::Releasing)
    }

    /// After the program ended.
    pub(super) fn end(&self, exit: Exit) -> Self {
        Self {
            last_exit: Some(exit),
            exit_count: self.exit_count + 1,
            ..self.with(Phase::Releasing)
        }
    }

    /// After everything was released.
    pub(super) fn rest(&self) -> Self {
        self.with(Phase::Idle)
    }

    /// Before anything is removed.
    pub(super) fn begin_removal(&self) -> Result<Self, EngineError> {
        let name = self.name.clone();
        match self.phase {
            Phase::Running(_) | Phase::Starting => Err(EngineError::RemoveRunning { name }),
            Phase::Idle | Phase::Releasing | Phase::Removing => Ok(self.with(Phase::Removing)),
        }
    }

    /// The running program, for what only a running container can do.
    pub(super) fn running(&self, operation: &'static str) -> Result<&Running, EngineError> {
        let name = self.name.clone();
        match &self.phase {
            Phase::Running(running) => Ok(running),
            Phase::Removing => Err(EngineError::BeingRemoved { name }),
            Phase::Idle | Phase::Starting | Phase::Releasing => Err(EngineError::NotRunning {
                name,
                operation,
                state: self.state().as_str(),
            }),
        }
    }

    fn with(&self, phase: Phase) -> Self {
        Self {
            phase,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: "a".to_owned(),
            name: "a".to_owned(),
            image: Digest::sha256(b""),
            image_name: None,
            is_removed_at_end: false,
            created_at: String::new(),
            labels: BTreeMap::new(),
            program: Program::default(),
            container: ContainerSpec::default(),
            resources: Resources::default(),
            ports: Vec::new(),
            phase: Phase::Idle,
            last_exit: None,
            exit_count: 0,
        }
    }

    fn running() -> Running {
        let process = ProcessRecord {
            pid: 7,
            start_ticks: 9,
        };
        Running {
            boot_id: "b".to_owned(),
            shim: process,
            init: process,
            started_at: "now".to_owned(),
        }
    }

    #[test]
    fn a_life_goes_through_its_phases() {
        let idle = record();
        assert_eq!(idle.state(), ContainerState::Created);
        assert!(matches!(
            idle.running("kill"),
            Err(EngineError::NotRunning { state: "created", .. })
        ));
        let starting = idle.begin_start().expect("is idle");
        assert_eq!(starting.give_up().rest(), idle, "a failed start leaves no trace");
        assert!(matches!(
            starting.begin_removal(),
            Err(EngineError::RemoveRunning { .. })
        ));
        let running = starting.run(running());
        assert!(matches!(
            running.begin_start(),
            Err(EngineError::AlreadyRunning { .. })
        ));
        assert!(matches!(
            running.begin_removal(),
            Err(EngineError::RemoveRunning { .. })
        ));
        assert!(matches!(running.state(), ContainerState::Running { pid: 7, .. }));
        let ended = running.end(Exit::unknown(None, "test"));
        assert_eq!(ended.exit_count, 1);
        let removing = ended.begin_removal().expect("has ended");
        assert!(matches!(
            removing.begin_start(),
            Err(EngineError::BeingRemoved { .. })
        ));
        removing.begin_removal().expect("may be repeated");
        assert!(matches!(ended.rest().state(), ContainerState::Exited(_)));
    }
}
