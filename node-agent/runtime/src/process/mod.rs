//! The processes that make a container: the parent that prepares, the intermediate that joins namespaces,
//! and init, which becomes the program.

mod credentials;
pub mod exec;
pub mod gate;
mod init;
mod intermediate;
mod messages;
pub mod parent;
