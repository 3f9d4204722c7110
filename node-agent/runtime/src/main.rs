//! The OCI runtime alone, for use under other engines and by validation suites.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match args.split_first() {
        Some((first, rest)) if first == "shim" => runtime::shim::main(rest),
        _ => runtime::command::main(&args),
    }
}
