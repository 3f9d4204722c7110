//! Limits on the unified hierarchy.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxResources};

use super::{Directory, STEP};
use crate::failure::{Context, Failure, Result};

/// Makes the directory and delegates the controllers down to it. The container's own directory delegates
/// nothing: processes live in it, and the kernel forbids both at once.
pub(super) fn make(directory: &Directory) -> Result<()> {
    let relative = directory
        .path
        .strip_prefix(&directory.mount)
        .unwrap_or(Path::new(""));
    let mut path = directory.mount.clone();
    for part in relative.components() {
        delegate(&path, &directory.controllers);
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).step(STEP, || format!("make {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Enables what can be enabled; a controller that cannot shows when a limit on it is written.
fn delegate(path: &Path, controllers: &[String]) {
    let enabled = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in controllers {
        if !enabled.split_whitespace().any(|name| name == controller) {
            drop(fs::write(
                path.join("cgroup.subtree_control"),
                format!("+{controller}"),
            ));
        }
    }
}

pub(super) fn apply(directory: &Directory, resources: &LinuxResources) -> Result<()> {
    if directory.has("memory") {
        memory(directory, resources)?;
    }
    if let Some(cpu) = resources.cpu() {
        if directory.has("cpu") {
            if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
                directory.write("cpu.weight", &weight(shares).to_string())?;
            }
            if cpu.quota().is_some() || cpu.period().is_some() {
                let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
                let quota = cpu
                    .quota()
                    .filter(|quota| *quota > 0)
                    .map_or("max".to_owned(), |quota| quota.to_string());
                directory.write("cpu.max", &format!("{quota} {period}"))?;
            }
            if let Some(burst) = cpu.burst() {
                directory.write("cpu.max.burst", &burst.to_string())?;
            }
            if let Some(idle) = cpu.idle() {
                directory.write("cpu.idle", &idle.to_string())?;
            }
        }
        if directory.has("cpuset") {
            for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
                if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                    directory.write(file, value)?;
                }
            }
        }
    }
    if let Some(pids) = resources
        .pids()
        .filter(|_| directory.has("pids"))
        .filter(|pids| pids.limit() != 0)
    {
        directory.write("pids.max", &limit(pids.limit()))?;
    }
    for (file, line) in super::hugetlb(directory, resources, "max") {
        directory.write(&file, &line)?;
    }
    if directory.has("rdma") {
        super::rdma(directory, resources)?;
    }
    if let Some(block_io) = resources.block_io().as_ref().filter(|_| directory.has("io")) {
        io(directory, block_io)?;
    }
    if let Some(unified) = resources.unified() {
        for (file, value) in unified {
            if file.contains('/') {
                return Err(Failure::new(
                    STEP,
                    format!("{file:?} in linux.resources.unified is not a file name"),
                ));
            }
            directory.write(file, value)?;
        }
    }
    Ok(())
}

fn memory(directory: &Directory, resources: &LinuxResources) -> Result<()> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let asked = memory.limit().filter(|limit| *limit != 0);
    if let Some(hard) = asked {
        directory.write("memory.max", &limit(hard))?;
    }
    let current = || fs::read_to_string(directory.path.join("memory.max")).ok();
    let hard = asked.or_else(|| current()?.trim().parse().ok());
    // The configuration counts memory and swap together, v2 counts swap alone.
    if let Some(sum) = memory.swap().filter(|swap| *swap != 0) {
        let swap = match hard {
            _ if sum < 0 => "max".to_owned(),
            Some(hard) if hard > 0 && sum >= hard => (sum - hard).to_string(),
            _ => {
                return Err(Failure::new(
                    STEP,
                    format!("memory swap {sum} is below the memory limit"),
                ));
            }
        };
        directory.write("memory.swap.max", &swap)?;
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        directory.write("memory.low", &limit(low))?;
    }
    Ok(())
}

fn limit(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// Weights and throttles of block devices. Docker's weights (10..=1000) are spread over the range of `io.weight`
/// (1..=10000); BFQ takes them as they are.
fn io(directory: &Directory, block_io: &LinuxBlockIo) -> Result<()> {
    let has_bfq = directory.path.join("io.bfq.weight").exists();
    let weight = |value: u16| {
        if has_bfq {
            value.to_string()
        } else {
            (1 + u32::from(value.clamp(10, 1000) - 10) * 9999 / 990).to_string()
        }
    };
    let file = if has_bfq { "io.bfq.weight" } else { "io.weight" };
    if let Some(value) = block_io.weight().filter(|value| *value != 0) {
        directory.write(file, &format!("default {}", weight(value)))?;
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(value) = device.weight() {
            directory.write(
                file,
                &format!("{}:{} {}", device.major(), device.minor(), weight(value)),
            )?;
        }
    }
    let throttles = [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 {
                "max".to_owned()
            } else {
                device.rate().to_string()
            };
            directory.write(
                "io.max",
                &format!("{}:{} {key}={rate}", device.major(), device.minor()),
            )?;
        }
    }
    Ok(())
}

/// Shares (2..=262144, default 1024) as a weight (1..=10000, default 100), through a curve on which both
/// defaults meet: a straight line would give every container a weight of 39.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144) as f64;
    let log = shares.log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_meet_at_both_ends_and_at_the_defaults() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 100);
        assert_eq!(weight(262_144), 10_000);
    }
}
