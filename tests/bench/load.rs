//! Clients: keep-alive HTTP/1.1 connections that do as little as they can, so that the server is what is measured.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blackbox::image::noise;
use oci::{Digest, media_type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peer::{REPOSITORY, Server, manifest};

/// Longest header block of an answer that is accepted, in bytes.
const HEADERS_MAX: usize = 16 * 1024;
const SMALL_BLOB_BYTES: usize = 4096;

/// How a measurement went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Requests, MiB or images.
    pub units: f64,
    /// How long it took.
    pub seconds: f64,
    /// Requests that failed.
    pub errors: u64,
    /// The server's CPU time, filled in by whoever metered it.
    pub cpu_seconds: f64,
}

/// What clients do, over and over.
#[derive(Clone, Debug)]
enum Act {
    Get { path: String, units: f64 },
    PushBlob { size_bytes: usize },
    PushImage,
}

/// A number of clients that do the same.
#[derive(Clone, Debug)]
pub struct Load {
    clients: usize,
    act: Act,
}

impl Load {
    /// Reads the manifest by its tag.
    pub fn manifest(clients: usize) -> Self {
        let act = Act::Get {
            path: format!("/v2/{REPOSITORY}/manifests/v1"),
            units: 1.0,
        };
        Self { clients, act }
    }

    /// Reads a blob, which counts as `units`.
    pub fn blob(clients: usize, digest: &Digest, units: f64) -> Self {
        let act = Act::Get {
            path: format!("/v2/{REPOSITORY}/blobs/{digest}"),
            units,
        };
        Self { clients, act }
    }

    /// Pushes blobs nobody has pushed before; a MiB is a unit.
    pub fn push_blobs(clients: usize, size_bytes: usize) -> Self {
        let act = Act::PushBlob { size_bytes };
        Self { clients, act }
    }

    /// Pushes images of a small config and a small layer; an image is a unit.
    pub fn push_images(clients: usize) -> Self {
        let act = Act::PushImage;
        Self { clients, act }
    }

    /// Runs against `server` for about `time`: what has begun by then is finished and counted.
    pub async fn run(&self, server: &Server, time: Duration) -> Outcome {
        let started = Instant::now();
        let errors = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..self.clients)
            .map(|number| {
                let (address, act, errors) = (server.address.clone(), self.act.clone(), Arc::clone(&errors));
                tokio::spawn(async move {
                    let mut units = 0.0;
                    let mut client = Client::new(address, number as u64);
                    while started.elapsed() < time {
                        match client.act(&act).await {
                            Ok(done) => units += done,
                            Err(_) => {
                                errors.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    units
                })
            })
            .collect();
        let mut units = 0.0;
        for client in clients {
            units += client.await.expect("a client does not panic");
        }
        Outcome {
            units,
            seconds: started.elapsed().as_secs_f64(),
            errors: errors.load(Ordering::Relaxed),
            cpu_seconds: 0.0,
        }
    }
}

/// A client with a connection that is opened when needed and given up on an error.
struct Client {
    address: String,
    connection: Option<Connection>,
    content: Vec<u8>,
    seed: u64,
}

impl Client {
    fn new(address: String, number: u64) -> Self {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        Self {
            address,
            connection: None,
            content: Vec::new(),
            seed: (RUNS.fetch_add(1, Ordering::Relaxed) << 32) + (number << 24),
        }
    }

    async fn act(&mut self, act: &Act) -> io::Result<f64> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.address).await?,
        };
        let units = match act {
            Act::Get { path, units } => {
                connection.get(path).await?;
                *units
            }
            Act::PushBlob { size_bytes } => {
                let (content, digest) = self.fresh(*size_bytes);
                connection.push_blob(REPOSITORY, content, &digest).await?;
                *size_bytes as f64 / f64::from(1 << 20)
            }
            Act::PushImage => {
                let (config, digest) = self.fresh(SMALL_BLOB_BYTES);
                let config = config.to_vec();
                connection.push_blob(REPOSITORY, &config, &digest).await?;
                let (layer, digest) = self.fresh(SMALL_BLOB_BYTES);
                let layer = layer.to_vec();
                connection.push_blob(REPOSITORY, &layer, &digest).await?;
                let tag = format!("t{}", self.seed);
                connection
                    .push_manifest(REPOSITORY, &tag, &manifest(&config, &layer))
                    .await?;
                1.0
            }
        };
        self.connection = Some(connection);
        Ok(units)
    }

    /// Bytes nobody has seen, at little cost: noise made once, with another beginning each time.
    fn fresh(&mut self, size_bytes: usize) -> (&[u8], Digest) {
        if self.content.len() != size_bytes {
            self.content = noise(size_bytes, self.seed | 1);
        }
        self.seed += 1;
        self.content[..8].copy_from_slice(&self.seed.to_le_bytes());
        (&self.content, Digest::sha256(&self.content))
    }
}

/// A keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to `HOST:PORT`.
    pub async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: address.to_owned(),
            buffer: vec![0; 1 << 18],
        })
    }

    /// Reads a resource to its end and forgets it.
    pub async fn get(&mut self, path: &str) -> io::Result<()> {
        let accept = format!("{}, */*", media_type::OCI_MANIFEST);
        self.request("GET", path, &[("Accept", &accept)], &[], 200)
            .await
            .map(drop)
    }

    /// Pushes a blob in two requests.
    pub async fn push_blob(&mut self, repository: &str, content: &[u8], digest: &Digest) -> io::Result<()> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let location = self.request("POST", &path, &[], &[], 202).await?;
        let location = location.ok_or_else(|| io::Error::other("an upload without Location"))?;
        // Some registries answer with their whole URL.
        let path = location.split_once("://").map_or(location.as_str(), |(_, rest)| {
            rest.find('/').map_or("/", |at| &rest[at..])
        });
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={digest}");
        let headers = [("Content-Type", "application/octet-stream")];
        self.request("PUT", &path, &headers, content, 201).await.map(drop)
    }

    /// Pushes a manifest.
    pub async fn push_manifest(&mut self, repository: &str, tag: &str, content: &[u8]) -> io::Result<()> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let headers = [("Content-Type", media_type::OCI_MANIFEST)];
        self.request("PUT", &path, &headers, content, 201).await.map(drop)
    }

    /// Sends a request and reads its answer to the end; returns its `Location`.
    async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        expected: u16,
    ) -> io::Result<Option<String>> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body).await?;
        let (answer, surplus) = self.headers().await?;
        if answer.status != expected {
            return Err(io::Error::other(format!(
                "{method} {path}: status {}",
                answer.status
            )));
        }
        let mut left = answer.length - surplus as u64;
        while left > 0 {
            match self.stream.read(&mut self.buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => left = left.saturating_sub(count as u64),
            }
        }
        Ok(answer.location)
    }

    /// The head of an answer, and how many bytes of its body came with it.
    async fn headers(&mut self) -> io::Result<(Answer, usize)> {
        let mut filled = 0;
        loop {
            let count = self.stream.read(&mut self.buffer[filled..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
            if let Some(end) = self.buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok((Answer::parse(&self.buffer[..end])?, filled - end - 4));
            }
            if filled > HEADERS_MAX {
                return Err(io::Error::other("an answer with endless headers"));
            }
        }
    }
}

struct Answer {
    status: u16,
    length: u64,
    location: Option<String>,
}

impl Answer {
    fn parse(head: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(head).map_err(io::Error::other)?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let mut answer = Self {
            status: status.ok_or_else(|| io::Error::other("an answer without status"))?,
            length: 0,
            location: None,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                answer.length = value.trim().parse().map_err(io::Error::other)?;
            } else if name.eq_ignore_ascii_case("location") {
                answer.location = Some(value.trim().to_owned());
            } else if name.eq_ignore_ascii_case("transfer-encoding") && answer.status >= 400 {
                return Err(io::Error::other(format!("status {}", answer.status)));
            }
        }
        Ok(answer)
    }
}
