//! Streams a blob in large blocks, read off the async threads one block ahead of the reader.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::{GetResult, GetResultPayload};
use tokio::task::JoinHandle;

use super::StorageError;

/// The bytes of a blob, block by block. Dropping it stops the reading.
pub type BlobStream = BoxStream<'static, Result<Bytes, StorageError>>;

/// One block: large enough that the hop to a blocking thread does not count, small enough that 64 slow readers
/// with two blocks each stay under 128 MiB.
const BLOCK_BYTES: u64 = 1024 * 1024;

/// Streams `range` of what object_store found.
pub fn stream(found: GetResult, range: Range<u64>) -> BlobStream {
    let key = found.meta.location.to_string();
    match found.payload {
        GetResultPayload::File(file, path) => file_stream(file, path, range),
        GetResultPayload::Stream(bytes) => skip(bytes, range)
            .map_err(move |source| StorageError::Store {
                step: "read",
                key: key.clone(),
                source,
            })
            .boxed(),
    }
}

fn skip(
    bytes: BoxStream<'static, object_store::Result<Bytes>>,
    range: Range<u64>,
) -> BoxStream<'static, object_store::Result<Bytes>> {
    let mut position = 0;
    bytes
        .try_filter_map(move |block| {
            let start = range.start.clamp(position, position + block.len() as u64) - position;
            let end = range.end.clamp(position, position + block.len() as u64) - position;
            position += block.len() as u64;
            let part = block.slice(start as usize..end as usize);
            std::future::ready(Ok((!part.is_empty()).then_some(part)))
        })
        .boxed()
}

type Read = JoinHandle<std::io::Result<(File, Bytes)>>;

struct Reading {
    next: Option<Read>,
    position: u64,
    end: u64,
    path: PathBuf,
}

fn file_stream(file: File, path: PathBuf, range: Range<u64>) -> BlobStream {
    let next = (range.start < range.end).then(|| read_block(file, range.start, range.end));
    let reading = Reading {
        next,
        position: range.start,
        end: range.end,
        path,
    };
    stream::try_unfold(reading, |mut reading| async move {
        let Some(next) = reading.next.take() else {
            return Ok(None);
        };
        let io = |source| StorageError::Io {
            step: "read",
            path: reading.path.clone(),
            source,
        };
        let (file, block) = next
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .map_err(io)?;
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
        let length = (end - position).min(BLOCK_BYTES) as usize;
        let mut block = vec![0; length];
        file.read_exact_at(&mut block, position)?;
        Ok((file, block.into()))
    })
}

/// Reads at most one block of a growing file at `path` from `position`, not beyond `end`.
pub async fn read_growing(file: File, position: u64, end: u64) -> std::io::Result<(File, Bytes)> {
    read_block(file, position, end)
        .await
        .map_err(std::io::Error::other)?
}
