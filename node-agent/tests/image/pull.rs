//! Pulls from a registry that is cut, lies, or offers what cannot be run.

use std::collections::HashSet;
use std::error::Error;
use std::fs;

use node_agent::image::unpack::Reason;
use node_agent::image::{ImageError, Unsuitable};
use oci::{Descriptor, Digest, Platform, media_type};
use serde_json::json;

use crate::layer::Layer;
use crate::server::{Server, repository};
use crate::store::{Store, offer, open};

/// Bytes that no compressor shortens.
fn noise(length: u32) -> Vec<u8> {
    let mut state = 1u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// Pulls what must fail; checks that nothing of it stays once the other transfers have ended.
async fn refused(server: &Server, digest: &Digest) -> ImageError {
    let store = Store::open().await;
    let pulled = store.store.pull(&server.client(), &repository(), digest).await;
    let error = pulled.expect_err("the image cannot be pulled");
    store.wait_for_empty_tmp().await;
    // Layers that were complete stay for the next try.
    let collected = store.store.collect(&HashSet::new()).await;
    collected.expect("collects");
    for directory in ["images", "blobs", "layers", "tmp"] {
        let names = store.names(directory);
        assert!(names.is_empty(), "{directory} holds {names:?} after {error}");
    }
    error
}

fn unsuitable(error: ImageError) -> Unsuitable {
    match error {
        ImageError::Unsuitable { source, .. } => *source,
        other => panic!("{other} is not about the image"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_goes_on_where_it_was_cut() {
    let server = Server::start();
    let layer = offer(&server, Layer::default().file("noise", &noise(300_000)));
    let digest = server.image(std::slice::from_ref(&layer), |_, _| ());
    server.cut(&layer.0.digest, &[100_000, 0, 50_000]);
    let store = Store::open().await;
    let image = store.store.pull(&server.client(), &repository(), &digest).await;
    image.expect("pulls in the end");
    let requests = server.requests(&layer.0.digest);
    assert_eq!(requests, [0, 100_000, 100_000, 150_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_goes_on_without_ranges() {
    let server = Server::start();
    server.without_ranges();
    let content = noise(300_000);
    let layer = offer(&server, Layer::default().file("noise", &content));
    let digest = server.image(std::slice::from_ref(&layer), |_, _| ());
    server.cut(&layer.0.digest, &[100_000]);
    let store = Store::open().await;
    let image = store.store.pull(&server.client(), &repository(), &digest).await;
    image.expect("pulls in the end");
    let name = format!("layers/sha256-{}/root/noise", layer.0.digest.hex());
    assert_eq!(
        fs::read(store.directory.path().join(name)).expect("reads"),
        content
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_always_cuts_is_given_up() {
    let server = Server::start();
    let layer = offer(&server, Layer::default().file("noise", &noise(300_000)));
    let digest = server.image(std::slice::from_ref(&layer), |_, _| ());
    server.cut(&layer.0.digest, &[0; 20]);
    let error = refused(&server, &digest).await;
    assert!(error.is_retryable(), "{error}");
    assert!(matches!(&error, ImageError::Fetch { digest, .. } if *digest == layer.0.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_fetch_a_shared_layer_once() {
    let server = Server::start();
    let shared = offer(&server, Layer::default().file("noise", &noise(2_000_000)));
    let own = offer(&server, Layer::default().file("own", b"own"));
    let first = server.image(std::slice::from_ref(&shared), |_, _| ());
    let second = server.image(&[shared.clone(), own], |_, _| ());
    let store = Store::open().await;
    let (client, repository) = (server.client(), repository());
    let pull = |digest| store.store.pull(&client, &repository, digest);
    let (a, b, c) = tokio::join!(pull(&first), pull(&second), pull(&first));
    assert_eq!(a.expect("pulls"), c.expect("pulls"));
    b.expect("pulls");
    assert_eq!(server.requests(&shared.0.digest), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_there_needs_no_network_not_even_after_a_restart() {
    let server = Server::start();
    let digest = server.image(&[offer(&server, Layer::default().file("a", b"a"))], |_, _| ());
    let client = server.client();
    let store = Store::open().await;
    let pulled = store
        .store
        .pull(&client, &repository(), &digest)
        .await
        .expect("pulls");
    drop(server);
    let path = store.directory.path();
    // What pulls that were killed leave behind: a torn directory, and a layer without an image.
    fs::create_dir_all(path.join("tmp/torn/root/deep")).expect("makes");
    let stray = format!("layers/sha256-{}", Digest::sha256(b"stray").hex());
    fs::create_dir_all(path.join(&stray).join("root")).expect("makes");
    fs::write(path.join("blobs/sha256-0.new"), "torn").expect("writes");
    let reopened = open(path).await;
    assert!(!path.join(stray).exists());
    assert!(store.names("tmp").is_empty());
    assert_eq!(store.names("layers").len(), 1);
    assert_eq!(store.names("blobs").len(), 2);
    assert_eq!(
        reopened.list().await.expect("lists"),
        std::slice::from_ref(&pulled)
    );
    let again = reopened
        .pull(&client, &repository(), &digest)
        .await
        .expect("needs no network");
    assert_eq!(again, pulled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lost_a_layer_is_pulled_again() {
    let server = Server::start();
    let layer = offer(&server, Layer::default().file("a", b"a"));
    let digest = server.image(std::slice::from_ref(&layer), |_, _| ());
    let store = Store::open().await;
    let pulled = store.store.pull(&server.client(), &repository(), &digest).await;
    pulled.expect("pulls");
    let path = store
        .directory
        .path()
        .join(format!("layers/sha256-{}", layer.0.digest.hex()));
    fs::remove_dir_all(&path).expect("removes");
    let reopened = open(store.directory.path()).await;
    assert_eq!(reopened.get(&digest).await.expect("looks"), None);
    let pulled = reopened.pull(&server.client(), &repository(), &digest).await;
    pulled.expect("pulls again");
    assert!(path.join("root/a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_leaves_nothing() {
    let server = Server::start();
    let layer = offer(&server, Layer::default().file("noise", &noise(300_000)));
    let digest = server.image(std::slice::from_ref(&layer), |_, _| ());
    // The transfer never ends within the test's patience: every try is cut.
    server.cut(&layer.0.digest, &[1000; 1000]);
    let store = Store::open().await;
    let (client, repository) = (server.client(), repository());
    let mut pull = Box::pin(store.store.pull(&client, &repository, &digest));
    let started = std::time::Instant::now();
    while store.names("tmp").is_empty() {
        assert!(
            started.elapsed().as_secs() < 30,
            "the layer is not being unpacked"
        );
        let step = std::time::Duration::from_millis(5);
        let ended = tokio::time::timeout(step, &mut pull).await;
        assert!(ended.is_err(), "the pull ended: {ended:?}");
    }
    drop(pull);
    store.wait_for_empty_tmp().await;
    assert!(store.names("layers").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_this_platforms_manifest() {
    let server = Server::start();
    let manifest = server.image(&[offer(&server, Layer::default().file("a", b"a"))], |_, _| ());
    let entry = |digest: &Digest, size: u64, architecture: &str| {
        json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let node = Platform::host().architecture;
    let put = |entries: &[serde_json::Value]| {
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
        server
            .put(media_type::OCI_INDEX, index.to_string().into_bytes())
            .digest
    };
    let store = Store::open().await;
    let head = server
        .client()
        .manifest(&repository(), &oci::Reference::Digest(manifest.clone()))
        .await;
    let size = head.expect("is there").bytes.len() as u64;
    let good = put(&[
        entry(&Digest::sha256(b"?"), 1, "s390x"),
        entry(&manifest, size, &node),
    ]);
    let image = store
        .store
        .pull(&server.client(), &repository(), &good)
        .await
        .expect("pulls");
    assert_eq!((&image.digest, &image.manifest_digest), (&good, &manifest));

    let none = unsuitable(refused(&server, &put(&[entry(&manifest, size, "s390x")])).await);
    assert_eq!(
        none.to_string(),
        format!("the image is for linux/s390x, this node is linux/{node}")
    );
    let lying = unsuitable(refused(&server, &put(&[entry(&manifest, size + 1, &node)])).await);
    assert!(matches!(lying, Unsuitable::Size { .. }));
    let nested = put(&[entry(&good, server_size(&server, &good).await, &node)]);
    let nested = unsuitable(refused(&server, &nested).await);
    assert!(matches!(nested, Unsuitable::NestedIndex { .. }));
}

async fn server_size(server: &Server, digest: &Digest) -> u64 {
    let manifest = server
        .client()
        .manifest(&repository(), &oci::Reference::Digest(digest.clone()))
        .await;
    manifest.expect("is there").bytes.len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_run_are_refused() {
    let server = Server::start();
    let layer = offer(&server, Layer::default().file("a", b"a"));
    let layers = std::slice::from_ref(&layer);
    let ambiguous = server.image(layers, |_, manifest| manifest["manifests"] = json!([]));
    let error = unsuitable(refused(&server, &ambiguous).await);
    assert!(matches!(error, Unsuitable::Manifest { .. }), "{error}");
    let other = server.image(layers, |config, _| config["architecture"] = "vax".into());
    let error = unsuitable(refused(&server, &other).await);
    assert!(
        error
            .to_string()
            .starts_with("the image is for linux/vax, this node is "),
        "{error}"
    );
    let foreign = server.image(layers, |_, manifest| {
        manifest["layers"][0]["mediaType"] =
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    });
    let error = unsuitable(refused(&server, &foreign).await);
    assert!(matches!(error, Unsuitable::ForeignLayer { .. }), "{error}");
    let fewer = server.image(layers, |config, _| config["rootfs"]["diff_ids"] = json!([]));
    let error = unsuitable(refused(&server, &fewer).await);
    assert!(
        matches!(
            error,
            Unsuitable::LayerCount {
                layers: 1,
                diff_ids: 0
            }
        ),
        "{error}"
    );
    let nonsense = server.image(layers, |config, _| *config = json!({"architecture": 7}));
    let error = unsuitable(refused(&server, &nonsense).await);
    assert!(matches!(error, Unsuitable::Config { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_was_promised_are_refused() {
    let server = Server::start();
    let (layer, diff_id) = offer(&server, Layer::default().file("a", b"a"));
    let wrong = server.image(&[(layer.clone(), Digest::sha256(b"another"))], |_, _| ());
    let error = refused(&server, &wrong).await;
    assert!(
        matches!(&error, ImageError::WrongDiffId { actual, .. } if *actual == diff_id),
        "{error}"
    );

    let size = layer.size;
    for told in [size - 1, size + 1] {
        let lying = Descriptor {
            size: told,
            ..layer.clone()
        };
        let error = refused(&server, &server.image(&[(lying, diff_id.clone())], |_, _| ())).await;
        assert!(
            matches!(error, ImageError::WrongSize { actual, .. } if actual == size),
            "{error}"
        );
    }

    // Other bytes of the same length that unpack just as well.
    let plain = Layer::default().file("a", b"a").end();
    let (layer, diff_id) = (
        server.put(media_type::OCI_LAYER, plain.clone()),
        Digest::sha256(&plain),
    );
    let other = Layer::default().file("a", b"b").end();
    server.replace(&layer.digest, media_type::OCI_LAYER, other);
    let error = refused(&server, &server.image(&[(layer.clone(), diff_id)], |_, _| ())).await;
    assert!(
        matches!(&error, ImageError::WrongDigest { digest, .. } if *digest == layer.digest),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_layer_under_another_diff_id_is_refused() {
    let server = Server::start();
    let (layer, diff_id) = offer(&server, Layer::default().file("a", b"a"));
    let store = Store::open().await;
    let good = server.image(&[(layer.clone(), diff_id)], |_, _| ());
    let pulled = store.store.pull(&server.client(), &repository(), &good).await;
    pulled.expect("pulls");
    let lying = server.image(&[(layer, Digest::sha256(b"another"))], |_, _| ());
    let error = store.store.pull(&server.client(), &repository(), &lying).await;
    assert!(matches!(error, Err(ImageError::WrongDiffId { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_layer_is_refused_by_repository_digest_and_entry() {
    let server = Server::start();
    let good = offer(&server, Layer::default().file("noise", &noise(2_000_000)));
    let hostile = offer(
        &server,
        Layer::default().file("ok", b"").file("../../escape", b"dead"),
    );
    let error = refused(&server, &server.image(&[good, hostile.clone()], |_, _| ())).await;
    let ImageError::Unpack { source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(source.reason, Reason::ParentReference);
    let text = format!("{error}: {}", error.source().expect("has a cause"));
    for part in ["team/app", hostile.0.digest.as_str(), "\"../../escape\""] {
        assert!(text.contains(part), "{text:?} does not name {part}");
    }
}
