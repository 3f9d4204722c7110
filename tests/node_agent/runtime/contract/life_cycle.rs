//! runtime-spec `runtime.md`: operations, states, exit codes.

use std::fs;

use serde_json::json;

use crate::support::{Bundle, Runtime, contract};

contract! {
    a_container_goes_from_created_to_running_to_stopped on [ours, runc, crun];
    a_created_container_runs_nothing_yet on [ours, runc, crun];
    the_state_has_what_the_specification_asks_for on [ours, runc, crun];
    later_changes_of_the_bundle_have_no_effect on [ours, runc, crun];
    an_id_is_used_once on [ours, runc, crun];
    a_running_container_is_deleted_by_force_only on [ours, runc, crun];
    the_exit_status_is_the_programs on [ours, runc, crun];
    a_signal_shows_as_128_and_its_number on [ours, runc, crun];
    signals_have_names_and_numbers on [ours, runc, crun];
    kill_with_all_reaches_every_process on [ours, runc];
    the_pid_file_names_init on [ours, runc, crun];
    exec_runs_in_the_container_and_returns_its_status on [ours, runc, crun];
    exec_takes_a_process_from_a_file on [ours, runc, crun];
    list_and_ps_show_the_container on [ours, runc, crun];
    run_detached_returns_while_the_program_runs on [ours, runc, crun];
    nothing_is_left_after_delete on [ours, runc, crun];
    signals_to_run_go_to_the_program on [ours, runc];
}

fn a_container_goes_from_created_to_running_to_stopped(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    assert!(bundle.create().status.success());
    assert_eq!(bundle.state()["status"], "created");
    bundle.must(&["start", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    bundle.must_fail(&["start", &bundle.id]);
    assert_eq!(
        bundle.state()["status"],
        "running",
        "a second start has no effect"
    );
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.await_status("stopped");
    bundle.must_fail(&["start", &bundle.id]);
    bundle.must_fail(&["kill", &bundle.id, "TERM"]);
    bundle.must(&["delete", &bundle.id]);
    bundle.must_fail(&["state", &bundle.id]);
}

fn a_created_container_runs_nothing_yet(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "echo ran; echo done");
    assert!(bundle.create().status.success());
    assert_eq!(fs::read_to_string(bundle.out()).expect("reads"), "");
    bundle.must(&["start", &bundle.id]);
    assert_eq!(bundle.finished_output(), "ran\n");
}

fn the_state_has_what_the_specification_asks_for(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.config["annotations"] = json!({"org.example.colour": "red"});
    bundle.start();
    let state = bundle.state();
    assert_eq!(state["id"], bundle.id.as_str());
    assert_eq!(
        state["bundle"],
        fs::canonicalize(bundle.directory())
            .expect("exists")
            .to_str()
            .expect("is UTF-8")
    );
    assert_eq!(state["annotations"]["org.example.colour"], "red");
    assert!(
        state["ociVersion"]
            .as_str()
            .is_some_and(|version| version.starts_with("1."))
    );
    let pid = state["pid"].as_i64().expect("is a number");
    assert!(
        fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .expect("lives")
            .contains("sleep")
    );
}

fn later_changes_of_the_bundle_have_no_effect(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "echo first; echo done");
    assert!(bundle.create().status.success());
    bundle.config["process"]["args"] = json!(["sh", "-c", "echo second; echo done"]);
    bundle.write();
    bundle.must(&["start", &bundle.id]);
    assert_eq!(bundle.finished_output(), "first\n");
}

fn an_id_is_used_once(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    assert!(!bundle.create().status.success(), "the id is taken");
    assert_eq!(
        bundle.state()["status"],
        "running",
        "the first one is not disturbed"
    );
}

fn a_running_container_is_deleted_by_force_only(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    bundle.must_fail(&["delete", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    bundle.must(&["delete", "--force", &bundle.id]);
    bundle.must_fail(&["state", &bundle.id]);
    bundle.must_fail(&["delete", &bundle.id]);
    bundle.must(&["delete", "--force", &bundle.id]);
}

fn the_exit_status_is_the_programs(runtime: Runtime) {
    for code in [0, 1, 42, 255] {
        assert_eq!(
            Bundle::on(runtime, &format!("exit {code}")).run().status.code(),
            Some(code)
        );
    }
}

fn a_signal_shows_as_128_and_its_number(runtime: Runtime) {
    // From a child, since a first process ignores what it does not handle.
    let output = Bundle::on(runtime, "sh -c 'kill -9 $$'; exit $?").run();
    assert_eq!(output.status.code(), Some(137));
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    let mut exec = bundle
        .command(&["exec", &bundle.id, "sleep", "77"])
        .spawn()
        .expect("starts");
    let inside = blackbox::wait_for("the exec'd program", std::time::Duration::from_secs(10), || {
        let found = bundle.must(&[
            "exec",
            &bundle.id,
            "sh",
            "-c",
            "ps | grep '[s]leep 77' | awk '{print $1}'",
        ]);
        let pid = found.trim();
        if pid.is_empty() {
            Err("not there yet")
        } else {
            Ok(pid.to_owned())
        }
    });
    bundle.must(&["exec", &bundle.id, "kill", "-9", &inside]);
    assert_eq!(exec.wait().expect("ends").code(), Some(137));
}

fn signals_have_names_and_numbers(runtime: Runtime) {
    for signal in ["USR1", "SIGUSR1", "10"] {
        let bundle = Bundle::on(
            runtime,
            "trap 'echo caught; echo done; exit 0' USR1; echo ready; while :; do usleep 10000; done",
        );
        bundle.start();
        blackbox::wait_for("the trap", std::time::Duration::from_secs(10), || {
            let text = fs::read_to_string(bundle.out()).unwrap_or_default();
            if text.contains("ready") { Ok(()) } else { Err(text) }
        });
        bundle.must(&["kill", &bundle.id, signal]);
        assert_eq!(bundle.finished_output(), "ready\ncaught\n");
    }
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    bundle.must_fail(&["kill", &bundle.id, "NOTHING"]);
}

fn kill_with_all_reaches_every_process(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 61 & sleep 62 & wait");
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("is a list")
        .retain(|kind| kind["type"] != "pid");
    bundle.start();
    let processes = || -> Vec<i64> {
        serde_json::from_str(&bundle.must(&["ps", "--format", "json", &bundle.id])).expect("is JSON")
    };
    blackbox::wait_for("three processes", std::time::Duration::from_secs(10), || {
        let found = processes();
        if found.len() == 3 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
    let before = processes();
    bundle.must(&["kill", "--all", &bundle.id, "KILL"]);
    blackbox::wait_for("their end", std::time::Duration::from_secs(10), || {
        let alive: Vec<_> = before
            .iter()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
            })
            .collect();
        if alive.is_empty() {
            Ok(())
        } else {
            Err(format!("{alive:?}"))
        }
    });
}

fn the_pid_file_names_init(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    let file = bundle.place.path().join("pid");
    assert!(
        bundle
            .create_with(&["--pid-file", file.to_str().expect("is UTF-8")])
            .status
            .success()
    );
    let pid: i64 = fs::read_to_string(file)
        .expect("is there")
        .trim()
        .parse()
        .expect("is a number");
    assert_eq!(bundle.state()["pid"], pid);
}

fn exec_runs_in_the_container_and_returns_its_status(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    let output = bundle.runtime(&[
        "exec",
        "--cwd",
        "/bin",
        "--env",
        "COLOUR=red",
        "--user",
        "7:8",
        &bundle.id,
        "sh",
        "-c",
        "hostname; pwd; echo $COLOUR; id -u; id -g; grep NoNewPrivs /proc/self/status; exit 5",
    ]);
    assert_eq!(
        output.status.code(),
        Some(5),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "contract\n/bin\nred\n7\n8\nNoNewPrivs:\t1\n"
    );
    let output = bundle.runtime(&["exec", &bundle.id, "no-such-program"]);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        error.contains("no-such-program") && error.contains("not found"),
        "{error}"
    );
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.await_status("stopped");
    bundle.must_fail(&["exec", &bundle.id, "true"]);
}

fn exec_takes_a_process_from_a_file(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    let file = bundle.place.path().join("process.json");
    let caps = ["CAP_KILL"];
    let process = json!({
        "user": {"uid": 5, "gid": 6, "additionalGids": [9]}, "cwd": "/bin", "args": ["sh", "-c", "id -G; pwd; env | sort; grep CapBnd /proc/self/status"],
        "env": ["PATH=/bin", "B=2"], "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 66, "hard": 66}],
    });
    fs::write(&file, process.to_string()).expect("writes");
    let output = bundle.must(&["exec", "--process", file.to_str().expect("is UTF-8"), &bundle.id]);
    assert!(output.starts_with("6 9\n/bin\n"), "{output}");
    assert!(
        output.contains("B=2\n") && output.contains("CapBnd:\t0000000000000020"),
        "{output}"
    );
}

fn list_and_ps_show_the_container(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    assert_eq!(bundle.must(&["list", "--quiet"]), format!("{}\n", bundle.id));
    assert!(bundle.must(&["list"]).contains("running"));
    let list: serde_json::Value =
        serde_json::from_str(&bundle.must(&["list", "--format", "json"])).expect("is JSON");
    assert_eq!(list[0]["id"], bundle.id.as_str());
    let pids: Vec<i64> =
        serde_json::from_str(&bundle.must(&["ps", "--format", "json", &bundle.id])).expect("is JSON");
    assert!(pids.contains(&bundle.state()["pid"].as_i64().expect("is a number")));
}

fn run_detached_returns_while_the_program_runs(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.write();
    let directory = bundle.directory();
    let status = bundle
        .command(&[
            "run",
            "--detach",
            "--bundle",
            directory.to_str().expect("is UTF-8"),
            &bundle.id,
        ])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("starts");
    assert!(status.success());
    assert_eq!(bundle.state()["status"], "running");
}

fn nothing_is_left_after_delete(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60 & sleep 60");
    bundle.start();
    assert!(!bundle.cgroups().is_empty());
    bundle.must(&["delete", "--force", &bundle.id]);
    assert!(bundle.cgroups().is_empty(), "{:?}", bundle.cgroups());
    let left: Vec<_> = fs::read_dir(bundle.state_root())
        .expect("exists")
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    assert!(!mounts.contains(bundle.place.path().to_str().expect("is UTF-8")));
}

fn signals_to_run_go_to_the_program(runtime: Runtime) {
    let bundle = Bundle::on(
        runtime,
        "trap 'exit 9' TERM; echo ready; while :; do usleep 10000; done",
    );
    bundle.write();
    let directory = bundle.directory();
    let out = fs::File::create(bundle.out()).expect("makes a file");
    let mut child = bundle
        .command(&[
            "run",
            "--bundle",
            directory.to_str().expect("is UTF-8"),
            &bundle.id,
        ])
        .stdout(out)
        .spawn()
        .expect("starts");
    blackbox::wait_for("the trap", std::time::Duration::from_secs(10), || {
        let text = fs::read_to_string(bundle.out()).unwrap_or_default();
        if text.contains("ready") { Ok(()) } else { Err(text) }
    });
    std::process::Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .expect("signals");
    assert_eq!(child.wait().expect("ends").code(), Some(9));
}
