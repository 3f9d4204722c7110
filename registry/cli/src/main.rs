//! `pierhead`: the operator's command. Data goes to standard output, everything else to standard error; exit status 0
//! means done, 1 failed, 2 misuse.

mod image;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The Pierhead command.
#[derive(Debug, Parser)]
#[command(name = "pierhead", version)]
struct Arguments {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Copy, list, inspect and remove images.
    #[command(subcommand)]
    Image(image::Verb),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match arguments.noun {
                Noun::Image(verb) => image::run(verb).await,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pierhead: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that has seen enough is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io)
}
