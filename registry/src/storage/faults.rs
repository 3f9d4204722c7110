//! An object store that fails, stalls or loses answers at a chosen operation, for tests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation is refused and has no effect.
    Refused,
    /// It takes effect, but its answer is lost.
    AnswerLost,
    /// What is read ends before its end.
    Short,
    /// It never ends.
    Stalled,
}

/// A store in memory with one fault.
#[derive(Debug)]
pub struct Faulty {
    store: InMemory,
    fault: Fault,
    /// Operations until the fault; it happens once.
    countdown: AtomicUsize,
}

impl Faulty {
    /// A store whose operation number `nth`, from 1, goes wrong.
    pub fn new(fault: Fault, nth: usize) -> Arc<Self> {
        Arc::new(Self {
            store: InMemory::new(),
            fault,
            countdown: AtomicUsize::new(nth),
        })
    }

    /// Whether the fault has happened.
    pub fn has_happened(&self) -> bool {
        self.countdown.load(Ordering::SeqCst) == 0
    }

    /// All that is stored, without faults.
    pub fn inner(&self) -> &InMemory {
        &self.store
    }

    fn is_due(&self) -> bool {
        let count = |left: usize| left.checked_sub(1);
        self.countdown
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, count)
            == Ok(1)
    }

    async fn run<T>(&self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        if !self.is_due() {
            return operation.await;
        }
        match self.fault {
            Fault::Refused => Err(broken()),
            Fault::AnswerLost => {
                operation.await?;
                Err(broken())
            }
            Fault::Short => operation.await,
            Fault::Stalled => std::future::pending().await,
        }
    }
}

fn broken() -> Error {
    Error::Generic {
        store: "faulty",
        source: "broken on purpose".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in memory", self.fault)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.run(self.store.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.run(self.store.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let is_short = self.fault == Fault::Short && self.countdown.load(Ordering::SeqCst) == 1;
        let mut found = self.run(self.store.get_opts(path, options)).await?;
        if is_short && let GetResultPayload::Stream(bytes) = found.payload {
            let half = (found.range.end - found.range.start) as usize / 2;
            let cut = bytes.map(move |block| block.map(|b: Bytes| b.slice(..half.min(b.len()))));
            found.payload = GetResultPayload::Stream(cut.boxed());
        }
        Ok(found)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.run(self.store.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.is_due() {
            return futures::stream::iter([Err(broken())]).boxed();
        }
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.run(self.store.copy_opts(from, to, options)).await
    }
}

#[async_trait::async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.run(self.store.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        self.run(self.store.put_part(path, id, index, data)).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        self.run(self.store.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.run(self.store.abort_multipart(path, id)).await
    }
}
