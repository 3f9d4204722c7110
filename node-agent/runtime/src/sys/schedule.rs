//! Scheduling attributes of the calling process.

use std::io;

use super::check;

/// What [`set`] sets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Niceness, for policies that share by weight.
    pub nice: i32,
    /// Priority, for the real-time policies.
    pub priority: u32,
    /// Nanoseconds of each period, for the deadline policy.
    pub runtime: u64,
    /// Nanoseconds after the start of a period.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// The first version of `struct sched_attr`, which every kernel with the call understands.
#[repr(C)]
struct Raw {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the policy of the calling process (`sched_setattr(2)`).
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE or without real-time bandwidth in the cgroup; `EINVAL` for a policy the kernel lacks.
pub fn set(attributes: Attributes) -> io::Result<()> {
    let Attributes {
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    } = attributes;
    let raw = Raw {
        size: size_of::<Raw>() as u32,
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    };
    // SAFETY: sched_setattr(2) reads `size` bytes, which is the size of the live value.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) })?;
    Ok(())
}

/// Sets the I/O class (1 real-time, 2 best effort, 3 idle) and level of the calling process (`ioprio_set(2)`).
///
/// # Errors
/// `EPERM` for the real-time class without CAP_SYS_ADMIN or CAP_SYS_NICE.
pub fn set_io_priority(class: u8, level: u8) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    let priority = libc::c_int::from(class) << CLASS_SHIFT | libc::c_int::from(level);
    // SAFETY: ioprio_set(2) takes numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused() {
        let policy = 77;
        let wrong = Attributes {
            policy,
            ..Attributes::default()
        };
        assert_eq!(
            set(wrong).expect_err("no such policy").raw_os_error(),
            Some(libc::EINVAL)
        );
        assert!(set_io_priority(7, 0).is_err());
        set_io_priority(2, 4).expect("best effort needs no privilege");
    }
}
