//! `pierhead deploys` and `rollback`: the history of services, and the way back in it.

use anyhow::Context;
use api::{Deployment, DeploymentCause};
use clap::Args;

use crate::connection::Connection;
use crate::follow::{Lines, follow, words};
use crate::output::{self, Format, OutputArguments, Table, relative, short, span};
use crate::service::Named;

/// Arguments of `deploys`.
#[derive(Debug, Args)]
pub struct Deploys {
    /// Only of this service, SERVICE or PROJECT/SERVICE.
    service: Option<Named>,
    /// Watch the deployments that have not ended; the exit status is 0 when all of them succeed.
    #[arg(long, short)]
    follow: bool,
    /// How many of the last to list.
    #[arg(long, default_value_t = 20, value_name = "N")]
    last: usize,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: OutputArguments,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// The service, SERVICE or PROJECT/SERVICE.
    service: Named,
    /// The revision, as N or rN; the last good one before the present where none is given.
    #[arg(value_parser = revision)]
    revision: Option<u64>,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    connection: Connection,
}

fn revision(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix('r').unwrap_or(text);
    number
        .parse()
        .map_err(|_| "a revision is a number, as in r4; `pierhead deploys` lists them".to_owned())
}

/// Lists or follows deployments.
///
/// # Errors
/// When the server refuses, or a followed deployment does not succeed.
pub async fn list(arguments: Deploys) -> anyhow::Result<()> {
    let client = arguments.connection.open()?.client;
    let service = match &arguments.service {
        Some(named) => Some(named.resolve(&client).await?),
        None => None,
    };
    let deployments = client.deployments(service.as_ref()).await;
    let mut deployments =
        deployments.with_context(|| format!("list the deployments of {}", client.host()))?;
    deployments.sort_by_key(|deployment| std::cmp::Reverse(deployment.id));
    let format = arguments.output.output;
    if arguments.follow {
        let open = deployments.iter().filter(|d| !d.state.is_final());
        let mut open: Vec<u64> = open.map(|d| d.id).collect();
        open.reverse();
        if open.is_empty() {
            eprintln!("no deployment is under way");
        }
        return follow(&client, &open, Lines::Data(format)).await.map(drop);
    }
    deployments.truncate(arguments.last);
    match format {
        Format::Json => output::json(&deployments)?,
        Format::Table => table(&deployments).print()?,
    }
    Ok(())
}

fn table(deployments: &[Deployment]) -> Table {
    let now_ms = output::now_ms();
    let heading = [
        "ID", "SERVICE", "REVISION", "STATE", "READY", "CAUSE", "BEGAN", "TOOK", "DIGEST", "REASON",
    ];
    let mut table = Table::new(&heading);
    for deployment in deployments {
        let until_ms = deployment.finished_at_ms.unwrap_or(now_ms);
        table.row(vec![
            deployment.id.to_string(),
            deployment.service.to_string(),
            match deployment.from_revision {
                Some(from) => format!("r{} from r{from}", deployment.revision),
                None => format!("r{}", deployment.revision),
            },
            words(deployment.state).to_owned(),
            format!("{}/{}", deployment.ready, deployment.replicas),
            match deployment.cause {
                DeploymentCause::Command => "command",
                DeploymentCause::Push => "push",
            }
            .to_owned(),
            relative(deployment.created_at_ms, now_ms),
            span(until_ms.saturating_sub(deployment.created_at_ms)),
            short(&deployment.digest),
            deployment.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// Goes back to an earlier revision.
///
/// # Errors
/// When the server refuses, or the deployment that goes back does not succeed.
pub async fn rollback(arguments: Rollback) -> anyhow::Result<()> {
    let client = arguments.connection.open()?.client;
    let service = arguments.service.resolve(&client).await?;
    let answer = client.rollback(&service, arguments.revision).await;
    let answer = answer.with_context(|| match arguments.revision {
        Some(revision) => format!("roll {service} back to r{revision}"),
        None => format!("roll {service} back"),
    })?;
    eprintln!("{service} r{}: {}", answer.revision, short(&answer.digest));
    match answer.deployment_id {
        None => eprintln!("nothing had to change"),
        Some(id) if arguments.detach => {
            eprintln!("deployment {id} goes on; `pierhead deploys --follow` shows it");
        }
        Some(id) => follow(&client, &[id], Lines::Progress).await.map(drop)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_written_with_and_without_r() {
        assert_eq!(revision("r4"), Ok(4));
        assert_eq!(revision("4"), Ok(4));
        assert!(revision("rr4").is_err());
        assert!(revision("").is_err());
    }
}
