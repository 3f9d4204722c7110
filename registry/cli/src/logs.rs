//! `pierhead logs`: what the containers of a service wrote, from all nodes.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};

use anyhow::Context;
use api::{LogEvent, LogLine, LogQuery, LogStream, ServiceName};
use clap::Args;
use client::control::operator::OperatorClient;
use futures::StreamExt;

use crate::connection::Connection;
use crate::output::{self, Format, OutputArguments};
use crate::service::Named;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The service, SERVICE or PROJECT/SERVICE.
    service: Named,
    /// Go on with what is written from now on; Ctrl-C ends it.
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines of each container.
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Only this copy, from 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    slot: Option<u32>,
    /// Begin each line with its time.
    #[arg(long, short)]
    timestamps: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: OutputArguments,
}

/// Foreground colours of ANSI terminals that can be read on dark and light, one per copy in turn.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Prints logs. Lines of standard error go to standard error.
///
/// # Errors
/// When the server refuses or the connection breaks.
pub async fn run(arguments: Logs) -> anyhow::Result<()> {
    let client = arguments.connection.open()?.client;
    let service = arguments.service.resolve(&client).await?;
    let query = LogQuery {
        follow: arguments.follow,
        tail: arguments.tail,
        slot: arguments.slot,
    };
    let lines = client.logs(&service, &query).await;
    let mut lines = lines.with_context(|| format!("read the logs of {service}"))?;
    let mut slots = Slots::new(client, service.clone());
    let has_colours = std::env::var_os("NO_COLOR").is_none();
    let paint = |is_terminal: bool| is_terminal && has_colours;
    let (paint_out, paint_err) = (
        paint(std::io::stdout().is_terminal()),
        paint(std::io::stderr().is_terminal()),
    );
    while let Some(event) = lines.next().await {
        let event = event.with_context(|| format!("read the logs of {service}"))?;
        if arguments.output.output == Format::Json {
            let mut out = output::stdout();
            writeln!(out, "{}", serde_json::to_string(&event)?)?;
            out.flush()?;
            continue;
        }
        match event {
            LogEvent::Notice { notice } => eprintln!("pierhead: {}", output::clean(&notice)),
            LogEvent::Line(line) => {
                let slot = slots.of(&line.task_id).await;
                let is_error = line.stream == LogStream::Stderr;
                let is_painted = if is_error { paint_err } else { paint_out };
                let text = text(&line, service.service(), slot, arguments.timestamps, is_painted);
                if is_error {
                    // Whoever closed standard error does not want to hear it.
                    let _ = std::io::stderr().write_all(text.as_bytes());
                } else {
                    let mut out = output::stdout();
                    out.write_all(text.as_bytes())?;
                    out.flush()?;
                }
            }
        }
    }
    Ok(())
}

/// `web.1 | text`. A line without an end gets one, so that the next one starts at the left.
fn text(line: &LogLine, service: &str, slot: Option<u32>, has_time: bool, is_painted: bool) -> String {
    let name = match slot {
        Some(slot) => format!("{service}.{slot}"),
        None => line.task_id.clone(),
    };
    let prefix = match is_painted {
        true => {
            let colour = COLOURS[slot.unwrap_or_default() as usize % COLOURS.len()];
            format!("\x1b[{colour}m{name} |\x1b[0m ")
        }
        false => format!("{name} | "),
    };
    let time = if has_time {
        format!("{} ", line.time)
    } else {
        String::new()
    };
    let end = if line.log.ends_with('\n') { "" } else { "\n" };
    format!("{prefix}{time}{}{end}", line.log)
}

/// Which copy a task is. Lines name the task; the server is asked when a new one turns up.
struct Slots {
    client: OperatorClient,
    service: ServiceName,
    known: HashMap<String, Option<u32>>,
}

impl Slots {
    fn new(client: OperatorClient, service: ServiceName) -> Self {
        Self {
            client,
            service,
            known: HashMap::new(),
        }
    }

    async fn of(&mut self, task_id: &str) -> Option<u32> {
        if let Some(slot) = self.known.get(task_id) {
            return *slot;
        }
        let tasks = self.client.tasks(Some(&self.service)).await.unwrap_or_default();
        let slots: BTreeMap<String, u32> = tasks.into_iter().map(|task| (task.id, task.slot)).collect();
        let slot = slots.get(task_id).copied();
        self.known
            .extend(slots.into_iter().map(|(id, slot)| (id, Some(slot))));
        // Not asked again for a task that the server has forgotten.
        self.known.insert(task_id.to_owned(), slot);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(log: &str) -> LogLine {
        LogLine {
            task_id: "t1".to_owned(),
            stream: LogStream::Stdout,
            time: "2026-01-01T00:00:00Z".to_owned(),
            log: log.to_owned(),
        }
    }

    #[test]
    fn each_line_names_its_copy() {
        assert_eq!(text(&line("x\n"), "web", Some(2), false, false), "web.2 | x\n");
        assert_eq!(text(&line("x"), "web", None, false, false), "t1 | x\n");
        assert_eq!(
            text(&line("x\n"), "web", Some(1), true, false),
            "web.1 | 2026-01-01T00:00:00Z x\n"
        );
        assert_eq!(
            text(&line("x\n"), "web", Some(1), false, true),
            "\x1b[33mweb.1 |\x1b[0m x\n"
        );
    }
}
