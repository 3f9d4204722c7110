//! Bad input: a clear error, and everything as it was.

use api::{Deployment, DeploymentState};
use blackbox::cluster::{Cluster, Node};
use blackbox::image;
use serde_json::json;

#[test]
fn a_join_token_works_once() {
    let cluster = Cluster::start();
    let token = cluster.token();
    let first = Node::new("n1");
    assert!(first.join(&cluster.registry.url(), &token).status.success());
    for token in [token.as_str(), "PIER1-wrong"] {
        let second = Node::new("n2");
        let refused = second.join(&cluster.registry.url(), token);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("token"), "{said}");
        assert!(!said.contains("PIER1-"), "the token is a secret: {said}");
    }
    let nodes: Vec<api::NodeSummary> = cluster.get("nodes");
    assert_eq!(nodes.len(), 1);
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    let refused = cluster.deploy("services:\n  web:\n    image: acme/web:nope\n");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("acme/web:nope"), "{said}");
    assert!(cluster.tasks().is_empty());
}

#[test]
fn a_layer_that_climbs_out_of_its_root_is_refused_and_touches_nothing() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    let canary = cluster.registry.scratch().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    for (tag, entries) in [
        (
            "climb",
            vec![(
                tar::EntryType::Regular,
                "../../../../../../../../tmp/pierhead-climbed",
                "",
            )],
        ),
        (
            "link",
            vec![
                (
                    tar::EntryType::Symlink,
                    "out",
                    cluster.registry.scratch().to_str().unwrap(),
                ),
                (tar::EntryType::Regular, "out/canary", ""),
            ],
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        image::image(directory.path(), &archive(&entries), json!({"Cmd": ["/bin/sh"]}));
        cluster.push_layout(&format!("acme/evil:{tag}"), directory.path());
        let refused = cluster.deploy(&format!(
            "services:\n  evil-{tag}:\n    image: acme/evil:{tag}\n    command: /bin/sh\n"
        ));
        assert_eq!(refused.status.code(), Some(1));
        cluster.deployment_is(&format!("acme/evil-{tag}"), DeploymentState::Failed);
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "untouched");
        assert!(!std::path::Path::new("/tmp/pierhead-climbed").exists());
    }
    let deployments: Vec<Deployment> = cluster.get("deployments?service=acme/evil-climb");
    let reason = deployments[0].reason.clone().unwrap_or_default();
    assert!(
        reason.contains("pierhead-climbed"),
        "the entry is named: {reason}"
    );
}

/// An archive with names that the `tar` crate would refuse to write.
fn archive(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, target) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        let content: &[u8] = if *kind == tar::EntryType::Regular {
            b"owned"
        } else {
            b""
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, content).expect("an archive in memory");
    }
    archive.into_inner().expect("an archive in memory")
}

#[test]
fn a_key_that_is_not_supported_is_named_and_nothing_is_deployed() {
    let cluster = Cluster::start();
    cluster.push("acme/web:main", &[]);
    let refused = cluster
        .deploy("services:\n  web:\n    image: acme/web:main\n    privileged: true\n    replicsa: 3\n");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(
        said.contains("privileged") && said.contains("replicsa"),
        "all at once: {said}"
    );
    let services: Vec<api::ServiceSummary> = cluster.get("services");
    assert!(services.is_empty());
}
