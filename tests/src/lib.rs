//! Harness of the black-box suites: starts built binaries with private directories on port 0, makes images, waits
//! for conditions, and cleans up whatever happens.

pub mod balancer;
pub mod image;
pub mod nginx;
pub mod objects;
pub mod postgres;
pub mod process;
pub mod registry;

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A built program of this workspace, beside the running test.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
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
