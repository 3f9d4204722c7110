//! Bearer tokens: our own (EdDSA JWTs of a few minutes) and those that nodes sign themselves.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use oci::Digest;
use serde::{Deserialize, Serialize};

use super::scope::Grant;
use crate::db::now_ms;

/// Life of a token in seconds. Clients treat less than 60 as 60.
pub const LIFE_SECONDS: u64 = 300;
/// The longest life of a token that a node signs itself.
const NODE_LIFE_SECONDS: u64 = 300;
/// Clock skew that is forgiven, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// Issuer and audience of our tokens.
const ISSUER: &str = "pierhead";
/// Issuer of tokens that nodes sign.
const NODE_ISSUER: &str = "pierhead-node";

/// Why a token is not good, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Expired, malformed, of a foreign key, …
    #[error("{0}")]
    Jwt(#[from] jsonwebtoken::errors::Error),
    /// Signed by a node that we do not know.
    #[error("it is signed by a node that is not known here")]
    UnknownNode,
    /// A node's token that lives too long.
    #[error("a node's token must expire within {NODE_LIFE_SECONDS} s")]
    TooLong,
    /// The signing key cannot be read, made or written.
    #[error("signing key {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What our tokens say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    aud: String,
    /// The account; empty for anonymous callers.
    pub sub: String,
    exp: u64,
    iat: u64,
    nbf: u64,
    /// What the token grants.
    pub access: Vec<Grant>,
}

#[derive(Deserialize)]
struct NodeClaims {
    exp: u64,
}

/// The key that signs our tokens.
pub struct SigningKey {
    id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads `signing-key.der` in `data` (PKCS #8, mode 0600), making it if there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds no key.
    pub fn load_or_create(data: &Path) -> Result<Self, TokenError> {
        let path = data.join("signing-key.der");
        let key = |source| TokenError::Key {
            path: path.clone(),
            source,
        };
        let der = match std::fs::read(&path) {
            Ok(der) => der,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pair = Ed25519KeyPair::generate()
                    .map_err(io::Error::other)
                    .map_err(key)?;
                let der = pair
                    .to_pkcs8v1()
                    .map_err(io::Error::other)
                    .map_err(key)?
                    .as_ref()
                    .to_vec();
                write_private(&path, &der).map_err(key)?;
                der
            }
            Err(error) => return Err(key(error)),
        };
        let invalid = |error| key(io::Error::new(io::ErrorKind::InvalidData, format!("{error}")));
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(invalid)?;
        let public = pair.public_key().as_ref();
        Ok(Self {
            id: Digest::sha256(public).hex()[..16].to_owned(),
            signing: EncodingKey::from_ed_der(&der),
            verifying: DecodingKey::from_ed_der(public),
        })
    }

    /// A token that grants `access` to `subject`, and its life in seconds.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, subject: String, access: Vec<Grant>) -> Result<(String, u64), TokenError> {
        let now = now_seconds();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: ISSUER.to_owned(),
            sub: subject,
            exp: now + LIFE_SECONDS,
            iat: now,
            nbf: now.saturating_sub(LEEWAY_SECONDS),
            access,
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.clone());
        Ok((
            jsonwebtoken::encode(&header, &claims, &self.signing)?,
            LIFE_SECONDS,
        ))
    }

    /// What a token of ours says.
    ///
    /// # Errors
    /// When it is not ours, expired, or malformed.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let validation = validation(ISSUER, &["exp", "iss", "aud", "nbf"]);
        Ok(jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)?.claims)
    }
}

fn validation(issuer: &str, required: &[&str]) -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[ISSUER]);
    validation.set_required_spec_claims(required);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY_SECONDS;
    validation
}

/// The node that claims to have signed `token`: the `kid` of one whose `iss` says that it is a node's. Proves
/// nothing.
pub fn node_id(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claimed {
        iss: String,
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claimed: Claimed = serde_json::from_slice(&payload).ok()?;
    if claimed.iss != NODE_ISSUER {
        return None;
    }
    jsonwebtoken::decode_header(token).ok()?.kid
}

/// Verifies a token that `node_id` signed with the key whose public half is `public_key` (base64url).
///
/// # Errors
/// When it is not of that key, expired, for another audience, or lives too long.
pub fn verify_node(token: &str, node_id: &str, public_key: &str) -> Result<(), TokenError> {
    let mut validation = validation(NODE_ISSUER, &["exp", "iss", "aud", "sub"]);
    validation.sub = Some(node_id.to_owned());
    let key = DecodingKey::from_ed_components(public_key)?;
    let claims = jsonwebtoken::decode::<NodeClaims>(token, &key, &validation)?.claims;
    if claims.exp > now_seconds() + NODE_LIFE_SECONDS + LEEWAY_SECONDS {
        return Err(TokenError::TooLong);
    }
    Ok(())
}

fn now_seconds() -> u64 {
    now_ms().unsigned_abs() / 1000
}

/// Writes a secret so that only its owner may read it, durably.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::load_or_create(tempfile::tempdir().unwrap().path()).unwrap()
    }

    #[test]
    fn tokens_verify_with_their_own_key_only() {
        let (ours, foreign) = (key(), key());
        let (token, _) = ours.sign("alice".to_owned(), Vec::new()).unwrap();
        assert_eq!(ours.verify(&token).unwrap().sub, "alice");
        assert!(foreign.verify(&token).is_err());
        assert!(ours.verify("nonsense").is_err());
        assert!(ours.verify("").is_err());
    }

    #[test]
    fn a_token_without_signature_is_refused() {
        let ours = key();
        let (token, _) = ours.sign("alice".to_owned(), Vec::new()).unwrap();
        let payload = token.split('.').nth(1).unwrap();
        // {"alg":"none","typ":"JWT"}
        let forged = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        assert!(ours.verify(&forged).is_err());
    }

    #[test]
    fn a_node_is_known_by_its_own_key_for_a_short_time() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let foreign =
            BASE64_URL_SAFE_NO_PAD.encode(Ed25519KeyPair::generate().unwrap().public_key().as_ref());
        let signing = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        let sign = |issuer: &str, audience: &str, life: u64| {
            let mut header = Header::new(Algorithm::EdDSA);
            header.kid = Some("n1".to_owned());
            let claims = serde_json::json!({
                "iss": issuer, "aud": audience, "sub": "n1", "exp": now_seconds() + life,
            });
            jsonwebtoken::encode(&header, &claims, &signing).unwrap()
        };
        let good = sign(NODE_ISSUER, ISSUER, 120);
        assert_eq!(node_id(&good).as_deref(), Some("n1"));
        assert!(verify_node(&good, "n1", &public).is_ok());
        assert!(verify_node(&good, "n2", &public).is_err());
        assert!(verify_node(&good, "n1", &foreign).is_err());
        assert!(verify_node(&sign(NODE_ISSUER, "other", 120), "n1", &public).is_err());
        assert!(matches!(
            verify_node(&sign(NODE_ISSUER, ISSUER, 3600), "n1", &public),
            Err(TokenError::TooLong)
        ));
        assert_eq!(node_id(&sign(ISSUER, ISSUER, 120)), None);
        assert_eq!(node_id("nonsense"), None);
    }

    #[test]
    fn the_key_is_kept_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let first = SigningKey::load_or_create(directory.path()).unwrap();
        let second = SigningKey::load_or_create(directory.path()).unwrap();
        assert_eq!(first.id, second.id);
        let mode = std::fs::metadata(directory.path().join("signing-key.der"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
