//! `pierhead-node`: the first argument decides, before any thread exists, which program this is. `runtime` is the OCI
//! runtime, `shim` the parent that holds one container, `unpack` what writes a layer of an image; the daemon re-executes
//! itself as these. Anything else is a command of the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use node_agent::config::{Config, DEFAULT_DATA, Flags};
use node_agent::fleet::join::{self, Joined};
use node_agent::host::{self, Verdict};

/// The Pierhead node agent.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Join the cluster of a server, with a token that `pierhead node token` gives.
    Join(JoinArguments),
    /// Say whether the configuration is valid and whether this machine can run containers.
    Check(Flags),
    /// Print the annotated default configuration.
    Default,
}

#[derive(Debug, clap::Args)]
struct JoinArguments {
    /// URL of the server.
    #[arg(long, value_name = "URL")]
    server: String,
    /// The one-use token. Others on this machine can see arguments; the variable and the file hide it.
    #[arg(
        long,
        env = "PIERHEAD_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<String>,
    /// File that holds the token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Name of this node in the cluster. Default: the machine's host name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Directory for what outlives a reboot.
    #[arg(long, env = "PIERHEAD_NODE_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "runtime" => runtime::command::main(rest),
        Some((first, rest)) if first == "shim" => runtime::shim::main(rest),
        Some((first, rest)) if first == "unpack" => node_agent::image::unpack::main(rest),
        _ => daemon(),
    }
}

fn daemon() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Join(arguments) => join(arguments),
        Command::Check(flags) => check(flags),
        Command::Default => {
            print!("{}", include_str!("../../config/node-agent.toml"));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pierhead-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn join(arguments: JoinArguments) -> anyhow::Result<()> {
    let server = join::server_url(&arguments.server)?;
    if join::is_readable_on_the_way(&server) {
        eprintln!(
            "warning: {server} is not encrypted; whoever is on the way can read the token and the images"
        );
    }
    let token = match (arguments.token, arguments.token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            std::fs::read_to_string(&path).with_context(|| format!("read the token in {}", path.display()))?
        }
        (None, None) => bail!(
            "a token is needed: --token-file FILE, --token TOKEN, or the variable PIERHEAD_JOIN_TOKEN; `pierhead node \
             token` makes one"
        ),
    };
    let name = match arguments.name {
        Some(name) => name,
        None => {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
            name.trim().to_owned()
        }
    };
    match join::join(&arguments.data, &server, token.trim(), &name).await? {
        Joined::Now(node) => eprintln!("joined {} as {} ({})", node.server, node.name, node.node_id),
        Joined::Before(node) => {
            eprintln!(
                "had joined {} before, as {} ({})",
                node.server, node.name, node.node_id
            );
        }
    }
    Ok(())
}

fn check(flags: Flags) -> anyhow::Result<()> {
    let config = Config::load(flags);
    match &config {
        Ok(_) => eprintln!("the configuration is valid"),
        Err(error) => eprintln!("the configuration is not valid:\n{error}"),
    }
    let findings = host::check();
    for finding in &findings {
        eprintln!("{finding}");
    }
    let is_missing = |finding: &&host::Finding| matches!(finding.verdict, Verdict::Missing(_));
    match (config, findings.iter().find(is_missing)) {
        (Ok(_), None) => Ok(()),
        (Err(_), _) => bail!("correct the configuration"),
        (Ok(_), Some(_)) => bail!("this machine cannot run containers"),
    }
}
