//! distribution-spec, clause by clause, up to its main branch past 1.1.1, with the HTTP semantics that it refers to
//! (RFC 9110). Each clause is one test in each [`Setting`].

mod blobs;
mod manifests;
mod mounts;
mod paths;
mod ping;
mod ranges;
mod referrers;
mod tags;
mod uploads;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use blackbox::nginx::Nginx;
use blackbox::postgres::Schema;
use blackbox::registry::{Registry, header};
use oci::{Digest, ErrorBody, ErrorCode, media_type};
use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// How a server is run and reached.
#[derive(Clone, Copy, Debug)]
enum Setting {
    /// HTTP/1.1, SQLite.
    Http1,
    /// HTTP/2 with prior knowledge, SQLite.
    Http2,
    /// HTTP/1.1, PostgreSQL.
    Postgres,
    /// HTTP/1.1 through nginx, SQLite.
    BehindNginx,
}

/// One server for each setting. It lives as long as some test uses it and ends with the last of them, since nothing
/// that a program leaves in a static is ever dropped.
static SHARED: [Mutex<Weak<Endpoint>>; 4] = [const { Mutex::new(Weak::new()) }; 4];

impl Setting {
    /// Runs a clause in this setting, unless the machine lacks what it takes.
    fn run(self, clause: impl Fn(&Endpoint)) {
        let endpoint = {
            let slot = &SHARED[self as usize];
            // A clause that fails does so outside of the lock.
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.upgrade() {
                Some(endpoint) => endpoint,
                None => {
                    let Some(endpoint) = Endpoint::start(self) else {
                        return;
                    };
                    let endpoint = Arc::new(endpoint);
                    *slot = Arc::downgrade(&endpoint);
                    endpoint
                }
            }
        };
        clause(&endpoint);
    }
}

/// A server without accounts, and the way to it. Repositories below `sparse/` accept manifests with absent children.
struct Endpoint {
    client: Client,
    address: String,
    repositories: AtomicUsize,
    _proxy: Option<Nginx>,
    // After the proxy and before the schema, which it uses.
    _registry: Registry,
    _schema: Option<Schema>,
}

impl Endpoint {
    fn start(setting: Setting) -> Option<Self> {
        let schema = match setting {
            Setting::Postgres => Some(Schema::create()?),
            _ => None,
        };
        let mut config = "sparse = [\"sparse/**\"]\n".to_owned();
        if let Some(schema) = &schema {
            config.push_str(&format!("database = {:?}\n", schema.url()));
        }
        let registry = Registry::open_with(&config);
        let proxy = match setting {
            Setting::BehindNginx => Some(Nginx::in_front_of(registry.address())),
            _ => None,
        };
        let address = proxy
            .as_ref()
            .map_or(registry.address(), Nginx::address)
            .to_owned();
        let client = Client::builder().timeout(Duration::from_secs(60));
        let client = match setting {
            Setting::Http2 => client.http2_prior_knowledge(),
            _ => client.http1_only(),
        };
        Some(Self {
            client: client.build().unwrap(),
            address,
            repositories: AtomicUsize::new(0),
            _proxy: proxy,
            _registry: registry,
            _schema: schema,
        })
    }

    /// The name of a repository that nobody else uses, with the meaning that `prefix` gives it.
    fn repository(&self, prefix: &str) -> String {
        let number = self.repositories.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}/r{number:04}")
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("http://{}{path}", self.address))
    }

    fn send(&self, method: Method, path: &str) -> Response {
        self.request(method, path).send().unwrap()
    }

    fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path)
    }

    fn begin_upload(&self, repository: &str) -> String {
        let response = self.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/"));
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        header(&response, "location")
    }

    fn put(&self, path: &str, content: &[u8]) -> Response {
        self.request(Method::PUT, path)
            .body(content.to_vec())
            .send()
            .unwrap()
    }

    fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let upload = self.begin_upload(repository);
        let response = self.put(&format!("{upload}?digest={digest}"), content);
        assert_eq!(response.status(), StatusCode::CREATED);
        digest
    }

    /// PUT of a manifest with the media type that it names, or none.
    fn put_manifest(&self, repository: &str, reference: &str, body: &[u8]) -> Response {
        let own = serde_json::from_slice::<Value>(body).ok();
        let own = own.and_then(|v| v["mediaType"].as_str().map(str::to_owned));
        let request = self.request(Method::PUT, &format!("/v2/{repository}/manifests/{reference}"));
        let request = match own {
            Some(own) => request.header("content-type", own),
            None => request,
        };
        request.body(body.to_vec()).send().unwrap()
    }

    fn push_manifest(&self, repository: &str, reference: &str, body: &[u8]) -> Digest {
        let response = self.put_manifest(repository, reference, body);
        assert_eq!(response.status(), StatusCode::CREATED, "{:?}", response.text());
        header(&response, "docker-content-digest").parse().unwrap()
    }

    /// A manifest whose config is the empty value, after pushing that; `seed` makes it differ from others.
    fn manifest(&self, repository: &str, seed: &str) -> Vec<u8> {
        self.push_blob(repository, b"{}");
        manifest(seed).to_string().into_bytes()
    }
}

fn manifest(seed: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_EMPTY, "digest": Digest::sha256(b"{}"), "size": 2},
        "layers": [],
        "annotations": {"seed": seed},
    })
}

/// Checks an error in the specification's form: status, a code of its list, and JSON that says so.
fn refused(response: Response, status: StatusCode, code: &str) {
    assert_eq!(response.status(), status);
    assert_eq!(header(&response, "content-type"), "application/json");
    assert_eq!(
        header(&response, "docker-distribution-api-version"),
        "registry/2.0"
    );
    let body: ErrorBody = response.json().unwrap();
    assert_eq!(body.errors[0].code, code);
    assert!(ErrorCode::ALL.iter().any(|c| c.as_str() == body.errors[0].code));
    assert!(!body.errors[0].message.is_empty());
}

/// Defines a clause: a function of an endpoint, and a test of it in each setting.
macro_rules! clause {
    ($(#[$doc:meta])* fn $name:ident($registry:ident) $body:block) => {
        $(#[$doc])*
        fn $name($registry: &crate::conformance::Endpoint) $body

        mod $name {
            use crate::conformance::Setting;

            #[test]
            fn http1() {
                Setting::Http1.run(super::$name);
            }

            #[test]
            fn http2() {
                Setting::Http2.run(super::$name);
            }

            #[test]
            fn postgres() {
                Setting::Postgres.run(super::$name);
            }

            #[test]
            fn behind_nginx() {
                Setting::BehindNginx.run(super::$name);
            }
        }
    };
}
use clause;
