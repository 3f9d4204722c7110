//! Images: list, inspect, tag, remove.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use oci::{ImageReference, Tag};
use serde_json::{Value, json};

use super::Api;
use super::containers::users_of;
use super::error::ApiError;
use super::inspect::unix_seconds;
use super::query::{Filters, Parameters, flag};
use super::reference::{self, Found, Known};
use super::wire::{Deletion, ImageSummary};
use crate::engine::ContainerState;

/// `GET /images/json`.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(parameters): Parameters,
) -> Result<Json<Vec<ImageSummary>>, ApiError> {
    let filters = Filters::parse(&parameters, &["dangling", "label", "reference"])?;
    let mut all = reference::all(&api.images).await?;
    all.retain(|known| {
        let tags = known.tags();
        let is_dangling = |wanted: &str| ["1", "true", "True"].contains(&wanted) == tags.is_empty();
        let is_called = |wanted: &str| {
            tags.iter()
                .any(|tag| tag == wanted || reference::repository(tag) == wanted)
        };
        filters.any("dangling", is_dangling)
            && filters.any("reference", is_called)
            && filters.labels(&known.image().config.labels)
    });
    Ok(Json(all.iter().map(summary).collect()))
}

fn summary(known: &Known) -> ImageSummary {
    let image = known.image();
    ImageSummary {
        id: known.id().to_string(),
        parent_id: "",
        repo_tags: known.tags(),
        repo_digests: known.digests(),
        created: unix_seconds(image.config.created.as_deref().unwrap_or_default()),
        size: image.size_bytes,
        shared_size: -1,
        labels: image.config.labels.clone(),
        containers: -1,
    }
}

/// `GET /images/{name}/json`.
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Path(rest): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let Some(name) = rest.strip_suffix("/json") else {
        return Err(ApiError::no_page().await);
    };
    let Found { known, image, .. } = reference::find(&api.images, name).await?;
    let config = &image.config;
    let exposed: serde_json::Map<String, Value> = config
        .exposed_ports
        .iter()
        .map(|port| (port.clone(), json!({})))
        .collect();
    let volumes: serde_json::Map<String, Value> = config
        .volumes
        .iter()
        .map(|volume| (volume.clone(), json!({})))
        .collect();
    let some = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone());
    Ok(Json(json!({
        "Id": known.id(),
        "RepoTags": known.tags(),
        "RepoDigests": known.digests(),
        "Parent": "",
        "Comment": "",
        "Created": config.created,
        "DockerVersion": "",
        "Author": "",
        "Architecture": config.architecture,
        "Variant": config.variant.as_deref().unwrap_or_default(),
        "Os": config.os,
        "Size": image.size_bytes,
        "GraphDriver": {"Name": "overlay2", "Data": null},
        "RootFS": {"Type": "layers", "Layers": config.diff_ids},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
        "Config": {
            "Hostname": "",
            "Domainname": "",
            "User": config.user,
            "AttachStdin": false,
            "AttachStdout": false,
            "AttachStderr": false,
            "ExposedPorts": exposed,
            "Tty": false,
            "OpenStdin": false,
            "StdinOnce": false,
            "Env": config.env,
            "Cmd": some(&config.cmd),
            "Image": "",
            "Volumes": volumes,
            "WorkingDir": config.working_dir,
            "Entrypoint": some(&config.entrypoint),
            "OnBuild": null,
            "Labels": config.labels,
            "StopSignal": config.stop_signal,
            "Healthcheck": config.healthcheck,
        },
    })))
}

/// `POST /images/{name}/tag`.
pub(super) async fn post(
    State(api): State<Arc<Api>>,
    Path(rest): Path<String>,
    Query(parameters): Parameters,
) -> Result<Response, ApiError> {
    let Some(name) = rest.strip_suffix("/tag") else {
        return Err(ApiError::no_page().await);
    };
    let text = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    let malformed =
        |error: &dyn std::fmt::Display| ApiError::bad(format!("invalid reference format: {error}"));
    let mut target: ImageReference = reference::parse(text("repo")).map_err(|error| malformed(&error))?;
    if target.digest.is_some() {
        return Err(ApiError::bad("refusing to create a tag with a digest reference"));
    }
    if !text("tag").is_empty() {
        target.tag = Some(text("tag").parse::<Tag>().map_err(|error| malformed(&error))?);
    }
    let found = reference::find(&api.images, name).await?;
    let target = reference::canonical(&target);
    api.images.name(&target, &found.image.digest).await?;
    Ok(StatusCode::CREATED.into_response())
}

/// `DELETE /images/{name}`: a name, and with its last name the image.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(parameters): Parameters,
) -> Result<Json<Vec<Deletion>>, ApiError> {
    let is_forced = flag(&parameters, "force");
    let _in_use = api.images_in_use.lock().await;
    let found = reference::find(&api.images, &name).await?;
    let all: Vec<String> = found.known.names.keys().cloned().collect();
    let gone = match &found.name {
        Some(name) => with_digest_of(name, &all),
        None => all.clone(),
    };
    let users = users_of(&api, &found.known.pulled).await;
    let is_last = gone.len() == all.len();
    let short: String = found.known.id().hex().chars().take(12).collect();
    let repositories: HashSet<&str> = gone.iter().map(|name| reference::repository(name)).collect();
    if found.name.is_none() && repositories.len() > 1 && !is_forced {
        return Err(ApiError::conflict(format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )));
    }
    let running = users
        .iter()
        .find(|view| matches!(view.state, ContainerState::Running { .. }));
    if let (true, Some(user)) = (is_last, running.or(users.first())) {
        let user_id: String = user.id.as_str().chars().take(12).collect();
        let is_by_name = found.name.is_some();
        if running.is_some() && !is_by_name {
            return Err(ApiError::conflict(format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by running container \
                 {user_id}"
            )));
        }
        if !is_forced && is_by_name {
            return Err(ApiError::conflict(format!(
                "conflict: unable to remove repository reference \"{name}\" (must force) - container {user_id} is \
                 using its referenced image {short}"
            )));
        }
        if !is_forced {
            return Err(ApiError::conflict(format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by stopped container \
                 {user_id}"
            )));
        }
    }
    api.images.unname(&gone).await?;
    let mut deletions: Vec<Deletion> = gone
        .iter()
        .map(|name| Deletion::Untagged(reference::familiar(name).to_owned()))
        .collect();
    // What a container is made of stays until the container goes.
    if is_last && users.is_empty() {
        let pulled = found.known.pulled.iter().map(|image| image.digest.clone());
        let collected = api.images.remove(&pulled.collect()).await?;
        if !collected.images.is_empty() {
            deletions.push(Deletion::Deleted(found.known.id().to_string()));
        }
    }
    Ok(Json(deletions))
}

/// A tag, and the digests of its repository when it is the last tag there: a digest alone was not asked for.
fn with_digest_of(name: &str, all: &[String]) -> Vec<String> {
    let repository = reference::repository(name);
    let is_kin = |other: &&String| reference::repository(other) == repository;
    let is_other_tag = |other: &&String| !other.contains('@') && *other != name;
    if name.contains('@') || all.iter().filter(is_kin).any(|other| is_other_tag(&other)) {
        return vec![name.to_owned()];
    }
    all.iter().filter(is_kin).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tag_takes_the_digests_along() {
        let all = ["r/a:1", "r/a@sha256:0", "r/b:1"].map(str::to_owned);
        assert_eq!(with_digest_of("r/a:1", &all), ["r/a:1", "r/a@sha256:0"]);
        assert_eq!(with_digest_of("r/b:1", &all), ["r/b:1"]);
        assert_eq!(with_digest_of("r/a@sha256:0", &all), ["r/a@sha256:0"]);
        let all = ["r/a:1", "r/a:2", "r/a@sha256:0"].map(str::to_owned);
        assert_eq!(with_digest_of("r/a:1", &all), ["r/a:1"]);
    }
}
