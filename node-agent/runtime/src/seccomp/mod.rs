//! System call filters: from the OCI grammar to BPF, without a C library.
//!
//! `profile` reads a profile file and resolves its conditions to a runtime-spec filter; `compile` turns
//! that into classic BPF; `syscalls` knows the numbers. runtime-spec `config-linux.md`, Seccomp.

pub mod compile;
pub mod profile;
mod syscalls;
