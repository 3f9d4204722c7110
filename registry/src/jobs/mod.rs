//! Work that the server does by itself, one file per job. Jobs are idempotent and take no input but the clock.

pub mod collect;
