//! Manifests, what they reference, and what refers to them.

use std::collections::HashSet;

use oci::{Digest, Reference, RepositoryName, Tag, media_type};

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
    /// Digests that it is made of, whether this repository holds them or not.
    pub children: &'a [Digest],
    /// Tags to move to it.
    pub tags: &'a [Tag],
    /// What must hold of a reference for anything to be stored.
    pub condition: Option<(&'a Reference, &'a Condition)>,
}

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// Any manifest.
    Anything,
    /// One of these.
    OneOf(Vec<Digest>),
}

impl Named {
    /// As one text, so that one statement decides: digests hold no character with a meaning to `LIKE`, are of one
    /// length for each algorithm, and therefore are found in it only where they stand as a whole.
    fn text(&self) -> String {
        match self {
            Self::Anything => "*".to_owned(),
            Self::OneOf(digests) => {
                let digests: Vec<&str> = digests.iter().map(Digest::as_str).collect();
                digests.join(" ")
            }
        }
    }
}

/// What a reference must name, and must not, for a change to happen (RFC 9110, `If-Match` and `If-None-Match`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// It must name this.
    pub is: Option<Named>,
    /// It must not name this.
    pub is_not: Option<Named>,
}

impl Condition {
    /// Whether it asks nothing.
    pub fn is_empty(&self) -> bool {
        self.is.is_none() && self.is_not.is_none()
    }

    pub(super) fn wanted(&self) -> String {
        self.is.as_ref().map_or_else(|| "*".to_owned(), Named::text)
    }

    pub(super) fn unwanted(&self) -> String {
        self.is_not.as_ref().map_or_else(String::new, Named::text)
    }

    /// Whether a reference that names `digest`, or nothing, fulfils it.
    pub fn holds(&self, named: Option<&Digest>) -> bool {
        let is = |wanted: &Named| match (wanted, named) {
            (_, None) => false,
            (Named::Anything, Some(_)) => true,
            (Named::OneOf(digests), Some(digest)) => digests.contains(digest),
        };
        self.is.as_ref().is_none_or(is) && !self.is_not.as_ref().is_some_and(is)
    }
}

/// Which referrers are wanted.
#[derive(Clone, Copy, Debug)]
pub struct ReferrerQuery<'a> {
    /// What they are about.
    pub subject: &'a Digest,
    /// The tag that lists them where a client kept the list (distribution-spec, Referrers Tag Schema).
    pub fallback: &'a Tag,
    /// Their artifact type; any where `None`.
    pub artifact_type: Option<&'a str>,
    /// Only those after this digest.
    pub after: &'a str,
    /// At most so many.
    pub limit: i64,
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

    /// Which of `digests` the repository holds, as blobs or as manifests.
    pub async fn children_held(
        &self,
        repository: &RepositoryName,
        digests: &[Digest],
    ) -> Result<HashSet<String>, DbError> {
        let mut held = HashSet::new();
        for chunk in digests.chunks(ROWS_MAX) {
            let list = placeholders(2, chunk.len());
            let sql = format!(
                "SELECT digest FROM repository_blob WHERE repository = $1 AND digest IN ({list})
                UNION ALL SELECT digest FROM manifest WHERE repository = $1 AND digest IN ({list})"
            );
            let rows: Vec<(String,)> = read!(self, |pool| {
                // Numbers alone were put into it.
                let mut query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(repository.as_str());
                for digest in chunk {
                    query = query.bind(digest.as_str());
                }
                query.fetch_all(pool).await?
            });
            held.extend(rows.into_iter().map(|(digest,)| digest));
        }
        Ok(held)
    }

    /// Stores a manifest with its references and moves tags to it, in one transaction. Storing it again changes
    /// nothing but the tags. `false`, and nothing is stored, when the condition does not hold.
    pub async fn manifest_put(
        &self,
        repository: &RepositoryName,
        new: &NewManifest<'_>,
    ) -> Result<bool, DbError> {
        const MANIFEST: &str = "INSERT INTO manifest
            (repository, digest, media_type, body, subject, artifact_type, annotations, created_at_ms)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (repository, digest) DO NOTHING";
        const TAG: &str = "INSERT INTO tag (repository, name, digest, updated_at_ms) VALUES ($1, $2, $3, $4)
            ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest, updated_at_ms = excluded.updated_at_ms
            WHERE $5 <> '*' AND $5 NOT LIKE '%' || tag.digest || '%'";
        const TAG_THAT_IS: &str = "UPDATE tag SET digest = $3, updated_at_ms = $4 WHERE repository = $1 AND name = $2
            AND ($6 = '*' OR $6 LIKE '%' || digest || '%') AND $5 <> '*' AND $5 NOT LIKE '%' || digest || '%'";
        let always = Condition::default();
        let now = now_ms();
        write!(self, |tx| {
            sqlx::query(REPOSITORY_ENSURE)
                .bind(repository.as_str())
                .bind(now)
                .execute(&mut *tx)
                .await?;
            let made = sqlx::query(MANIFEST)
                .bind(repository.as_str())
                .bind(new.digest.as_str())
                .bind(new.media_type)
                .bind(new.body)
                .bind(new.subject.map(Digest::as_str))
                .bind(new.artifact_type)
                .bind(new.annotations)
                .bind(now)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if let Some((Reference::Digest(_), condition)) = new.condition
                && !condition.holds((made == 0).then_some(new.digest))
            {
                // Returning without a commit undoes all of it.
                return Ok(false);
            }
            for children in new.children.chunks(ROWS_MAX) {
                let rows: Vec<String> = (3..3 + children.len())
                    .map(|n| format!("($1, $2, ${n})"))
                    .collect();
                let sql = format!(
                    "INSERT INTO manifest_reference (repository, parent, child) VALUES {}
                    ON CONFLICT (repository, parent, child) DO NOTHING",
                    rows.join(", ")
                );
                let mut query = sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(repository.as_str())
                    .bind(new.digest.as_str());
                for child in children {
                    query = query.bind(child.as_str());
                }
                query.execute(&mut *tx).await?;
            }
            for tag in new.tags {
                let condition = match new.condition {
                    Some((Reference::Tag(conditional), condition)) if conditional == tag => condition,
                    _ => &always,
                };
                let query = sqlx::query(if condition.is.is_some() { TAG_THAT_IS } else { TAG })
                    .bind(repository.as_str())
                    .bind(tag.as_str())
                    .bind(new.digest.as_str())
                    .bind(now)
                    .bind(condition.unwanted());
                let query = match &condition.is {
                    Some(wanted) => query.bind(wanted.text()),
                    None => query,
                };
                if query.execute(&mut *tx).await?.rows_affected() == 0 {
                    return Ok(false);
                }
            }
        });
        Ok(true)
    }

    /// Deletes a manifest with its tags; `false` when there was none.
    pub async fn manifest_delete(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, DbError> {
        // Sorted, so that two that delete manifests with the same children do not wait for each other.
        const REVIEW_CHILDREN: &str = "INSERT INTO gc_review (digest, review_after_ms)
            SELECT child, $3 FROM manifest_reference WHERE repository = $1 AND parent = $2 ORDER BY child
            ON CONFLICT (digest) DO UPDATE SET review_after_ms = excluded.review_after_ms";
        const SQL: &str = "DELETE FROM manifest WHERE repository = $1 AND digest = $2";
        let done = write!(self, |tx| {
            sqlx::query(REVIEW_CHILDREN)
                .bind(repository.as_str())
                .bind(digest.as_str())
                .bind(self.review_after_ms(now_ms()))
                .execute(&mut *tx)
                .await?;
            sqlx::query(SQL)
                .bind(repository.as_str())
                .bind(digest.as_str())
                .execute(&mut *tx)
                .await?
                .rows_affected()
        });
        Ok(done > 0)
    }

    /// Manifests about a subject, in the order of their digests: those that say so, and those without a subject
    /// that the fallback tag's index lists.
    ///
    /// Annotations may be as large as a manifest; the page ends before they exceed `bytes_max` together, but holds
    /// at least one entry. The second value says whether there are more.
    pub async fn manifest_referrers(
        &self,
        repository: &RepositoryName,
        query: ReferrerQuery<'_>,
        bytes_max: i64,
    ) -> Result<(Vec<ReferrerRow>, bool), DbError> {
        const FOUND: &str = "WITH found AS (
            SELECT digest, media_type, CAST(LENGTH(body) AS BIGINT) AS size_bytes, artifact_type, annotations
            FROM manifest WHERE repository = $1 AND subject = $2 AND digest > $4
            UNION
            SELECT m.digest, m.media_type, CAST(LENGTH(m.body) AS BIGINT), m.artifact_type, m.annotations
            FROM tag t
            JOIN manifest list ON list.repository = t.repository AND list.digest = t.digest
            JOIN manifest_reference r ON r.repository = t.repository AND r.parent = t.digest
            JOIN manifest m ON m.repository = r.repository AND m.digest = r.child
            WHERE t.repository = $1 AND t.name = $3 AND list.media_type = $6 AND m.subject IS NULL
                AND m.digest > $4)";
        const WHERE: &str = "WHERE $5 = '' OR artifact_type = $5 ORDER BY digest LIMIT $7";
        let sizes_sql =
            format!("{FOUND} SELECT digest, CAST(LENGTH(annotations) AS BIGINT) FROM found {WHERE}");
        let rows_sql = format!("{FOUND} SELECT * FROM found {WHERE}");
        let sizes: Vec<(String, i64)> = self
            .referrer_query(repository, query, query.limit + 1, sizes_sql)
            .await?;
        let mut total = 0;
        let fitting = sizes
            .iter()
            .take(usize::try_from(query.limit).unwrap_or(0))
            .take_while(|(_, bytes)| {
                let is_first = total == 0;
                // The rest of a descriptor is some hundred bytes.
                total += bytes + 400;
                is_first || total <= bytes_max
            })
            .count();
        let limit = i64::try_from(fitting).unwrap_or(i64::MAX);
        let rows = self.referrer_query(repository, query, limit, rows_sql).await?;
        Ok((rows, fitting < sizes.len()))
    }

    async fn referrer_query<R>(
        &self,
        repository: &RepositoryName,
        query: ReferrerQuery<'_>,
        limit: i64,
        sql: String,
    ) -> Result<Vec<R>, DbError>
    where
        R: for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow>
            + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>
            + Send
            + Unpin,
    {
        // Made of constants alone.
        let sql = sqlx::AssertSqlSafe(sql);
        Ok(read!(self, |pool| sqlx::query_as(sql)
            .bind(repository.as_str())
            .bind(query.subject.as_str())
            .bind(query.fallback.as_str())
            .bind(query.after)
            .bind(query.artifact_type.unwrap_or_default())
            .bind(media_type::OCI_INDEX)
            .bind(limit)
            .fetch_all(pool)
            .await?))
    }
}

/// The most values of one statement; SQLite takes 32,766 and PostgreSQL 65,535.
const ROWS_MAX: usize = 500;

/// `$first, …` for `count` values.
pub(super) fn placeholders(first: usize, count: usize) -> String {
    let numbers: Vec<String> = (first..first + count).map(|n| format!("${n}")).collect();
    numbers.join(", ")
}
