//! Docker archives, as `docker save` writes them: `manifest.json`, a config and layers in one tar.

use std::collections::BTreeMap;
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
    let expected = image.layers.iter().map(String::as_str).zip(&diff_ids).collect();
    let layers = layers(path, &expected, layout)?;
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

fn layers(
    path: &Path,
    expected: &BTreeMap<&str, &Digest>,
    layout: &Layout,
) -> anyhow::Result<BTreeMap<String, Descriptor>> {
    let mut layers = BTreeMap::new();
    for entry in open(path)?.entries()? {
        let mut entry = entry.with_context(|| format!("read {}", path.display()))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Older archives link equal layers to each other; those are rare enough to be refused as missing.
        let Some(diff_id) = expected.get(name.as_str()) else {
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
        copied.with_context(|| format!("compress layer {name}"))?;
        let (_, actual, _) = hashing.finish();
        if actual != **diff_id {
            bail!("layer {name} unfolds to {actual}, but the config says {diff_id}");
        }
        let (file, digest, size) = gzip.finish()?.finish();
        layout.keep(
            file.into_inner().map_err(io::IntoInnerError::into_error)?,
            &digest,
        )?;
        layers.insert(name, Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size));
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
