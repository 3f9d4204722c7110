//! A container from creation to removal, as commands and shim both need it. runtime-spec `runtime.md`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{ContainerState, Hooks};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::capabilities;
use crate::cgroup::Cgroup;
use crate::clock;
use crate::container::{self, ContainerId, Directory, Record};
use crate::failure::{Failure, Result};
use crate::hooks;
use crate::process::parent::{self, Plan};
use crate::process::{Streams, gate};
use crate::sys::process::{pidfd_open, pidfd_signal};

/// Where state lives unless told otherwise.
pub const DEFAULT_ROOT: &str = "/run/pierhead/runtime";

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    /// Its directory.
    pub directory: Directory,
    /// Its record.
    pub record: Record,
}

/// Creates a container; `stdio` are its standard streams, those of this process where absent.
///
/// # Errors
/// With the step that failed; directory, cgroup and processes are gone then.
pub fn create(
    root: &Path,
    id: &ContainerId,
    bundle: &Path,
    stdio: &[Option<OwnedFd>; 3],
) -> Result<(Container, OwnedFd)> {
    let streams = Streams {
        stdio,
        console: None,
        preserved: 0,
    };
    create_from(root, id, Bundle::load(bundle)?, streams)
}

/// As [`create`], from a bundle that has been read, with all that can reach a program through descriptors.
///
/// # Errors
/// As [`create`].
pub fn create_from(
    root: &Path,
    id: &ContainerId,
    bundle: Bundle,
    streams: Streams<'_>,
) -> Result<(Container, OwnedFd)> {
    if bundle.process()?.terminal() == Some(true) && streams.console.is_none() {
        return Err(Failure::new(
            "terminal",
            "process.terminal is set, but nobody takes the terminal",
        )
        .advise("give a console socket, or stay in the foreground"));
    }
    let hooks = bundle.spec.hooks().clone();
    let state = container::state(
        id.as_str(),
        "stopped",
        0,
        &bundle.path,
        &bundle.spec.annotations().clone().unwrap_or_default(),
    );
    let directory = Directory::new(root, id);
    directory.create()?;
    let made = create_in(&directory, id, bundle, streams);
    if made.is_err() {
        // The first failure is the one to tell; what remains of the directory is found by `delete --force`.
        drop(directory.remove());
        // Hooks that ran may have left something that these clean up.
        hooks::run_all(
            "poststop",
            hooks.as_ref().and_then(|hooks| hooks.poststop().as_deref()),
            &state,
        );
    }
    made
}

fn create_in(
    directory: &Directory,
    id: &ContainerId,
    mut bundle: Bundle,
    streams: Streams<'_>,
) -> Result<(Container, OwnedFd)> {
    let linux = bundle.spec.linux().as_ref();
    let asked = linux.and_then(|linux| linux.cgroups_path().clone());
    let path = asked.unwrap_or_else(|| PathBuf::from("/pierhead").join(id.as_str()));
    let cgroup = Cgroup::create(&path, linux.and_then(|linux| linux.resources().as_ref()))?;
    if let Some(process) = bundle.spec.process_mut() {
        capabilities::withhold_mknod(process, &cgroup);
    }
    let made = (|| {
        let gate = gate::make(directory)?;
        let created = parent::create(&Plan {
            id,
            bundle: &bundle,
            cgroup: &cgroup,
            gate: &gate,
            streams,
        })?;
        let record = Record {
            id: id.as_str().to_owned(),
            bundle: bundle.path.clone(),
            init: container::identify(created.pid)?,
            created: clock::now(),
            annotations: bundle.spec.annotations().clone().unwrap_or_default(),
            cgroup: cgroup.clone(),
            hooks: bundle.spec.hooks().as_ref().map(later_hooks),
        };
        directory.save(&record)?;
        Ok((
            Container {
                directory: directory.clone(),
                record,
            },
            created.pidfd,
        ))
    })();
    made.map_err(|failure: Failure| {
        let cleaned = cgroup
            .kill_all(Duration::from_secs(2))
            .and_then(|()| cgroup.remove());
        match cleaned {
            Ok(()) => failure,
            Err(more) => failure.advise(&format!("cleaning up failed too: {more}")),
        }
    })
}

fn later_hooks(all: &Hooks) -> Hooks {
    let mut later = Hooks::default();
    later
        .set_poststart(all.poststart().clone())
        .set_poststop(all.poststop().clone());
    later
}

impl Container {
    /// Finds an existing container.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn find(root: &Path, id: &ContainerId) -> Result<Self> {
        let directory = Directory::new(root, id);
        let record = directory.load()?;
        Ok(Self { directory, record })
    }

    /// Where it is in its life.
    pub fn status(&self) -> ContainerState {
        self.directory.status(&self.record)
    }

    /// Lets init execute the program.
    ///
    /// # Errors
    /// When it is not in the created state, the program cannot be executed, or a poststart hook fails, which ends the
    /// container.
    pub fn start(&self) -> Result<()> {
        match self.status() {
            ContainerState::Created => gate::open_gate(&self.directory)?,
            other => {
                return Err(Failure::new(
                    "start",
                    format!("container {} is {other}, not created", self.record.id),
                ));
            }
        }
        let hooks = self
            .record
            .hooks
            .as_ref()
            .and_then(|hooks| hooks.poststart().as_deref());
        hooks::run("poststart", hooks, &self.state("running", self.record.init.pid)).inspect_err(|_| {
            // It may have ended by itself already.
            drop(self.kill(libc::SIGKILL, false));
        })
    }

    /// The state as the specification has it.
    pub fn state(&self, status: &str, pid: i32) -> Value {
        let record = &self.record;
        container::state(&record.id, status, pid, &record.bundle, &record.annotations)
    }

    /// Sends a signal to init, or to every process of the container.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, signal: i32, is_all: bool) -> Result<()> {
        use crate::failure::Context;
        if is_all {
            for pid in self.record.cgroup.processes() {
                // A process may have ended since it was listed.
                if let Ok(pidfd) = pidfd_open(pid) {
                    drop(pidfd_signal(std::os::fd::AsFd::as_fd(&pidfd), signal));
                }
            }
            return Ok(());
        }
        let gone = || Failure::new("kill", format!("container not running: {}", self.record.id));
        let pidfd = pidfd_open(self.record.init.pid).map_err(|_| gone())?;
        // Checked after the descriptor was taken, so a reused number is noticed.
        if !container::is_alive(&self.record.init) {
            return Err(gone());
        }
        pidfd_signal(std::os::fd::AsFd::as_fd(&pidfd), signal)
            .step("kill", || format!("send signal {signal}"))
    }

    /// Removes the container: what still runs in it, its cgroup, its record. Goes on after a failure. Then runs its
    /// poststop hooks.
    ///
    /// # Errors
    /// With everything that could not be removed.
    pub fn remove(&self) -> Result<()> {
        let cgroup = &self.record.cgroup;
        let steps = [
            cgroup.kill_all(Duration::from_secs(5)),
            cgroup.remove(),
            self.directory.remove(),
        ];
        let hooks = self
            .record
            .hooks
            .as_ref()
            .and_then(|hooks| hooks.poststop().as_deref());
        hooks::run_all("poststop", hooks, &self.state("stopped", 0));
        let failures: Vec<String> = steps
            .into_iter()
            .filter_map(Result::err)
            .map(|failure| failure.to_string())
            .collect();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Failure::new("delete", failures.join("; ")))
        }
    }
}
