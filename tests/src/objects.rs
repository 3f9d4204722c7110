//! Object stores: real servers from package registries, started with a private directory and an empty bucket.
//!
//! `moto_server` (PyPI: moto) serves S3 and `azurite-blob` (npm: azurite) serves Azure; `tests/run` installs both and
//! puts them into the path. rclone's S3 server would be smaller, but answers ranges with status 200. Where one is missing a test says so and is not run; with `CI=true` it fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::blocking::Response;
use tempfile::TempDir;

use crate::process::Process;
use crate::wait_for;

/// The account and key that azurite has by default, as its documentation prints them.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running object store with an empty bucket. Stopped and its data removed when dropped.
#[derive(Debug)]
pub struct ObjectServer {
    // Before the directory, so that nothing writes into what is being removed.
    _process: Process,
    _directory: Option<TempDir>,
    url: String,
    endpoint: String,
    options: BTreeMap<String, String>,
    checks_signatures: bool,
}

impl ObjectServer {
    /// An S3 server; `None` when there is none on this machine, which has been said then.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub fn s3() -> Option<Self> {
        let program = program("moto_server", "S3")?;
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        let process = Process::start(command);
        let endpoint = process.line_with(" * Running on ");
        create_bucket(&endpoint, "bucket");
        let options = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", "access"),
            ("aws_secret_access_key", "secret"),
            ("aws_allow_http", "true"),
        ];
        Some(Self {
            _process: process,
            _directory: None,
            url: "s3://bucket/registry".to_owned(),
            options: owned(&options),
            endpoint,
            checks_signatures: false,
        })
    }

    /// An Azure server; `None` when there is none on this machine, which has been said then.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub fn azure() -> Option<Self> {
        let program = program("azurite-blob", "Azure")?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("sh");
        // It speaks to standard output.
        command
            .args(["-c", "exec \"$@\" >&2", "sh"])
            .arg(program)
            .args([
                "--blobPort",
                "0",
                "--skipApiVersionCheck",
                "--disableTelemetry",
                "--location",
            ])
            .arg(directory.path());
        let process = Process::start(command);
        let address = process.line_with("successfully listens on ");
        create_container(&address, "container");
        let endpoint = format!("{address}/{AZURITE_ACCOUNT}");
        let options = [
            ("azure_endpoint", endpoint.as_str()),
            ("azure_storage_account_name", AZURITE_ACCOUNT),
            ("azure_storage_account_key", AZURITE_KEY),
            ("azure_allow_http", "true"),
        ];
        Some(Self {
            _process: process,
            _directory: Some(directory),
            url: "az://container/registry".to_owned(),
            options: owned(&options),
            endpoint,
            checks_signatures: true,
        })
    }

    /// The URL of storage in its bucket.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens, `http://HOST:PORT` and perhaps a path.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The options that go with the URL.
    pub fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    /// The options as lines of a configuration file.
    pub fn config(&self) -> String {
        let mut text = format!(
            "[storage]\nurl = \"{}\"\npart_mib = 5\n[storage.options]\n",
            self.url
        );
        for (key, value) in &self.options {
            text.push_str(&format!("{key} = \"{value}\"\n"));
        }
        text
    }

    /// Whether it refuses requests that are not signed; moto takes all.
    pub fn checks_signatures(&self) -> bool {
        self.checks_signatures
    }

    /// How many objects the S3 server has below `prefix` in the storage of its bucket, at most 1000.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn count(&self, prefix: &str) -> usize {
        let url = format!("{}/bucket?list-type=2&prefix=registry/{prefix}", self.endpoint);
        let listed = reqwest::blocking::get(url).expect("a listing");
        listed.text().expect("a listing of text").matches("<Key>").count()
    }
}

fn create_bucket(endpoint: &str, name: &str) {
    let client = reqwest::blocking::Client::new();
    wait_for("the bucket", Duration::from_secs(10), || {
        let made = client.put(format!("{endpoint}/{name}")).send();
        made.and_then(Response::error_for_status).map(drop)
    });
}

fn owned(options: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    options.iter().map(owned).collect()
}

fn program(name: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|p| Path::is_file(p));
    if found.is_none() {
        let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!is_ci, "{name} is not in the path, and CI runs every suite");
        eprintln!("not run on {what}: {name} is not in the path; tests/run installs it");
    }
    found
}

/// Signs by the shared key, as the Blob service REST API documents.
fn create_container(address: &str, name: &str) {
    let output = Command::new("date")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output();
    let date = String::from_utf8(output.expect("run date").stdout).expect("a date of text");
    let date = date.trim();
    let version = "2021-08-06";
    let signed = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n\
         /{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{name}\nrestype:container"
    );
    let key = STANDARD.decode(AZURITE_KEY).expect("a key of base64");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
    let client = reqwest::blocking::Client::new();
    wait_for("the container", Duration::from_secs(10), || {
        let response = client
            .put(format!("{address}/{AZURITE_ACCOUNT}/{name}?restype=container"))
            .header("x-ms-date", date)
            .header("x-ms-version", version)
            .header(
                "authorization",
                format!("SharedKey {AZURITE_ACCOUNT}:{}", STANDARD.encode(tag.as_ref())),
            )
            .body("")
            .send()
            .map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            201 | 409 => Ok(()),
            status => Err(format!(
                "status {status}: {}",
                response.text().unwrap_or_default()
            )),
        }
    });
}
