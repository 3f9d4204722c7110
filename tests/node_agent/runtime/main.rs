//! Contract suite of the OCI runtime: every test drives the built binary on a root of one static busybox.
//!
//! Needs root and Debian's busybox-static; the contract runs on Debian's runc and crun as well. The binary is `$PIERHEAD_RUNTIME`, else the release build.

mod container;
mod contract;
mod engines;
mod escape;
mod limits;
mod shim;
mod support;
