//! An OCI image layout on disk (image-spec image-layout.md).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use oci::{Descriptor, Digest, Manifest, ManifestKind, media_type};
use serde::{Deserialize, Serialize};

/// The annotation that holds a tag.
const TAG: &str = "org.opencontainers.image.ref.name";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// A layout.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Opens an existing layout.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        if !root.join("oci-layout").is_file() {
            bail!("{} is no OCI layout: it has no file oci-layout", root.display());
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Opens a layout, making it if there is none.
    pub fn create(root: &Path) -> anyhow::Result<Self> {
        let blobs = root.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        let marker = root.join("oci-layout");
        if !marker.exists() {
            write(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Where a blob lies, or would lie.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root
            .join("blobs")
            .join(digest.algorithm().as_str())
            .join(digest.hex())
    }

    /// A file for a blob that is still coming.
    pub fn scratch(&self) -> anyhow::Result<tempfile::NamedTempFile> {
        tempfile::NamedTempFile::new_in(self.root.join("blobs"))
            .context("make a temporary file in the layout")
    }

    /// A small blob, verified.
    pub fn read(&self, digest: &Digest) -> anyhow::Result<Vec<u8>> {
        let path = self.path(digest);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            bail!("{} is damaged: its digest is {actual}", path.display());
        }
        Ok(bytes)
    }

    /// Writes a small blob.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path(digest);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        write(&path, bytes)
    }

    /// Moves a finished file to the place of `digest`, which the caller has verified.
    pub fn keep(&self, file: tempfile::NamedTempFile, digest: &Digest) -> anyhow::Result<()> {
        let path = self.path(digest);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        file.persist(&path)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(())
    }

    fn index(&self) -> anyhow::Result<Index> {
        let path = self.root.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is no index", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index {
                schema_version: 2,
                manifests: Vec::new(),
            }),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// All tags.
    pub fn tags(&self) -> anyhow::Result<Vec<String>> {
        let tags = self
            .index()?
            .manifests
            .into_iter()
            .filter_map(|mut d| d.annotations.remove(TAG));
        Ok(tags.collect())
    }

    /// The image with `tag`, or the only image.
    pub fn tagged(&self, tag: Option<&str>) -> anyhow::Result<Descriptor> {
        let manifests = self.index()?.manifests;
        let root = self.root.display();
        match tag {
            Some(tag) => manifests
                .into_iter()
                .find(|d| d.annotations.get(TAG).is_some_and(|t| t == tag))
                .with_context(|| format!("the layout {root} has no image tagged {tag}")),
            None => match <[Descriptor; 1]>::try_from(manifests) {
                Ok([only]) => Ok(only),
                Err(all) if all.is_empty() => bail!("the layout {root} has no image"),
                Err(all) => bail!(
                    "the layout {root} has {} images; name one as oci:DIR:TAG",
                    all.len()
                ),
            },
        }
    }

    /// Lists an image in the index, taking `tag` from another one that had it.
    pub fn tag(&self, descriptor: &Descriptor, tag: Option<&str>) -> anyhow::Result<()> {
        let mut index = self.index()?;
        let tag = tag.unwrap_or("latest");
        index
            .manifests
            .retain(|d| d.annotations.get(TAG).is_none_or(|t| t != tag));
        let mut listed = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size);
        listed.annotations.insert(TAG.to_owned(), tag.to_owned());
        index.manifests.push(listed);
        write(&self.root.join("index.json"), &serde_json::to_vec_pretty(&index)?)
    }

    /// The manifests below `descriptor`, deepest first, each with what it is made of.
    pub fn tree(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<(Descriptor, Manifest)>> {
        let manifest = Manifest::parse(&descriptor.media_type, &self.read(&descriptor.digest)?)
            .with_context(|| format!("manifest {}", descriptor.digest))?;
        let mut all = Vec::new();
        if let ManifestKind::Index { manifests } = &manifest.kind {
            for child in manifests.iter().filter(|d| is_manifest(&d.media_type)) {
                all.extend(self.tree(child)?);
            }
        }
        all.push((descriptor.clone(), manifest));
        Ok(all)
    }

    /// Copies an image into another layout.
    pub fn copy(&self, target: &Layout, descriptor: &Descriptor) -> anyhow::Result<()> {
        for (descriptor, manifest) in self.tree(descriptor)? {
            for digest in manifest.children().map(|d| &d.digest).chain([&descriptor.digest]) {
                let (from, to) = (self.path(digest), target.path(digest));
                if from.exists() && !to.exists() {
                    fs::copy(&from, &to)
                        .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether an entry of an index is a manifest; BuildKit's caches list layers there.
pub fn is_manifest(media_type: &str) -> bool {
    media_type::MANIFEST_ACCEPT.contains(&media_type::without_parameters(media_type))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
