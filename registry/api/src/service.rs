//! What an operator asks for: a service, its image and how its containers run. Field meanings are compose's
//! (compose-spec 05-services.md and deploy.md) after normalisation by the command line.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use oci::{Digest, RepositoryName, Tag};
use serde::{Deserialize, Serialize};

/// A service's full name, `project/service`, both of lower-case letters, digits, `-` and `_`, at most 63 bytes
/// each, starting with a letter or digit.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(String);

/// Why a text is not a service name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "service name {0:?} is invalid; write PROJECT/SERVICE, each of a-z, 0-9, '-' and '_', starting with a letter \
     or digit, at most 63 characters"
)]
pub struct ServiceNameError(String);

impl ServiceName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the slash.
    pub fn project(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The part behind the slash.
    pub fn service(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }
}

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        let is_part = |part: &str| {
            !part.is_empty()
                && part.len() <= 63
                && part
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
                && !part.starts_with(['-', '_'])
        };
        match text.split_once('/') {
            Some((project, service)) if is_part(project) && is_part(service) => Ok(Self(text.to_owned())),
            _ => Err(ServiceNameError(text.chars().take(140).collect())),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// `PUT /api/v1/services/{project}/{service}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRequest {
    /// The desired service.
    pub spec: ServiceSpec,
}

/// Answer to a [`DeployRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployResponse {
    /// Number of the revision that the service is now at or on its way to.
    pub revision: u64,
    /// The deployment that brings it there; `None` when nothing had to change.
    pub deployment_id: Option<u64>,
    /// The digest that the image reference was resolved to.
    pub digest: Digest,
}

/// `POST /api/v1/services/{project}/{service}/rollback`, answered with a [`DeployResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RollbackRequest {
    /// Revision to go back to; the last good one before the current where `None`.
    pub revision: Option<u64>,
}

/// A service as desired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Repository in this registry that holds the image.
    pub repository: RepositoryName,
    /// Tag that the service follows; it is resolved to a digest when deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Digest, where the operator pinned one; it wins over the tag and no push moves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// How many copies run.
    pub replicas: u32,
    /// What deploys besides the operator.
    #[serde(default)]
    pub trigger: Trigger,
    /// How each container runs.
    pub container: ContainerSpec,
    /// Published ports.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Limits of each container.
    #[serde(default)]
    pub resources: Resources,
    /// What the agent does when a container exits.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Time between SIGTERM and SIGKILL.
    pub stop_grace_ms: u64,
    /// How long a new container must stay up before it counts as ready.
    pub min_ready_ms: u64,
    /// How long after its start a new container may take to become ready.
    pub ready_deadline_ms: u64,
}

/// What makes a new revision besides the operator's command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A push that moves the followed tag deploys it.
    #[default]
    Push,
    /// Only the operator deploys.
    Off,
}

/// How a container runs; `None` and empty values leave what the image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Replaces the image's entrypoint (and drops its command).
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Added to the image's environment, replacing equal names.
    pub environment: BTreeMap<String, String>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// `user[:group]`, by name or number.
    pub user: Option<String>,
    /// Working directory inside the container.
    pub working_dir: Option<String>,
    /// Host name inside the container.
    pub hostname: Option<String>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Capabilities added to the default set, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set, without `CAP_`; `ALL` takes all.
    pub cap_drop: Vec<String>,
}

/// A port of the container published on its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Address of the node to bind; all addresses where `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Limits of one container; `None` is unlimited, except for `pids`, where the node's default applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory in bytes; swap is not given on top.
    pub memory_bytes: Option<u64>,
    /// CPU time in billionths of a core.
    pub nano_cpus: Option<u64>,
    /// Number of processes and threads.
    pub pids: Option<u64>,
}

/// What happens when a container exits by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Started again whatever its exit code, with growing pauses.
    #[default]
    Always,
    /// Started again after a non-zero exit code.
    OnFailure,
    /// Left stopped.
    Never,
}

/// A service as listed by `GET /api/v1/services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// Name.
    pub name: ServiceName,
    /// Repository of the image.
    pub repository: RepositoryName,
    /// Followed tag.
    pub tag: Option<Tag>,
    /// Digest of the target revision.
    pub digest: Digest,
    /// Number of the target revision.
    pub revision: u64,
    /// Desired copies.
    pub replicas: u32,
    /// Copies that are ready.
    pub ready: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_have_two_parts() {
        assert!("acme/web".parse::<ServiceName>().is_ok());
        for text in ["web", "a/b/c", "/web", "A/web", "a/-web", "a/..", ""] {
            assert!(text.parse::<ServiceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn spec_needs_only_what_has_no_default() {
        let spec: ServiceSpec = serde_json::from_str(
            r#"{"repository":"acme/web","tag":"main","replicas":1,"container":{},
                "stop_grace_ms":10000,"min_ready_ms":1000,"ready_deadline_ms":60000}"#,
        )
        .unwrap();
        assert_eq!(spec.trigger, Trigger::Push);
        assert_eq!(spec.restart, RestartPolicy::Always);
    }
}
