//! What holds for every command: exit statuses, closed pipes, servers that are not there, completion scripts.

use std::process::{Command, Stdio};

use crate::{fail, pierhead, succeed};

#[test]
fn misuse_ends_with_2_and_names_what_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (&["fly"][..], "fly"),
        (&["logs"], "SERVICE"),
        (&["logs", "../etc"], "service name"),
        (&["logs", "--slot", "0", "web"], "--slot"),
        (&["rollback", "web", "latest"], "pierhead deploys"),
        (&["ps", "--server", "ftp://x"], "no address of a server"),
        (&["ps", "--output", "xml"], "json"),
        (&["deploy", "--dry-run", "--detach"], "--detach"),
        (&["login", "--password", "x"], "--password"),
    ] {
        let error = fail(pierhead(home.path()).args(arguments), 2);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let home = tempfile::tempdir().unwrap();
    let server = ["--server", "http://127.0.0.1:1"];
    for arguments in [
        &["ps"][..],
        &["deploys"],
        &["logs", "acme/web"],
        &["rollback", "acme/web"],
        &["service", "ls"],
        &["service", "rm", "acme/web"],
        &["service", "inspect", "web"],
        &["node", "ls"],
        &["node", "token"],
        &["node", "rm", "n1"],
        &["login", "--username", "x"],
    ] {
        let error = fail(
            pierhead(home.path())
                .args(arguments)
                .args(server)
                .env("PIERHEAD_PASSWORD", "secret"),
            1,
        );
        assert!(error.contains("127.0.0.1:1"), "{arguments:?}: {error}");
        assert!(!error.contains("secret"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    let mut command = pierhead(home.path());
    let child = command
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
}

#[test]
fn completion_scripts_are_made_for_three_shells() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(pierhead(home.path()).args(["completion", shell])).out;
        assert!(script.contains("rollback"), "{shell}");
    }
    let path = home.path().join("completion.bash");
    std::fs::write(
        &path,
        succeed(pierhead(home.path()).args(["completion", "bash"])).out,
    )
    .unwrap();
    let completed = "COMP_WORDS=(pierhead roll); COMP_CWORD=1; _pierhead pierhead roll pierhead; echo \"${COMPREPLY[@]}\"";
    let script = format!(". {}; {completed}", path.display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "rollback\n");
}
