//! umoci: an image pulled by skopeo is unpacked, changed, packed and pushed again.

use std::process::Command;

use blackbox::process::succeed;
use blackbox::registry::Registry;

use super::{pushed, raw_digest, skopeo};

#[test]
fn umoci_unpacks_changes_and_packs_what_the_registry_holds() {
    let registry = Registry::with_accounts();
    let (image, _) = pushed(&registry);
    let credentials = format!("admin:{}", registry.password());
    let layout = registry.scratch().join("layout");
    let pull = |image: &str, tag: &str| {
        succeed(
            skopeo()
                .args(["copy", "--src-tls-verify=false", "--src-creds", &credentials])
                .args([
                    &format!("docker://{image}"),
                    &format!("oci:{}:{tag}", layout.display()),
                ]),
        )
    };
    pull(&image, "v1");
    let umoci = |arguments: &[&str], tag: &str, bundle: &str| {
        succeed(
            Command::new("umoci")
                .args(arguments)
                .args(["--image", &format!("{}:{tag}", layout.display())])
                .arg(registry.scratch().join(bundle)),
        )
    };
    umoci(&["unpack"], "v1", "bundle");
    let added = registry.scratch().join("bundle/rootfs/added");
    assert!(added.with_file_name("bin").join("data").exists());
    std::fs::write(&added, "by umoci").unwrap();
    umoci(&["repack"], "v2", "bundle");
    let changed = format!("{}/acme/web:v2", registry.address());
    succeed(
        skopeo()
            .args(["copy", "--dest-tls-verify=false", "--dest-creds", &credentials])
            .args([
                &format!("oci:{}:v2", layout.display()),
                &format!("docker://{changed}"),
            ]),
    );
    assert_ne!(raw_digest(&registry, &changed), raw_digest(&registry, &image));
    pull(&changed, "v3");
    umoci(&["unpack"], "v3", "again");
    let again = registry.scratch().join("again/rootfs");
    assert_eq!(std::fs::read_to_string(again.join("added")).unwrap(), "by umoci");
    assert!(again.join("bin/data").exists());
}
