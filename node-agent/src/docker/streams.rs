//! The output of containers: logs, and attaching to what runs or is about to.
//!
//! ```text
//! frame: 1 byte stream (1 output, 2 errors), 3 zero bytes, 4 bytes length (big-endian), text
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::{LogQuery, LogStream};
use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use futures::stream::{BoxStream, Stream, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::ReadHalf;

use super::Api;
use super::containers::log_broken;
use super::error::ApiError;
use super::query::{Parameters, flag, moment};
use super::version::{ApiVersion, MULTIPLEXED};
use crate::chain::Chain;
use crate::engine::{EngineError, LogEntry};

/// How soon it is noticed that a client that sends nothing any more also reads nothing any more.
const HANG_UP_PERIOD: Duration = Duration::from_secs(1);

/// Which of a container's output is wanted.
#[derive(Clone, Debug)]
struct Choice {
    has_stdout: bool,
    has_stderr: bool,
    has_timestamps: bool,
    since: Option<String>,
    until: Option<String>,
}

impl Choice {
    fn parse(parameters: &HashMap<String, String>) -> Result<Self, ApiError> {
        let choice = Self {
            has_stdout: flag(parameters, "stdout"),
            has_stderr: flag(parameters, "stderr"),
            has_timestamps: flag(parameters, "timestamps"),
            since: moment(parameters, "since")?,
            until: moment(parameters, "until")?,
        };
        if choice.has_stdout || choice.has_stderr {
            return Ok(choice);
        }
        Err(ApiError::bad(
            "Bad parameters: you must choose at least one stream",
        ))
    }

    /// The frames of what is wanted; an error that comes in between ends them.
    fn frames(
        self,
        id: String,
        entries: impl Stream<Item = Result<LogEntry, EngineError>> + Send + 'static,
    ) -> BoxStream<'static, Bytes> {
        let until = self.until.clone();
        entries
            .map(move |entry| entry.inspect_err(|error| log_broken(&id, error)))
            .take_while(move |entry| {
                let is_within = entry
                    .as_ref()
                    .is_ok_and(|entry| until.as_ref().is_none_or(|until| entry.time <= *until));
                async move { is_within }
            })
            .filter_map(move |entry| {
                let frame = entry.ok().and_then(|entry| self.frame(&entry));
                async move { frame }
            })
            .boxed()
    }

    fn frame(&self, entry: &LogEntry) -> Option<Bytes> {
        let (number, is_chosen) = match entry.stream {
            LogStream::Stdout => (1, self.has_stdout),
            LogStream::Stderr => (2, self.has_stderr),
        };
        let is_late = self.since.as_ref().is_none_or(|since| entry.time >= *since);
        if !is_chosen || !is_late {
            return None;
        }
        let mut text = String::new();
        if self.has_timestamps {
            text = format!("{} ", entry.time);
        }
        text.push_str(&entry.log);
        // Lines are cut at 16 KiB when they are written.
        let length = u32::try_from(text.len()).ok()?;
        let mut frame = Vec::with_capacity(8 + text.len());
        frame.extend([number, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend(text.into_bytes());
        Some(frame.into())
    }
}

fn media_type(version: ApiVersion) -> HeaderValue {
    HeaderValue::from_static(if version >= MULTIPLEXED {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    })
}

fn body(frames: BoxStream<'static, Bytes>) -> Body {
    Body::from_stream(frames.map(Ok::<_, std::convert::Infallible>))
}

/// `GET /containers/{id}/logs`.
pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    Extension(version): Extension<ApiVersion>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
) -> Result<Response, ApiError> {
    let id = api.id(&query)?;
    let choice = Choice::parse(&parameters)?;
    let wanted = LogQuery {
        follow: flag(&parameters, "follow"),
        // Docker takes what is no number for all as well.
        tail: parameters.get("tail").and_then(|tail| tail.parse().ok()),
        slot: None,
    };
    let frames = choice.frames(id.as_str().to_owned(), api.engine.logs(&id, &wanted));
    Ok(([(CONTENT_TYPE, media_type(version))], body(frames)).into_response())
}

/// `POST /containers/{id}/attach`, for output alone: no container here takes input.
pub(super) async fn attach(
    State(api): State<Arc<Api>>,
    Extension(version): Extension<ApiVersion>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
    mut request: Request,
) -> Result<Response, ApiError> {
    let id = api.id(&query)?;
    let choice = Choice::parse(&parameters)?;
    let name = id.as_str().to_owned();
    let is_past_wanted = flag(&parameters, "logs");
    let frames = if flag(&parameters, "stream") {
        choice.frames(name, api.engine.attach(&id, is_past_wanted).await?)
    } else if is_past_wanted {
        choice.frames(name, api.engine.logs(&id, &LogQuery::default()))
    } else {
        futures::stream::empty().boxed()
    };
    let is_upgrade = request.headers().contains_key(UPGRADE);
    if !is_upgrade {
        return Ok(([(CONTENT_TYPE, media_type(version))], body(frames)).into_response());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(deliver(upgrade, frames));
    let headers = [
        (CONTENT_TYPE, media_type(version)),
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("tcp")),
    ];
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    response
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"UPGRADED"));
    Ok(response)
}

/// Writes `frames` to a connection that is a plain stream from now on, then closes it.
async fn deliver(upgrade: OnUpgrade, mut frames: BoxStream<'static, Bytes>) {
    let upgraded: Upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(error = %Chain(&error), "a client left before it was attached");
            return;
        }
    };
    let parts = hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<UnixStream>>(upgraded);
    let mut connection = match parts {
        Ok(parts) => parts.io.into_inner(),
        Err(_) => unreachable!("every connection is a unix socket"),
    };
    let (mut reading, mut writing) = connection.split();
    let mut gone = std::pin::pin!(hung_up(&mut reading));
    loop {
        // Both are cancel safe: a frame that was taken is written below.
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = &mut gone => return,
        };
        let Some(frame) = frame else { break };
        if writing.write_all(&frame).await.is_err() {
            return;
        }
    }
    // The client may be gone; then nobody is to be told.
    let _ = writing.shutdown().await;
}

/// Waits until the client has left. That it sends nothing any more does not mean that: clients without input close
/// their side at once.
async fn hung_up(reading: &mut ReadHalf<'_>) {
    let mut ignored = [0; 1024];
    while reading.read(&mut ignored).await.is_ok_and(|length| length > 0) {}
    loop {
        tokio::time::sleep(HANG_UP_PERIOD).await;
        let ready = reading.as_ref().ready(Interest::WRITABLE).await;
        if ready.is_ok_and(|ready| ready.is_write_closed()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stream: LogStream, time: &str, log: &str) -> LogEntry {
        LogEntry {
            log: log.to_owned(),
            stream,
            time: time.to_owned(),
        }
    }

    #[tokio::test]
    async fn frames_hold_what_was_chosen() {
        let choice = Choice {
            has_stdout: true,
            has_stderr: false,
            has_timestamps: true,
            since: Some("t2".to_owned()),
            until: Some("t4".to_owned()),
        };
        let entries = [
            entry(LogStream::Stdout, "t1", "early\n"),
            entry(LogStream::Stdout, "t2", "a\n"),
            entry(LogStream::Stderr, "t3", "error\n"),
            entry(LogStream::Stdout, "t4", "b"),
            entry(LogStream::Stdout, "t5", "late\n"),
        ];
        let frames = choice.frames("id".to_owned(), futures::stream::iter(entries.map(Ok)));
        let frames: Vec<Bytes> = frames.collect().await;
        assert_eq!(
            frames,
            [
                &b"\x01\0\0\0\0\0\0\x05t2 a\n"[..],
                &b"\x01\0\0\0\0\0\0\x04t4 b"[..]
            ]
        );
    }
}
