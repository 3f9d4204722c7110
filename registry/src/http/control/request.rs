//! What handlers take out of requests, with refusals that say what to send instead.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ControlError;
use crate::app::App;
use crate::auth::Caller;
use crate::http::caller::Refusal;

/// An administrator.
#[derive(Debug)]
pub struct Admin(pub Caller);

impl FromRequestParts<App> for Admin {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.admin()?;
        Ok(Self(caller))
    }
}

/// A node, by its id.
#[derive(Debug)]
pub struct Node(pub String);

impl FromRequestParts<App> for Node {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let caller = Caller::from_request_parts(parts, app).await?;
        Ok(Self(caller.node()?.to_owned()))
    }
}

/// The query of a URL.
#[derive(Debug)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Parameters<T> {
    type Rejection = ControlError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ControlError> {
        let query = Query::try_from_uri(&parts.uri);
        query
            .map(|Query(value)| Self(value))
            .map_err(|error| ControlError::Parameter(error.body_text()))
    }
}

/// A JSON body, whatever its content type says.
#[derive(Debug)]
pub struct Payload<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Payload<T> {
    type Rejection = ControlError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ControlError> {
        let bytes = Bytes::from_request(request, app)
            .await
            .map_err(|error| ControlError::Body(error.body_text()))?;
        let deserializer = &mut serde_json::Deserializer::from_slice(&bytes);
        serde_path_to_error::deserialize(deserializer)
            .map(Self)
            .map_err(|error| {
                let path = error.path().to_string();
                ControlError::Body(match path.as_str() {
                    "." => error.inner().to_string(),
                    path => format!("{path}: {}", error.inner()),
                })
            })
    }
}
