//! The Docker Engine API on a unix socket, so that docker's own clients work against this node as they are.
//!
//! Owns names, types and habits of that API, and nothing of what a container is: each request becomes a call of
//! `engine`, `image` or `network` here at the edge. In reading order: `version` (the path's prefix), one file per
//! section of the API (`system`, `containers`, `streams`, `images`, `pull`, `events`), what these share (`wire`,
//! `create`, `inspect`, `reference`, `query`, `error`).
//!
//! Invariants: what was asked for and is not carried out is refused by name; what would make no difference is accepted;
//! names of fields nobody knows are logged and ignored, as Docker does.

mod containers;
mod create;
mod error;
mod events;
mod images;
mod inspect;
mod pull;
mod query;
mod reference;
mod streams;
mod system;
mod version;
mod wire;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{delete, get, post};
use nix::unistd::Group;
use tokio::net::{UnixListener, UnixStream};

use crate::durable;
use crate::engine::Engine;
use crate::image::ImageStore;
use crate::network::Network;

use error::ApiError;
use events::EventLog;

/// Members may use the socket, where the host has such a group.
const GROUP: &str = "pierhead";
/// How long requests may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(2);

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another program answers there.
    #[error("another engine listens on {}: stop it, or choose another socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error("{step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that clients can connect to; the file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

/// What handlers work with.
#[derive(Debug)]
struct Api {
    engine: Engine,
    images: ImageStore,
    network: Network,
    http: client::HttpClient,
    events: EventLog,
    /// Held while an image is removed, and while a container is made of one, so that neither misses the other.
    images_in_use: tokio::sync::Mutex<()>,
}

impl Socket {
    /// Listens at `path`, for root and the group `pierhead`. Replaces a socket that nobody listens on.
    ///
    /// # Errors
    /// When another engine listens there, or the file cannot be made.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |step| {
            move |source| SocketError::File {
                step,
                path: path.to_owned(),
                source,
            }
        };
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::InUse {
                path: path.to_owned(),
            });
        }
        if let Some(directory) = path.parent() {
            durable::make_private_directory(directory).map_err(failed("make the directory of"))?;
        }
        // Under another name until nobody else can reach it any more, then in one step in place of a stale one.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let listener = UnixListener::bind(&fresh).map_err(failed("listen on"))?;
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid);
        let placed = nix::unistd::chown(&fresh, None, group)
            .map_err(io::Error::from)
            .and_then(|()| std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o660)))
            .and_then(|()| std::fs::rename(&fresh, path));
        if placed.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
        placed.map_err(failed("give access to"))?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A later start replaces what stays.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers requests until `shutdown`; those under way then have a moment to end.
///
/// # Errors
/// When no TLS client can be made, or the socket breaks.
///
/// # Cancel safety
/// Dropping the future ends the requests; what they began in the engine runs on.
pub async fn serve(
    (engine, images, network): (Engine, ImageStore, Network),
    mut socket: Socket,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let http = client::http().map_err(io::Error::other)?;
    let events = EventLog::new(&engine);
    let router = router(Arc::new(Api {
        engine,
        images,
        network,
        http,
        events,
        images_in_use: tokio::sync::Mutex::new(()),
    }));
    let entry = Router::new().fallback(move |request| version::route(router.clone(), request));
    let listener = socket.listener.take().expect("a socket is served once");
    let (begin_end, end) = tokio::sync::oneshot::channel();
    let serving = axum::serve(listener, entry).with_graceful_shutdown(async move {
        shutdown.await;
        // Nobody listens only when the server has ended by itself.
        let _ = begin_end.send(());
    });
    // Both are cancel safe, and what is left after the deadline is to be cut off.
    tokio::select! {
        served = serving => served,
        () = async {
            let _ = end.await;
            tokio::time::sleep(DRAIN).await;
        } => Ok(()),
    }
}

fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(events::stream))
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/logs", get(streams::logs))
        .route("/containers/{id}/attach", post(streams::attach))
        .route("/images/json", get(images::list))
        .route("/images/create", post(pull::create))
        // Names of images hold slashes, so the rest of the path is taken apart by hand.
        .route(
            "/images/{*rest}",
            get(images::get).post(images::post).delete(images::remove),
        )
        .fallback(ApiError::no_page)
        .method_not_allowed_fallback(ApiError::no_page)
        .with_state(api)
}
