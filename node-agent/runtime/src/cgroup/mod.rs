//! Control groups of a container, on v2, v1 and hybrid hosts.
//!
//! Every controller is used in the hierarchy where it lives, so a host whose memory controller is on v1 and
//! whose pids controller is on v2 works. A container has one directory per hierarchy it uses. Limits are
//! written before any process is inside. runtime-spec `config-linux.md`, Control groups.

mod devices;
mod stats;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};

const STEP: &str = "cgroup";

/// The directories of one container.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Cgroup {
    /// One per hierarchy.
    pub directories: Vec<Directory>,
}

/// A container's directory in one hierarchy.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Directory {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// Controllers that live in the hierarchy.
    pub controllers: Vec<String>,
    /// Whether it is the unified hierarchy.
    pub is_v2: bool,
}

/// v1 controllers every container is placed in: limits, accounting, and guarding devices. The others are
/// used when a limit asks for them, because each costs a migration.
const ALWAYS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "devices"];

/// Devices every container may use, whatever its rules say: making any node, and using null, zero, full,
/// random, urandom, tty, console, ptmx and pseudo terminals.
const DEFAULT_DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Cgroup {
    /// Makes the directories for `path` (relative to each hierarchy's root) and applies `resources`.
    ///
    /// # Errors
    /// When a directory cannot be made or a limit is refused; nothing is left behind then.
    pub fn create(path: &Path, resources: Option<&LinuxResources>) -> Result<Self> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        if relative
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)))
        {
            return Err(Failure::new(
                STEP,
                format!("cgroupsPath {} must not contain . or ..", path.display()),
            ));
        }
        let mut cgroup = Self::default();
        match cgroup.fill(relative, resources) {
            Ok(()) => Ok(cgroup),
            Err(failure) => {
                let left = cgroup.remove();
                Err(match left {
                    Ok(()) => failure,
                    Err(more) => failure.advise(&format!("cleaning up failed too: {more}")),
                })
            }
        }
    }

    fn fill(&mut self, relative: &Path, resources: Option<&LinuxResources>) -> Result<()> {
        let hierarchies = hierarchies()?;
        let has_v2 = hierarchies.iter().any(|hierarchy| hierarchy.is_v2);
        for hierarchy in hierarchies {
            let has = |name: &str| hierarchy.controllers.iter().any(|controller| controller == name);
            let is_wanted = hierarchy.is_v2
                || ALWAYS.iter().any(|name| has(name))
                || (has("freezer") && !has_v2)
                || resources.is_some_and(|resources| v1::needs(resources, &hierarchy.controllers));
            if !is_wanted {
                continue;
            }
            let directory = Directory {
                path: hierarchy.mount.join(relative),
                ..hierarchy
            };
            if directory.is_v2 {
                v2::make(&directory)?;
            } else {
                v1::make(&directory)?;
            }
            self.directories.push(directory);
        }
        match resources {
            Some(resources) => self.apply(resources),
            None => Ok(()),
        }
    }

    /// Writes limits.
    ///
    /// # Errors
    /// When the kernel refuses one, or no mounted hierarchy has the controller it needs.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        let has = |name: &str| {
            self.directories
                .iter()
                .any(|directory| directory.controllers.iter().any(|known| known == name))
        };
        let needs = [
            (
                "memory",
                resources
                    .memory()
                    .is_some_and(|memory| memory.limit().is_some_and(|limit| limit > 0)),
            ),
            (
                "cpu",
                resources
                    .cpu()
                    .as_ref()
                    .is_some_and(|cpu| cpu.quota().is_some_and(|quota| quota > 0)),
            ),
            ("pids", resources.pids().is_some_and(|pids| pids.limit() > 0)),
            (
                "hugetlb",
                resources
                    .hugepage_limits()
                    .as_ref()
                    .is_some_and(|limits| !limits.is_empty()),
            ),
            (
                "rdma",
                resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty()),
            ),
        ];
        for (controller, is_needed) in needs {
            if is_needed && !has(controller) {
                return Err(Failure::new(
                    STEP,
                    format!(
                        "a {controller} limit is asked for, but the {controller} controller is not mounted"
                    ),
                ));
            }
        }
        let has_controller = has("devices");
        for directory in &self.directories {
            if directory.is_v2 {
                v2::apply(directory, resources)?;
                // Where a v1 controller guards devices it is enough.
                if let Some(rules) = resources.devices().as_ref().filter(|_| !has_controller) {
                    devices::guard(directory, rules)?;
                }
            } else {
                v1::apply(directory, resources)?;
            }
        }
        Ok(())
    }

    /// Whether something keeps processes inside from using devices they make nodes of.
    pub fn guards_devices(&self) -> bool {
        self.directories.iter().any(|directory| directory.has("devices"))
            || self.directories.iter().any(|directory| directory.is_v2) && devices::is_possible()
    }

    /// Moves process `pid` in.
    ///
    /// # Errors
    /// When the process has ended or the kernel refuses.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.directories
            .iter()
            .try_for_each(|directory| directory.write("cgroup.procs", &pid.to_string()))
    }

    /// Process ids inside, including those in child groups.
    pub fn processes(&self) -> Vec<i32> {
        let mut all = Vec::new();
        for directory in &self.directories {
            collect(&directory.path, &mut all);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Kills every process inside and waits until they are gone or `patience` has passed.
    ///
    /// # Errors
    /// When processes remain.
    pub fn kill_all(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let unified = self.directories.iter().find(|directory| directory.is_v2);
            let is_killed = unified.is_some_and(|directory| directory.write("cgroup.kill", "1").is_ok());
            let remaining = self.processes();
            if remaining.is_empty() {
                return Ok(());
            }
            if !is_killed {
                for pid in &remaining {
                    // A process may have ended since it was listed; the next round sees the truth.
                    let target = nix::unistd::Pid::from_raw(*pid);
                    let _ = nix::sys::signal::kill(target, nix::sys::signal::SIGKILL);
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::new(STEP, format!("processes {remaining:?} do not end")));
            }
            reap();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How many processes inside the out-of-memory killer has ended.
    pub fn oom_kills(&self) -> u64 {
        let memory = self.directories.iter().find(|directory| {
            directory
                .controllers
                .iter()
                .any(|controller| controller == "memory")
        });
        let Some(directory) = memory else { return 0 };
        let file = if directory.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(directory.path.join(file)).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    }

    /// Stops or continues every process inside.
    ///
    /// # Errors
    /// When no hierarchy can freeze.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        if let Some(directory) = self.directories.iter().find(|directory| directory.is_v2) {
            return directory.write("cgroup.freeze", if is_frozen { "1" } else { "0" });
        }
        let has = |directory: &&Directory| directory.controllers.iter().any(|name| name == "freezer");
        match self.directories.iter().find(has) {
            Some(directory) => directory.write("freezer.state", if is_frozen { "FROZEN" } else { "THAWED" }),
            None => Err(Failure::new(STEP, "no mounted hierarchy can freeze processes")),
        }
    }

    /// Whether [`Cgroup::freeze`] stopped them.
    pub fn is_frozen(&self) -> bool {
        self.directories.iter().any(|directory| {
            let text = |file| fs::read_to_string(directory.path.join(file)).unwrap_or_default();
            if directory.is_v2 {
                text("cgroup.freeze").trim() == "1"
            } else {
                text("freezer.state").trim() == "FROZEN"
            }
        })
    }

    /// Removes the directories. The kernel says EBUSY while the last process is being taken down, so this
    /// tries for two seconds.
    ///
    /// # Errors
    /// With every directory that could not be removed.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut failures = Vec::new();
        for directory in &self.directories {
            if let Err(error) = remove_tree(&directory.path, deadline) {
                failures.push(format!("{}: {error}", directory.path.display()));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(STEP, format!("remove {}", failures.join("; "))))
        }
    }
}

/// Limits of `resources` on huge pages as (file, text), where `directory` has the controller.
fn hugetlb(directory: &Directory, resources: &LinuxResources, suffix: &str) -> Vec<(String, String)> {
    let limits = resources.hugepage_limits().iter().flatten();
    limits
        .filter(|_| directory.has("hugetlb"))
        .map(|limit| {
            (
                format!("hugetlb.{}.{suffix}", limit.page_size()),
                limit.limit().to_string(),
            )
        })
        .collect()
}

fn rdma(directory: &Directory, resources: &LinuxResources) -> Result<()> {
    for (device, limit) in resources.rdma().iter().flatten() {
        let mut line = device.clone();
        for (key, value) in [
            ("hca_handle", limit.hca_handles()),
            ("hca_object", limit.hca_objects()),
        ] {
            if let Some(value) = value {
                line += &format!(" {key}={value}");
            }
        }
        directory.write("rdma.max", &line)?;
    }
    Ok(())
}

impl Directory {
    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).step(STEP, || format!("write {value:?} to {}", path.display()))
    }

    /// Whether `controller` lives in this hierarchy.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// The hierarchies mounted on this host, with the mount in place of a container's path.
///
/// # Errors
/// When `/proc` cannot be read or no hierarchy is mounted.
pub fn hierarchies() -> Result<Vec<Directory>> {
    let text = fs::read_to_string("/proc/self/mountinfo").step(STEP, || "read /proc/self/mountinfo")?;
    let found = parse_mountinfo(&text);
    if found.is_empty() {
        return Err(
            Failure::new(STEP, "no cgroup hierarchy is mounted").advise("mount cgroup2 on /sys/fs/cgroup")
        );
    }
    Ok(found)
}

fn parse_mountinfo(text: &str) -> Vec<Directory> {
    const KNOWN: [&str; 13] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "net_cls",
        "blkio",
        "perf_event",
        "net_prio",
        "hugetlb",
        "pids",
        "rdma",
    ];
    let mut found: Vec<Directory> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
        let directory = match kind {
            Some("cgroup2") => {
                let text = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                let controllers = text.split_whitespace().map(str::to_owned).collect();
                Directory {
                    path: mount.clone(),
                    mount,
                    controllers,
                    is_v2: true,
                }
            }
            Some("cgroup") => {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|name| KNOWN.contains(name))
                    .map(str::to_owned)
                    .collect();
                if controllers.is_empty() {
                    continue;
                }
                Directory {
                    path: mount.clone(),
                    mount,
                    controllers,
                    is_v2: false,
                }
            }
            _ => continue,
        };
        let is_known =
            |known: &Directory| known.is_v2 == directory.is_v2 && known.controllers == directory.controllers;
        if !found.iter().any(is_known) {
            found.push(directory);
        }
    }
    found
}

fn collect(directory: &Path, into: &mut Vec<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    into.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), into);
        }
    }
}

fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), deadline)?;
        }
    }
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(2))
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes the exit status of children that are already dead, so that a subreaper does not keep zombies that
/// keep a cgroup busy. Init's own status has been taken before anybody calls this.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_each_controller_at_its_home() {
        let text = "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                    31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    33 25 0:29 / /nonexistent/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = parse_mountinfo(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].controllers, ["cpu", "cpuacct"]);
        assert!(found[2].is_v2);
    }
}
