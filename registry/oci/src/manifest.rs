//! What a registry and a puller must understand of a manifest (image-spec manifest.md, image-index.md; Docker
//! schema 2).
//!
//! The bytes of a manifest are sacred: this type is a reading of them, never a source to write them from.
//! Documents that could be read as two kinds are refused (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::descriptor::{Descriptor, Platform, null_is_default};
use crate::digest::bounded;
use crate::media_type;

/// The largest manifest accepted, in bytes (distribution-spec: at least 4 MiB must pass).
pub const MANIFEST_MAX_BYTES: usize = 4 * 1024 * 1024;
/// The most descriptors read from one manifest, a bound on the work that one push can cause.
pub const DESCRIPTORS_MAX: usize = 10_000;

/// Why a document is not an acceptable manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a known field has the wrong type.
    #[error("the manifest is not valid JSON of its kind: {0}")]
    Json(serde_json::Error),
    /// The document's own media type differs from the one it was sent with.
    #[error("the manifest says mediaType {document:?} but was sent as {header:?}")]
    MediaTypeMismatch {
        /// `mediaType` in the document.
        document: String,
        /// `Content-Type` of the request.
        header: String,
    },
    /// Has the fields of an image and of an index.
    #[error("the manifest has the fields of both an image and an index, which is ambiguous")]
    Ambiguous,
    /// Neither an image nor an index although its media type says so.
    #[error("the manifest is sent as {0:?} but lacks that kind's fields")]
    MissingFields(String),
    /// `schemaVersion` is not 2 in a kind that demands it.
    #[error("schemaVersion must be 2")]
    SchemaVersion,
    /// A media type that could not be sent as a header.
    #[error("media type {0:?} is malformed; write type/subtype")]
    MediaType(String),
    /// Too many descriptors.
    #[error("the manifest lists {0} descriptors; at most {DESCRIPTORS_MAX} are accepted")]
    TooManyDescriptors(usize),
}

/// The shape of a manifest.
#[derive(Clone, Debug)]
pub enum ManifestKind {
    /// One image or artifact: a config and layers.
    Image {
        /// The configuration object.
        config: Box<Descriptor>,
        /// Layers, base first.
        layers: Vec<Descriptor>,
    },
    /// A list of manifests (or, in BuildKit's caches, of blobs).
    Index {
        /// The entries.
        manifests: Vec<Descriptor>,
    },
    /// A kind that we store without understanding it.
    Other,
}

/// A parsed manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Media type without parameters.
    pub media_type: String,
    /// What it consists of.
    pub kind: ManifestKind,
    /// The manifest that this one is about (image-spec manifest.md, `subject`).
    pub subject: Option<Descriptor>,
    /// Artifact type: the document's own, else an image's config media type.
    pub artifact_type: Option<String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// What it lists as `blobs`, as the withdrawn artifact manifest of image-spec did.
    pub blobs: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads `bytes`, sent with `content_type` (which wins where the document names no media type; an empty one
    /// counts as none).
    ///
    /// # Errors
    /// When the document is not JSON, contradicts its media type, is ambiguous, or lists too much. Kinds whose
    /// media type is unknown to us need only be JSON objects; what they list is read where it has the form we know.
    pub fn parse(content_type: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        let sent_as = media_type::without_parameters(content_type);
        let is_known = matches!(sent_as, "" | "application/json") || is_known_kind(sent_as);
        let document: Document = match serde_json::from_slice(bytes) {
            Ok(document) => document,
            // An unknown kind may use our field names with other meanings; it is stored as it is.
            Err(_) if !is_known && is_media_type(sent_as) && is_json_object(bytes) => {
                return Ok(Self::other(sent_as));
            }
            Err(source) => return Err(ManifestError::Json(source)),
        };
        let media_type = match (&document.media_type, sent_as) {
            (Some(own), "" | "application/json") => media_type::without_parameters(own).to_owned(),
            (Some(own), sent_as) if media_type::without_parameters(own) != sent_as => {
                return Err(ManifestError::MediaTypeMismatch {
                    document: bounded(own),
                    header: bounded(sent_as),
                });
            }
            (None, "" | "application/json") => match (&document.manifests, &document.config) {
                (Some(_), None) => media_type::OCI_INDEX.to_owned(),
                _ => media_type::OCI_MANIFEST.to_owned(),
            },
            (_, sent_as) => sent_as.to_owned(),
        };
        if !is_media_type(&media_type) {
            return Err(ManifestError::MediaType(bounded(&media_type)));
        }
        let is_ambiguous =
            document.manifests.is_some() && (document.config.is_some() || document.layers.is_some());
        let kind = match media_type.as_str() {
            _ if is_ambiguous => return Err(ManifestError::Ambiguous),
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => {
                // A list of layers that was never made is written as null by some clients.
                match (document.config, document.layers.unwrap_or_default()) {
                    (Some(config), layers) => ManifestKind::Image {
                        config: Box::new(config),
                        layers,
                    },
                    (None, _) => return Err(ManifestError::MissingFields(media_type)),
                }
            }
            media_type::OCI_INDEX | media_type::DOCKER_MANIFEST_LIST => match document.manifests {
                Some(manifests) => ManifestKind::Index { manifests },
                None => return Err(ManifestError::MissingFields(media_type)),
            },
            _ => match (document.config, document.layers, document.manifests) {
                (Some(config), Some(layers), None) => ManifestKind::Image {
                    config: Box::new(config),
                    layers,
                },
                (None, None, Some(manifests)) => ManifestKind::Index { manifests },
                _ => ManifestKind::Other,
            },
        };
        if is_known_kind(&media_type) && document.schema_version != Some(2) {
            return Err(ManifestError::SchemaVersion);
        }
        let artifact_type = document
            .artifact_type
            .filter(|t| !t.is_empty())
            .or_else(|| match &kind {
                ManifestKind::Image { config, .. } => Some(config.media_type.clone()),
                _ => None,
            });
        let manifest = Self {
            media_type,
            kind,
            subject: document.subject,
            artifact_type,
            annotations: document.annotations,
            blobs: document.blobs.unwrap_or_default(),
        };
        match manifest.children().count() {
            count if count > DESCRIPTORS_MAX => Err(ManifestError::TooManyDescriptors(count)),
            _ => Ok(manifest),
        }
    }

    fn other(media_type: &str) -> Self {
        Self {
            media_type: media_type.to_owned(),
            kind: ManifestKind::Other,
            subject: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
            blobs: Vec::new(),
        }
    }

    /// Whether this is a kind whose meaning we know, so that what it lists must be there.
    pub fn is_known_kind(&self) -> bool {
        is_known_kind(&self.media_type)
    }

    /// Everything the manifest is made of: config and layers, or entries, or blobs. Not the subject, which need not exist.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let (first, rest) = match &self.kind {
            ManifestKind::Image { config, layers } => (Some(config.as_ref()), layers.as_slice()),
            ManifestKind::Index { manifests } => (None, manifests.as_slice()),
            ManifestKind::Other => (None, [].as_slice()),
        };
        first.into_iter().chain(rest).chain(&self.blobs)
    }

    /// The entry of an index that `host` should run: the first whose platform fits. Entries without a platform
    /// fit only when there is no better one.
    pub fn entry_for(&self, host: &Platform) -> Option<&Descriptor> {
        let ManifestKind::Index { manifests } = &self.kind else {
            return None;
        };
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.runs_on(host));
        manifests
            .iter()
            .find(fits)
            .or_else(|| manifests.iter().find(|d| d.platform.is_none()))
    }
}

fn is_known_kind(media_type: &str) -> bool {
    matches!(
        media_type,
        media_type::OCI_MANIFEST
            | media_type::OCI_INDEX
            | media_type::DOCKER_MANIFEST
            | media_type::DOCKER_MANIFEST_LIST
    )
}

/// `type/subtype` of the characters that RFC 6838, 4.2, allows, and of its length.
fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        (1..=127).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    text.split_once('/')
        .is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

fn is_json_object(bytes: &[u8]) -> bool {
    serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::digest::Digest;

    fn descriptor(media_type: &str) -> serde_json::Value {
        serde_json::json!({"mediaType": media_type, "digest": Digest::sha256(b"x"), "size": 1})
    }

    fn image(media_type: Option<&str>) -> Vec<u8> {
        let mut value = serde_json::json!({
            "schemaVersion": 2,
            "config": descriptor(media_type::OCI_CONFIG),
            "layers": [descriptor(media_type::OCI_LAYER)],
        });
        if let Some(media_type) = media_type {
            value["mediaType"] = media_type.into();
        }
        value.to_string().into_bytes()
    }

    #[test]
    fn image_without_media_type_takes_the_header() {
        let manifest = Manifest::parse(media_type::OCI_MANIFEST, &image(None)).unwrap();
        assert_eq!(manifest.children().count(), 2);
        assert_eq!(manifest.artifact_type.as_deref(), Some(media_type::OCI_CONFIG));
    }

    #[test]
    fn header_parameters_are_ignored_and_mismatches_refused() {
        let header = format!("{}; charset=utf-8", media_type::OCI_MANIFEST);
        assert!(Manifest::parse(&header, &image(Some(media_type::OCI_MANIFEST))).is_ok());
        assert!(matches!(
            Manifest::parse(media_type::OCI_INDEX, &image(Some(media_type::OCI_MANIFEST))),
            Err(ManifestError::MediaTypeMismatch { .. })
        ));
    }

    #[test]
    fn document_valid_as_image_and_index_is_refused() {
        let mut value: serde_json::Value = serde_json::from_slice(&image(None)).unwrap();
        value["manifests"] = serde_json::json!([descriptor(media_type::OCI_MANIFEST)]);
        let bytes = value.to_string();
        assert!(matches!(
            Manifest::parse(media_type::OCI_MANIFEST, bytes.as_bytes()),
            Err(ManifestError::Ambiguous)
        ));
    }

    #[test]
    fn unknown_kinds_are_accepted_when_they_are_json_objects() {
        let manifest = Manifest::parse("application/vnd.acme.thing+json", br#"{"config": 7}"#).unwrap();
        assert!(matches!(manifest.kind, ManifestKind::Other));
        assert!(Manifest::parse("application/vnd.acme.thing+json", b"nonsense").is_err());
    }

    #[test]
    fn lists_and_maps_that_go_never_made_are_empty() {
        let mut config = descriptor(media_type::OCI_CONFIG);
        config["urls"] = serde_json::Value::Null;
        config["annotations"] = serde_json::Value::Null;
        let bytes =
            serde_json::json!({"schemaVersion": 2, "config": config, "layers": null, "annotations": null});
        let manifest = Manifest::parse(media_type::OCI_MANIFEST, bytes.to_string().as_bytes()).unwrap();
        assert_eq!(manifest.children().count(), 1);
    }

    #[test]
    fn a_media_type_that_is_no_header_is_refused() {
        for media_type in ["a", "a/", "a/\nb", "a/b c", "ä/b", "/b"] {
            let bytes = serde_json::json!({"schemaVersion": 2, "mediaType": media_type}).to_string();
            assert!(matches!(
                Manifest::parse("application/json", bytes.as_bytes()),
                Err(ManifestError::MediaType(_))
            ));
        }
    }

    #[test]
    fn kinds_we_do_not_know_are_read_as_far_as_they_look_familiar() {
        let bytes = serde_json::json!({
            "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
            "artifactType": "application/vnd.acme.sbom",
            "blobs": [descriptor("application/json")],
            "subject": descriptor(media_type::OCI_MANIFEST),
        });
        let manifest = Manifest::parse("", bytes.to_string().as_bytes()).unwrap();
        assert_eq!(manifest.children().count(), 1);
        assert!(manifest.subject.is_some() && !manifest.is_known_kind());
        let image_without_version = image(None).to_vec();
        let text = String::from_utf8(image_without_version)
            .unwrap()
            .replace("\"schemaVersion\":2", "\"v\":1");
        assert!(Manifest::parse("application/vnd.acme.image", text.as_bytes()).is_ok());
        assert!(Manifest::parse(media_type::OCI_MANIFEST, text.as_bytes()).is_err());
    }

    #[test]
    fn index_entry_is_chosen_by_platform() {
        let entry = |arch: &str| {
            let mut value = descriptor(media_type::OCI_MANIFEST);
            value["platform"] = serde_json::json!({"os": "linux", "architecture": arch});
            value["size"] = arch.len().into();
            value
        };
        let bytes = serde_json::json!({"schemaVersion": 2, "manifests": [entry("s390x"), entry("arm64")]});
        let index = Manifest::parse(media_type::OCI_INDEX, bytes.to_string().as_bytes()).unwrap();
        let host = |arch: &str| Platform {
            architecture: arch.into(),
            ..Platform::host()
        };
        assert_eq!(index.entry_for(&host("s390x")).map(|d| d.size), Some(5));
        assert!(index.entry_for(&host("riscv64")).is_none());
    }

    /// JSON of the fields that manifests have, with values of the right and of the wrong kind.
    fn documents() -> impl Strategy<Value = Value> {
        let digest = prop_oneof![
            any::<[u8; 4]>().prop_map(|b| Digest::sha256(&b).to_string()),
            ".{0,20}".prop_map(|text| text),
        ];
        let descriptor = (digest, any::<i64>(), ".{0,40}")
            .prop_map(|(digest, size, kind)| json!({"mediaType": kind, "digest": digest, "size": size}));
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            proptest::sample::select(&media_type::MANIFEST_ACCEPT[..]).prop_map(Value::from),
            descriptor,
        ];
        let value = leaf.prop_recursive(2, 8, 4, |inner| vec(inner, 0..4).prop_map(Value::from));
        let fields = [
            "schemaVersion",
            "mediaType",
            "config",
            "layers",
            "manifests",
            "blobs",
            "subject",
            "annotations",
            "artifactType",
            "other",
        ];
        btree_map(proptest::sample::select(fields.to_vec()), value, 0..8).prop_map(|fields| {
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_kind_and_can_be_sent(document in documents(), header in "[ -~]{0,40}") {
            let bytes = document.to_string();
            for sent_as in media_type::MANIFEST_ACCEPT.into_iter().chain(["", header.as_str()]) {
                if let Ok(manifest) = Manifest::parse(sent_as, bytes.as_bytes()) {
                    prop_assert!(is_media_type(&manifest.media_type), "{}", manifest.media_type);
                    let has = |field: &str| document.get(field).is_some_and(|v| !v.is_null());
                    if manifest.is_known_kind() {
                        prop_assert_eq!(document.get("schemaVersion"), Some(&json!(2)));
                        prop_assert!(!(has("manifests") && (has("config") || has("layers"))));
                        let is_index = matches!(manifest.kind, ManifestKind::Index { .. });
                        prop_assert_eq!(is_index, media_type::is_index(&manifest.media_type));
                    }
                    if let (Some(own), false) = (document.get("mediaType").and_then(Value::as_str), sent_as.is_empty()) {
                        let sent_as = media_type::without_parameters(sent_as);
                        let is_right = sent_as == "application/json" || media_type::without_parameters(own) == sent_as;
                        prop_assert!(is_right || !manifest.is_known_kind());
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200), header in ".{0,40}") {
            let _ = Manifest::parse(&header, &bytes);
            let _ = Manifest::parse(media_type::OCI_MANIFEST, &bytes);
        }
    }
}
