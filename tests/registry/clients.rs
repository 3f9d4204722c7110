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
