//! Collects, again and again, what nothing needs any more.

use tokio_util::sync::CancellationToken;

use crate::config::CollectionConfig;
use crate::content::Content;

/// Runs until `stopping`.
pub async fn run(content: Content, config: CollectionConfig, stopping: CancellationToken) {
    loop {
        // Cancel safe: nothing is held between two passes.
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(config.interval) => {}
        }
        match content.collect(config.grace).await {
            Ok(done) if done.blobs + done.objects > 0 => tracing::info!(
                reviewed = done.reviewed,
                blobs = done.blobs,
                objects = done.objects,
                "{} blobs are needed no more, the bytes of {} are removed",
                done.blobs,
                done.objects
            ),
            Ok(_) => {}
            // A blob may have been linked in the same moment; the next pass finds it so.
            Err(error) => tracing::warn!(%error, "cannot collect what nothing needs"),
        }
    }
}
