//! Log lines of tasks, as JSON lines: agent to server to `pierhead logs`.

use serde::{Deserialize, Serialize};

/// One line that a container wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The task.
    pub task_id: String,
    /// Where it was written.
    pub stream: LogStream,
    /// When, RFC 3339 with nanoseconds.
    pub time: String,
    /// The text, with its line end if it had one.
    pub log: String,
}

/// One line of what `GET /api/v1/services/{project}/{service}/logs` answers with: what a container wrote, or a notice
/// about lines that cannot be had, so that one silent node does not take the others' lines away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogEvent {
    /// What a container wrote.
    Line(LogLine),
    /// Why something is missing: `{"notice": "..."}`.
    Notice {
        /// The reason, for people.
        notice: String,
    },
}

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which lines are wanted. Also the query string of `GET /api/v1/services/{project}/{service}/logs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogQuery {
    /// Go on until the caller leaves.
    pub follow: bool,
    /// Only the last lines; all where `None`.
    pub tail: Option<u64>,
    /// Only this copy; all where `None`.
    pub slot: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_notices_are_told_apart() {
        let line = r#"{"task_id":"t","stream":"stderr","time":"2026-01-01T00:00:00Z","log":"x\n"}"#;
        assert!(matches!(serde_json::from_str(line), Ok(LogEvent::Line(_))));
        assert!(matches!(
            serde_json::from_str(r#"{"notice":"n1 is away"}"#),
            Ok(LogEvent::Notice { .. })
        ));
    }
}
