//! Uploads: resumed, refused, cut off, and killed in the middle.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use blackbox::image::noise;
use blackbox::registry::{Registry, error_code, header};
use blackbox::wait_for;
use oci::Digest;
use reqwest::{Method, StatusCode};

fn patch(registry: &Registry, upload: &str, range: &str, bytes: &[u8]) -> reqwest::blocking::Response {
    registry
        .request(Method::PATCH, upload)
        .header("content-range", range)
        .body(bytes.to_vec())
        .send()
        .unwrap()
}

fn files_below(path: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let count = |e: std::fs::DirEntry| {
        if e.path().is_dir() {
            files_below(&e.path())
        } else {
            1
        }
    };
    entries.map_while(Result::ok).map(count).sum()
}

#[test]
fn chunks_are_appended_and_a_gap_is_refused_with_the_way_to_recover() {
    let registry = Registry::open();
    let content = noise(300_000, 1);
    let upload = registry.begin_upload("a/b");
    let first = patch(&registry, &upload, "0-99999", &content[..100_000]);
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    assert_eq!(header(&first, "range"), "0-99999");
    let gap = patch(&registry, &upload, "200000-299999", &content[200_000..]);
    assert_eq!(gap.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&gap, "range"), "0-99999");
    assert_eq!(header(&gap, "location"), upload);
    let status = registry.send(Method::GET, &upload);
    assert_eq!(
        (status.status(), header(&status, "range").as_str()),
        (StatusCode::NO_CONTENT, "0-99999")
    );
    assert_eq!(
        patch(&registry, &upload, "100000-299999", &content[100_000..]).status(),
        StatusCode::ACCEPTED
    );
    let digest = Digest::sha256(&content);
    let done = registry.send(Method::PUT, &format!("{upload}?digest={digest}"));
    assert_eq!(done.status(), StatusCode::CREATED);
    let pulled = registry.send(Method::GET, &header(&done, "location"));
    assert_eq!(pulled.bytes().unwrap(), content);
    let again = registry.send(Method::PUT, &format!("{upload}?digest={digest}"));
    assert_eq!(
        again.status(),
        StatusCode::CREATED,
        "a retry after a lost answer succeeds"
    );
}

#[test]
fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let registry = Registry::open();
    let wrong = Digest::sha256(b"something else");
    let upload = registry.begin_upload("a/b");
    let request = registry.request(Method::PUT, &format!("{upload}?digest={wrong}"));
    let refused = request.body("content").send().unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(error_code(refused), "DIGEST_INVALID");
    for digest in [wrong, Digest::sha256(b"content")] {
        let status = registry
            .send(Method::GET, &format!("/v2/a/b/blobs/{digest}"))
            .status();
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    assert_eq!(files_below(&registry.storage()), 0);
    assert_eq!(
        registry.send(Method::GET, &upload).status(),
        StatusCode::NOT_FOUND
    );
}

#[test]
fn one_request_pushes_a_blob_and_sha512_is_kept_as_such() {
    let registry = Registry::open();
    let digest = Digest::of(oci::Algorithm::Sha512, b"content");
    let request = registry.request(Method::POST, &format!("/v2/a/b/blobs/uploads/?digest={digest}"));
    let pushed = request.body("content").send().unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    assert_eq!(header(&pushed, "docker-content-digest"), digest.as_str());
    let pulled = registry.send(Method::GET, &header(&pushed, "location"));
    assert_eq!(pulled.bytes().unwrap().as_ref(), b"content");
}

#[test]
fn malformed_digests_ranges_and_names_are_refused() {
    let registry = Registry::open();
    let upload = registry.begin_upload("a/b");
    for query in ["", "?digest=", "?digest=md5:00", "?digest=sha256:zz"] {
        let refused = registry.send(Method::PUT, &format!("{upload}{query}"));
        assert_eq!(
            (refused.status(), error_code(refused).as_str()),
            (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
        );
    }
    assert_eq!(
        patch(&registry, &upload, "bytes", b"x").status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        patch(&registry, &upload, "0-9", b"x").status(),
        StatusCode::BAD_REQUEST
    );
    let refused = registry.send(Method::POST, "/v2/UPPER/blobs/uploads/");
    assert_eq!(
        (refused.status(), error_code(refused).as_str()),
        (StatusCode::BAD_REQUEST, "NAME_INVALID")
    );
}

#[test]
fn a_cancelled_upload_is_gone() {
    let registry = Registry::open();
    let upload = registry.begin_upload("a/b");
    assert_eq!(
        patch(&registry, &upload, "0-0", b"x").status(),
        StatusCode::ACCEPTED
    );
    assert_eq!(
        registry.send(Method::DELETE, &upload).status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        registry.send(Method::GET, &upload).status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(files_below(&registry.storage()), 0);
}

/// Sends a PATCH that announces `length` bytes, sends fewer, and returns the open connection.
fn send_part(registry: &Registry, upload: &str, length: usize, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    write!(
        stream,
        "PATCH {upload} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n",
        registry.address()
    )
    .unwrap();
    stream.write_all(part).unwrap();
    stream
}

#[test]
fn a_truncated_upload_can_be_resumed_where_it_stands() {
    let registry = Registry::open();
    let content = noise(500_000, 2);
    let upload = registry.begin_upload("a/b");
    drop(send_part(&registry, &upload, content.len(), &content[..200_000]));
    // The server notices the cut connection when it reads on.
    let offset = wait_for(
        "the upload to stand at what was sent",
        Duration::from_secs(10),
        || {
            let offset = header(&registry.send(Method::GET, &upload), "pierhead-upload-offset");
            if offset == "0" {
                Err("it still stands at 0")
            } else {
                Ok(offset.parse::<usize>().unwrap())
            }
        },
    );
    assert!(offset <= 200_000);
    let rest = patch(
        &registry,
        &upload,
        &format!("{offset}-499999"),
        &content[offset..],
    );
    assert_eq!(rest.status(), StatusCode::ACCEPTED);
    let digest = Digest::sha256(&content);
    let done = registry.send(Method::PUT, &format!("{upload}?digest={digest}"));
    assert_eq!(done.status(), StatusCode::CREATED);
}

#[test]
fn sigkill_in_the_middle_of_an_upload_loses_nothing_that_was_acknowledged() {
    let mut registry = Registry::open();
    let stored = registry.push_blob("a/b", &noise(1_000_000, 3));
    let content = noise(900_000, 4);
    let upload = registry.begin_upload("a/b");
    assert_eq!(
        patch(&registry, &upload, "0-399999", &content[..400_000]).status(),
        StatusCode::ACCEPTED
    );
    let mut half_sent = send_part(&registry, &upload, 500_000, &content[400_000..700_000]);
    wait_for(
        "bytes behind the acknowledged ones",
        Duration::from_secs(10),
        || {
            let id = upload.rsplit('/').next().unwrap();
            let length = std::fs::metadata(registry.storage().join("uploads").join(id))
                .unwrap()
                .len();
            if length > 400_000 {
                Ok(())
            } else {
                Err(format!("the file has {length} bytes"))
            }
        },
    );
    registry.restart();
    let mut rest = Vec::new();
    let _ = half_sent.read_to_end(&mut rest);
    assert!(rest.is_empty(), "the killed server acknowledged nothing");
    let status = registry.send(Method::GET, &upload);
    assert_eq!(header(&status, "range"), "0-399999");
    let rest = patch(&registry, &upload, "400000-899999", &content[400_000..]);
    assert_eq!(rest.status(), StatusCode::ACCEPTED);
    let digest = Digest::sha256(&content);
    let done = registry.send(Method::PUT, &format!("{upload}?digest={digest}"));
    assert_eq!(done.status(), StatusCode::CREATED);
    for (digest, length) in [(stored, 1_000_000), (digest, 900_000)] {
        let body = registry
            .send(Method::GET, &format!("/v2/a/b/blobs/{digest}"))
            .bytes()
            .unwrap();
        assert_eq!((body.len(), Digest::sha256(&body)), (length, digest));
    }
}
