//! A registry server with a private data directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use oci::Digest;
use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::{Method, StatusCode};
use tempfile::TempDir;

use crate::binary;
use crate::process::Process;

/// A running server. Stopped and its data removed when dropped.
#[derive(Debug)]
pub struct Registry {
    process: Option<Process>,
    directory: TempDir,
    arguments: Vec<String>,
    address: String,
    password: Option<String>,
}

impl Registry {
    /// Starts a server without accounts.
    pub fn open() -> Self {
        Self::start(&["--open"], "")
    }

    /// Starts a server with accounts; [`Self::password`] is the first admin's.
    pub fn with_accounts() -> Self {
        Self::start(&[], "")
    }

    /// Starts a server without accounts that caches `upstream` below `dockerhub/`.
    pub fn caching(upstream: &str) -> Self {
        Self::start(
            &["--open"],
            &format!("[upstream.dockerhub]\nurl = \"{upstream}\"\n"),
        )
    }

    /// Starts a server without accounts, with `config` as its configuration file.
    pub fn open_with(config: &str) -> Self {
        Self::start(&["--open"], config)
    }

    /// Starts a server without accounts on a database and an object store that others share.
    pub fn replica(database: &str, storage: &str) -> Self {
        Self::start(&["--open", "--database", database], storage)
    }

    fn start(flags: &[&str], config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config_path = directory.path().join("registry.toml");
        std::fs::write(&config_path, config).expect("write the configuration");
        let mut arguments = vec![
            "serve".to_owned(),
            "--listen".to_owned(),
            "127.0.0.1:0".to_owned(),
        ];
        arguments.extend(["--config".to_owned(), config_path.display().to_string()]);
        arguments.extend([
            "--data".to_owned(),
            directory.path().join("data").display().to_string(),
        ]);
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        let mut registry = Self {
            process: None,
            directory,
            arguments,
            address: String::new(),
            password: None,
        };
        registry.launch();
        registry
    }

    fn launch(&mut self) {
        let mut command = Command::new(binary("pierhead-registry"));
        command.args(&self.arguments).env("PIERHEAD_LOG", "warn");
        let process = Process::start(command);
        if !self.arguments.iter().any(|a| a == "--open") && self.password.is_none() {
            let line = process.line_after("first admin: user admin password ");
            self.password = line.split(' ').next().map(str::to_owned);
        }
        let address = process.line_after("listening on http://");
        // Nodes and clients find it there again after a restart.
        for argument in &mut self.arguments {
            if argument == "127.0.0.1:0" {
                argument.clone_from(&address);
            }
        }
        self.address = address;
        self.process = Some(process);
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same data and port.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where blobs lie.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("data/storage")
    }

    /// A directory of the test's own.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The first admin's password.
    ///
    /// # Panics
    /// Without accounts.
    pub fn password(&self) -> &str {
        self.password.as_deref().expect("a registry with accounts")
    }

    /// A request to a path, with the admin's credentials where there are accounts.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let client = Client::builder()
            .timeout(std::time::Duration::from_secs(60))
            .build();
        let request = client
            .expect("a client")
            .request(method, format!("{}{path}", self.url()));
        match &self.password {
            Some(password) => request.basic_auth("admin", Some(password)),
            None => request,
        }
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn send(&self, method: Method, path: &str) -> Response {
        self.request(method, path).send().expect("an answer")
    }

    /// Begins an upload and returns its path.
    ///
    /// # Panics
    /// When the server does not accept it.
    pub fn begin_upload(&self, repository: &str) -> String {
        let response = self.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"));
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        header(&response, "location")
    }

    /// Pushes a blob in two requests.
    ///
    /// # Panics
    /// When the server does not accept it.
    pub fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let upload = self.begin_upload(repository);
        let request = self.request(Method::PUT, &format!("{upload}?digest={digest}"));
        let response = request
            .body(Body::from(content.to_vec()))
            .send()
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::CREATED);
        digest
    }
}

/// A header of a response.
///
/// # Panics
/// When there is none.
pub fn header(response: &Response, name: &str) -> String {
    let value = response
        .headers()
        .get(name)
        .unwrap_or_else(|| panic!("no header {name} in {response:?}"));
    value.to_str().expect("a header of text").to_owned()
}

/// The code of the first error in a body of the specification's form.
///
/// # Panics
/// When the body has another form.
pub fn error_code(response: Response) -> String {
    let body: oci::ErrorBody = response.json().expect("an error body");
    body.errors[0].code.clone()
}
