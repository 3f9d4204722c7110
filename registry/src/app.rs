//! Everything that is built once and shared by requests and jobs.

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use oci::{Digest, RepositoryName, Tag};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::auth::token::write_private;
use crate::config::Config;
use crate::content::{Content, SparsePolicy};
use crate::db::{Db, now_ms};
use crate::fleet::Fleet;
use crate::jobs::collect;
use crate::storage::BlobStore;
use crate::upstream::Upstreams;

/// How long an upload may lie untouched.
const UPLOAD_LIFE_MS: i64 = 24 * 3600 * 1000;
/// How often stale uploads are looked for.
const UPLOAD_SWEEP: Duration = Duration::from_secs(600);

/// Moves of tags that a slow listener may fall behind; it looks into the database then.
const EVENTS_MAX: usize = 256;

/// A tag that has moved.
#[derive(Clone, Debug)]
pub struct TagMoved {
    /// Its repository.
    pub repository: RepositoryName,
    /// The tag.
    pub tag: Tag,
    /// What it names now.
    pub digest: Digest,
}

/// The application, cheap to clone.
pub type App = Arc<AppState>;

/// What an [`App`] points at.
#[derive(Debug)]
pub struct AppState {
    /// Configuration.
    pub config: Config,
    /// Callers and permissions.
    pub auth: Auth,
    /// Blobs, manifests, tags.
    pub content: Content,
    /// The pull-through cache.
    pub upstreams: Upstreams,
    /// Nodes, services, deployments.
    pub fleet: Fleet,
    /// The database, to be closed last.
    pub db: Db,
    /// Work that outlives requests.
    pub tasks: TaskTracker,
    /// Cancelled when the server is told to stop.
    pub stopping: CancellationToken,
}

/// Builds the application; returns the first admin's password when this start made it.
///
/// # Errors
/// When a directory, the database or the signing key cannot be opened.
pub async fn build(config: Config) -> anyhow::Result<(App, Option<String>)> {
    let data = &config.data;
    // Keys and password hashes are for nobody else to read.
    let mut directory = std::fs::DirBuilder::new();
    directory.recursive(true).mode(0o700);
    directory
        .create(data)
        .with_context(|| format!("create the data directory {}", data.display()))?;
    let db = Db::connect(&config.database).await.context("open the database")?;
    let db = db.with_grace(config.collection.grace);
    let blobs =
        BlobStore::open(&config.storage.location, &data.join("spool")).context("open the blob storage")?;
    let auth = Auth::open(db.clone(), data, config.is_open)?;
    let made = match config.is_open {
        true => None,
        false => {
            let given = config.admin_password()?;
            let is_given = given.is_some();
            let keep = |password: &str| {
                let path = data.join("admin-password");
                // One that an interrupted first start left is of no account.
                let _ = std::fs::remove_file(&path);
                write_private(&path, format!("{password}\n").as_bytes())
            };
            auth.ensure_admin(given, keep)
                .await
                .context("create the first admin")?
                .filter(|_| !is_given)
        }
    };
    let tasks = TaskTracker::new();
    let stopping = CancellationToken::new();
    let sparse = SparsePolicy::new(config.sparse.clone());
    let content = Content::new(
        db.clone(),
        blobs.clone(),
        sparse,
        broadcast::channel(EVENTS_MAX).0,
    );
    let upstreams = Upstreams::new(
        &config.upstreams,
        &client::http().context("set up the HTTP client")?,
        content.clone(),
        db.clone(),
        blobs,
        tasks.clone(),
        stopping.clone(),
    );
    tasks.spawn(expire_uploads(content.clone(), stopping.clone()));
    tasks.spawn(collect::run(content.clone(), config.collection, stopping.clone()));
    let fleet = Fleet::open(db.clone(), stopping.clone())
        .await
        .context("open the fleet")?;
    tasks.spawn(fleet.clone().run(content.tag_moves()));
    Ok((
        Arc::new(AppState {
            config,
            auth,
            content,
            upstreams,
            fleet,
            db,
            tasks,
            stopping,
        }),
        made,
    ))
}

async fn expire_uploads(content: Content, stopping: CancellationToken) {
    while !stopping.is_cancelled() {
        match content.upload_expire(now_ms() - UPLOAD_LIFE_MS).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "{count} abandoned uploads ended"),
            Err(error) => tracing::warn!(%error, "cannot end abandoned uploads"),
        }
        // Cancel safe: nothing is held between two sweeps.
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(UPLOAD_SWEEP) => {}
        }
    }
}
