//! The Python client of ORAS, which pushes files as artifacts.

use std::path::PathBuf;
use std::process::Command;

use blackbox::image::noise;
use blackbox::process::{run, succeed};
use blackbox::registry::Registry;
use reqwest::Method;

/// The Python that has it; `tests/run` puts that into the path.
fn python() -> Option<PathBuf> {
    let output = run(Command::new("python3").args(["-c", "import oras, sys; print(sys.executable)"]));
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap().trim().into());
    }
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_ci, "the python package oras is not installed");
    eprintln!("not run: the python package oras is not installed");
    None
}

/// With Basic credentials: its way with tokens is to send the first one again whatever the scope that is asked for, so
/// that it can pull or push with it but not look before it pushes. A release that asks for another token lets this be
/// dropped.
const SCRIPT: &str = r#"
import os, sys
import oras.client
address, password, source, target = sys.argv[1:]
client = oras.client.OrasClient(hostname=address, insecure=True, tls_verify=False, auth_backend="basic")
client.login(username="admin", password=password, hostname=address, tls_verify=False,
             config_path=os.path.join(target, "auth.json"))
os.chdir(source)
pushed = client.push(target=f"{address}/acme/files:v1", files=["one.bin:application/vnd.acme.one", "two.txt"],
                     manifest_annotations={"by": "test"})
assert pushed.status_code == 201, pushed
assert client.get_tags(f"{address}/acme/files") == ["v1"]
client.pull(target=f"{address}/acme/files:v1", outdir=target)
"#;

#[test]
fn oras_pushes_files_and_pulls_them_again() {
    let Some(python) = python() else { return };
    let registry = Registry::with_accounts();
    let (source, target) = (registry.scratch().join("from"), registry.scratch().join("to"));
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(&target).unwrap();
    let content = noise(3_000_000, 71);
    std::fs::write(source.join("one.bin"), &content).unwrap();
    std::fs::write(source.join("two.txt"), "two").unwrap();
    succeed(
        Command::new(python)
            .args(["-c", SCRIPT, registry.address(), registry.password()])
            .arg(&source)
            .arg(&target)
            .env("HOME", registry.scratch()),
    );
    assert!(
        std::fs::read(target.join("one.bin")).unwrap() == content,
        "the file differs"
    );
    assert_eq!(std::fs::read_to_string(target.join("two.txt")).unwrap(), "two");
    let manifest: serde_json::Value = registry
        .send(Method::GET, "/v2/acme/files/manifests/v1")
        .json()
        .unwrap();
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.acme.one");
}
