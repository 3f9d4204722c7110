//! `pierhead-node`: the first argument decides, before any thread exists, which program this is. `runtime` is the OCI
//! runtime, `shim` the parent that holds one container, `unpack` the confined reader of layers; the daemon re-executes
//! itself as each of them. Anything else is a command of the daemon: `serve` goes lock → images → network → containers
//! → fleet → local API, on one screen.

use std::fs::{File, TryLockError};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use node_agent::config::{Config, DEFAULT_DATA, Flags};
use node_agent::docker::{self, Socket};
use node_agent::durable;
use node_agent::engine::{ContainerState, Engine, EngineConfig};
use node_agent::fleet::identity::{Membership, NodeKey};
use node_agent::fleet::join::{self, Joined};
use node_agent::fleet::{Fleet, FleetError};
use node_agent::host::{self, Verdict};
use node_agent::image::{self, ImageStore};
use node_agent::network::Network;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How long it may take to take back what a stopped container had.
const RELEASE: Duration = Duration::from_secs(20);

/// The Pierhead node agent.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Run containers until SIGTERM or SIGINT; containers outlive it.
    Serve(Flags),
    /// Join the cluster of a server, with a token that `pierhead node token` gives.
    Join(JoinArguments),
    /// Remove everything of this agent from this machine: containers, images, networks, key and membership.
    Purge(PurgeArguments),
    /// Stop every container of an agent that does not run; the next `serve` starts those that a server wants.
    Stop(StopArguments),
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

#[derive(Debug, clap::Args)]
struct StopArguments {
    #[command(flatten)]
    flags: Flags,
    /// Seconds between SIGTERM and SIGKILL.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace_s: u64,
}

#[derive(Debug, clap::Args)]
struct PurgeArguments {
    #[command(flatten)]
    flags: Flags,
    /// Confirm that everything is to go.
    #[arg(long)]
    yes: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "runtime" => runtime::command::main(rest),
        Some((first, rest)) if first == "shim" => runtime::shim::main(rest),
        Some((first, rest)) if first == "unpack" => image::unpack::main(rest),
        _ => daemon(),
    }
}

fn daemon() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Serve(flags) => serve(flags),
        Command::Join(arguments) => join(arguments),
        Command::Purge(arguments) => purge(arguments),
        Command::Stop(arguments) => stop(arguments),
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

#[tokio::main]
async fn serve(flags: Flags) -> anyhow::Result<()> {
    log("info");
    let config = Config::load(flags)?;
    let _lock = lock(&config.data)?;
    let node = if config.is_standalone {
        None
    } else {
        Some(membership(&config.data)?)
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let (engine, images, network) = open(&config).await?;
    let mut fleet = match node {
        Some((membership, key)) => {
            let parts = (engine.clone(), images.clone(), network.clone());
            Some(Fleet::start(&config.data, membership, key, config.keep_unused_images, parts).await?)
        }
        None => None,
    };
    let socket = Socket::bind(&config.socket).await?;
    let shutdown = CancellationToken::new();
    let ended = shutdown.clone().cancelled_owned();
    let mut api = tokio::spawn(docker::serve((engine, images, network), socket, ended));
    eprintln!("pierhead-node: ready");
    // All are cancel safe.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        error = broken(fleet.as_mut()) => return Err(error.into()),
        served = &mut api => return served?.context("serve the local API"),
    }
    tracing::info!("stopping; containers go on");
    shutdown.cancel();
    api.await?.context("end the local API")
}

/// Opens what containers are made of, in the order in which the parts need each other.
async fn open(config: &Config) -> anyhow::Result<(Engine, ImageStore, Network)> {
    let images = ImageStore::open(&config.data.join("image"))
        .await
        .context("open the image store")?;
    let network = Network::open(config.network.clone())
        .await
        .context("open the network")?;
    let engine_config = EngineConfig {
        data: config.data.join("containers"),
        run: config.run.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
    };
    let engine = Engine::open(engine_config, images.clone(), network.clone())
        .await
        .context("open the containers")?;
    Ok((engine, images, network))
}

fn log(level: &str) {
    let filter = EnvFilter::try_from_env("PIERHEAD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

async fn broken(fleet: Option<&mut Fleet>) -> FleetError {
    match fleet {
        Some(fleet) => fleet.broken().await,
        None => std::future::pending().await,
    }
}

#[tokio::main]
async fn stop(arguments: StopArguments) -> anyhow::Result<()> {
    log("warn");
    let config = Config::load(arguments.flags)?;
    let _lock = lock(&config.data)?;
    let (engine, _, network) = open(&config).await?;
    let grace = Duration::from_secs(arguments.grace_s);
    let mut containers = engine.list().await;
    containers.retain(|container| matches!(container.state, ContainerState::Running { .. }));
    let stopping = containers.into_iter().map(|container| {
        let engine = engine.clone();
        async move {
            let stopped = engine.stop(&container.id, grace).await;
            stopped.with_context(|| format!("stop container {}", container.name))?;
            let released = tokio::time::timeout(RELEASE, engine.released(&container.id)).await;
            let late = || {
                format!(
                    "what container {} had is still there; the log says why",
                    container.name
                )
            };
            Ok(released.with_context(late)??)
        }
    });
    // All at once, and the others although one cannot be stopped.
    let stopped: anyhow::Result<Vec<()>> = futures::future::join_all(stopping).await.into_iter().collect();
    stopped?;
    // Nobody is attached to it any more, and the next agent makes it again.
    network.remove().await.context("remove the network")
}

#[tokio::main]
async fn purge(arguments: PurgeArguments) -> anyhow::Result<()> {
    log("warn");
    let config = Config::load(arguments.flags)?;
    if !arguments.yes {
        bail!(
            "this removes {} and every container that lives from it; add --yes if that is meant",
            config.data.display()
        );
    }
    let _lock = lock(&config.data)?;
    let (engine, _, network) = open(&config).await?;
    for container in engine.list().await {
        let removed = engine.remove(&container.id, true).await;
        removed.with_context(|| format!("remove container {}", container.name))?;
    }
    network.remove().await.context("remove the network")?;
    for hierarchy in runtime::cgroup::hierarchies()? {
        // It stays where another agent has containers in it, or where there never was one.
        let _ = std::fs::remove_dir(hierarchy.mount.join(&config.cgroup_parent));
    }
    // Only now, when nothing is mounted below it any more.
    std::fs::remove_dir_all(&config.data).with_context(|| format!("remove {}", config.data.display()))
}

/// Keeps a second agent off the same data for as long as the file is open.
fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let open = || -> std::io::Result<File> {
        durable::make_private_directory(data)?;
        File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
    };
    let file = open().with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another agent works on {}; stop it, or choose another directory with --data",
            data.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn membership(data: &Path) -> anyhow::Result<(Membership, NodeKey)> {
    let Some(membership) = Membership::load(data)? else {
        bail!(
            "this node has not joined a cluster: run `pierhead-node join --server URL --token-file FILE --data {}` \
             first, or add --standalone",
            data.display()
        );
    };
    let key = NodeKey::load_or_create(data)?;
    if key.id() != membership.node_id {
        bail!(
            "the key in {0} is not that of node {1}, as which this machine has joined; restore it, or remove \
             {0}/node.json and join again",
            data.join("fleet").display(),
            membership.node_id
        );
    }
    if join::is_readable_on_the_way(&membership.server) {
        tracing::warn!(server = %membership.server, "the server is not reached encrypted");
    }
    Ok((membership, key))
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
