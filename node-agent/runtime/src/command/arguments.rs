//! Reading the command line.

use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::Process;

use crate::container::ContainerId;
use crate::failure::{Failure, Result};
use crate::lifecycle::DEFAULT_ROOT;

/// Arguments not yet read, with `--name=value` split.
#[derive(Debug)]
pub(super) struct Arguments {
    rest: std::collections::VecDeque<String>,
    value: Option<String>,
}

impl Arguments {
    pub(super) fn new(args: &[String]) -> Self {
        Self {
            rest: args.iter().cloned().collect(),
            value: None,
        }
    }

    /// The next word of any kind.
    pub(super) fn next(&mut self) -> Option<String> {
        self.rest.pop_front()
    }

    /// The next option, or `None` before the first argument that is not one.
    pub(super) fn option(&mut self) -> Option<String> {
        self.value = None;
        let next = self.rest.front()?;
        if next == "--" {
            self.rest.pop_front();
            return None;
        }
        if !next.starts_with('-') || next == "-" {
            return None;
        }
        let next = self.rest.pop_front()?;
        match next.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                self.value = Some(value.to_owned());
                Some(name.to_owned())
            }
            _ => Some(next),
        }
    }

    /// The value of the option just read.
    pub(super) fn value(&mut self, option: &str) -> Result<String> {
        self.value
            .take()
            .or_else(|| self.rest.pop_front())
            .ok_or_else(|| Failure::new("arguments", format!("{option} needs a value")))
    }

    /// The value of the option just read, as a number.
    pub(super) fn number<T: FromStr>(&mut self, option: &str) -> Result<T> {
        let text = self.value(option)?;
        text.parse()
            .map_err(|_| Failure::new("arguments", format!("{option} {text}: give a number")))
    }

    /// The container's id, which is the next argument.
    pub(super) fn id(&mut self) -> Result<ContainerId> {
        match self.next() {
            Some(text) => ContainerId::parse(&text),
            None => Err(Failure::new("arguments", "no container id given")),
        }
    }

    /// Whatever is left.
    pub(super) fn remaining(self) -> Vec<String> {
        self.rest.into()
    }
}

/// An option nobody knows.
pub(super) fn unknown(option: &str) -> Failure {
    Failure::new("arguments", format!("unknown option {option}"))
}

/// Options before the command.
#[derive(Debug)]
pub(super) struct Global {
    pub(super) root: PathBuf,
    pub(super) log: Option<PathBuf>,
    pub(super) is_log_json: bool,
}

impl Global {
    pub(super) fn parse(arguments: &mut Arguments) -> Result<Self> {
        let mut global = Self {
            root: PathBuf::from(DEFAULT_ROOT),
            log: None,
            is_log_json: false,
        };
        while let Some(option) = arguments.option() {
            match option.as_str() {
                "--root" => global.root = PathBuf::from(arguments.value(&option)?),
                "--log" => global.log = Some(PathBuf::from(arguments.value(&option)?)),
                "--log-format" => global.is_log_json = arguments.value(&option)? == "json",
                "--debug" => {}
                // What other runtimes decide by it is decided by what is permitted here.
                "--rootless" => drop(arguments.value(&option)?),
                "--systemd-cgroup" => {
                    return Err(Failure::new(
                        "arguments",
                        "--systemd-cgroup is not supported: choose the cgroupfs driver",
                    ));
                }
                "--version" | "-v" | "--help" | "-h" => {
                    arguments.rest.push_front(option);
                    break;
                }
                _ => return Err(unknown(&option)),
            }
        }
        Ok(global)
    }
}

/// Descriptors after the standard ones that the program inherits: those of socket activation (`LISTEN_FDS`), then
/// those of `--preserve-fds`.
#[derive(Debug)]
pub(super) struct Inherited {
    listening: u32,
    preserved: u32,
}

impl Inherited {
    /// Verifies that they are open: a gap would be filled by a descriptor of this process.
    pub(super) fn new(preserved: u32) -> Result<Self> {
        let listening = std::env::var("LISTEN_FDS")
            .ok()
            .and_then(|text| text.parse().ok());
        let inherited = Self {
            listening: listening.unwrap_or(0),
            preserved,
        };
        let missing =
            (3..3 + inherited.count()).find(|fd| !fs::exists(format!("/proc/self/fd/{fd}")).unwrap_or(false));
        match missing {
            Some(fd) => Err(Failure::new(
                "arguments",
                format!("descriptor {fd} is to be passed on, but is not open"),
            )),
            None => Ok(inherited),
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.listening.saturating_add(self.preserved)
    }

    /// Tells `process` about its sockets. Init of a container is number 1 there.
    pub(super) fn announce(&self, process: &mut Process) {
        if self.listening > 0 {
            let mut environment = process.env().clone().unwrap_or_default();
            environment.push(format!("LISTEN_FDS={}", self.listening));
            environment.push("LISTEN_PID=1".to_owned());
            process.set_env(Some(environment));
        }
    }
}
