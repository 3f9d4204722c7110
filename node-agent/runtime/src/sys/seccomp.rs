//! Loading a compiled filter.

use std::io;

use super::check;
use crate::seccomp::compile::{Instruction, Program};

#[repr(C)]
struct FilterProgram {
    len: libc::c_ushort,
    filter: *const Instruction,
}

/// Installs `program` for this thread and everything it executes.
///
/// # Errors
/// `EACCES` without either CAP_SYS_ADMIN or no_new_privs; `EINVAL` for flags the kernel lacks.
pub fn load(program: &Program) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let len = libc::c_ushort::try_from(program.instructions.len())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = FilterProgram {
        len,
        filter: program.instructions.as_ptr(),
    };
    let flags = program.flags as libc::c_uint;
    // SAFETY: seccomp(2) reads `len` instructions at `filter`; `Instruction` has the layout of
    // `struct sock_filter`, and both values are alive during the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    })?;
    Ok(())
}
