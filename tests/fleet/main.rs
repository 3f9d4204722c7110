//! The fleet: the server's control plane as operators and nodes meet it.

mod control;
mod deploy;
mod isolation;
mod permissions;
mod played_node;
mod refusal;
mod survival;
