//! The image's configuration, as far as a node acts on it (image-spec config.md; Docker writes the same).

use std::collections::{BTreeMap, BTreeSet};

use oci::{Digest, Platform};
use serde::Deserialize;

/// What an image says about how to run it. What the document leaves out or has as `null` is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageConfig {
    /// The platform's CPU architecture in Go's naming.
    pub architecture: String,
    /// The platform's operating system.
    pub os: String,
    /// The CPU's variant, if any.
    pub variant: Option<String>,
    /// First words of the command.
    pub entrypoint: Vec<String>,
    /// The words after them, or the whole command without an entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty for root.
    pub user: String,
    /// Absolute, or empty for `/`.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `port/protocol` each.
    pub exposed_ports: BTreeSet<String>,
    /// The signal that asks the program to end, by name or number.
    pub stop_signal: Option<String>,
    /// Paths that want a volume.
    pub volumes: BTreeSet<String>,
    /// Docker's health check, as it is written.
    pub healthcheck: Option<serde_json::Value>,
    /// When it was made. RFC 3339; not every builder says it.
    pub created: Option<String>,
    /// Digests of the layers' archives, base first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Document {
    architecture: String,
    os: String,
    variant: Option<String>,
    created: Option<String>,
    config: Option<Execution>,
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    healthcheck: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    /// Reads the document.
    ///
    /// # Errors
    /// When it is not JSON of this kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let document: Document = serde_json::from_slice(bytes)?;
        if document.rootfs.kind != "layers" {
            return Err(serde::de::Error::custom(format!(
                "rootfs.type is {:?}, not \"layers\"",
                document.rootfs.kind
            )));
        }
        let execution = document.config.unwrap_or_default();
        let names = |map: Option<BTreeMap<String, _>>| map.unwrap_or_default().into_keys().collect();
        Ok(Self {
            architecture: document.architecture,
            os: document.os,
            variant: document.variant.filter(|variant| !variant.is_empty()),
            entrypoint: execution.entrypoint.unwrap_or_default(),
            cmd: execution.cmd.unwrap_or_default(),
            env: execution.env.unwrap_or_default(),
            user: execution.user.unwrap_or_default(),
            working_dir: execution.working_dir.unwrap_or_default(),
            labels: execution.labels.unwrap_or_default(),
            exposed_ports: names(execution.exposed_ports),
            stop_signal: execution.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: names(execution.volumes),
            healthcheck: execution.healthcheck,
            created: document.created,
            diff_ids: document.rootfs.diff_ids.unwrap_or_default(),
        })
    }

    /// The platform it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: None,
            os_features: Vec::new(),
            variant: self.variant.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_fields_are_empty() {
        let bytes = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":null},
            "config":{"Entrypoint":null,"Cmd":["/bin/true"],"ExposedPorts":{"80/tcp":{}},"Volumes":null,
            "StopSignal":"","Healthcheck":{"Test":["CMD","x"]}},"history":[{"created":"now"}]}"#;
        let config = ImageConfig::parse(bytes).expect("parses");
        assert_eq!(config.cmd, ["/bin/true"]);
        assert!(config.entrypoint.is_empty() && config.volumes.is_empty() && config.stop_signal.is_none());
        assert!(config.exposed_ports.contains("80/tcp"));
        assert!(config.healthcheck.is_some());
        let without = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}"#;
        assert_eq!(ImageConfig::parse(without).expect("parses").user, "");
    }

    #[test]
    fn other_kinds_of_root_file_systems_are_refused() {
        let bytes = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"cow","diff_ids":[]}}"#;
        let error = ImageConfig::parse(bytes).expect_err("no layers");
        assert!(error.to_string().contains("cow"));
    }
}
