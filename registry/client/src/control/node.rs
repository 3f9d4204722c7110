//! The agent's side of `/api/v1`: join, watch, beat, report, and log sessions. See `api::node` for the protocol.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::{BeatRequest, BeatResponse, JoinRequest, JoinResponse, LogLine, ReportRequest, WatchEvent};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::Method;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;
use url::Url;

use super::{ControlError, Endpoint};
use crate::distribution::TokenSource;

/// How long the answer to a join, and to anything else that is short, may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// A beat that takes longer than this has failed its purpose.
const BEAT_DEADLINE: Duration = Duration::from_secs(5);
/// The watch stream says something every 5 s; three times that means that nobody is there.
const SILENCE: Duration = Duration::from_secs(15);
/// The longest line of the watch stream: some 50,000 tasks.
const LINE_MAX_BYTES: usize = 64 << 20;

/// Asks the server at `base` to take this machine in.
///
/// # Errors
/// [`ControlError::Refused`] with the server's reason when the token is wrong, used or expired, or the name taken.
pub async fn join(
    http: reqwest::Client,
    base: Url,
    request: &JoinRequest,
) -> Result<JoinResponse, ControlError> {
    let endpoint = Endpoint::new(http, base);
    let built = endpoint.request(Method::POST, "join").json(request);
    let response = endpoint.send(built, DEADLINE).await?;
    endpoint.json(response, DEADLINE).await
}

/// A joined node's client; cheap to clone.
#[derive(Clone)]
pub struct NodeClient {
    endpoint: Endpoint,
    tokens: Arc<dyn TokenSource>,
}

impl fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeClient")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl NodeClient {
    /// A client of the server at `base` that proves itself with `tokens`.
    pub fn new(http: reqwest::Client, base: Url, tokens: Arc<dyn TokenSource>) -> Self {
        Self {
            endpoint: Endpoint::new(http, base),
            tokens,
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, ControlError> {
        let token = self.tokens.token().map_err(ControlError::Token)?;
        Ok(self.endpoint.request(method, path).bearer_auth(token))
    }

    /// Opens the watch stream. It ends with an error; kinds of events that this version does not know are skipped.
    ///
    /// # Errors
    /// When the server refuses or does not answer; from the stream also when it breaks off, is silent for 15 s, or
    /// says what is no event.
    ///
    /// # Cancel safety
    /// Dropping the stream closes the connection.
    pub async fn watch(&self) -> Result<BoxStream<'static, Result<WatchEvent, ControlError>>, ControlError> {
        let request = self.request(Method::GET, "nodes/self/watch")?;
        let response = self.endpoint.send(request, DEADLINE).await?;
        let endpoint = self.endpoint.clone();
        let pieces = heard(response.bytes_stream(), SILENCE);
        let lines = FramedRead::new(
            StreamReader::new(pieces),
            LinesCodec::new_with_max_length(LINE_MAX_BYTES),
        );
        Ok(lines
            .map_err(move |error| match error {
                LinesCodecError::Io(error) if error.kind() == io::ErrorKind::TimedOut => endpoint.silent(),
                error => endpoint.protocol(format!("its watch stream broke: {error}")),
            })
            .try_filter_map({
                let endpoint = self.endpoint.clone();
                move |line| {
                    let event = event(&line).map_err(|error| endpoint.protocol(error.to_string()));
                    async move { event }
                }
            })
            .boxed())
    }

    /// Says that we live.
    ///
    /// # Errors
    /// When the server refuses or does not answer within 5 s.
    pub async fn beat(&self, beat: &BeatRequest) -> Result<BeatResponse, ControlError> {
        let request = self.request(Method::POST, "nodes/self/beat")?.json(beat);
        let response = self.endpoint.send(request, BEAT_DEADLINE).await?;
        self.endpoint.json(response, BEAT_DEADLINE).await
    }

    /// Tells what was observed. Repeating it is harmless: the server keeps the highest sequence of each task.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn report(&self, report: &ReportRequest) -> Result<(), ControlError> {
        let request = self.request(Method::POST, "nodes/self/report")?.json(report);
        self.endpoint.send(request, DEADLINE).await.map(drop)
    }

    /// Posts `lines` to the session that asked for them, until they end or the server has enough.
    ///
    /// # Errors
    /// When the server refuses or the connection breaks, as it does when whoever asked has left.
    pub async fn post_session(
        &self,
        session_id: &str,
        lines: impl Stream<Item = LogLine> + Send + 'static,
    ) -> Result<(), ControlError> {
        let body = lines.map(|line| {
            let mut line = serde_json::to_vec(&line)?;
            line.push(b'\n');
            Ok::<_, serde_json::Error>(line)
        });
        let path = format!("nodes/self/sessions/{session_id}");
        let request = self
            .request(Method::POST, &path)?
            .header(http::header::CONTENT_TYPE, "application/jsonl")
            .body(reqwest::Body::wrap_stream(body));
        // Followed logs have no end that could be waited for; a dead connection is noticed by its keep-alive.
        self.endpoint.send(request, Duration::MAX).await.map(drop)
    }
}

/// One line of the watch stream; `None` for a kind of event that this version does not know.
fn event(line: &str) -> Result<Option<WatchEvent>, serde_json::Error> {
    match serde_json::from_str(line) {
        Ok(event) => Ok(Some(event)),
        Err(error) => {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line).map_err(|_| error)?;
            let is_known = |kind: &str| matches!(kind, "document" | "ping" | "logs");
            match object.keys().next() {
                Some(kind) if !is_known(kind) => {
                    tracing::debug!(kind, "an event of a newer server is skipped");
                    Ok(None)
                }
                // The kind is known but not its content: that is an error to tell.
                _ => serde_json::from_str(line).map(Some),
            }
        }
    }
}

/// The pieces of a body, with an error of kind `TimedOut` once nothing came for `silence`.
fn heard(
    pieces: impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + 'static,
    silence: Duration,
) -> BoxStream<'static, io::Result<Bytes>> {
    stream::unfold(Some(pieces.boxed()), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(silence, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_newer_server_are_skipped_and_broken_ones_told() {
        assert!(matches!(
            event(r#"{"ping":{"server_time_ms":5,"new_field":1}}"#),
            Ok(Some(WatchEvent::Ping { server_time_ms: 5 }))
        ));
        assert!(matches!(event(r#"{"exec":{"session_id":"x"}}"#), Ok(None)));
        assert!(event(r#"{"ping":{}}"#).is_err());
        assert!(event(r#"{"document":{"cluster_id":"#).is_err());
        assert!(event("").is_err());
    }
}
