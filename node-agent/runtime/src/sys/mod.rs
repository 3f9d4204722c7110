//! Safe wrappers over raw system calls that `nix` does not have. The only `unsafe` of the package.
//!
//! Every wrapper returns `io::Result`, takes borrowed descriptors and returns owned ones that are
//! close-on-exec. Nothing above this module needs to know about pointers.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper elsewhere live here and nowhere else"
)]

pub mod bpf;
pub mod credentials;
pub mod mount;
pub mod net;
pub mod process;
pub mod schedule;
pub mod seccomp;
pub mod tty;
pub mod xattr;

use std::io;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
