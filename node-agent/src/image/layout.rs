//! The store on disk.
//!
//! ```text
//! DATA/image/                  0700, so that setuid files of layers are nobody's but ours
//!   names.json                 {NAME: digest of an image}
//!   images/ALG-HEX.json        Record of an image, by the digest it was pulled by; written last, removed first
//!   blobs/ALG-HEX              manifests and configurations as they came
//!   layers/ALG-HEX/            by the digest of the layer as it was sent
//!     layer.json               LayerRecord
//!     root/                    its files, as overlayfs wants them
//!   snapshots/CONTAINER/       snapshot.json, upper/, work/, and rootfs/, where the overlay is mounted
//!   empty/                     stands for the layers of an image that has none
//!   tmp/                       what is being made or removed; emptied at start
//! ```
//! What a record names is on disk and synced before the record is. A layer that no record names may be torn by a
//! power cut, so it does not outlive a restart.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use oci::{Algorithm, Digest, RepositoryName};
use runtime::container::ContainerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable;

use super::ImageError;
use super::tree;
use super::unpack::Report;

/// An image in `images/`. Its configuration is in `blobs/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) digest: Digest,
    pub(super) repository: RepositoryName,
    pub(super) manifest_digest: Digest,
    pub(super) config_digest: Digest,
    /// Base first.
    pub(super) layers: Vec<Digest>,
}

/// A layer in `layers/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) digest: Digest,
    pub(super) report: Report,
}

/// A container's snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) image: Digest,
}

/// Names of the store's files.
#[derive(Clone, Debug)]
pub(super) struct Layout(PathBuf);

impl Layout {
    /// Makes the directories and empties `tmp`.
    pub(super) fn open(directory: &Path) -> Result<Self, ImageError> {
        let layout = Self(directory.to_owned());
        for name in ["", "images", "blobs", "layers", "snapshots", "empty", "tmp"] {
            let path = directory.join(name);
            durable::make_private_directory(&path).map_err(failed("make", &path))?;
        }
        let temporary = layout.0.join("tmp");
        tree::empty(&temporary).map_err(failed("empty", &temporary))?;
        Ok(layout)
    }

    pub(super) fn names(&self) -> PathBuf {
        self.0.join("names.json")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    pub(super) fn image(&self, digest: &Digest) -> PathBuf {
        self.images().join(format!("{}.json", file_name(digest)))
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(file_name(digest))
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.0.join("layers")
    }

    pub(super) fn layer(&self, digest: &Digest) -> PathBuf {
        self.layers().join(file_name(digest))
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    pub(super) fn snapshot(&self, container: &ContainerId) -> PathBuf {
        self.snapshots().join(container.as_str())
    }

    pub(super) fn empty(&self) -> PathBuf {
        self.0.join("empty")
    }

    /// A name in `tmp` that nobody has.
    pub(super) fn temporary(&self) -> PathBuf {
        self.0.join("tmp").join(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Moves `path` out of sight at once and returns where to; the caller removes that when it has the time. `None`
    /// when there was nothing.
    pub(super) fn discard(&self, path: &Path) -> Result<Option<Discarded>, ImageError> {
        let discarded = self.temporary();
        match fs::rename(path, &discarded) {
            Ok(()) => Ok(Some(Discarded(discarded))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("discard", path)(error)),
        }
    }
}

/// A tree in `tmp` that goes when this is dropped, or at the next start.
#[derive(Debug)]
pub(super) struct Discarded(PathBuf);

impl Discarded {
    /// Makes a new directory that goes unless it is [kept](Discarded::keep).
    pub(super) fn make(layout: &Layout) -> Result<Self, ImageError> {
        let path = layout.temporary();
        make_directory(&path, 0o700)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives the directory its place in the store.
    pub(super) fn keep(self, place: &Path) -> Result<(), ImageError> {
        fs::rename(&self.0, place).map_err(failed("make", place))
    }
}

impl Drop for Discarded {
    fn drop(&mut self) {
        if let Err(error) = tree::remove_path(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a discarded directory stays until the next start");
        }
    }
}

/// Makes one directory with exactly this mode.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(failed("make", path))
}

/// Replaces a file, durably.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    durable::replace(path, bytes).map_err(failed("replace", path))
}

/// [`replace`] with JSON.
pub(super) fn replace_json(path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| failed("encode", path)(error.into()))?;
    replace(path, &bytes)
}

/// Removes a file for good; absence is no error.
pub(super) fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path).and_then(|()| sync_parent(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Reads a JSON file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ImageError> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| failed("read", path)(error.into()))
}

/// Names in a directory of the store.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, ImageError> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    list().map_err(failed("list", directory))
}

/// Makes an error of a failed `step` on `path`.
pub(super) fn failed(step: &'static str, path: &Path) -> impl Fn(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Store {
        step,
        path: path.clone(),
        source,
    }
}

/// Makes renames in the parent of `path` durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// A digest as a file's name.
fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

/// The digest that a file is named after.
pub(super) fn digest_of(file_name: &str) -> Option<Digest> {
    let (algorithm, hex) = file_name.split_once('-')?;
    let algorithm: Algorithm = algorithm.parse().ok()?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_and_digests_are_one_to_one() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"x");
            assert_eq!(digest_of(&file_name(&digest)), Some(digest));
        }
        for bad in ["", "sha256", "sha256-", "sha256-zz", "md5-ab", "sha256-x.new"] {
            assert_eq!(digest_of(bad), None, "{bad:?}");
        }
    }
}
