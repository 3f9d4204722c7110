//! From what the image says and what was asked for to what runs: pure rules, checked when a container is created.
//!
//! Entrypoint, command and environment follow Docker (Docker Engine API, ContainerCreate).

use api::{ContainerSpec, Resources};
use oci_spec::runtime::{Capabilities, Capability};
use runtime::defaults;
use serde::{Deserialize, Serialize};

use crate::image::ImageConfig;

/// The search path where neither image nor operator has one.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGTERM: i32 = 15;
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;
/// Less is not enough for a process to be born.
const LEAST_MEMORY_BYTES: u64 = 6 * 1024 * 1024;
/// The kernel takes no quota below a millisecond of a period of a hundred.
const LEAST_NANO_CPUS: u64 = 10_000_000;
/// What `sethostname` takes, and a label of a host's name.
const LONGEST_HOSTNAME: usize = 63;

/// What runs in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The command line.
    pub args: Vec<String>,
    /// `NAME=value`, complete but for `HOME`, which the user's entry in /etc/passwd decides at start.
    pub environment: Vec<String>,
    /// `user[:group]`, by name or number; empty is root.
    pub user: String,
    /// Absolute.
    pub working_dir: String,
    /// Name of the host.
    pub hostname: String,
    /// The signal that asks the program to end.
    pub stop_signal: i32,
}

/// What is wrong with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing to run.
    #[error("neither the image nor the service says what to run: give a command")]
    NoCommand,
    /// A text with a zero byte cannot reach a program.
    #[error("{what} {text:?} holds a zero byte")]
    ZeroByte {
        /// Which text.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A variable's name.
    #[error("{name:?} cannot be the name of an environment variable: it must not be empty or hold `=`")]
    Variable {
        /// The name.
        name: String,
    },
    /// A working directory that is not absolute.
    #[error("working directory {path:?} is not absolute: begin it with a slash")]
    WorkingDirectory {
        /// The directory.
        path: String,
    },
    /// A host name.
    #[error("{hostname:?} cannot be a host name: 1 to 63 letters, digits, `.` or `-`")]
    Hostname {
        /// The name.
        hostname: String,
    },
    /// A capability nobody knows.
    #[error("{name:?} is not a capability: write it as NET_ADMIN, or ALL")]
    Capability {
        /// The name.
        name: String,
    },
    /// A signal nobody knows.
    #[error("the image's stop signal {name:?} is not a signal")]
    Signal {
        /// The name.
        name: String,
    },
    /// A memory limit nothing can run in.
    #[error("a memory limit of {bytes} bytes is too small: give at least {LEAST_MEMORY_BYTES}")]
    Memory {
        /// The limit.
        bytes: u64,
    },
    /// A CPU limit the kernel does not take.
    #[error("a CPU limit of {nano_cpus} billionths of a core is too small: give at least {LEAST_NANO_CPUS}")]
    Cpu {
        /// The limit.
        nano_cpus: u64,
    },
    /// A limit too large for its type.
    #[error("{value} is too large for a limit")]
    TooLarge {
        /// The limit.
        value: u64,
    },
}

impl Program {
    /// Decides what runs. `id` gives the host name where nothing else does.
    ///
    /// # Errors
    /// With what is wrong.
    pub(super) fn new(image: &ImageConfig, asked: &ContainerSpec, id: &str) -> Result<Self, SpecError> {
        let hostname = asked
            .hostname
            .clone()
            .unwrap_or_else(|| id[..12.min(id.len())].to_owned());
        let is_good = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        if hostname.is_empty() || hostname.len() > LONGEST_HOSTNAME || !hostname.chars().all(is_good) {
            return Err(SpecError::Hostname { hostname });
        }
        let program = Self {
            args: command_line(image, asked)?,
            environment: environment(image, asked, &hostname)?,
            user: asked.user.clone().unwrap_or_else(|| image.user.clone()),
            working_dir: working_dir(image, asked)?,
            hostname,
            stop_signal: match image.stop_signal.as_deref() {
                None | Some("") => SIGTERM,
                Some(name) => signal(name).ok_or_else(|| SpecError::Signal {
                    name: name.to_owned(),
                })?,
            },
        };
        let texts = program.args.iter().map(|text| ("argument", text));
        let texts = texts.chain(
            program
                .environment
                .iter()
                .map(|text| ("environment variable", text)),
        );
        for (what, text) in texts.chain([("working directory", &program.working_dir)]) {
            if text.contains('\0') {
                let text = text.clone();
                return Err(SpecError::ZeroByte { what, text });
            }
        }
        Ok(program)
    }
}

/// An entrypoint that is asked for drops the image's command, which was meant for the image's entrypoint.
fn command_line(image: &ImageConfig, asked: &ContainerSpec) -> Result<Vec<String>, SpecError> {
    let (entrypoint, command) = match (&asked.entrypoint, &asked.command) {
        (Some(entrypoint), command) => (entrypoint, command.as_deref().unwrap_or(&[])),
        (None, Some(command)) => (&image.entrypoint, command.as_slice()),
        (None, None) => (&image.entrypoint, image.cmd.as_slice()),
    };
    let args: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    match args.first() {
        Some(program) if !program.is_empty() => Ok(args),
        _ => Err(SpecError::NoCommand),
    }
}

/// Defaults, then what the image says, then what was asked for; a later one replaces an equal name in its place.
fn environment(image: &ImageConfig, asked: &ContainerSpec, hostname: &str) -> Result<Vec<String>, SpecError> {
    let mut all = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    let mut set = |name: &str, variable: String| {
        let is_same = |known: &&mut String| {
            known
                .split_once('=')
                .is_some_and(|(known_name, _)| known_name == name)
        };
        match all.iter_mut().find(is_same) {
            Some(known) => *known = variable,
            None => all.push(variable),
        }
    };
    for variable in &image.env {
        // An entry without a value means something to a builder only.
        if let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) {
            set(name, variable.clone());
        }
    }
    for (name, value) in &asked.environment {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::Variable { name: name.clone() });
        }
        set(name, format!("{name}={value}"));
    }
    Ok(all)
}

fn working_dir(image: &ImageConfig, asked: &ContainerSpec) -> Result<String, SpecError> {
    let path = match asked.working_dir.as_deref() {
        Some(path) if !path.starts_with('/') => {
            return Err(SpecError::WorkingDirectory {
                path: path.to_owned(),
            });
        }
        Some(path) => path.to_owned(),
        // A relative one is what a builder made of `WORKDIR` without an absolute one before: relative to the root.
        None => format!("/{}", image.working_dir.trim_start_matches('/')),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The number of a signal written as `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
pub fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = rest
            .strip_prefix('+')
            .map_or(rest.is_empty().then_some(0), |n| n.parse().ok())?;
        return Some(SIGRTMIN + offset).filter(|number| (SIGRTMIN..=SIGRTMAX).contains(number));
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset = rest
            .strip_prefix('-')
            .map_or(rest.is_empty().then_some(0), |n| n.parse().ok())?;
        return Some(SIGRTMAX - offset).filter(|number| (SIGRTMIN..=SIGRTMAX).contains(number));
    }
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

/// The capabilities that are left after additions and removals, as Docker counts: `ALL` on one side leaves the other
/// side's names as the exceptions.
///
/// # Errors
/// With the name that is not a capability.
pub(super) fn capabilities(asked: &ContainerSpec) -> Result<Capabilities, SpecError> {
    let (adds_all, added) = named(&asked.cap_add)?;
    let (drops_all, dropped) = named(&asked.cap_drop)?;
    let mut granted = if adds_all {
        every_capability()
    } else if drops_all {
        Capabilities::new()
    } else {
        defaults::capability_set()
    };
    granted.retain(|capability| !dropped.contains(capability));
    granted.extend(added);
    Ok(granted)
}

fn named(names: &[String]) -> Result<(bool, Capabilities), SpecError> {
    let (mut is_all, mut found) = (false, Capabilities::new());
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            is_all = true;
            continue;
        }
        let capability = bare
            .parse::<Capability>()
            .map_err(|_| SpecError::Capability { name: name.clone() })?;
        found.insert(capability);
    }
    Ok((is_all, found))
}

fn every_capability() -> Capabilities {
    [
        Capability::AuditControl,
        Capability::AuditRead,
        Capability::AuditWrite,
        Capability::BlockSuspend,
        Capability::Bpf,
        Capability::CheckpointRestore,
        Capability::Chown,
        Capability::DacOverride,
        Capability::DacReadSearch,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::IpcLock,
        Capability::IpcOwner,
        Capability::Kill,
        Capability::Lease,
        Capability::LinuxImmutable,
        Capability::MacAdmin,
        Capability::MacOverride,
        Capability::Mknod,
        Capability::NetAdmin,
        Capability::NetBindService,
        Capability::NetBroadcast,
        Capability::NetRaw,
        Capability::Perfmon,
        Capability::Setgid,
        Capability::Setfcap,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysAdmin,
        Capability::SysBoot,
        Capability::SysChroot,
        Capability::SysModule,
        Capability::SysNice,
        Capability::SysPacct,
        Capability::SysPtrace,
        Capability::SysRawio,
        Capability::SysResource,
        Capability::SysTime,
        Capability::SysTtyConfig,
        Capability::Syslog,
        Capability::WakeAlarm,
    ]
    .into_iter()
    .collect()
}

/// Checks limits; 0 means none, as everywhere in Docker's API.
///
/// # Errors
/// With the limit that cannot be.
pub(super) fn check_resources(resources: &Resources) -> Result<(), SpecError> {
    for value in [resources.memory_bytes, resources.nano_cpus, resources.pids]
        .into_iter()
        .flatten()
    {
        if i64::try_from(value).is_err() {
            return Err(SpecError::TooLarge { value });
        }
    }
    match (resources.memory_bytes, resources.nano_cpus) {
        (Some(bytes @ 1..LEAST_MEMORY_BYTES), _) => Err(SpecError::Memory { bytes }),
        (_, Some(nano_cpus @ 1..LEAST_NANO_CPUS)) => Err(SpecError::Cpu { nano_cpus }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image(entrypoint: &str, command: &str) -> ImageConfig {
        ImageConfig {
            entrypoint: words(entrypoint),
            cmd: words(command),
            ..ImageConfig::default()
        }
    }

    fn asked(entrypoint: Option<&str>, command: Option<&str>) -> ContainerSpec {
        ContainerSpec {
            entrypoint: entrypoint.map(words),
            command: command.map(words),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn entrypoint_and_command_combine_as_in_docker() {
        let image = image("entry", "image command");
        for (entrypoint, command, expected) in [
            (None, None, Some("entry image command")),
            (None, Some("mine"), Some("entry mine")),
            (None, Some(""), Some("entry")),
            (Some("own"), None, Some("own")),
            (Some("own"), Some("mine"), Some("own mine")),
            (Some(""), Some("mine"), Some("mine")),
            (Some(""), None, None),
        ] {
            let line = command_line(&image, &asked(entrypoint, command));
            assert_eq!(line.ok(), expected.map(words), "{entrypoint:?} {command:?}");
        }
    }

    #[test]
    fn later_variables_replace_earlier_ones_in_place() {
        let image = ImageConfig {
            env: vec!["A=1".to_owned(), "PATH=/own".to_owned(), "broken".to_owned()],
            ..image("x", "")
        };
        let mut asked = asked(None, None);
        asked.environment.insert("A".to_owned(), "2=3".to_owned());
        let program = Program::new(&image, &asked, "0123456789abcdef").expect("is good");
        assert_eq!(
            program.environment,
            ["PATH=/own", "HOSTNAME=0123456789ab", "A=2=3"]
        );
        asked.environment.insert("B=".to_owned(), String::new());
        assert!(matches!(
            Program::new(&image, &asked, "0"),
            Err(SpecError::Variable { .. })
        ));
    }

    #[test]
    fn working_directories_are_absolute_and_plain() {
        let dir = |image: &str, asked: Option<&str>| {
            let image = ImageConfig {
                working_dir: image.to_owned(),
                ..ImageConfig::default()
            };
            let asked = ContainerSpec {
                working_dir: asked.map(str::to_owned),
                ..ContainerSpec::default()
            };
            working_dir(&image, &asked)
        };
        assert_eq!(dir("", None).as_deref(), Ok("/"));
        assert_eq!(dir("app", None).as_deref(), Ok("/app"));
        assert_eq!(dir("/a", Some("/b//../../c/.")).as_deref(), Ok("/c"));
        assert!(dir("/a", Some("b")).is_err());
    }

    #[test]
    fn signals_have_many_spellings() {
        for (text, number) in [
            ("SIGQUIT", Some(3)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("RTMINX", None),
            ("0", None),
            ("65", None),
            ("NOPE", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let count = |add: &str, drop: &str| {
            let asked = ContainerSpec {
                cap_add: words(add),
                cap_drop: words(drop),
                ..ContainerSpec::default()
            };
            capabilities(&asked).map(|set| set.len())
        };
        let default = defaults::capability_set().len();
        assert_eq!(count("", ""), Ok(default));
        assert_eq!(count("NET_ADMIN cap_sys_time", "MKNOD"), Ok(default + 1));
        assert_eq!(count("", "all"), Ok(0));
        assert_eq!(count("NET_BIND_SERVICE", "ALL"), Ok(1));
        assert_eq!(count("ALL", "SYS_ADMIN"), Ok(40));
        assert!(count("NET_ADMlN", "").is_err());
    }

    #[test]
    fn limits_that_cannot_be_are_refused() {
        let with = |memory_bytes, nano_cpus| Resources {
            memory_bytes,
            nano_cpus,
            pids: None,
        };
        assert_eq!(check_resources(&with(Some(0), None)), Ok(()));
        assert!(check_resources(&with(Some(4096), None)).is_err());
        assert!(check_resources(&with(None, Some(5))).is_err());
        assert!(check_resources(&with(Some(u64::MAX), None)).is_err());
    }

    #[test]
    fn host_names_cannot_smuggle_lines_into_files() {
        let mut asked = asked(None, Some("x"));
        for bad in ["", "a b", "a\nb", "a/b", &"a".repeat(64)] {
            asked.hostname = Some(bad.to_owned());
            assert!(
                matches!(
                    Program::new(&ImageConfig::default(), &asked, "0"),
                    Err(SpecError::Hostname { .. })
                ),
                "{bad:?}"
            );
        }
    }
}
