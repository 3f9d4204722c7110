//! The store's whole life: pull, mount, write, reopen, collect.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use node_agent::image::{ImageError, ImageStore, StoreOptions};
use oci::{Descriptor, Digest, media_type};
use runtime::container::ContainerId;
use tar::EntryType;
use tempfile::TempDir;

use crate::layer::{Layer, gzip, header, zstd};
use crate::server::{Server, repository};

/// A store in a directory of its own. Whatever is mounted there goes with it.
pub struct Store {
    pub store: ImageStore,
    pub directory: TempDir,
}

impl Store {
    pub async fn open() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self {
            store: open(directory.path()).await,
            directory,
        }
    }

    /// What is in a directory of the store.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.directory.path().join(directory))
            .expect("lists")
            .map(|entry| entry.expect("lists").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Waits until nothing is being unpacked or removed.
    pub async fn wait_for_empty_tmp(&self) {
        let started = Instant::now();
        while !self.names("tmp").is_empty() {
            let names = self.names("tmp");
            assert!(started.elapsed().as_secs() < 60, "tmp still holds {names:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for container in fs::read_dir(self.directory.path().join("snapshots"))
            .into_iter()
            .flatten()
            .flatten()
        {
            // Not mounted, unless a test failed.
            let _ = nix::mount::umount2(&container.path().join("rootfs"), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

pub async fn open(directory: &Path) -> ImageStore {
    let options = StoreOptions {
        program: PathBuf::from(env!("CARGO_BIN_EXE_pierhead-node")),
        ..StoreOptions::default()
    };
    ImageStore::open_with(directory, options).await.expect("opens")
}

/// Offers a layer, compressed with gzip.
pub fn offer(server: &Server, layer: Layer) -> (Descriptor, Digest) {
    let bytes = layer.end();
    (
        server.put(media_type::OCI_LAYER_GZIP, gzip(&bytes)),
        Digest::sha256(&bytes),
    )
}

fn container(name: &str) -> ContainerId {
    ContainerId::parse(name).expect("an id")
}

/// Three layers in three compressions, where upper ones hide what lower ones have.
fn offer_image(server: &Server) -> Digest {
    let base = Layer::default()
        .file("etc/kept", b"base")
        .file("etc/hidden", b"base")
        .file("etc/replaced", b"base")
        .file("var/old", b"base")
        .end();
    let middle = Layer::default()
        .file("etc/.wh.hidden", b"")
        .file("etc/replaced", b"middle")
        .file("var/.wh..wh..opq", b"")
        .file("var/new", b"middle")
        .end();
    let mut root = header(EntryType::Directory, "./", "", 0);
    root.set_mode(0o1777);
    root.set_uid(5);
    let top = Layer::default().raw(root, b"").file("top", b"top").end();
    let layers = [
        (
            server.put(media_type::OCI_LAYER_GZIP, gzip(&base)),
            Digest::sha256(&base),
        ),
        (
            server.put(media_type::OCI_LAYER_ZSTD, zstd(&middle)),
            Digest::sha256(&middle),
        ),
        (
            server.put(media_type::OCI_LAYER, top.clone()),
            Digest::sha256(&top),
        ),
    ];
    server.image(&layers, |_, _| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_mounted_and_kept_until_nothing_needs_it() {
    let server = Server::start();
    let digest = offer_image(&server);
    let store = Store::open().await;
    let images = &store.store;
    let image = images
        .pull(&server.client(), &repository(), &digest)
        .await
        .expect("pulls");
    assert_eq!((image.digest.clone(), image.layers.len()), (digest.clone(), 3));
    assert_eq!(image.config.cmd, ["/bin/true"]);
    assert_eq!(image.size_bytes, 4 * 4 + 2 * 6 + 3);

    let id = container("web-1");
    let rootfs = images.mount(&image, &id).await.expect("mounts");
    let read = |path: &str| fs::read_to_string(rootfs.join(path)).ok();
    assert_eq!(read("etc/kept").as_deref(), Some("base"));
    assert_eq!(read("etc/hidden"), None);
    assert_eq!(read("etc/replaced").as_deref(), Some("middle"));
    assert_eq!(
        (read("var/old"), read("var/new").as_deref()),
        (None, Some("middle"))
    );
    assert_eq!(read("top").as_deref(), Some("top"));
    let root = fs::metadata(&rootfs).expect("stats");
    assert_eq!((root.mode() & 0o7777, root.uid()), (0o1777, 5));

    fs::write(rootfs.join("etc/kept"), "own").expect("writes");
    assert_eq!(images.mount(&image, &id).await.expect("mounts again"), rootfs);
    images.unmount(&id).await.expect("unmounts");
    images.unmount(&id).await.expect("is unmounted already");
    assert_eq!(read("etc/kept"), None);
    images.mount(&image, &id).await.expect("mounts what was kept");
    assert_eq!(read("etc/kept").as_deref(), Some("own"));
    assert_eq!(
        images.snapshots().await.expect("lists"),
        std::slice::from_ref(&id)
    );

    // Another container of the same image sees nothing of the first.
    let other = images.mount(&image, &container("web-2")).await.expect("mounts");
    assert_eq!(fs::read_to_string(other.join("etc/kept")).expect("reads"), "base");
    images
        .remove_snapshot(&container("web-2"))
        .await
        .expect("removes");

    let collected = images.collect(&HashSet::new()).await.expect("collects");
    assert_eq!(collected, Default::default(), "a container stands on the image");
    images.remove_snapshot(&id).await.expect("removes");
    images.remove_snapshot(&id).await.expect("is removed already");
    let keep = HashSet::from([digest.clone()]);
    assert_eq!(images.collect(&keep).await.expect("collects"), Default::default());
    let collected = images.collect(&HashSet::new()).await.expect("collects");
    assert_eq!(
        (collected.images, collected.layers.len()),
        (vec![digest.clone()], 3)
    );
    assert_eq!(collected.size_bytes, image.size_bytes);
    for directory in ["images", "blobs", "layers", "snapshots", "tmp"] {
        assert!(
            store.names(directory).is_empty(),
            "{directory}: {:?}",
            store.names(directory)
        );
    }
    assert_eq!(images.get(&digest).await.expect("looks"), None);
    assert!(matches!(
        images.mount(&image, &id).await,
        Err(ImageError::Missing { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_without_layers_and_with_opaque_roots_are_mounted() {
    let server = Server::start();
    let base = offer(&server, Layer::default().file("below", b"base"));
    let opaque = offer(
        &server,
        Layer::default().file(".wh..wh..opq", b"").file("own", b"own"),
    );
    let again = base.clone();
    let (none, hiding) = (
        server.image(&[], |_, _| ()),
        server.image(&[base, opaque], |_, _| ()),
    );
    let repeated = server.image(&[again.clone(), again], |_, _| ());
    let store = Store::open().await;
    let mut seen = Vec::new();
    for (at, digest) in [none, hiding, repeated].iter().enumerate() {
        let image = store.store.pull(&server.client(), &repository(), digest).await;
        let id = container(&format!("c{at}"));
        let rootfs = store
            .store
            .mount(&image.expect("pulls"), &id)
            .await
            .expect("mounts");
        let names = fs::read_dir(&rootfs).expect("lists");
        seen.push(
            names
                .map(|name| name.expect("lists").file_name())
                .collect::<Vec<_>>(),
        );
        fs::write(rootfs.join("written"), "x").expect("writes");
        store.store.remove_snapshot(&id).await.expect("removes");
    }
    assert_eq!(seen, [vec![], vec!["own"], vec!["below"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_root_stays_with_its_image() {
    let server = Server::start();
    let layer = offer(&server, Layer::default().file("a", b"a"));
    let digests = ["1", "2"].map(|user| {
        server.image(std::slice::from_ref(&layer), |config, _| {
            config["config"]["User"] = user.into()
        })
    });
    let store = Store::open().await;
    let mut images = Vec::new();
    for digest in &digests {
        let pulled = store.store.pull(&server.client(), &repository(), digest).await;
        images.push(pulled.expect("pulls"));
    }
    let id = container("c");
    store.store.mount(&images[0], &id).await.expect("mounts");
    let error = store
        .store
        .mount(&images[1], &id)
        .await
        .expect_err("another image");
    assert!(matches!(error, ImageError::OtherImage { .. }), "{error}");
    // The shared layer stays for the image that is kept, when the other one goes.
    let collected = store.store.collect(&HashSet::new()).await.expect("collects");
    assert_eq!(
        (collected.images, collected.layers),
        (vec![digests[1].clone()], vec![])
    );
    store.store.remove_snapshot(&id).await.expect("removes");
}
