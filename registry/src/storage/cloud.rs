//! Uploads to an object store: parts go straight to the key that the blob will have, so that commit copies nothing.
//!
//! Bytes come through a file without a name in a local directory, which they leave part by part: memory holds the
//! few parts that are being sent, whatever the number of uploads. Parts are all of one size, which some stores
//! demand. What is left behind the last whole part when an upload is suspended becomes an object of its own under a
//! new random key; of an upload smaller than a part that object is the blob already, once the digest is right.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::signer::Signer;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use oci::{Digest, Hasher};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::directory::off_thread;
use super::reader::{self, BlobStream, Growing};
use super::upload::{Commit, Multipart, Place, Tail, UploadState};
use super::{ObjectKey, StorageError, at, keys};

/// Pieces in flight between network and spool; of at most 1 MiB each.
const QUEUE: usize = 4;
/// Parts of one upload on their way at once.
const IN_FLIGHT: usize = 3;
/// Parts that the spool holds at once: those on their way, one that waits, and one that is being filled.
const SLOTS: u64 = IN_FLIGHT as u64 + 2;
/// Parts in memory at once, of all uploads together: 128 MiB with parts of 16 MiB.
const PARTS_IN_MEMORY: usize = 8;

/// An object store and how it is used.
#[derive(Debug)]
pub(super) struct Cloud {
    pub objects: Arc<dyn ObjectStore>,
    pub multipart: Arc<dyn MultipartDebug>,
    pub signer: Option<Arc<dyn Signer>>,
    prefix: object_store::path::Path,
    spool: PathBuf,
    part_bytes: u64,
    sending: Semaphore,
}

/// A [`MultipartStore`] that can be printed.
pub(super) trait MultipartDebug: MultipartStore + std::fmt::Debug {}
impl<T: MultipartStore + std::fmt::Debug> MultipartDebug for T {}

impl Cloud {
    pub fn new<T: ObjectStore + MultipartStore + std::fmt::Debug>(
        store: Arc<T>,
        signer: Option<Arc<dyn Signer>>,
        prefix: object_store::path::Path,
        spool: PathBuf,
        part_bytes: u64,
    ) -> Self {
        Self {
            objects: store.clone(),
            multipart: store,
            signer,
            prefix,
            spool,
            part_bytes,
            sending: Semaphore::new(PARTS_IN_MEMORY),
        }
    }

    /// A key of ours as a path of the store.
    pub fn path(&self, key: &str) -> object_store::path::Path {
        self.prefix
            .parts()
            .chain(key.split('/').map(Into::into))
            .collect()
    }

    /// A path of the store as a key of ours.
    pub fn key<'a>(&self, path: &'a object_store::path::Path) -> Option<&'a str> {
        path.as_ref()
            .strip_prefix(self.prefix.as_ref())
            .map(|rest| rest.trim_start_matches('/'))
    }

    /// Removes an object; nothing happens when there is none.
    pub async fn remove(&self, key: &str) -> Result<(), StorageError> {
        match self.objects.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed("delete", key)(source)),
        }
    }

    /// Throws away what the store holds of an upload.
    pub async fn discard(&self, place: &Place) -> Result<(), StorageError> {
        if let Some(multipart) = &place.multipart {
            let path = self.path(&multipart.key);
            match self.multipart.abort_multipart(&path, &multipart.id).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                // Its only failure, and its way of saying that there is no such upload any more.
                Err(object_store::Error::Generic {
                    store: "InMemory", ..
                }) => {}
                Err(source) => return Err(failed("abort", &multipart.key)(source)),
            }
        }
        match &place.tail {
            Some(tail) => self.remove(&tail.key).await,
            None => Ok(()),
        }
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        let put = self.objects.put(&self.path(key), PutPayload::from(bytes)).await;
        put.map(drop).map_err(failed("write", key))
    }

    async fn read(&self, key: &str, size_bytes: u64) -> Result<BlobStream, StorageError> {
        reader::ranged(self.objects.as_ref(), self.path(key), size_bytes, 0..size_bytes).await
    }

    async fn hash(&self, key: &str, size_bytes: u64, mut hasher: Hasher) -> Result<Hasher, StorageError> {
        let mut blocks = self.read(key, size_bytes).await?;
        while let Some(block) = blocks.try_next().await? {
            hasher = off_thread(move || {
                hasher.update(&block);
                Ok(hasher)
            })
            .await?;
        }
        Ok(hasher)
    }

    async fn put_part(
        &self,
        spool: Arc<File>,
        multipart: Arc<(String, String)>,
        part: Part,
    ) -> Result<(String, Part), StorageError> {
        // Never closed.
        let _permit = self.sending.acquire().await.ok();
        let bytes = read_spool(spool, part.spooled_at, part.length).await?;
        let (key, id) = &*multipart;
        let sent = self
            .multipart
            .put_part(&self.path(key), id, part.index, PutPayload::from(bytes))
            .await;
        let sent = sent.map_err(failed("write a part of", key))?;
        Ok((sent.content_id, part))
    }

    /// Makes one object at `key` of what is left of an upload and of the bytes behind it.
    async fn assemble(
        &self,
        key: &ObjectKey,
        left: Place,
        rest: Bytes,
        size_bytes: u64,
    ) -> Result<(), StorageError> {
        match left.multipart {
            Some(mut multipart) => {
                if !rest.is_empty() {
                    let index = multipart.parts.len();
                    let path = self.path(&multipart.key);
                    let part = self
                        .multipart
                        .put_part(&path, &multipart.id, index, PutPayload::from(rest))
                        .await;
                    let part = part.map_err(failed("write the last part of", &multipart.key))?;
                    multipart.parts.push(part.content_id);
                }
                self.complete(&multipart, size_bytes).await?;
            }
            None if left.tail.as_ref().is_some_and(|tail| tail.key == key.as_str()) => return Ok(()),
            None => self.put(key.as_str(), rest).await?,
        }
        match left.tail {
            Some(tail) => self.remove(&tail.key).await,
            None => Ok(()),
        }
    }

    async fn complete(&self, multipart: &Multipart, size_bytes: u64) -> Result<(), StorageError> {
        let path = self.path(&multipart.key);
        let parts = multipart.parts.iter().map(|id| PartId {
            content_id: id.clone(),
        });
        let completed = self
            .multipart
            .complete_multipart(&path, &multipart.id, parts.collect())
            .await;
        let Err(source) = completed else { return Ok(()) };
        // A store whose answer was lost says on the second try that there is no such upload any more.
        match self.objects.head(&path).await {
            Ok(meta) if meta.size == size_bytes => Ok(()),
            _ => Err(failed("complete", &multipart.key)(source)),
        }
    }
}

/// Names the step and the subject of a failure of the store.
pub(super) fn failed<'a>(
    step: &'static str,
    key: &'a str,
) -> impl FnOnce(object_store::Error) -> StorageError + 'a {
    move |source| StorageError::Store {
        step,
        key: key.to_owned(),
        source,
    }
}

/// A whole part in the spool.
#[derive(Debug)]
struct Part {
    index: usize,
    spooled_at: u64,
    length: u64,
    /// Where the upload stands behind it.
    end: u64,
    hasher: Hasher,
}

/// The file without a name that bytes go through, on the thread that writes and hashes them.
#[derive(Debug)]
struct Spool {
    file: Arc<File>,
    directory: PathBuf,
    hasher: Hasher,
    part_bytes: u64,
    /// Whether followers read it, so that nothing in it may be overwritten.
    is_kept: bool,
    /// Where the upload stands.
    position: u64,
    /// The part that is being filled, and how many bytes it has.
    index: usize,
    filled: u64,
    parts: mpsc::Sender<Part>,
}

impl Spool {
    fn slot(&self) -> u64 {
        match self.is_kept {
            true => self.index as u64,
            false => self.index as u64 % SLOTS,
        }
    }

    /// Takes in bytes that have been hashed, or hashes them. `false` when nobody sends parts any more.
    fn take(&mut self, mut piece: &[u8], is_hashed: bool) -> Result<bool, StorageError> {
        while !piece.is_empty() {
            let room = self.part_bytes - self.filled;
            let (now, rest) = piece.split_at(piece.len().min(room as usize));
            let start = self.slot() * self.part_bytes;
            let write = self.file.write_all_at(now, start + self.filled);
            write.map_err(at("write in", &self.directory))?;
            if !is_hashed {
                self.hasher.update(now);
                self.position += now.len() as u64;
            }
            self.filled += now.len() as u64;
            if self.filled == self.part_bytes {
                let part = Part {
                    index: self.index,
                    spooled_at: start,
                    length: self.filled,
                    end: self.position,
                    hasher: self.hasher.clone(),
                };
                // Waits while parts are on their way, and so does the client.
                if self.parts.blocking_send(part).is_err() {
                    return Ok(false);
                }
                self.index += 1;
                self.filled = 0;
            }
            piece = rest;
        }
        Ok(true)
    }

    /// Reads what was filled of the last part.
    async fn rest(&self) -> Result<Bytes, StorageError> {
        read_spool(self.file.clone(), self.slot() * self.part_bytes, self.filled).await
    }
}

async fn read_spool(file: Arc<File>, start: u64, length: u64) -> Result<Bytes, StorageError> {
    off_thread(move || {
        let mut bytes = vec![0; length as usize];
        let read = file.read_exact_at(&mut bytes, start);
        read.map_err(at("read in", std::path::Path::new("the spool")))?;
        Ok(bytes.into())
    })
    .await
}

/// The tasks of an upload that bytes are coming for.
#[derive(Debug)]
struct Active {
    pieces: mpsc::Sender<Bytes>,
    worker: JoinHandle<Result<Spool, StorageError>>,
    sender: JoinHandle<Result<Option<Multipart>, StorageError>>,
}

/// An open upload.
#[derive(Debug)]
pub(super) struct Writer {
    cloud: Arc<Cloud>,
    opened: UploadState,
    progress: watch::Sender<UploadState>,
    /// Nothing is fetched or set up before the first byte: the last request of an upload often brings none.
    active: Option<Active>,
}

/// Opens an upload where `state` says.
pub(super) fn open(cloud: Arc<Cloud>, state: UploadState) -> Writer {
    Writer {
        cloud,
        progress: watch::channel(state.clone()).0,
        opened: state,
        active: None,
    }
}

/// Opens a new upload whose bytes are kept for those who follow it.
pub(super) async fn open_followed(
    cloud: Arc<Cloud>,
    state: UploadState,
) -> Result<(Writer, Growing), StorageError> {
    let mut writer = open(cloud, state);
    let growing = writer.activate(true).await?;
    Ok((writer, growing))
}

impl Writer {
    /// See [`super::UploadWriter::progress`].
    pub fn progress(&self) -> watch::Receiver<UploadState> {
        self.progress.subscribe()
    }

    async fn activate(&mut self, is_kept: bool) -> Result<Growing, StorageError> {
        let directory = self.cloud.spool.clone();
        let file = off_thread(move || {
            let made = tempfile::tempfile_in(&directory).map_err(at("make a file in", &directory))?;
            let shared = made.try_clone().map_err(at("open in", &directory))?;
            Ok((made, shared))
        });
        let (file, shared) = file.await?;
        let (parts, queue) = mpsc::channel(1);
        let place = &self.opened.place;
        let tail_bytes = place.tail.as_ref().map_or(0, |tail| tail.size_bytes);
        let mut spool = Spool {
            file: Arc::new(file),
            directory: self.cloud.spool.clone(),
            hasher: self.opened.hasher.clone(),
            // Larger than the tail, which must stay one: it was cut when the configuration asked for larger parts.
            part_bytes: self.cloud.part_bytes.max(tail_bytes + 1),
            is_kept,
            position: self.opened.offset_bytes,
            index: place.multipart.as_ref().map_or(0, |m| m.parts.len()),
            filled: 0,
            parts,
        };
        let file = spool.file.clone();
        let sender = send(
            self.cloud.clone(),
            self.opened.clone(),
            file,
            queue,
            self.progress.clone(),
        );
        let sender = tokio::spawn(sender);
        if let Some(tail) = &place.tail {
            let mut blocks = match self.cloud.read(&tail.key, tail.size_bytes).await {
                Err(StorageError::Missing(key)) => return Err(StorageError::UploadLost(key)),
                blocks => blocks?,
            };
            while let Some(block) = blocks.try_next().await? {
                spool = off_thread(move || spool.take(&block, true).map(|_| spool)).await?;
            }
        }
        let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let (written, grown) = watch::channel(self.opened.offset_bytes);
        let worker = tokio::task::spawn_blocking(move || {
            while let Some(piece) = queue.blocking_recv() {
                if !spool.take(&piece, false)? {
                    break;
                }
                written.send_replace(spool.position);
            }
            Ok(spool)
        });
        self.active = Some(Active {
            pieces,
            worker,
            sender,
        });
        Ok(Growing::new(shared, grown))
    }

    /// See [`super::UploadWriter::write`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        if self.active.is_none() && !bytes.is_empty() {
            self.activate(false).await?;
        }
        let Some(active) = &self.active else { return Ok(()) };
        if active.pieces.send(bytes).await.is_ok() {
            return Ok(());
        }
        // The worker only stops taking pieces when it or the sender failed.
        let Some(active) = self.active.take() else {
            return Ok(());
        };
        active.drain().await?;
        Err(StorageError::UploadLost("the spool".to_owned()))
    }

    /// See [`super::UploadWriter::suspend`].
    pub async fn suspend(mut self) -> Result<UploadState, StorageError> {
        let Some(active) = self.active.take() else {
            return Ok(self.opened);
        };
        let (spool, multipart) = active.drain().await?;
        if spool.position == self.opened.offset_bytes {
            return Ok(self.opened);
        }
        let tail = match spool.filled {
            0 => None,
            size_bytes => {
                let key = ObjectKey::random().to_string();
                self.cloud.put(&key, spool.rest().await?).await?;
                Some(Tail { key, size_bytes })
            }
        };
        Ok(UploadState {
            offset_bytes: spool.position,
            hasher: spool.hasher,
            place: Place { multipart, tail },
        })
    }

    /// See [`super::UploadWriter::commit`].
    pub async fn commit(mut self, digest: &Digest) -> Result<Commit, StorageError> {
        let cloud = self.cloud.clone();
        let opened = self.opened.clone();
        if self.active.is_none() && opened.place.multipart.is_some() && opened.place.tail.is_some() {
            self.activate(false).await?;
        }
        let (hasher, size_bytes, multipart, rest) = match self.active.take() {
            Some(active) => {
                let (spool, multipart) = active.drain().await?;
                let rest = spool.rest().await?;
                (spool.hasher, spool.position, multipart, rest)
            }
            None => (
                opened.hasher,
                opened.offset_bytes,
                opened.place.multipart.clone(),
                Bytes::new(),
            ),
        };
        let left = Place {
            multipart: multipart.clone(),
            tail: opened.place.tail.clone(),
        };
        let is_known = hasher.algorithm() == digest.algorithm();
        let actual = hasher.finish();
        if is_known && actual != *digest {
            cloud.discard(&left).await?;
            return Ok(Commit::Mismatch { actual });
        }
        let key = match (&left.multipart, &left.tail) {
            (Some(multipart), _) => multipart.key.parse(),
            // All of it is there since it was suspended.
            (None, Some(tail)) if tail.size_bytes == size_bytes => tail.key.parse(),
            (None, _) => Ok(ObjectKey::random()),
        };
        let key: ObjectKey = key.map_err(|_| StorageError::UploadLost("its key".to_owned()))?;
        // Before the row: what is acknowledged can be found again even if the database is lost.
        let journal = keys::journal(digest, &key);
        if is_known {
            futures::try_join!(
                cloud.assemble(&key, left, rest, size_bytes),
                cloud.put(&journal, Bytes::new())
            )?;
            return Ok(Commit::Stored { key, size_bytes });
        }
        cloud.assemble(&key, left, rest, size_bytes).await?;
        let hasher = Hasher::new(digest.algorithm());
        let actual = cloud.hash(key.as_str(), size_bytes, hasher).await?.finish();
        if actual != *digest {
            cloud.remove(key.as_str()).await?;
            return Ok(Commit::Mismatch { actual });
        }
        cloud.put(&journal, Bytes::new()).await?;
        Ok(Commit::Stored { key, size_bytes })
    }
}

impl Active {
    async fn drain(self) -> Result<(Spool, Option<Multipart>), StorageError> {
        drop(self.pieces);
        let stopped = |error| at("write in", std::path::Path::new("the spool"))(io::Error::other(error));
        let mut spool = self.worker.await.map_err(stopped)??;
        // The sender ends when no part can come any more.
        spool.parts = mpsc::channel(1).0;
        let multipart = self.sender.await.map_err(stopped)??;
        Ok((spool, multipart))
    }
}

/// Sends the parts of an upload and tells its progress.
async fn send(
    cloud: Arc<Cloud>,
    opened: UploadState,
    spool: Arc<File>,
    mut parts: mpsc::Receiver<Part>,
    progress: watch::Sender<UploadState>,
) -> Result<Option<Multipart>, StorageError> {
    let Some(first) = parts.recv().await else {
        return Ok(opened.place.multipart);
    };
    let mut multipart = match opened.place.multipart {
        Some(multipart) => multipart,
        None => {
            let key = ObjectKey::random().to_string();
            let id = cloud.multipart.create_multipart(&cloud.path(&key)).await;
            let multipart = Multipart {
                id: id.map_err(failed("begin", &key))?,
                key,
                parts: Vec::new(),
            };
            // Saved with the next heartbeat, so that whoever ends this upload also ends what the store holds of it.
            progress.send_modify(|state| state.place.multipart = Some(multipart.clone()));
            multipart
        }
    };
    let target = Arc::new((multipart.key.clone(), multipart.id.clone()));
    let mut sent = stream::iter([first])
        .chain(ReceiverStream::new(parts))
        .map(|part| cloud.put_part(spool.clone(), target.clone(), part))
        .buffered(IN_FLIGHT);
    while let Some((id, part)) = sent.try_next().await? {
        multipart.parts.push(id);
        progress.send_replace(UploadState {
            offset_bytes: part.end,
            hasher: part.hasher,
            place: Place {
                multipart: Some(multipart.clone()),
                tail: None,
            },
        });
    }
    Ok(Some(multipart))
}
