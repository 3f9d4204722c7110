//! Which storage a URL means, and the client of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

use super::StorageError;
use super::cloud::{Cloud, failed};

/// How long a connection to an object store may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an object store may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// Where blobs are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    kind: Kind,
    /// Shown to the operator; it holds no secret.
    url: String,
    options: BTreeMap<String, String>,
    part_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory(PathBuf),
    Memory,
    Cloud(Provider, Path),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    S3,
    Gcs,
    Azure,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_struct("Location")
            .field("url", &self.url)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .field("part_bytes", &self.part_bytes)
            .finish()
    }
}

impl Location {
    /// A local directory.
    pub fn directory(path: PathBuf) -> Self {
        Self {
            url: format!("file://{}", path.display()),
            kind: Kind::Directory(path),
            options: BTreeMap::new(),
            part_bytes: 0,
        }
    }

    /// What `url` means, with the keys that object_store documents for its provider, and parts of `part_bytes`.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn parse(url: &Url, options: BTreeMap<String, String>, part_bytes: u64) -> Result<Self, Vec<String>> {
        const FORMS: &str = "write file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or memory:";
        let unsupported = || vec![format!("storage is {url}, which is not supported; {FORMS}")];
        let bucket = url.host_str().is_some_and(|host| !host.is_empty());
        let prefix = Path::from_url_path(url.path()).map_err(|_| unsupported())?;
        let kind = match url.scheme() {
            "file" => Kind::Directory(url.to_file_path().map_err(|()| unsupported())?),
            "memory" => Kind::Memory,
            "s3" if bucket => Kind::Cloud(Provider::S3, prefix),
            "gs" if bucket => Kind::Cloud(Provider::Gcs, prefix),
            "az" if bucket => Kind::Cloud(Provider::Azure, prefix),
            _ => return Err(unsupported()),
        };
        let is_known = |key: &str| match &kind {
            Kind::Cloud(Provider::S3, _) => AmazonS3ConfigKey::from_str(key).is_ok(),
            Kind::Cloud(Provider::Gcs, _) => GoogleConfigKey::from_str(key).is_ok(),
            Kind::Cloud(Provider::Azure, _) => AzureConfigKey::from_str(key).is_ok(),
            Kind::Directory(_) | Kind::Memory => false,
        };
        let unknown: Vec<_> = options
            .keys()
            .filter(|key| !is_known(key))
            .map(|key| {
                format!(
                    "storage.options.{key}: there is no such option for {}:",
                    url.scheme()
                )
            })
            .collect();
        match (&kind, unknown.is_empty()) {
            (Kind::Directory(path), true) => Ok(Self::directory(path.clone())),
            (_, true) => Ok(Self {
                kind,
                url: url.to_string(),
                options,
                part_bytes,
            }),
            (_, false) => Err(unknown),
        }
    }

    /// The variables of the environment that a provider documents, as options.
    pub fn options_of_environment(
        url: &Url,
        variables: impl Iterator<Item = (String, String)>,
    ) -> BTreeMap<String, String> {
        let (prefix, is_known): (_, fn(&str) -> bool) = match url.scheme() {
            "s3" => ("AWS_", |key| AmazonS3ConfigKey::from_str(key).is_ok()),
            "gs" => ("GOOGLE_", |key| GoogleConfigKey::from_str(key).is_ok()),
            "az" => ("AZURE_", |key| AzureConfigKey::from_str(key).is_ok()),
            _ => return BTreeMap::new(),
        };
        variables
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| is_known(name))
            .collect()
    }

    /// The directory, if it is one.
    pub(super) fn as_directory(&self) -> Option<&std::path::Path> {
        match &self.kind {
            Kind::Directory(path) => Some(path),
            Kind::Memory | Kind::Cloud(..) => None,
        }
    }

    /// A client; `spool` is a local directory that uploads go through.
    pub(super) fn client(&self, spool: PathBuf) -> Result<Cloud, StorageError> {
        // No limit for a whole request: blobs are large, and clients may be slow.
        let http = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT)
            .with_read_timeout(SILENCE);
        let open = failed("open", &self.url);
        let part = self.part_bytes;
        match &self.kind {
            Kind::Cloud(Provider::S3, prefix) => {
                // Over TLS the bytes need no second hash in the signature.
                let unsigned = !self.options.keys().any(|key| key.ends_with("allow_http"));
                let builder = AmazonS3Builder::new()
                    .with_url(&self.url)
                    .with_unsigned_payload(unsigned)
                    .with_client_options(http);
                let builder = self.options.iter().fold(builder, |builder, (key, value)| {
                    match AmazonS3ConfigKey::from_str(key) {
                        Ok(key) => builder.with_config(key, value),
                        Err(_) => builder,
                    }
                });
                let store = Arc::new(builder.build().map_err(open)?);
                Ok(Cloud::new(
                    store.clone(),
                    Some(store),
                    prefix.clone(),
                    spool,
                    part,
                ))
            }
            Kind::Cloud(Provider::Gcs, prefix) => {
                let builder = GoogleCloudStorageBuilder::new()
                    .with_url(&self.url)
                    .with_client_options(http);
                let builder =
                    self.options.iter().fold(
                        builder,
                        |builder, (key, value)| match GoogleConfigKey::from_str(key) {
                            Ok(key) => builder.with_config(key, value),
                            Err(_) => builder,
                        },
                    );
                let store = Arc::new(builder.build().map_err(open)?);
                Ok(Cloud::new(
                    store.clone(),
                    Some(store),
                    prefix.clone(),
                    spool,
                    part,
                ))
            }
            Kind::Cloud(Provider::Azure, prefix) => {
                let builder = MicrosoftAzureBuilder::new()
                    .with_url(&self.url)
                    .with_client_options(http);
                let builder =
                    self.options.iter().fold(
                        builder,
                        |builder, (key, value)| match AzureConfigKey::from_str(key) {
                            Ok(key) => builder.with_config(key, value),
                            Err(_) => builder,
                        },
                    );
                let store = Arc::new(builder.build().map_err(open)?);
                Ok(Cloud::new(
                    store.clone(),
                    Some(store),
                    prefix.clone(),
                    spool,
                    part,
                ))
            }
            Kind::Memory | Kind::Directory(_) => {
                let store = Arc::new(InMemory::new());
                Ok(Cloud::new(store, None, Path::default(), spool, part))
            }
        }
    }
}
