//! Images on this node: a content store, pulls into it, snapshots for containers, and collection.
//!
//! Owns everything below DATA/image (`layout`). In reading order: what an image says (`config`), which parts of it are
//! fetched (`plan`), how they come (`pull`, `unpack`), how a container gets a root from them (`snapshot`, `overlay`),
//! and how they go (`collect`, `tree`). Leaves to others which images are wanted, and what runs in a root.
//!
//! Invariants: an image in the store is complete, verified and durable; a layer is shared only by images whose
//! manifests name the very bytes that it was unpacked from; nothing that a snapshot stands on is collected; what an
//! image's author wrote is parsed in a confined process, but for the two JSON documents.

mod collect;
mod config;
mod error;
mod layout;
mod names;
mod overlay;
mod plan;
mod pull;
mod snapshot;
mod tree;
pub mod unpack;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use client::distribution::RegistryClient;
use oci::{Digest, RepositoryName};
use runtime::container::ContainerId;
use tokio::sync::Semaphore;

use crate::chain::Chain;

use layout::{LayerRecord, Layout, Record, digest_of, names, read_json};
use pull::Fetches;
use unpack::Limits;

pub use collect::Collected;
pub use config::ImageConfig;
pub use error::ImageError;
pub use plan::Unsuitable;

/// How a store works. [`Default`] is right for the daemon.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The program that is `pierhead-node`, to be started as `program unpack …`.
    pub program: PathBuf,
    /// Bounds on one layer.
    pub limits: Limits,
    /// Layers that are fetched and unpacked at the same time, over all pulls.
    pub parallel: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            program: PathBuf::from("/proc/self/exe"),
            limits: Limits::default(),
            // One more than processors, for a layer that waits for the network; each has at most 2 MiB in flight and
            // a child of a few MiB.
            parallel: (processors + 1).min(8),
        }
    }
}

/// A handle to the store; clones share it.
#[derive(Clone, Debug)]
pub struct ImageStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    options: StoreOptions,
    /// Locked on threads that may block, for as long as a rename, a mount or a synced small file takes.
    state: Mutex<State>,
    fetches: Fetches,
    slots: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    images: HashMap<Digest, Arc<Image>>,
    layers: HashMap<Digest, Arc<LayerRecord>>,
    /// As on disk.
    names: BTreeMap<String, Digest>,
    /// How many pulls under way count on a layer.
    leases: HashMap<Digest, usize>,
}

/// An image that is in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The digest it was pulled by: of an index, or of the manifest.
    pub digest: Digest,
    /// The digest of this platform's manifest.
    pub manifest_digest: Digest,
    /// The digest of the configuration, which other engines call the image's id.
    pub config_digest: Digest,
    /// The repository it was pulled from.
    pub repository: RepositoryName,
    /// How to run it.
    pub config: ImageConfig,
    /// Digests of its layers as they were sent, base first, each once.
    pub layers: Vec<Digest>,
    /// Bytes of the files in its layers.
    pub size_bytes: u64,
}

impl ImageStore {
    /// Opens the store at `directory` (made if need be) and removes what crashed pulls left.
    ///
    /// # Errors
    /// When a file of the store cannot be read or written.
    pub async fn open(directory: &Path) -> Result<Self, ImageError> {
        Self::open_with(directory, StoreOptions::default()).await
    }

    /// [`Self::open`] with other options.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(directory: &Path, options: StoreOptions) -> Result<Self, ImageError> {
        let directory = directory.to_owned();
        blocking(move || {
            let inner = Inner {
                layout: Layout::open(&directory)?,
                slots: Semaphore::new(options.parallel.max(1)),
                options,
                state: Mutex::new(State::default()),
                fetches: Fetches::default(),
            };
            inner.load()?;
            Ok(Self(Arc::new(inner)))
        })
        .await
    }

    /// Brings the image `digest` of `repository` into the store: index, this platform's manifest, configuration,
    /// layers in parallel, each verified. At once and without the network when it is there already.
    ///
    /// # Errors
    /// [`ImageError::Fetch`] when the registry does not hand something over, others when what it hands over is not
    /// what was asked for or cannot be run here.
    ///
    /// # Cancel safety
    /// Dropping the future ends the transfers; layers that are complete are used by the next pull.
    pub async fn pull(
        &self,
        client: &RegistryClient,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Arc<Image>, ImageError> {
        match self.get(digest).await? {
            Some(image) => Ok(image),
            None => pull::pull(&self.0, client, repository, digest).await,
        }
    }

    /// The image that was pulled by `digest`, if it is in the store.
    ///
    /// # Errors
    /// None today; the signature leaves room for a store that reads on demand.
    pub async fn get(&self, digest: &Digest) -> Result<Option<Arc<Image>>, ImageError> {
        let digest = digest.clone();
        self.blocking(move |inner| Ok(inner.lock().images.get(&digest).cloned()))
            .await
    }

    /// All images, by digest.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn list(&self) -> Result<Vec<Arc<Image>>, ImageError> {
        self.blocking(|inner| {
            let mut images: Vec<Arc<Image>> = inner.lock().images.values().cloned().collect();
            images.sort_by(|a, b| a.digest.cmp(&b.digest));
            Ok(images)
        })
        .await
    }

    /// Mounts the container's root: the image below a directory of its own, which is made the first time and kept
    /// until [`Self::remove_snapshot`]. Mounts again after a reboot; changes nothing when it is mounted. Returns the
    /// root's path.
    ///
    /// # Errors
    /// [`ImageError::Missing`] when the image was collected, [`ImageError::OtherImage`] when the container has a root
    /// of another one, [`ImageError::Mount`] when the kernel refuses.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn mount(&self, image: &Image, container: &ContainerId) -> Result<PathBuf, ImageError> {
        let (image, container) = (image.clone(), container.clone());
        self.blocking(move |inner| inner.mount(&image, &container)).await
    }

    /// Unmounts the container's root and keeps what the container wrote. No error when it is not mounted.
    ///
    /// # Errors
    /// When the kernel refuses.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn unmount(&self, container: &ContainerId) -> Result<(), ImageError> {
        let container = container.clone();
        self.blocking(move |inner| inner.unmount(&container)).await
    }

    /// Unmounts the container's root and removes what the container wrote. No error when there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn remove_snapshot(&self, container: &ContainerId) -> Result<(), ImageError> {
        let container = container.clone();
        self.blocking(move |inner| inner.remove_snapshot(&container))
            .await
    }

    /// Containers that have a root here, mounted or not.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn snapshots(&self) -> Result<Vec<ContainerId>, ImageError> {
        self.blocking(Inner::snapshots).await
    }

    /// Removes every image that is neither in `keep` (by the digest it was pulled by) nor named nor below a container's
    /// root, and every layer that no image and no pull under way needs.
    ///
    /// # Errors
    /// When something cannot be removed; what was removed before stays removed.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn collect(&self, keep: &HashSet<Digest>) -> Result<Collected, ImageError> {
        let keep = keep.clone();
        self.blocking(move |inner| inner.collect(|digest| keep.contains(digest)))
            .await
    }

    /// Removes these images, by the digests they were pulled by, but for those with a name or below a container's
    /// root; and layers as [`Self::collect`] does.
    ///
    /// # Errors
    /// As [`Self::collect`].
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn remove(&self, images: &HashSet<Digest>) -> Result<Collected, ImageError> {
        let images = images.clone();
        self.blocking(move |inner| inner.collect(|digest| !images.contains(digest)))
            .await
    }

    /// Names of images: what people call them, and the digest of the image in the store. Named images are kept from
    /// collection.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn names(&self) -> Result<BTreeMap<String, Digest>, ImageError> {
        self.blocking(|inner| Ok(inner.lock().names.clone())).await
    }

    /// Gives the image `digest` a name, which another one may have had. Durable when this returns.
    ///
    /// # Errors
    /// [`ImageError::Missing`] when the image is not in the store; or the name cannot be written down.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn name(&self, name: &str, digest: &Digest) -> Result<(), ImageError> {
        let (name, digest) = (name.to_owned(), digest.clone());
        self.blocking(move |inner| inner.name(name, digest)).await
    }

    /// Takes names away; ones that nothing has are no error. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written down.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn unname(&self, names: &[String]) -> Result<(), ImageError> {
        let names = names.to_vec();
        self.blocking(move |inner| inner.unname(&names)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let inner = Arc::clone(&self.0);
        blocking(move || work(&inner)).await
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the state")
    }

    /// Reads the records. An image that lost a part is forgotten, so that it is pulled again.
    fn load(&self) -> Result<(), ImageError> {
        let mut state = self.lock();
        for name in names(&self.layout.images())? {
            let path = self.layout.images().join(&name);
            let is_record = name.strip_suffix(".json").and_then(digest_of).is_some();
            let loaded = match is_record {
                true => read_json(&path).and_then(|record| self.load_image(&mut state, record)),
                // A record that was being written.
                false => Ok(()),
            };
            if let Err(error) = &loaded {
                tracing::warn!(image = name, error = %Chain(error), "forgetting a damaged image");
            }
            if !is_record || loaded.is_err() {
                layout::remove(&path)?;
            }
        }
        state.names = self.load_names(&state)?;
        self.remove_strays(&state)
    }

    fn load_image(&self, state: &mut State, record: Record) -> Result<(), ImageError> {
        let path = self.layout.blob(&record.config_digest);
        let bytes = std::fs::read(&path).map_err(layout::failed("read", &path))?;
        let config =
            ImageConfig::parse(&bytes).map_err(|error| layout::failed("read", &path)(error.into()))?;
        let mut size_bytes = 0;
        for digest in &record.layers {
            let layer: LayerRecord = read_json(&self.layout.layer(digest).join("layer.json"))?;
            size_bytes += layer.report.size_bytes;
            state.layers.insert(digest.clone(), Arc::new(layer));
        }
        let image = Image::new(record, config, size_bytes);
        state.images.insert(image.digest.clone(), Arc::new(image));
        Ok(())
    }
}

impl Image {
    fn new(record: Record, config: ImageConfig, size_bytes: u64) -> Self {
        Self {
            digest: record.digest,
            manifest_digest: record.manifest_digest,
            config_digest: record.config_digest,
            repository: record.repository,
            config,
            layers: record.layers,
            size_bytes,
        }
    }
}

/// Runs `work` where it may block, to its end even if the caller goes away.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
