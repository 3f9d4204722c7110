//! The command line: `pierhead-runtime [global options] COMMAND [options] [arguments]`, with the names that
//! other OCI runtimes use.

mod arguments;
mod create;
mod exec;
mod features;
mod foreground;
mod inspect;
mod signal;
mod stats;
mod update;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;

use arguments::{Arguments, Global};

use crate::clock;
use crate::failure::{Failure, Result};

const USAGE: &str = "usage: pierhead-runtime [--root DIR] [--log FILE] [--log-format text|json] COMMAND
  create  [--bundle DIR] [--pid-file FILE] [--console-socket PATH] [--preserve-fds N] ID
  start   ID
  run     [--bundle DIR] [--pid-file FILE] [--console-socket PATH] [--preserve-fds N] [--detach] [--keep] ID
  exec    [--process FILE] [--cwd DIR] [--env K=V] [--user UID[:GID]] [--additional-gids GID] [--cap CAP] [--tty]
          [--no-new-privs] [--apparmor PROFILE] [--process-label LABEL] [--pid-file FILE] [--console-socket PATH]
          [--preserve-fds N] [--ignore-paused] [--detach] ID [COMMAND...]
  state   ID
  kill    [--all] ID [SIGNAL]
  delete  [--force] ID
  pause   ID
  resume  ID
  update  [--resources FILE|-] [--memory BYTES] [--memory-swap BYTES] [--cpu-quota US] [--cpu-period US] … ID
  events  --stats ID
  ps      [--format json|table] ID
  list    [--quiet] [--format json|table]
  features";

/// Runs a command. The exit code is 0, the container's own for `run` and `exec`, 1 when the command failed
/// and 2 when it was not understood.
pub fn main(args: &[String]) -> ExitCode {
    let mut arguments = Arguments::new(args);
    let global = match Global::parse(&mut arguments) {
        Ok(global) => global,
        Err(failure) => return misuse(&failure),
    };
    let Some(command) = arguments.next() else {
        return misuse(&Failure::new("arguments", "no command given"));
    };
    let done = match command.as_str() {
        "create" => create::create(&global, arguments),
        "run" => create::run(&global, arguments),
        "start" => create::start(&global, arguments),
        "exec" => exec::exec(&global, arguments),
        "state" => inspect::state(&global, arguments),
        "list" => inspect::list(&global, arguments),
        "ps" => inspect::ps(&global, arguments),
        "features" => features::features(),
        "update" => update::update(&global, arguments),
        "events" => stats::events(&global, arguments),
        "kill" => signal::kill(&global, arguments),
        "delete" => signal::delete(&global, arguments),
        "pause" => signal::freeze(&global, arguments, true),
        "resume" => signal::freeze(&global, arguments, false),
        "--version" | "-v" => {
            println!(
                "pierhead-runtime {}\nspec: {}",
                env!("CARGO_PKG_VERSION"),
                crate::container::OCI_VERSION
            );
            Ok(0)
        }
        "--help" | "-h" | "help" => {
            println!("{USAGE}");
            Ok(0)
        }
        other => Err(Failure::new("arguments", format!("unknown command {other}"))),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) if failure.step == "arguments" => misuse(&failure),
        Err(failure) => {
            tell(&global, &failure);
            ExitCode::FAILURE
        }
    }
}

/// A command's result: the exit code.
type Done = Result<u8>;

fn misuse(failure: &Failure) -> ExitCode {
    eprintln!("pierhead-runtime: {}\n{USAGE}", failure.message);
    ExitCode::from(2)
}

/// Errors go to standard error and, because engines read it there, to the log.
fn tell(global: &Global, failure: &Failure) {
    eprintln!("pierhead-runtime: {failure}");
    let Some(path) = &global.log else { return };
    let line = if global.is_log_json {
        serde_json::json!({"level": "error", "msg": failure.to_string(), "time": clock::now()}).to_string()
    } else {
        format!(
            "time={:?} level=error msg={:?}",
            clock::now(),
            failure.to_string()
        )
    };
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        // The same text is on standard error already.
        let _ = writeln!(file, "{line}");
    }
}
