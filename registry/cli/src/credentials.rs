//! Who we are at which server: the file that `login` writes, and docker's, which is only read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::control::operator::Account;
use serde::{Deserialize, Serialize};

use crate::connection::ServerUrl;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// The server of the last login.
    current: Option<ServerUrl>,
    /// Accounts by server.
    #[serde(default)]
    servers: BTreeMap<ServerUrl, Stored>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    username: String,
    password: String,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Accounts that were logged in, in a file that only its owner may read.
#[derive(Debug)]
pub struct Store {
    /// `None` where there is no home: nothing is kept then.
    path: Option<PathBuf>,
    content: Content,
}

impl Store {
    /// Opens the caller's file; an absent one is empty.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or others may read it.
    pub fn open() -> anyhow::Result<Self> {
        let configured = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let configured = configured.filter(|directory| directory.is_absolute());
        match configured.or_else(|| home().map(|home| home.join(".config"))) {
            Some(directory) => Self::at(directory.join("pierhead/credentials.json")),
            None => Ok(Self {
                path: None,
                content: Content::default(),
            }),
        }
    }

    fn at(path: PathBuf) -> anyhow::Result<Self> {
        let content = match fs::read(&path) {
            Ok(bytes) => {
                let mode = fs::metadata(&path)
                    .with_context(|| format!("look at {}", path.display()))?
                    .permissions()
                    .mode();
                if mode & 0o077 != 0 {
                    bail!(
                        "{0} may be read by others (mode {1:o}); change the passwords in it, then: chmod 600 {0}",
                        path.display(),
                        mode & 0o777
                    );
                }
                serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is damaged; remove it and log in again", path.display()))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self {
            path: Some(path),
            content,
        })
    }

    /// The server of the last login.
    pub fn current(&self) -> Option<&ServerUrl> {
        self.content.current.as_ref()
    }

    /// The account at `server`.
    pub fn account(&self, server: &ServerUrl) -> Option<Account> {
        self.content.servers.get(server).map(Stored::account)
    }

    /// The account at the registry `host`, by whatever scheme it was logged in.
    pub fn account_at_host(&self, host: &str) -> Option<Account> {
        let mut servers = self.content.servers.iter();
        let found = servers.find(|(server, _)| server.host() == host);
        found.map(|(_, stored)| stored.account())
    }

    /// Keeps an account and makes its server the current one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&mut self, server: &ServerUrl, account: &Account) -> anyhow::Result<()> {
        let stored = Stored {
            username: account.username.clone(),
            password: account.password.clone(),
        };
        self.content.servers.insert(server.clone(), stored);
        self.content.current = Some(server.clone());
        self.save()
    }

    /// Forgets the account at `server`; whether there was one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget(&mut self, server: &ServerUrl) -> anyhow::Result<bool> {
        let was_there = self.content.servers.remove(server).is_some();
        if self.content.current.as_ref() == Some(server) {
            self.content.current = None;
        }
        self.save()?;
        Ok(was_there)
    }

    /// Where the file is.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn path(&self) -> anyhow::Result<&Path> {
        self.path.as_deref().context(
            "neither XDG_CONFIG_HOME nor HOME is set, so there is no place for credentials; set one of them, or \
             PIERHEAD_SERVER, PIERHEAD_USERNAME and PIERHEAD_PASSWORD instead of logging in",
        )
    }

    /// Replaces the file in one step, so that a crash leaves the old one or the new one.
    fn save(&self) -> anyhow::Result<()> {
        let path = self.path()?;
        let directory = path.parent().context("the file has a directory")?;
        let write = || -> io::Result<()> {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
            // Temporary files are made with mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            serde_json::to_writer_pretty(&mut file, &self.content)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

impl Stored {
    fn account(&self) -> Account {
        Account {
            username: self.username.clone(),
            password: self.password.clone(),
        }
    }
}

fn home() -> Option<PathBuf> {
    std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

/// The account that docker has for the registry `host`, where it is written in its configuration itself; credential
/// helpers are not asked.
///
/// # Errors
/// When the file is there and cannot be read or understood.
pub fn of_docker(host: &str) -> anyhow::Result<Option<Account>> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let Some(directory) = directory.or_else(|| home().map(|home| home.join(".docker"))) else {
        return Ok(None);
    };
    let path = directory.join("config.json");
    match fs::read(&path) {
        Ok(bytes) => {
            of_docker_config(&bytes, host).with_context(|| format!("{} cannot be understood", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn of_docker_config(bytes: &[u8], host: &str) -> anyhow::Result<Option<Account>> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: BTreeMap<String, Auth>,
    }
    #[derive(Deserialize)]
    struct Auth {
        auth: Option<String>,
    }
    let config: Config = serde_json::from_slice(bytes)?;
    let is_docker_hub = matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    // Docker Hub's key is a URL with a path, others are a host or, from old versions, a URL.
    let is_of_host = |key: &str| {
        let bare = key
            .strip_prefix("https://")
            .or_else(|| key.strip_prefix("http://"))
            .unwrap_or(key);
        let key_host = bare.split('/').next().unwrap_or_default();
        key_host == host || (is_docker_hub && matches!(key_host, "docker.io" | "index.docker.io"))
    };
    let Some(auth) = config.auths.iter().find(|(key, _)| is_of_host(key)) else {
        return Ok(None);
    };
    // An entry without it means that a credential helper has the password.
    let Some(encoded) = auth.1.auth.as_deref().filter(|auth| !auth.is_empty()) else {
        return Ok(None);
    };
    let decoded = BASE64_STANDARD
        .decode(encoded)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.with_context(|| format!("the auth of {} is no base64", auth.0))?;
    let (username, password) = decoded
        .split_once(':')
        .with_context(|| format!("the auth of {} is not USER:PASSWORD", auth.0))?;
    Ok(Some(Account {
        username: username.to_owned(),
        password: password.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> Account {
        Account {
            username: name.to_owned(),
            password: format!("secret of {name}"),
        }
    }

    #[test]
    fn accounts_are_kept_in_a_private_file_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/pierhead/credentials.json");
        let server: ServerUrl = "https://reg.acme.io".parse().unwrap();
        let mut store = Store::at(path.clone()).unwrap();
        store.keep(&server, &account("ann")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let mut store = Store::at(path.clone()).unwrap();
        assert_eq!(store.current(), Some(&server));
        assert_eq!(store.account_at_host("reg.acme.io").unwrap().username, "ann");
        assert!(store.account_at_host("reg.acme.io:5000").is_none());
        assert!(!format!("{store:?}").contains("secret"));
        assert!(store.forget(&server).unwrap());
        assert!(!store.forget(&server).unwrap());
        assert!(Store::at(path).unwrap().account(&server).is_none());
    }

    #[test]
    fn files_that_others_may_read_and_damaged_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials.json");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Store::at(path.clone()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Store::at(path.clone()).is_ok());
        fs::write(&path, "{").unwrap();
        assert!(Store::at(path).unwrap_err().to_string().contains("log in again"));
    }

    #[test]
    fn dockers_plain_accounts_are_found() {
        let config = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}},"reg.acme.io":{{"auth":"{}"}},
                "helper.io":{{}},"bad.io":{{"auth":"%"}}}},"credsStore":"x"}}"#,
            BASE64_STANDARD.encode("hub:p:q"),
            BASE64_STANDARD.encode("ann:secret")
        );
        let find = |host: &str| of_docker_config(config.as_bytes(), host);
        assert_eq!(find("docker.io").unwrap().unwrap().password, "p:q");
        assert_eq!(find("reg.acme.io").unwrap().unwrap().username, "ann");
        assert!(find("reg.acme.io:5000").unwrap().is_none());
        assert!(find("helper.io").unwrap().is_none());
        assert!(find("bad.io").is_err());
    }
}
