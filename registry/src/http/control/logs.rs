//! Logs of a service's tasks.

use api::LogQuery;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;

use super::services::service_name;
use super::{Admin, ControlError, Parameters, json_lines};
use crate::app::App;

/// The query, where `?follow` alone is as good as `?follow=true`.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    follow: Option<String>,
    tail: Option<String>,
    slot: Option<String>,
}

impl Wanted {
    fn query(self) -> Result<LogQuery, ControlError> {
        let number = |name: &str, text: Option<String>| {
            let number = text.map(|text| text.parse::<u64>()).transpose();
            number.map_err(|_| ControlError::Parameter(format!("{name}: write a number")))
        };
        let slot = number("slot", self.slot)?;
        Ok(LogQuery {
            follow: match self.follow.as_deref() {
                None | Some("false") => false,
                Some("" | "true") => true,
                Some(_) => return Err(ControlError::Parameter("follow: write true or false".to_owned())),
            },
            tail: number("tail", self.tail)?,
            // No service has so many copies that a larger number would be one of them.
            slot: slot.map(|slot| u32::try_from(slot).unwrap_or(u32::MAX)),
        })
    }
}

/// `GET /api/v1/services/{project}/{service}/logs?follow&tail&slot`: `LogEvent` lines.
pub async fn get(
    _: Admin,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, ControlError> {
    let name = service_name(path)?;
    let streams = app.fleet.logs(&name, &wanted.query()?).await?;
    Ok(json_lines(futures::stream::unfold(
        streams,
        |mut streams| async {
            let event = streams.next().await?;
            Some((event, streams))
        },
    )))
}
