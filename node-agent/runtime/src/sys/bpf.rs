//! Programs of the extended Berkeley packet filter that guard the devices of a control group (`bpf(2)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// One instruction, in the kernel's layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination in the low half, source in the high half.
    pub registers: u8,
    /// Of a jump or of memory.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that loading a program uses.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part that attaching and detaching use.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

/// The part that asking for attached programs uses.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
}

/// Loads a program that decides about the use of devices.
///
/// # Errors
/// `EPERM` without CAP_BPF and CAP_NET_ADMIN or CAP_SYS_ADMIN; `EINVAL` or `EACCES` when the kernel's verifier refuses
/// the program.
pub fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = Load {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: BPF_PROG_LOAD reads `count` instructions and a NUL-terminated license, all alive during the call;
    // `Instruction` has the layout of `struct bpf_insn`.
    let fd = unsafe { call(PROG_LOAD, &mut attributes) }?;
    // SAFETY: on success the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches `program` to the control group behind `directory`, beside others.
///
/// # Errors
/// `EPERM` when a group above allows no programs below it.
pub fn attach(directory: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = target(directory, program);
    attributes.flags = ALLOW_MULTI;
    // SAFETY: BPF_PROG_ATTACH takes numbers.
    unsafe { call(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Detaches `program` from the control group behind `directory`.
///
/// # Errors
/// `ENOENT` when it is not attached.
pub fn detach(directory: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = target(directory, program);
    // SAFETY: BPF_PROG_DETACH takes numbers.
    unsafe { call(PROG_DETACH, &mut attributes) }.map(drop)
}

/// The programs attached to the control group behind `directory` itself.
///
/// # Errors
/// `ENOSPC` when there are more than 64, which nobody attaches.
pub fn attached(directory: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut attributes = Query {
        target: number(directory),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        ..Query::default()
    };
    // SAFETY: BPF_PROG_QUERY writes at most `count` numbers at `ids`, which is what the array holds.
    unsafe { call(PROG_QUERY, &mut attributes) }?;
    let mut programs = Vec::new();
    for id in &ids[..attributes.count as usize] {
        let mut wanted = [*id, 0, 0];
        // SAFETY: BPF_PROG_GET_FD_BY_ID takes numbers.
        let fd = unsafe { call(PROG_GET_FD_BY_ID, &mut wanted) }?;
        // SAFETY: on success the kernel returned a new descriptor that nobody else owns.
        programs.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(programs)
}

fn target(directory: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Attach {
    Attach {
        target: number(directory),
        program: number(program),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        ..Attach::default()
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
/// `attributes` has the layout that `command` expects, and its pointers lead to memory that the command may use.
unsafe fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    let attributes: *mut T = attributes;
    // SAFETY: the caller promises that the kernel finds what it expects in the `size_of` bytes it is given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    check(result).map(|fd| fd as libc::c_int)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_an_end_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // r0 = 1, without an exit after it.
        let endless = [Instruction {
            code: 0xb7,
            immediate: 1,
            ..Instruction::default()
        }];
        assert!(load(&endless).is_err());
        let exit = Instruction {
            code: 0x95,
            ..Instruction::default()
        };
        load(&[endless[0], exit]).expect("allows everything");
    }
}
