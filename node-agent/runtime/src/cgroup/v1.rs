//! Limits on the controllers of v1 hierarchies.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{Directory, STEP};
use crate::failure::{Context, Result};

/// Whether `resources` sets something only these controllers can do.
pub(super) fn needs(resources: &LinuxResources, controllers: &[String]) -> bool {
    let has = |name: &str| controllers.iter().any(|controller| controller == name);
    let cpu = resources.cpu().as_ref();
    (has("cpuset") && cpu.is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some()))
        || (has("blkio") && resources.block_io().is_some())
        || (has("hugetlb")
            && resources
                .hugepage_limits()
                .as_ref()
                .is_some_and(|limits| !limits.is_empty()))
        || (has("rdma") && resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty()))
        || resources.network().as_ref().is_some_and(|network| {
            (has("net_cls") && network.class_id().is_some())
                || (has("net_prio") && network.priorities().is_some())
        })
}

/// Makes the directory. A cpuset is born empty and refuses processes until it has cpus and memory nodes, so
/// each new level takes its parent's.
pub(super) fn make(directory: &Directory) -> Result<()> {
    let relative = directory
        .path
        .strip_prefix(&directory.mount)
        .unwrap_or(Path::new(""));
    let mut path = directory.mount.clone();
    for part in relative.components() {
        let parent = path.clone();
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).step(STEP, || format!("make {}", path.display()));
            }
            _ => {}
        }
        if directory.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let current = fs::read_to_string(path.join(file)).unwrap_or_default();
                if current.trim().is_empty() {
                    let inherited = fs::read_to_string(parent.join(file)).unwrap_or_default();
                    fs::write(path.join(file), inherited.trim())
                        .step(STEP, || format!("write {}", path.join(file).display()))?;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn apply(directory: &Directory, resources: &LinuxResources) -> Result<()> {
    if directory.has("memory") {
        memory(directory, resources)?;
    }
    if let Some(cpu) = resources.cpu() {
        if directory.has("cpu") {
            set(
                directory,
                "cpu.rt_period_us",
                cpu.realtime_period().filter(|period| *period != 0),
            )?;
            set(
                directory,
                "cpu.rt_runtime_us",
                cpu.realtime_runtime().filter(|runtime| *runtime != 0),
            )?;
            set(directory, "cpu.shares", cpu.shares().filter(|shares| *shares > 0))?;
            set(
                directory,
                "cpu.cfs_period_us",
                cpu.period().filter(|period| *period > 0),
            )?;
            set(
                directory,
                "cpu.cfs_quota_us",
                cpu.quota().filter(|quota| *quota != 0),
            )?;
            set(directory, "cpu.cfs_burst_us", cpu.burst())?;
            set(directory, "cpu.idle", cpu.idle())?;
        }
        if directory.has("cpuset") {
            set(
                directory,
                "cpuset.cpus",
                cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()),
            )?;
            set(
                directory,
                "cpuset.mems",
                cpu.mems().as_ref().filter(|mems| !mems.is_empty()),
            )?;
        }
    }
    if let Some(pids) = resources.pids().filter(|_| directory.has("pids")) {
        match pids.limit() {
            0 => {}
            limit if limit < 0 => directory.write("pids.max", "max")?,
            limit => directory.write("pids.max", &limit.to_string())?,
        }
    }
    if let Some(rules) = resources.devices().as_ref().filter(|_| directory.has("devices")) {
        devices(directory, rules)?;
    }
    for (file, line) in super::hugetlb(directory, resources, "limit_in_bytes") {
        directory.write(&file, &line)?;
    }
    if directory.has("rdma") {
        super::rdma(directory, resources)?;
    }
    if let Some(network) = resources.network() {
        if directory.has("net_cls") {
            set(directory, "net_cls.classid", network.class_id())?;
        }
        for priority in network
            .priorities()
            .iter()
            .flatten()
            .filter(|_| directory.has("net_prio"))
        {
            let line = format!("{} {}", priority.name(), priority.priority());
            directory.write("net_prio.ifpriomap", &line)?;
        }
    }
    if let Some(block_io) = resources.block_io().as_ref().filter(|_| directory.has("blkio")) {
        let bfq = directory.path.join("blkio.bfq.weight").exists();
        set(
            directory,
            if bfq { "blkio.bfq.weight" } else { "blkio.weight" },
            block_io.weight().filter(|weight| *weight != 0),
        )?;
        for device in block_io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let file = if bfq {
                    "blkio.bfq.weight_device"
                } else {
                    "blkio.weight_device"
                };
                directory.write(file, &format!("{}:{} {weight}", device.major(), device.minor()))?;
            }
        }
        let throttles = [
            (
                "blkio.throttle.read_bps_device",
                block_io.throttle_read_bps_device(),
            ),
            (
                "blkio.throttle.write_bps_device",
                block_io.throttle_write_bps_device(),
            ),
            (
                "blkio.throttle.read_iops_device",
                block_io.throttle_read_iops_device(),
            ),
            (
                "blkio.throttle.write_iops_device",
                block_io.throttle_write_iops_device(),
            ),
        ];
        for (file, devices) in throttles {
            for device in devices.iter().flatten() {
                let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
                directory.write(file, &line)?;
            }
        }
    }
    Ok(())
}

fn memory(directory: &Directory, resources: &LinuxResources) -> Result<()> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let limit = memory.limit().filter(|limit| *limit != 0);
    // Without a limit on memory there can be none on memory and swap.
    let swap = memory
        .swap()
        .filter(|swap| *swap != 0)
        .or(limit.filter(|limit| *limit < 0));
    // memsw must never be below the limit: when raising, memsw goes first.
    let has_swap = directory.path.join("memory.memsw.limit_in_bytes").exists();
    let current = fs::read_to_string(directory.path.join("memory.memsw.limit_in_bytes")).unwrap_or_default();
    let current = current.trim().parse::<i64>().unwrap_or(i64::MAX);
    let is_raised = limit.is_some_and(|limit| limit > current || limit < 0);
    if is_raised && has_swap {
        set(directory, "memory.memsw.limit_in_bytes", swap)?;
    }
    set(directory, "memory.limit_in_bytes", limit)?;
    if !is_raised && has_swap {
        set(directory, "memory.memsw.limit_in_bytes", swap)?;
    }
    set(
        directory,
        "memory.soft_limit_in_bytes",
        memory.reservation().filter(|soft| *soft != 0),
    )?;
    set(
        directory,
        "memory.swappiness",
        memory.swappiness().filter(|value| *value <= 100),
    )?;
    if memory.disable_oom_killer() == Some(true) {
        directory.write("memory.oom_control", "1")?;
    }
    Ok(())
}

/// Rules in order, then the devices every container has. The first rule is usually "deny all".
fn devices(directory: &Directory, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    for rule in rules {
        let number = |value: Option<i64>| match value {
            Some(value) if value >= 0 => value.to_string(),
            _ => "*".to_owned(),
        };
        let kind = rule.typ().unwrap_or(LinuxDeviceType::A);
        let kind = if kind == LinuxDeviceType::U {
            "c"
        } else {
            kind.as_str()
        };
        let access = rule.access().as_deref().unwrap_or("rwm");
        let line = format!(
            "{kind} {}:{} {access}",
            number(rule.major()),
            number(rule.minor())
        );
        directory.write(
            if rule.allow() {
                "devices.allow"
            } else {
                "devices.deny"
            },
            &line,
        )?;
    }
    if !rules.is_empty() {
        for line in super::DEFAULT_DEVICES {
            directory.write("devices.allow", line)?;
        }
    }
    Ok(())
}

fn set(directory: &Directory, file: &str, value: Option<impl ToString>) -> Result<()> {
    value.map_or(Ok(()), |value| directory.write(file, &value.to_string()))
}
