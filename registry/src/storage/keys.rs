//! The whole layout of blob storage, relative to its root.
//!
//! ```text
//! blobs/sha256/ab/abcd…      a blob, named by its digest; never rewritten
//! uploads/<id>               a growing upload or fill; renamed to its blob when its digest is right
//! ```

use oci::{Algorithm, Digest};

/// Where blobs live.
pub const BLOBS: &str = "blobs";
/// Where growing uploads live. In the same file system as the blobs, so that commit is a rename.
pub const UPLOADS: &str = "uploads";

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

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

/// The key of a blob.
pub fn blob(digest: &Digest) -> String {
    format!(
        "{BLOBS}/{}/{}/{}",
        digest.algorithm(),
        &digest.hex()[..2],
        digest.hex()
    )
}

/// The key of an upload. `id` is one of ours, without separators.
pub fn upload(id: &str) -> String {
    format!("{UPLOADS}/{id}")
}
