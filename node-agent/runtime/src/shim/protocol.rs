//! What the agent and a shim say to each other.
//!
//! The shim prints one [`Announcement`] line on standard output once the container is created, or why it
//! was not. From then on it serves `shim.sock` in its run directory: one JSON [`Request`] per line, one
//! JSON [`Response`] line for each, in order.
//!
//! ```text
//! DIR/shim.json   ShimRecord, replaced atomically   DIR/shim.sock   0600, same uid only
//! DIR/exit.json   ExitRecord, written once, fsynced before any waiter hears of the exit
//!
//! → {"op":"start"}                            ← {"started":{"pid":71,"started_at":"…Z"}}
//! → {"op":"state"}                            ← {"state":{"status":"running","pid":71,…}}
//! → {"op":"kill","signal":15,"all":false}     ← {"killed":{}}
//! → {"op":"wait"}                             ← {"exited":{"pid":71,"exit_code":0,…}}   (at exit)
//! → anything else                             ← {"error":{"step":"request",…}}
//! ```

use serde::{Deserialize, Serialize};

pub use crate::failure::Failure;

/// Name of the socket in the shim's run directory.
pub const SOCKET_NAME: &str = "shim.sock";
/// Name of the file that holds a [`ShimRecord`].
pub const SHIM_FILE_NAME: &str = "shim.json";
/// Name of the file that holds an [`ExitRecord`] once the container has ended.
pub const EXIT_FILE_NAME: &str = "exit.json";

/// The single line a shim prints before it closes its standard output.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Announcement {
    /// The container exists, its init waits for `start`.
    Created {
        /// Init's process id in the agent's pid namespace.
        pid: i32,
    },
    /// Nothing was created and nothing was left behind.
    Error(Failure),
}

/// What a client asks of a shim.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Lets the created init execute the container's program.
    Start,
    /// Asks for the current state.
    State,
    /// Sends a signal to init, or to every process of the container.
    Kill {
        /// Signal number.
        signal: i32,
        /// Every process of the container's cgroup rather than init alone.
        #[serde(default)]
        all: bool,
    },
    /// Answered when the container has ended, at once when it already has.
    Wait,
}

/// What a shim answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Answer to `start`: the program was executed.
    Started {
        /// Init's process id.
        pid: i32,
        /// RFC 3339 with nanoseconds, UTC.
        started_at: String,
    },
    /// Answer to `state`.
    State(State),
    /// Answer to `kill`.
    Killed {},
    /// Answer to `wait`.
    Exited(ExitRecord),
    /// The request failed; the shim goes on.
    Error(Failure),
}

/// Where a container is in its life, as its shim sees it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Init waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// Init has ended; the exit record exists.
    Stopped,
}

/// Answer to `state`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct State {
    /// Where the container is in its life.
    pub status: Status,
    /// Init's process id, also after the end.
    pub pid: i32,
    /// When the program was executed; RFC 3339 with nanoseconds, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// How it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitRecord>,
}

/// How a container ended. Written once to `exit.json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ExitRecord {
    /// Init's process id.
    pub pid: i32,
    /// The program's exit status; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel's out-of-memory killer ended a process of the container.
    pub oom_killed: bool,
    /// When the program was executed; absent when it never was. RFC 3339 with nanoseconds, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When init ended; RFC 3339 with nanoseconds, UTC.
    pub finished_at: String,
}

/// A process named so that reuse of its number is noticed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProcessRecord {
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot at which the process began.
    pub start_ticks: u64,
}

/// Content of `shim.json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ShimRecord {
    /// The container's id.
    pub id: String,
    /// The shim itself.
    pub shim: ProcessRecord,
    /// The container's init, once created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ProcessRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_shapes_are_the_documented_ones() {
        let created = serde_json::to_string(&Announcement::Created { pid: 7 }).expect("serialises");
        assert_eq!(created, r#"{"created":{"pid":7}}"#);
        let kill: Request = serde_json::from_str(r#"{"op":"kill","signal":15}"#).expect("parses");
        assert_eq!(
            kill,
            Request::Kill {
                signal: 15,
                all: false
            }
        );
        let start: Request = serde_json::from_str(r#"{"op":"start"}"#).expect("parses");
        assert_eq!(start, Request::Start);
        assert_eq!(
            serde_json::to_string(&Response::Killed {}).expect("serialises"),
            r#"{"killed":{}}"#
        );
    }
}
