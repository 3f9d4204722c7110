//! Stock clients, as Debian and PyPI package them.

mod containerd;
mod curl;
mod docker;
mod oras;
mod umoci;

use std::process::Command;

use blackbox::debian;
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

/// podman or buildah with storage of the test's own, which needs no file system of a certain kind.
fn containers(program: &str, registry: &Registry) -> Command {
    let scratch = registry.scratch();
    // An empty one must exist before the first login.
    let credentials = scratch.join("auth.json");
    if !credentials.exists() {
        std::fs::write(&credentials, "{}").unwrap();
    }
    let mut command = Command::new(program);
    command
        .args(["--storage-driver", "vfs", "--root"])
        .arg(scratch.join("root"));
    command.arg("--runroot").arg(scratch.join("runroot"));
    command
        .env("TMPDIR", scratch)
        .env("REGISTRY_AUTH_FILE", credentials);
    command
}

/// An image of one layer in a layout, and the digest that the registry knows it by after `v1` was pushed by skopeo.
fn pushed(registry: &Registry) -> (String, Digest) {
    let source = registry.scratch().join("source");
    let digest = layout(&source, &[("bin/data", &noise(3_000_000, 11))]);
    let image = format!("{}/acme/web:v1", registry.address());
    let credentials = format!("admin:{}", registry.password());
    succeed(
        skopeo()
            .args(["copy", "--dest-tls-verify=false", "--dest-creds", &credentials])
            .args([
                &format!("oci:{}:latest", source.display()),
                &format!("docker://{image}"),
            ]),
    );
    (image, digest)
}

fn raw_digest(registry: &Registry, image: &str) -> Digest {
    let credentials = format!("admin:{}", registry.password());
    let url = format!("docker://{image}");
    let raw = succeed(skopeo().args([
        "inspect",
        "--tls-verify=false",
        "--creds",
        &credentials,
        "--raw",
        &url,
    ]));
    Digest::sha256(&raw)
}

#[test]
fn podman_logs_in_pulls_and_pushes_with_equal_digests() {
    let registry = Registry::with_accounts();
    let (image, digest) = pushed(&registry);
    let podman = || containers("podman", &registry);
    let address = registry.address();
    let wrong = run(podman().args([
        "login",
        "--tls-verify=false",
        "-u",
        "admin",
        "-p",
        "wrong",
        address,
    ]));
    assert!(!wrong.status.success());
    succeed(podman().args([
        "login",
        "--tls-verify=false",
        "-u",
        "admin",
        "-p",
        registry.password(),
        address,
    ]));
    succeed(podman().args(["pull", "--quiet", "--tls-verify=false", &image]));
    let known = succeed(podman().args(["image", "inspect", "--format", "{{.Digest}}", &image]));
    assert_eq!(String::from_utf8(known).unwrap().trim(), digest.as_str());
    let copy = format!("{address}/acme/copy:v2");
    succeed(podman().args(["push", "--quiet", "--tls-verify=false", &image, &copy]));
    let config = |image: &str| {
        let credentials = format!("admin:{}", registry.password());
        let url = format!("docker://{image}");
        succeed(skopeo().args([
            "inspect",
            "--tls-verify=false",
            "--creds",
            &credentials,
            "--config",
            &url,
        ]))
    };
    assert_eq!(
        config(&copy),
        config(&image),
        "layers may be compressed anew; the image is the same"
    );
}

#[test]
fn buildah_pushes_what_it_built() {
    let registry = Registry::with_accounts();
    let buildah = || containers("buildah", &registry);
    let file = registry.scratch().join("hello");
    std::fs::write(&file, "hello").unwrap();
    let container = succeed(buildah().args(["from", "scratch"]));
    let container = String::from_utf8(container).unwrap().trim().to_owned();
    succeed(buildah().args(["copy", &container]).arg(&file).arg("/hello"));
    let image = format!("{}/acme/built:v1", registry.address());
    succeed(buildah().args(["commit", "--quiet", &container, &image]));
    let credentials = format!("admin:{}", registry.password());
    let digest_file = registry.scratch().join("digest");
    succeed(
        buildah()
            .args([
                "push",
                "--quiet",
                "--tls-verify=false",
                "--creds",
                &credentials,
                "--digestfile",
            ])
            .arg(&digest_file)
            .arg(&image),
    );
    let told = std::fs::read_to_string(&digest_file).unwrap();
    assert_eq!(told.trim(), raw_digest(&registry, &image).as_str());
}

#[test]
fn skopeo_syncs_a_repository_out_and_in() {
    let registry = Registry::with_accounts();
    let (image, digest) = pushed(&registry);
    let credentials = format!("admin:{}", registry.password());
    let copy = format!("docker://{}/acme/web:v2", registry.address());
    succeed(
        skopeo()
            .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(["--src-creds", &credentials, "--dest-creds", &credentials])
            .args([&format!("docker://{image}"), &copy]),
    );
    let directory = registry.scratch().join("synced");
    let repository = format!("{}/acme/web", registry.address());
    succeed(
        skopeo()
            .args([
                "sync",
                "--src",
                "docker",
                "--dest",
                "dir",
                "--src-tls-verify=false",
            ])
            .args(["--src-creds", &credentials, &repository])
            .arg(&directory),
    );
    for tag in ["v1", "v2"] {
        let manifest = std::fs::read(directory.join(format!("web:{tag}/manifest.json"))).unwrap();
        assert_eq!(Digest::sha256(&manifest), digest);
    }
    succeed(
        skopeo()
            .args([
                "sync",
                "--src",
                "dir",
                "--dest",
                "docker",
                "--dest-tls-verify=false",
            ])
            .args(["--dest-creds", &credentials])
            .arg(&directory)
            .arg(format!("{}/mirror", registry.address())),
    );
    let mirrored = format!("{}/mirror/web:v2", registry.address());
    assert_eq!(raw_digest(&registry, &mirrored), digest);
}

#[test]
fn skopeo_deletes_an_image_with_all_its_tags() {
    let registry = Registry::with_accounts();
    let (image, _) = pushed(&registry);
    let credentials = format!("admin:{}", registry.password());
    let copy = format!("docker://{}/acme/web:same", registry.address());
    succeed(
        skopeo()
            .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(["--src-creds", &credentials, "--dest-creds", &credentials])
            .args([&format!("docker://{image}"), &copy]),
    );
    succeed(skopeo().args(["delete", "--tls-verify=false", "--creds", &credentials, &copy]));
    let repository = format!("docker://{}/acme/web", registry.address());
    let tags = succeed(skopeo().args([
        "list-tags",
        "--tls-verify=false",
        "--creds",
        &credentials,
        &repository,
    ]));
    let tags: serde_json::Value = serde_json::from_slice(&tags).unwrap();
    assert_eq!(tags["Tags"], serde_json::json!([]), "skopeo deletes by digest");
}

#[test]
fn a_debian_of_more_than_100_megabytes_comes_back_byte_for_byte() {
    let registry = Registry::with_accounts();
    let source = debian::layout();
    let credentials = format!("admin:{}", registry.password());
    let image = format!("docker://{}/debian/minbase:v1", registry.address());
    let back = registry.scratch().join("back");
    let from = format!("oci:{}:latest", source.display());
    let copy = || {
        let mut command = skopeo();
        command.args(["copy", "--quiet", "--preserve-digests"]);
        command
    };
    succeed(
        copy()
            .args(["--dest-tls-verify=false", "--dest-creds", &credentials])
            .args([&from, &image]),
    );
    succeed(
        copy()
            .args(["--src-tls-verify=false", "--src-creds", &credentials])
            .args([&image, &format!("oci:{}:latest", back.display())]),
    );
    let mut total = 0;
    for blob in std::fs::read_dir(source.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let pulled = std::fs::read(back.join("blobs/sha256").join(blob.file_name())).unwrap();
        assert!(
            pulled == std::fs::read(blob.path()).unwrap(),
            "{:?} differs",
            blob.file_name()
        );
        assert_eq!(Digest::sha256(&pulled).hex(), blob.file_name().to_str().unwrap());
        total += pulled.len();
    }
    assert!(total > 100_000_000, "{total}");
}
