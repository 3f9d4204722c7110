//! The node's part in a fleet: who it is (`identity`), and how it comes to belong (`join`).

pub mod identity;
pub mod join;
