//! The whole layout of blob storage.
//!
//! ```text
//! in a directory:
//! blobs/sha256/ab/abcd….<upload>   a blob, named by its digest and the upload that brought it
//! uploads/<upload>                 a growing upload or fill; renamed to its blob when its digest is right
//!
//! in an object store, below the prefix of its URL:
//! b/<uuid>                         a blob, or what an upload has beyond its whole parts
//! j/sha256/abcd…/<uuid>            empty: b/<uuid> was committed under this digest
//! ```
//!
//! A key is written once and never used again, so that whoever deletes one cannot hit bytes that came later. The
//! database says which key a digest has; when it is lost, names of files and of `j/` objects say so, too.

use std::fmt;
use std::str::FromStr;

use oci::{Algorithm, Digest};
use uuid::Uuid;

/// Where blobs live in a directory.
pub const BLOBS: &str = "blobs";
/// Where growing uploads live. In the same file system as the blobs, so that commit is a rename.
pub const UPLOADS: &str = "uploads";
/// Where blobs live in an object store. Random names spread over whatever the store shards by.
pub const OBJECTS: &str = "b";
/// Where an object store tells which digest was committed as which object.
pub const JOURNAL: &str = "j";

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// Where the bytes of a blob are, relative to the root of storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The key as text, for the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A new key in an object store.
    pub(super) fn random() -> Self {
        Self(format!("{OBJECTS}/{}", Uuid::new_v4()))
    }

    /// The key of a blob in a directory, brought by `upload`.
    pub(super) fn file(digest: &Digest, upload: &str) -> Self {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        Self(format!("{BLOBS}/{algorithm}/{}/{hex}.{upload}", &hex[..2]))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that cannot be a key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not a storage key")]
pub struct KeyError;

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_segment = |s: &str| !s.is_empty() && s != "." && s != "..";
        match text.contains('/') && text.split('/').all(is_segment) {
            true => Ok(Self(text.to_owned())),
            false => Err(KeyError),
        }
    }
}

/// Every directory that holds blobs or uploads.
pub fn directories() -> impl Iterator<Item = String> {
    let blobs = ALGORITHMS
        .into_iter()
        .flat_map(|a| (0..=255_u8).map(move |n| format!("{BLOBS}/{a}/{n:02x}")));
    blobs.chain([UPLOADS.to_owned()])
}

/// The directories that hold those, innermost first; the last is the root itself.
pub fn parents() -> impl Iterator<Item = String> {
    ALGORITHMS
        .into_iter()
        .map(|a| format!("{BLOBS}/{a}"))
        .chain([BLOBS.to_owned(), String::new()])
}

/// The name of an upload in a directory. `id` is one of ours, without separators.
pub fn upload(id: &str) -> String {
    format!("{UPLOADS}/{id}")
}

/// The journal entry that says that the blob at `key` has `digest`.
pub fn journal(digest: &Digest, key: &ObjectKey) -> String {
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    format!("{JOURNAL}/{}/{}/{name}", digest.algorithm(), digest.hex())
}

/// What a journal entry says.
pub fn journal_entry(path: &str) -> Option<(Digest, ObjectKey)> {
    let mut parts = path.strip_prefix(JOURNAL)?.strip_prefix('/')?.split('/');
    let digest = format!("{}:{}", parts.next()?, parts.next()?).parse().ok()?;
    let key = format!("{OBJECTS}/{}", parts.next()?).parse().ok()?;
    parts.next().is_none().then_some((digest, key))
}

/// What the name of a file below [`BLOBS`] says.
pub fn file_entry(path: &str) -> Option<(Digest, ObjectKey)> {
    let mut parts = path.strip_prefix(BLOBS)?.strip_prefix('/')?.split('/');
    let (algorithm, _, name) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = name.split('.').next()?;
    let digest = format!("{algorithm}:{hex}").parse().ok()?;
    (parts.next().is_none()).then_some((digest, path.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_digest() {
        for algorithm in ALGORITHMS {
            let digest = Digest::of(algorithm, b"x");
            let key = ObjectKey::random();
            let entry = journal_entry(&journal(&digest, &key));
            assert_eq!(entry, Some((digest.clone(), key)));
            let file = ObjectKey::file(&digest, "0-1");
            assert_eq!(file_entry(file.as_str()), Some((digest, file)));
        }
        for strange in [
            "j",
            "j/",
            "j/sha256/ab/c",
            "b/x",
            "j/md5/x/y",
            "blobs/sha256/ab/lost+found",
        ] {
            assert_eq!(journal_entry(strange).or(file_entry(strange)), None, "{strange}");
        }
    }

    #[test]
    fn keys_cannot_lead_out_of_storage() {
        for text in ["", "x", "/etc/passwd", "b/../x", "b//x", "b/./x", "b/"] {
            assert!(text.parse::<ObjectKey>().is_err(), "{text}");
        }
        assert!("b/0e".parse::<ObjectKey>().is_ok());
    }
}
