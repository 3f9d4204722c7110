//! Manifests, tags, blobs: what a client gets back is what was pushed.

use blackbox::image::noise;
use blackbox::registry::{Registry, error_code, header};
use oci::{Digest, media_type};
use reqwest::{Method, StatusCode};
use serde_json::json;

fn manifest(config: &Digest, config_size: usize) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_EMPTY, "digest": config, "size": config_size},
        "layers": [],
    })
    .to_string()
    .into_bytes()
}

fn put_manifest(registry: &Registry, reference: &str, body: &[u8]) -> reqwest::blocking::Response {
    registry
        .request(Method::PUT, &format!("/v2/a/b/manifests/{reference}"))
        .header("content-type", media_type::OCI_MANIFEST)
        .body(body.to_vec())
        .send()
        .unwrap()
}

#[test]
fn a_manifest_comes_back_byte_for_byte_by_tag_and_by_digest() {
    let registry = Registry::open();
    let config = registry.push_blob("a/b", b"{}");
    let body = manifest(&config, 2);
    let digest = Digest::sha256(&body);
    let pushed = put_manifest(&registry, "v1", &body);
    assert_eq!(pushed.status(), StatusCode::CREATED);
    assert_eq!(header(&pushed, "docker-content-digest"), digest.as_str());
    for reference in ["v1", digest.as_str()] {
        let pulled = registry.send(Method::GET, &format!("/v2/a/b/manifests/{reference}"));
        assert_eq!(header(&pulled, "content-type"), media_type::OCI_MANIFEST);
        assert_eq!(header(&pulled, "docker-content-digest"), digest.as_str());
        assert_eq!(pulled.bytes().unwrap(), body);
        let head = registry.send(Method::HEAD, &format!("/v2/a/b/manifests/{reference}"));
        assert_eq!(header(&head, "content-length"), body.len().to_string());
    }
}

#[test]
fn a_manifest_that_names_missing_blobs_is_refused_and_names_them() {
    let registry = Registry::open();
    let missing = Digest::sha256(b"never pushed");
    let refused = put_manifest(&registry, "v1", &manifest(&missing, 12));
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let text = refused.text().unwrap();
    assert!(
        text.contains("MANIFEST_BLOB_UNKNOWN") && text.contains(missing.as_str()),
        "{text}"
    );
    assert_eq!(
        registry.send(Method::GET, "/v2/a/b/manifests/v1").status(),
        StatusCode::NOT_FOUND
    );
}

#[test]
fn malformed_manifests_are_refused() {
    let registry = Registry::open();
    registry.push_blob("a/b", b"{}");
    for body in [b"{".as_slice(), b"[]", b"{\"schemaVersion\":2}", b""] {
        let refused = put_manifest(&registry, "v1", body);
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(error_code(refused), "MANIFEST_INVALID");
    }
    let refused = put_manifest(&registry, "v1", &vec![b' '; 5 << 20]);
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn a_digest_in_the_path_must_be_right() {
    let registry = Registry::open();
    let config = registry.push_blob("a/b", b"{}");
    let other = Digest::sha256(b"other");
    let refused = put_manifest(&registry, other.as_str(), &manifest(&config, 2));
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(error_code(refused), "DIGEST_INVALID");
}

#[test]
fn tags_are_listed_in_pages_in_bytewise_order() {
    let registry = Registry::open();
    let config = registry.push_blob("a/b", b"{}");
    let body = manifest(&config, 2);
    for tag in ["b", "a", "B", "c", "_"] {
        assert_eq!(put_manifest(&registry, tag, &body).status(), StatusCode::CREATED);
    }
    let first = registry.send(Method::GET, "/v2/a/b/tags/list?n=3");
    assert!(header(&first, "link").contains("rel=\"next\""));
    let next = header(&first, "link")
        .split(['<', '>'])
        .nth(1)
        .unwrap()
        .to_owned();
    let tags =
        |response: reqwest::blocking::Response| response.json::<serde_json::Value>().unwrap()["tags"].clone();
    assert_eq!(tags(first), json!(["B", "_", "a"]));
    let second = registry.send(Method::GET, &next);
    assert!(second.headers().get("link").is_none());
    assert_eq!(tags(second), json!(["b", "c"]));
    assert_eq!(
        tags(registry.send(Method::GET, "/v2/a/b/tags/list?n=0")),
        json!([])
    );
    assert_eq!(
        registry.send(Method::GET, "/v2/a/b/tags/list?n=x").status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        error_code(registry.send(Method::GET, "/v2/no/such/tags/list")),
        "NAME_UNKNOWN"
    );
}

#[test]
fn ranges_of_a_blob_are_served() {
    let registry = Registry::open();
    let content = noise(3_000_000, 7);
    let digest = registry.push_blob("a/b", &content);
    let path = format!("/v2/a/b/blobs/{digest}");
    let whole = registry.send(Method::GET, &path);
    assert_eq!(header(&whole, "accept-ranges"), "bytes");
    assert_eq!(whole.bytes().unwrap(), content);
    let get = |range: &str| {
        registry
            .request(Method::GET, &path)
            .header("range", range)
            .send()
            .unwrap()
    };
    let part = get("bytes=1048570-1048590");
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(header(&part, "content-range"), "bytes 1048570-1048590/3000000");
    assert_eq!(part.bytes().unwrap(), content[1_048_570..=1_048_590]);
    assert_eq!(get("bytes=-5").bytes().unwrap(), content[2_999_995..]);
    assert_eq!(get("bytes=3000000-").status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[test]
fn a_blob_is_seen_only_through_repositories_that_link_it() {
    let registry = Registry::open();
    let digest = registry.push_blob("a/b", b"secret");
    let elsewhere = registry.send(Method::GET, &format!("/v2/c/d/blobs/{digest}"));
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    assert_eq!(error_code(elsewhere), "BLOB_UNKNOWN");
    let mounted = registry.send(
        Method::POST,
        &format!("/v2/c/d/blobs/uploads/?mount={digest}&from=a/b"),
    );
    assert_eq!(mounted.status(), StatusCode::CREATED);
    let there = registry.send(Method::GET, &format!("/v2/c/d/blobs/{digest}"));
    assert_eq!(there.bytes().unwrap().as_ref(), b"secret");
}

#[test]
fn deleting_a_manifest_removes_its_tags_and_deleting_a_tag_only_itself() {
    let registry = Registry::open();
    let config = registry.push_blob("a/b", b"{}");
    let body = manifest(&config, 2);
    let digest = Digest::sha256(&body);
    put_manifest(&registry, "one", &body);
    put_manifest(&registry, "two", &body);
    let status = |method, reference: &str| {
        registry
            .send(method, &format!("/v2/a/b/manifests/{reference}"))
            .status()
    };
    assert_eq!(status(Method::DELETE, "one"), StatusCode::ACCEPTED);
    assert_eq!(status(Method::GET, "one"), StatusCode::NOT_FOUND);
    assert_eq!(status(Method::GET, "two"), StatusCode::OK);
    assert_eq!(status(Method::DELETE, digest.as_str()), StatusCode::ACCEPTED);
    assert_eq!(status(Method::GET, "two"), StatusCode::NOT_FOUND);
}

#[test]
fn referrers_are_listed_by_subject_and_type() {
    let registry = Registry::open();
    let config = registry.push_blob("a/b", b"{}");
    let subject = Digest::sha256(b"not pushed yet");
    let body = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": "application/vnd.acme.sbom",
        "config": {"mediaType": media_type::OCI_EMPTY, "digest": config, "size": 2},
        "layers": [],
        "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 14},
        "annotations": {"by": "test"},
    });
    let pushed = put_manifest(&registry, "sbom", body.to_string().as_bytes());
    assert_eq!(header(&pushed, "oci-subject"), subject.as_str());
    let list = |query: &str| {
        let response = registry.send(Method::GET, &format!("/v2/a/b/referrers/{subject}{query}"));
        assert_eq!(header(&response, "content-type"), media_type::OCI_INDEX);
        response.json::<serde_json::Value>().unwrap()["manifests"]
            .as_array()
            .unwrap()
            .clone()
    };
    let all = list("");
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["artifactType"], "application/vnd.acme.sbom");
    assert_eq!(all[0]["annotations"]["by"], "test");
    assert!(list("?artifactType=other").is_empty());
}
