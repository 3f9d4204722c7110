//! The API itself, where the docker command does not show it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use blackbox::binary;
use blackbox::process::run;

use crate::docker::support::{Engine, PATIENCE};

#[test]
fn versions_are_negotiated() {
    let engine = Engine::start();
    let mode = std::fs::metadata(engine.socket())
        .expect("the socket is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let ping = engine.request("GET", "/_ping");
    assert!(
        ping.starts_with("HTTP/1.1 200 OK\r\n") && ping.ends_with("\r\n\r\nOK"),
        "{ping}"
    );
    let head = engine.request("HEAD", "/v1.24/_ping").to_lowercase();
    for header in [
        "api-version: 1.44",
        "ostype: linux",
        "builder-version: 1",
        "docker-experimental: false",
        "server: pierhead/",
    ] {
        assert!(head.contains(&format!("\r\n{header}")), "{header}: {head}");
    }
    for (path, message) in [
        (
            "/v1.45/version",
            "client version 1.45 is too new. Maximum supported API version is 1.44",
        ),
        (
            "/v1.23/version",
            "client version 1.23 is too old. Minimum supported API version is 1.24",
        ),
    ] {
        let answer = engine.request("GET", path);
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains(message),
            "{answer}"
        );
    }
    let nowhere = engine.request("GET", "/v1.44/no/such/page");
    assert!(
        nowhere.starts_with("HTTP/1.1 404 ") && nowhere.ends_with(r#"{"message":"page not found"}"#),
        "{nowhere}"
    );
    assert!(engine.request("DELETE", "/version").starts_with("HTTP/1.1 404 "));
    let versions = engine.ok(&["version", "-f", "{{.Server.APIVersion}} {{.Client.APIVersion}}"]);
    // Debian's command is older than the engine, a current one newer.
    assert!(
        ["1.44 1.41", "1.44 1.44"].contains(&versions.as_str()),
        "{versions}"
    );
    assert_eq!(
        engine.ok(&["info", "-f", "{{.OSType}} {{.Containers}} {{.Images}}"]),
        "linux 0 0"
    );
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let mut engine = Engine::start();
    engine.kill();
    assert!(engine.socket().exists());
    engine.serve();
    assert_eq!(engine.ok(&["ps", "-q"]), "");
    let other = tempfile::tempdir().expect("a temporary directory");
    let agent = |verb: &str, flag: &str| {
        run(Command::new(binary("pierhead-node"))
            .args([verb, flag])
            .arg("--data")
            .arg(other.path().join("data"))
            .arg("--run")
            .arg(other.path().join("run"))
            .arg("--socket")
            .arg(engine.socket()))
    };
    let second = agent("serve", "--standalone");
    let purged = agent("purge", "--yes");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another engine listens on"), "{said}");
    assert!(purged.status.success(), "{purged:?}");
    assert_eq!(engine.ok(&["ps", "-q"]), "", "the first goes on");
}

/// The sequence of `docker run`, step by step: the output of a program that ends at once is whole, and the waiter is
/// answered before there is anything to tell.
#[test]
fn who_attaches_and_waits_before_the_start_misses_nothing() {
    let engine = Engine::with_image();
    let body = format!(
        r#"{{"Image":"{}","Cmd":["sh","-c","echo out; echo err >&2; exit 9"],"NoSuchField":1,"HostConfig":{{"AutoRemove":true,"Memory":6.7e7}}}}"#,
        engine.image()
    );
    let created = engine.post("/v1.44/containers/create?name=one", &body);
    assert!(
        created.starts_with("HTTP/1.1 201 ") && created.contains(r#""Warnings":[]"#),
        "{created}"
    );

    let connect = |request: &str| {
        let mut stream = UnixStream::connect(engine.socket()).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("sets a timeout");
        stream.write_all(request.as_bytes()).expect("sends");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        (String::from_utf8(head).expect("text"), stream)
    };
    let (head, mut attached) = connect(
        "POST /v1.44/containers/one/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n\
         Upgrade: tcp\r\n\r\n",
    );
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    assert!(
        head.to_lowercase()
            .contains("content-type: application/vnd.docker.multiplexed-stream"),
        "{head}"
    );
    attached.shutdown(std::net::Shutdown::Write).expect("half closes");
    let (head, mut waiting) = connect(
        "POST /v1.44/containers/one/wait?condition=removed HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n",
    );
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        engine
            .request("POST", "/containers/one/start")
            .starts_with("HTTP/1.1 204 ")
    );

    let mut output = Vec::new();
    attached
        .read_to_end(&mut output)
        .expect("ends with the container");
    let (out, err) = (
        &b"\x01\0\0\0\0\0\0\x04out\n"[..],
        &b"\x02\0\0\0\0\0\0\x04err\n"[..],
    );
    assert!(
        output == [out, err].concat() || output == [err, out].concat(),
        "{output:?}"
    );
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(r#"{"StatusCode":9}"#), "{answer}");
    assert!(
        engine
            .request("GET", "/containers/one/json")
            .starts_with("HTTP/1.1 404 "),
        "it is gone by then"
    );
}

#[test]
fn states_answer_with_dockers_codes() {
    let engine = Engine::with_image();
    engine.ok(&["create", "--name", "one", &engine.image(), "sleep", "1000"]);
    let status = |method: &str, path: &str| {
        let answer = engine.request(method, &format!("/v1.44/containers/{path}"));
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status("POST", "one/stop"), "304");
    assert_eq!(status("POST", "one/kill"), "409");
    assert_eq!(status("POST", "one/start"), "204");
    assert_eq!(status("POST", "one/start"), "304");
    assert_eq!(status("DELETE", "one"), "409");
    assert_eq!(status("POST", "one/kill?signal=NOPE"), "400");
    assert_eq!(status("POST", "one/wait?condition=bored"), "400");
    assert_eq!(status("GET", "one/logs"), "400");
    assert_eq!(
        status("GET", r"json?filters=%7B%22colour%22:%5B%22red%22%5D%7D"),
        "400"
    );
    let begun = Instant::now();
    assert_eq!(status("POST", "one/stop?t=0&signal=WINCH"), "204");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(status("POST", "one/stop"), "304");
    assert_eq!(status("DELETE", "one?v=1"), "204");
    assert_eq!(status("GET", "one/json"), "404");
}
