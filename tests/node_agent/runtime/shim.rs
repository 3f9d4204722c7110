//! The shim: output, exit status, and surviving its parent.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Bundle, binary};

/// Starts a shim from a shell that ends before the container does, and returns its run directory.
fn start(bundle: &Bundle) -> PathBuf {
    bundle.write();
    let place = bundle.place.path();
    let run = place.join("run");
    let command = format!(
        "{} shim --id {} --bundle {} --dir {} --root {} --log {} & wait_for=$!; sleep 0.01; echo started",
        binary().display(),
        bundle.id,
        bundle.directory().display(),
        run.display(),
        bundle.state_root().display(),
        place.join("log").display(),
    );
    let output = Command::new("bash")
        .args(["-c", &command])
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    // Output ends although the shim lives on, because it lets go of its parent's pipes.
    let text = String::from_utf8(output.stdout).expect("is UTF-8");
    assert!(
        text.contains(r#"{"created":{"pid":"#),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    run
}

fn ask(stream: &mut BufReader<UnixStream>, request: &Value) -> Value {
    stream
        .get_mut()
        .write_all(format!("{request}\n").as_bytes())
        .expect("writes");
    let mut line = String::new();
    stream.read_line(&mut line).expect("reads");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn output_and_exit_status_are_kept_after_the_parent_is_gone() {
    let bundle = Bundle::new("echo to stdout; echo to stderr >&2; sleep 1; exit 3");
    let run = start(&bundle);
    let connect = || BufReader::new(UnixStream::connect(run.join("shim.sock")).expect("connects"));
    let (mut client, mut waiter) = (connect(), connect());
    assert_eq!(
        ask(&mut client, &json!({"op": "state"}))["state"]["status"],
        "created"
    );
    assert!(ask(&mut client, &json!({"op": "start"}))["started"]["started_at"].is_string());
    assert_eq!(
        ask(&mut client, &json!({"op": "state"}))["state"]["status"],
        "running"
    );
    assert!(ask(&mut client, &json!({"op": "dance"}))["error"]["message"].is_string());
    let exited = ask(&mut waiter, &json!({"op": "wait"}));
    assert_eq!(exited["exited"]["exit_code"], 3);
    let record: Value =
        serde_json::from_slice(&fs::read(run.join("exit.json")).expect("exists")).expect("is JSON");
    assert_eq!(record, exited["exited"]);
    let log = fs::read_to_string(bundle.place.path().join("log")).expect("exists");
    assert!(
        log.contains(r#"{"log":"to stdout\n","stream":"stdout","time":""#),
        "{log}"
    );
    assert!(
        log.contains(r#"{"log":"to stderr\n","stream":"stderr","time":""#),
        "{log}"
    );
    assert!(bundle.cgroups().is_empty());
}

#[test]
fn a_signal_is_told_from_a_status() {
    let bundle = Bundle::new("sleep 60 & sleep 60");
    let run = start(&bundle);
    let connect = || BufReader::new(UnixStream::connect(run.join("shim.sock")).expect("connects"));
    let (mut client, mut waiter) = (connect(), connect());
    ask(&mut client, &json!({"op": "start"}));
    // Before the end, after which nobody listens any more.
    waiter
        .get_mut()
        .write_all(b"{\"op\":\"wait\"}\n")
        .expect("writes");
    assert_eq!(
        ask(&mut client, &json!({"op": "kill", "signal": 9, "all": false})),
        json!({"killed": {}})
    );
    let mut line = String::new();
    waiter.read_line(&mut line).expect("reads");
    let exited: Value = serde_json::from_str(&line).expect("is JSON");
    assert_eq!(
        (&exited["exited"]["exit_code"], &exited["exited"]["signal"]),
        (&json!(137), &json!(9))
    );
    assert!(
        bundle.cgroups().is_empty(),
        "what remained in the cgroup has been ended"
    );
}
