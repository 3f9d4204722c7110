//! The servers that are measured, each with its data in a directory of its own.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use blackbox::process::Process;
use blackbox::{binary, wait_for};
use oci::{Digest, media_type};
use serde_json::json;
use tempfile::TempDir;

use crate::load::Connection;

/// The repository that everything is in.
pub const REPOSITORY: &str = "bench/image";

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// nginx with static files: as little as a server can do.
    Nginx,
    /// Debian's docker-registry, which is distribution 2.
    Distribution,
    /// Ours.
    Pierhead,
}

impl Peer {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Distribution => "docker-registry",
            Self::Pierhead => "pierhead",
        }
    }

    /// Whether it is a registry that takes pushes.
    pub fn takes_pushes(self) -> bool {
        self != Self::Nginx
    }
}

/// A running server. Ends with its data when dropped.
#[derive(Debug)]
pub struct Server {
    /// Who it is.
    pub peer: Peer,
    /// `127.0.0.1:PORT`.
    pub address: String,
    process: Process,
    directory: TempDir,
}

impl Server {
    /// Starts it on a free port.
    pub fn start(peer: Peer) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let command = match peer {
            Peer::Nginx => nginx(directory.path(), port),
            Peer::Distribution => distribution(directory.path(), port),
            Peer::Pierhead => pierhead(directory.path(), port),
        };
        let process = Process::start(command);
        let address = format!("127.0.0.1:{port}");
        wait_for(peer.name(), Duration::from_secs(20), || {
            TcpStream::connect(&address).map(drop)
        });
        Self {
            peer,
            address,
            process,
            directory,
        }
    }

    /// The process to meter.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Path of a blob's bytes.
    pub fn blob_path(&self, digest: &Digest) -> String {
        format!("/v2/{REPOSITORY}/blobs/{digest}")
    }

    /// Stores a blob.
    pub async fn put(&self, content: &[u8]) {
        let digest = Digest::sha256(content);
        if self.peer == Peer::Nginx {
            return write(&self.directory, &self.blob_path(&digest), content);
        }
        let mut connection = Connection::open(&self.address).await.expect("the server accepts");
        connection
            .push_blob(REPOSITORY, content, &digest)
            .await
            .expect("the server takes a blob");
    }

    /// Stores a manifest of two blobs as tag `v1`.
    pub async fn put_manifest(&self, config: &[u8], layer: &[u8]) {
        let manifest = manifest(config, layer);
        if self.peer == Peer::Nginx {
            return write(
                &self.directory,
                &format!("/v2/{REPOSITORY}/manifests/v1"),
                &manifest,
            );
        }
        let mut connection = Connection::open(&self.address).await.expect("the server accepts");
        connection
            .push_manifest(REPOSITORY, "v1", &manifest)
            .await
            .expect("the server takes a manifest");
    }
}

/// A manifest with `config` and one layer.
pub fn manifest(config: &[u8], layer: &[u8]) -> Vec<u8> {
    let descriptor = |media_type: &str, content: &[u8]| json!({"mediaType": media_type, "digest": Digest::sha256(content), "size": content.len()});
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, config),
        "layers": [descriptor(media_type::OCI_LAYER_GZIP, layer)],
    })
    .to_string()
    .into_bytes()
}

fn write(directory: &TempDir, path: &str, content: &[u8]) {
    let path = directory.path().join("files").join(path.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().expect("a path in a directory")).expect("create a directory");
    std::fs::write(path, content).expect("write a file");
}

fn nginx(directory: &Path, port: u16) -> Command {
    let files = directory.join("files");
    std::fs::create_dir_all(&files).expect("create a directory");
    let at = directory.display();
    // Its usual settings for files, and as many workers as the others have threads.
    let config = format!(
        "daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes auto; user root;
         events {{ worker_connections 1024; }}
         http {{
             access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
             uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi; default_type application/octet-stream;
             server {{ listen 127.0.0.1:{port}; root {files}; }}
         }}",
        files = files.display()
    );
    let path = directory.join("nginx.conf");
    std::fs::write(&path, config).expect("write the configuration");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(path);
    command
}

fn distribution(directory: &Path, port: u16) -> Command {
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
        directory.join("storage").display()
    );
    let path = directory.join("config.yml");
    std::fs::write(&path, config).expect("write the configuration");
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(path).stdout(Stdio::null());
    command
}

fn pierhead(directory: &Path, port: u16) -> Command {
    let mut command = Command::new(binary("pierhead-registry"));
    command.args([
        "serve",
        "--open",
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--data",
    ]);
    command.arg(directory.join("data")).env("PIERHEAD_LOG", "warn");
    command
}

/// A port that was free a moment ago; peers cannot be asked for any free one.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
