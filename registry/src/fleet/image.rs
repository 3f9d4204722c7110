//! From an image reference to the digest that a revision holds, checked against the machines there are.

use std::collections::BTreeSet;

use api::{NodeFacts, ServiceSpec};
use futures::TryStreamExt;
use oci::{Digest, Manifest, ManifestKind, Reference};
use serde::Deserialize;

use super::{Fleet, FleetError, json};
use crate::auth::{Pull, RepositoryAccess};
use crate::content::{Content, ContentError, StoredManifest};
use crate::upstream::{UpstreamError, Upstreams};

/// The largest image configuration that is read for its architecture.
const CONFIG_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// How many tags a message about a missing one lists.
const TAGS_SHOWN: usize = 10;

/// An image reference as resolved.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Architectures that it has images for, in Go's naming; none where it does not say.
    pub architectures: BTreeSet<String>,
    /// Whether its repository is a cache, whose tags move when somebody happens to pull and so deploy nothing.
    pub is_cached: bool,
}

#[derive(Deserialize)]
struct ImageConfig {
    #[serde(default)]
    architecture: String,
}

/// Resolves the image of `spec`, here or through its upstream.
///
/// # Errors
/// [`FleetError::ImageUnknown`] with what there is instead; [`FleetError::SpecInvalid`] without tag and digest;
/// otherwise when storage, an upstream or the database fails.
pub async fn resolve(
    content: &Content,
    upstreams: &Upstreams,
    access: &RepositoryAccess<Pull>,
    spec: &ServiceSpec,
) -> Result<ResolvedImage, FleetError> {
    let reference = match (&spec.digest, &spec.tag) {
        (Some(digest), _) => Reference::Digest(digest.clone()),
        (None, Some(tag)) => Reference::Tag(tag.clone()),
        (None, None) => return Err(FleetError::SpecInvalid(super::spec::mistakes(spec))),
    };
    let target = upstreams.target(access.repository());
    let found = match &target {
        None => content
            .manifest(access, &reference)
            .await
            .map_err(UpstreamError::Content),
        Some(target) => {
            let cached = upstreams.manifest(access, target, &reference).await;
            cached.map(|cached| cached.manifest)
        }
    };
    let manifest = match found {
        Ok(manifest) => manifest,
        Err(UpstreamError::Content(
            error @ (ContentError::ManifestUnknown(_) | ContentError::RepositoryUnknown(_)),
        )) => {
            let known = known(content, access, &error).await?;
            let image = image_name(access, &reference);
            return Err(FleetError::ImageUnknown { image, known });
        }
        Err(UpstreamError::NotFound(name)) => {
            let image = image_name(access, &reference);
            let known = format!("upstream {name} does not have it either");
            return Err(FleetError::ImageUnknown { image, known });
        }
        Err(UpstreamError::Content(error)) => return Err(FleetError::Content(error)),
        Err(error @ UpstreamError::Unavailable { .. }) => return Err(FleetError::Upstream(error)),
    };
    Ok(ResolvedImage {
        architectures: architectures(content, access, &manifest).await?,
        digest: manifest.digest,
        is_cached: target.is_some(),
    })
}

fn image_name(access: &RepositoryAccess<Pull>, reference: &Reference) -> String {
    let repository = access.repository();
    match reference {
        Reference::Tag(tag) => format!("{repository}:{tag}"),
        Reference::Digest(digest) => format!("{repository}@{digest}"),
    }
}

/// What there is instead of a missing image.
async fn known(
    content: &Content,
    access: &RepositoryAccess<Pull>,
    error: &ContentError,
) -> Result<String, FleetError> {
    let repository = access.repository();
    if matches!(error, ContentError::RepositoryUnknown(_)) {
        return Ok(format!(
            "there is no repository {repository}; push the image first"
        ));
    }
    let tags = content
        .tags(access, "", TAGS_SHOWN)
        .await
        .map_err(FleetError::Content)?;
    Ok(match (tags.entries.as_slice(), tags.has_more) {
        ([], _) => format!("{repository} has no tags; push the image first"),
        (tags, false) => format!("{repository} has the tags {}", tags.join(", ")),
        (tags, true) => format!("{repository} has the tags {} and more", tags.join(", ")),
    })
}

/// The architectures of an image. What is not an image as we know it, or not held yet, says nothing.
async fn architectures(
    content: &Content,
    access: &RepositoryAccess<Pull>,
    manifest: &StoredManifest,
) -> Result<BTreeSet<String>, FleetError> {
    let parsed = Manifest::parse(&manifest.media_type, &manifest.body)
        .map_err(|error| FleetError::Content(error.into()))?;
    let config = match parsed.kind {
        ManifestKind::Index { manifests } => {
            let platforms = manifests.into_iter().filter_map(|entry| entry.platform);
            // BuildKit lists attestations as images for "unknown".
            let known = platforms.map(|p| p.architecture).filter(|a| a != "unknown");
            return Ok(known.collect());
        }
        ManifestKind::Image { config, .. } => config,
        ManifestKind::Other => return Ok(BTreeSet::new()),
    };
    let blob = match content.blob(access, &config.digest).await {
        Ok(blob) if blob.size_bytes <= CONFIG_MAX_BYTES => blob,
        Ok(_) | Err(ContentError::BlobUnknown(_)) => return Ok(BTreeSet::new()),
        Err(error) => return Err(FleetError::Content(error)),
    };
    let stream = content
        .blob_read(&blob, 0..blob.size_bytes)
        .await
        .map_err(FleetError::Content)?;
    let chunks: Vec<bytes::Bytes> = stream
        .try_collect()
        .await
        .map_err(|error| FleetError::Content(error.into()))?;
    let config = serde_json::from_slice::<ImageConfig>(&chunks.concat());
    let architecture = config.map(|c| c.architecture).unwrap_or_default();
    Ok(Some(architecture).filter(|a| !a.is_empty()).into_iter().collect())
}

impl Fleet {
    /// Refuses an image that no node there is could run; without nodes, or where either side says nothing, any will
    /// do.
    pub(super) async fn require_platform(
        &self,
        spec: &ServiceSpec,
        image: &ResolvedImage,
    ) -> Result<(), FleetError> {
        let mut wanted = BTreeSet::new();
        for node in self.0.db.node_list().await? {
            let facts: NodeFacts = json("facts", &node.facts)?;
            if facts.architecture.is_empty() {
                return Ok(());
            }
            wanted.insert(facts.architecture);
        }
        let offered = &image.architectures;
        if wanted.is_empty() || offered.is_empty() || !wanted.is_disjoint(offered) {
            return Ok(());
        }
        let reference = match (&spec.digest, &spec.tag) {
            (None, Some(tag)) => format!("{}:{tag}", spec.repository),
            _ => format!("{}@{}", spec.repository, image.digest),
        };
        Err(FleetError::PlatformMissing {
            image: reference,
            offered: offered.iter().cloned().collect(),
            wanted: wanted.into_iter().collect(),
        })
    }
}
