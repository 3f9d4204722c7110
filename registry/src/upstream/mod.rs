//! The pull-through cache: repositories below the name of a configured upstream are fetched from it on a miss.
//!
//! `dockerhub/library/busybox` is `library/busybox` of the upstream called `dockerhub`. Only configured upstreams can
//! be reached. Content is stored as it came; once stored, digests are served without asking again, and tags also
//! while their upstream cannot be asked.

mod fill;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::distribution::{ClientError, Credential, RegistryClient};
use futures::FutureExt;
use oci::{Digest, Manifest, Reference, RepositoryName, Tag};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Pull, RepositoryAccess};
use crate::config::UpstreamConfig;
use crate::content::{Blob, Content, ContentError, StoredManifest};
use crate::db::{Db, DbError, now_ms};
use crate::storage::BlobStore;
use fill::Fills;
pub use fill::Following;

/// How long a cached tag is served without comparing it with its upstream.
const TAG_FRESH_MS: i64 = 60_000;
/// How long an upstream may take to say where a tag stands before the cached answer is served.
const REVALIDATION: Duration = Duration::from_secs(2);

/// Why cached content cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The upstream does not have it.
    #[error("upstream {0} does not have it")]
    NotFound(String),
    /// The upstream cannot be asked, and nothing is cached.
    #[error("upstream {name} cannot be used and nothing is cached: {reason}")]
    Unavailable {
        /// The upstream.
        name: String,
        /// Why.
        reason: String,
    },
    /// What was fetched cannot be stored, or what is stored cannot be read.
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl From<DbError> for UpstreamError {
    fn from(error: DbError) -> Self {
        Self::Content(error.into())
    }
}

#[derive(Debug)]
struct Upstream {
    name: String,
    client: RegistryClient,
}

impl Upstream {
    fn failed(&self, error: &ClientError) -> UpstreamError {
        if error.is_not_found() {
            return UpstreamError::NotFound(self.name.clone());
        }
        let cause = std::error::Error::source(error)
            .map(|s| format!(": {s}"))
            .unwrap_or_default();
        UpstreamError::Unavailable {
            name: self.name.clone(),
            reason: format!("{error}{cause}"),
        }
    }
}

/// A repository of an upstream.
#[derive(Debug)]
pub struct Target {
    upstream: Arc<Upstream>,
    remote: RepositoryName,
}

/// A manifest, and whether its upstream could not be asked.
#[derive(Debug)]
pub struct CachedManifest {
    /// The manifest.
    pub manifest: StoredManifest,
    /// Why the answer may be out of date.
    pub stale: Option<String>,
}

/// A blob of a cached repository.
#[derive(Debug)]
pub enum CachedBlob {
    /// In storage.
    Stored(Blob),
    /// On its way.
    Following(Following),
}

/// All upstreams.
#[derive(Debug)]
pub struct Upstreams {
    by_name: BTreeMap<String, Arc<Upstream>>,
    content: Content,
    db: Db,
    fills: Fills,
}

impl Upstreams {
    /// The upstreams of the configuration.
    pub fn new(
        configured: &BTreeMap<String, UpstreamConfig>,
        http: &client::HttpClient,
        content: Content,
        db: Db,
        blobs: BlobStore,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Self {
        let by_name = configured
            .iter()
            .map(|(name, config)| {
                let credential = match (&config.username, &config.password) {
                    (Some(username), Some(password)) => Credential::Basic {
                        username: username.clone(),
                        password: password.clone(),
                    },
                    _ => Credential::Anonymous,
                };
                let client = RegistryClient::new(http.clone(), config.url.clone(), credential);
                (
                    name.clone(),
                    Arc::new(Upstream {
                        name: name.clone(),
                        client,
                    }),
                )
            })
            .collect();
        let fills = Fills::new(db.clone(), blobs, tasks, stopping);
        Self {
            by_name,
            content,
            db,
            fills,
        }
    }

    /// The upstream repository behind `repository`, if its first component names an upstream.
    pub fn target(&self, repository: &RepositoryName) -> Option<Target> {
        let (name, remote) = repository.as_str().split_once('/')?;
        let upstream = self.by_name.get(name)?.clone();
        Some(Target {
            upstream,
            remote: remote.parse().ok()?,
        })
    }

    /// Whether `repository` belongs to an upstream, even if it names no repository of it.
    pub fn owns(&self, repository: &RepositoryName) -> bool {
        self.by_name.contains_key(repository.namespace())
    }

    /// A manifest: from storage when asked by digest or fresh, else from upstream, else from storage after all.
    ///
    /// # Errors
    /// When upstream does not have it or cannot be asked, and storage does not have it either.
    pub async fn manifest(
        &self,
        access: &RepositoryAccess<Pull>,
        target: &Target,
        reference: &Reference,
    ) -> Result<CachedManifest, UpstreamError> {
        let repository = access.repository();
        let stored = match self.content.manifest(access, reference).await {
            Ok(manifest) => Some(manifest),
            Err(ContentError::ManifestUnknown(_) | ContentError::RepositoryUnknown(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let tag = match (reference, &stored) {
            (Reference::Digest(_), Some(_)) => None,
            (Reference::Digest(_), None) => return self.fetch(repository, target, reference).await,
            (Reference::Tag(tag), _) => Some(tag),
        };
        let Some(stored) = stored else {
            return self.fetch(repository, target, reference).await;
        };
        let fresh = |manifest| {
            Ok(CachedManifest {
                manifest,
                stale: None,
            })
        };
        let Some(tag) = tag else { return fresh(stored) };
        let checked = self.db.upstream_tag_checked(repository, tag).await?.unwrap_or(0);
        if now_ms() - checked < TAG_FRESH_MS {
            return fresh(stored);
        }
        match tokio::time::timeout(REVALIDATION, self.revalidate(repository, target, tag, &stored)).await {
            Ok(Ok(None)) => fresh(stored),
            Ok(Ok(Some(newer))) => fresh(newer),
            Ok(Err(error)) => Ok(CachedManifest {
                manifest: stored,
                stale: Some(error.to_string()),
            }),
            Err(_) => {
                let stale = format!("upstream {} did not answer in time", target.upstream.name);
                Ok(CachedManifest {
                    manifest: stored,
                    stale: Some(stale),
                })
            }
        }
    }

    /// Compares a cached tag with its upstream; the newer manifest, if there is one.
    async fn revalidate(
        &self,
        repository: &RepositoryName,
        target: &Target,
        tag: &Tag,
        stored: &StoredManifest,
    ) -> Result<Option<StoredManifest>, UpstreamError> {
        let reference = Reference::Tag(tag.clone());
        // A HEAD does not count against the pull limit of Docker Hub.
        let head = target
            .upstream
            .client
            .manifest_head(&target.remote, &reference)
            .await;
        match head.map_err(|e| target.upstream.failed(&e))? {
            Some(head) if head.digest == stored.digest => {
                self.db.upstream_tag_touch(repository, tag).await?;
                Ok(None)
            }
            _ => Ok(Some(self.fetch(repository, target, &reference).await?.manifest)),
        }
    }

    async fn fetch(
        &self,
        repository: &RepositoryName,
        target: &Target,
        reference: &Reference,
    ) -> Result<CachedManifest, UpstreamError> {
        let fetched = target.upstream.client.manifest(&target.remote, reference).await;
        let fetched = fetched.map_err(|e| target.upstream.failed(&e))?;
        let manifest = Manifest::parse(&fetched.media_type, &fetched.bytes).map_err(ContentError::from)?;
        let tags = match reference {
            Reference::Tag(tag) => vec![tag.clone()],
            Reference::Digest(_) => Vec::new(),
        };
        let (digest, bytes) = (fetched.digest, fetched.bytes);
        self.content
            .manifest_store(repository, &digest, &manifest, &bytes, &tags)
            .await?;
        for tag in &tags {
            self.db.upstream_tag_touch(repository, tag).await?;
        }
        let manifest = StoredManifest {
            digest,
            media_type: manifest.media_type,
            body: bytes,
        };
        Ok(CachedManifest {
            manifest,
            stale: None,
        })
    }

    /// A blob: from storage, or by joining or starting the one fill of its digest.
    ///
    /// # Errors
    /// When upstream does not have it or cannot be asked, and storage does not have it either.
    pub async fn blob(
        &self,
        access: &RepositoryAccess<Pull>,
        target: &Target,
        digest: &Digest,
    ) -> Result<CachedBlob, UpstreamError> {
        match self.content.blob(access, digest).await {
            Ok(blob) => return Ok(CachedBlob::Stored(blob)),
            Err(ContentError::BlobUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let client = target.upstream.client.clone();
        let remote = target.remote.clone();
        let wanted = digest.clone();
        let start = move |offset| {
            let (client, remote, wanted) = (client.clone(), remote.clone(), wanted.clone());
            async move { client.blob(&remote, &wanted, offset).await }.boxed()
        };
        let following = self.fills.join(access.repository(), digest, start).await;
        following.map(CachedBlob::Following).map_err(|error| match error {
            fill::FillError::Upstream(error) => target.upstream.failed(&error),
            fill::FillError::Content(error) => error.into(),
        })
    }
}
