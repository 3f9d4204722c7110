//! A registry of fixed content that misbehaves on demand.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use client::distribution::{Credential, RegistryClient};
use oci::{Descriptor, Digest, Platform, RepositoryName, media_type};
use serde_json::{Value, json};

/// A server on a port of its own. Ends with the value.
pub struct Server {
    shared: Arc<Shared>,
    address: std::net::SocketAddr,
}

#[derive(Default)]
struct Shared {
    content: Mutex<HashMap<Digest, (String, Vec<u8>)>>,
    /// Answers to a digest that are cut after this many bytes, one after the other.
    cuts: Mutex<HashMap<Digest, Vec<usize>>>,
    has_no_ranges: AtomicBool,
    /// Digest and first byte of every request.
    requests: Mutex<Vec<(Digest, u64)>>,
    has_ended: AtomicBool,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("has an address");
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if state.has_ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                // A client that goes away is not the server's fault.
                std::thread::spawn(move || state.serve(&connection).unwrap_or_default());
            }
        });
        Self { shared, address }
    }

    pub fn client(&self) -> RegistryClient {
        let base = format!("http://{}", self.address).parse().expect("a URL");
        RegistryClient::new(client::http().expect("a client"), base, Credential::Anonymous)
    }

    /// Offers `bytes`, as a manifest or as a blob.
    pub fn put(&self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let digest = Digest::sha256(&bytes);
        let descriptor = Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
        self.replace(&digest, media_type, bytes);
        descriptor
    }

    /// Answers `digest` with something else.
    pub fn replace(&self, digest: &Digest, media_type: &str, bytes: Vec<u8>) {
        let mut content = self.shared.content.lock().expect("no panic");
        content.insert(digest.clone(), (media_type.to_owned(), bytes));
    }

    /// Cuts the next answers to `digest` after so many bytes each.
    pub fn cut(&self, digest: &Digest, after: &[usize]) {
        let mut cuts = self.shared.cuts.lock().expect("no panic");
        cuts.insert(digest.clone(), after.iter().rev().copied().collect());
    }

    pub fn without_ranges(&self) {
        self.shared.has_no_ranges.store(true, Ordering::SeqCst);
    }

    /// The first bytes that were asked for in requests for `digest`.
    pub fn requests(&self, digest: &Digest) -> Vec<u64> {
        let requests = self.shared.requests.lock().expect("no panic");
        requests
            .iter()
            .filter(|(asked, _)| asked == digest)
            .map(|(_, from)| *from)
            .collect()
    }

    /// Offers an image of these layers for this machine; `change` has the last word on configuration and manifest.
    pub fn image(
        &self,
        layers: &[(Descriptor, Digest)],
        change: impl FnOnce(&mut Value, &mut Value),
    ) -> Digest {
        let mut config = json!({
            "architecture": Platform::host().architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|(_, diff_id)| diff_id).collect::<Vec<_>>()},
        });
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "layers": layers.iter().map(|(layer, _)| layer).collect::<Vec<_>>(),
        });
        change(&mut config, &mut manifest);
        let config = self.put(media_type::OCI_CONFIG, config.to_string().into_bytes());
        manifest["config"] = serde_json::to_value(config).expect("serialises");
        self.put(media_type::OCI_MANIFEST, manifest.to_string().into_bytes())
            .digest
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which ends and closes the port.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, connection: &TcpStream) -> std::io::Result<()> {
        let mut input = BufReader::new(connection);
        loop {
            let (mut line, mut from) = (String::new(), None);
            if input.read_line(&mut line)? == 0 || self.has_ended.load(Ordering::SeqCst) {
                return Ok(());
            }
            loop {
                let mut header = String::new();
                input.read_line(&mut header)?;
                if header.trim().is_empty() {
                    break;
                }
                if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    from = range.trim().trim_end_matches('-').parse::<usize>().ok();
                }
            }
            if !self.answer(&line, from, connection)? {
                return Ok(());
            }
        }
    }

    /// Answers one request; false when the connection is cut.
    fn answer(&self, line: &str, from: Option<usize>, mut output: &TcpStream) -> std::io::Result<bool> {
        let path = line.split(' ').nth(1).unwrap_or_default();
        let digest: Option<Digest> = path.rsplit('/').next().and_then(|text| text.parse().ok());
        let found = digest.and_then(|digest| {
            let content = self.content.lock().expect("no panic").get(&digest).cloned();
            content.map(|content| (digest, content))
        });
        let Some((digest, (media_type, bytes))) = found else {
            output.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        };
        let from = from.filter(|_| !self.has_no_ranges.load(Ordering::SeqCst));
        self.requests
            .lock()
            .expect("no panic")
            .push((digest.clone(), from.unwrap_or(0) as u64));
        let body = &bytes[from.unwrap_or(0).min(bytes.len())..];
        let status = if from.is_some() {
            "206 Partial Content"
        } else {
            "200 OK"
        };
        let length = body.len();
        write!(
            output,
            "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
        )?;
        let cut = self
            .cuts
            .lock()
            .expect("no panic")
            .get_mut(&digest)
            .and_then(Vec::pop);
        match cut {
            Some(after) => {
                output.write_all(&body[..after.min(length)])?;
                output.shutdown(std::net::Shutdown::Both)?;
                Ok(false)
            }
            None => output.write_all(body).map(|()| true),
        }
    }
}

/// The repository that tests pull from.
pub fn repository() -> RepositoryName {
    "team/app".parse().expect("a name")
}
