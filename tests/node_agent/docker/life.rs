//! What becomes of containers, and of the agent.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use blackbox::wait_for;

use crate::docker::support::{Engine, PATIENCE};

#[test]
fn a_container_is_listed_inspected_stopped_and_removed() {
    let engine = Engine::with_image();
    let image = engine.image();
    let id = engine.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--label",
        "tier=front",
        &image,
        "sleep",
        "1000",
    ]);
    assert_eq!(id.len(), 64);
    let listed = engine.ok(&[
        "ps",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Names}} {{.Image}} {{.State}} {{.Command}}",
    ]);
    assert_eq!(listed, format!("{id} web {image} running \"sleep 1000\""));
    assert!(engine.ok(&["ps", "--format", "{{.Status}}"]).starts_with("Up "));
    for (filter, expected) in [
        ("name=we", "web"),
        ("name=^/web$", "web"),
        ("name=^eb", ""),
        ("label=tier=front", "web"),
        ("label=tier=back", ""),
        ("status=running", "web"),
        ("status=exited", ""),
        (&format!("id={}", &id[..8]), "web"),
        (&format!("ancestor={image}"), "web"),
    ] {
        assert_eq!(
            engine.ok(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]),
            expected,
            "{filter}"
        );
    }
    let format = "{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.Config.Image}} {{.Path}} {{index .Config.Labels \"tier\"}}";
    // By name, by id, by its beginning.
    for query in ["web", &id, &id[..12]] {
        assert_eq!(
            engine.ok(&["inspect", "-f", format, query]),
            format!("/web running 0 {image} sleep front")
        );
    }
    let address = engine.ok(&[
        "inspect",
        "-f",
        "{{.NetworkSettings.IPAddress}} {{.NetworkSettings.Networks.bridge.IPAddress}}",
        "web",
    ]);
    let addresses: Vec<&str> = address.split(' ').collect();
    assert!(
        addresses.len() == 2 && addresses[0] == addresses[1] && !addresses[0].is_empty(),
        "{address}"
    );

    let taken = engine.outcome(&["run", "-d", "--name", "web", &image, "true"]);
    assert_eq!(taken.code, Some(125));
    assert!(
        taken.stderr.contains("already in use by container") && taken.stderr.contains(&id),
        "{taken:?}"
    );
    let running = engine.outcome(&["rm", "web"]);
    assert_eq!(running.code, Some(1));
    assert!(running.stderr.contains("container is running"), "{running:?}");

    engine.ok(&["rename", "web", "site"]);
    engine.ok(&["kill", "--signal", "USR1", "site"]);
    assert_eq!(engine.ok(&["stop", "-t", "1", "site"]), "site");
    assert_eq!(
        engine.ok(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}",
            "site"
        ]),
        "exited 137 0"
    );
    assert!(
        engine
            .ok(&["ps", "-a", "--format", "{{.Status}}"])
            .starts_with("Exited (137) ")
    );
    assert_eq!(
        engine.ok(&["stop", "site"]),
        "site",
        "stopping what is stopped is no error"
    );
    engine.ok(&["start", "site"]);
    engine.ok(&["restart", "-t", "0", "site"]);
    engine.ok(&["rm", "-f", "site"]);
    let gone = engine.outcome(&["inspect", "site"]);
    assert!(
        gone.stderr.to_lowercase().contains("no such object: site"),
        "{gone:?}"
    );
    assert!(
        engine
            .outcome(&["start", "site"])
            .stderr
            .contains("No such container: site")
    );
}

#[test]
fn waiting_tells_how_it_ended() {
    let engine = Engine::with_image();
    let image = engine.image();
    engine.ok(&["run", "-d", "--name", "one", &image, "sleep", "1000"]);
    let waiting = engine
        .docker(&["wait", "one"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    engine.ok(&["kill", "one"]);
    let waited = waiting.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "137\n");
    assert_eq!(engine.ok(&["wait", "one"]), "137", "also afterwards");
    let not_running = engine.outcome(&["kill", "one"]);
    assert!(not_running.stderr.contains("is not running"), "{not_running:?}");
    // Attached to a start: the output of this run alone, and its exit code.
    engine.ok(&["create", "--name", "two", &image, "sh", "-c", "echo once; exit 4"]);
    for _ in 0..2 {
        let outcome = engine.outcome(&["start", "-a", "two"]);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (Some(4), "once\n"),
            "{outcome:?}"
        );
    }
    assert_eq!(engine.ok(&["logs", "two"]), "once\nonce");
}

#[test]
fn logs_are_followed_and_cut() {
    let engine = Engine::with_image();
    let script = "for i in 1 2 3; do echo line $i; done; echo bad >&2; until [ -e /tmp/go ]; do sleep 0.1; done; echo last";
    engine.ok(&["run", "-d", "--name", "one", &engine.image(), "sh", "-c", script]);
    let mut follower = engine
        .docker(&["logs", "-f", "--tail", "2", "one"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "line 3");
    assert_eq!(
        engine.ok(&["logs", "--tail", "all", "one"]),
        "line 1\nline 2\nline 3"
    );
    let pid = engine.ok(&["inspect", "-f", "{{.State.Pid}}", "one"]);
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").expect("writes into the container");
    assert_eq!(lines.next().expect("a line").expect("text"), "last");
    assert!(lines.next().is_none(), "following ends with the container");
    assert!(follower.wait().expect("ends").success());

    let stamped = engine.ok(&["logs", "-t", "--tail", "1", "one"]);
    let (time, text) = stamped.split_once(' ').expect("a time before the text");
    assert!(
        time.ends_with('Z') && time.len() == 30 && text == "last",
        "{stamped}"
    );
    assert_eq!(engine.ok(&["logs", "--since", time, "one"]), "last");
    assert_eq!(engine.ok(&["logs", "--until", "1.5", "one"]), "");
    assert!(engine.outcome(&["logs", "one"]).stderr.contains("bad"));
}

#[test]
fn containers_outlive_an_agent_that_is_killed() {
    let mut engine = Engine::with_image();
    let image = engine.image();
    engine.ok(&["run", "-d", "--name", "stays", &image, "sleep", "1000"]);
    engine.ok(&[
        "run",
        "-d",
        "--name",
        "ends",
        &image,
        "sh",
        "-c",
        "until [ -e /tmp/go ]; do sleep 0.1; done; exit 5",
    ]);
    engine.ok(&[
        "run",
        "-d",
        "--rm",
        "--name",
        "goes",
        &image,
        "sh",
        "-c",
        "until [ -e /tmp/go ]; do sleep 0.1; done",
    ]);
    let pid = |name| engine.ok(&["inspect", "-f", "{{.State.Pid}}", name]);
    let stays = pid("stays");
    let (ends, goes) = (pid("ends"), pid("goes"));
    engine.kill();
    for pid in [&ends, &goes] {
        std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").expect("writes into the container");
    }
    let dead = |pid: &String| !std::path::Path::new(&format!("/proc/{pid}/root/tmp")).exists();
    wait_for("two ends", PATIENCE, || {
        (dead(&ends) && dead(&goes)).then_some(()).ok_or("alive")
    });
    engine.serve();
    assert_eq!(engine.ok(&["ps", "--format", "{{.Names}}"]), "stays");
    assert_eq!(engine.ok(&["inspect", "-f", "{{.State.Pid}}", "stays"]), stays);
    assert_eq!(engine.ok(&["wait", "ends"]), "5");
    wait_for("the removal at the end", PATIENCE, || {
        match engine.ok(&["ps", "-aq", "--filter", "name=goes"]).as_str() {
            "" => Ok(()),
            left => Err(left.to_owned()),
        }
    });
    assert_eq!(
        engine.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]),
        image,
        "names are kept"
    );
}

#[test]
fn events_tell_what_happens() {
    let engine = Engine::with_image();
    let before = Instant::now();
    let mut listener = engine
        .docker(&[
            "events",
            "--since",
            "1h",
            "--filter",
            "container=seen",
            "--format",
            "{{.Action}} {{.Actor.Attributes.exitCode}}",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    engine.ok(&["run", "--rm", "--name", "other", &engine.image(), "true"]);
    engine.outcome(&[
        "run",
        "--rm",
        "--name",
        "seen",
        &engine.image(),
        "sh",
        "-c",
        "exit 6",
    ]);
    let lines = BufReader::new(listener.stdout.take().expect("piped")).lines();
    let seen: Vec<String> = lines.take(4).map(|line| line.expect("text")).collect();
    let actions: Vec<&str> = seen
        .iter()
        .map(|line| line.split(' ').next().unwrap_or_default())
        .collect();
    assert_eq!(actions, ["create", "start", "die", "destroy"]);
    assert!(seen[2].ends_with(" 6"), "{seen:?}");
    let _ = listener.kill();
    listener.wait().expect("ends");
    assert!(before.elapsed() < Duration::from_secs(120));
}
