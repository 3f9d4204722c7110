//! Manifests, tags, referrers (distribution-spec, Pushing manifests; Content discovery; Listing referrers).

use bytes::Bytes;
use oci::{Descriptor, Digest, Manifest, Reference, RepositoryName, Tag, media_type};

use super::{Content, ContentError};
use crate::app::TagMoved;
use crate::auth::{Delete, Pull, Push, RepositoryAccess};
use crate::db::{DbError, ManifestRow, NewManifest};

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
    fn cut(mut entries: Vec<T>, limit: usize) -> Self {
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

    /// Stores a manifest byte for byte and moves tags to it; returns its digest and what it is about.
    ///
    /// # Errors
    /// [`ContentError::ManifestInvalid`], [`ContentError::DigestMismatch`] against a digest in the path, or
    /// [`ContentError::ManifestBlobUnknown`] for children that the repository does not hold. A subject need not
    /// exist, nor layers that are to be had elsewhere.
    pub async fn manifest_push(
        &self,
        access: &RepositoryAccess<Push>,
        new: NewTag<'_>,
        content_type: &str,
        body: &[u8],
    ) -> Result<(Digest, Option<Digest>), ContentError> {
        let repository = access.repository();
        let mut tags = new.tags;
        let digest = match new.reference {
            Reference::Tag(tag) => {
                tags.push(tag.clone());
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
        let children = self.require_children(repository, &manifest).await?;
        self.manifest_store(repository, &digest, &manifest, body, &children, &tags)
            .await?;
        Ok((digest, manifest.subject.map(|s| s.digest)))
    }

    /// Stores a manifest whose children are known to be held or obtainable.
    pub(crate) async fn manifest_store(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        body: &[u8],
        children: &[Digest],
        tags: &[Tag],
    ) -> Result<(), ContentError> {
        // A map of texts is always JSON.
        let annotations = serde_json::to_string(&manifest.annotations).unwrap_or_else(|_| "{}".to_owned());
        let row = NewManifest {
            digest,
            media_type: &manifest.media_type,
            body,
            subject: manifest.subject.as_ref().map(|s| &s.digest),
            artifact_type: manifest.artifact_type.as_deref(),
            annotations: &annotations,
            children,
            tags,
        };
        self.db.manifest_put(repository, &row).await?;
        for tag in tags {
            let moved = TagMoved {
                repository: repository.clone(),
                tag: tag.clone(),
                digest: digest.clone(),
            };
            // Nobody need listen.
            let _ = self.events.send(moved);
        }
        Ok(())
    }

    /// The children that must be held, after checking that they are. An entry of an index may be a manifest or a
    /// blob: BuildKit pushes caches as an index of layers.
    async fn require_children(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
    ) -> Result<Vec<Digest>, ContentError> {
        let is_elsewhere =
            |d: &&Descriptor| media_type::is_foreign_layer(&d.media_type) && !d.urls.is_empty();
        let mut held = Vec::new();
        let mut missing = Vec::new();
        for child in manifest.children().filter(|d| !is_elsewhere(d)) {
            let is_held = self.db.blob_linked(repository, &child.digest).await?.is_some()
                || self.db.manifest_exists(repository, &child.digest).await?;
            let list = if is_held { &mut held } else { &mut missing };
            list.push(child.digest.clone());
        }
        if missing.is_empty() {
            Ok(held)
        } else {
            Err(ContentError::ManifestBlobUnknown(missing))
        }
    }

    /// Deletes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// [`ContentError::ManifestUnknown`] when there is none.
    pub async fn manifest_delete(
        &self,
        access: &RepositoryAccess<Delete>,
        reference: &Reference,
    ) -> Result<(), ContentError> {
        let done = match reference {
            Reference::Tag(tag) => self.db.tag_delete(access.repository(), tag).await?,
            Reference::Digest(digest) => self.db.manifest_delete(access.repository(), digest).await?,
        };
        if done {
            Ok(())
        } else {
            Err(ContentError::ManifestUnknown(reference.to_string()))
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

    /// Descriptors of the manifests about `subject`, those of `artifact_type` if given. An unknown subject has
    /// none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn referrers(
        &self,
        access: &RepositoryAccess<Pull>,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, ContentError> {
        let rows = self.db.manifest_referrers(access.repository(), subject).await?;
        let wanted = rows
            .into_iter()
            .filter(|r| artifact_type.is_none() || r.artifact_type.as_deref() == artifact_type);
        wanted
            .map(|row| {
                let digest = DbError::parse("digest", &row.digest)?;
                let mut descriptor = Descriptor::new(row.media_type, digest, row.size_bytes.unsigned_abs());
                descriptor.artifact_type = row.artifact_type;
                descriptor.annotations = serde_json::from_str(&row.annotations).unwrap_or_default();
                Ok(descriptor)
            })
            .collect()
    }
}
