//! Which server a command speaks to, and as whom.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use client::control::operator::{Account, OperatorClient};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::credentials::Store;

/// Where a server is when nobody says: on this machine, as it is configured by default.
const DEFAULT: &str = "http://127.0.0.1:5000";

/// The base address of a server, `http(s)://HOST[:PORT]` without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerUrl(Url);

/// Why a text is no address of a server.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no address of a server; write https://HOST or http://HOST:PORT, without user name, path or query"
)]
pub struct ServerUrlError(String);

impl ServerUrl {
    /// The host as image references name it: with its port, where that is not the scheme's.
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Whether what is sent there can be read on its way.
    pub fn is_open_to_eavesdroppers(&self) -> bool {
        self.0.scheme() == "http" && !self.is_of_this_machine()
    }

    /// Whether only this machine can reach it.
    pub fn is_of_this_machine(&self) -> bool {
        is_loopback(&self.0)
    }

    /// As a URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(domain)) => domain == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    /// Without a scheme, plain HTTP is meant for this machine and HTTPS for all others.
    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        // The text is not repeated where it may hold a password.
        let shown = if text.contains('@') { "…@…" } else { text };
        let error = || ServerUrlError(shown.chars().take(100).collect());
        let parse = |text: &str| text.parse::<Url>().map_err(|_| error());
        let url = if text.contains("://") {
            parse(text)?
        } else {
            let plain = parse(&format!("http://{text}"))?;
            if is_loopback(&plain) {
                plain
            } else {
                parse(&format!("https://{text}"))?
            }
        };
        let is_bare = matches!(url.scheme(), "http" | "https")
            && url.host().is_some()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if is_bare { Ok(Self(url)) } else { Err(error()) }
    }
}

impl TryFrom<String> for ServerUrl {
    type Error = ServerUrlError;

    fn try_from(text: String) -> Result<Self, ServerUrlError> {
        text.parse()
    }
}

impl From<ServerUrl> for String {
    fn from(server: ServerUrl) -> Self {
        server.to_string()
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// Which server, and as whom.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// The server; that of the last login, or http://127.0.0.1:5000, where none is given.
    #[arg(long, env = "PIERHEAD_SERVER", value_name = "URL")]
    pub server: Option<ServerUrl>,
    /// User name; the password comes from PIERHEAD_PASSWORD. Those of the last login where none is given.
    #[arg(long, env = "PIERHEAD_USERNAME", value_name = "NAME")]
    pub username: Option<String>,
}

/// A server, reachable.
#[derive(Debug)]
pub struct Operator {
    /// To ask it with.
    pub client: OperatorClient,
    /// Its address.
    pub server: ServerUrl,
}

impl Connection {
    /// The server that is meant.
    ///
    /// # Errors
    /// When the file of credentials cannot be read.
    pub fn server(&self) -> anyhow::Result<ServerUrl> {
        match &self.server {
            Some(server) => Ok(server.clone()),
            None => match Store::open()?.current() {
                Some(server) => Ok(server.clone()),
                None => DEFAULT.parse().context("the default address"),
            },
        }
    }

    /// Prepares to speak to the server. Nothing is sent yet.
    ///
    /// # Errors
    /// When the file of credentials cannot be read, or a user name has no password.
    pub fn open(&self) -> anyhow::Result<Operator> {
        let server = self.server()?;
        let account = self.account(&server)?;
        let client = OperatorClient::new(client::http()?, server.url().clone(), account);
        Ok(Operator { client, server })
    }

    fn account(&self, server: &ServerUrl) -> anyhow::Result<Option<Account>> {
        let password = std::env::var("PIERHEAD_PASSWORD").ok().filter(|p| !p.is_empty());
        if let (Some(username), Some(password)) = (&self.username, password) {
            return Ok(Some(Account {
                username: username.clone(),
                password,
            }));
        }
        let stored = Store::open()?.account(server);
        match (&self.username, stored) {
            (Some(username), Some(stored)) if stored.username == *username => Ok(Some(stored)),
            (Some(username), _) => bail!(
                "user {username} has no password for {server}; set PIERHEAD_PASSWORD, or: pierhead login --server \
                 {server} --username {username}"
            ),
            (None, stored) => Ok(stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_normalised() {
        for (text, expected, host) in [
            ("reg.acme.io", "https://reg.acme.io", "reg.acme.io"),
            ("https://reg.acme.io/", "https://reg.acme.io", "reg.acme.io"),
            ("https://REG.acme.io:443", "https://reg.acme.io", "reg.acme.io"),
            ("reg.acme.io:5000", "https://reg.acme.io:5000", "reg.acme.io:5000"),
            ("localhost:5000", "http://localhost:5000", "localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]:5000", "http://[::1]:5000", "[::1]:5000"),
            ("http://10.0.0.1:5000", "http://10.0.0.1:5000", "10.0.0.1:5000"),
        ] {
            let server: ServerUrl = text.parse().unwrap();
            assert_eq!(server.to_string(), expected);
            assert_eq!(server.host(), host);
        }
    }

    #[test]
    fn addresses_with_anything_else_are_refused_without_telling_it() {
        for text in [
            "",
            "ftp://a",
            "https://a/b",
            "https://a?b",
            "https://a#b",
            "unix:///x",
            "a b",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
        let error = "https://ann:secret@reg.acme.io".parse::<ServerUrl>().unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn only_plain_http_to_others_is_open() {
        let is_open = |text: &str| text.parse::<ServerUrl>().unwrap().is_open_to_eavesdroppers();
        assert!(is_open("http://10.0.0.1:5000"));
        assert!(!is_open("http://127.0.0.1:5000"));
        assert!(!is_open("https://10.0.0.1"));
    }
}
