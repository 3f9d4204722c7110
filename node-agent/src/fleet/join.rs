//! Joining a cluster. The key comes first, since the server is asked with it; the membership is written last, when the
//! server has said yes. A join that ends in between is repeated with the same key, which the server knows again.

use std::net::IpAddr;
use std::path::Path;

use api::JoinRequest;
use client::control::ControlError;
use url::{Host, Url};

use super::identity::{IdentityError, Membership, NodeKey};
use crate::host;

/// Why a node has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The URL is none of a server.
    #[error(
        "{url:?} is not the URL of a server; write http:// or https:// and a host, without path or query"
    )]
    Url {
        /// What was written.
        url: String,
    },
    /// The node belongs to another server.
    #[error(
        "this node has joined {server} as {name}; to move it, stop the agent, remove {path}, and join again. If the \
         same server has a new address, write that into {path} instead"
    )]
    Elsewhere {
        /// The server it has joined.
        server: String,
        /// Its name there.
        name: String,
        /// The file that says so.
        path: String,
    },
    /// The key or the membership cannot be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No client can be made.
    #[error("set up TLS")]
    Tls(#[source] client::HttpError),
    /// The server said no, or nothing.
    #[error("{server} did not let this node in")]
    Server {
        /// The server.
        server: String,
        /// Why.
        source: ControlError,
    },
    /// The server answers with another node's id than the key has.
    #[error("{server} calls this node {told}, but its key makes it {own}; is it a Pierhead server?")]
    WrongId {
        /// The server.
        server: String,
        /// What it said.
        told: String,
        /// What is right.
        own: String,
    },
}

/// What came of a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The server has let it in.
    Now(Membership),
    /// It had joined this server before.
    Before(Membership),
}

/// Reads the URL of a server.
///
/// # Errors
/// When it is none.
pub fn server_url(text: &str) -> Result<Url, JoinError> {
    let is_good = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    let url = Url::parse(text).ok().filter(is_good);
    url.ok_or_else(|| JoinError::Url { url: text.to_owned() })
}

/// Whether what is sent to `server` can be read on the way.
pub fn is_readable_on_the_way(server: &Url) -> bool {
    let is_loopback = match server.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    };
    server.scheme() == "http" && !is_loopback
}

/// Joins the cluster of `server` with a one-use `token`. Idempotent for one server.
///
/// # Errors
/// When the node has joined another server, or this one refuses; nothing has changed then but that a key may have
/// been made.
pub async fn join(data: &Path, server: &Url, token: &str, name: &str) -> Result<Joined, JoinError> {
    if let Some(membership) = Membership::load(data)? {
        if membership.server == *server {
            return Ok(Joined::Before(membership));
        }
        return Err(JoinError::Elsewhere {
            server: membership.server.to_string(),
            name: membership.name,
            path: Membership::path(data).display().to_string(),
        });
    }
    let key = NodeKey::load_or_create(data)?;
    let request = JoinRequest {
        token: token.to_owned(),
        public_key: key.public(),
        name: name.to_owned(),
        facts: host::facts(),
    };
    let http = client::http().map_err(JoinError::Tls)?;
    let answer = client::control::node::join(http, server.clone(), &request).await;
    let answer = answer.map_err(|source| JoinError::Server {
        server: server.to_string(),
        source,
    })?;
    if answer.node_id != key.id() {
        return Err(JoinError::WrongId {
            server: server.to_string(),
            told: answer.node_id,
            own: key.id(),
        });
    }
    let membership = Membership {
        server: server.clone(),
        cluster_id: answer.cluster_id,
        node_id: answer.node_id,
        name: answer.name,
    };
    membership.save(data)?;
    Ok(Joined::Now(membership))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_servers_have_a_scheme_and_a_host() {
        assert!(server_url("http://127.0.0.1:5000").is_ok());
        assert!(server_url("https://registry.example.org/").is_ok());
        for text in [
            "",
            "registry.example.org",
            "ftp://x",
            "http://x/?a=b",
            "http://u:p@x",
        ] {
            assert!(server_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_is_private_without_tls() {
        let readable = |text: &str| is_readable_on_the_way(&text.parse().unwrap());
        assert!(readable("http://10.0.0.1:5000"));
        assert!(readable("http://registry.example.org"));
        assert!(!readable("https://registry.example.org"));
        assert!(!readable("http://127.0.0.5:1"));
        assert!(!readable("http://[::1]:1"));
        assert!(!readable("http://localhost:1"));
    }

    #[tokio::test]
    async fn a_node_that_has_joined_stays_where_it_is() {
        let place = tempfile::tempdir().unwrap();
        let membership = Membership {
            server: server_url("http://127.0.0.1:1").unwrap(),
            cluster_id: "c".to_owned(),
            node_id: "n".to_owned(),
            name: "one".to_owned(),
        };
        crate::durable::make_private_directory(&place.path().join("fleet")).unwrap();
        membership.save(place.path()).unwrap();
        let again = join(place.path(), &membership.server, "unused", "one").await;
        assert_eq!(again.unwrap(), Joined::Before(membership));
        let other = server_url("http://127.0.0.1:2").unwrap();
        let error = join(place.path(), &other, "unused", "one").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("has joined http://127.0.0.1:1/ as one"),
            "{error}"
        );
    }
}
