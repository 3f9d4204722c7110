//! Letting nodes in: a token that works once and for an hour, and the key that a node keeps for itself.

use std::time::Instant;

use api::{JoinRequest, JoinResponse, JoinToken};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use oci::Digest;

use super::{Fleet, FleetError, public_node_id};
use crate::db::{Joining, now_ms};

/// What tokens begin with, so that one that leaked is recognised.
const PREFIX: &str = "PIER1-";
/// How long a token works.
const LIFE_MS: i64 = 3600 * 1000;
/// The longest name of a node.
const NAME_MAX_BYTES: usize = 63;

impl Fleet {
    /// Makes a token that lets one node in; only its hash is kept.
    ///
    /// # Errors
    /// When the database fails, or the system has no randomness.
    pub async fn join_token(&self) -> Result<JoinToken, FleetError> {
        let mut secret = [0_u8; 32];
        getrandom::fill(&mut secret)?;
        let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
        let expires_at_ms = now_ms() + LIFE_MS;
        self.0.db.join_token_put(&hash(&token), expires_at_ms).await?;
        Ok(JoinToken { token, expires_at_ms })
    }

    /// Lets a node in. The same key with the same token gets the same answer again.
    ///
    /// # Errors
    /// When the token is not good, the name is taken, or the request is not valid.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinResponse, FleetError> {
        let node_id = public_node_id(&request.public_key).ok_or_else(|| FleetError::NodeInvalid {
            field: "public_key",
            reason: "it must be the 32 bytes of an Ed25519 public key in base64url without padding"
                .to_owned(),
        })?;
        check_name(&request.name)?;
        // A struct of texts and numbers is always JSON.
        let facts = serde_json::to_string(&request.facts).unwrap_or_else(|_| "{}".to_owned());
        let joining = self
            .0
            .db
            .node_join(
                &hash(&request.token),
                &node_id,
                &request.public_key,
                &request.name,
                &facts,
            )
            .await?;
        let name = match joining {
            Joining::Joined(name) => name,
            Joining::TokenUnknown => return Err(FleetError::JoinTokenUnknown),
            Joining::TokenUsed => return Err(FleetError::JoinTokenUsed),
            Joining::TokenExpired => return Err(FleetError::JoinTokenExpired),
            Joining::NameTaken => return Err(FleetError::NodeNameTaken(request.name.clone())),
        };
        tracing::info!(node_id, "node {name} joined");
        self.liveness().joined(&node_id, Instant::now(), now_ms());
        self.0.wake.notify_one();
        Ok(JoinResponse {
            node_id,
            cluster_id: self.0.cluster_id.clone(),
            name,
        })
    }
}

fn hash(token: &str) -> String {
    Digest::sha256(token.as_bytes()).hex().to_owned()
}

fn check_name(name: &str) -> Result<(), FleetError> {
    let is_edge = |b: &u8| b.is_ascii_alphanumeric();
    let is_valid = !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name
            .bytes()
            .all(|b| is_edge(&b) || matches!(b, b'-' | b'_' | b'.'))
        && name.as_bytes().first().is_some_and(is_edge)
        && name.as_bytes().last().is_some_and(is_edge);
    if is_valid {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(FleetError::NodeInvalid {
        field: "name",
        reason: format!(
            "{name:?} is not a node's name; write letters, digits, '-', '_' and '.', beginning and ending with a \
             letter or digit, at most {NAME_MAX_BYTES} characters"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_machines_are_accepted_and_others_refused() {
        for name in ["n1", "db-2.example.org", "A_b"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a.", "a b", "a/b", "ä", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
