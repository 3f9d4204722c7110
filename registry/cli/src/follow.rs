//! Watching deployments until nothing more will happen to them.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use api::{Deployment, DeploymentState, NodeStatus};
use client::control::ControlError;
use client::control::operator::OperatorClient;

use crate::output::{self, Format};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(400);
/// How long the server may be away while it is watched; a restart takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// To standard error, beside the command's own output.
    Progress,
    /// To standard output, as they are what was asked for.
    Data(Format),
}

/// Watches the deployments `ids` and tells every change. Succeeds when all of them did.
///
/// # Errors
/// When one did not succeed, the server cannot be asked for a minute, or Ctrl-C ends the watching, which changes
/// nothing of the deployments.
pub async fn follow(client: &OperatorClient, ids: &[u64], lines: Lines) -> anyhow::Result<Vec<Deployment>> {
    tokio::select! {
        // Dropping the other arm stops asking, and nothing else.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for Ctrl-C")?;
            bail!("not watching any more; the deployment goes on, and `pierhead deploys --follow` shows it again")
        }
        followed = until_final(client, ids, lines) => followed,
    }
}

async fn until_final(client: &OperatorClient, ids: &[u64], lines: Lines) -> anyhow::Result<Vec<Deployment>> {
    let mut seen: BTreeMap<u64, Deployment> = BTreeMap::new();
    let mut has_hinted = false;
    let mut heard_at = Instant::now();
    let mut open: Vec<u64> = ids.to_vec();
    while !open.is_empty() {
        for &id in &open {
            match client.deployment(id).await {
                Ok(deployment) => {
                    heard_at = Instant::now();
                    if seen.get(&id) != Some(&deployment) {
                        tell(&deployment, lines)?;
                        seen.insert(id, deployment);
                    }
                }
                Err(error) if error.is_retryable() && heard_at.elapsed() < PATIENCE => break,
                Err(error) => {
                    return Err(error).with_context(|| format!("look at deployment {id}, which goes on"));
                }
            }
        }
        if !has_hinted && seen.values().any(is_waiting_for_its_first) {
            has_hinted = true;
            hint_at_nodes(client).await;
        }
        open.retain(|id| !seen.get(id).is_some_and(|deployment| deployment.state.is_final()));
        if !open.is_empty() {
            tokio::time::sleep(INTERVAL).await;
        }
    }
    let all: Vec<Deployment> = seen.into_values().collect();
    let failed: Vec<String> = all
        .iter()
        .filter(|d| d.state != DeploymentState::Succeeded)
        .map(|d| format!("{} r{} {}", d.service, d.revision, words(d.state)))
        .collect();
    if failed.is_empty() {
        Ok(all)
    } else {
        bail!(
            "{}; `pierhead logs` and `pierhead ps` tell more",
            failed.join(", ")
        )
    }
}

fn is_waiting_for_its_first(deployment: &Deployment) -> bool {
    deployment.state == DeploymentState::Rolling && deployment.ready == 0 && deployment.replicas > 0
}

/// Says so when nothing can happen because there is no node. Failing to find out is no failure.
pub async fn hint_at_nodes(client: &OperatorClient) {
    let nodes: Result<_, ControlError> = client.nodes().await;
    if let Ok(nodes) = nodes
        && !nodes.iter().any(|node| node.status == NodeStatus::Ready)
    {
        let what = if nodes.is_empty() {
            "there is no node yet; `pierhead node token` prints the command to join one with"
        } else {
            "none of the nodes is heard of; `pierhead node ls` shows them"
        };
        eprintln!("no node is ready: {what}");
    }
}

fn tell(deployment: &Deployment, lines: Lines) -> anyhow::Result<()> {
    match lines {
        Lines::Progress => eprintln!("{}", line(deployment)),
        Lines::Data(format) => {
            let text = match format {
                Format::Table => line(deployment),
                Format::Json => serde_json::to_string(deployment)?,
            };
            let mut out = output::stdout();
            writeln!(out, "{text}")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// `acme/web r4: rolling out, 1/3 ready`, with the reason where there is one.
fn line(deployment: &Deployment) -> String {
    let Deployment {
        service,
        revision,
        state,
        ready,
        replicas,
        ..
    } = deployment;
    let mut line = format!("{service} r{revision}: {}", words(*state));
    match deployment.finished_at_ms {
        Some(finished_at_ms) if state.is_final() => {
            let took = output::span(finished_at_ms.saturating_sub(deployment.created_at_ms));
            line.push_str(&format!(" after {took}, {ready}/{replicas} ready"));
        }
        _ => line.push_str(&format!(", {ready}/{replicas} ready")),
    }
    if let Some(reason) = &deployment.reason {
        // All of its lines: it may hold the end of a log.
        for reason in reason.trim().lines() {
            let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
            line.push_str(&format!("\n  {reason}"));
        }
    }
    line
}

/// A state for people.
pub fn words(state: DeploymentState) -> &'static str {
    match state {
        DeploymentState::Rolling => "rolling out",
        DeploymentState::Succeeded => "succeeded",
        DeploymentState::RollingBack => "rolling back",
        DeploymentState::RolledBack => "rolled back",
        DeploymentState::Failed => "failed",
        DeploymentState::Superseded => "superseded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::DeploymentCause;

    #[test]
    fn a_line_says_state_counts_and_reason() {
        let mut deployment = Deployment {
            id: 7,
            service: "acme/web".parse().unwrap(),
            revision: 4,
            from_revision: Some(3),
            digest: oci::Digest::sha256(b""),
            cause: DeploymentCause::Command,
            state: DeploymentState::Rolling,
            ready: 1,
            replicas: 3,
            reason: None,
            created_at_ms: 1_000,
            finished_at_ms: None,
        };
        assert_eq!(line(&deployment), "acme/web r4: rolling out, 1/3 ready");
        deployment.state = DeploymentState::RolledBack;
        deployment.finished_at_ms = Some(13_000);
        deployment.reason = Some("exit code 1\n\x1b[31mno such table\n".to_owned());
        assert_eq!(
            line(&deployment),
            "acme/web r4: rolled back after 12 s, 1/3 ready\n  exit code 1\n  [31mno such table"
        );
    }
}
