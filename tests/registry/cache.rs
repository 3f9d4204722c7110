//! The pull-through cache in front of a second registry.

use std::process::Command;

use blackbox::image::{layout, noise};
use blackbox::process::succeed;
use blackbox::registry::{Registry, error_code, header};
use oci::Digest;
use reqwest::{Method, StatusCode};

/// An upstream with the image `library/x:latest` and its digest.
fn upstream() -> (Registry, Digest) {
    let upstream = Registry::open();
    let source = upstream.scratch().join("source");
    let digest = layout(&source, &[("bin/data", &noise(5_000_000, 6))]);
    succeed(
        Command::new("skopeo")
            .args(["copy", "--dest-tls-verify=false"])
            .args([
                &format!("oci:{}:latest", source.display()),
                &format!("docker://{}/library/x:latest", upstream.address()),
            ]),
    );
    (upstream, digest)
}

fn pull(cache: &Registry, to: &str) -> Digest {
    let target = cache.scratch().join(to);
    succeed(
        Command::new("skopeo")
            .args(["copy", "--src-tls-verify=false"])
            .args([
                &format!("docker://{}/dockerhub/library/x:latest", cache.address()),
                &format!("oci:{}:latest", target.display()),
            ]),
    );
    let index = std::fs::read(target.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_pull_fills_the_cache_and_is_served_from_it_with_the_upstream_down() {
    let (mut upstream, digest) = upstream();
    let mut cache = Registry::caching(&upstream.url());
    assert_eq!(pull(&cache, "first"), digest);
    upstream.kill();
    assert_eq!(pull(&cache, "second"), digest);
    cache.restart();
    assert_eq!(pull(&cache, "third"), digest);
}

#[test]
fn many_clients_of_one_cold_blob_all_get_it() {
    let upstream = Registry::open();
    let content = noise(30_000_000, 8);
    let digest = upstream.push_blob("library/x", &content);
    let cache = Registry::caching(&upstream.url());
    let path = format!("/v2/dockerhub/library/x/blobs/{digest}");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| cache.send(Method::GET, &path).bytes().unwrap()))
            .collect();
        for client in clients {
            assert!(client.join().unwrap() == content, "a client got other bytes");
        }
    });
    let part = cache
        .request(Method::GET, &path)
        .header("range", "bytes=29999990-")
        .send()
        .unwrap();
    assert_eq!(part.bytes().unwrap(), content[29_999_990..]);
}

#[test]
fn what_upstream_does_not_have_is_unknown_and_what_it_cannot_say_too() {
    let (mut upstream, _) = upstream();
    let cache = Registry::caching(&upstream.url());
    let missing = || cache.send(Method::GET, "/v2/dockerhub/library/none/manifests/latest");
    assert_eq!(missing().status(), StatusCode::NOT_FOUND);
    upstream.kill();
    let response = missing();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(error_code(response), "MANIFEST_UNKNOWN");
}

#[test]
fn pushing_into_a_cache_is_denied() {
    let (upstream, _) = upstream();
    let cache = Registry::caching(&upstream.url());
    let refused = cache.send(Method::POST, "/v2/dockerhub/library/x/blobs/uploads/");
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(header(&refused, "content-type").starts_with("application/json"));
    assert_eq!(error_code(refused), "DENIED");
}
