//! `pierhead deploy` before anything is sent: what a compose file becomes, and what stops it.

use std::fs;

use serde_json::{Value, json};

use crate::{fail, pierhead, run, succeed};

#[test]
fn a_dry_run_prints_the_specs_and_asks_nobody() {
    let home = tempfile::tempdir().unwrap();
    let project = home.path().join("Shop");
    fs::create_dir(&project).unwrap();
    fs::write(project.join(".env"), "TAG=v2\n").unwrap();
    fs::write(
        project.join("compose.yml"),
        "services:\n  web:\n    image: reg.acme.io/acme/web:${TAG}\n    ports: ['80:8080']\n  db:\n    image: acme/db\n",
    )
    .unwrap();
    let deploy = |arguments: &[&str]| {
        let mut command = pierhead(home.path());
        command
            .current_dir(&project)
            .args(["deploy", "--dry-run", "--server", "https://reg.acme.io"]);
        command.args(arguments);
        command
    };
    let specs: Value = serde_json::from_str(&succeed(&mut deploy(&[])).out).unwrap();
    assert_eq!(specs["shop/web"]["repository"], "acme/web");
    assert_eq!(specs["shop/web"]["tag"], "v2");
    assert_eq!(
        specs["shop/web"]["ports"],
        json!([{"host_port": 80, "container_port": 8080, "protocol": "tcp"}])
    );
    assert_eq!(specs["shop/db"]["tag"], "latest");

    let one: Value = serde_json::from_str(&succeed(&mut deploy(&["web", "--project", "p"])).out).unwrap();
    assert_eq!(one.as_object().unwrap().keys().collect::<Vec<_>>(), ["p/web"]);
    // The environment wins over the file beside it.
    let changed: Value = serde_json::from_str(&succeed(deploy(&["web"]).env("TAG", "v3")).out).unwrap();
    assert_eq!(changed["shop/web"]["tag"], "v3");

    let error = fail(&mut deploy(&["cache"]), 1);
    assert!(error.contains("no service cache; it has web, db"), "{error}");
    let error = fail(deploy(&[]).args(["--server", "https://other.io"]), 2);
    assert!(error.contains("--server"), "{error}");
}

#[test]
fn all_problems_are_told_in_one_run_and_allowed_keys_are_warnings() {
    let home = tempfile::tempdir().unwrap();
    let compose =
        "services:\n  web:\n    image: docker.io/nginx\n    volumes: [a:/b]\n    privileged: true\n";
    let deploy = |arguments: &[&str], compose: &str| {
        let mut command = pierhead(home.path());
        command.args(["deploy", "--dry-run", "--file", "-", "--project", "p"]);
        command.args(arguments);
        run(&mut command, compose)
    };
    let refused = deploy(&[], compose);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""));
    for expected in [
        "standard input has 3 problems:",
        "\n  line 3: services.web.image: nodes pull from their own server, not from docker.io",
        "\n  line 4: services.web.volumes: not supported",
        "\n  line 5: services.web.privileged: not supported",
    ] {
        assert!(refused.err.contains(expected), "{expected:?} in {}", refused.err);
    }
    let allowed = ["--allow", "volumes", "--allow", "services.web.privileged"];
    let accepted = deploy(&allowed, &compose.replace("docker.io/", ""));
    assert_eq!(accepted.code, Some(0), "{}", accepted.err);
    assert!(
        accepted
            .err
            .contains("warning: standard input: line 4: services.web.volumes: ignored")
    );

    let broken = deploy(&[], "services:\n  web: [\n");
    assert_eq!(broken.code, Some(1));
    assert!(broken.err.contains("line "), "{}", broken.err);
}

#[test]
fn a_missing_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    let error = fail(pierhead(home.path()).args(["deploy", "--dry-run"]), 1);
    assert!(
        error.contains("there is no compose.yaml") && error.contains("--file"),
        "{error}"
    );
    let error = fail(
        pierhead(home.path()).args(["deploy", "--dry-run", "-f", "other.yaml"]),
        1,
    );
    assert!(error.contains("read compose file other.yaml"), "{error}");
}
