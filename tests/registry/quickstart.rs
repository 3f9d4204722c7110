//! `deploy/quickstart`: one command from a checkout to a registry with a node that runs a service, and everything it
//! starts ends with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use blackbox::cluster::{fetch, free_port};
use blackbox::image::busybox;
use blackbox::process::{Process, run, succeed};
use blackbox::{binary, wait_for};

/// What Ctrl-C sends.
const SIGINT: i32 = 2;

fn start(data: &Path, address: &str) -> Process {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target: PathBuf = binary("pierhead").ancestors().nth(2).unwrap().to_owned();
    let mut command = Command::new(top.join("deploy/quickstart"));
    command
        .current_dir(top)
        .env("CARGO_TARGET_DIR", target)
        .env("PIERHEAD_DATA", data)
        .env("PIERHEAD_LISTEN", address);
    Process::start_slow(command)
}

/// Removes what a quickstart that did not get so far as to stop has left.
struct Purge<'a>(&'a Path);

impl Drop for Purge<'_> {
    fn drop(&mut self) {
        let mut command = Command::new(binary("pierhead-node"));
        command
            .args(["purge", "--yes", "--data"])
            .arg(self.0.join("node"));
        run(command.arg("--run").arg(self.0.join("run")));
    }
}

#[test]
fn quickstart_runs_a_service_and_ends_with_all_it_started_and_goes_on_with_the_same_data() {
    if cfg!(debug_assertions) {
        eprintln!("left out: quickstart builds the release profile, which this is not");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let _purge = Purge(&data);
    let source = directory.path().join("image");
    busybox(&source, &[("www/version", b"one")]);
    let (address, port) = (format!("127.0.0.1:{}", free_port()), free_port());
    let compose = directory.path().join("compose.yaml");
    std::fs::write(
        &compose,
        format!(
            "services:\n  web:\n    image: acme/web:main\n    command: httpd -f -p 80 -h /www\n    \
             ports: [\"127.0.0.1:{port}:80\"]\n    stop_grace_period: 1s\n"
        ),
    )
    .unwrap();

    let process = start(&data, &address);
    let password = process.line_after("  admin     user admin, password ");
    process.line_after("quickstart: ready");
    let pierhead = |arguments: &[&str]| {
        let mut command = Command::new(binary("pierhead"));
        command
            .args(arguments)
            .env("PIERHEAD_SERVER", format!("http://{address}"))
            .env("PIERHEAD_USERNAME", "admin")
            .env("PIERHEAD_PASSWORD", &password);
        command
    };
    let place = format!("oci:{}", source.display());
    succeed(&mut pierhead(&[
        "image",
        "copy",
        &place,
        &format!("{address}/acme/web:main"),
    ]));
    succeed(&mut pierhead(&[
        "deploy",
        "--project",
        "acme",
        "-f",
        compose.to_str().unwrap(),
    ]));
    assert_eq!(fetch(port, "version").unwrap(), "one");

    process.signal(SIGINT);
    wait_for(
        "everything to end with quickstart",
        Duration::from_secs(60),
        || {
            let is_served = run(&mut pierhead(&["image", "ls", &format!("{address}/acme/web")]))
                .status
                .success();
            match (is_served, fetch(port, "version")) {
                (false, Err(_)) => Ok(()),
                (_, answer) => Err(format!(
                    "the registry answers: {is_served}, the service: {answer:?}"
                )),
            }
        },
    );
    process.wait();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !mounts.contains(data.to_str().unwrap()),
        "something is still mounted:\n{mounts}"
    );

    let again = start(&data, &address);
    again.line_after("quickstart: ready");
    wait_for(
        "the service to run again",
        Duration::from_secs(60),
        || match fetch(port, "version") {
            Ok(text) if text == "one" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    again.signal(SIGINT);
    again.wait();
}
