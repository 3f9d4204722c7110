//! What a server and its workers cost, read from /proc.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

/// The process and all its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let mut at = 0;
    while at < family.len() {
        let path = format!("/proc/{0}/task/{0}/children", family[at]);
        let children = fs::read_to_string(path).unwrap_or_default();
        family.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
        at += 1;
    }
    family
}

/// User and system time so far of the process and its descendants, in seconds.
pub fn cpu_seconds(root: u32) -> f64 {
    // USER_HZ is 100 on every Linux architecture that matters.
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may hold spaces and parentheses; fields are counted behind its end. utime is field 14.
        let fields: Vec<u64> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| {
            rest.split_whitespace()
                .map(|field| field.parse().unwrap_or(0))
                .collect()
        });
        fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0)
    };
    family(root).into_iter().map(ticks).sum::<u64>() as f64 / TICKS_PER_SECOND
}

/// Resident memory of the process and its descendants, in MiB.
pub fn resident_mib(root: u32) -> f64 {
    let kib = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    family(root).into_iter().map(kib).sum::<u64>() as f64 / 1024.0
}

/// Looks for the highest resident memory.
#[derive(Debug)]
pub struct Peak {
    is_over: Arc<AtomicBool>,
    highest: JoinHandle<f64>,
}

impl Peak {
    /// Begins to look, 50 times a second.
    pub fn watch(root: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let highest = tokio::task::spawn_blocking(move || {
            let mut highest = 0.0_f64;
            while !over.load(Ordering::Relaxed) {
                highest = highest.max(resident_mib(root));
                std::thread::sleep(Duration::from_millis(20));
            }
            highest
        });
        Self { is_over, highest }
    }

    /// The highest value seen, in MiB.
    pub async fn finish(self) -> f64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.highest.await.expect("looking does not panic")
    }
}
