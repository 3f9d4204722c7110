//! The node daemon, in reading order: what it is told (`config`), what the machine is (`host`), where containers' files
//! come from (`image`), how they are connected (`network`), who watches them (`supervise`), what they are (`engine`),
//! how people use them (`docker`), and how assigned tasks are kept alive (`fleet`).

pub mod chain;
pub mod config;
pub mod docker;
pub mod durable;
pub mod engine;
pub mod fleet;
pub mod host;
pub mod image;
pub mod network;
pub mod supervise;
