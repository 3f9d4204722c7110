//! Types of this API on the wire, with Docker's names.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Body of `POST /containers/create`, as far as it is carried out. The rest is looked at by name.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateBody {
    pub(super) hostname: Option<String>,
    pub(super) user: Option<String>,
    pub(super) env: Option<Vec<String>>,
    pub(super) cmd: Option<Words>,
    pub(super) entrypoint: Option<Words>,
    pub(super) image: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) working_dir: Option<String>,
    pub(super) exposed_ports: Option<BTreeMap<String, Value>>,
    pub(super) host_config: Option<HostConfig>,
    pub(super) networking_config: Option<NetworkingConfig>,
    #[serde(flatten)]
    pub(super) others: BTreeMap<String, Value>,
}

/// `HostConfig` within [`CreateBody`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    #[serde(deserialize_with = "whole")]
    pub(super) memory: i64,
    #[serde(deserialize_with = "whole")]
    pub(super) memory_swap: i64,
    #[serde(deserialize_with = "whole")]
    pub(super) nano_cpus: i64,
    #[serde(deserialize_with = "whole")]
    pub(super) cpu_quota: i64,
    #[serde(deserialize_with = "whole")]
    pub(super) cpu_period: i64,
    #[serde(deserialize_with = "whole")]
    pub(super) pids_limit: i64,
    pub(super) port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
    pub(super) publish_all_ports: Option<bool>,
    pub(super) auto_remove: Option<bool>,
    pub(super) readonly_rootfs: Option<bool>,
    pub(super) cap_add: Option<Words>,
    pub(super) cap_drop: Option<Words>,
    pub(super) network_mode: Option<String>,
    #[serde(flatten)]
    pub(super) others: BTreeMap<String, Value>,
}

/// `NetworkingConfig` within [`CreateBody`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkingConfig {
    pub(super) endpoints_config: Option<BTreeMap<String, Value>>,
}

/// Where a port is published.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PortBinding {
    pub(super) host_ip: String,
    pub(super) host_port: String,
}

/// One word, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(word) => vec![word],
            Self::Many(words) => words,
        }
    }
}

/// A whole number, which may come as a float, or as nothing.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = match Value::deserialize(deserializer)? {
        Value::Null => return Ok(0),
        Value::Number(number) => number,
        other => return Err(serde::de::Error::custom(format!("{other} is not a number"))),
    };
    let from_float = || {
        let float = number.as_f64().filter(|float| float.fract() == 0.0)?;
        // Beyond, floats are not exact.
        (float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
    };
    number
        .as_i64()
        .or_else(from_float)
        .ok_or_else(|| serde::de::Error::custom(format!("{number} is not a whole number")))
}

/// One of `GET /containers/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerSummary {
    pub(super) id: String,
    pub(super) names: Vec<String>,
    pub(super) image: String,
    #[serde(rename = "ImageID")]
    pub(super) image_id: String,
    pub(super) command: String,
    pub(super) created: i64,
    pub(super) ports: Vec<Port>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) state: &'static str,
    pub(super) status: String,
    pub(super) host_config: Value,
    pub(super) network_settings: Value,
    pub(super) mounts: [(); 0],
}

/// A port in a list of containers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Port {
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub(super) ip: Option<String>,
    pub(super) private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) public_port: Option<u16>,
    #[serde(rename = "Type")]
    pub(super) kind: String,
}

/// `State` of a container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) status: &'static str,
    pub(super) running: bool,
    pub(super) paused: bool,
    pub(super) restarting: bool,
    #[serde(rename = "OOMKilled")]
    pub(super) oom_killed: bool,
    pub(super) dead: bool,
    pub(super) pid: i32,
    pub(super) exit_code: i32,
    pub(super) error: String,
    pub(super) started_at: String,
    pub(super) finished_at: String,
}

/// One of `GET /images/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ImageSummary {
    pub(super) id: String,
    pub(super) parent_id: &'static str,
    pub(super) repo_tags: Vec<String>,
    pub(super) repo_digests: Vec<String>,
    pub(super) created: i64,
    pub(super) size: u64,
    pub(super) shared_size: i64,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) containers: i64,
}

/// What `DELETE /images/{name}` did, step by step.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) enum Deletion {
    Untagged(String),
    Deleted(String),
}

/// One of `GET /events`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Message {
    pub(super) status: &'static str,
    pub(super) id: String,
    pub(super) from: String,
    #[serde(rename = "Type")]
    pub(super) kind: &'static str,
    #[serde(rename = "Action")]
    pub(super) action: &'static str,
    #[serde(rename = "Actor")]
    pub(super) actor: Actor,
    pub(super) scope: &'static str,
    pub(super) time: i64,
    #[serde(rename = "timeNano")]
    pub(super) time_nano: i64,
}

/// Whom an event is about.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Actor {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "Attributes")]
    pub(super) attributes: BTreeMap<String, String>,
}

/// What `X-Registry-Auth` carries.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RegistryAuth {
    pub(super) username: String,
    pub(super) password: String,
    pub(super) identitytoken: String,
    pub(super) registrytoken: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_floats_and_lists_may_be_words() {
        let text =
            r#"{"Cmd":"x","Entrypoint":["y"],"HostConfig":{"Memory":6.7e7,"NanoCpus":null,"X":1},"Y":{}}"#;
        let body: CreateBody = serde_json::from_str(text).expect("reads");
        let host = body.host_config.expect("is there");
        assert_eq!((host.memory, host.nano_cpus), (67_000_000, 0));
        assert_eq!(body.cmd.expect("is there").into_vec(), ["x"]);
        assert!(host.others.contains_key("X") && body.others.contains_key("Y"));
        assert!(serde_json::from_str::<CreateBody>(r#"{"HostConfig":{"Memory":0.5}}"#).is_err());
    }
}
