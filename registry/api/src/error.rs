//! The body of every `/api/v1` error response.

use serde::{Deserialize, Serialize};

/// `{"error": "...", "code": "..."}`: the message for people, the code for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct ApiError {
    /// What was wrong and what to do.
    pub error: String,
    /// A stable identifier in snake case, such as `join_token_used`.
    pub code: String,
}

impl ApiError {
    /// An error of `code` that says `error`.
    pub fn new(code: &str, error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            code: code.to_owned(),
        }
    }
}
