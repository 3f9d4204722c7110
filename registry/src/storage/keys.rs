//! The whole layout of blob storage, relative to its root.
//!
//! ```text
//! blobs/sha256/ab/abcd…      a blob, named by its digest; never rewritten
//! uploads/<id>               a growing upload or fill; renamed to its blob when its digest is right
//! ```

use oci::Digest;

/// Where blobs live.
pub const BLOBS: &str = "blobs";
/// Where growing uploads live. In the same file system as the blobs, so that commit is a rename.
pub const UPLOADS: &str = "uploads";

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
