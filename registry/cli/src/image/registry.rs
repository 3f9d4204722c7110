//! One image or repository in a registry.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, bail};
use client::control::operator::Account;
use client::distribution::{Credential, FetchedManifest, RegistryClient};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use oci::{Descriptor, Digest, Hasher, ImageReference, Manifest, Reference, media_type};

use super::Access;
use super::layout::{Layout, is_manifest};
use crate::credentials::{self, Store};

/// Attempts to go on after a transfer was cut.
const ATTEMPTS: u32 = 5;

/// An image in a registry.
#[derive(Debug)]
pub struct Remote {
    client: RegistryClient,
    image: ImageReference,
}

impl Remote {
    /// Prepares to reach `image`.
    pub fn new(image: ImageReference, access: &Access) -> anyhow::Result<Self> {
        let host = image
            .host
            .rsplit_once(':')
            .map_or(image.host.as_str(), |(host, _)| host);
        let is_loopback = host == "localhost" || host.starts_with("127.") || host == "[::1]";
        let scheme = if is_loopback || access.plain_http {
            "http"
        } else {
            "https"
        };
        let base = format!("{scheme}://{}", image.host);
        let base = base
            .parse()
            .with_context(|| format!("{base} is no address of a registry"))?;
        let client = RegistryClient::new(client::http()?, base, access.credential(&image.host)?);
        Ok(Self { client, image })
    }

    /// The manifest or index.
    pub async fn manifest(&self) -> anyhow::Result<FetchedManifest> {
        let manifest = self
            .client
            .manifest(&self.image.repository, &self.image.reference())
            .await;
        manifest.with_context(|| format!("pull {}", self.image))
    }

    /// The tags of the repository.
    pub async fn tags(&self) -> anyhow::Result<Vec<String>> {
        let tags = self.client.tags(&self.image.repository).await;
        tags.with_context(|| format!("list the tags of {}", self.image.repository))
    }

    /// Removes what the reference names. Without tag and digest nothing is removed: `latest` must be said.
    pub async fn remove(&self) -> anyhow::Result<()> {
        if self.image.tag.is_none() && self.image.digest.is_none() {
            bail!("{} names no tag and no digest; add :TAG or @DIGEST", self.image);
        }
        let removed = self
            .client
            .manifest_delete(&self.image.repository, &self.image.reference())
            .await;
        removed.with_context(|| format!("remove {}", self.image))
    }

    /// Pulls the image into a layout and returns its descriptor.
    pub async fn pull(&self, layout: &Layout) -> anyhow::Result<Descriptor> {
        let root = self.manifest().await?;
        let descriptor = self.keep(layout, root)?;
        let mut pending = vec![descriptor.clone()];
        let bar = progress(0);
        while let Some(next) = pending.pop() {
            let manifest = Manifest::parse(&next.media_type, &layout.read(&next.digest)?)?;
            for child in manifest.children() {
                if is_manifest(&child.media_type) {
                    let reference = Reference::Digest(child.digest.clone());
                    let fetched = self.client.manifest(&self.image.repository, &reference).await;
                    pending.push(self.keep(layout, fetched.with_context(|| format!("pull {reference}"))?)?);
                } else if !layout.path(&child.digest).exists() && child.urls.is_empty() {
                    bar.inc_length(child.size);
                    self.pull_blob(layout, child, &bar)
                        .await
                        .with_context(|| format!("pull blob {}", child.digest))?;
                }
            }
        }
        bar.finish_and_clear();
        Ok(descriptor)
    }

    fn keep(&self, layout: &Layout, fetched: FetchedManifest) -> anyhow::Result<Descriptor> {
        let manifest = Manifest::parse(&fetched.media_type, &fetched.bytes)
            .with_context(|| format!("manifest {} of {}", fetched.digest, self.image))?;
        layout.put(&fetched.digest, &fetched.bytes)?;
        Ok(Descriptor::new(
            manifest.media_type,
            fetched.digest,
            fetched.bytes.len() as u64,
        ))
    }

    /// Pulls a blob, going on where a cut transfer ended, and verifies it.
    async fn pull_blob(&self, layout: &Layout, wanted: &Descriptor, bar: &ProgressBar) -> anyhow::Result<()> {
        let mut file = layout.scratch()?;
        let mut hasher = Hasher::new(wanted.digest.algorithm());
        let mut received = 0;
        let mut attempts = 0;
        while received < wanted.size {
            let error = match self
                .client
                .blob(&self.image.repository, &wanted.digest, received)
                .await
            {
                Ok(mut body) => loop {
                    match body.bytes.try_next().await {
                        Ok(Some(piece)) => {
                            received += piece.len() as u64;
                            if received > wanted.size {
                                bail!(
                                    "the registry sent more than the {} bytes of the descriptor",
                                    wanted.size
                                );
                            }
                            file.write_all(&piece)?;
                            hasher.update(&piece);
                            bar.inc(piece.len() as u64);
                            attempts = 0;
                        }
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                },
                Err(error) => Some(error),
            };
            match error {
                None if received < wanted.size && attempts < ATTEMPTS => attempts += 1,
                Some(error) if error.is_retryable() && attempts < ATTEMPTS => attempts += 1,
                Some(error) => return Err(error.into()),
                None if received < wanted.size => bail!("the registry ended after {received} bytes"),
                None => {}
            }
        }
        let actual = hasher.finish();
        if actual != wanted.digest {
            bail!("the registry sent content of digest {actual}");
        }
        layout.keep(file, &wanted.digest)
    }

    /// Pushes an image from a layout: blobs first, then manifests, deepest first, then the tag.
    pub async fn push(&self, layout: &Layout, descriptor: &Descriptor) -> anyhow::Result<()> {
        let repository = &self.image.repository;
        let tree = layout.tree(descriptor)?;
        let blobs = tree
            .iter()
            .flat_map(|(_, m)| m.children())
            .filter(|d| !is_manifest(&d.media_type));
        let mut blobs: Vec<_> = blobs
            .filter(|d| !media_type::is_foreign_layer(&d.media_type))
            .collect();
        blobs.sort_by_key(|d| d.digest.as_str());
        blobs.dedup_by_key(|d| d.digest.as_str());
        let bar = progress(blobs.iter().map(|d| d.size).sum());
        for blob in blobs {
            let path = layout.path(&blob.digest);
            let pushed = self
                .client
                .blob_push_file(repository, &blob.digest, blob.size, &path)
                .await;
            pushed.with_context(|| format!("push blob {}", blob.digest))?;
            bar.inc(blob.size);
        }
        bar.finish_and_clear();
        for (each, _) in &tree {
            let is_root = each.digest == descriptor.digest;
            let reference = match &self.image.tag {
                Some(tag) if is_root => Reference::Tag(tag.clone()),
                None if is_root && self.image.digest.is_none() => self.image.reference(),
                _ => Reference::Digest(each.digest.clone()),
            };
            if is_root && self.image.digest.as_ref().is_some_and(|d| *d != each.digest) {
                bail!(
                    "the image has digest {}, not the one of {}",
                    each.digest,
                    self.image
                );
            }
            let bytes = layout.read(&each.digest)?;
            let pushed = self
                .client
                .manifest_push(repository, &reference, &each.media_type, &bytes)
                .await;
            pushed.with_context(|| format!("push manifest {reference} to {repository}"))?;
        }
        Ok(())
    }
}

impl Access {
    /// What to say at the registry `host`: what was given, else what was logged in, else what docker knows.
    fn credential(&self, host: &str) -> anyhow::Result<Credential> {
        let basic = |Account { username, password }| Credential::Basic { username, password };
        if self.password_stdin {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read the password from standard input")?;
            let username = self.username.clone().unwrap_or_default();
            let password = text.trim_end_matches(['\r', '\n']).to_owned();
            return Ok(Credential::Basic { username, password });
        }
        if let Some(username) = self.username.clone()
            && let Ok(password) = std::env::var("PIERHEAD_PASSWORD")
        {
            return Ok(Credential::Basic { username, password });
        }
        let stored = Store::open()?.account_at_host(host);
        match (&self.username, stored) {
            (Some(username), Some(account)) if account.username == *username => Ok(basic(account)),
            (Some(_), _) => {
                bail!("a user name but no password; set PIERHEAD_PASSWORD or use --password-stdin")
            }
            (None, Some(account)) => Ok(basic(account)),
            (None, None) => Ok(credentials::of_docker(host)?.map_or(Credential::Anonymous, basic)),
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress(total_bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
    ProgressBar::new(total_bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Hashes what is written through it.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    size_bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// A writer that has seen nothing.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(oci::Algorithm::Sha256),
            size_bytes: 0,
        }
    }

    /// What was written to, its digest and size.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size_bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
