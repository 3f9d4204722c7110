//! The channel to the server, three loops that fail and come back on their own: `watch` brings the desired state and
//! requests for logs, `beat` says that we live. (`reports` sends what is observed.) Nothing here stops a task.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{BeatRequest, DesiredState, WatchEvent};
use client::control::ControlError;
use client::control::node::NodeClient;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::sleep;

use super::containers::Containers;
use super::ledger::{Desired, Ledger};
use super::retry::Retry;
use super::sessions::Sessions;
use crate::chain::Chain;

/// Pause between beats until the server says another.
const BEAT: Duration = Duration::from_secs(3);
/// The longest pause that the server may ask for; beyond it, we would be taken for dead by mistake.
const BEAT_LONGEST: Duration = Duration::from_secs(60);
/// Clocks that differ by more are told, since tokens are judged by the server's.
const SKEW_MS: i64 = 30_000;

/// Listens to the server until the future is dropped.
///
/// # Cancel safety
/// A document is either taken over or not.
pub(super) async fn watch(
    client: NodeClient,
    ledger: Ledger,
    containers: impl Containers,
    desired: watch::Sender<Option<Arc<Desired>>>,
    sessions: Sessions,
) {
    let ledger = Arc::new(Mutex::new(ledger));
    let mut retry = Retry::new();
    loop {
        let outcome: Result<(), ControlError> = async {
            let mut events = client.watch().await?;
            while let Some(event) = events.next().await {
                match event? {
                    WatchEvent::Document(document) => {
                        take_over(&ledger, document, &containers, &desired).await;
                    }
                    WatchEvent::Ping { .. } => {}
                    WatchEvent::Logs {
                        session_id,
                        task_id,
                        query,
                    } => sessions.answer(session_id, task_id, query),
                }
                retry.reset();
            }
            Ok(())
        }
        .await;
        let pause = retry.next_pause();
        if retry.is_first() {
            match outcome {
                Ok(()) => tracing::info!("the server closed the watch stream; tasks go on, and we ask again"),
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the server cannot be watched; tasks go on, and we ask again");
                }
            }
        }
        sleep(pause).await;
    }
}

async fn take_over(
    ledger: &Arc<Mutex<Ledger>>,
    document: DesiredState,
    containers: &impl Containers,
    desired: &watch::Sender<Option<Arc<Desired>>>,
) {
    let generation = document.generation;
    let tasks = containers.of_tasks().await;
    let running: BTreeSet<String> = tasks
        .into_iter()
        .filter_map(|(id, is_running)| is_running.then_some(id))
        .collect();
    let ledger = ledger.clone();
    let taken = tokio::task::spawn_blocking(move || {
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.take_over(&document, &running)
    });
    match taken.await {
        Ok(Ok(Some(newest))) => {
            tracing::info!(
                generation,
                tasks = newest.tasks.len(),
                "desired state {generation} taken over"
            );
            desired.send_replace(Some(newest));
        }
        Ok(Ok(None)) => {}
        Ok(Err(refusal)) => {
            tracing::error!(generation, error = %Chain(&refusal), "desired state {generation} is refused; nothing changes");
        }
        Err(error) => tracing::error!(generation, %error, "desired state {generation} was not taken over"),
    }
}

/// Beats until the future is dropped.
pub(super) async fn beat(
    client: NodeClient,
    incarnation: String,
    boot_id: String,
    applied: watch::Receiver<u64>,
) {
    let mut interval = BEAT;
    let mut is_away = false;
    let mut is_skewed = false;
    loop {
        let request = BeatRequest {
            incarnation: incarnation.clone(),
            boot_id: boot_id.clone(),
            applied_generation: *applied.borrow(),
        };
        match client.beat(&request).await {
            Ok(answer) => {
                if std::mem::take(&mut is_away) {
                    tracing::info!("the server answers again");
                }
                interval = Duration::from_millis(answer.interval_ms).clamp(BEAT / 3, BEAT_LONGEST);
                let skew_ms = now_ms().saturating_sub(answer.server_time_ms);
                let was_skewed = std::mem::replace(&mut is_skewed, skew_ms.abs() > SKEW_MS);
                if is_skewed && !was_skewed {
                    tracing::warn!(
                        skew_ms,
                        "this machine's clock differs from the server's by {skew_ms} ms"
                    );
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    tracing::warn!(error = %Chain(&error), "the server does not take our beat; tasks go on");
                }
            }
        }
        sleep(interval).await;
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
