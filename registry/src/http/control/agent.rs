//! The agent's channel (`api::node`): watch, beat, report, and sessions that it dials back for.

use api::{BeatRequest, BeatResponse, ReportRequest};
use axum::Json;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::response::Response;
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::{ControlError, Node, Payload, json_lines};
use crate::app::App;
use crate::fleet::{LogSession, SESSION_LINE_MAX_BYTES};

/// The largest batch of reports, in bytes: 1,000 with a few lines of log each.
const REPORTS_MAX_BYTES: usize = 16 * 1024 * 1024;

/// `GET /api/v1/nodes/self/watch`: events until either side leaves.
pub async fn watch(Node(id): Node, State(app): State<App>) -> Response {
    let watch = app.fleet.watch(&id);
    json_lines(futures::stream::unfold(watch, |mut watch| async {
        let event = watch.next().await?;
        Some((event, watch))
    }))
}

/// `POST /api/v1/nodes/self/beat`.
pub async fn beat(
    Node(id): Node,
    State(app): State<App>,
    Payload(beat): Payload<BeatRequest>,
) -> Json<BeatResponse> {
    Json(app.fleet.beat(&id, &beat))
}

/// `POST /api/v1/nodes/self/report`.
pub async fn report(
    Node(id): Node,
    State(app): State<App>,
    mut request: Request,
) -> Result<StatusCode, ControlError> {
    DefaultBodyLimit::max(REPORTS_MAX_BYTES).apply(&mut request);
    let Payload(reports) = Payload::<ReportRequest>::from_request(request, &app).await?;
    app.fleet.report(&id, &reports).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/nodes/self/sessions/{id}`: lines until the node has no more or nobody reads them.
pub async fn session(
    Node(node_id): Node,
    State(app): State<App>,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode, ControlError> {
    let session = app.fleet.log_session(&node_id, &id)?;
    // Both are cancel safe as used here: when either ends, the session does.
    tokio::select! {
        () = app.stopping.cancelled() => {}
        () = session.abandoned() => {}
        () = pass_lines(&session, body) => {}
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn pass_lines(session: &LogSession, body: Body) {
    let reader = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(SESSION_LINE_MAX_BYTES));
    while let Some(line) = lines.next().await {
        let is_read = match line {
            Ok(line) => session.pass(&line).await,
            Err(LinesCodecError::MaxLineLengthExceeded) => session.tell("a line is too long").await,
            Err(LinesCodecError::Io(error)) => {
                session.tell(&format!("the node broke off: {error}")).await;
                false
            }
        };
        if !is_read {
            return;
        }
    }
}
