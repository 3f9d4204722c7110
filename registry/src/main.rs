//! `pierhead-registry`: arguments → configuration → tracing → application → serve → drain.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use registry::config::{Config, Flags};
use registry::{app, http};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The Pierhead registry server.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve(Flags),
    /// Say whether a configuration is valid, and what is wrong with it.
    Check(Flags),
    /// Print the annotated default configuration.
    Default,
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Serve(flags) => serve(flags),
        Command::Check(flags) => Config::load(flags)
            .map(|_| eprintln!("the configuration is valid"))
            .map_err(Into::into),
        Command::Default => {
            print!("{}", include_str!("../../config/registry.toml"));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pierhead-registry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(flags: Flags) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("PIERHEAD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let config = Config::load(flags)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let (app, made_password) = app::build(config).await?;
    if let Some(password) = made_password {
        eprintln!(
            "first admin: user {} password {password} (shown once)",
            registry::auth::FIRST_ADMIN
        );
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopping = app.stopping.clone();
    tokio::spawn(async move {
        // Both are cancel safe.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    eprintln!("listening on http://{address}");
    http::serve(listener, http::router(app.clone()), app.stopping.clone()).await;
    app.tasks.close();
    if tokio::time::timeout(Duration::from_secs(10), app.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!("some background work did not end in time");
    }
    app.db.close().await;
    Ok(())
}
