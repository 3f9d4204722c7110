//! Manifests and tags (distribution-spec, Pushing manifests; Listing tags; Content management).

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use oci::{Descriptor, Digest, Manifest, Reference, RepositoryName, RepositoryPattern, Tag, media_type};

use super::{Content, ContentError};
use crate::app::TagMoved;
use crate::auth::{Delete, Pull, Push, RepositoryAccess};
use crate::db::{Condition, DbError, ManifestRow, NewManifest};

/// A manifest as stored.
#[derive(Debug)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its exact bytes.
    pub body: Bytes,
}

/// What a manifest is pushed as.
#[derive(Debug)]
pub struct NewTag<'a> {
    /// What the path says.
    pub reference: &'a Reference,
    /// Further tags, from the query.
    pub tags: Vec<Tag>,
    /// What must hold of the reference for the push to happen.
    pub condition: Condition,
}

/// A manifest that was pushed.
#[derive(Debug)]
pub struct Pushed {
    /// Its digest.
    pub digest: Digest,
    /// What it is about.
    pub subject: Option<Digest>,
    /// How much of what it names the repository does not hold, where that is accepted.
    pub missing: usize,
}

/// Where manifests may name content that the repository does not hold.
#[derive(Clone, Debug)]
pub struct SparsePolicy(Arc<[RepositoryPattern]>);

impl SparsePolicy {
    /// In repositories that fit one of `patterns`; what is set for one repository wins.
    pub fn new(patterns: Vec<RepositoryPattern>) -> Self {
        Self(patterns.into())
    }

    fn accepts(&self, repository: &RepositoryName) -> bool {
        self.0.iter().any(|pattern| pattern.matches(repository))
    }
}

/// A page of a listing.
#[derive(Debug)]
pub struct Page<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Whether there are more behind the last one.
    pub has_more: bool,
}

impl<T> Page<T> {
    /// From one entry more than asked for, if there are so many.
    pub(super) fn cut(mut entries: Vec<T>, limit: usize) -> Self {
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Self { entries, has_more }
    }
}

impl TryFrom<ManifestRow> for StoredManifest {
    type Error = DbError;

    fn try_from(row: ManifestRow) -> Result<Self, DbError> {
        Ok(Self {
            digest: DbError::parse("digest", &row.digest)?,
            media_type: row.media_type,
            body: row.body.into(),
        })
    }
}

impl Content {
    /// The manifest that `reference` names.
    ///
    /// # Errors
    /// [`ContentError::ManifestUnknown`], or [`ContentError::RepositoryUnknown`] when there is no such repository.
    pub async fn manifest(
        &self,
        access: &RepositoryAccess<Pull>,
        reference: &Reference,
    ) -> Result<StoredManifest, ContentError> {
        let repository = access.repository();
        let row = match reference {
            Reference::Tag(tag) => self.db.manifest_by_tag(repository, tag).await?,
            Reference::Digest(digest) => self.db.manifest_by_digest(repository, digest).await?,
        };
        match row {
            Some(row) => Ok(row.try_into()?),
            None => {
                self.require_repository(repository).await?;
                Err(ContentError::ManifestUnknown(reference.to_string()))
            }
        }
    }

    /// Stores a manifest byte for byte and moves tags to it.
    ///
    /// # Errors
    /// [`ContentError::ManifestInvalid`], [`ContentError::DigestMismatch`] against a digest in the path,
    /// [`ContentError::ConditionFailed`] when the reference does not name what it must, or
    /// [`ContentError::ManifestBlobUnknown`] for children that the repository does not hold. A subject need not
    /// exist, nor layers that are to be had elsewhere.
    pub async fn manifest_push(
        &self,
        access: &RepositoryAccess<Push>,
        new: NewTag<'_>,
        content_type: &str,
        body: &[u8],
    ) -> Result<Pushed, ContentError> {
        let repository = access.repository();
        let mut tags = new.tags;
        let digest = match new.reference {
            Reference::Tag(tag) => {
                // First, so that nothing is done for the others when its condition does not hold.
                tags.retain(|other| other != tag);
                tags.insert(0, tag.clone());
                Digest::sha256(body)
            }
            Reference::Digest(expected) => {
                let actual = Digest::of(expected.algorithm(), body);
                if actual != *expected {
                    return Err(ContentError::DigestMismatch {
                        expected: expected.clone(),
                        actual,
                    });
                }
                actual
            }
        };
        let manifest = Manifest::parse(content_type, body)?;
        let missing = self.require_children(repository, &manifest).await?;
        let condition = (!new.condition.is_empty()).then_some((new.reference, &new.condition));
        let is_stored = self
            .manifest_write(repository, &digest, &manifest, body, &tags, condition)
            .await?;
        if !is_stored {
            return Err(self.condition_failed(repository, new.reference).await?);
        }
        Ok(Pushed {
            digest,
            subject: manifest.subject.map(|s| s.digest),
            missing,
        })
    }

    async fn condition_failed(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<ContentError, ContentError> {
        let named = match reference {
            Reference::Tag(tag) => self.db.tag_get(repository, tag).await?,
            Reference::Digest(digest) => self
                .db
                .manifest_exists(repository, digest)
                .await?
                .then(|| digest.to_string()),
        };
        Ok(ContentError::ConditionFailed {
            reference: reference.clone(),
            named: named.map(|d| DbError::parse("digest", &d)).transpose()?,
        })
    }

    /// Stores a manifest whose children are known to be held or obtainable.
    pub(crate) async fn manifest_store(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        body: &[u8],
        tags: &[Tag],
    ) -> Result<(), ContentError> {
        self.manifest_write(repository, digest, manifest, body, tags, None)
            .await?;
        Ok(())
    }

    async fn manifest_write(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        body: &[u8],
        tags: &[Tag],
        condition: Option<(&Reference, &Condition)>,
    ) -> Result<bool, ContentError> {
        let children = distinct(manifest.children());
        // A map of texts is always JSON.
        let annotations = serde_json::to_string(&manifest.annotations).unwrap_or_else(|_| "{}".to_owned());
        let row = NewManifest {
            digest,
            media_type: &manifest.media_type,
            body,
            subject: manifest.subject.as_ref().map(|s| &s.digest),
            artifact_type: manifest.artifact_type.as_deref(),
            annotations: &annotations,
            children: &children,
            tags,
            condition,
        };
        if !self.db.manifest_put(repository, &row).await? {
            return Ok(false);
        }
        for tag in tags {
            let moved = TagMoved {
                repository: repository.clone(),
                tag: tag.clone(),
                digest: digest.clone(),
            };
            // Nobody need listen.
            let _ = self.events.send(moved);
        }
        Ok(true)
    }

    /// How many children are missing, which is an error unless the repository accepts it. An entry of an index may be
    /// a manifest or a blob: BuildKit pushes caches as an index of layers. Kinds that we do not know may mean anything
    /// by the same fields, so nothing is demanded of them.
    async fn require_children(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
    ) -> Result<usize, ContentError> {
        let is_elsewhere =
            |d: &&Descriptor| media_type::is_foreign_layer(&d.media_type) && !d.urls.is_empty();
        let mut missing = distinct(manifest.children().filter(|d| !is_elsewhere(d)));
        // Before the look at them, so that none is collected between that and the manifest's row.
        self.db.review_postpone(&missing).await?;
        let held = self.db.children_held(repository, &missing).await?;
        missing.retain(|digest| !held.contains(digest.as_str()));
        if missing.is_empty() || !manifest.is_known_kind() || self.accepts_sparse(repository).await? {
            Ok(missing.len())
        } else {
            Err(ContentError::ManifestBlobUnknown(missing))
        }
    }

    async fn accepts_sparse(&self, repository: &RepositoryName) -> Result<bool, ContentError> {
        let setting = self.db.repository_setting_get(repository).await?;
        Ok(setting
            .accepts_sparse
            .unwrap_or_else(|| self.sparse.accepts(repository)))
    }

    /// Deletes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// [`ContentError::ManifestUnknown`] when there is none, [`ContentError::RepositoryUnknown`] when there is no such
    /// repository, [`ContentError::ConditionFailed`] when there is one and it is not what it must be.
    pub async fn manifest_delete(
        &self,
        access: &RepositoryAccess<Delete>,
        reference: &Reference,
        condition: &Condition,
    ) -> Result<(), ContentError> {
        let repository = access.repository();
        let done = match reference {
            Reference::Tag(tag) => self.db.tag_delete(repository, tag, condition).await?,
            // What a digest names cannot change, so it can be judged before.
            Reference::Digest(digest) => {
                condition.holds(Some(digest)) && self.db.manifest_delete(repository, digest).await?
            }
        };
        if done {
            return Ok(());
        }
        match self.condition_failed(repository, reference).await? {
            ContentError::ConditionFailed { named: None, .. } => {
                self.require_repository(repository).await?;
                Err(ContentError::ManifestUnknown(reference.to_string()))
            }
            failed => Err(failed),
        }
    }

    /// Tags after `last`, in bytewise order.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`] when there is no such repository.
    pub async fn tags(
        &self,
        access: &RepositoryAccess<Pull>,
        last: &str,
        limit: usize,
    ) -> Result<Page<String>, ContentError> {
        self.require_repository(access.repository()).await?;
        let rows = self
            .db
            .tag_list(access.repository(), last, limit as i64 + 1)
            .await?;
        Ok(Page::cut(rows.into_iter().map(|row| row.name).collect(), limit))
    }

    /// Repositories after `last`, in bytewise order; the caller filters what may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn repositories(&self, last: &str, limit: usize) -> Result<Page<RepositoryName>, ContentError> {
        Ok(Page::cut(
            self.db.repository_list(last, limit as i64 + 1).await?,
            limit,
        ))
    }
}

/// Each digest once, in the order of their first mention.
fn distinct<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Vec<Digest> {
    let mut seen = HashSet::new();
    descriptors
        .map(|d| &d.digest)
        .filter(|digest| seen.insert(*digest))
        .cloned()
        .collect()
}
