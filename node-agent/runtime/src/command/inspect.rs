//! `state`, `list`, `ps` and `features`.

use std::fs;

use oci_spec::runtime::ContainerState;
use serde_json::{Value, json};

use super::Done;
use super::arguments::{Arguments, Global, unknown};
use crate::container::ContainerId;
use crate::failure::Context;
use crate::lifecycle::Container;

/// The runtime-spec version implemented.
pub(super) const OCI_VERSION: &str = "1.2.0";

pub(super) fn state(global: &Global, mut arguments: Arguments) -> Done {
    let container = Container::find(&global.root, &arguments.id()?)?;
    print(&describe(&container))
}

pub(super) fn list(global: &Global, mut arguments: Arguments) -> Done {
    let (mut is_quiet, mut is_json) = (false, false);
    while let Some(option) = arguments.option() {
        match option.as_str() {
            "--quiet" | "-q" => is_quiet = true,
            "--format" | "-f" => is_json = arguments.value(&option)? == "json",
            _ => return Err(unknown(&option)),
        }
    }
    let mut containers: Vec<Container> = Vec::new();
    for entry in fs::read_dir(&global.root).into_iter().flatten().flatten() {
        let id = ContainerId::parse(&entry.file_name().to_string_lossy());
        // A directory without a record is a container that is just being made or removed.
        containers.extend(id.and_then(|id| Container::find(&global.root, &id)).ok());
    }
    containers.sort_by(|a, b| a.record.id.cmp(&b.record.id));
    if is_json {
        return print(&Value::Array(containers.iter().map(describe).collect()));
    }
    if !is_quiet {
        println!("{:<24} {:<8} {:<8} BUNDLE", "ID", "PID", "STATUS");
    }
    for container in &containers {
        let record = &container.record;
        if is_quiet {
            println!("{}", record.id);
        } else {
            let pid = record.init.pid;
            println!(
                "{:<24} {pid:<8} {:<8} {}",
                record.id,
                status(container),
                record.bundle.display()
            );
        }
    }
    Ok(0)
}

pub(super) fn ps(global: &Global, mut arguments: Arguments) -> Done {
    while let Some(option) = arguments.option() {
        match option.as_str() {
            "--format" | "-f" => drop(arguments.value(&option)?),
            _ => return Err(unknown(&option)),
        }
    }
    let container = Container::find(&global.root, &arguments.id()?)?;
    print(&json!(container.record.cgroup.processes()))
}

pub(super) fn features() -> Done {
    print(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
        },
    }))
}

fn describe(container: &Container) -> Value {
    let record = &container.record;
    let pid = if container.status() == ContainerState::Stopped {
        0
    } else {
        record.init.pid
    };
    json!({
        "ociVersion": OCI_VERSION,
        "id": record.id,
        "status": status(container),
        "pid": pid,
        "bundle": record.bundle,
        "created": record.created,
        "annotations": record.annotations,
    })
}

fn status(container: &Container) -> String {
    match container.status() {
        ContainerState::Running if container.record.cgroup.is_frozen() => "paused".to_owned(),
        other => other.to_string(),
    }
}

fn print(value: &Value) -> Done {
    println!(
        "{}",
        serde_json::to_string_pretty(value).step("output", || "encode")?
    );
    Ok(0)
}
