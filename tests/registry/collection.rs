//! Collection while serving: what nothing needs goes, with its bytes, and nothing else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use blackbox::binary;
use blackbox::image::noise;
use blackbox::process::succeed;
use blackbox::registry::Registry;
use blackbox::wait_for;
use oci::{Digest, media_type};
use reqwest::{Method, StatusCode};
use serde_json::json;

const HASTE: &str = "[collection]\ngrace_s = 3\ninterval_s = 1\n";

fn files_below(path: &Path) -> usize {
    let entries = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .map_while(Result::ok);
    let count = |entry: std::fs::DirEntry| match entry.path() {
        path if path.is_dir() => files_below(&path),
        _ => 1,
    };
    entries.map(count).sum()
}

fn wait_for_files(registry: &Registry, wanted: usize) {
    let blobs = registry.storage().join("blobs");
    wait_for(
        "bytes to be removed",
        Duration::from_secs(60),
        || match files_below(&blobs) {
            count if count == wanted => Ok(()),
            count => Err(format!("{count} files and not {wanted}")),
        },
    );
}

#[test]
fn blobs_without_manifest_go_and_those_of_images_stay_until_these_are_deleted() {
    let registry = Registry::open_with(HASTE);
    let (config, layer, orphan) = (b"{}".to_vec(), noise(100_000, 1), noise(1000, 2));
    let push = |repository: &str, content: &[u8]| registry.push_blob(repository, content);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": push("a/b", &config), "size": config.len()},
        "layers": [{"mediaType": media_type::OCI_LAYER_GZIP, "digest": push("a/b", &layer), "size": layer.len()}],
    })
    .to_string();
    let put = registry
        .request(Method::PUT, "/v2/a/b/manifests/v1")
        .header("content-type", media_type::OCI_MANIFEST)
        .body(manifest.clone())
        .send()
        .unwrap();
    assert_eq!(put.status(), StatusCode::CREATED);
    let orphan_digest = push("a/b", &orphan);
    let status = |repository: &str, digest: &Digest| {
        let path = format!("/v2/{repository}/blobs/{digest}");
        registry.send(Method::GET, &path).status()
    };
    // Linked elsewhere, too, where no manifest names it.
    let layer_digest = push("c/d", &layer);
    wait_for_files(&registry, 2);
    assert_eq!(status("a/b", &orphan_digest), StatusCode::NOT_FOUND);
    assert_eq!(status("c/d", &layer_digest), StatusCode::NOT_FOUND);
    let pulled = registry.send(Method::GET, &format!("/v2/a/b/blobs/{layer_digest}"));
    assert!(pulled.bytes().unwrap() == layer);
    // What is gone can come again.
    assert_eq!(push("a/b", &orphan), orphan_digest);
    assert_eq!(status("a/b", &orphan_digest), StatusCode::OK);
    let path = format!("/v2/a/b/manifests/{}", Digest::sha256(manifest.as_bytes()));
    assert_eq!(
        registry.send(Method::DELETE, &path).status(),
        StatusCode::ACCEPTED
    );
    wait_for_files(&registry, 0);
}

#[test]
fn the_command_tells_what_could_be_removed() {
    let registry = Registry::open();
    registry.push_blob("a/b", &noise(12_345, 3));
    let gc = |arguments: &[&str]| -> serde_json::Value {
        let mut command = Command::new(binary("pierhead"));
        command
            .env("HOME", registry.scratch())
            .args(["repo", "gc", "--server", &registry.url(), "--output", "json"])
            .args(arguments);
        serde_json::from_slice(&succeed(&mut command)).unwrap()
    };
    let told = gc(&["--dry-run"]);
    assert_eq!(told["pending"], json!({"blobs": 1, "size_bytes": 12_345}));
    assert_eq!(told["reclaimable"], json!({"blobs": 0, "size_bytes": 0}));
    // Its grace is a day.
    assert_eq!(gc(&[]), json!({"reviewed": 0, "collected": 0, "removed": 0}));
    assert_eq!(gc(&["--dry-run"]), told);
    let accounts = Registry::with_accounts();
    let path = format!("{}/api/v1/maintenance/collection", accounts.url());
    for request in [
        reqwest::blocking::Client::new().get(&path),
        reqwest::blocking::Client::new().post(&path),
    ] {
        assert_eq!(request.send().unwrap().status(), StatusCode::UNAUTHORIZED);
    }
}
