//! The fleet: the server's control plane as operators and nodes meet it.

mod control;
mod permissions;
mod played_node;
