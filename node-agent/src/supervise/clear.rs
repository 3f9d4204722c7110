//! Removes what a container leaves outside its root file system: processes, control groups, the runtime's and the
//! shim's directories. After an ordinary end the shim has removed all but its own directory; after a shim that was
//! killed this is what keeps anything from staying for ever.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::cgroup::{self, Cgroup};
use runtime::container::{ContainerId, Directory};
use runtime::failure::{Failure, Result};

use super::ShimError;

const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const KILL_PERIOD: Duration = Duration::from_millis(2);

/// Carries out every step and returns what failed.
pub(super) fn remove(id: &ContainerId, directory: &Path, root: &Path, cgroup: &Path) -> Vec<ShimError> {
    let mut failures = Vec::new();
    let steps = [remove_cgroups(cgroup), Directory::new(root, id).remove()];
    failures.extend(
        steps
            .into_iter()
            .filter_map(Result::err)
            .map(|failure| ShimError::Leftovers(Box::new(failure))),
    );
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failures.push(ShimError::file("remove", directory, error));
        }
        _ => {}
    }
    failures
}

/// Does what `Cgroup::kill_all` does, but without taking the exit status of children: here these belong to others.
fn remove_cgroups(path: &Path) -> Result<()> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let mut cgroup = Cgroup {
        directories: cgroup::hierarchies()?,
    };
    for directory in &mut cgroup.directories {
        directory.path = directory.mount.join(relative);
    }
    cgroup.directories.retain(|directory| directory.path.exists());
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let remaining = cgroup.processes();
        if remaining.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            let paths: Vec<PathBuf> = cgroup
                .directories
                .iter()
                .map(|known| known.path.clone())
                .collect();
            return Err(Failure::new(
                "cgroup",
                format!("processes {remaining:?} in {paths:?} do not end"),
            ));
        }
        for pid in remaining {
            // It may have ended since it was listed; the next round sees the truth.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(KILL_PERIOD);
    }
    cgroup.remove()
}
