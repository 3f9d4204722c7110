//! Async HTTP clients: `distribution` speaks to any OCI registry, `control` to our own server's `/api/v1`.

pub mod control;
pub mod distribution;

use std::time::Duration;

/// The HTTP client that both are made of.
pub use reqwest::Client as HttpClient;
/// Why one cannot be made.
pub use reqwest::Error as HttpError;

/// The HTTP client that both use: rustls, a bound on connecting and on dead peers.
///
/// # Errors
/// When the TLS configuration of the platform cannot be read.
pub fn http() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        // A dead peer is noticed while bytes are under way; how long an answer may take is up to each call.
        .tcp_user_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(15))
        .user_agent(concat!("pierhead/", env!("CARGO_PKG_VERSION")))
        .build()
}
