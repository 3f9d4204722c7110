//! Images made by the tests, as OCI layouts on disk.

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use oci::{Digest, media_type};
use serde_json::json;

/// Writes an image of one gzip layer with `files` into an OCI layout at `directory`, tagged `latest`; returns the
/// manifest's digest.
///
/// # Panics
/// When the directory cannot be written.
pub fn layout(directory: &Path, files: &[(&str, &[u8])]) -> Digest {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_entry_type(tar::EntryType::Regular);
        archive
            .append_data(&mut header, path, *content)
            .expect("an archive in memory");
    }
    let plain = archive.into_inner().expect("an archive in memory");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).expect("memory");
    let layer = gzip.finish().expect("memory");
    let config = json!({
        "architecture": oci::Platform::host().architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&plain)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": put(directory, &config), "size": config.len()},
        "layers": [{"mediaType": media_type::OCI_LAYER_GZIP, "digest": put(directory, &layer), "size": layer.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = put(directory, &manifest);
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }],
    });
    write(&directory.join("index.json"), index.to_string().as_bytes());
    write(
        &directory.join("oci-layout"),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    digest
}

fn put(directory: &Path, content: &[u8]) -> Digest {
    let digest = Digest::sha256(content);
    write(&directory.join("blobs/sha256").join(digest.hex()), content);
    digest
}

fn write(path: &Path, content: &[u8]) {
    let parent = path.parent().expect("a path in a directory");
    std::fs::create_dir_all(parent).expect("create a directory");
    std::fs::write(path, content).expect("write a file");
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
