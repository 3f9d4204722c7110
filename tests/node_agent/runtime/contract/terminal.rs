//! runtime-spec `config.md`, Process: terminal and consoleSize; the console socket of runc.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::support::{Bundle, Runtime, contract};

contract! {
    the_terminal_comes_over_the_console_socket on [ours, runc, crun];
    the_terminal_has_the_size_asked_for on [ours, runc, crun];
    exec_has_a_terminal_of_its_own on [ours, runc, crun];
    in_the_foreground_the_callers_terminal_is_used on [ours, runc, crun];
    a_terminal_nobody_takes_is_refused on [ours, runc];
    a_socket_without_a_terminal_is_refused on [ours, runc];
    an_ordinary_user_may_open_its_terminal on [ours, runc, crun];
    a_terminal_works_in_a_user_namespace on [ours, runc];
}

/// Waits at a console socket while `start` runs, and returns the terminal that arrives.
fn receive(bundle: &Bundle, start: impl FnOnce(&str)) -> File {
    let path = bundle.place.path().join("console.sock");
    let listener = UnixListener::bind(&path).expect("listens");
    start(path.to_str().expect("is UTF-8"));
    let (socket, _) = listener.accept().expect("is connected to");
    fs::remove_file(path).expect("removes");
    let mut text = [0u8; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        &socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::empty(),
    )
    .expect("receives");
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(descriptors.len(), 1);
    descriptors.into_iter().next().expect("has one").into()
}

/// Reads from a terminal until its other end is closed, or `until` has come.
fn read_all(terminal: &mut File, until: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0u8; 512];
    // A terminal whose programs have all ended gives an error, not an end of file.
    while let Ok(length) = terminal.read(&mut buffer) {
        if length == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..length]);
        if !until.is_empty() && String::from_utf8_lossy(&text).contains(until) {
            break;
        }
    }
    String::from_utf8_lossy(&text).replace('\r', "")
}

fn create(bundle: &Bundle) -> File {
    receive(bundle, |path| {
        let created = bundle.create_with(&["--console-socket", path]);
        assert!(
            created.status.success(),
            "{}",
            String::from_utf8_lossy(&created.stderr)
        );
    })
}

fn the_terminal_comes_over_the_console_socket(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "tty; stat -c '%t' /dev/console; test -t 0 && test -t 1 && test -t 2 && echo all; echo x > /dev/tty; read line; echo got $line",
    );
    bundle.config["process"]["terminal"] = json!(true);
    let mut terminal = create(&bundle);
    bundle.must(&["start", &bundle.id]);
    terminal.write_all(b"typed\n").expect("writes");
    let output = read_all(&mut terminal, "got typed\r\n");
    assert!(
        output.contains("/dev/pts/0\n") && output.contains("\n88\nall\nx\n"),
        "{output:?}"
    );
    assert!(output.ends_with("got typed\n"), "{output:?}");
}

fn the_terminal_has_the_size_asked_for(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "stty size");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 111});
    let mut terminal = create(&bundle);
    bundle.must(&["start", &bundle.id]);
    assert_eq!(read_all(&mut terminal, "\n"), "33 111\n");
}

fn exec_has_a_terminal_of_its_own(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    let mut terminal = receive(&bundle, |path| {
        let status = bundle
            .command(&[
                "exec",
                "--tty",
                "--detach",
                "--console-socket",
                path,
                &bundle.id,
                "sh",
                "-c",
                "tty; read line; echo got $line",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .expect("starts");
        assert!(status.success());
    });
    terminal.write_all(b"typed\n").expect("writes");
    let output = read_all(&mut terminal, "got typed\r\n");
    assert!(
        output.contains("/dev/pts/0\n") && output.ends_with("got typed\n"),
        "{output:?}"
    );
}

fn in_the_foreground_the_callers_terminal_is_used(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "test -t 0 && echo terminal; read line; echo got $line; exit 6",
    );
    bundle.config["process"]["terminal"] = json!(true);
    bundle.write();
    let command = format!(
        "{} --root {} run --bundle {} {}",
        bundle.on.program().display(),
        bundle.state_root().display(),
        bundle.directory().display(),
        bundle.id,
    );
    // script(1) is a terminal for the runtime.
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts script(1)");
    let mut input = child.stdin.take().expect("is a pipe");
    let mut output = child.stdout.take().expect("is a pipe");
    let mut text = Vec::new();
    let mut buffer = [0u8; 512];
    while !String::from_utf8_lossy(&text).contains("terminal") {
        let length = output.read(&mut buffer).expect("reads");
        assert!(length > 0, "ended: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..length]);
    }
    input.write_all(b"typed\n").expect("writes");
    output.read_to_end(&mut text).expect("reads");
    assert!(
        String::from_utf8_lossy(&text).contains("got typed"),
        "{}",
        String::from_utf8_lossy(&text)
    );
    assert_eq!(child.wait().expect("ends").code(), Some(6));
}

fn a_terminal_nobody_takes_is_refused(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["process"]["terminal"] = json!(true);
    assert!(!bundle.create().status.success());
    assert!(
        !bundle
            .create_with(&["--console-socket", "/no/such/socket"])
            .status
            .success()
    );
    bundle.must_fail(&["state", &bundle.id]);
}

fn a_socket_without_a_terminal_is_refused(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "true");
    let path = bundle.place.path().join("console.sock");
    let _listener = UnixListener::bind(&path).expect("listens");
    assert!(
        !bundle
            .create_with(&["--console-socket", path.to_str().expect("is UTF-8")])
            .status
            .success()
    );
}

fn an_ordinary_user_may_open_its_terminal(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "echo by name > /dev/pts/0; echo as well > /dev/console; echo end",
    );
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let mut terminal = create(&bundle);
    bundle.must(&["start", &bundle.id]);
    assert_eq!(read_all(&mut terminal, "end\r\n"), "by name\nas well\nend\n");
}

fn a_terminal_works_in_a_user_namespace(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "tty; echo x > /dev/console; echo end");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.map_users();
    let mut terminal = create(&bundle);
    bundle.must(&["start", &bundle.id]);
    assert_eq!(read_all(&mut terminal, "end\r\n"), "/dev/pts/0\nx\nend\n");
    blackbox::wait_for("the end", Duration::from_secs(10), || {
        let state = bundle.state();
        if state["status"] == "stopped" {
            Ok(())
        } else {
            Err(state.to_string())
        }
    });
}
