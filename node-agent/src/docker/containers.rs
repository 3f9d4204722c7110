//! Containers: all but their output.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use oci::Digest;
use runtime::container::ContainerId;
use serde_json::{Value, json};

use super::error::ApiError;
use super::query::{Filters, Parameters, flag, number};
use super::wire::{ContainerSummary, CreateBody};
use super::{Api, create, inspect, reference};
use crate::chain::Chain;
use crate::engine::{self, ContainerState, ContainerView, EngineError, Exit};
use crate::image::Image;

/// How long a container that is asked to end may take, unless the client says otherwise.
const GRACE: Duration = Duration::from_secs(10);
/// Longer than any machine is up: Docker's `-1`.
const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const SIGKILL: i32 = 9;

impl Api {
    pub(super) fn id(&self, query: &str) -> Result<ContainerId, ApiError> {
        Ok(self.engine.resolve(query.trim_start_matches('/'))?)
    }

    pub(super) async fn view(&self, id: &ContainerId) -> Result<ContainerView, ApiError> {
        let view = self.engine.get(id).await;
        view.ok_or_else(|| {
            let query = id.as_str().to_owned();
            EngineError::NotFound { query }.into()
        })
    }

    async fn is_running(&self, id: &ContainerId) -> Result<bool, ApiError> {
        Ok(matches!(
            self.view(id).await?.state,
            ContainerState::Running { .. }
        ))
    }
}

/// `GET /containers/json`.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(parameters): Parameters,
) -> Result<Json<Vec<ContainerSummary>>, ApiError> {
    let known = ["ancestor", "exited", "id", "label", "name", "status"];
    let filters = Filters::parse(&parameters, &known)?;
    let limit = number(&parameters, "limit")?.filter(|limit| *limit > 0);
    let is_all =
        flag(&parameters, "all") || limit.is_some() || filters.has("status") || filters.has("exited");
    let images = images_by_digest(&api).await?;
    let mut views = api.engine.list().await;
    views.retain(|view| {
        (is_all || matches!(view.state, ContainerState::Running { .. }))
            && is_wanted(view, images.get(&view.image).map(AsRef::as_ref), &filters)
    });
    views.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    if let Some(limit) = limit {
        views.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let summaries = views.into_iter().map(|view| {
        let image = images.get(&view.image).cloned();
        inspect::summary(view, image.as_deref(), &api.network)
    });
    Ok(Json(summaries.collect()))
}

async fn images_by_digest(api: &Api) -> Result<HashMap<Digest, Arc<Image>>, ApiError> {
    let images = api.images.list().await?;
    Ok(images
        .into_iter()
        .map(|image| (image.digest.clone(), image))
        .collect())
}

fn is_wanted(view: &ContainerView, image: Option<&Image>, filters: &Filters) -> bool {
    let exit_code = match &view.state {
        ContainerState::Exited(exit) => Some(exit.exit_code.to_string()),
        ContainerState::Created | ContainerState::Running { .. } => None,
    };
    let image_id = inspect::image_id(view, image);
    let image_name = inspect::image_name(view.image_name.as_deref(), &view.image);
    let is_ancestor = |wanted: &str| {
        let complete = |name: &str| {
            reference::parse(name)
                .map(|name| reference::canonical(&name))
                .ok()
        };
        image_name == wanted
            || complete(wanted).is_some_and(|wanted| complete(&image_name) == Some(wanted))
            || image_id == wanted
            || image_id
                .strip_prefix("sha256:")
                .is_some_and(|id| wanted.len() >= 12 && id.starts_with(wanted))
    };
    filters.any("id", |wanted| view.id.as_str().starts_with(wanted))
        && filters.any("name", |wanted| is_named(&view.name, wanted))
        && filters.any("status", |wanted| view.state.as_str() == wanted)
        && filters.any("exited", |wanted| exit_code.as_deref() == Some(wanted))
        && filters.any("ancestor", is_ancestor)
        && filters.labels(&view.labels)
}

/// A part of the name, anchored with `^` and `$`; with or without the slash that Docker puts before names.
fn is_named(name: &str, wanted: &str) -> bool {
    let (begins, wanted) = match wanted.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    let (ends, wanted) = match wanted.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    let begins = begins || wanted.starts_with('/');
    let wanted = wanted.trim_start_matches('/');
    match (begins, ends) {
        (true, true) => name == wanted,
        (true, false) => name.starts_with(wanted),
        (false, true) => name.ends_with(wanted),
        (false, false) => name.contains(wanted),
    }
}

/// `POST /containers/create`.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Query(parameters): Parameters,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body: CreateBody = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad(format!("the body cannot be read: {error}")))?;
    if let Some(platform) = parameters.get("platform").filter(|platform| !platform.is_empty()) {
        super::pull::check_platform(platform)?;
    }
    let wanted = body.image.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        return Err(ApiError::bad(
            "Image: which image the container is made of is missing",
        ));
    }
    let _in_use = api.images_in_use.lock().await;
    let found = reference::find(&api.images, wanted).await?;
    let name = match parameters.get("name").map(|name| name.trim_start_matches('/')) {
        None | Some("") => create::random_name(),
        Some(name) => name.to_owned(),
    };
    let id = api
        .engine
        .create(create::container(body, name, found.image)?)
        .await?;
    let answer = json!({"Id": id.as_str(), "Warnings": []});
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `GET /containers/{id}/json`.
pub(super) async fn inspect(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let view = api.view(&api.id(&query)?).await?;
    let image = api.images.get(&view.image).await?;
    Ok(Json(inspect::container(&view, image.as_deref(), &api.network)))
}

/// `POST /containers/{id}/start`.
pub(super) async fn start(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
) -> Result<StatusCode, ApiError> {
    match api.engine.start(&api.id(&query)?).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(EngineError::AlreadyRunning { .. }) => Ok(StatusCode::NOT_MODIFIED),
        Err(error) => Err(error.into()),
    }
}

/// `POST /containers/{id}/stop`.
pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
) -> Result<StatusCode, ApiError> {
    match end(&api, &api.id(&query)?, &parameters).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Ok(StatusCode::NOT_MODIFIED),
    }
}

/// Asks the program to end and sees to it that it does; whether it was running.
async fn end(api: &Api, id: &ContainerId, parameters: &HashMap<String, String>) -> Result<bool, ApiError> {
    let grace = match number(parameters, "t")? {
        None => GRACE,
        Some(seconds) => u64::try_from(seconds).map_or(NO_LIMIT, Duration::from_secs),
    };
    let signal = match parameters.get("signal").filter(|signal| !signal.is_empty()) {
        None => None,
        Some(signal) => Some(signal_of(signal)?),
    };
    let stopped = match signal {
        None => api.engine.stop(id, grace).await.map(drop),
        Some(signal) => end_with(api, id, signal, grace).await,
    };
    match stopped {
        Ok(()) => Ok(true),
        Err(EngineError::NotRunning { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn end_with(api: &Api, id: &ContainerId, signal: i32, grace: Duration) -> Result<(), EngineError> {
    let ended = api.engine.next_exit(id)?;
    api.engine.kill(id, signal).await?;
    let mut ended = std::pin::pin!(ended);
    if tokio::time::timeout(grace, &mut ended).await.is_err() {
        match api.engine.kill(id, SIGKILL).await {
            // It ended by itself just now.
            Ok(()) | Err(EngineError::NotRunning { .. }) => {}
            Err(error) => return Err(error),
        }
        ended.await?;
    }
    Ok(())
}

fn signal_of(text: &str) -> Result<i32, ApiError> {
    engine::signal(text).ok_or_else(|| ApiError::bad(format!("Invalid signal: {text}")))
}

/// `POST /containers/{id}/restart`.
pub(super) async fn restart(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
) -> Result<StatusCode, ApiError> {
    let id = api.id(&query)?;
    let view = api.view(&id).await?;
    if view.is_removed_at_end {
        return Err(ApiError::conflict(format!(
            "container {} is removed when it ends, so it cannot be started again",
            view.name
        )));
    }
    end(&api, &id, &parameters).await?;
    api.engine.start(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/kill`.
pub(super) async fn kill(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
) -> Result<StatusCode, ApiError> {
    let signal = match parameters.get("signal").filter(|signal| !signal.is_empty()) {
        None => SIGKILL,
        Some(signal) => signal_of(signal)?,
    };
    api.engine.kill(&api.id(&query)?, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/rename`.
pub(super) async fn rename(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
) -> Result<StatusCode, ApiError> {
    let name = parameters.get("name").map(|name| name.trim_start_matches('/'));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(ApiError::bad("name: the new name is missing"));
    };
    api.engine.rename(&api.id(&query)?, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /containers/{id}`.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
) -> Result<StatusCode, ApiError> {
    if flag(&parameters, "link") {
        return Err(ApiError::bad("link: this engine has no links"));
    }
    // `v` asks for anonymous volumes to go as well, of which there are none.
    api.engine
        .remove(&api.id(&query)?, flag(&parameters, "force"))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{id}/wait`. The answer's head is sent before there is anything to tell, because clients start the
/// container once they have it.
pub(super) async fn wait(
    State(api): State<Arc<Api>>,
    Path(query): Path<String>,
    Query(parameters): Parameters,
) -> Result<Response, ApiError> {
    let id = api.id(&query)?;
    // Subscribed to before the head is sent, so that an end right after it is not missed.
    let next_exit = api.engine.next_exit(&id)?;
    let removal = api.engine.removal(&id)?;
    let exit: BoxFuture<'static, Option<Exit>> = match parameters.get("condition").map(String::as_str) {
        None | Some("" | "not-running") => match api.is_running(&id).await? {
            true => next_exit.map(Result::ok).boxed(),
            false => {
                let last = api.view(&id).await?.last_exit;
                async { last }.boxed()
            }
        },
        Some("next-exit") => next_exit.map(Result::ok).boxed(),
        Some("removed") => removal.boxed(),
        Some(other) => return Err(ApiError::bad(format!("invalid condition: \"{other}\""))),
    };
    let told = stream::once(exit.map(|exit| {
        let exit_code = exit.as_ref().map_or(0, |exit| exit.exit_code);
        let mut answer = json!({"StatusCode": exit_code});
        if let Some(reason) = exit.and_then(|exit| exit.reason) {
            answer["Error"] = json!({"Message": reason});
        }
        Ok::<_, std::convert::Infallible>(Bytes::from(format!("{answer}\n")))
    }));
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(told)).into_response())
}

/// The containers that are made of one of these images.
pub(super) async fn users_of(api: &Api, images: &[Arc<Image>]) -> Vec<ContainerView> {
    let mut views = api.engine.list().await;
    views.retain(|view| images.iter().any(|image| image.digest == view.image));
    views
}

/// Why something of a stream that has begun cannot be told any more.
pub(super) fn log_broken(id: &str, error: &EngineError) {
    tracing::warn!(container_id = id, error = %Chain(error), "cannot read the output of container {id}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_parts() {
        for (wanted, expected) in [
            ("web", true),
            ("^web", true),
            ("^/web-1$", true),
            ("/web", true),
            ("^web$", false),
            ("1$", true),
            ("b-1", true),
            ("^b-1", false),
        ] {
            assert_eq!(is_named("web-1", wanted), expected, "{wanted}");
        }
    }
}
