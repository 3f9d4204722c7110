//! Names, and paths that try to be something else. What a client library or a proxy would tidy up is sent over a bare
//! connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use blackbox::registry::Registry;
use oci::Digest;
use reqwest::{Method, StatusCode};

use super::{clause, refused};

clause! {
    fn names_may_hold_the_words_of_endpoints(registry) {
        for name in ["a/tags/list", "x/blobs", "x/blobs/uploads", "manifests/manifests", "referrers", "a/blobs/uploads/b"] {
            let body = registry.manifest(name, name);
            let digest = registry.push_manifest(name, "list", &body);
            assert_eq!(registry.get(&format!("/v2/{name}/manifests/list")).bytes().unwrap(), body, "{name}");
            let empty = Digest::sha256(b"{}");
            assert_eq!(registry.get(&format!("/v2/{name}/blobs/{empty}")).status(), StatusCode::OK, "{name}");
            assert_eq!(registry.get(&format!("/v2/{name}/tags/list")).status(), StatusCode::OK, "{name}");
            assert_eq!(registry.get(&format!("/v2/{name}/referrers/{digest}")).status(), StatusCode::OK, "{name}");
        }
    }
}

clause! {
    fn names_have_at_most_255_characters(registry) {
        let longest = format!("long/{}", "a".repeat(250));
        registry.push_blob(&longest, b"x");
        let too_long = format!("{longest}a");
        let refusal = registry.send(Method::POST, &format!("/v2/{too_long}/blobs/uploads/"));
        refused(refusal, StatusCode::BAD_REQUEST, "NAME_INVALID");
    }
}

clause! {
    fn names_outside_of_the_grammar_are_refused(registry) {
        for name in ["UPPER", "a/Upper", "a..b", "a___b", "-a", "a-", "a/-b", "_a", "a%20b", "%C3%A4"] {
            let refusal = registry.send(Method::POST, &format!("/v2/{name}/blobs/uploads/"));
            refused(refusal, StatusCode::BAD_REQUEST, "NAME_INVALID");
        }
    }
}

/// The status that a request as it stands here gets.
fn status(registry: &Registry, head: &str) -> u16 {
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may answer and close before all of it is sent.
    let _ = stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .unwrap_or_else(|| panic!("{answer:?}"))
        .parse()
        .unwrap()
}

#[test]
fn no_path_leads_out_of_a_repository() {
    let registry = Registry::open();
    let digest = registry.push_blob("secret/a", b"x");
    for path in [
        format!("/v2/other/../secret/a/blobs/{digest}"),
        format!("/v2/other/%2e%2e/secret/a/blobs/{digest}"),
        format!("/v2/other/..%2fsecret/a/blobs/{digest}"),
        format!("/v2/secret%2fa/blobs/{digest}"),
        format!("/v2/secret//a/blobs/{digest}"),
        format!("/v2//secret/a/blobs/{digest}"),
        format!("/v2/./secret/a/blobs/{digest}"),
        format!("/v2/secret/a/blobs/./{digest}"),
        format!("/v2/secret/a/blobs/{digest}/"),
        format!("/v2/secret/a/blobs/{digest}%00"),
        format!("//v2/secret/a/blobs/{digest}"),
        format!("/V2/secret/a/blobs/{digest}"),
        "/v2/../../../etc/passwd".to_owned(),
        "/v2/a/blobs/sha256:../../../../etc/passwd".to_owned(),
        "/v2/a/blobs/uploads/../../../../../etc/passwd".to_owned(),
        "/v2/a/manifests/..%2f..%2fetc%2fpasswd".to_owned(),
    ] {
        let status = status(&registry, &format!("GET {path} HTTP/1.1"));
        assert!(status == 400 || status == 404, "{path}: {status}");
    }
    assert_eq!(
        status(&registry, &format!("GET /v2/secret/a/blobs/{digest} HTTP/1.1")),
        200
    );
}

#[test]
fn a_target_or_headers_without_measure_are_refused() {
    let registry = Registry::open();
    let long = "x".repeat(70_000);
    assert_eq!(status(&registry, &format!("GET /v2/?{long} HTTP/1.1")), 414);
    let large: String = (0..10).map(|n| format!("\r\nX-{n}: {long}")).collect();
    assert_eq!(status(&registry, &format!("GET /v2/ HTTP/1.1{large}")), 431);
    let many: String = (0..200).map(|n| format!("\r\nX-{n}: x")).collect();
    assert_eq!(status(&registry, &format!("GET /v2/ HTTP/1.1{many}")), 431);
    assert_eq!(status(&registry, "GET /v2/ HTTP/1.1"), 200);
}
