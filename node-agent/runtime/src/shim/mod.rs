//! The shim: one small process per container that holds its output and remembers how it ended.

pub mod protocol;
