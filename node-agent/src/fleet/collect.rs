//! Removes images that the fleet brought here and no task needs any more, after some time in which going back to them
//! is free. Images that came otherwise are not the fleet's to remove.
//!
//! ```text
//! DATA/fleet/images.json   {DIGEST: when a task needed it last}
//! ```

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::Digest;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::ledger::Desired;
use crate::chain::Chain;
use crate::durable;
use crate::engine::Engine;
use crate::image::ImageStore;

/// The shortest time between two sweeps.
const PERIOD: Duration = Duration::from_secs(180);

/// When a task needed each of the fleet's images last, in UTC milliseconds.
type Needed = BTreeMap<Digest, u64>;

/// Removes images that nothing needs, until the desired state has no sender any more.
///
/// # Cancel safety
/// May be dropped at any time.
pub(super) async fn collect(
    images: ImageStore,
    engine: Engine,
    data: PathBuf,
    keep_unused: Duration,
    mut desired: watch::Receiver<Option<Arc<Desired>>>,
) {
    let path = data.join("fleet/images.json");
    let mut needed = load(&path);
    let mut next_sweep = Instant::now() + PERIOD;
    loop {
        let digests: HashSet<Digest> = match &*desired.borrow_and_update() {
            Some(desired) => desired
                .tasks
                .iter()
                .map(|task| task.image.digest.clone())
                .collect(),
            None => HashSet::new(),
        };
        let is_known = digests.iter().all(|digest| needed.contains_key(digest));
        touch(&mut needed, &digests, now_ms());
        // Before they are pulled, or soon after: an image that is not noted would stay for good.
        if !is_known {
            save(&path, &needed).await;
        }
        if Instant::now() >= next_sweep {
            next_sweep = Instant::now() + PERIOD;
            let unneeded = unneeded(&needed, &digests, now_ms(), keep_unused);
            match sweep(&images, &engine, &digests, &unneeded).await {
                Ok(()) => needed.retain(|digest, _| !unneeded.contains(digest)),
                Err(error) => tracing::warn!(error, "images could not be removed; we try again"),
            }
            save(&path, &needed).await;
        }
        if let Ok(Err(_)) = timeout_at(next_sweep, desired.changed()).await {
            return;
        }
    }
}

fn touch(needed: &mut Needed, digests: &HashSet<Digest>, now_ms: u64) {
    for digest in digests {
        needed.insert(digest.clone(), now_ms);
    }
}

fn unneeded(
    needed: &Needed,
    digests: &HashSet<Digest>,
    now_ms: u64,
    keep_unused: Duration,
) -> HashSet<Digest> {
    let keep_ms = u64::try_from(keep_unused.as_millis()).unwrap_or(u64::MAX);
    let is_over = |(digest, last_ms): &(&Digest, &u64)| {
        !digests.contains(*digest) && now_ms.saturating_sub(**last_ms) > keep_ms
    };
    let over = needed.iter().filter(is_over);
    over.map(|(digest, _)| digest.clone()).collect()
}

async fn sweep(
    images: &ImageStore,
    engine: &Engine,
    wanted: &HashSet<Digest>,
    unneeded: &HashSet<Digest>,
) -> Result<(), String> {
    if unneeded.is_empty() {
        return Ok(());
    }
    let here = images.list().await;
    let here = here.map_err(|error| Chain(&error).to_string())?;
    let mut keep: HashSet<Digest> = here.iter().map(|image| image.digest.clone()).collect();
    keep.retain(|digest| !unneeded.contains(digest));
    keep.extend(wanted.iter().cloned());
    keep.extend(engine.list().await.into_iter().map(|container| container.image));
    let collected = images.collect(&keep).await;
    let collected = collected.map_err(|error| Chain(&error).to_string())?;
    tracing::info!(?collected, "images that no task needs were removed");
    Ok(())
}

fn load(path: &Path) -> Needed {
    let read = durable::read(path).and_then(|content| match content {
        Some(content) => serde_json::from_slice(&content).map_err(io::Error::from),
        None => Ok(Needed::new()),
    });
    read.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "which images are the fleet's is not known; those here stay");
        Needed::new()
    })
}

async fn save(path: &Path, needed: &Needed) {
    let (path, content) = (path.to_owned(), serde_json::to_vec(needed));
    let written = tokio::task::spawn_blocking(move || durable::replace(&path, &content?));
    if let Ok(Err(error)) = written.await {
        tracing::warn!(%error, "which images are the fleet's could not be written down");
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_some_time_after_its_last_task() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let mut needed = Needed::new();
        touch(&mut needed, &HashSet::from([a.clone(), b.clone()]), 1_000);
        let only_b = HashSet::from([b]);
        let keep = Duration::from_secs(10);
        assert!(unneeded(&needed, &only_b, 11_000, keep).is_empty());
        assert_eq!(
            unneeded(&needed, &only_b, 11_001, keep),
            HashSet::from([a.clone()])
        );
        touch(&mut needed, &HashSet::from([a]), 11_001);
        assert!(unneeded(&needed, &only_b, 11_001, keep).is_empty());
        // A clock that was set back removes nothing.
        assert!(unneeded(&needed, &HashSet::new(), 0, keep).is_empty());
    }
}
