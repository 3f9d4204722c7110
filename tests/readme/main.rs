//! The README's tour: every command in a `sh` block, in order, against a fresh server with a joined node.

use std::process::Command;

use blackbox::binary;
use blackbox::cluster::{Cluster, free_port};
use blackbox::process::succeed;

#[test]
fn every_command_of_the_tour_works() {
    let cluster = Cluster::start();
    let registry = &cluster.registry;
    let _node = cluster.node("n1");
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> = readme
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 4, "the tour has other blocks than this test knows");
    let script = blocks
        .concat()
        .replace("127.0.0.1:5000", registry.address())
        .replace("8080", &free_port().to_string());
    let programs = binary("pierhead").parent().unwrap().display().to_string();
    let output = succeed(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(registry.scratch())
            .env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()))
            .env("PIERHEAD_SERVER", registry.url())
            .env("PIERHEAD_USERNAME", "admin")
            .env("PIERHEAD_PASSWORD", registry.password()),
    );
    let text = String::from_utf8(output).unwrap();
    assert!(text.starts_with("sha256:"), "{text}");
    assert!(text.contains("\nmain\nfirst version\n"), "{text}");
    assert!(text.contains("\nsecond version\n"), "{text}");
    assert!(text.contains("HTTP/1.1 401"), "{text}");
    assert!(registry.scratch().join("back/index.json").exists());
}
