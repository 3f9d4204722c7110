//! `events`: what a container uses, and when its memory ran out.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::ContainerState;
use serde_json::{Value, json};

use super::Done;
use super::arguments::{Arguments, Global, unknown};
use crate::failure::{Context, Failure, Result};
use crate::lifecycle::Container;
use crate::sys::process::pidfd_open;

pub(super) fn events(global: &Global, mut arguments: Arguments) -> Done {
    let (mut is_once, mut interval) = (false, Duration::from_secs(5));
    while let Some(option) = arguments.option() {
        match option.as_str() {
            "--stats" => is_once = true,
            "--interval" => interval = duration(&arguments.value(&option)?)?,
            _ => return Err(unknown(&option)),
        }
    }
    let container = Container::find(&global.root, &arguments.id()?)?;
    if container.status() == ContainerState::Stopped {
        return Err(Failure::new(
            "events",
            format!("container not running: {}", container.record.id),
        ));
    }
    let cgroup = &container.record.cgroup;
    if is_once {
        return tell(&container, "stats", Some(cgroup.stats()));
    }
    let pidfd = pidfd_open(container.record.init.pid).step("events", || "watch the container")?;
    let patience = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
    let mut killed = cgroup.oom_kills();
    loop {
        let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let has_ended = poll(&mut polled, patience).step("events", || "wait")? > 0;
        let now = cgroup.oom_kills();
        if now > killed {
            tell(&container, "oom", None)?;
        }
        killed = now;
        if has_ended {
            return Ok(0);
        }
        tell(&container, "stats", Some(cgroup.stats()))?;
    }
}

fn tell(container: &Container, kind: &str, data: Option<Value>) -> Done {
    let mut event = json!({"type": kind, "id": container.record.id});
    if let Some(data) = data {
        event["data"] = data;
    }
    println!("{event}");
    Ok(0)
}

/// A duration as other runtimes take it: a number and `ms`, `s` or `m`.
fn duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: Option<u64> = digits.parse().ok().filter(|number| *number > 0);
    let unit = match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(1)),
        "" | "s" => Some(Duration::from_secs(1)),
        "m" => Some(Duration::from_secs(60)),
        _ => None,
    };
    let product = number
        .zip(unit)
        .and_then(|(number, unit)| unit.checked_mul(u32::try_from(number).ok()?));
    product.ok_or_else(|| {
        Failure::new(
            "arguments",
            format!("--interval {text}: give a duration such as 5s"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("5s").expect("is one"), Duration::from_secs(5));
        assert_eq!(duration("250ms").expect("is one"), Duration::from_millis(250));
        for wrong in ["", "s", "0s", "5h", "-1s", "5 s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
