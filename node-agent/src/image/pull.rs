//! Pulling one image: documents first, then all layers at once, and the record when everything is on disk.
//!
//! A layer is one stream without a stop on the way: socket → bounded channel → digest of what was sent → pipe → the
//! confined child, which decompresses, computes the diff id and writes files. Nothing of it is used before all three
//! of digest, size and diff id are right.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use client::distribution::{ClientError, FetchedManifest, RegistryClient};
use futures::StreamExt;
use oci::{Digest, Hasher, Manifest, Platform, Reference, RepositoryName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::chain::Chain;

use super::layout::{self, Discarded, LayerRecord, Record, failed, make_directory, replace_json};
use super::plan::{self, PlannedLayer, Unsuitable};
use super::unpack::{Request, Unpacker};
use super::{Image, ImageConfig, ImageError, Inner, blocking, overlay};

/// Pieces between the socket and the child. The client's are of at most some 100 KiB, so a layer has 2 MiB in memory.
const PIECES: usize = 16;
/// Tries in a row that bring nothing before a transfer is given up.
const TRIES: u32 = 5;
/// The first pause between tries; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(200);

/// One lock per layer that is being fetched, so that concurrent pulls fetch it once.
#[derive(Debug, Default)]
pub(super) struct Fetches(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Fetches {
    fn lock_of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().expect("nothing panics while it holds the locks");
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(digest.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// Keeps layers from being collected while a pull counts on them.
struct Lease {
    store: Arc<Inner>,
    layers: Vec<Digest>,
}

impl Lease {
    fn new(store: &Arc<Inner>, layers: &[PlannedLayer]) -> Self {
        let layers: Vec<Digest> = layers.iter().map(|layer| layer.digest.clone()).collect();
        let mut state = store.lock();
        for digest in &layers {
            *state.leases.entry(digest.clone()).or_default() += 1;
        }
        drop(state);
        Self {
            store: Arc::clone(store),
            layers,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        for digest in &self.layers {
            if let Some(count) = state.leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(digest);
                }
            }
        }
    }
}

/// A pull's documents, as they came.
struct Documents {
    /// Index, manifest and configuration with their digests.
    blobs: Vec<(Digest, Bytes)>,
    manifest_digest: Digest,
    config_digest: Digest,
    config: ImageConfig,
    layers: Vec<PlannedLayer>,
}

/// See [`super::ImageStore::pull`].
pub(super) async fn pull(
    store: &Arc<Inner>,
    client: &RegistryClient,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Arc<Image>, ImageError> {
    let source = Source {
        client: client.clone(),
        repository: repository.clone(),
    };
    let documents = source.documents(digest).await?;
    let lease = {
        let (store, layers) = (Arc::clone(store), documents.layers.clone());
        blocking(move || Lease::new(&store, &layers)).await
    };
    let mut fetches = JoinSet::new();
    for layer in documents.layers.clone() {
        fetches.spawn(fetch_layer(Arc::clone(store), source.clone(), layer));
    }
    // The first failure drops the others, whose transfers end with that.
    while let Some(fetched) = fetches.join_next().await {
        fetched.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    let (store, repository, digest) = (Arc::clone(store), repository.clone(), digest.clone());
    blocking(move || {
        let image = store.commit(documents, repository, digest);
        // The image holds its layers now, or nobody does.
        drop(lease);
        image
    })
    .await
}

/// Where an image is pulled from.
#[derive(Clone)]
struct Source {
    client: RegistryClient,
    repository: RepositoryName,
}

impl Source {
    async fn documents(&self, digest: &Digest) -> Result<Documents, ImageError> {
        let unsuitable = |source| ImageError::Unsuitable {
            repository: self.repository.clone(),
            digest: digest.clone(),
            source: Box::new(source),
        };
        let node = Platform::host();
        let mut blobs = Vec::new();
        let (mut fetched, mut manifest) = self.manifest(digest, &unsuitable).await?;
        blobs.push((fetched.digest.clone(), fetched.bytes.clone()));
        if let Some(entry) = plan::choose(&manifest, &node).map_err(&unsuitable)?.cloned() {
            (fetched, manifest) = self.manifest(&entry.digest, &unsuitable).await?;
            check_size(&entry.digest, entry.size, fetched.bytes.len()).map_err(&unsuitable)?;
            blobs.push((fetched.digest.clone(), fetched.bytes.clone()));
        }
        let (config, layers) = plan::parts(&manifest, &fetched.digest).map_err(&unsuitable)?;
        let bytes = self.small_blob(&config.digest, config.size).await?;
        check_size(&config.digest, config.size, bytes.len()).map_err(&unsuitable)?;
        let parsed = ImageConfig::parse(&bytes)
            .map_err(|source| Unsuitable::Config {
                digest: config.digest.clone(),
                source,
            })
            .map_err(&unsuitable)?;
        blobs.push((config.digest.clone(), bytes));
        Ok(Documents {
            layers: plan::layers(layers, &parsed, &node).map_err(&unsuitable)?,
            manifest_digest: fetched.digest,
            config_digest: config.digest.clone(),
            config: parsed,
            blobs,
        })
    }

    async fn manifest(
        &self,
        digest: &Digest,
        unsuitable: impl Fn(Unsuitable) -> ImageError,
    ) -> Result<(FetchedManifest, Manifest), ImageError> {
        let reference = Reference::Digest(digest.clone());
        let fetched = self
            .persist(digest, || self.client.manifest(&self.repository, &reference))
            .await?;
        let manifest = Manifest::parse(&fetched.media_type, &fetched.bytes).map_err(|source| {
            unsuitable(Unsuitable::Manifest {
                digest: digest.clone(),
                source,
            })
        })?;
        Ok((fetched, manifest))
    }

    /// A blob that is kept in memory: at most `size` bytes and one piece, the caller checks for fewer.
    async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Bytes, ImageError> {
        let bytes = self
            .persist(digest, || async {
                let mut body = self.client.blob(&self.repository, digest, 0).await?;
                let mut bytes = Vec::new();
                while let Some(piece) = body.bytes.next().await {
                    bytes.extend_from_slice(&piece?);
                    if bytes.len() as u64 > size {
                        break;
                    }
                }
                Ok(Bytes::from(bytes))
            })
            .await?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        match actual == *digest {
            true => Ok(bytes),
            false => Err(ImageError::WrongDigest {
                repository: self.repository.clone(),
                digest: digest.clone(),
                actual,
            }),
        }
    }

    /// Tries `fetch` until it succeeds, fails for good, or has failed too often.
    async fn persist<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        digest: &Digest,
        fetch: impl Fn() -> F,
    ) -> Result<T, ImageError> {
        let mut tries = 1;
        loop {
            match fetch().await {
                Ok(value) => return Ok(value),
                Err(error) => self.pause(digest, error, &mut tries).await?,
            }
        }
    }

    /// Waits before the next try after `error`, or gives up with it.
    async fn pause(&self, digest: &Digest, error: ClientError, tries: &mut u32) -> Result<(), ImageError> {
        if !error.is_retryable() || *tries >= TRIES {
            return Err(ImageError::Fetch {
                repository: self.repository.clone(),
                digest: digest.clone(),
                source: Box::new(error),
            });
        }
        tracing::debug!(repository = %self.repository, %digest, error = %Chain(&error), "trying {digest} again");
        tokio::time::sleep(PAUSE * 2u32.pow(*tries - 1)).await;
        *tries += 1;
        Ok(())
    }

    /// Sends the bytes of a layer down `pieces`, going on where a connection was cut. Ends early, without an error,
    /// when nobody takes them any more.
    async fn send_layer(&self, layer: &PlannedLayer, pieces: &mpsc::Sender<Piece>) -> Result<(), ImageError> {
        let mut offset = 0;
        let mut tries = 1;
        // Bytes that were sent already, where the registry can only begin from the start.
        let mut is_ranged = true;
        while offset < layer.size_bytes {
            let from = if is_ranged { offset } else { 0 };
            let mut body = match self.client.blob(&self.repository, &layer.digest, from).await {
                Ok(body) => body,
                Err(ClientError::Protocol { .. }) if from > 0 => {
                    is_ranged = false;
                    continue;
                }
                Err(error) => {
                    self.pause(&layer.digest, error, &mut tries).await?;
                    continue;
                }
            };
            if body.size_bytes != layer.size_bytes {
                return Err(self.wrong_size(layer, body.size_bytes));
            }
            let mut skip = offset - from;
            loop {
                match body.bytes.next().await {
                    Some(Ok(mut piece)) => {
                        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                        skip -= skipped as u64;
                        let piece = piece.split_off(skipped);
                        if piece.is_empty() {
                            continue;
                        }
                        tries = 1;
                        offset += piece.len() as u64;
                        if offset > layer.size_bytes {
                            return Err(self.wrong_size(layer, offset));
                        }
                        if pieces.send(Piece::Bytes(piece)).await.is_err() {
                            return Ok(());
                        }
                    }
                    Some(Err(error)) => {
                        self.pause(&layer.digest, error, &mut tries).await?;
                        break;
                    }
                    None if offset < layer.size_bytes => return Err(self.wrong_size(layer, offset)),
                    None => break,
                }
            }
        }
        // Nobody takes the end where the layer was refused already.
        let _ = pieces.send(Piece::End).await;
        Ok(())
    }

    fn wrong_size(&self, layer: &PlannedLayer, actual: u64) -> ImageError {
        ImageError::WrongSize {
            repository: self.repository.clone(),
            digest: layer.digest.clone(),
            expected: layer.size_bytes,
            actual,
        }
    }
}

/// A part of a layer on its way to the child. A channel that closes without an end means that the transfer failed.
enum Piece {
    Bytes(Bytes),
    End,
}

/// Makes sure that a layer is in the store.
async fn fetch_layer(store: Arc<Inner>, source: Source, layer: PlannedLayer) -> Result<(), ImageError> {
    let lock = store.fetches.lock_of(&layer.digest);
    let _fetching = lock.lock().await;
    let known = {
        let (store, digest) = (Arc::clone(&store), layer.digest.clone());
        blocking(move || store.lock().layers.get(&digest).cloned()).await
    };
    if let Some(known) = known {
        return check_diff_id(&source.repository, &layer, &known.report.diff_id);
    }
    // Whoever has a slot waits for no lock, so the slots come free.
    let _slot = store.slots.acquire().await.expect("nobody closes the slots");
    let (pieces, received) = mpsc::channel(PIECES);
    let unpacking = {
        let (store, repository, layer) = (Arc::clone(&store), source.repository.clone(), layer.clone());
        tokio::spawn(blocking(move || receive(&store, &repository, &layer, received)))
    };
    let sent = source.send_layer(&layer, &pieces).await;
    drop(pieces);
    let unpacked = unpacking
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    // Where the transfer failed, the child only knows that the layer ended too early.
    sent.and(unpacked)
}

/// Unpacks the layer that comes through `pieces` and gives it its place in the store.
fn receive(
    store: &Inner,
    repository: &RepositoryName,
    layer: &PlannedLayer,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(), ImageError> {
    let refused = |source| ImageError::Unpack {
        repository: repository.clone(),
        digest: layer.digest.clone(),
        source: Box::new(source),
    };
    let scratch = Discarded::make(&store.layout)?;
    let root = scratch.path().join("root");
    make_directory(&root, 0o755)?;
    let request = Request::new(layer.compression, layer.diff_id.algorithm(), store.options.limits);
    let mut unpacker = Unpacker::start(&store.options.program, &root, &request).map_err(refused)?;
    let mut hasher = Hasher::new(layer.digest.algorithm());
    let mut is_whole = false;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => {
                hasher.update(&bytes);
                if !unpacker.write(&bytes).map_err(refused)? {
                    break;
                }
            }
            Piece::End => {
                is_whole = true;
                break;
            }
        }
    }
    // The transfer ends now, if it has not yet.
    drop(pieces);
    let report = unpacker.finish().map_err(refused)?;
    let actual = hasher.finish();
    if !is_whole || actual != layer.digest {
        return Err(ImageError::WrongDigest {
            repository: repository.clone(),
            digest: layer.digest.clone(),
            actual,
        });
    }
    check_diff_id(repository, layer, &report.diff_id)?;
    if report.devices_left_out > 0 {
        let (digest, left_out) = (&layer.digest, report.devices_left_out);
        tracing::info!(%repository, %digest, left_out, "device nodes of layer {digest} are left out");
    }
    let record = LayerRecord {
        digest: layer.digest.clone(),
        report,
    };
    replace_json(&scratch.path().join("layer.json"), &record)?;
    let mut state = store.lock();
    let place = store.layout.layer(&layer.digest);
    // Of the layers on disk only known ones count.
    let former = store.layout.discard(&place)?;
    scratch.keep(&place)?;
    state.layers.insert(layer.digest.clone(), Arc::new(record));
    drop(state);
    drop(former);
    Ok(())
}

impl Inner {
    /// Makes everything durable, then the record.
    fn commit(
        &self,
        documents: Documents,
        repository: RepositoryName,
        digest: Digest,
    ) -> Result<Arc<Image>, ImageError> {
        let layers: &Path = &self.layout.layers();
        overlay::sync_filesystem(layers).map_err(failed("sync", layers))?;
        let record = Record {
            digest,
            repository,
            manifest_digest: documents.manifest_digest,
            config_digest: documents.config_digest,
            layers: documents.layers.into_iter().map(|layer| layer.digest).collect(),
        };
        // From here on no collection may take a document for a stray.
        let mut state = self.lock();
        for (digest, bytes) in &documents.blobs {
            layout::replace(&self.layout.blob(digest), bytes)?;
        }
        replace_json(&self.layout.image(&record.digest), &record)?;
        let sizes = record.layers.iter().filter_map(|digest| state.layers.get(digest));
        let size_bytes = sizes.map(|layer| layer.report.size_bytes).sum();
        let image = Arc::new(Image::new(record, documents.config, size_bytes));
        state.images.insert(image.digest.clone(), Arc::clone(&image));
        Ok(image)
    }
}

fn check_diff_id(
    repository: &RepositoryName,
    layer: &PlannedLayer,
    actual: &Digest,
) -> Result<(), ImageError> {
    match *actual == layer.diff_id {
        true => Ok(()),
        false => Err(ImageError::WrongDiffId {
            repository: repository.clone(),
            digest: layer.digest.clone(),
            diff_id: layer.diff_id.clone(),
            actual: actual.clone(),
        }),
    }
}

fn check_size(digest: &Digest, expected: u64, actual: usize) -> Result<(), Unsuitable> {
    match actual as u64 == expected {
        true => Ok(()),
        false => Err(Unsuitable::Size {
            digest: digest.clone(),
            expected,
            actual: actual as u64,
        }),
    }
}
