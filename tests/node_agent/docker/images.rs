//! Images: pulled, named, shown, removed.

use crate::docker::support::Engine;

#[test]
fn images_are_pulled_named_and_removed() {
    let engine = Engine::start();
    let image = engine.image();
    let pulled = engine.ok(&["pull", &image]);
    assert!(pulled.contains(&format!("Digest: {}", engine.digest)), "{pulled}");
    assert!(
        pulled.contains(&format!("Status: Downloaded newer image for {image}")),
        "{pulled}"
    );
    let again = engine.ok(&["pull", &image]);
    assert!(
        again.contains(&format!("Status: Image is up to date for {image}")),
        "{again}"
    );
    let repository = image.trim_end_matches(":v1");
    let by_digest = format!("{repository}@{}", engine.digest);
    engine.ok(&["pull", &by_digest]);
    assert_eq!(
        engine.ok(&["run", "--rm", &by_digest, "echo", "by digest"]),
        "by digest"
    );

    let id = engine.ok(&["inspect", "-f", "{{.Id}}", &image]);
    assert!(id.starts_with("sha256:") && id.len() == 71);
    assert_eq!(
        engine.ok(&["images", "-q", "--no-trunc"]),
        id,
        "one image, however it was pulled"
    );
    let shown = engine.ok(&[
        "image",
        "inspect",
        "-f",
        "{{.RepoTags}} {{.RepoDigests}} {{.Os}} {{.Config.Cmd}}",
        &image,
    ]);
    assert_eq!(shown, format!("[{image}] [{by_digest}] linux [/bin/sh]"));
    engine.ok(&["tag", &image, "local/name:x"]);
    assert_eq!(
        engine.ok(&["run", "--rm", "local/name:x", "echo", "tagged"]),
        "tagged"
    );
    assert_eq!(
        engine.ok(&["run", "--rm", &id["sha256:".len()..][..12], "echo", "by id"]),
        "by id"
    );

    assert!(
        engine
            .ok(&["rmi", "local/name:x"])
            .contains("Untagged: local/name:x")
    );
    engine.ok(&["create", "--name", "user", &image]);
    let in_use = engine.outcome(&["rmi", &image]);
    assert_eq!(in_use.code, Some(1));
    assert!(
        in_use.stderr.contains("must force") || in_use.stderr.contains("must be forced"),
        "{in_use:?}"
    );
    engine.ok(&["rm", "user"]);
    let removed = engine.ok(&["rmi", &image]);
    assert!(
        removed.contains(&format!("Untagged: {image}")) && removed.contains(&format!("Deleted: {id}")),
        "{removed}"
    );
    assert_eq!(engine.ok(&["images", "-q"]), "");
}

#[test]
fn a_missing_image_is_pulled_or_missed() {
    let engine = Engine::start();
    let image = engine.image();
    let outcome = engine.outcome(&["run", "--rm", &image, "echo", "pulled first"]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (Some(0), "pulled first\n"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("Unable to find image"), "{outcome:?}");
    let missing = format!("{}/acme/none:v1", engine.registry());
    let outcome = engine.outcome(&["run", "--rm", &missing, "true"]);
    assert_eq!(outcome.code, Some(125));
    assert!(outcome.stderr.contains(&missing), "{outcome:?}");
    let never = engine.outcome(&["run", "--pull", "never", "--rm", "never/pulled", "true"]);
    assert!(
        never.stderr.contains("No such image: never/pulled:latest"),
        "{never:?}"
    );
    let inspected = engine.outcome(&["image", "inspect", &missing]);
    assert_eq!(inspected.code, Some(1));
    let refused = engine.outcome(&["pull", "--platform", "linux/sparc", &image]);
    assert!(refused.stderr.contains("linux/sparc"), "{refused:?}");
}
