//! Manifests, what they reference, and what refers to them.

use oci::{Digest, RepositoryName, Tag};

use super::repositories::REPOSITORY_ENSURE;
use super::{Db, DbError, now_ms, read, write};

/// A stored manifest.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ManifestRow {
    /// Digest of `body`.
    pub digest: String,
    /// Media type as pushed, without parameters.
    pub media_type: String,
    /// The exact bytes.
    pub body: Vec<u8>,
}

/// A manifest to store.
#[derive(Clone, Debug)]
pub struct NewManifest<'a> {
    /// Digest of `body`.
    pub digest: &'a Digest,
    /// Media type without parameters.
    pub media_type: &'a str,
    /// The exact bytes.
    pub body: &'a [u8],
    /// What it is about.
    pub subject: Option<&'a Digest>,
    /// Artifact type for the referrers list.
    pub artifact_type: Option<&'a str>,
    /// Annotations as a JSON object.
    pub annotations: &'a str,
    /// Digests that it is made of and that this repository holds.
    pub children: &'a [Digest],
    /// Tags to move to it.
    pub tags: &'a [Tag],
}

/// A manifest that refers to a subject.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ReferrerRow {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size_bytes: i64,
    /// Its artifact type.
    pub artifact_type: Option<String>,
    /// Its annotations as a JSON object.
    pub annotations: String,
}

impl Db {
    /// The manifest that `tag` names.
    pub async fn manifest_by_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<ManifestRow>, DbError> {
        const SQL: &str = "SELECT m.digest, m.media_type, m.body FROM tag t
            JOIN manifest m ON m.repository = t.repository AND m.digest = t.digest
            WHERE t.repository = $1 AND t.name = $2";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(tag.as_str())
            .fetch_optional(pool)
            .await?))
    }

    /// The manifest of `digest`.
    pub async fn manifest_by_digest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<ManifestRow>, DbError> {
        const SQL: &str =
            "SELECT digest, media_type, body FROM manifest WHERE repository = $1 AND digest = $2";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(digest.as_str())
            .fetch_optional(pool)
            .await?))
    }

    /// Whether the repository holds `digest` as a manifest.
    pub async fn manifest_exists(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, DbError> {
        const SQL: &str = "SELECT COUNT(*) FROM manifest WHERE repository = $1 AND digest = $2";
        let (count,): (i64,) = read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(digest.as_str())
            .fetch_one(pool)
            .await?);
        Ok(count > 0)
    }

    /// Stores a manifest with its references and moves tags to it, in one transaction. Storing it again changes
    /// nothing but the tags.
    pub async fn manifest_put(
        &self,
        repository: &RepositoryName,
        new: &NewManifest<'_>,
    ) -> Result<(), DbError> {
        const MANIFEST: &str = "INSERT INTO manifest
            (repository, digest, media_type, body, subject, artifact_type, annotations, created_at_ms)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (repository, digest) DO NOTHING";
        const REFERENCE: &str =
            "INSERT INTO manifest_reference (repository, parent, child) VALUES ($1, $2, $3)
            ON CONFLICT (repository, parent, child) DO NOTHING";
        const TAG: &str = "INSERT INTO tag (repository, name, digest, updated_at_ms) VALUES ($1, $2, $3, $4)
            ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest, updated_at_ms = excluded.updated_at_ms";
        let now = now_ms();
        write!(self, |tx| {
            sqlx::query(REPOSITORY_ENSURE)
                .bind(repository.as_str())
                .bind(now)
                .execute(&mut *tx)
                .await?;
            sqlx::query(MANIFEST)
                .bind(repository.as_str())
                .bind(new.digest.as_str())
                .bind(new.media_type)
                .bind(new.body)
                .bind(new.subject.map(Digest::as_str))
                .bind(new.artifact_type)
                .bind(new.annotations)
                .bind(now)
                .execute(&mut *tx)
                .await?;
            for child in new.children {
                sqlx::query(REFERENCE)
                    .bind(repository.as_str())
                    .bind(new.digest.as_str())
                    .bind(child.as_str())
                    .execute(&mut *tx)
                    .await?;
            }
            for tag in new.tags {
                sqlx::query(TAG)
                    .bind(repository.as_str())
                    .bind(tag.as_str())
                    .bind(new.digest.as_str())
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
            }
        });
        Ok(())
    }

    /// Deletes a manifest with its tags; `false` when there was none.
    pub async fn manifest_delete(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, DbError> {
        const SQL: &str = "DELETE FROM manifest WHERE repository = $1 AND digest = $2";
        let done = write!(self, |tx| sqlx::query(SQL)
            .bind(repository.as_str())
            .bind(digest.as_str())
            .execute(&mut *tx)
            .await?
            .rows_affected());
        Ok(done > 0)
    }

    /// Manifests about `subject`, in the order of their digests.
    pub async fn manifest_referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<ReferrerRow>, DbError> {
        const SQL: &str =
            "SELECT digest, media_type, CAST(LENGTH(body) AS BIGINT) AS size_bytes, artifact_type,
            annotations FROM manifest WHERE repository = $1 AND subject = $2 ORDER BY digest LIMIT 10000";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(subject.as_str())
            .fetch_all(pool)
            .await?))
    }
}
