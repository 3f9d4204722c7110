//! `pierhead login` and `logout`: the account at a server, verified before it is kept.

use std::io::{IsTerminal, Read};

use anyhow::{Context, bail};
use clap::Args;
use client::control::operator::{Account, OperatorClient};

use crate::connection::{Connection, ServerUrl};
use crate::credentials::Store;

/// The longest password read from standard input, in bytes.
const PASSWORD_MAX_BYTES: u64 = 4096;

/// HTTP's status for an account that is not known.
const UNAUTHORIZED: u16 = 401;

/// Arguments of `login`.
#[derive(Debug, Args)]
pub struct Login {
    /// The server.
    #[arg(
        long,
        env = "PIERHEAD_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:5000"
    )]
    server: ServerUrl,
    /// User name; asked for on a terminal where none is given.
    #[arg(long, env = "PIERHEAD_USERNAME", value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input; otherwise it comes from PIERHEAD_PASSWORD or is asked for on a terminal.
    #[arg(long)]
    password_stdin: bool,
}

/// Logs in.
///
/// # Errors
/// When there is no password, the server does not take it, or it cannot be kept.
pub async fn login(arguments: Login) -> anyhow::Result<()> {
    let Login {
        server,
        username,
        password_stdin,
    } = arguments;
    let mut store = Store::open()?;
    // Before anything is asked or sent.
    store.path()?;
    let username = match username {
        Some(username) => username,
        None => asked("User name: ", Asked::Openly).context("no user name; use --username")?,
    };
    let password = if password_stdin {
        password_of_stdin()?
    } else if let Ok(password) = std::env::var("PIERHEAD_PASSWORD") {
        password
    } else {
        asked(&format!("Password of {username} at {server}: "), Asked::Hidden)
            .context("no password; use --password-stdin or set PIERHEAD_PASSWORD")?
    };
    let account = Account { username, password };
    let client = OperatorClient::new(client::http()?, server.url().clone(), Some(account.clone()));
    client.verify().await.map_err(|error| {
        let is_refused = error.status().is_some_and(|status| status.as_u16() == UNAUTHORIZED);
        let error = anyhow::Error::from(error);
        match is_refused {
            true => anyhow::anyhow!(
                "{server} does not know user {} with this password; the first admin's was printed at the server's \
                 first start",
                account.username
            ),
            false => error.context(format!("log in at {server}; is it the address of a Pierhead server?")),
        }
    })?;
    store.keep(&server, &account)?;
    if server.is_open_to_eavesdroppers() {
        eprintln!("warning: {server} is not encrypted; the password can be read on its way");
    }
    eprintln!(
        "logged in at {server} as {}; kept in {}",
        account.username,
        store.path()?.display()
    );
    Ok(())
}

/// Forgets the account at a server.
///
/// # Errors
/// When there is none, or the file cannot be written.
pub fn logout(connection: &Connection) -> anyhow::Result<()> {
    let server = connection.server()?;
    let mut store = Store::open()?;
    if !store.forget(&server)? {
        bail!("there is no login at {server}; name another with --server");
    }
    eprintln!("logged out from {server}");
    Ok(())
}

fn password_of_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::io::stdin()
        .take(PASSWORD_MAX_BYTES)
        .read_to_string(&mut text);
    read.context("read the password from standard input")?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("standard input has no password");
    }
    Ok(password.to_owned())
}

#[derive(Clone, Copy)]
enum Asked {
    Openly,
    Hidden,
}

/// The answer of whoever sits at the terminal; `None` where nobody does.
fn asked(question: &str, how: Asked) -> Option<String> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    let answer = match how {
        Asked::Hidden => rpassword::prompt_password(question).ok()?,
        Asked::Openly => {
            eprint!("{question}");
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).ok()?;
            line.trim().to_owned()
        }
    };
    Some(answer).filter(|answer| !answer.is_empty())
}
