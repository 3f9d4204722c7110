//! Upkeep of what is stored.

use api::{BlobTotal, CollectionPass, CollectionStatus};
use axum::Json;
use axum::extract::State;

use super::{Admin, ControlError};
use crate::app::App;

/// `GET /api/v1/maintenance/collection`: what collection has before it; changes nothing.
pub async fn status(_: Admin, State(app): State<App>) -> Result<Json<CollectionStatus>, ControlError> {
    let row = app.content.collection_status().await?;
    let total = |blobs: i64, bytes: i64| BlobTotal {
        blobs: blobs.unsigned_abs(),
        size_bytes: bytes.unsigned_abs(),
    };
    Ok(Json(CollectionStatus {
        reclaimable: total(row.reclaimable_blobs, row.reclaimable_bytes),
        pending: total(row.pending_blobs, row.pending_bytes),
        removable: total(row.removable_blobs, row.removable_bytes),
    }))
}

/// `POST /api/v1/maintenance/collection`: collects what is due now.
pub async fn collect(_: Admin, State(app): State<App>) -> Result<Json<CollectionPass>, ControlError> {
    let done = app.content.collect(app.config.collection.grace).await?;
    Ok(Json(CollectionPass {
        reviewed: done.reviewed,
        collected: done.blobs,
        removed: done.objects,
    }))
}
