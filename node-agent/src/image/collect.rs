//! Removing what nothing needs: images that are not asked for, layers and documents without an image.

use std::collections::HashSet;

use oci::Digest;

use super::layout::{self, digest_of, names};
use super::{ImageError, Inner, State};

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images, by the digests they were pulled by.
    pub images: Vec<Digest>,
    /// Layers.
    pub layers: Vec<Digest>,
    /// Bytes of the files in those layers.
    pub size_bytes: u64,
}

impl Inner {
    /// Removes the images that `is_wanted` does not hold to, that have no name and no container's root on them.
    pub(super) fn collect(&self, is_wanted: impl Fn(&Digest) -> bool) -> Result<Collected, ImageError> {
        let mut collected = Collected::default();
        let mut discarded = Vec::new();
        let mut state = self.lock();
        let mut in_use: HashSet<Digest> = self.images_of_snapshots()?.into_iter().collect();
        in_use.extend(state.names.values().cloned());
        let unneeded: Vec<Digest> = state
            .images
            .keys()
            .filter(|digest| !is_wanted(digest) && !in_use.contains(digest))
            .cloned()
            .collect();
        // Records first: a crash in between leaves layers without a record, which the next start removes.
        for digest in unneeded {
            layout::remove(&self.layout.image(&digest))?;
            state.images.remove(&digest);
            collected.images.push(digest);
        }
        let needed = state.needed_layers();
        let unneeded: Vec<Digest> = state
            .layers
            .keys()
            .filter(|digest| !needed.contains(digest))
            .cloned()
            .collect();
        for digest in unneeded {
            discarded.extend(self.layout.discard(&self.layout.layer(&digest))?);
            if let Some(layer) = state.layers.remove(&digest) {
                collected.size_bytes += layer.report.size_bytes;
            }
            collected.layers.push(digest);
        }
        self.remove_stray_documents(&state)?;
        drop(state);
        // Trees take their time; pulls and mounts do not wait for it.
        drop(discarded);
        Ok(collected)
    }

    /// Removes what crashed pulls left: layers and documents that no image names.
    pub(super) fn remove_strays(&self, state: &State) -> Result<(), ImageError> {
        for name in names(&self.layout.layers())? {
            let is_known = digest_of(&name).is_some_and(|digest| state.layers.contains_key(&digest));
            if !is_known {
                tracing::info!(layer = name, "removing a layer that no image names");
                drop(self.layout.discard(&self.layout.layers().join(&name))?);
            }
        }
        self.remove_stray_documents(state)
    }

    fn remove_stray_documents(&self, state: &State) -> Result<(), ImageError> {
        let named: HashSet<&Digest> = state
            .images
            .values()
            .flat_map(|image| [&image.digest, &image.manifest_digest, &image.config_digest])
            .collect();
        for name in names(&self.layout.blobs())? {
            if !digest_of(&name).is_some_and(|digest| named.contains(&digest)) {
                layout::remove(&self.layout.blobs().join(&name))?;
            }
        }
        Ok(())
    }
}

impl State {
    /// Layers of images, and those that pulls under way count on.
    fn needed_layers(&self) -> HashSet<Digest> {
        let of_images = self.images.values().flat_map(|image| &image.layers);
        of_images.chain(self.leases.keys()).cloned().collect()
    }
}
