//! A storage in memory, and somebody who has a say in what becomes of its requests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A request that somebody has a say in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Put,
    Get,
}

/// Who has a say.
#[async_trait]
pub trait Meddles: Send + Sync + 'static {
    /// Before a request is executed: an error is its answer, and it is not.
    async fn before(&self, request: Request, path: &Path) -> Result<()>;

    /// After that: an error is its answer, though it was executed.
    async fn after(&self, request: Request, path: &Path) -> Result<()>;
}

/// The storage.
pub struct Through<M> {
    pub inner: Arc<InMemory>,
    pub meddler: M,
}

impl<M> fmt::Debug for Through<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a storage in memory")
    }
}

impl<M> fmt::Display for Through<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a storage in memory")
    }
}

#[async_trait]
impl<M: Meddles> ObjectStore for Through<M> {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.meddler.before(Request::Put, path).await?;
        let put = self.inner.put_opts(path, payload, options).await;
        self.meddler.after(Request::Put, path).await?;
        put
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.meddler.before(Request::Get, path).await?;
        let got = self.inner.get_opts(path, options).await;
        self.meddler.after(Request::Get, path).await?;
        got
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
