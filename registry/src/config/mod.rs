//! Configuration: flags over environment over file over defaults, read once and turned into typed values.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use oci::RepositoryPattern;
use serde::Deserialize;
use url::Url;

mod collection;
mod storage;

pub use collection::CollectionConfig;
use collection::CollectionFile;
use storage::StorageFile;
pub use storage::{Redirect, StorageConfig};

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

/// The server's flags; each is also a variable `PIERHEAD_…` and, but for `--config`, a key of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file (TOML).
    #[arg(long, env = "PIERHEAD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one. Default 127.0.0.1:5000.
    #[arg(long, env = "PIERHEAD_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Directory for everything the server keeps. Default /var/lib/pierhead/registry.
    #[arg(long, env = "PIERHEAD_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Database: sqlite:PATH or postgres://… . Default DATA/registry.db.
    #[arg(long, env = "PIERHEAD_DATABASE", value_name = "URL")]
    pub database: Option<String>,
    /// Blob storage: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or memory: . Default
    /// DATA/storage.
    #[arg(long, env = "PIERHEAD_STORAGE", value_name = "URL")]
    pub storage: Option<Url>,
    /// URL that clients reach the server by, where a proxy hides it.
    #[arg(long, env = "PIERHEAD_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<Url>,
    /// File with the first admin's password; one is made and printed once where there is none.
    #[arg(long, env = "PIERHEAD_ADMIN_PASSWORD_FILE", value_name = "FILE")]
    pub admin_password_file: Option<PathBuf>,
    /// Repositories that accept manifests naming content they do not hold; may be given several times.
    #[arg(long, env = "PIERHEAD_SPARSE", value_name = "PATTERN", value_delimiter = ',')]
    pub sparse: Vec<String>,
    /// No accounts: everyone may do everything. Only on loopback addresses.
    #[arg(long, env = "PIERHEAD_OPEN")]
    pub open: bool,
    /// With --open, also on addresses that others can reach.
    #[arg(long, env = "PIERHEAD_OPEN_TO_EVERYONE")]
    pub open_to_everyone: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    data: Option<PathBuf>,
    database: Option<String>,
    storage: StorageFile,
    collection: CollectionFile,
    public_url: Option<Url>,
    admin_password_file: Option<PathBuf>,
    sparse: Vec<String>,
    open: Option<bool>,
    open_to_everyone: Option<bool>,
    upstream: BTreeMap<String, UpstreamFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamFile {
    url: Url,
    username: Option<String>,
    password_file: Option<PathBuf>,
}

/// One upstream registry.
#[derive(Clone)]
pub struct UpstreamConfig {
    /// Its base URL, `https://registry-1.docker.io` for Docker Hub.
    pub url: Url,
    /// User name, where it wants one.
    pub username: Option<String>,
    /// Password, from `password_file`.
    pub password: Option<String>,
}

impl std::fmt::Debug for UpstreamConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamConfig")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

/// The configuration as the server uses it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Directory for everything the server keeps.
    pub data: PathBuf,
    /// Database URL.
    pub database: String,
    /// Where blobs are kept.
    pub storage: StorageConfig,
    /// When blobs that nothing needs are removed.
    pub collection: CollectionConfig,
    /// URL that clients reach the server by; from the request where `None`.
    pub public_url: Option<Url>,
    /// File with the first admin's password.
    pub admin_password_file: Option<PathBuf>,
    /// Repositories that accept manifests naming content they do not hold, where nothing is set for them.
    pub sparse: Vec<RepositoryPattern>,
    /// Whether everyone may do everything.
    pub is_open: bool,
    /// Upstream registries by the name that repositories of theirs begin with.
    pub upstreams: BTreeMap<String, UpstreamConfig>,
}

impl Config {
    /// Reads the file that `flags` name and lays the flags over it.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first of it.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => {
                let text = read(path)?;
                let parse = |source| ConfigError::Parse {
                    path: path.clone(),
                    source: Box::new(source),
                };
                toml::from_str(&text).map_err(parse)?
            }
            None => File::default(),
        };
        Self::merge(flags, file)
    }

    fn merge(flags: Flags, file: File) -> Result<Self, ConfigError> {
        let mut wrong = Vec::new();
        let default_listen = SocketAddr::from(([127, 0, 0, 1], 5000));
        let listen = flags.listen.or(file.listen).unwrap_or(default_listen);
        let data = flags
            .data
            .or(file.data)
            .unwrap_or_else(|| "/var/lib/pierhead/registry".into());
        let database = flags
            .database
            .or(file.database)
            .unwrap_or_else(|| format!("sqlite:{}", data.join("registry.db").display()));
        let storage = file
            .storage
            .check(flags.storage, &data, std::env::vars_os(), &mut wrong);
        let collection = file.collection.check(&mut wrong);
        let is_open = flags.open || file.open.unwrap_or(false);
        let is_open_to_everyone = flags.open_to_everyone || file.open_to_everyone.unwrap_or(false);
        if is_open && !listen.ip().is_loopback() && !is_open_to_everyone {
            wrong.push(format!(
                "--open on {listen} would let everyone who reaches it do everything; listen on 127.0.0.1, or add \
                 --open-to-everyone if that is meant"
            ));
        }
        let sparse = match flags.sparse.is_empty() {
            true => file.sparse,
            false => flags.sparse,
        };
        let mut patterns = Vec::new();
        for pattern in sparse {
            match pattern.parse() {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => wrong.push(format!("sparse: {error}")),
            }
        }
        let mut upstreams = BTreeMap::new();
        for (name, upstream) in file.upstream {
            match upstream.check(&name) {
                Ok(upstream) => {
                    upstreams.insert(name, upstream);
                }
                Err(error) => wrong.push(error),
            }
        }
        if !wrong.is_empty() {
            return Err(ConfigError::Values(wrong));
        }
        Ok(Self {
            listen,
            data,
            database,
            storage,
            collection,
            public_url: flags.public_url.or(file.public_url),
            admin_password_file: flags.admin_password_file.or(file.admin_password_file),
            sparse: patterns,
            is_open,
            upstreams,
        })
    }

    /// The first admin's password, where a file gives it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn admin_password(&self) -> Result<Option<String>, ConfigError> {
        self.admin_password_file.as_deref().map(read_secret).transpose()
    }
}

impl UpstreamFile {
    fn check(self, name: &str) -> Result<UpstreamConfig, String> {
        if name.parse::<oci::RepositoryName>().is_err() || name.contains('/') {
            return Err(format!(
                "upstream.{name}: the name must be one component of a repository name"
            ));
        }
        if !matches!(self.url.scheme(), "http" | "https") || self.url.host().is_none() {
            return Err(format!(
                "upstream.{name}.url is {}; write http:// or https:// and a host",
                self.url
            ));
        }
        if self.username.is_some() != self.password_file.is_some() {
            return Err(format!("upstream.{name}: username and password_file go together"));
        }
        let password = self.password_file.as_deref().map(read_secret).transpose();
        let password = password.map_err(|error| format!("upstream.{name}: {error}"))?;
        Ok(UpstreamConfig {
            url: self.url,
            username: self.username,
            password,
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// A secret from a file, which only its owner and group may read.
fn read_secret(path: &Path) -> Result<String, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path)
        .map(|m| m.permissions().mode())
        .unwrap_or(0);
    if mode & 0o004 != 0 {
        let text = format!("{} can be read by everyone; chmod 600 it", path.display());
        return Err(ConfigError::Values(vec![text]));
    }
    Ok(read(path)?.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::merge(
            Flags::default(),
            toml::from_str(text).map_err(|source| ConfigError::Parse {
                path: "test".into(),
                source: Box::new(source),
            })?,
        )
    }

    #[test]
    fn the_annotated_file_states_the_defaults() {
        let text = include_str!("../../../config/registry.toml");
        let (annotated, default) = (parse(text).unwrap(), parse("").unwrap());
        assert_eq!(format!("{annotated:?}"), format!("{default:?}"));
    }

    #[test]
    fn the_examples_in_the_annotated_file_are_valid() {
        let text = include_str!("../../../config/registry.toml");
        let examples: String = text
            .lines()
            .filter_map(|l| l.strip_prefix("#= "))
            .map(|l| format!("{l}\n"))
            .collect();
        assert!(parse(&examples).unwrap().upstreams.contains_key("dockerhub"));
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(parse("lissten = \"127.0.0.1:1\"").is_err());
        assert!(parse("[upstream.a]\nurl = \"http://x\"\nuser = \"u\"").is_err());
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let Err(ConfigError::Values(wrong)) = parse(
            "listen = \"0.0.0.0:1\"\nopen = true\nstorage = \"ftp://b\"\n[upstream.\"A/b\"]\nurl = \"http://x\"",
        ) else {
            panic!("it was accepted")
        };
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }

    #[test]
    fn open_is_for_loopback_only_unless_meant() {
        assert!(parse("open = true").unwrap().is_open);
        assert!(
            parse("open = true\nlisten = \"0.0.0.0:1\"\nopen_to_everyone = true")
                .unwrap()
                .is_open
        );
    }
}
