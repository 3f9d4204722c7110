//! `pierhead node`: the machines of the cluster.

use std::io::Write;

use anyhow::{Context, bail};
use api::{JoinToken, NodeStatus, NodeSummary};
use clap::Subcommand;
use serde::Serialize;

use crate::connection::{Connection, ServerUrl};
use crate::output::{self, Format, OutputArguments, Table, or_dash, relative};

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List nodes.
    Ls {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Print the command with which one machine joins.
    Token {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Remove a node; its key is worth nothing from then on.
    Rm {
        /// Its name or id.
        node: String,
        /// Also when it is still heard of or has tasks.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

/// Does it.
///
/// # Errors
/// When the server refuses, or there is no such node.
pub async fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Ls { connection, output } => {
            let client = connection.open()?.client;
            let nodes = client.nodes().await;
            let nodes = nodes.with_context(|| format!("list the nodes of {}", client.host()))?;
            match output.output {
                Format::Json => output::json(&nodes)?,
                Format::Table => table(&nodes, output::now_ms()).print()?,
            }
        }
        Verb::Token { connection, output } => {
            let operator = connection.open()?;
            let token = operator.client.join_token().await;
            let token = token.with_context(|| format!("make a join token at {}", operator.server))?;
            show(&operator.server, token, output.output)?;
        }
        Verb::Rm {
            node,
            force,
            connection,
        } => {
            let client = connection.open()?.client;
            let nodes = client.nodes().await;
            let nodes = nodes.with_context(|| format!("look for node {node} at {}", client.host()))?;
            let found = find(&nodes, &node)?;
            let removed = client.node_remove(&found.id, force).await;
            removed.with_context(|| format!("remove node {} ({})", found.name, found.id))?;
            eprintln!("node {} is removed", found.name);
        }
    }
    Ok(())
}

fn show(server: &ServerUrl, token: JoinToken, format: Format) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Shown {
        server: String,
        #[serde(flatten)]
        token: JoinToken,
    }
    if format == Format::Json {
        let server = server.to_string();
        return Ok(output::json(&Shown { server, token })?);
    }
    let until = output::moment(token.expires_at_ms, output::now_ms());
    let mut out = output::stdout();
    writeln!(
        out,
        "pierhead-node join --server {server} --token {}",
        token.token
    )?;
    out.flush()?;
    if server.is_of_this_machine() {
        eprintln!(
            "{server} is this machine; on another one, write the address that it reaches the server by"
        );
    }
    eprintln!("run this on the machine; the token is good for one machine, until {until}");
    Ok(())
}

/// The node of that id or name; a beginning of an id is enough where only one has it.
fn find<'a>(nodes: &'a [NodeSummary], wanted: &str) -> anyhow::Result<&'a NodeSummary> {
    if let Some(node) = nodes.iter().find(|node| node.id == wanted || node.name == wanted) {
        return Ok(node);
    }
    let mut beginning = nodes
        .iter()
        .filter(|node| wanted.len() >= 4 && node.id.starts_with(wanted));
    match (beginning.next(), beginning.next()) {
        (Some(node), None) => Ok(node),
        (Some(_), Some(_)) => bail!("several nodes have ids that begin with {wanted}; name one in full"),
        _ => {
            let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            match names.is_empty() {
                true => bail!("there is no node {wanted}, and no other"),
                false => bail!("there is no node {wanted}; there are: {}", names.join(", ")),
            }
        }
    }
}

fn table(nodes: &[NodeSummary], now_ms: i64) -> Table {
    let heading = [
        "NAME", "ID", "STATUS", "TASKS", "SEEN", "JOINED", "MACHINE", "CPUS", "MEMORY", "KERNEL", "AGENT",
    ];
    let mut table = Table::new(&heading);
    for node in nodes {
        table.row(vec![
            node.name.clone(),
            node.id.chars().take(12).collect(),
            match node.status {
                NodeStatus::Ready => "ready",
                NodeStatus::Suspect => "suspect",
                NodeStatus::Down => "down",
            }
            .to_owned(),
            node.tasks.to_string(),
            or_dash(node.last_seen_ms.map(|at_ms| relative(at_ms, now_ms))),
            relative(node.joined_at_ms, now_ms),
            format!("{}/{}", node.facts.os, node.facts.architecture),
            node.facts.cpus.to_string(),
            format!("{} MiB", node.facts.memory_bytes >> 20),
            node.facts.kernel.clone(),
            node.facts.agent_version.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, name: &str) -> NodeSummary {
        NodeSummary {
            id: id.to_owned(),
            name: name.to_owned(),
            status: NodeStatus::Ready,
            labels: Default::default(),
            facts: Default::default(),
            tasks: 0,
            generation: 1,
            applied_generation: 1,
            last_seen_ms: None,
            joined_at_ms: 0,
        }
    }

    #[test]
    fn nodes_are_found_by_name_id_and_its_beginning() {
        let nodes = [node("aaaa1111", "n1"), node("aaaa2222", "n2")];
        let id = |wanted: &str| find(&nodes, wanted).map(|node| node.id.clone());
        assert_eq!(id("n1").unwrap(), "aaaa1111");
        assert_eq!(id("aaaa2222").unwrap(), "aaaa2222");
        assert_eq!(id("aaaa2").unwrap(), "aaaa2222");
        assert!(id("aaaa").unwrap_err().to_string().contains("several"));
        assert!(id("a").unwrap_err().to_string().contains("n1, n2"));
        assert!(id("n3").is_err());
    }
}
