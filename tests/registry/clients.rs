//! Stock clients, as Debian packages them.

use std::process::Command;

use blackbox::image::{layout, noise};
use blackbox::process::{run, succeed};
use blackbox::registry::Registry;
use oci::Digest;

fn skopeo() -> Command {
    Command::new("skopeo")
}

#[test]
fn skopeo_pushes_inspects_and_pulls_with_equal_digests() {
    let registry = Registry::with_accounts();
    let source = registry.scratch().join("source");
    let content = noise(20_000_000, 5);
    let digest = layout(&source, &[("bin/data", &content)]);
    let image = format!("docker://{}/acme/web:v1", registry.address());
    let credentials = format!("admin:{}", registry.password());
    succeed(
        skopeo()
            .args(["copy", "--dest-tls-verify=false", "--dest-creds", &credentials])
            .args([&format!("oci:{}:latest", source.display()), &image]),
    );
    let raw = succeed(skopeo().args([
        "inspect",
        "--tls-verify=false",
        "--creds",
        &credentials,
        "--raw",
        &image,
    ]));
    assert_eq!(Digest::sha256(&raw), digest);
    let back = registry.scratch().join("back");
    succeed(
        skopeo()
            .args(["copy", "--src-tls-verify=false", "--src-creds", &credentials])
            .args([&image, &format!("oci:{}:latest", back.display())]),
    );
    for blob in std::fs::read_dir(source.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let copy = std::fs::read(back.join("blobs/sha256").join(blob.file_name())).unwrap();
        assert_eq!(copy, std::fs::read(blob.path()).unwrap());
    }
    let tags = succeed(
        skopeo()
            .args(["list-tags", "--tls-verify=false", "--creds", &credentials])
            .arg(format!("docker://{}/acme/web", registry.address())),
    );
    assert!(String::from_utf8(tags).unwrap().contains("\"v1\""));
    succeed(skopeo().args(["delete", "--tls-verify=false", "--creds", &credentials, &image]));
    let gone = run(skopeo().args(["inspect", "--tls-verify=false", "--creds", &credentials, &image]));
    assert!(!gone.status.success());
}

#[test]
fn skopeo_with_a_wrong_password_is_told_so() {
    let registry = Registry::with_accounts();
    let source = registry.scratch().join("source");
    layout(&source, &[("f", b"x")]);
    let output = run(skopeo()
        .args(["copy", "--dest-tls-verify=false", "--dest-creds", "admin:wrong"])
        .args([
            &format!("oci:{}:latest", source.display()),
            &format!("docker://{}/acme/web:v1", registry.address()),
        ]));
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        text.contains("password") || text.contains("unauthorized"),
        "{text}"
    );
}
