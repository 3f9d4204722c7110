//! The fleet: which node may do what, and what should run where.
//!
//! The planner decides from a snapshot and does no I/O; everything else here reads and writes the database.

pub mod plan;

use crate::db::{Db, DbError};

/// The public key (32 bytes in base64url) of a node that has joined.
///
/// # Errors
/// When the database fails.
pub async fn node_public_key(db: &Db, node_id: &str) -> Result<Option<String>, DbError> {
    db.node_public_key(node_id).await
}

/// Whether a task assigned to the node runs an image of `repository`.
///
/// # Errors
/// When the database fails.
pub async fn node_may_pull(db: &Db, node_id: &str, repository: &str) -> Result<bool, DbError> {
    db.node_uses(node_id, repository).await
}
