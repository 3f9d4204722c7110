//! Pulling: manifests and blobs (distribution-spec, Pulling).

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use oci::manifest::MANIFEST_MAX_BYTES;
use oci::{Digest, Reference, RepositoryName, media_type};
use reqwest::{Method, Response};

use super::{ClientError, RegistryClient, SILENCE};

/// A manifest as it came, verified against its digest.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// Its exact bytes.
    pub bytes: Bytes,
    /// The Content-Type that it came with.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
}

/// What a HEAD tells of a manifest.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    /// Its digest.
    pub digest: Digest,
}

/// The bytes of a blob, not yet verified.
pub struct BlobBody {
    /// Size of the whole blob in bytes.
    pub size_bytes: u64,
    /// The bytes from the offset asked for.
    pub bytes: BoxStream<'static, Result<Bytes, ClientError>>,
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody")
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

fn text<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

impl RegistryClient {
    /// A manifest of any kind.
    ///
    /// # Errors
    /// As the registry answers; [`ClientError::Digest`] when it is not what was asked for.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<FetchedManifest, ClientError> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let accept = media_type::MANIFEST_ACCEPT.join(", ");
        let response = self
            .send(Method::GET, url, repository, "pull", |r| {
                r.header(ACCEPT, &accept)
            })
            .await?;
        let response = self.succeed(response).await?;
        let content_type = text(&response, CONTENT_TYPE.as_str())
            .unwrap_or_default()
            .to_owned();
        let told = text(&response, "docker-content-digest").and_then(|d| d.parse::<Digest>().ok());
        let mut bytes = Vec::new();
        let mut body = self.pieces(response);
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() > MANIFEST_MAX_BYTES {
                return Err(self.protocol(format!(
                    "manifest {reference} is larger than {MANIFEST_MAX_BYTES} bytes"
                )));
            }
        }
        let expected = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => told,
        };
        let digest = match expected {
            Some(expected) => {
                let actual = Digest::of(expected.algorithm(), &bytes);
                if actual != expected {
                    return Err(ClientError::Digest {
                        host: self.host(),
                        expected,
                        actual,
                    });
                }
                actual
            }
            None => Digest::sha256(&bytes),
        };
        Ok(FetchedManifest {
            bytes: bytes.into(),
            media_type: content_type,
            digest,
        })
    }

    /// The digest of a manifest without its bytes; `None` when there is none, or the registry does not tell.
    ///
    /// # Errors
    /// As the registry answers, but for 404.
    pub async fn manifest_head(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<ManifestHead>, ClientError> {
        let url = self.url(repository, &format!("manifests/{reference}"));
        let accept = media_type::MANIFEST_ACCEPT.join(", ");
        let response = self
            .send(Method::HEAD, url, repository, "pull", |r| {
                r.header(ACCEPT, &accept)
            })
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.succeed(response).await?;
        let digest = text(&response, "docker-content-digest").and_then(|d| d.parse().ok());
        Ok(digest.map(|digest| ManifestHead { digest }))
    }

    /// The size of a blob; `None` when the repository has none of that digest.
    ///
    /// # Errors
    /// As the registry answers, but for 404.
    pub async fn blob_head(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, ClientError> {
        let url = self.url(repository, &format!("blobs/{digest}"));
        let response = self.send(Method::HEAD, url, repository, "pull", |r| r).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.succeed(response).await?;
        let size = text(&response, CONTENT_LENGTH.as_str()).and_then(|l| l.parse().ok());
        size.map(Some)
            .ok_or_else(|| self.protocol(format!("blob {digest} without Content-Length")))
    }

    /// The bytes of a blob from `offset` on. The caller verifies the digest.
    ///
    /// # Errors
    /// As the registry answers; [`ClientError::Protocol`] when it cannot start at `offset`.
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        offset: u64,
    ) -> Result<BlobBody, ClientError> {
        let url = self.url(repository, &format!("blobs/{digest}"));
        let response = self
            .send(Method::GET, url, repository, "pull", |r| match offset {
                0 => r,
                offset => r.header(RANGE, format!("bytes={offset}-")),
            })
            .await?;
        let response = self.succeed(response).await?;
        if offset > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.protocol(format!("blob {digest} cannot be read from byte {offset}")));
        }
        let length = response.content_length();
        let length = length.ok_or_else(|| self.protocol(format!("blob {digest} without Content-Length")))?;
        let bytes = self.pieces(response);
        Ok(BlobBody {
            size_bytes: offset + length,
            bytes,
        })
    }

    /// The pieces of a body; one that does not go on ends with an error.
    fn pieces(&self, response: Response) -> BoxStream<'static, Result<Bytes, ClientError>> {
        let host = self.host();
        let pieces = response.bytes_stream().boxed();
        stream::unfold(Some(pieces), move |pieces| {
            let host = host.clone();
            async move {
                let mut pieces = pieces?;
                match tokio::time::timeout(SILENCE, pieces.next()).await {
                    Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
                    Ok(Some(Err(source))) => Some((Err(ClientError::Transport { host, source }), None)),
                    Ok(None) => None,
                    Err(_) => Some((Err(ClientError::Silent { host }), None)),
                }
            }
        })
        .boxed()
    }
}
