//! runtime-spec `config.md`, POSIX-platform Hooks, and the steps of `runtime.md` they belong to.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bundle, Runtime, contract};

contract! {
    hooks_run_in_order_with_the_state_on_standard_input on [ours, runc, crun];
    hooks_have_the_namespaces_of_their_kind on [ours, runc, crun];
    a_hook_that_fails_before_the_start_fails_it on [ours, runc, crun];
    a_hook_that_takes_too_long_fails on [ours, runc];
    a_failing_hook_after_the_start_ends_the_container on [ours];
    a_failing_hook_after_the_end_is_a_warning on [ours, runc, crun];
    a_hook_gets_its_own_arguments_and_environment on [ours, runc, crun];
}

/// Where a container's mounts lie inside: the hooks in its namespaces write there.
const LOG: &str = "/hooks";

/// A bundle whose hooks of `kinds` run `script` (with `$kind` set), in a directory that host and container share.
fn bundle(runtime: Runtime, program: &str, kinds: &[(&str, &str)]) -> Bundle {
    let mut bundle = Bundle::on(runtime, program);
    let log = bundle.place.path().join("hooks");
    fs::create_dir(&log).expect("makes a directory");
    bundle.mount(LOG, "bind", log.to_str().expect("is UTF-8"), &["rbind"]);
    for (kind, script) in kinds {
        // Paths of this kind are the container's, where only busybox is.
        let (shell, place) = match *kind {
            "startContainer" => ("/bin/sh", LOG.to_owned()),
            _ => ("/bin/sh", log.to_str().expect("is UTF-8").to_owned()),
        };
        bundle.config["hooks"][kind] = json!([{
            "path": shell,
            "args": ["sh", "-c", format!("kind={kind}; log={place}; {script}")],
            "env": ["PATH=/bin:/usr/bin"],
        }]);
    }
    bundle
}

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

fn hooks_run_in_order_with_the_state_on_standard_input(runtime: Runtime) {
    let script = "cat > $log/$kind.json; echo $kind >> $log/order";
    // runc 1.1 runs poststart hooks while it creates, which this case is about not doing.
    let has_poststart = runtime != Runtime::Runc;
    let kinds: Vec<_> = KINDS
        .iter()
        .filter(|kind| has_poststart || **kind != "poststart")
        .map(|kind| (*kind, script))
        .collect();
    let mut bundle = bundle(runtime, "echo program >> /hooks/order; sleep 60", &kinds);
    bundle.config["annotations"] = json!({"colour": "red"});
    let log = bundle.place.path().join("hooks");
    let order = || fs::read_to_string(log.join("order")).unwrap_or_default();
    let created = bundle.create();
    assert!(
        created.status.success(),
        "{}",
        String::from_utf8_lossy(&created.stderr)
    );
    assert_eq!(order(), "prestart\ncreateRuntime\ncreateContainer\n");
    bundle.must(&["start", &bundle.id]);
    let pid = bundle.state()["pid"].clone();
    blackbox::wait_for("the program", std::time::Duration::from_secs(10), || {
        if order().contains("program") {
            Ok(())
        } else {
            Err(order())
        }
    });
    let after = order();
    let after: Vec<&str> = after.lines().skip(3).collect();
    // The program and the hook after its start run at the same time.
    assert_eq!(after[0], "startContainer");
    assert_eq!(after.contains(&"poststart"), has_poststart, "{after:?}");
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.await_status("stopped");
    assert!(
        !order().contains("poststop"),
        "not before the container is deleted"
    );
    bundle.must(&["delete", &bundle.id]);
    assert!(order().ends_with("poststop\n"));
    for (kind, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        if !has_poststart && kind == "poststart" {
            continue;
        }
        let state: Value =
            serde_json::from_slice(&fs::read(log.join(format!("{kind}.json"))).expect("was written"))
                .expect("is JSON");
        assert_eq!(state["id"], bundle.id.as_str(), "{kind}");
        assert_eq!(state["annotations"]["colour"], "red", "{kind}");
        assert!(
            state["bundle"]
                .as_str()
                .is_some_and(|path| path.ends_with("/bundle")),
            "{kind}"
        );
        if runtime == Runtime::Ours {
            assert_eq!(state["status"], status, "{kind}");
        }
        match kind {
            "prestart" | "createRuntime" | "poststart" => assert_eq!(state["pid"], pid, "{kind}"),
            "createContainer" | "startContainer" if runtime == Runtime::Ours => {
                assert_eq!(state["pid"], 1, "{kind}")
            }
            _ => {}
        }
    }
}

fn hooks_have_the_namespaces_of_their_kind(runtime: Runtime) {
    // The container has no host name yet when createContainer runs, so namespaces are told by their links.
    let kinds = KINDS.map(|kind| {
        (
            kind,
            "readlink /proc/self/ns/uts > $log/$kind; readlink /proc/self/ns/mnt >> $log/$kind",
        )
    });
    let bundle = bundle(runtime, "true", &kinds);
    assert!(bundle.run().status.success());
    let log = bundle.place.path().join("hooks");
    let ours = ["uts", "mnt"].map(|kind| {
        fs::read_link(format!("/proc/self/ns/{kind}"))
            .expect("reads")
            .display()
            .to_string()
    });
    let ours = format!("{}\n{}\n", ours[0], ours[1]);
    for kind in KINDS {
        let seen = fs::read_to_string(log.join(kind)).expect("was written");
        let is_inside = matches!(kind, "createContainer" | "startContainer");
        assert_eq!(seen != ours, is_inside, "{kind}: {seen}");
    }
}

fn a_hook_that_fails_before_the_start_fails_it(runtime: Runtime) {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let bundle = bundle(
            runtime,
            "echo ran >> /hooks/program",
            &[(kind, "exit 3"), ("poststop", "echo x > $log/stopped")],
        );
        assert!(!bundle.run().status.success(), "{kind}");
        let log = bundle.place.path().join("hooks");
        assert!(
            !log.join("program").exists(),
            "the program ran although {kind} failed"
        );
        assert!(bundle.cgroups().is_empty());
        if runtime == Runtime::Ours {
            assert!(log.join("stopped").exists(), "poststop follows a failed {kind}");
        }
    }
}

fn a_hook_that_takes_too_long_fails(runtime: Runtime) {
    let mut bundle = bundle(runtime, "true", &[("createRuntime", "exec sleep 60")]);
    bundle.config["hooks"]["createRuntime"][0]["timeout"] = json!(1);
    let started = std::time::Instant::now();
    bundle.refusal();
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
}

fn a_failing_hook_after_the_start_ends_the_container(runtime: Runtime) {
    let bundle = bundle(runtime, "sleep 60", &[("poststart", "exit 1")]);
    assert!(bundle.create().status.success());
    bundle.must_fail(&["start", &bundle.id]);
    bundle.await_status("stopped");
}

fn a_failing_hook_after_the_end_is_a_warning(runtime: Runtime) {
    let mut bundle = bundle(runtime, "exit 4", &[("poststop", "exit 1")]);
    let second = json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo x > {}/second", bundle.place.path().join("hooks").display())]});
    bundle.config["hooks"]["poststop"]
        .as_array_mut()
        .expect("is a list")
        .push(second);
    let output = bundle.run();
    assert_eq!(
        output.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    if runtime == Runtime::Ours {
        assert!(
            bundle.place.path().join("hooks/second").exists(),
            "the hooks after it run"
        );
        assert!(String::from_utf8_lossy(&output.stderr).contains("poststop hook"));
    }
}

fn a_hook_gets_its_own_arguments_and_environment(runtime: Runtime) {
    let mut bundle = bundle(runtime, "true", &[("createRuntime", "")]);
    let file = bundle.place.path().join("hooks/seen");
    bundle.config["hooks"]["createRuntime"][0] = json!({
        "path": "/bin/sh",
        "args": ["name", "-c", format!("echo $0 $1 $COLOUR > {}", file.display()), "zeroth", "first"],
        "env": ["COLOUR=red"],
    });
    assert!(bundle.run().status.success());
    assert_eq!(
        fs::read_to_string(file).expect("was written"),
        "zeroth first red\n"
    );
}
