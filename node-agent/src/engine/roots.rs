//! Where root file systems come from: the image store, and in tests overlays of a directory.

use std::fmt;
use std::path::PathBuf;

use futures::FutureExt;
use futures::future::BoxFuture;
use oci::Digest;
use runtime::container::ContainerId;

use super::RootError;
use crate::image::{ImageError, ImageStore};

/// Who provides root file systems.
///
/// All calls are idempotent, and calls for one container do not overlap.
pub trait RootFilesystems: fmt::Debug + Send + Sync + 'static {
    /// Makes the container's root file system, or mounts it again; returns its path.
    fn mount<'a>(
        &'a self,
        image: &'a Digest,
        container: &'a ContainerId,
    ) -> BoxFuture<'a, Result<PathBuf, RootError>>;

    /// Unmounts it; what the container wrote stays.
    fn unmount<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), RootError>>;

    /// Unmounts it and removes what the container wrote. Absence is no error.
    fn remove<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), RootError>>;

    /// All containers that have one.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ContainerId>, RootError>>;
}

impl RootFilesystems for ImageStore {
    fn mount<'a>(
        &'a self,
        image: &'a Digest,
        container: &'a ContainerId,
    ) -> BoxFuture<'a, Result<PathBuf, RootError>> {
        async move {
            let image = self.get(image).await?.ok_or_else(|| ImageError::Missing {
                digest: image.clone(),
            })?;
            Ok(ImageStore::mount(self, &image, container).await?)
        }
        .boxed()
    }

    fn unmount<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), RootError>> {
        async move { Ok(ImageStore::unmount(self, container).await?) }.boxed()
    }

    fn remove<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), RootError>> {
        async move { Ok(self.remove_snapshot(container).await?) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ContainerId>, RootError>> {
        async move { Ok(self.snapshots().await?) }.boxed()
    }
}
