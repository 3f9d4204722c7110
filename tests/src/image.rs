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
    layout_running(directory, files, &["/bin/true"])
}

/// The same with a command that its containers run.
///
/// # Panics
/// When the directory cannot be written.
pub fn layout_running(directory: &Path, files: &[(&str, &[u8])], command: &[&str]) -> Digest {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        set_numbers(&mut header);
        header.set_entry_type(tar::EntryType::Regular);
        archive
            .append_data(&mut header, path, *content)
            .expect("an archive in memory");
    }
    let plain = archive.into_inner().expect("an archive in memory");
    image(directory, &plain, json!({"Cmd": command}))
}

/// Fills the fields that a new header leaves blank, as programs that write archives do.
fn set_numbers(header: &mut tar::Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
}

/// Applets that images of [`busybox`] have as links in `/bin`.
const APPLETS: [&str; 30] = [
    "cat", "date", "dd", "echo", "env", "false", "grep", "head", "hostname", "httpd", "id", "ip", "kill",
    "ln", "ls", "mkdir", "mount", "nc", "ps", "sh", "sleep", "stat", "tail", "touch", "seq", "true",
    "unshare", "wc", "wget", "yes",
];

/// Writes an image of a static busybox and `files` into an OCI layout at `directory`, tagged `latest`, whose command is
/// a shell; returns the manifest's digest.
///
/// # Panics
/// When there is no busybox on this machine, or the directory cannot be written.
pub fn busybox(directory: &Path, files: &[(&str, &[u8])]) -> Digest {
    let program = std::fs::read("/bin/busybox").expect("apt-get install busybox-static");
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, mode: u32, path: &str, content: &[u8], target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        set_numbers(&mut header);
        header.set_entry_type(kind);
        let added = match kind {
            tar::EntryType::Symlink => archive.append_link(&mut header, path, target),
            _ => archive.append_data(&mut header, path, content),
        };
        added.expect("an archive in memory");
    };
    for (path, mode) in [
        ("bin/", 0o755),
        ("etc/", 0o755),
        ("tmp/", 0o1777),
        ("www/", 0o755),
    ] {
        add(tar::EntryType::Directory, mode, path, b"", "");
    }
    add(tar::EntryType::Regular, 0o755, "bin/busybox", &program, "");
    for applet in APPLETS {
        add(
            tar::EntryType::Symlink,
            0o777,
            &format!("bin/{applet}"),
            b"",
            "busybox",
        );
    }
    let users = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    add(tar::EntryType::Regular, 0o644, "etc/passwd", users, "");
    for (path, content) in files {
        add(tar::EntryType::Regular, 0o755, path, content, "");
    }
    let plain = archive.into_inner().expect("an archive in memory");
    image(
        directory,
        &plain,
        json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}),
    )
}

/// Writes an image of one layer, given as a plain archive, with `config` as its runtime configuration.
///
/// # Panics
/// When the directory cannot be written.
pub fn image(directory: &Path, plain: &[u8], config: serde_json::Value) -> Digest {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut gzip, plain).expect("memory");
    let layer = gzip.finish().expect("memory");
    write_layout(directory, plain, (&layer, media_type::OCI_LAYER_GZIP), config)
}

/// As [`image`], with the archive itself as the layer.
///
/// # Panics
/// When the directory cannot be written.
pub fn plain_image(directory: &Path, archive: &[u8]) -> Digest {
    let config = json!({"Cmd": ["/bin/sh"]});
    write_layout(directory, archive, (archive, media_type::OCI_LAYER), config)
}

/// `layer` is what is stored of the archive `plain`, and its media type.
fn write_layout(directory: &Path, plain: &[u8], layer: (&[u8], &str), config: serde_json::Value) -> Digest {
    let (layer, layer_type) = layer;
    let config = json!({
        "architecture": oci::Platform::host().architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(plain)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": put(directory, &config), "size": config.len()},
        "layers": [{"mediaType": layer_type, "digest": put(directory, layer), "size": layer.len()}],
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
