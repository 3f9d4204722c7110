//! The node daemon, in reading order: how containers are connected (`network`).

pub mod network;
