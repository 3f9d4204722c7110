//! From documents to what is to be fetched: which manifest of an index, and whether its image can run here. No I/O.

use std::collections::HashSet;

use oci::manifest::ManifestError;
use oci::media_type::{self, Compression};
use oci::{Descriptor, Digest, Manifest, ManifestKind, Platform};

use super::ImageConfig;

/// The most layers that one overlay mount takes (kernel, `OVL_MAX_STACK`).
const LAYERS_MAX: usize = 500;
/// The largest configuration that is read, in bytes: registries take the same for manifests.
pub(super) const CONFIG_MAX_BYTES: u64 = oci::manifest::MANIFEST_MAX_BYTES as u64;

/// Why an image cannot be run here, whatever the network does.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// A manifest that is malformed or ambiguous.
    #[error("read manifest {digest}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// Why.
        source: ManifestError,
    },
    /// An index without an image for this node.
    #[error("the image is for {}, this node is {node}", has.join(", "))]
    NoPlatform {
        /// Platforms of the index.
        has: Vec<String>,
        /// The node's.
        node: String,
    },
    /// An image for another platform.
    #[error("the image is for {image}, this node is {node}")]
    WrongPlatform {
        /// The image's platform.
        image: String,
        /// The node's.
        node: String,
    },
    /// An index in an index.
    #[error("manifest {digest} is an index inside an index")]
    NestedIndex {
        /// The inner one.
        digest: Digest,
    },
    /// An artifact that is no image.
    #[error("manifest {digest} is no image but {kind:?}")]
    NotAnImage {
        /// The manifest.
        digest: Digest,
        /// Its media type, or its config's.
        kind: String,
    },
    /// Content whose size is not the one in its descriptor.
    #[error("{digest} has {actual} bytes, its descriptor says {expected}")]
    Size {
        /// The content.
        digest: Digest,
        /// From the descriptor.
        expected: u64,
        /// As it came.
        actual: u64,
    },
    /// A configuration that is too large to be read.
    #[error("configuration {digest} has {size_bytes} bytes, at most {CONFIG_MAX_BYTES} are read")]
    ConfigTooLarge {
        /// The configuration.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
    },
    /// A configuration that is not one.
    #[error("read configuration {digest}")]
    Config {
        /// The configuration.
        digest: Digest,
        /// Why.
        source: serde_json::Error,
    },
    /// A layer that the image's author wants to be fetched from elsewhere.
    #[error("layer {digest} is a foreign layer, to be fetched from outside the registry")]
    ForeignLayer {
        /// The layer.
        digest: Digest,
    },
    /// A layer of a type that cannot be unpacked.
    #[error("layer {digest} is of type {media_type:?}, which is no layer type")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {layers} layers, its configuration {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// More layers than the kernel stacks.
    #[error("the image has {layers} layers, at most {LAYERS_MAX} can be stacked")]
    TooManyLayers {
        /// How many.
        layers: usize,
    },
}

/// A layer to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedLayer {
    pub(super) digest: Digest,
    pub(super) diff_id: Digest,
    pub(super) size_bytes: u64,
    pub(super) compression: Compression,
}

/// The entry of `index` that this node runs; `None` when `index` is no index but an image itself.
pub(super) fn choose<'a>(index: &'a Manifest, node: &Platform) -> Result<Option<&'a Descriptor>, Unsuitable> {
    let ManifestKind::Index { manifests } = &index.kind else {
        return Ok(None);
    };
    match index.entry_for(node) {
        Some(entry) => Ok(Some(entry)),
        None => Err(Unsuitable::NoPlatform {
            has: manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref().map(platform_text))
                .collect(),
            node: platform_text(node),
        }),
    }
}

/// The configuration's descriptor and the layers' of an image manifest.
pub(super) fn parts<'a>(
    manifest: &'a Manifest,
    digest: &Digest,
) -> Result<(&'a Descriptor, &'a [Descriptor]), Unsuitable> {
    let not_an_image = |kind: &str| Unsuitable::NotAnImage {
        digest: digest.clone(),
        kind: kind.to_owned(),
    };
    match &manifest.kind {
        ManifestKind::Image { config, layers } => match config.media_type.as_str() {
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG if config.size > CONFIG_MAX_BYTES => {
                Err(Unsuitable::ConfigTooLarge {
                    digest: config.digest.clone(),
                    size_bytes: config.size,
                })
            }
            media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => Ok((config, layers)),
            other => Err(not_an_image(other)),
        },
        ManifestKind::Index { .. } => Err(Unsuitable::NestedIndex {
            digest: digest.clone(),
        }),
        ManifestKind::Other => Err(not_an_image(&manifest.media_type)),
    }
}

/// The layers to fetch, base first, each once.
pub(super) fn layers(
    descriptors: &[Descriptor],
    config: &ImageConfig,
    node: &Platform,
) -> Result<Vec<PlannedLayer>, Unsuitable> {
    let platform = config.platform();
    if !platform.runs_on(node) {
        return Err(Unsuitable::WrongPlatform {
            image: platform_text(&platform),
            node: platform_text(node),
        });
    }
    if descriptors.len() != config.diff_ids.len() {
        return Err(Unsuitable::LayerCount {
            layers: descriptors.len(),
            diff_ids: config.diff_ids.len(),
        });
    }
    let mut planned = Vec::new();
    for (descriptor, diff_id) in descriptors.iter().zip(&config.diff_ids) {
        let digest = descriptor.digest.clone();
        if media_type::is_foreign_layer(&descriptor.media_type) {
            return Err(Unsuitable::ForeignLayer { digest });
        }
        let Some(compression) = media_type::layer_compression(&descriptor.media_type) else {
            return Err(Unsuitable::LayerType {
                digest,
                media_type: descriptor.media_type.clone(),
            });
        };
        planned.push(PlannedLayer {
            digest,
            diff_id: diff_id.clone(),
            size_bytes: descriptor.size,
            compression,
        });
    }
    let planned = without_repetitions(planned);
    match planned.len() > LAYERS_MAX {
        true => Err(Unsuitable::TooManyLayers {
            layers: planned.len(),
        }),
        false => Ok(planned),
    }
}

/// Leaves of layers that occur several times only the topmost: it shows everything that a lower one could, and the
/// kernel refuses to stack a directory twice.
fn without_repetitions(layers: Vec<PlannedLayer>) -> Vec<PlannedLayer> {
    let mut seen = HashSet::new();
    let mut kept: Vec<PlannedLayer> = layers
        .into_iter()
        .rev()
        // The same bytes under two diff ids are a lie, which the fetch finds out.
        .filter(|layer| seen.insert((layer.digest.clone(), layer.diff_id.clone())))
        .collect();
    kept.reverse();
    kept
}

fn platform_text(platform: &Platform) -> String {
    match &platform.variant {
        Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
        None => format!("{}/{}", platform.os, platform.architecture),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Platform {
        Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..Platform::host()
        }
    }

    fn config(diff_ids: &[&str]) -> ImageConfig {
        ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            diff_ids: diff_ids
                .iter()
                .map(|text| Digest::sha256(text.as_bytes()))
                .collect(),
            ..ImageConfig::default()
        }
    }

    fn layer(media_type: &str, content: &str) -> Descriptor {
        Descriptor::new(media_type, Digest::sha256(content.as_bytes()), 7)
    }

    #[test]
    fn an_image_for_another_architecture_names_both() {
        let config = ImageConfig {
            architecture: "arm64".into(),
            ..config(&[])
        };
        let error = layers(&[], &config, &node()).expect_err("another architecture");
        assert_eq!(
            error.to_string(),
            "the image is for linux/arm64, this node is linux/amd64"
        );
    }

    #[test]
    fn an_index_without_this_platform_names_what_it_has() {
        let entry = |architecture: &str| {
            serde_json::json!({"mediaType": media_type::OCI_MANIFEST, "digest": Digest::sha256(b""), "size": 1,
                "platform": {"os": "linux", "architecture": architecture}})
        };
        let bytes = serde_json::json!({"schemaVersion": 2, "manifests": [entry("s390x"), entry("arm64")]});
        let index = Manifest::parse(media_type::OCI_INDEX, bytes.to_string().as_bytes()).expect("parses");
        let error = choose(&index, &node()).expect_err("no such platform");
        assert_eq!(
            error.to_string(),
            "the image is for linux/s390x, linux/arm64, this node is linux/amd64"
        );
    }

    #[test]
    fn foreign_and_unknown_layers_are_refused() {
        let foreign = layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "a");
        assert!(matches!(
            layers(&[foreign], &config(&["a"]), &node()),
            Err(Unsuitable::ForeignLayer { .. })
        ));
        let unknown = layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "a");
        assert!(matches!(
            layers(&[unknown], &config(&["a"]), &node()),
            Err(Unsuitable::LayerType { .. })
        ));
    }

    #[test]
    fn manifest_and_configuration_must_agree_on_the_number_of_layers() {
        let one = layer(media_type::OCI_LAYER, "a");
        assert!(matches!(
            layers(&[one], &config(&["a", "b"]), &node()),
            Err(Unsuitable::LayerCount {
                layers: 1,
                diff_ids: 2
            })
        ));
    }

    #[test]
    fn of_a_repeated_layer_the_topmost_is_stacked() {
        let descriptors = ["a", "b", "a"].map(|content| layer(media_type::OCI_LAYER, content));
        let planned = layers(&descriptors, &config(&["a", "b", "a"]), &node()).expect("can run");
        let digests: Vec<_> = planned.into_iter().map(|layer| layer.digest).collect();
        assert_eq!(digests, [Digest::sha256(b"b"), Digest::sha256(b"a")]);
    }

    #[test]
    fn artifacts_are_no_images() {
        let bytes = serde_json::json!({"schemaVersion": 2, "layers": [],
            "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": Digest::sha256(b""), "size": 1}});
        let manifest =
            Manifest::parse(media_type::OCI_MANIFEST, bytes.to_string().as_bytes()).expect("parses");
        let error = parts(&manifest, &Digest::sha256(b"x")).expect_err("a chart");
        assert!(error.to_string().contains("helm"));
    }
}
