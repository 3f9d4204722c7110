//! `pierhead deploy`: from a compose file to services that run.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use api::{ServiceName, ServiceSpec};
use clap::Args;
use client::control::operator::OperatorClient;

use crate::compose;
use crate::connection::Connection;
use crate::follow::{Lines, follow, hint_at_nodes};
use crate::output::{self, Format, OutputArguments};

/// What `--help` says about compose files.
const KEYS_HELP: &str = "\
Keys that are carried out, in compose's meaning: name, services, x-*; in a service image, command, entrypoint,
environment, env_file, labels, user, working_dir, hostname, read_only, cap_add, cap_drop, ports, expose, restart,
stop_grace_period, mem_limit, cpus, pids_limit, scale, and of deploy mode: replicated, replicas, resources.limits and
restart_policy.condition. x-trigger: push (the default) deploys when the tag is pushed, off only by this command.

An image without a host is one of the server's own registry: `acme/web:v1` as pushed there, `dockerhub/library/nginx:1`
through its cache. Values may hold ${NAME}, ${NAME:-DEFAULT} and ${NAME:?MESSAGE}, from the environment and from the
file .env beside the compose file. All else is refused, unless --allow names it.";

/// Arguments of `deploy`.
#[derive(Debug, Args)]
#[command(after_long_help = KEYS_HELP)]
pub struct Deploy {
    /// Only these services of the file; all where none is named.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// The compose file, `-` for standard input; compose.yaml, compose.yml, docker-compose.yaml or docker-compose.yml
    /// where none is given.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The project; what the file says under `name`, or the name of its directory, where none is given.
    #[arg(long, short, env = "PIERHEAD_PROJECT", value_name = "NAME")]
    project: Option<String>,
    /// Ignore a key that is not supported, by its name or its whole path; may be repeated.
    #[arg(long, value_name = "KEY")]
    allow: Vec<String>,
    /// Print what would be asked of the server, and ask nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end of the deployments.
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: OutputArguments,
}

/// Deploys.
///
/// # Errors
/// When the file has problems, all told at once, the server refuses a service, or a deployment does not succeed.
pub async fn run(arguments: Deploy) -> anyhow::Result<()> {
    let services = read(&arguments)?;
    if arguments.dry_run {
        let specs: serde_json::Map<String, serde_json::Value> = services
            .iter()
            .map(|(name, spec)| Ok((name.to_string(), serde_json::to_value(spec)?)))
            .collect::<serde_json::Result<_>>()?;
        return Ok(output::json(&specs)?);
    }
    let client = arguments.connection.open()?.client;
    let (ids, refused) = request(&client, services).await;
    let mut deployments = Vec::new();
    if arguments.detach {
        for id in &ids {
            eprintln!("deployment {id} goes on; `pierhead deploys --follow` shows it");
        }
        if !ids.is_empty() {
            hint_at_nodes(&client).await;
        }
    } else {
        deployments = follow(&client, &ids, Lines::Progress).await?;
    }
    if arguments.output.output == Format::Json {
        output::json(&deployments)?;
    }
    match refused {
        0 => Ok(()),
        count => bail!("{count} of the services could not be deployed, as told above"),
    }
}

/// Asks for each service. The others go on when one is refused; returns the deployments and how many were refused.
async fn request(client: &OperatorClient, services: Vec<(ServiceName, ServiceSpec)>) -> (Vec<u64>, usize) {
    let mut ids = Vec::new();
    let mut refused = 0;
    for (name, spec) in services {
        let image = image(&spec);
        match client.deploy(&name, spec).await {
            Ok(answer) => {
                let digest = output::short(&answer.digest);
                match answer.deployment_id {
                    Some(id) => {
                        eprintln!("{name} r{}: {image} is {digest}", answer.revision);
                        ids.push(id);
                    }
                    None => eprintln!("{name} r{}: unchanged, {image} is {digest}", answer.revision),
                }
            }
            Err(error) => {
                refused += 1;
                let error = anyhow::Error::from(error).context(format!("deploy {name} with {image}"));
                eprintln!("pierhead: {error:#}");
            }
        }
    }
    (ids, refused)
}

fn image(spec: &ServiceSpec) -> String {
    let tag = spec.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = spec
        .digest
        .as_ref()
        .map(|d| format!("@{}", output::short(d)))
        .unwrap_or_default();
    format!("{}{tag}{digest}", spec.repository)
}

/// Reads the compose file and picks the services that are asked for.
fn read(arguments: &Deploy) -> anyhow::Result<Vec<(ServiceName, ServiceSpec)>> {
    let here = std::env::current_dir().context("find the current directory")?;
    let (shown, directory, text) = match &arguments.file {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            let limit = compose::FILE_MAX_BYTES as u64 + 1;
            let read = std::io::stdin().take(limit).read_to_string(&mut text);
            read.context("read the compose file from standard input")?;
            ("standard input".to_owned(), here, text)
        }
        given => {
            let path = match given {
                Some(path) => path.clone(),
                None => find(&here)?,
            };
            let text =
                read_limited(&path).with_context(|| format!("read compose file {}", path.display()))?;
            let absolute = std::path::absolute(&path)?;
            let directory = absolute.parent().map(Path::to_owned).unwrap_or(here);
            (path.display().to_string(), directory, text)
        }
    };
    let server = arguments.connection.server()?;
    let options = compose::Options {
        directory: &directory,
        project: arguments.project.as_deref(),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
            .collect(),
        allowed: &arguments.allow,
        server_host: &server.host(),
    };
    let project = compose::read(&text, options).map_err(|compose::ComposeError(problems)| {
        let count = match problems.len() {
            1 => "a problem".to_owned(),
            count => format!("{count} problems"),
        };
        anyhow::anyhow!("{shown} has {count}:\n  {}", problems.join("\n  "))
    })?;
    for warning in &project.warnings {
        eprintln!("warning: {shown}: {warning}");
    }
    pick(project.services, &arguments.services, &shown)
}

fn read_limited(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let limit = compose::FILE_MAX_BYTES as u64 + 1;
    std::fs::File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

fn find(directory: &Path) -> anyhow::Result<PathBuf> {
    let mut names = compose::FILE_NAMES.into_iter();
    let found = names.find(|name| directory.join(name).exists());
    found.map(PathBuf::from).with_context(|| {
        format!(
            "there is no {} in {}; name a file with --file",
            compose::FILE_NAMES.join(", "),
            directory.display()
        )
    })
}

fn pick(
    services: Vec<(ServiceName, ServiceSpec)>,
    wanted: &[String],
    file: &str,
) -> anyhow::Result<Vec<(ServiceName, ServiceSpec)>> {
    let is_meant = |name: &ServiceName, wanted: &String| name.service() == wanted || name.as_str() == wanted;
    let unknown: Vec<&str> = wanted
        .iter()
        .filter(|wanted| !services.iter().any(|(name, _)| is_meant(name, wanted)))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let all: Vec<&str> = services.iter().map(|(name, _)| name.service()).collect();
        bail!(
            "{file} has no service {}; it has {}",
            unknown.join(", "),
            all.join(", ")
        );
    }
    let is_picked =
        |name: &ServiceName| wanted.is_empty() || wanted.iter().any(|wanted| is_meant(name, wanted));
    Ok(services.into_iter().filter(|(name, _)| is_picked(name)).collect())
}
