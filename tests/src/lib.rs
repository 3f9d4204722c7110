//! Harness of the black-box suites: starts built binaries with private directories on port 0, makes images, waits
//! for conditions, and cleans up whatever happens.

pub mod balancer;
pub mod cluster;
pub mod debian;
pub mod image;
pub mod nginx;
pub mod objects;
pub mod postgres;
pub mod process;
pub mod registry;

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A built program of this workspace, beside the running test or benchmark.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let running = std::env::current_exe().expect("the running program has a path");
    let directory = running.parent().expect("programs lie in a directory");
    // Programs lie in target/PROFILE, tests in target/PROFILE/deps.
    let profile = match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().unwrap_or(directory),
        _ => directory,
    };
    let path = profile.join(name);
    assert!(
        path.exists(),
        "{} is not built; run cargo build first",
        path.display()
    );
    path
}

/// Waits until `look` gives a value; fails with the last status after `deadline`.
///
/// # Panics
/// At the deadline.
pub fn wait_for<T, E: Display>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(status) if started.elapsed() > deadline => panic!("waited {deadline:?} for {what}: {status}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
