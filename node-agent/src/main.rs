//! `pierhead-node`: the first argument decides, before any thread exists, which program this is: `runtime`, the OCI
//! runtime, or `shim`, the parent that holds one container. The daemon that will re-execute itself as both is not part
//! of this version.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "runtime" => runtime::command::main(rest),
        Some((first, rest)) if first == "shim" => runtime::shim::main(rest),
        _ => {
            eprintln!("pierhead-node: the first argument must be `runtime` or `shim`");
            ExitCode::from(2)
        }
    }
}
