//! `pierhead ps`: what runs where.

use anyhow::Context;
use api::{PortMapping, Protocol, TaskState, TaskSummary};
use clap::Args;

use crate::connection::Connection;
use crate::follow::hint_at_nodes;
use crate::output::{self, Format, OutputArguments, Table, or_dash, relative, short};
use crate::service::Named;

/// Arguments of `ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Only of this service, SERVICE or PROJECT/SERVICE.
    service: Option<Named>,
    /// Also containers that have ended for good.
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: OutputArguments,
}

/// Lists tasks.
///
/// # Errors
/// When the server refuses.
pub async fn run(arguments: Ps) -> anyhow::Result<()> {
    let client = arguments.connection.open()?.client;
    let service = match &arguments.service {
        Some(named) => Some(named.resolve(&client).await?),
        None => None,
    };
    let tasks = client.tasks(service.as_ref()).await;
    let mut tasks = tasks.with_context(|| format!("list the tasks of {}", client.host()))?;
    // What ended as wished is history; what failed is what people look for.
    tasks.retain(|task| arguments.all || task.state != TaskState::Stopped);
    tasks.sort_by(|a, b| {
        let key = |task: &TaskSummary| (task.slot, std::cmp::Reverse(task.revision));
        (&a.service, key(a), &a.id).cmp(&(&b.service, key(b), &b.id))
    });
    if tasks.is_empty() {
        eprintln!("nothing runs; `pierhead deploys` tells what was asked for");
        hint_at_nodes(&client).await;
    }
    match arguments.output.output {
        Format::Json => output::json(&tasks)?,
        Format::Table => table(&tasks, output::now_ms()).print()?,
    }
    Ok(())
}

fn table(tasks: &[TaskSummary], now_ms: i64) -> Table {
    let heading = [
        "TASK", "REVISION", "NODE", "STATE", "STARTED", "STARTS", "IMAGE", "PORTS", "REASON",
    ];
    let mut table = Table::new(&heading);
    for task in tasks {
        table.row(vec![
            format!("{}.{}", task.service, task.slot),
            format!("r{}", task.revision),
            task.node.clone(),
            state(task),
            or_dash(task.started_at_ms.map(|at_ms| relative(at_ms, now_ms))),
            task.attempt.to_string(),
            format!("{}@{}", task.image.repository, short(&task.image.digest)),
            ports(&task.ports),
            task.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn state(task: &TaskSummary) -> String {
    let is_over = matches!(
        task.state,
        TaskState::Backoff | TaskState::Failed | TaskState::Stopped
    );
    match task.exit_code {
        Some(code) if is_over => format!("{} (exit {code})", task.state.as_str()),
        _ => task.state.as_str().to_owned(),
    }
}

fn ports(ports: &[PortMapping]) -> String {
    let port = |port: &PortMapping| {
        let address = match port.host_ip {
            Some(std::net::IpAddr::V6(address)) => format!("[{address}]:"),
            Some(address) => format!("{address}:"),
            None => String::new(),
        };
        let protocol = match port.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        format!("{address}{}->{}{protocol}", port.host_port, port.container_port)
    };
    let all: Vec<String> = ports.iter().map(port).collect();
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{DesiredTask, PinnedImage};

    #[test]
    fn a_row_tells_where_and_how_it_goes() {
        let task = TaskSummary {
            id: "t1".to_owned(),
            service: "acme/web".parse().unwrap(),
            slot: 2,
            revision: 4,
            image: PinnedImage {
                repository: "acme/web".parse().unwrap(),
                digest: oci::Digest::sha256(b""),
            },
            node: "n1".to_owned(),
            desired: DesiredTask::Run,
            state: TaskState::Backoff,
            attempt: 3,
            container_id: None,
            started_at_ms: Some(0),
            exit_code: Some(137),
            reason: Some("out of memory".to_owned()),
            ports: vec![
                PortMapping {
                    host_ip: None,
                    host_port: 8080,
                    container_port: 80,
                    protocol: Protocol::Tcp,
                },
                PortMapping {
                    host_ip: Some("::1".parse().unwrap()),
                    host_port: 53,
                    container_port: 53,
                    protocol: Protocol::Udp,
                },
            ],
            labels: Default::default(),
        };
        let text = table(&[task], 60_000).to_string();
        let row = text.lines().nth(1).unwrap();
        let expected = "acme/web.2  r4        n1    backoff (exit 137)  60 s ago  3       acme/web@e3b0c44298fc  \
                        8080->80,[::1]:53->53/udp  out of memory";
        assert_eq!(row, expected);
    }
}
