//! The OCI runtime and the per-container shim.
//!
//! Synchronous and single-threaded from entry to exit: processes here change themselves for good (namespaces,
//! ids, mounts), which threads would make unsafe. In reading order: what a bundle asks for (`defaults`,
//! `seccomp`), how a container comes to be (`command`, `process`, `rootfs`, `cgroup`), who watches it
//! (`shim`), and the system calls underneath (`sys`).

pub mod bundle;
pub mod capabilities;
pub mod cgroup;
pub mod clock;
pub mod command;
pub mod container;
pub mod defaults;
pub mod failure;
pub mod hooks;
pub mod label;
pub mod lifecycle;
pub mod process;
pub mod rootfs;
pub mod seal;
pub mod seccomp;
pub mod shim;
pub mod sys;
pub mod tty;
