//! `pierhead`: the operator's command. Data goes to standard output, everything else to standard error; exit status 0
//! means done, 1 failed, 2 misuse.

mod compose;
mod connection;
mod credentials;
mod deploy;
mod deploys;
mod follow;
mod image;
mod login;
mod logs;
mod node;
mod output;
mod ps;
mod repo;
mod service;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

/// The Pierhead command.
#[derive(Debug, Parser)]
#[command(name = "pierhead", version)]
struct Arguments {
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Keep an account at a server for later commands.
    Login(login::Login),
    /// Forget the account at a server.
    Logout(connection::Connection),
    /// Copy, list, inspect and remove images.
    #[command(subcommand)]
    Image(image::Verb),
    /// Run the services of a compose file.
    Deploy(deploy::Deploy),
    /// List deployments, or follow those under way.
    Deploys(deploys::Deploys),
    /// Bring a service back to an earlier revision.
    Rollback(deploys::Rollback),
    /// List what runs where.
    Ps(ps::Ps),
    /// Print what a service's containers wrote.
    Logs(logs::Logs),
    /// List, inspect and remove services.
    #[command(subcommand)]
    Service(service::Verb),
    /// List and remove nodes, and let new ones in.
    #[command(subcommand)]
    Node(node::Verb),
    /// Look after what the registry stores.
    #[command(subcommand)]
    Repo(repo::Verb),
    /// Print the completion script of a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// Shells that scripts are made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(arguments.noun)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pierhead: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(noun: Noun) -> anyhow::Result<()> {
    match noun {
        Noun::Login(arguments) => login::login(arguments).await,
        Noun::Logout(connection) => login::logout(&connection),
        Noun::Image(verb) => image::run(verb).await,
        Noun::Deploy(arguments) => deploy::run(arguments).await,
        Noun::Deploys(arguments) => deploys::list(arguments).await,
        Noun::Rollback(arguments) => deploys::rollback(arguments).await,
        Noun::Ps(arguments) => ps::run(arguments).await,
        Noun::Logs(arguments) => logs::run(arguments).await,
        Noun::Service(verb) => service::run(verb).await,
        Noun::Node(verb) => node::run(verb).await,
        Noun::Repo(verb) => repo::run(verb).await,
        Noun::Completion { shell } => completion(shell),
    }
}

fn completion(shell: Shell) -> anyhow::Result<()> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Through memory, as the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pierhead", &mut script);
    let mut out = output::stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(())
}

/// A reader that has seen enough is no failure; any other broken pipe or connection is one.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    let is_ours = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.and_then(std::io::Error::get_ref)
            .is_some_and(|inner| inner.is::<output::ReaderGone>())
    };
    error.chain().any(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_secret_is_an_argument() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                let is_secret = name.contains("password") || name.contains("token");
                assert!(
                    !is_secret || name == "password_stdin",
                    "{} takes {name}, which every process can see",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }
}
