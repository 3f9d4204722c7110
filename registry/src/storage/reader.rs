//! Streams a blob in large blocks, read off the async threads one block ahead of the reader.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::cloud::failed;
use super::{StorageError, at};

/// The bytes of a blob, block by block. Dropping it stops the reading.
pub type BlobStream = BoxStream<'static, Result<Bytes, StorageError>>;

/// One block: large enough that the hop to a blocking thread does not count.
const BLOCK_BYTES: u64 = 1024 * 1024;
/// One block while many read, each of whom has about three: one being read, one queued and one being sent. Readers
/// share the network then, and the memory counts for more than the hops.
const CROWDED_BLOCK_BYTES: u64 = 128 * 1024;
/// Readers of files that are many.
const CROWD: usize = 16;

/// Readers of files now, in this process.
static READERS: AtomicUsize = AtomicUsize::new(0);

/// Counts as a reader for as long as it lives.
#[derive(Debug)]
struct Reader;

impl Reader {
    fn new() -> Self {
        READERS.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn block_bytes() -> u64 {
    match READERS.load(Ordering::Relaxed) > CROWD {
        true => CROWDED_BLOCK_BYTES,
        false => BLOCK_BYTES,
    }
}

/// Streams `range` of an object of `size_bytes` in an object store.
///
/// # Errors
/// [`StorageError::Missing`] when there is no such object.
pub(super) async fn ranged(
    objects: &dyn ObjectStore,
    path: object_store::path::Path,
    size_bytes: u64,
    range: Range<u64>,
) -> Result<BlobStream, StorageError> {
    if range.is_empty() {
        // Stores refuse a range without bytes.
        return Ok(stream::empty().boxed());
    }
    // A range that is the whole object may be answered as such, which object_store takes for a mistake.
    let part = (range != (0..size_bytes)).then(|| GetRange::Bounded(range.clone()));
    let options = GetOptions {
        range: part,
        ..GetOptions::default()
    };
    match objects.get_opts(&path, options).await {
        Ok(found) => match found.payload {
            GetResultPayload::Stream(bytes) => Ok(network_stream(bytes, path.to_string(), range)),
            // Directories are read by `file`; a store that hands out files all the same is read as one.
            GetResultPayload::File(_, path) => file(path, range).await,
        },
        Err(object_store::Error::NotFound { .. }) => Err(StorageError::Missing(path.to_string())),
        Err(source) => Err(failed("read", path.as_ref())(source)),
    }
}

/// Gathers what comes from the network into blocks, one ahead of the reader.
fn network_stream(
    mut bytes: BoxStream<'static, object_store::Result<Bytes>>,
    key: String,
    range: Range<u64>,
) -> BlobStream {
    let (blocks, queue) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut left = range.end - range.start;
        let mut block = BytesMut::new();
        while left > 0 {
            // Cancel safe: when the reader has gone, nothing is needed any more.
            let next = tokio::select! {
                next = bytes.next() => next,
                () = blocks.closed() => return,
            };
            let frame = match next {
                Some(Ok(frame)) => frame,
                Some(Err(source)) => {
                    let _ = blocks.send(Err(failed("read", &key)(source))).await;
                    return;
                }
                None => {
                    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
                    let _ = blocks.send(Err(at("read", Path::new(&key))(source))).await;
                    return;
                }
            };
            left = left.saturating_sub(frame.len() as u64);
            if block.is_empty() && frame.len() as u64 >= BLOCK_BYTES {
                // Already large.
                if blocks.send(Ok(frame)).await.is_err() {
                    return;
                }
                continue;
            }
            block.extend_from_slice(&frame);
            if (block.len() as u64 >= BLOCK_BYTES || left == 0)
                && blocks.send(Ok(block.split().freeze())).await.is_err()
            {
                return;
            }
        }
    });
    ReceiverStream::new(queue).boxed()
}

/// Streams `range` of the file at `path`. Opening it and its first block are one hop to a blocking thread: of a small
/// blob there is no other.
///
/// # Errors
/// [`StorageError::Missing`] when there is no such file, or when its first block cannot be read.
pub(super) async fn file(path: PathBuf, range: Range<u64>) -> Result<BlobStream, StorageError> {
    if range.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let reader = Reader::new();
    let opened = tokio::task::spawn_blocking(move || {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StorageError::Missing(path.display().to_string()));
            }
            Err(error) => return Err(at("open", &path)(error)),
        };
        let first = block(&file, range.start, range.end).map_err(at("read", &path))?;
        let position = range.start + first.len() as u64;
        Ok((first, file, path, position, range.end))
    });
    let (first, file, path, position, end) = opened
        .await
        .map_err(|error| at("read", Path::new("a blob"))(io::Error::other(error)))??;
    let first = stream::once(std::future::ready(Ok(first)));
    if position == end {
        return Ok(first.boxed());
    }
    let reading = Reading {
        next: Some(read_block(file, position, end)),
        position,
        end,
        path,
        _reader: reader,
    };
    Ok(first.chain(rest(reading)).boxed())
}

type Read = JoinHandle<io::Result<(File, Bytes)>>;

struct Reading {
    next: Option<Read>,
    position: u64,
    end: u64,
    path: PathBuf,
    _reader: Reader,
}

fn rest(reading: Reading) -> BlobStream {
    stream::try_unfold(reading, |mut reading| async move {
        let Some(next) = reading.next.take() else {
            return Ok(None);
        };
        let (file, block) = next
            .await
            .map_err(io::Error::other)
            .and_then(|read| read)
            .map_err(at("read", &reading.path))?;
        reading.position += block.len() as u64;
        if reading.position < reading.end {
            reading.next = Some(read_block(file, reading.position, reading.end));
        }
        Ok(Some((block, reading)))
    })
    .boxed()
}

fn read_block(file: File, position: u64, end: u64) -> Read {
    tokio::task::spawn_blocking(move || {
        let block = block(&file, position, end)?;
        Ok((file, block))
    })
}

fn block(file: &File, position: u64, end: u64) -> io::Result<Bytes> {
    let length = (end - position).min(block_bytes()) as usize;
    let mut block = vec![0; length];
    file.read_exact_at(&mut block, position)?;
    Ok(block.into())
}

/// A file that is being written to, for those who read it meanwhile. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Growing {
    file: Arc<File>,
    written: watch::Receiver<u64>,
}

impl Growing {
    pub(super) fn new(file: File, written: watch::Receiver<u64>) -> Self {
        Self {
            file: Arc::new(file),
            written,
        }
    }

    /// How many bytes can be read; it closes when the writing ends.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// Reads at most one block from `position`, not beyond `end`, which must have been written.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(&self, position: u64, end: u64) -> io::Result<Bytes> {
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || block(&file, position, end));
        read.await.map_err(io::Error::other)?
    }
}
