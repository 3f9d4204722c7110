//! `deploy/quickstart`: one command from a checkout to a served registry, and everything it starts ends with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use blackbox::image::layout;
use blackbox::process::{Process, run, succeed};
use blackbox::{binary, wait_for};

/// What Ctrl-C sends.
const SIGINT: i32 = 2;

fn start(data: &Path) -> Process {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target: PathBuf = binary("pierhead").ancestors().nth(2).unwrap().to_owned();
    let mut command = Command::new(top.join("deploy/quickstart"));
    command.arg("-c").arg("exec deploy/quickstart").current_dir(top);
    command
        .env("CARGO_TARGET_DIR", target)
        .env("PIERHEAD_DATA", data)
        .env("PIERHEAD_LISTEN", "127.0.0.1:0");
    Process::start_slow(command)
}

#[test]
fn quickstart_serves_what_it_says_and_again_on_the_same_data() {
    if cfg!(debug_assertions) {
        eprintln!("left out: quickstart builds the release profile, which this is not");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let source = directory.path().join("image");
    layout(&source, &[("f", b"x")]);
    let process = start(&data);
    let line = process.line_after("first admin: user admin password ");
    let address = process.line_after("listening on http://");
    let password = line.split(' ').next().unwrap().to_owned();
    let image = |verb: &str, arguments: &[&str]| {
        let mut command = Command::new(binary("pierhead"));
        command.args(["image", verb]).args(arguments);
        command
            .env("PIERHEAD_USERNAME", "admin")
            .env("PIERHEAD_PASSWORD", &password);
        command
    };
    let place = format!("oci:{}", source.display());
    succeed(&mut image("copy", &[&place, &format!("{address}/acme/web:v1")]));
    process.signal(SIGINT);
    wait_for(
        "the server to end with quickstart",
        Duration::from_secs(20),
        || {
            let ended = !run(&mut image("ls", &[&format!("{address}/acme/web")]))
                .status
                .success();
            if ended { Ok(()) } else { Err("it still answers") }
        },
    );
    drop(process);
    let again = start(&data);
    let address = again.line_after("listening on http://");
    let tags = succeed(&mut image("ls", &[&format!("{address}/acme/web")]));
    assert_eq!(tags, b"v1\n");
}
