//! A node played over HTTP: the agent's side of `api::node` without containers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{
    BeatRequest, BeatResponse, DesiredState, DesiredTask, JoinRequest, JoinResponse, JoinToken, NodeFacts,
    ReportRequest, TaskAssignment, TaskReport, TaskState, WatchEvent,
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use blackbox::registry::Registry;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Method, StatusCode};
use serde_json::json;

/// How long anything may take that happens at once.
pub const SOON: Duration = Duration::from_secs(20);

/// A key as a node has it.
pub struct Key {
    pair: Ed25519KeyPair,
}

impl Key {
    pub fn new() -> Self {
        let pair = Ed25519KeyPair::generate().expect("randomness");
        Self { pair }
    }

    pub fn public(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// A token that says it is of `node_id`, as a node signs it.
    pub fn token(&self, node_id: &str) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(node_id.to_owned());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970")
            .as_secs();
        let claims = json!({"iss": "pierhead-node", "aud": "pierhead", "sub": node_id, "exp": now + 120});
        let der = self.pair.to_pkcs8v1().expect("a key");
        let key = EncodingKey::from_ed_der(der.as_ref());
        jsonwebtoken::encode(&header, &claims, &key).expect("a signature")
    }
}

/// A join token from the operator.
pub fn join_token(registry: &Registry) -> String {
    let response = registry.send(Method::POST, "/api/v1/join-tokens");
    assert_eq!(response.status(), StatusCode::CREATED);
    let token: JoinToken = response.json().expect("a token");
    token.token
}

/// An attempt to join.
pub fn join(registry: &Registry, token: &str, key: &Key, name: &str) -> Response {
    let request = JoinRequest {
        token: token.to_owned(),
        public_key: key.public(),
        name: name.to_owned(),
        facts: NodeFacts {
            architecture: oci::Platform::host().architecture,
            os: "linux".to_owned(),
            ..NodeFacts::default()
        },
    };
    let client = Client::new();
    client
        .post(format!("{}/api/v1/join", registry.url()))
        .json(&request)
        .send()
        .expect("an answer")
}

/// A node that has joined.
pub struct Node {
    pub id: String,
    pub key: Key,
    pub cluster_id: String,
    incarnation: String,
    sequences: HashMap<String, u64>,
}

impl Node {
    pub fn join(registry: &Registry, name: &str) -> Self {
        let key = Key::new();
        let response = join(registry, &join_token(registry), &key, name);
        assert_eq!(response.status(), StatusCode::OK);
        let joined: JoinResponse = response.json().expect("an answer to joining");
        assert_eq!(joined.name, name);
        Self {
            id: joined.node_id,
            key,
            cluster_id: joined.cluster_id,
            incarnation: format!("{name}-1"),
            sequences: HashMap::new(),
        }
    }

    pub fn request(&self, registry: &Registry, method: Method, path: &str) -> RequestBuilder {
        let client = Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client");
        let url = format!("{}/api/v1/nodes/self/{path}", registry.url());
        client.request(method, url).bearer_auth(self.key.token(&self.id))
    }

    pub fn beat(&self, registry: &Registry) -> BeatResponse {
        let beat = BeatRequest {
            incarnation: self.incarnation.clone(),
            boot_id: "boot".to_owned(),
            applied_generation: 0,
        };
        let response = self
            .request(registry, Method::POST, "beat")
            .json(&beat)
            .send()
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        response.json().expect("an answer to a beat")
    }

    /// Reports a state of a task, with the next sequence.
    pub fn report(
        &mut self,
        registry: &Registry,
        task: &TaskAssignment,
        state: TaskState,
        reason: Option<&str>,
    ) {
        let sequence = self.sequences.entry(task.id.clone()).or_insert(0);
        *sequence += 1;
        let report = TaskReport {
            task_id: task.id.clone(),
            attempt: 1,
            sequence: *sequence,
            state,
            container_id: Some("c".to_owned()),
            started_at_ms: None,
            exit_code: None,
            reason: reason.map(str::to_owned),
        };
        self.send(registry, report);
    }

    pub fn send(&self, registry: &Registry, report: TaskReport) {
        let reports = ReportRequest {
            reports: vec![report],
        };
        let response = self
            .request(registry, Method::POST, "report")
            .json(&reports)
            .send()
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }

    pub fn watch(&self, registry: &Registry) -> Watch {
        let response = self
            .request(registry, Method::GET, "watch")
            .send()
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(response).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        Watch { events }
    }
}

/// A node's stream.
pub struct Watch {
    events: Receiver<WatchEvent>,
}

impl Watch {
    /// The next event; `None` at the end of the stream.
    pub fn next(&self) -> Option<WatchEvent> {
        self.events.recv_timeout(SOON).ok()
    }

    /// The next document.
    pub fn document(&self) -> DesiredState {
        loop {
            match self.next() {
                Some(WatchEvent::Document(document)) => return document,
                Some(WatchEvent::Ping { .. } | WatchEvent::Logs { .. }) => {}
                None => panic!("no document came within {SOON:?}"),
            }
        }
    }

    /// The tasks of the first document in which `is_wanted`.
    pub fn tasks(&self, what: &str, is_wanted: impl Fn(&[TaskAssignment]) -> bool) -> Vec<TaskAssignment> {
        let mut last = Vec::new();
        for _ in 0..50 {
            match self.next() {
                Some(WatchEvent::Document(document)) => {
                    let tasks = document.open().expect("a whole document");
                    if is_wanted(&tasks) {
                        return tasks;
                    }
                    last = tasks;
                }
                Some(WatchEvent::Ping { .. } | WatchEvent::Logs { .. }) => {}
                None => break,
            }
        }
        panic!("no document with {what}; the last had {last:#?}")
    }

    /// The one task that should run at `revision`, from the first document that has it.
    pub fn run(&self, revision: u64) -> TaskAssignment {
        let is_it = |t: &TaskAssignment| t.revision == revision && t.desired == DesiredTask::Run;
        let tasks = self.tasks(&format!("a task of revision {revision} to run"), |tasks| {
            tasks.iter().any(is_it)
        });
        tasks.into_iter().find(is_it).expect("it was there")
    }

    /// The task with an id once it should stop.
    pub fn stop(&self, id: &str) -> TaskAssignment {
        let is_it = |t: &TaskAssignment| t.id == id && t.desired == DesiredTask::Stop;
        let tasks = self.tasks(&format!("task {id} to stop"), |tasks| tasks.iter().any(is_it));
        tasks.into_iter().find(is_it).expect("it was there")
    }
}
