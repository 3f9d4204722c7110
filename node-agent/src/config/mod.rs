//! Configuration: flags over environment over file over defaults, read once and turned into typed values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::network::{NetworkConfig, Subnet};

/// The file that is read when there is one and none is named.
const DEFAULT_FILE: &str = "/etc/pierhead/node-agent.toml";
/// Directory for what outlives a reboot.
pub const DEFAULT_DATA: &str = "/var/lib/pierhead/node";

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("{path} is not valid: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, with line and column.
        source: Box<toml::de::Error>,
    },
    /// Values that do not fit; all of them.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

/// The agent's flags; each is also a variable `PIERHEAD_NODE_…` and, but for `--config`, a key of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file (TOML). Default /etc/pierhead/node-agent.toml, if there is one.
    #[arg(long, env = "PIERHEAD_NODE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for what outlives a reboot. Default /var/lib/pierhead/node.
    #[arg(long, env = "PIERHEAD_NODE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Directory for what lives as long as the machine is up. Default /run/pierhead.
    #[arg(long, env = "PIERHEAD_NODE_RUN", value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Socket of the local API. Default /run/pierhead/docker.sock.
    #[arg(long, env = "PIERHEAD_NODE_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Run without a server.
    #[arg(long, env = "PIERHEAD_NODE_STANDALONE")]
    pub standalone: bool,
    /// The containers' bridge. Default: ph- and a hash of the data directory.
    #[arg(long, env = "PIERHEAD_NODE_BRIDGE", value_name = "NAME")]
    pub bridge: Option<String>,
    /// The containers' subnet, such as 10.64.3.0/24. Default: one that is free.
    #[arg(long, env = "PIERHEAD_NODE_SUBNET", value_name = "SUBNET")]
    pub subnet: Option<Subnet>,
    /// Control group below which containers' groups are made. Default pierhead.
    #[arg(long, env = "PIERHEAD_NODE_CGROUP_PARENT", value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Seconds that an image is kept after no task needs it. Default 3600.
    #[arg(long, env = "PIERHEAD_NODE_KEEP_UNUSED_IMAGES_S", value_name = "SECONDS")]
    pub keep_unused_images_s: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    run: Option<PathBuf>,
    socket: Option<PathBuf>,
    standalone: Option<bool>,
    bridge: Option<String>,
    subnet: Option<Subnet>,
    cgroup_parent: Option<String>,
    keep_unused_images_s: Option<u64>,
}

/// The configuration as the agent uses it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory for what outlives a reboot.
    pub data: PathBuf,
    /// Directory for what lives as long as the machine is up.
    pub run: PathBuf,
    /// Socket of the local API.
    pub socket: PathBuf,
    /// Whether there is no server.
    pub is_standalone: bool,
    /// The containers' bridge and subnet.
    pub network: NetworkConfig,
    /// Control group below which containers' groups are made.
    pub cgroup_parent: String,
    /// How long an image is kept after no task needs it.
    pub keep_unused_images: Duration,
}

impl Config {
    /// Reads the file that `flags` name, or the usual one, and lays the flags over it.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first of it.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => File::default(),
        };
        Self::merge(flags, file)
    }

    fn merge(flags: Flags, file: File) -> Result<Self, ConfigError> {
        let mut wrong = Vec::new();
        let mut path = |name: &str, given: Option<PathBuf>, default: &str| {
            let path = given.unwrap_or_else(|| default.into());
            // Containers' processes, which outlive the agent, are told these paths.
            std::path::absolute(&path).unwrap_or_else(|error| {
                wrong.push(format!("{name} is {:?}: {error}", path.display()));
                path
            })
        };
        let data = path("data", flags.data.or(file.data), DEFAULT_DATA);
        let run = path("run", flags.run.or(file.run), "/run/pierhead");
        let socket = path(
            "socket",
            flags.socket.or(file.socket),
            "/run/pierhead/docker.sock",
        );
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            wrong.push(format!(
                "socket is {} bytes long; the kernel takes at most {SOCKET_PATH_MAX}",
                socket.as_os_str().len()
            ));
        }
        if run.starts_with(&data) || data.starts_with(&run) {
            wrong.push(format!(
                "data ({}) and run ({}) must not lie in each other: one outlives a reboot, the other must not",
                data.display(),
                run.display()
            ));
        }
        let mut network = NetworkConfig::for_instance(&data, &run);
        network.subnet = flags.subnet.or(file.subnet);
        if let Some(bridge) = flags.bridge.or(file.bridge) {
            network.bridge = bridge;
        }
        if let Err(error) = network.check() {
            wrong.push(error.to_string());
        }
        let cgroup_parent = flags.cgroup_parent.or(file.cgroup_parent);
        let cgroup_parent = cgroup_parent.unwrap_or_else(|| "pierhead".to_owned());
        let is_component = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !cgroup_parent.trim_matches('/').split('/').all(is_component) {
            wrong.push(format!(
                "cgroup_parent is {cgroup_parent:?}; write names of groups with `/` between them"
            ));
        }
        if !wrong.is_empty() {
            return Err(ConfigError::Values(wrong));
        }
        let keep_unused_images_s = flags.keep_unused_images_s.or(file.keep_unused_images_s);
        Ok(Self {
            data,
            run,
            socket,
            is_standalone: flags.standalone || file.standalone.unwrap_or(false),
            network,
            cgroup_parent: cgroup_parent.trim_matches('/').to_owned(),
            keep_unused_images: Duration::from_secs(keep_unused_images_s.unwrap_or(3600)),
        })
    }
}

/// `sun_path` without its final zero, unix(7).
const SOCKET_PATH_MAX: usize = 107;

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let file = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: "test".into(),
            source: Box::new(source),
        })?;
        Config::merge(Flags::default(), file)
    }

    #[test]
    fn the_annotated_file_states_the_defaults() {
        let text = include_str!("../../../config/node-agent.toml");
        let (annotated, default) = (parse(text).unwrap(), parse("").unwrap());
        assert_eq!(format!("{annotated:?}"), format!("{default:?}"));
    }

    #[test]
    fn the_annotated_file_names_every_key() {
        let text = include_str!("../../../config/node-agent.toml");
        let everything: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let file: File = toml::from_str(&everything).unwrap();
        assert!(
            !format!("{file:?}").contains("None"),
            "a key is not described: {file:?}"
        );
    }

    #[test]
    fn unknown_keys_are_errors() {
        let error = parse("dat = \"/x\"").unwrap_err().to_string();
        assert!(
            error.contains("dat") && error.contains("cgroup_parent"),
            "{error}"
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = format!(
            "data = \"/x\"\nrun = \"/x/run\"\nbridge = \"much-too-long-a-name\"\nsocket = \"/{}\"\ncgroup_parent = \"a/../b\"",
            "s".repeat(200)
        );
        let Err(ConfigError::Values(wrong)) = parse(&text) else {
            panic!("it was accepted")
        };
        assert_eq!(wrong.len(), 4, "{wrong:?}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Flags {
            data: Some("/flag".into()),
            ..Flags::default()
        };
        let file = toml::from_str("data = \"/file\"\nkeep_unused_images_s = 5").unwrap();
        let config = Config::merge(flags, file).unwrap();
        assert_eq!(config.data, Path::new("/flag"));
        assert_eq!(config.keep_unused_images, Duration::from_secs(5));
    }
}
