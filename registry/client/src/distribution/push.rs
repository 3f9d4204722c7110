//! Pushing: blobs in one request after the session is opened, then manifests (distribution-spec, Pushing).

use std::path::Path;

use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use oci::{Digest, Reference, RepositoryName};
use reqwest::{Body, Method};
use tokio_util::io::ReaderStream;
use url::Url;

use super::{ClientError, RegistryClient};

/// What is read from a file at a time.
const BLOCK_BYTES: usize = 1024 * 1024;

impl RegistryClient {
    /// Pushes the file at `path`, whose digest and size the caller knows. Returns at once when the repository has it.
    ///
    /// # Errors
    /// When the file cannot be read, or as the registry answers.
    pub async fn blob_push_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        path: &Path,
    ) -> Result<(), ClientError> {
        if self.blob_head(repository, digest).await?.is_some() {
            return Ok(());
        }
        let mut url = self.upload(repository).await?;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let response = self
            .send(Method::PUT, url, repository, "pull,push", |request| {
                // Opened anew for each attempt, since the token flow may send twice. A file that cannot be opened
                // ends the body, and so the request, with its error.
                let body = match std::fs::File::open(path) {
                    Ok(file) => {
                        let file = tokio::fs::File::from_std(file);
                        Body::wrap_stream(ReaderStream::with_capacity(file, BLOCK_BYTES))
                    }
                    Err(error) => Body::wrap_stream(stream::iter([Err::<Bytes, _>(error)])),
                };
                request
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, size_bytes)
                    .body(body)
            })
            .await?;
        self.succeed(response).await.map(drop)
    }

    async fn upload(&self, repository: &RepositoryName) -> Result<Url, ClientError> {
        let url = self.url(repository, "blobs/uploads/");
        let zero = |r: reqwest::RequestBuilder| r.header(CONTENT_LENGTH, 0);
        let response = self
            .send(Method::POST, url, repository, "pull,push", zero)
            .await?;
        let response = self.succeed(response).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.protocol(format!("an upload began with status {}", response.status())));
        }
        let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
        location
            .and_then(|l| self.base.join(l).ok())
            .ok_or_else(|| self.protocol("an upload began without a usable Location"))
    }

    /// Pushes a manifest, byte for byte.
    ///
    /// # Errors
    /// As the registry answers.
    pub async fn manifest_push(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), ClientError> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let response = self
            .send(Method::PUT, url, repository, "pull,push", |r| {
                r.header(CONTENT_TYPE, media_type).body(bytes.to_vec())
            })
            .await?;
        self.succeed(response).await.map(drop)
    }

    /// Deletes a tag, or a manifest with its tags.
    ///
    /// # Errors
    /// As the registry answers.
    pub async fn manifest_delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<(), ClientError> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let response = self
            .send(Method::DELETE, url, repository, "pull,push,delete", |r| r)
            .await?;
        self.succeed(response).await.map(drop)
    }
}
