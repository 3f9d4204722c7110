//! `state`, `list` and `ps`.

use std::fs;

use oci_spec::runtime::ContainerState;
use serde_json::{Value, json};

use super::Done;
use super::arguments::{Arguments, Global, unknown};
use crate::container::ContainerId;
use crate::failure::Context;
use crate::lifecycle::Container;

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
    let mut is_json = false;
    while let Some(option) = arguments.option() {
        match option.as_str() {
            "--format" | "-f" => is_json = arguments.value(&option)? == "json",
            _ => return Err(unknown(&option)),
        }
    }
    let container = Container::find(&global.root, &arguments.id()?)?;
    let processes = container.record.cgroup.processes();
    if is_json {
        return print(&json!(processes));
    }
    println!("{:<8} COMMAND", "PID");
    for pid in processes {
        // A process may have ended since it was listed.
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        println!("{pid:<8} {}", command.trim());
    }
    Ok(0)
}

fn describe(container: &Container) -> Value {
    let record = &container.record;
    let pid = if container.status() == ContainerState::Stopped {
        0
    } else {
        record.init.pid
    };
    let mut state = container.state(&status(container), pid);
    state["created"] = json!(record.created);
    state
}

fn status(container: &Container) -> String {
    match container.status() {
        ContainerState::Running if container.record.cgroup.is_frozen() => "paused".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn print(value: &Value) -> Done {
    println!(
        "{}",
        serde_json::to_string_pretty(value).step("output", || "encode")?
    );
    Ok(0)
}
