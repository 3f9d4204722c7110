//! `GET /events`: what happened lately and what happens, one JSON document a line.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};
use http::header::CONTENT_TYPE;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Api;
use super::error::ApiError;
use super::inspect::image_name;
use super::query::{Filters, Parameters, moment};
use super::wire::{Actor, Message};
use crate::engine::{Engine, Event, EventKind};

/// Events that can be asked for again.
const KEPT: usize = 1024;

/// Remembers the engine's last events and passes on those that come.
#[derive(Clone, Debug)]
pub(super) struct EventLog(Arc<Mutex<Recent>>);

#[derive(Debug)]
struct Recent {
    events: VecDeque<Arc<Logged>>,
    sender: broadcast::Sender<Arc<Logged>>,
}

#[derive(Debug)]
struct Logged {
    /// RFC 3339 with nanoseconds, UTC.
    time: String,
    message: Message,
}

impl EventLog {
    /// Begins to listen.
    pub(super) fn new(engine: &Engine) -> Self {
        let log = Self(Arc::new(Mutex::new(Recent {
            events: VecDeque::new(),
            sender: broadcast::Sender::new(KEPT),
        })));
        let mut events = engine.events();
        tokio::spawn({
            let log = log.clone();
            async move {
                loop {
                    match events.recv().await {
                        Ok(event) => log.add(Logged::new(event)),
                        Err(RecvError::Lagged(missed)) => {
                            tracing::warn!(missed, "events came faster than they were passed on");
                        }
                        Err(RecvError::Closed) => return,
                    }
                }
            }
        });
        log
    }

    fn add(&self, event: Logged) {
        let event = Arc::new(event);
        let mut recent = self.0.lock().expect("nothing panics while it holds the events");
        if recent.events.len() == KEPT {
            recent.events.pop_front();
        }
        recent.events.push_back(Arc::clone(&event));
        // An error means that nobody listens.
        let _ = recent.sender.send(event);
    }

    /// What is remembered, and what comes after it, with nothing lost in between.
    fn read(&self) -> (Vec<Arc<Logged>>, broadcast::Receiver<Arc<Logged>>) {
        let recent = self.0.lock().expect("nothing panics while it holds the events");
        (recent.events.iter().cloned().collect(), recent.sender.subscribe())
    }
}

impl Logged {
    fn new(event: Event) -> Self {
        let action = match &event.kind {
            EventKind::Created => "create",
            EventKind::Started => "start",
            EventKind::Exited(_) => "die",
            EventKind::Removed => "destroy",
        };
        let image = image_name(event.image_name.as_deref(), &event.image);
        let mut attributes = event.labels;
        attributes.insert("image".to_owned(), image.clone());
        attributes.insert("name".to_owned(), event.name);
        if let EventKind::Exited(exit) = &event.kind {
            attributes.insert("exitCode".to_owned(), exit.exit_code.to_string());
        }
        let nanos =
            OffsetDateTime::parse(&event.time, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp_nanos);
        // Until the year 2262.
        let time_nano = i64::try_from(nanos).unwrap_or(i64::MAX);
        let id = event.id.as_str().to_owned();
        Self {
            time: event.time,
            message: Message {
                status: action,
                id: id.clone(),
                from: image,
                kind: "container",
                action,
                actor: Actor { id, attributes },
                scope: "local",
                time: time_nano / 1_000_000_000,
                time_nano,
            },
        }
    }

    fn is_wanted(&self, filters: &Filters) -> bool {
        let message = &self.message;
        let attributes = &message.actor.attributes;
        let is_meant = |wanted: &str| message.id.starts_with(wanted) || attributes["name"] == wanted;
        filters.any("type", |wanted| wanted == message.kind)
            && filters.any("event", |wanted| wanted == message.action)
            && filters.any("container", is_meant)
            && filters.any("image", |wanted| wanted == message.from)
            && filters.labels(attributes)
    }

    fn line(&self) -> Bytes {
        let mut line = serde_json::to_vec(&self.message).expect("a message is JSON");
        line.push(b'\n');
        line.into()
    }
}

/// `GET /events`: those since `since`, and those that come, until `until`.
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Query(parameters): Parameters,
) -> Result<Response, ApiError> {
    let known = ["container", "event", "image", "label", "type"];
    let filters = Filters::parse(&parameters, &known)?;
    let since = moment(&parameters, "since")?;
    let until = moment(&parameters, "until")?;
    let (recent, coming) = api.events.read();
    let is_since = |event: &Arc<Logged>| since.as_ref().is_some_and(|since| event.time >= *since);
    let recent: Vec<Arc<Logged>> = recent.into_iter().filter(is_since).collect();
    let coming = stream::unfold(coming, |mut coming| async {
        loop {
            match coming.recv().await {
                Ok(event) => return Some((event, coming)),
                // A client that is this slow misses some, as it does with Docker.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let end = deadline(until.as_deref());
    let is_before = move |event: &Arc<Logged>| until.as_ref().is_none_or(|until| event.time <= *until);
    let lines = stream::iter(recent)
        .chain(coming)
        .take_until(end)
        .filter_map(move |event| {
            let line = (is_before(&event) && event.is_wanted(&filters)).then(|| event.line());
            async move { line.map(Ok::<_, std::convert::Infallible>) }
        });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

/// Waits until `until`; for ever without one.
fn deadline(until: Option<&str>) -> impl Future<Output = ()> + Send + 'static + use<> {
    let until = until.and_then(|until| OffsetDateTime::parse(until, &Rfc3339).ok());
    async move {
        match until {
            Some(until) => {
                let left = until - OffsetDateTime::now_utc();
                // Gone by: what is remembered is told, for which one moment is enough.
                let left = std::time::Duration::try_from(left).unwrap_or_default();
                tokio::time::sleep(left).await;
            }
            None => std::future::pending().await,
        }
    }
}
