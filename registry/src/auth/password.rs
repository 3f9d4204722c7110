//! Passwords: argon2id, computed off the async threads, with good ones remembered for a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// How long a verified password is not verified again: each verification costs tens of milliseconds of CPU.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Verified passwords remembered at most.
const REMEMBERED_MAX: usize = 10_000;
/// Verifications at a time; each takes 19 MiB of memory and a core.
const AT_ONCE: usize = 2;

/// Why a password cannot be handled.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Hashing failed.
    #[error("hash: {0}")]
    Hash(argon2::password_hash::Error),
    /// The thread that computed it died.
    #[error("hash")]
    Thread(#[from] tokio::task::JoinError),
    /// A new password cannot be kept for its owner.
    #[error("write the password down")]
    Keep(#[source] std::io::Error),
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Verifies passwords.
pub struct Passwords {
    /// Keys a digest of name, password and hash, so that what is remembered is no password.
    secret: [u8; 32],
    good: Mutex<HashMap<[u8; 32], Instant>>,
    slots: Semaphore,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords")
    }
}

/// A hash of no password that anyone has, verified for unknown names so that they take as long as known ones.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$cGllcmhlYWRub2JvZHk$5zL0SXNMSxRYTqOJNpGBpTxoyeQKJsBTgBYyXYHmEnE";

impl Passwords {
    /// A verifier that remembers nothing yet.
    pub fn new() -> Self {
        let mut secret = [0; 32];
        // Without randomness the key is known, which only matters to one who reads our memory.
        let _ = getrandom::fill(&mut secret);
        Self {
            secret,
            good: Mutex::new(HashMap::new()),
            slots: Semaphore::new(AT_ONCE),
        }
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// When argon2 refuses it, for example for its length.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        tokio::task::spawn_blocking(move || {
            Argon2::default()
                .hash_password(password.as_bytes())
                .map(|hash| hash.to_string())
                .map_err(PasswordError::Hash)
        })
        .await?
    }

    /// Whether `password` is the one of `hash`; without a hash the same work is done for nothing.
    ///
    /// # Errors
    /// When the computation itself fails.
    pub async fn verify(
        &self,
        name: &str,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool, PasswordError> {
        let is_known = hash.is_some();
        let hash = hash.unwrap_or(NOBODY).to_owned();
        let key: [u8; 32] = Sha256::new()
            .chain_update(self.secret)
            .chain_update((name.len() as u64).to_le_bytes())
            .chain_update(name)
            .chain_update((password.len() as u64).to_le_bytes())
            .chain_update(password)
            .chain_update(&hash)
            .finalize()
            .into();
        if is_known && self.remembers(&key) {
            return Ok(true);
        }
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let password = password.to_owned();
        let is_good = tokio::task::spawn_blocking(move || {
            Argon2::default()
                .verify_password(password.as_bytes(), hash.as_str())
                .is_ok()
        })
        .await?;
        if is_good && is_known {
            self.remember(key);
        }
        Ok(is_good && is_known)
    }

    fn remembers(&self, key: &[u8; 32]) -> bool {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.get(key).is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn remember(&self, key: [u8; 32]) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= REMEMBERED_MAX {
            good.retain(|_, at| at.elapsed() < REMEMBERED);
        }
        if good.len() < REMEMBERED_MAX {
            good.insert(key, Instant::now());
        }
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// A password of 18 random bytes.
///
/// # Errors
/// When the system gives no random bytes.
pub fn generate() -> Result<String, PasswordError> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes).map_err(PasswordError::Random)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_cost_a_whole_verification() {
        let outcome = Argon2::default().verify_password(b"whatever", NOBODY);
        assert!(
            matches!(outcome, Err(argon2::password_hash::Error::PasswordInvalid)),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn only_the_right_password_is_good() {
        let passwords = Passwords::new();
        let hash = passwords.hash("right".to_owned()).await.unwrap();
        for _ in 0..2 {
            assert!(passwords.verify("a", "right", Some(&hash)).await.unwrap());
            assert!(!passwords.verify("a", "wrong", Some(&hash)).await.unwrap());
            assert!(!passwords.verify("a", "right", None).await.unwrap());
        }
    }
}
