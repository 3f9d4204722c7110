//! The registry through its own door: protocol, real clients, the cache, crashes, bad input.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod access;
mod cache;
mod clients;
mod collection;
mod conformance;
mod content;
mod image_tool;
mod quickstart;
mod replicas;
mod uploads;
