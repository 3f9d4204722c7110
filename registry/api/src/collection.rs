//! Collection of blobs that nothing needs.

use serde::{Deserialize, Serialize};

/// A number of blobs and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobTotal {
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

/// What collection has before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionStatus {
    /// Nothing needs them and their grace has passed: the next pass takes them.
    pub reclaimable: BlobTotal,
    /// Nothing needs them now, but a push may still count on them.
    pub pending: BlobTotal,
    /// No repository knows them any more; their bytes are removed when the grace has passed once more.
    pub removable: BlobTotal,
}

/// What a pass of collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionPass {
    /// Digests that were looked at.
    pub reviewed: u64,
    /// Blobs that no repository knows any more.
    pub collected: u64,
    /// Blobs whose bytes were removed.
    pub removed: u64,
}
