//! Content digests: `algorithm:hex` (image-spec descriptor.md, Digests).
//!
//! Only the registered algorithms sha256 and sha512 are accepted; the hexadecimal part is lower case and of
//! exactly the algorithm's length, so two equal digests are equal strings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

/// A registered digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which every implementation must support.
    Sha256,
    /// SHA-512, optional in the specification.
    Sha512,
}

impl Algorithm {
    /// The algorithm's name as it appears before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of the hexadecimal part.
    pub const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::UnknownAlgorithm(bounded(text))),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon between algorithm and encoded part.
    #[error("digest {0:?} has no ':'; expected algorithm:hex")]
    NoColon(String),
    /// The algorithm is not one that is supported.
    #[error("digest algorithm {0:?} is not supported; use sha256 or sha512")]
    UnknownAlgorithm(String),
    /// The encoded part has the wrong length or characters other than lower-case hexadecimal ones.
    #[error("digest {0:?} is malformed; {1} takes {2} lower-case hexadecimal characters")]
    Encoded(String, Algorithm, usize),
}

/// A valid digest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: String,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// The digest of `bytes` with `algorithm`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm before the colon.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The lower-case hexadecimal part after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    /// The whole digest, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn from_parts(algorithm: Algorithm, raw: &[u8]) -> Self {
        Self {
            algorithm,
            text: format!("{algorithm}:{}", hex::encode(raw)),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text
            .split_once(':')
            .ok_or_else(|| DigestError::NoColon(bounded(text)))?;
        let algorithm: Algorithm = algorithm.parse()?;
        let is_hex = encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || encoded.len() != algorithm.hex_len() {
            return Err(DigestError::Encoded(
                bounded(text),
                algorithm,
                algorithm.hex_len(),
            ));
        }
        Ok(Self {
            algorithm,
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes in the next piece of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// All that it has taken in, condensed to some hundred bytes, for another process to go on from.
    pub fn save(&self) -> Vec<u8> {
        match &self.0 {
            State::Sha256(hasher) => hasher.serialize().to_vec(),
            State::Sha512(hasher) => hasher.serialize().to_vec(),
        }
    }

    /// A hasher of `algorithm` that goes on where [`Self::save`] was called; `None` when the bytes are no such state.
    pub fn resume(algorithm: Algorithm, saved: &[u8]) -> Option<Self> {
        Some(Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(deserialize(saved)?),
            Algorithm::Sha512 => State::Sha512(deserialize(saved)?),
        }))
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => Digest::from_parts(Algorithm::Sha256, &hasher.finalize()),
            State::Sha512(hasher) => Digest::from_parts(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

fn deserialize<H: SerializableState>(saved: &[u8]) -> Option<H> {
    let saved = SerializedState::<H>::try_from(saved).ok()?;
    H::deserialize(&saved).ok()
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Sha256(_) => "Hasher(sha256)",
            State::Sha512(_) => "Hasher(sha512)",
        })
    }
}

/// The start of an untrusted text, short enough for a message.
pub(crate) fn bounded(text: &str) -> String {
    const LONGEST: usize = 160;
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::sha256(b"").as_str(), EMPTY);
        assert_eq!(Digest::of(Algorithm::Sha512, b"").hex().len(), 128);
    }

    #[test]
    fn parse_accepts_both_algorithms_and_prints_the_same_text() {
        for bytes in [b"".as_slice(), b"a", b"layer"] {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let digest = Digest::of(algorithm, bytes);
                assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            }
        }
    }

    #[test]
    fn parse_refuses_malformed_texts() {
        let upper = EMPTY.to_uppercase();
        let cut = &EMPTY[..70];
        for text in [
            "",
            "sha256",
            "sha256:",
            "md5:abcd",
            "sha256:../../etc/passwd",
            cut,
            &upper,
            "sha256:zz",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_saved_hasher_goes_on_at_any_byte() {
        let content: Vec<u8> = (0..=255_u8).cycle().take(700).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for cut in [0, 1, 63, 64, 65, 127, 128, 129, 699, 700] {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&content[..cut]);
                let mut resumed = Hasher::resume(algorithm, &hasher.save()).unwrap();
                resumed.update(&content[cut..]);
                assert_eq!(
                    resumed.finish(),
                    Digest::of(algorithm, &content),
                    "{algorithm} at {cut}"
                );
            }
            let saved = Hasher::new(algorithm).save();
            assert!(Hasher::resume(algorithm, &saved[1..]).is_none());
            assert!(Hasher::resume(algorithm, b"").is_none());
        }
    }

    #[test]
    fn error_messages_do_not_repeat_megabytes_of_input() {
        let long = "x".repeat(1 << 20);
        assert!(long.parse::<Digest>().unwrap_err().to_string().len() < 400);
    }
}
