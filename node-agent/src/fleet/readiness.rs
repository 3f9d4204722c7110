//! When a running task counts as ready: every TCP port that it publishes takes connections on the container's own
//! address, and it has been up for `min_ready_ms`. UDP ports cannot be asked; a task without TCP ports only has to
//! stay up.

use std::net::Ipv4Addr;
use std::time::Duration;

use api::{Protocol, TaskAssignment};
use tokio::time::{Instant, sleep};

use super::containers::Containers;

/// How long a silent port is told as the reason why the task is not ready yet.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Waits until every TCP port takes connections; tells `not_yet` once which does not, if it takes long.
///
/// # Cancel safety
/// Dropping it only ends the probing.
pub(super) async fn answering(
    containers: &impl Containers,
    task: &TaskAssignment,
    address: Option<Ipv4Addr>,
    interval: Duration,
    mut not_yet: impl FnMut(String),
) {
    let began = Instant::now();
    let ports: Vec<u16> = task
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp)
        .map(|port| port.container_port)
        .collect();
    let mut has_told = false;
    loop {
        let silent = match (address, ports.first()) {
            (_, None) => None,
            (Some(address), _) => containers.is_answering(address, &ports).await.err(),
            (None, Some(&port)) => Some(port),
        };
        match silent {
            None => return,
            Some(port) if !has_told && began.elapsed() >= TELL_AFTER => {
                has_told = true;
                not_yet(format!(
                    "nothing takes connections on port {port}/tcp of the container"
                ));
            }
            Some(_) => {}
        }
        // Most programs listen within a fraction of a second, and a rollout waits for it; others take their time.
        let pace = if began.elapsed() < Duration::from_secs(2) {
            1
        } else {
            4
        };
        sleep(interval * pace).await;
    }
}

/// How much longer a task that has been up for `uptime` must stay up to be ready.
pub(super) fn remaining(task: &TaskAssignment, uptime: Duration) -> Duration {
    Duration::from_millis(task.min_ready_ms).saturating_sub(uptime)
}
