//! Docker archives, as `docker save` writes them: `manifest.json`, a config and layers in one tar.
//!
//! Nothing of an archive is unpacked: layers are read out of it by name. A layer may be a link to another one, as older
//! versions of docker write equal layers; a link is followed inside the archive's own list of names and nowhere else,
//! and what it leads to must unfold to the digest that the config says, as any layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read};
use std::path::Path;

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use oci::{Descriptor, Digest, ManifestKind, media_type};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::layout::Layout;
use super::registry::HashingWriter;

/// The largest `manifest.json` and config accepted, in bytes.
const JSON_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// How many links may follow each other; docker writes one.
const LINKS_MAX: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Config {
    rootfs: Rootfs,
}

#[derive(Debug, Deserialize)]
struct Rootfs {
    diff_ids: Vec<Digest>,
}

/// Reads the one image of an archive into a layout: layers are compressed with gzip, and the manifest made for them is
/// the same for the same archive.
pub fn read(path: &Path, layout: &Layout) -> anyhow::Result<Descriptor> {
    let image = small(path, "manifest.json")?;
    let image =
        image.with_context(|| format!("{} is no docker archive: it has no manifest.json", path.display()))?;
    let images: Vec<Entry> = serde_json::from_slice(&image).context("manifest.json of the archive")?;
    let image = match <[Entry; 1]>::try_from(images) {
        Ok([image]) => image,
        Err(images) => bail!(
            "{} holds {} images; one is expected",
            path.display(),
            images.len()
        ),
    };
    let config = small(path, &image.config)?;
    let config = config.with_context(|| format!("the archive has no config {:?}", image.config))?;
    let config_digest = Digest::sha256(&config);
    layout.put(&config_digest, &config)?;
    let diff_ids = serde_json::from_slice::<Config>(&config)
        .context("the archive's config")?
        .rootfs
        .diff_ids;
    if diff_ids.len() != image.layers.len() {
        bail!(
            "the config lists {} layers and the archive {}",
            diff_ids.len(),
            image.layers.len()
        );
    }
    let wanted: Vec<Wanted<'_>> = image
        .layers
        .iter()
        .zip(&diff_ids)
        .map(|(name, diff_id)| Wanted { name, diff_id })
        .collect();
    let layers = layers(path, &wanted, layout)?;
    let ordered: Vec<&Descriptor> = image
        .layers
        .iter()
        .map(|name| {
            layers
                .get(name)
                .with_context(|| format!("the archive has no layer {name:?}"))
        })
        .collect::<anyhow::Result<_>>()?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::new(media_type::OCI_CONFIG, config_digest, config.len() as u64),
        "layers": ordered,
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::sha256(&manifest);
    layout.put(&digest, &manifest)?;
    Ok(Descriptor::new(
        media_type::OCI_MANIFEST,
        digest,
        manifest.len() as u64,
    ))
}

fn open(path: &Path) -> anyhow::Result<tar::Archive<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(tar::Archive::new(BufReader::with_capacity(1 << 20, file)))
}

/// A small file of the archive.
fn small(path: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    for entry in open(path)?.entries()? {
        let entry = entry.with_context(|| format!("read {}", path.display()))?;
        if entry.path_bytes().as_ref() == name.as_bytes() {
            let mut bytes = Vec::new();
            entry.take(JSON_MAX_BYTES + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > JSON_MAX_BYTES {
                bail!(
                    "{name} in {} is larger than {JSON_MAX_BYTES} bytes",
                    path.display()
                );
            }
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// A layer that the image lists.
struct Wanted<'a> {
    name: &'a str,
    diff_id: &'a Digest,
}

/// What the archive has under its names.
#[derive(Debug, Default)]
struct Names {
    files: BTreeSet<String>,
    links: BTreeMap<String, String>,
}

impl Names {
    /// Reads the headers of the archive. Names that lead out of it are left out, so that nothing finds them.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let mut names = Self::default();
        for entry in open(path)?.entries()? {
            let entry = entry.with_context(|| format!("read {}", path.display()))?;
            let Some(name) = beneath("", &String::from_utf8_lossy(&entry.path_bytes())) else {
                continue;
            };
            let target = entry.link_name_bytes();
            let target = target.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            match (entry.header().entry_type(), target) {
                (tar::EntryType::Regular, _) => {
                    names.files.insert(name);
                }
                // A symbolic link is relative to the directory that it is in, a hard link to the archive.
                (tar::EntryType::Symlink, Some(target)) => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    names
                        .links
                        .extend(beneath(directory, &target).map(|target| (name, target)));
                }
                (tar::EntryType::Link, Some(target)) => {
                    names
                        .links
                        .extend(beneath("", &target).map(|target| (name, target)));
                }
                _ => {}
            }
        }
        Ok(names)
    }

    /// The file that `name` is or leads to.
    fn file(&self, name: &str) -> anyhow::Result<&str> {
        let mut at =
            beneath("", name).with_context(|| format!("layer {name:?} is no name inside the archive"))?;
        for _ in 0..LINKS_MAX {
            if let Some(file) = self.files.get(&at) {
                return Ok(file);
            }
            at = match self.links.get(&at) {
                Some(target) => target.clone(),
                None => bail!("the archive has no layer {name:?}: {at:?} is no file in it"),
            };
        }
        bail!("layer {name:?} is a chain of more than {LINKS_MAX} links")
    }
}

/// `name` below `directory`, without `.` and `..`; `None` when it is absolute or leads out.
fn beneath(directory: &str, name: &str) -> Option<String> {
    if name.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Compresses the layers into the layout; returns them by the names that the image has for them.
fn layers(
    path: &Path,
    wanted: &[Wanted<'_>],
    layout: &Layout,
) -> anyhow::Result<BTreeMap<String, Descriptor>> {
    let names = Names::read(path)?;
    let mut by_file: BTreeMap<&str, Vec<&Wanted<'_>>> = BTreeMap::new();
    for wanted in wanted {
        by_file.entry(names.file(wanted.name)?).or_default().push(wanted);
    }
    let mut layers = BTreeMap::new();
    for entry in open(path)?.entries()? {
        let mut entry = entry.with_context(|| format!("read {}", path.display()))?;
        let name = beneath("", &String::from_utf8_lossy(&entry.path_bytes()));
        let Some(wanted) = name.and_then(|name| by_file.get(name.as_str())) else {
            continue;
        };
        if entry.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        let file = layout.scratch()?;
        let hashing = HashingWriter::new(BufWriter::with_capacity(1 << 20, file));
        let mut gzip = GzEncoder::new(hashing, Compression::default());
        // `docker save` writes plain layers, others compressed ones.
        let mut source = BufReader::with_capacity(1 << 20, &mut entry);
        let mut hashing = HashingWriter::new(&mut gzip);
        let copied = match source.fill_buf()? {
            [0x1f, 0x8b, ..] => io::copy(&mut GzDecoder::new(source), &mut hashing),
            _ => io::copy(&mut source, &mut hashing),
        };
        copied.with_context(|| format!("compress layer {}", wanted[0].name))?;
        let (_, actual, _) = hashing.finish();
        for Wanted { name, diff_id } in wanted {
            if actual != **diff_id {
                bail!("layer {name} unfolds to {actual}, but the config says {diff_id}");
            }
        }
        let (file, digest, size) = gzip.finish()?.finish();
        layout.keep(
            file.into_inner().map_err(io::IntoInnerError::into_error)?,
            &digest,
        )?;
        let descriptor = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size);
        layers.extend(
            wanted
                .iter()
                .map(|wanted| (wanted.name.to_owned(), descriptor.clone())),
        );
    }
    Ok(layers)
}

/// Writes an image as a docker archive, its layers uncompressed as `docker load` wants them.
pub fn write(path: &Path, layout: &Layout, descriptor: &Descriptor) -> anyhow::Result<()> {
    let tree = layout.tree(descriptor)?;
    let Some((_, manifest)) = tree.last() else {
        bail!("the image has no manifest")
    };
    let (config, layers) = match &manifest.kind {
        ManifestKind::Image { config, layers } => (config, layers),
        _ => bail!("a docker archive holds one image, not an index; copy one of its manifests by digest"),
    };
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    let mut names = Vec::new();
    for layer in layers {
        let mut plain = HashingWriter::new(tempfile::tempfile()?);
        let source = BufReader::with_capacity(1 << 20, File::open(layout.path(&layer.digest))?);
        match media_type::layer_compression(&layer.media_type) {
            Some(media_type::Compression::None) => io::copy(&mut { source }, &mut plain)?,
            Some(media_type::Compression::Gzip) => io::copy(&mut GzDecoder::new(source), &mut plain)?,
            Some(media_type::Compression::Zstd) => {
                io::copy(&mut zstd::stream::read::Decoder::with_buffer(source)?, &mut plain)?
            }
            None => bail!(
                "layer {} is a {}, which a docker archive cannot hold",
                layer.digest,
                layer.media_type
            ),
        };
        // Named by what they unfold to, so that the way they were compressed leaves no trace.
        let (mut plain, diff_id, size) = plain.finish();
        let name = format!("{}.tar", diff_id.hex());
        if names.contains(&name) {
            names.push(name);
            continue;
        }
        io::Seek::rewind(&mut plain)?;
        append(&mut archive, &name, size, plain)?;
        names.push(name);
    }
    let config_bytes = layout.read(&config.digest)?;
    let config_name = format!("{}.json", config.digest.hex());
    append(
        &mut archive,
        &config_name,
        config_bytes.len() as u64,
        config_bytes.as_slice(),
    )?;
    let entries = serde_json::to_vec(&[Entry {
        config: config_name,
        repo_tags: None,
        layers: names,
    }])?;
    append(
        &mut archive,
        "manifest.json",
        entries.len() as u64,
        entries.as_slice(),
    )?;
    archive
        .into_inner()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(())
}

fn append(
    archive: &mut tar::Builder<BufWriter<File>>,
    name: &str,
    size: u64,
    content: impl Read,
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, name, content)
        .with_context(|| format!("write {name} into the archive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &[u8] = b"stands for a layer";

    /// An archive of two equal layers, the first a file `a/layer.tar`, the second whatever `second` adds.
    fn archive(
        directory: &Path,
        layers: [&str; 2],
        diff_ids: [Digest; 2],
        second: impl FnOnce(&mut tar::Builder<BufWriter<File>>),
    ) -> std::path::PathBuf {
        let path = directory.join("image.tar");
        let mut archive = tar::Builder::new(BufWriter::new(File::create(&path).unwrap()));
        append(&mut archive, "a/layer.tar", LAYER.len() as u64, LAYER).unwrap();
        second(&mut archive);
        let config = json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
        append(&mut archive, "c.json", config.len() as u64, config.as_bytes()).unwrap();
        let manifest = json!([{"Config": "c.json", "RepoTags": null, "Layers": layers}]).to_string();
        append(
            &mut archive,
            "manifest.json",
            manifest.len() as u64,
            manifest.as_bytes(),
        )
        .unwrap();
        archive
            .into_inner()
            .unwrap()
            .into_inner()
            .unwrap()
            .sync_all()
            .unwrap();
        path
    }

    fn link(archive: &mut tar::Builder<BufWriter<File>>, kind: tar::EntryType, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o777);
        // Set byte by byte, as the setters refuse what a hostile archive holds.
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.append(&header, io::empty()).unwrap();
    }

    fn read_with(kind: tar::EntryType, target: &str) -> anyhow::Result<usize> {
        let directory = tempfile::tempdir().unwrap();
        let equal = [Digest::sha256(LAYER), Digest::sha256(LAYER)];
        let path = archive(
            directory.path(),
            ["a/layer.tar", "b/layer.tar"],
            equal,
            |archive| {
                link(archive, kind, "b/layer.tar", target);
            },
        );
        let layout = Layout::create(&directory.path().join("layout")).unwrap();
        let descriptor = read(&path, &layout)?;
        let tree = layout.tree(&descriptor).unwrap();
        let ManifestKind::Image { layers, .. } = &tree[0].1.kind else {
            panic!("no image")
        };
        assert_eq!(layers[0].digest, layers[1].digest);
        Ok(layers.len())
    }

    #[test]
    fn equal_layers_may_be_links() {
        assert_eq!(read_with(tar::EntryType::Symlink, "../a/layer.tar").unwrap(), 2);
        assert_eq!(read_with(tar::EntryType::Link, "a/layer.tar").unwrap(), 2);
        assert_eq!(
            read_with(tar::EntryType::Symlink, "../b/../a/./layer.tar").unwrap(),
            2
        );
    }

    #[test]
    fn links_that_lead_nowhere_or_out_are_refused() {
        use tar::EntryType::{Link, Symlink};
        for (kind, target) in [
            (Symlink, "/etc/passwd"),
            (Symlink, "../../../../etc/passwd"),
            (Symlink, "layer.tar"),
            (Symlink, "missing"),
            (Symlink, "../a"),
            (Symlink, ""),
            (Link, "/a/layer.tar"),
            (Link, "../a/layer.tar"),
            (Link, "b/layer.tar"),
            (Link, "c.json/x"),
        ] {
            let error = read_with(kind, target).unwrap_err().to_string();
            assert!(error.contains("b/layer.tar"), "{target}: {error}");
        }
        // A link to a file that is no layer: its content has another digest.
        let error = read_with(Symlink, "../c.json").unwrap_err().to_string();
        assert!(error.contains("but the config says"), "{error}");
    }

    #[test]
    fn one_file_listed_twice_must_be_both_layers() {
        let directory = tempfile::tempdir().unwrap();
        let differing = [Digest::sha256(b"another"), Digest::sha256(LAYER)];
        let path = archive(
            directory.path(),
            ["a/layer.tar", "a/layer.tar"],
            differing,
            |_| {},
        );
        let layout = Layout::create(&directory.path().join("layout")).unwrap();
        let error = read(&path, &layout).unwrap_err().to_string();
        assert!(error.contains("but the config says"), "{error}");
    }
}
