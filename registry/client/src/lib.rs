//! Async HTTP clients: `distribution` speaks to any OCI registry, `control` to our own server's `/api/v1`.

pub mod control;
pub mod distribution;

use std::time::Duration;

/// The HTTP client that both are made of.
pub use reqwest::Client as HttpClient;

/// The HTTP client that both use: rustls, no proxy surprises, a bound on connecting and on silence.
///
/// # Errors
/// When the TLS configuration of the platform cannot be read.
pub fn http() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .user_agent(concat!("pierhead/", env!("CARGO_PKG_VERSION")))
        .build()
}
