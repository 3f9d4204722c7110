//! The Pierhead registry server: OCI API, token service, pull-through cache, fleet.
//!
//! Layers, each using only those below: `http` and `jobs` → `auth`, `content`, `upstream`, `fleet` → `db`, `storage`. Only `http` names
//! axum, only `db` names sqlx, only `storage` names object_store.

pub mod app;
pub mod auth;
pub mod config;
pub mod content;
pub mod db;
pub mod fleet;
pub mod http;
pub mod jobs;
pub mod storage;
pub mod upstream;
