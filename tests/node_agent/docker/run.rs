//! `docker run`: output, exit codes, what the program finds around it, what is refused.

use std::fs;

use blackbox::cluster::{fetch, free_port};
use blackbox::wait_for;

use crate::docker::support::{Engine, PATIENCE};

#[test]
fn run_shows_output_and_ends_as_the_program_did() {
    let engine = Engine::with_image();
    let image = engine.image();
    let script = "echo out; echo err >&2; exit 3";
    let outcome = engine.outcome(&["run", "--rm", &image, "sh", "-c", script]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (Some(3), "out\n", "err\n")
    );
    assert_eq!(engine.outcome(&["run", "--rm", &image, "true"]).code, Some(0));
    let killed = engine.outcome(&["run", "--rm", &image, "sh", "-c", "kill -9 $$"]);
    // The first process of a container does not die of its own SIGKILL.
    assert_eq!(killed.code, Some(0), "{killed:?}");
    let many = engine.ok(&["run", "--rm", &image, "seq", "1", "5000"]);
    assert_eq!(many.lines().count(), 5000);
    assert!(many.ends_with("\n4999\n5000"), "nothing of the end is lost");
    assert_eq!(
        engine.ok(&["run", "--rm", &image, "echo", "-n", "no line end"]),
        "no line end"
    );
    // All of them were to be removed.
    wait_for("no containers", PATIENCE, || {
        match engine.ok(&["ps", "-aq"]).as_str() {
            "" => Ok(()),
            left => Err(left.to_owned()),
        }
    });
}

#[test]
fn programs_that_cannot_run_have_dockers_exit_codes() {
    let engine = Engine::with_image();
    let image = engine.image();
    for (program, code) in [
        ("no-such-program", 127),
        ("/no/such/program", 127),
        ("/etc/passwd", 126),
    ] {
        let outcome = engine.outcome(&["run", "--rm", &image, program]);
        assert_eq!(outcome.code, Some(code), "{program}: {outcome:?}");
        assert!(
            outcome.stderr.contains(program.trim_start_matches('/')),
            "{outcome:?}"
        );
    }
    assert_eq!(
        engine.ok(&["ps", "-aq"]),
        "",
        "what did not start is removed as well"
    );
    let outcome = engine.outcome(&["run", &image, "no-such-program"]);
    assert_eq!(outcome.code, Some(127));
    let state = engine.ok(&["ps", "-a", "--format", "{{.State}}"]);
    assert_eq!(state, "created");
}

#[test]
fn the_program_finds_what_was_asked_for() {
    let engine = Engine::with_image();
    let image = engine.image();
    let script = "echo $A-$B; pwd; id -u; hostname; touch /x 2>/dev/null || echo read-only";
    let output = engine.ok(&[
        "run",
        "--rm",
        "-e",
        "A=1",
        "-e",
        "B=two words",
        "-w",
        "/tmp",
        "-u",
        "nobody",
        "-h",
        "inside",
        "--read-only",
        &image,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(output, "1-two words\n/tmp\n65534\ninside\nread-only");
    let entrypoint = engine.ok(&["run", "--rm", "--entrypoint", "echo", &image, "by", "entrypoint"]);
    assert_eq!(entrypoint, "by entrypoint");
    let no_capabilities = engine.ok(&[
        "run",
        "--rm",
        "--cap-drop",
        "ALL",
        &image,
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    assert!(no_capabilities.ends_with("0000000000000000"), "{no_capabilities}");
}

#[test]
fn limits_reach_the_control_groups() {
    let engine = Engine::with_image();
    let id = engine.ok(&[
        "run",
        "-d",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        &engine.image(),
        "sleep",
        "1000",
    ]);
    let limits = ["memory/{}/memory.limit_in_bytes", "{}/memory.max"];
    let read = |names: &[&str]| {
        let group = format!("{}/{id}", engine.cgroup());
        let paths: Vec<String> = names
            .iter()
            .map(|name| format!("/sys/fs/cgroup/{}", name.replace("{}", &group)))
            .collect();
        let found = paths.iter().find_map(|path| fs::read_to_string(path).ok());
        found
            .unwrap_or_else(|| panic!("none of {paths:?}"))
            .trim()
            .to_owned()
    };
    assert_eq!(read(&limits), (64 << 20).to_string());
    assert_eq!(read(&["pids/{}/pids.max", "{}/pids.max"]), "50");
    let shown = engine.ok(&[
        "inspect",
        "-f",
        "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}",
        &id,
    ]);
    assert_eq!(shown, format!("{} 500000000 50", 64 << 20));
}

#[test]
fn published_ports_answer() {
    let engine = Engine::with_image();
    let port = free_port();
    let id = engine.ok(&[
        "run",
        "-d",
        "-p",
        &format!("127.0.0.1:{port}:80"),
        "-p",
        "81",
        &engine.image(),
        "httpd",
        "-f",
        "-p",
        "80",
        "-h",
        "/www",
    ]);
    let answer = wait_for("an answer", PATIENCE, || fetch(port, "hello"));
    assert_eq!(answer, "hello from a container\n");
    assert_eq!(engine.ok(&["port", &id, "80/tcp"]), format!("127.0.0.1:{port}"));
    assert!(
        engine.ok(&["port", &id, "81/tcp"]).starts_with("0.0.0.0:"),
        "a free port was chosen"
    );
    let listed = engine.ok(&["ps", "--format", "{{.Ports}}"]);
    assert!(listed.contains(&format!("127.0.0.1:{port}->80/tcp")), "{listed}");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let engine = Engine::with_image();
    let image = engine.image();
    for (flag, field) in [
        ("-t", "Tty"),
        ("-i", "AttachStdin"),
        ("--privileged", "HostConfig.Privileged"),
        ("--network=host", "HostConfig.NetworkMode"),
        ("--pid=host", "HostConfig.PidMode"),
        ("-v/:/host", "HostConfig.Binds"),
        ("--security-opt=seccomp=unconfined", "HostConfig.SecurityOpt"),
        ("--restart=always", "HostConfig.RestartPolicy"),
    ] {
        let outcome = engine.outcome(&["run", flag, &image, "true"]);
        assert_eq!(outcome.code, Some(125), "{flag}: {outcome:?}");
        assert!(outcome.stderr.contains(field), "{flag}: {outcome:?}");
    }
    assert_eq!(engine.ok(&["ps", "-aq"]), "");
}
