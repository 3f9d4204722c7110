//! The section `deploy` of a service (compose-spec deploy.md).

use api::{Resources, RestartPolicy};

use super::node::Node;
use super::problem::{Place, Problems};
use super::section::{Section, parsed, text};
use super::value::{integer, nano_cpus, size_bytes};

/// The most copies of a service.
pub const REPLICAS_MAX: u64 = 1000;
/// The most processes and threads that a limit may name.
pub const PIDS_MAX: u64 = 4_194_304;

/// What the section says.
#[derive(Debug, Default)]
pub struct Deploy {
    /// Copies.
    pub replicas: Option<u32>,
    /// Limits.
    pub limits: Resources,
    /// What happens when a container exits.
    pub restart: Option<RestartPolicy>,
}

const KEYS: [&str; 10] = [
    "mode",
    "replicas",
    "resources",
    "restart_policy",
    "placement",
    "update_config",
    "rollback_config",
    "labels",
    "endpoint_mode",
    "job",
];

/// Reads the section.
pub fn read(node: &Node, place: Place, problems: &mut Problems) -> Deploy {
    let mut deploy = Deploy::default();
    let Some(section) = Section::read(node, place, problems) else {
        return deploy;
    };
    for (key, place, node) in section.entries() {
        match key {
            "mode" => match text(node, &place, problems) {
                Some("replicated") | None => {}
                Some(other) => problems.error(
                    &place,
                    format!(
                        "mode {other:?} is not supported; services are replicated, with replicas: N copies"
                    ),
                ),
            },
            "replicas" => deploy.replicas = replicas(node, &place, problems),
            "resources" => resources(node, place, problems, &mut deploy.limits),
            "restart_policy" => deploy.restart = restart_policy(node, place, problems),
            "placement" => problems.unsupported(&place, "copies are spread evenly over all nodes"),
            "update_config" | "rollback_config" => problems.unsupported(
                &place,
                "new copies start first, old ones go as new ones are ready, and a failure rolls back",
            ),
            "labels" => problems.unsupported(
                &place,
                "services have no labels; containers have, by the key labels",
            ),
            "endpoint_mode" => problems.unsupported(&place, "there are no virtual addresses"),
            _ => problems.unknown(&place, &KEYS),
        }
    }
    deploy
}

/// A number of copies.
pub fn replicas(node: &Node, place: &Place, problems: &mut Problems) -> Option<u32> {
    let number = parsed(node, place, problems, |text| integer(text, 0, REPLICAS_MAX))?;
    u32::try_from(number).ok()
}

fn resources(node: &Node, place: Place, problems: &mut Problems, limits: &mut Resources) {
    let Some(section) = Section::read(node, place, problems) else {
        return;
    };
    for (key, place, node) in section.entries() {
        match key {
            "limits" => self::limits(node, place, problems, limits),
            "reservations" => problems.unsupported(&place, "nothing is reserved on nodes"),
            _ => problems.unknown(&place, &["limits", "reservations"]),
        }
    }
}

fn limits(node: &Node, place: Place, problems: &mut Problems, limits: &mut Resources) {
    let Some(section) = Section::read(node, place, problems) else {
        return;
    };
    for (key, place, node) in section.entries() {
        match key {
            "cpus" => limits.nano_cpus = parsed(node, &place, problems, nano_cpus),
            "memory" => limits.memory_bytes = parsed(node, &place, problems, memory),
            "pids" => limits.pids = parsed(node, &place, problems, |text| integer(text, 1, PIDS_MAX)),
            _ => problems.unknown(&place, &["cpus", "memory", "pids"]),
        }
    }
}

/// A memory limit that a container can live with.
///
/// # Errors
/// When it is no size, or below 6 MiB, as docker refuses it too.
pub fn memory(text: &str) -> Result<u64, String> {
    match size_bytes(text)? {
        bytes if bytes < 6 << 20 => Err(format!("{text:?} is below 6m, with which no container starts")),
        bytes => Ok(bytes),
    }
}

fn restart_policy(node: &Node, place: Place, problems: &mut Problems) -> Option<RestartPolicy> {
    let section = Section::read(node, place, problems)?;
    let mut policy = None;
    for (key, place, node) in section.entries() {
        match key {
            "condition" => {
                policy = parsed(node, &place, problems, |text| match text {
                    "any" => Ok(RestartPolicy::Always),
                    "on-failure" => Ok(RestartPolicy::OnFailure),
                    "none" => Ok(RestartPolicy::Never),
                    _ => Err(format!(
                        "{text:?} is no condition; there are any, on-failure and none"
                    )),
                });
            }
            "delay" | "max_attempts" | "window" => problems.unsupported(
                &place,
                "containers are started again with pauses that grow from half a second to a minute",
            ),
            _ => problems.unknown(&place, &["condition", "delay", "max_attempts", "window"]),
        }
    }
    policy
}
