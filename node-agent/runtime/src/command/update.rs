//! `update`: other limits for a container that exists.

use std::fs::File;
use std::io::{self, Read};

use oci_spec::runtime::{ContainerState, LinuxResources};
use serde_json::{Value, json};

use super::Done;
use super::arguments::{Arguments, Global, unknown};
use crate::failure::{Context, Failure, Result};
use crate::lifecycle::Container;

const STEP: &str = "update";

/// Options that hold one number, and where it stands in the resources of a configuration.
const NUMBERS: [(&str, &str, &str); 15] = [
    ("--blkio-weight", "blockIO", "weight"),
    ("--cpu-period", "cpu", "period"),
    ("--cpu-quota", "cpu", "quota"),
    ("--cpu-burst", "cpu", "burst"),
    ("--cpu-share", "cpu", "shares"),
    ("--cpu-shares", "cpu", "shares"),
    ("--cpu-rt-period", "cpu", "realtimePeriod"),
    ("--cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("--cpu-idle", "cpu", "idle"),
    ("--memory", "memory", "limit"),
    ("--memory-reservation", "memory", "reservation"),
    ("--memory-swap", "memory", "swap"),
    ("--pids-limit", "pids", "limit"),
    // The kernel has no such limits any more and ignores them; so do other runtimes.
    ("--kernel-memory", "ignored", "kernel"),
    ("--kernel-memory-tcp", "ignored", "kernelTCP"),
];

pub(super) fn update(global: &Global, mut arguments: Arguments) -> Done {
    let mut resources = json!({});
    while let Some(option) = arguments.option() {
        if let Some((_, group, name)) = NUMBERS.iter().find(|(known, _, _)| *known == option) {
            let number: i64 = arguments.number(&option)?;
            resources[group][name] = json!(number);
            continue;
        }
        match option.as_str() {
            "--resources" | "-r" => resources = read(&arguments.value(&option)?)?,
            "--cpuset-cpus" => resources["cpu"]["cpus"] = json!(arguments.value(&option)?),
            "--cpuset-mems" => resources["cpu"]["mems"] = json!(arguments.value(&option)?),
            _ => return Err(unknown(&option)),
        }
    }
    let container = Container::find(&global.root, &arguments.id()?)?;
    if container.status() == ContainerState::Stopped {
        return Err(Failure::new(
            STEP,
            format!("container not running: {}", container.record.id),
        ));
    }
    let resources: LinuxResources = serde_json::from_value(resources).step(STEP, || "read the resources")?;
    container.record.cgroup.apply(&resources)?;
    Ok(0)
}

/// A file of resources, `-` being standard input. Several engines write every field and leave those empty that they
/// do not mean; an empty field changes nothing.
fn read(path: &str) -> Result<Value> {
    let mut text = String::new();
    if path == "-" {
        io::stdin()
            .read_to_string(&mut text)
            .step(STEP, || "read resources from standard input")?;
    } else {
        let tried = || format!("read resources from {path}");
        File::open(path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .step(STEP, tried)?;
    }
    serde_json::from_str(&text).step(STEP, || format!("parse resources from {path}"))
}
