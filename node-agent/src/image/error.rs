//! What can go wrong with images; each variant names its repository, digest or container.

use std::io;
use std::path::PathBuf;

use client::distribution::ClientError;
use oci::{Digest, RepositoryName};

use super::plan::Unsuitable;
use super::unpack::UnpackError;

/// A failure of this module.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store's own files cannot be read or written.
    #[error("{step} {}", path.display())]
    Store {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry does not hand something over.
    #[error("fetch {digest} of {repository}")]
    Fetch {
        /// From where.
        repository: RepositoryName,
        /// The manifest, configuration or layer.
        digest: Digest,
        /// Why.
        source: Box<ClientError>,
    },
    /// The image cannot be run here, whatever the network does.
    #[error("image {digest} of {repository} cannot be run")]
    Unsuitable {
        /// From where.
        repository: RepositoryName,
        /// As it was asked for.
        digest: Digest,
        /// Why.
        source: Box<Unsuitable>,
    },
    /// A layer was refused.
    #[error("unpack layer {digest} of {repository}")]
    Unpack {
        /// From where.
        repository: RepositoryName,
        /// The layer.
        digest: Digest,
        /// Which entry, and why.
        source: Box<UnpackError>,
    },
    /// Content that does not have the digest it was asked for by.
    #[error("the registry sent {actual} for {digest} of {repository}")]
    WrongDigest {
        /// From where.
        repository: RepositoryName,
        /// Asked for.
        digest: Digest,
        /// Received.
        actual: Digest,
    },
    /// A layer whose archive is not the one that the configuration promises.
    #[error("layer {digest} of {repository} unpacks to {actual}, the configuration promises {diff_id}")]
    WrongDiffId {
        /// From where.
        repository: RepositoryName,
        /// The layer.
        digest: Digest,
        /// Promised.
        diff_id: Digest,
        /// Found.
        actual: Digest,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("layer {digest} of {repository} has {actual} bytes, its descriptor says {expected}")]
    WrongSize {
        /// From where.
        repository: RepositoryName,
        /// The layer.
        digest: Digest,
        /// From the descriptor.
        expected: u64,
        /// As far as it came.
        actual: u64,
    },
    /// The image was removed, or never pulled.
    #[error("image {digest} is not in the store: pull it first")]
    Missing {
        /// The image, as it was pulled.
        digest: Digest,
    },
    /// The container's snapshot belongs to another image.
    #[error("the snapshot of container {container} is of image {has}, not of {asked}")]
    OtherImage {
        /// The container.
        container: String,
        /// The snapshot's image.
        has: Digest,
        /// The image it was to be mounted with.
        asked: Digest,
    },
    /// The kernel does not mount or unmount an overlay.
    #[error("{step} the root of container {container}")]
    Mount {
        /// `mount` or `unmount`.
        step: &'static str,
        /// The container.
        container: String,
        /// Why.
        source: io::Error,
    },
}

impl ImageError {
    /// Whether the same call may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => source.is_retryable(),
            Self::Store { .. } | Self::Mount { .. } => true,
            Self::Unsuitable { .. }
            | Self::Unpack { .. }
            | Self::WrongDigest { .. }
            | Self::WrongDiffId { .. }
            | Self::WrongSize { .. }
            | Self::Missing { .. }
            | Self::OtherImage { .. } => false,
        }
    }
}
