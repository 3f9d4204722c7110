//! Containers' snapshots: a writable directory on top of an image's layers, mounted as an overlay.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use oci::Digest;
use runtime::container::ContainerId;

use super::layout::{
    Discarded, SnapshotRecord, failed, make_directory, names, read_json, replace_json, sync_parent,
};
use super::overlay::{self, Overlay};
use super::unpack::RootEntry;
use super::{Image, ImageError, Inner, State};

/// Owner and mode of a root directory that no layer says anything about.
const DEFAULT_ROOT: RootEntry = RootEntry {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

impl Inner {
    pub(super) fn mount(&self, image: &Image, container: &ContainerId) -> Result<PathBuf, ImageError> {
        // Held throughout, so that no collection takes the layers away and no two calls mount twice.
        let state = self.lock();
        let directory = self.layout.snapshot(container);
        let rootfs = directory.join("rootfs");
        if directory.exists() {
            let record: SnapshotRecord = read_json(&directory.join("snapshot.json"))?;
            if record.image != image.digest {
                return Err(ImageError::OtherImage {
                    container: container.as_str().to_owned(),
                    has: record.image,
                    asked: image.digest.clone(),
                });
            }
        } else {
            self.make_snapshot(&state, image, container)?;
        }
        let mount_failed = |source| ImageError::Mount {
            step: "mount",
            container: container.as_str().to_owned(),
            source,
        };
        if !overlay::is_mounted(&rootfs).map_err(mount_failed)? {
            let overlay = Overlay {
                lower: self.lower(&state, image)?,
                upper: directory.join("upper"),
                work: directory.join("work"),
            };
            overlay.mount(&rootfs).map_err(mount_failed)?;
        }
        Ok(rootfs)
    }

    pub(super) fn unmount(&self, container: &ContainerId) -> Result<(), ImageError> {
        let _state = self.lock();
        self.unmount_locked(container)
    }

    pub(super) fn remove_snapshot(&self, container: &ContainerId) -> Result<(), ImageError> {
        let discarded = {
            let _state = self.lock();
            self.unmount_locked(container)?;
            self.layout.discard(&self.layout.snapshot(container))?
        };
        // What a container wrote may take long to remove; nobody waits for the lock meanwhile.
        drop(discarded);
        Ok(())
    }

    pub(super) fn snapshots(&self) -> Result<Vec<ContainerId>, ImageError> {
        let names = names(&self.layout.snapshots())?;
        Ok(names
            .iter()
            .filter_map(|name| ContainerId::parse(name).ok())
            .collect())
    }

    /// Digests of the images that containers' snapshots stand on.
    pub(super) fn images_of_snapshots(&self) -> Result<Vec<Digest>, ImageError> {
        self.snapshots()?
            .iter()
            .map(|container| {
                let file = self.layout.snapshot(container).join("snapshot.json");
                read_json::<SnapshotRecord>(&file).map(|record| record.image)
            })
            .collect()
    }

    fn make_snapshot(&self, state: &State, image: &Image, container: &ContainerId) -> Result<(), ImageError> {
        if !state.images.contains_key(&image.digest) {
            return Err(ImageError::Missing {
                digest: image.digest.clone(),
            });
        }
        let fresh = Discarded::make(&self.layout)?;
        let root = image
            .layers
            .iter()
            .rev()
            .find_map(|layer| state.layers.get(layer)?.report.root)
            .unwrap_or(DEFAULT_ROOT);
        let upper = fresh.path().join("upper");
        // The overlay's root looks like its upper directory.
        make_directory(&upper, root.mode)?;
        chown(&upper, Some(root.uid), Some(root.gid)).map_err(failed("set the owner of", &upper))?;
        make_directory(&fresh.path().join("work"), 0o700)?;
        make_directory(&fresh.path().join("rootfs"), 0o755)?;
        let record = SnapshotRecord {
            image: image.digest.clone(),
        };
        replace_json(&fresh.path().join("snapshot.json"), &record)?;
        let directory = self.layout.snapshot(container);
        fresh.keep(&directory)?;
        sync_parent(&directory).map_err(failed("sync", &directory))
    }

    /// The directories of an image's layers, base first, from the topmost on that hides all below.
    fn lower(&self, state: &State, image: &Image) -> Result<Vec<PathBuf>, ImageError> {
        let mut lower = Vec::new();
        for digest in &image.layers {
            let layer = state.layers.get(digest).ok_or_else(|| ImageError::Missing {
                digest: image.digest.clone(),
            })?;
            if layer.report.is_opaque {
                lower.clear();
            }
            lower.push(self.layout.layer(digest).join("root"));
        }
        if lower.is_empty() {
            lower.push(self.layout.empty());
        }
        Ok(lower)
    }

    fn unmount_locked(&self, container: &ContainerId) -> Result<(), ImageError> {
        let rootfs = self.layout.snapshot(container).join("rootfs");
        if !fs::exists(&rootfs).map_err(failed("look at", &rootfs))? {
            return Ok(());
        }
        overlay::unmount(&rootfs).map_err(|source| ImageError::Mount {
            step: "unmount",
            container: container.as_str().to_owned(),
            source,
        })
    }
}
