//! `pierhead image`: the first push needs no other tool.

use std::path::Path;
use std::process::Command;

use blackbox::image::{layout, noise};
use blackbox::process::{run, succeed};
use blackbox::registry::Registry;
use blackbox::{binary, image};
use oci::Digest;
use reqwest::{Method, StatusCode};

fn copy(source: &str, destination: &str) -> Digest {
    let output = succeed(Command::new(binary("pierhead")).args(["image", "copy", source, destination]));
    String::from_utf8(output).unwrap().trim().parse().unwrap()
}

fn oci(path: &Path) -> String {
    format!("oci:{}:latest", path.display())
}

#[test]
fn an_image_goes_to_a_registry_and_back_with_its_digest() {
    let registry = Registry::open();
    let (source, back) = (registry.scratch().join("source"), registry.scratch().join("back"));
    let digest = layout(&source, &[("bin/data", &noise(5_000_000, 9))]);
    let image = format!("{}/acme/web:v1", registry.address());
    assert_eq!(copy(&oci(&source), &image), digest);
    assert_eq!(copy(&image, &oci(&back)), digest);
    let other = format!("{}/acme/copy:v2", registry.address());
    assert_eq!(copy(&image, &other), digest);
    let raw = succeed(Command::new(binary("pierhead")).args(["image", "inspect", &other]));
    assert_eq!(Digest::sha256(&raw), digest);
    let repository = format!("{}/acme/copy", registry.address());
    assert_eq!(
        succeed(Command::new(binary("pierhead")).args(["image", "ls", &repository])),
        b"v2\n"
    );
    succeed(Command::new(binary("pierhead")).args(["image", "rm", &other]));
    let gone = registry.send(Method::GET, "/v2/acme/copy/manifests/v2");
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[test]
fn a_docker_archive_becomes_the_same_image_each_time_and_comes_back() {
    let registry = Registry::open();
    let source = registry.scratch().join("source");
    layout(&source, &[("bin/data", b"content")]);
    let archive = |name: &str| format!("docker-archive:{}", registry.scratch().join(name).display());
    copy(&oci(&source), &archive("one.tar"));
    let image = format!("{}/acme/web:v1", registry.address());
    let first = copy(&archive("one.tar"), &image);
    assert_eq!(copy(&archive("one.tar"), &image), first);
    copy(&image, &archive("two.tar"));
    let read = |name: &str| std::fs::read(registry.scratch().join(name)).unwrap();
    assert_eq!(
        read("one.tar"),
        read("two.tar"),
        "layers, config and order are kept"
    );
    // Another implementation reads it, too.
    let target = registry.scratch().join("skopeo");
    succeed(Command::new("skopeo").args(["copy", &archive("two.tar"), &oci(&target)]));
}

#[test]
fn credentials_are_used_and_their_lack_is_explained() {
    let registry = Registry::with_accounts();
    let source = registry.scratch().join("source");
    layout(&source, &[("f", &image::noise(10, 1))]);
    let destination = format!("{}/acme/web:v1", registry.address());
    let command = || {
        let mut command = Command::new(binary("pierhead"));
        command.args(["image", "copy", &oci(&source), &destination]);
        command
            .env_remove("PIERHEAD_USERNAME")
            .env_remove("PIERHEAD_PASSWORD");
        command
    };
    let refused = run(&mut command());
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("401"), "{text}");
    let wrong = run(command()
        .env("PIERHEAD_USERNAME", "admin")
        .env("PIERHEAD_PASSWORD", "wrong"));
    let text = String::from_utf8(wrong.stderr).unwrap();
    assert!(text.contains("password") && !text.contains("wrong"), "{text}");
    succeed(
        command()
            .env("PIERHEAD_USERNAME", "admin")
            .env("PIERHEAD_PASSWORD", registry.password()),
    );
}

#[test]
fn misuse_ends_with_2_and_failure_with_1() {
    let code = |arguments: &[&str]| {
        run(Command::new(binary("pierhead")).args(arguments))
            .status
            .code()
    };
    assert_eq!(code(&["image", "copy", "busybox", "oci:x"]), Some(2));
    assert_eq!(code(&["image", "fly"]), Some(2));
    assert_eq!(code(&["image", "ls", "oci:/nonexistent"]), Some(1));
}
