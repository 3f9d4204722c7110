//! What refers to a manifest (distribution-spec, Listing referrers; Enabling the referrers API).
//!
//! Two sources are one list: manifests that name the subject themselves, and those that a client without this API
//! listed in an index under a tag made from the subject's digest.

use oci::{Descriptor, Digest, Tag};

use super::{Content, ContentError};
use crate::auth::{Pull, RepositoryAccess};
use crate::db::{DbError, ReferrerQuery};

/// Clients refuse lists larger than a manifest, so a page stays well below 4 MiB.
const PAGE_MAX_BYTES: i64 = 2 * 1024 * 1024;

/// A page of referrers, in the order of their digests.
#[derive(Debug)]
pub struct ReferrersPage {
    /// The referrers.
    pub entries: Vec<Descriptor>,
    /// Whether there are more behind the last one.
    pub has_more: bool,
}

impl Content {
    /// Descriptors of the manifests about `subject`, those of `artifact_type` if given, after the digest `last`. An
    /// unknown subject has none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn referrers(
        &self,
        access: &RepositoryAccess<Pull>,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: &str,
        limit: usize,
    ) -> Result<ReferrersPage, ContentError> {
        let fallback = fallback_tag(subject);
        let query = ReferrerQuery {
            subject,
            fallback: &fallback,
            artifact_type,
            after: last,
            limit: i64::try_from(limit).unwrap_or(i64::MAX - 1),
        };
        let (rows, has_more) = self
            .db
            .manifest_referrers(access.repository(), query, PAGE_MAX_BYTES)
            .await?;
        let entries = rows.into_iter().map(|row| {
            let digest = DbError::parse("digest", &row.digest)?;
            let mut descriptor = Descriptor::new(row.media_type, digest, row.size_bytes.unsigned_abs());
            descriptor.artifact_type = row.artifact_type;
            descriptor.annotations = serde_json::from_str(&row.annotations).unwrap_or_default();
            Ok(descriptor)
        });
        Ok(ReferrersPage {
            entries: entries.collect::<Result<_, ContentError>>()?,
            has_more,
        })
    }
}

/// The tag under which clients list referrers themselves (distribution-spec, Referrers Tag Schema).
fn fallback_tag(subject: &Digest) -> Tag {
    let encoded: String = subject.hex().chars().take(64).collect();
    format!("{}-{encoded}", subject.algorithm())
        .parse()
        .expect("letters, digits and a dash, shorter than a tag may be")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_tag_is_cut_as_the_schema_says() {
        let digest = Digest::of(oci::Algorithm::Sha512, b"");
        let tag = fallback_tag(&digest);
        assert_eq!(tag.as_str(), format!("sha512-{}", &digest.hex()[..64]));
    }
}
