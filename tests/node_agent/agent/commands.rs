//! Configuration, `check`, `default` and `join`.

use std::process::Command;

use blackbox::process;

use crate::support::{Place, complaint, node};

#[test]
fn the_printed_default_is_a_valid_configuration() {
    let place = Place::new();
    let printed = node(&["default"]);
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).expect("is UTF-8");
    let file = place.write("node-agent.toml", &text);
    let output = node(&["check", "--config", file.to_str().expect("is UTF-8")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    for subject in [
        "the configuration is valid",
        "namespaces",
        "cgroups",
        "overlay",
        "seccomp",
    ] {
        assert!(said.contains(subject), "{said}");
    }
}

#[test]
fn every_mistake_in_a_configuration_is_told() {
    let place = Place::new();
    let file = place.write(
        "wrong.toml",
        "data = \"/x\"\nrun = \"/x/run\"\nbridge = \"much-too-long-a-name\"\ncgroup_parent = \"..\"\n",
    );
    let file = file.to_str().expect("is UTF-8");
    for command in ["check", "serve"] {
        let said = complaint(&node(&[command, "--config", file]));
        for key in [
            "must not lie in each other",
            "much-too-long-a-name",
            "cgroup_parent",
        ] {
            assert!(said.contains(key), "{command}: {said}");
        }
    }
    let file = place.write("unknown.toml", "standalon = true\n");
    let said = complaint(&node(&["serve", "--config", file.to_str().expect("is UTF-8")]));
    assert!(
        said.contains("unknown.toml") && said.contains("standalon"),
        "{said}"
    );
    let said = complaint(&node(&["serve", "--config", "/nowhere/at.toml"]));
    assert!(said.contains("/nowhere/at.toml"), "{said}");
}

#[test]
fn variables_configure_and_flags_win_over_them() {
    let mut command = Command::new(blackbox::binary("pierhead-node"));
    command
        .arg("check")
        .env("PIERHEAD_NODE_BRIDGE", "much-too-long-a-name");
    let said = complaint(&process::run(&mut command));
    assert!(said.contains("much-too-long-a-name"), "{said}");
    command.args(["--bridge", "ph-short"]);
    assert!(process::run(&mut command).status.success());
}

#[test]
fn a_join_without_an_answer_leaves_nothing_half_joined() {
    let place = Place::new();
    let data = place.data();
    let data = data.to_str().expect("is UTF-8");
    // Port 9 is discard, which nobody serves.
    let join = [
        "join",
        "--server",
        "http://127.0.0.1:9",
        "--data",
        data,
        "--name",
        "one",
    ];
    let said = complaint(&node(&join));
    assert!(said.contains("--token-file"), "{said}");
    let token = place.write("token", "PIER1-x\n");
    let token = ["--token-file", token.to_str().expect("is UTF-8")];
    let said = complaint(&node(&[&join[..], &token[..]].concat()));
    assert!(said.contains("no answer from 127.0.0.1:9"), "{said}");
    assert!(!place.data().join("fleet/node.json").exists());
    let mut wrong = join;
    wrong[2] = "registry.example.org";
    let said = complaint(&node(&[&wrong[..], &token[..]].concat()));
    assert!(said.contains("is not the URL of a server"), "{said}");
}
