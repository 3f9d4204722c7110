//! Life cycle and isolation as runtime-spec has them.

use std::fs;

use serde_json::{Value, json};

use crate::support::Bundle;

#[test]
fn run_returns_the_programs_status_and_leaves_nothing() {
    let bundle = Bundle::new("exit 7");
    assert_eq!(bundle.run().status.code(), Some(7));
    assert!(bundle.cgroups().is_empty());
    assert_eq!(fs::read_dir(bundle.state_root()).expect("exists").count(), 0);
}

#[test]
fn the_program_is_alone_in_its_namespaces() {
    let bundle = Bundle::new("hostname; echo $$; ls -d /proc/[0-9]* | wc -l; ip -o link | wc -l; ip -o link");
    let output = bundle.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["contract", "1"]);
    assert!(lines[2].parse::<u32>().expect("is a number") <= 4, "{output}");
    assert_eq!(lines[3], "1", "{output}");
    assert!(lines[4].contains("UP"), "loopback is up: {output}");
}

#[test]
fn create_start_state_kill_delete() {
    let bundle = Bundle::new("sleep 60");
    bundle.write();
    let directory = bundle.directory();
    // Not captured: init would hold the pipe open for as long as it lives.
    let status = std::process::Command::new(crate::support::binary())
        .arg("--root")
        .arg(bundle.state_root())
        .args([
            "create",
            "--bundle",
            directory.to_str().expect("is UTF-8"),
            &bundle.id,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("starts");
    assert!(status.success());
    let state = |bundle: &Bundle| -> Value {
        serde_json::from_slice(&bundle.runtime(&["state", &bundle.id]).stdout).expect("is JSON")
    };
    assert_eq!(state(&bundle)["status"], "created");
    assert!(
        !bundle.runtime(&["delete", &bundle.id]).status.success(),
        "a created container is not deleted"
    );
    assert!(bundle.runtime(&["start", &bundle.id]).status.success());
    assert_eq!(state(&bundle)["status"], "running");
    assert!(
        !bundle.runtime(&["start", &bundle.id]).status.success(),
        "it starts once"
    );
    let exec = bundle.runtime(&["exec", &bundle.id, "sh", "-c", "hostname; exit 5"]);
    assert_eq!(
        (exec.status.code(), exec.stdout.as_slice()),
        (Some(5), b"contract\n".as_slice())
    );
    assert!(bundle.runtime(&["kill", &bundle.id, "KILL"]).status.success());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while state(&bundle)["status"] != "stopped" {
        assert!(
            std::time::Instant::now() < deadline,
            "still {}",
            state(&bundle)["status"]
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(bundle.runtime(&["delete", &bundle.id]).status.success());
    assert!(!bundle.runtime(&["state", &bundle.id]).status.success());
    assert!(bundle.cgroups().is_empty());
}

#[test]
fn a_failed_create_names_its_step_and_leaves_nothing() {
    let mut bundle = Bundle::new("true");
    bundle.config["mounts"]
        .as_array_mut()
        .expect("is a list")
        .push(json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["colour=red"]}));
    let output = bundle.run();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("mount") && text.contains("colour=red"), "{text}");
    assert!(bundle.cgroups().is_empty());
    assert_eq!(fs::read_dir(bundle.state_root()).expect("exists").count(), 0);
}

#[test]
fn what_is_not_carried_out_is_refused_and_named() {
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["intelRdt"] = json!({"closID": "x"});
    let text = bundle.refusal();
    assert!(
        text.contains("intelRdt") && text.contains("not supported"),
        "{text}"
    );
    let text = Bundle::new("true").must_fail(&["--systemd-cgroup", "list"]);
    assert!(
        text.contains("--systemd-cgroup") && text.contains("not supported"),
        "{text}"
    );
    let text = Bundle::new("true").must_fail(&["create", "--no-pivot", "x"]);
    assert!(text.contains("--no-pivot"), "{text}");
}

#[test]
fn a_missing_program_is_named() {
    let mut bundle = Bundle::new("true");
    bundle.config["process"]["args"] = json!(["no-such-program"]);
    let output = bundle.run();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-program"));
}

#[test]
fn user_capabilities_and_no_new_privileges_are_as_asked() {
    let mut bundle = Bundle::new("id -u; id -g; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1001});
    let output = bundle.output();
    assert!(output.starts_with("1000\n1001\n"), "{output}");
    assert!(output.contains("CapEff:\t0000000000000000"), "{output}");
    assert!(output.contains("CapBnd:\t00000000000004e1"), "{output}");
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
}

#[test]
fn a_seccomp_filter_refuses_with_the_errno_asked_for() {
    let mut bundle = Bundle::new("mkdir /x 2>&1; true");
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    });
    assert!(bundle.output().contains("No space left"));
}
