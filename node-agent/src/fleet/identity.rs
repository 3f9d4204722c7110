//! Who this node is: its key, and the cluster that it has joined.
//!
//! ```text
//! DATA/fleet/key.der     the Ed25519 key, PKCS #8, 0600; made once, never leaves the machine
//! DATA/fleet/node.json   Membership, written when the server has said yes
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use client::distribution::TokenSource;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use crate::durable;

/// Life of a token in seconds; the server takes at most 300, and forgives clocks that differ by the rest.
const LIFE_SECONDS: u64 = 180;
/// A token is used until this many seconds before its end.
const MARGIN_SECONDS: u64 = 90;

/// Why the identity cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key's file holds no key.
    #[error("{} holds no Ed25519 key; restore it, or remove the directory and join again", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
}

/// What a join has settled. The content of `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Where the server is.
    pub server: Url,
    /// The cluster.
    pub cluster_id: String,
    /// This node's id, which follows from its key.
    pub node_id: String,
    /// Its name.
    pub name: String,
}

impl Membership {
    /// The membership below the agent's data directory; `None` when it has not joined.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(data: &Path) -> Result<Option<Self>, IdentityError> {
        let path = Self::path(data);
        let failed = |source| IdentityError::File {
            step: "read",
            path: path.clone(),
            source,
        };
        let Some(content) = durable::read(&path).map_err(failed)? else {
            return Ok(None);
        };
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|e| failed(e.into()))
    }

    pub(super) fn save(&self, data: &Path) -> Result<(), IdentityError> {
        let path = Self::path(data);
        let written = serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .and_then(|content| durable::replace(&path, &content));
        written.map_err(|source| IdentityError::File {
            step: "write",
            path,
            source,
        })
    }

    pub(super) fn path(data: &Path) -> PathBuf {
        data.join("fleet/node.json")
    }
}

/// The node's key. Prints nothing of it but the id.
pub struct NodeKey {
    public: Vec<u8>,
    signing: EncodingKey,
    token: Mutex<Option<Token>>,
}

struct Token {
    text: String,
    expires_at: u64,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NodeKey")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl NodeKey {
    /// Reads the key below the agent's data directory, making it if there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds no key.
    pub fn load_or_create(data: &Path) -> Result<Self, IdentityError> {
        let path = data.join("fleet/key.der");
        let failed = |step, source| IdentityError::File {
            step,
            path: path.clone(),
            source,
        };
        let der = match durable::read(&path).map_err(|error| failed("read", error))? {
            Some(der) => der,
            None => {
                let made = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1());
                let der = made.map_err(|error| failed("make", io::Error::other(error)))?;
                let directory = data.join("fleet");
                durable::make_private_directory(&directory)
                    .and_then(|()| durable::replace(&path, der.as_ref()))
                    .map_err(|error| failed("write", error))?;
                der.as_ref().to_vec()
            }
        };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|_| IdentityError::Key { path: path.clone() })?;
        Ok(Self {
            public: pair.public_key().as_ref().to_vec(),
            signing: EncodingKey::from_ed_der(&der),
            token: Mutex::default(),
        })
    }

    /// The node's id: SHA-256 of its public key, first 16 bytes, in hexadecimal.
    pub fn id(&self) -> String {
        hex::encode(&Sha256::digest(&self.public)[..16])
    }

    /// The public key in base64url.
    pub fn public(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.public)
    }

    fn sign(&self, now: u64) -> Result<Token, jsonwebtoken::errors::Error> {
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            aud: &'a str,
            sub: &'a str,
            exp: u64,
        }
        let id = self.id();
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(id.clone());
        let expires_at = now + LIFE_SECONDS;
        let claims = Claims {
            iss: "pierhead-node",
            aud: "pierhead",
            sub: &id,
            exp: expires_at,
        };
        let text = jsonwebtoken::encode(&header, &claims, &self.signing)?;
        Ok(Token { text, expires_at })
    }
}

impl TokenSource for NodeKey {
    fn token(&self) -> Result<String, String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_err(|_| "the clock is before 1970")?.as_secs();
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes a token with too long a life, too.
        let is_good =
            |token: &&Token| (now + MARGIN_SECONDS..=now + LIFE_SECONDS).contains(&token.expires_at);
        if let Some(token) = token.as_ref().filter(is_good) {
            return Ok(token.text.clone());
        }
        let made = self.sign(now).map_err(|error| error.to_string())?;
        Ok(token.insert(made).text.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    #[test]
    fn the_key_is_made_once_and_is_private() {
        let place = tempfile::tempdir().unwrap();
        let first = NodeKey::load_or_create(place.path()).unwrap();
        let second = NodeKey::load_or_create(place.path()).unwrap();
        assert_eq!(first.id(), second.id());
        assert_eq!(first.id().len(), 32);
        let path = place.path().join("fleet/key.der");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "nonsense").unwrap();
        assert!(matches!(
            NodeKey::load_or_create(place.path()),
            Err(IdentityError::Key { .. })
        ));
    }

    #[test]
    fn tokens_say_who_signed_them_and_are_made_anew_in_time() {
        let place = tempfile::tempdir().unwrap();
        let key = NodeKey::load_or_create(place.path()).unwrap();
        let token = key.token().unwrap();
        assert_eq!(key.token().unwrap(), token, "it is good for a while");
        assert_eq!(
            jsonwebtoken::decode_header(&token).unwrap().kid.as_deref(),
            Some(key.id().as_str())
        );
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&["pierhead-node"]);
        validation.set_audience(&["pierhead"]);
        validation.sub = Some(key.id());
        let public = DecodingKey::from_ed_components(&key.public()).unwrap();
        jsonwebtoken::decode::<serde_json::Value>(&token, &public, &validation).unwrap();
        key.token.lock().unwrap().as_mut().unwrap().expires_at -= LIFE_SECONDS;
        assert!(key.token().is_ok());
        let renewed = key.token.lock().unwrap().as_ref().unwrap().expires_at;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(renewed > now + MARGIN_SECONDS);
    }

    #[test]
    fn a_membership_is_kept() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(Membership::load(place.path()).unwrap(), None);
        let membership = Membership {
            server: "https://registry.example.org".parse().unwrap(),
            cluster_id: "c".to_owned(),
            node_id: "n".to_owned(),
            name: "one".to_owned(),
        };
        durable::make_private_directory(&place.path().join("fleet")).unwrap();
        membership.save(place.path()).unwrap();
        assert_eq!(Membership::load(place.path()).unwrap(), Some(membership));
    }
}
