//! Capability sets of the calling thread.

use std::io;

use super::check;

/// The three sets `capset(2)` writes, as bit masks by capability number.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sets {
    /// Checked by the kernel.
    pub effective: u64,
    /// Upper limit of the effective set.
    pub permitted: u64,
    /// Kept by programs whose file inherits them.
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// The sets of this thread.
///
/// # Errors
/// Never on kernels this runs on.
pub fn sets() -> io::Result<Sets> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 of capget(2) writes two `Data`, which is what the array holds.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |of: fn(&Data) -> u32| u64::from(of(&data[0])) | u64::from(of(&data[1])) << 32;
    Ok(Sets {
        effective: join(|data| data.effective),
        permitted: join(|data| data.permitted),
        inheritable: join(|data| data.inheritable),
    })
}

/// Replaces the sets of this thread.
///
/// # Errors
/// `EPERM` when a set would grow beyond what is permitted.
pub fn set(sets: Sets) -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let part = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [part(0), part(32)];
    // SAFETY: version 3 of capset(2) reads two `Data`, which is what the array holds.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Whether capability `number` is in the bounding set; `None` when the kernel does not know it.
pub fn is_bounded(number: u32) -> Option<bool> {
    // SAFETY: prctl(PR_CAPBSET_READ) takes a number.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number), 0, 0, 0) };
    if result < 0 { None } else { Some(result == 1) }
}

/// Takes capability `number` out of the bounding set, for good.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn drop_bounding(number: u32) -> io::Result<()> {
    // SAFETY: prctl(PR_CAPBSET_DROP) takes a number.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
    check(libc::c_long::from(result))?;
    Ok(())
}

/// Empties the ambient set.
///
/// # Errors
/// Never on kernels since 4.3.
pub fn clear_ambient() -> io::Result<()> {
    // SAFETY: prctl(PR_CAP_AMBIENT) takes numbers.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    check(libc::c_long::from(result))?;
    Ok(())
}

/// Adds capability `number` to the ambient set.
///
/// # Errors
/// `EPERM` unless it is permitted and inheritable.
pub fn raise_ambient(number: u32) -> io::Result<()> {
    let number = libc::c_ulong::from(number);
    // SAFETY: prctl(PR_CAP_AMBIENT) takes numbers.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) };
    check(libc::c_long::from(result))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_lies_within_the_permitted_one() {
        let sets = sets().expect("capget");
        assert_eq!(sets.effective & !sets.permitted, 0);
        assert!(is_bounded(0).is_some());
        assert_eq!(is_bounded(63), None);
    }
}
