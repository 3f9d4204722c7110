//! Black-box suite of the node agent's daemon: the built binary with private directories, in network namespaces of its
//! own that go when it ends. Needs root.

mod commands;
#[path = "../docker/mod.rs"]
mod docker;
mod fleet;
mod serve;
mod support;
