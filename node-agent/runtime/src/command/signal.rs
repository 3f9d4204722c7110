//! `kill`, `delete`, `pause` and `resume`.

use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;
use oci_spec::runtime::ContainerState;

use super::Done;
use super::arguments::{Arguments, Global, unknown};
use crate::container::Directory;
use crate::failure::{Failure, Result};
use crate::lifecycle::Container;

pub(super) fn kill(global: &Global, mut arguments: Arguments) -> Done {
    let mut is_all = false;
    while let Some(option) = arguments.option() {
        match option.as_str() {
            "--all" | "-a" => is_all = true,
            _ => return Err(unknown(&option)),
        }
    }
    let container = Container::find(&global.root, &arguments.id()?)?;
    let signal = arguments.next().map_or(Ok(libc::SIGTERM), |text| parse(&text))?;
    container.kill(signal, is_all)?;
    Ok(0)
}

pub(super) fn delete(global: &Global, mut arguments: Arguments) -> Done {
    let mut is_forced = false;
    while let Some(option) = arguments.option() {
        match option.as_str() {
            "--force" | "-f" => is_forced = true,
            _ => return Err(unknown(&option)),
        }
    }
    let id = arguments.id()?;
    let container = match Container::find(&global.root, &id) {
        Ok(container) => container,
        // Forced removal is how an engine makes sure; what is not there is removed.
        Err(_) if is_forced => {
            Directory::new(&global.root, &id).remove()?;
            return Ok(0);
        }
        Err(failure) => return Err(failure),
    };
    let status = container.status();
    if status != ContainerState::Stopped && !is_forced {
        return Err(
            Failure::new("delete", format!("container {} is {status}", id.as_str()))
                .advise("kill it first, or use --force"),
        );
    }
    if status == ContainerState::Running || status == ContainerState::Created {
        container.record.cgroup.freeze(false)?;
        container.record.cgroup.kill_all(Duration::from_secs(10))?;
    }
    container.remove()?;
    Ok(0)
}

pub(super) fn freeze(global: &Global, mut arguments: Arguments, is_frozen: bool) -> Done {
    Container::find(&global.root, &arguments.id()?)?
        .record
        .cgroup
        .freeze(is_frozen)?;
    Ok(0)
}

/// A signal by number, by name, or by name without SIG.
fn parse(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>()
        && (0..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    Signal::from_str(&name)
        .map(|signal| signal as i32)
        .map_err(|_| Failure::new("arguments", format!("{text:?} is not a signal")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn signals_have_numbers_and_two_names() {
        for text in ["15", "TERM", "SIGTERM", "term"] {
            assert_eq!(super::parse(text).expect("is a signal"), 15);
        }
        assert!(super::parse("SIGNOTHING").is_err());
        assert!(super::parse("900").is_err());
    }
}
