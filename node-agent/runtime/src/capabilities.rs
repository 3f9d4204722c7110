//! From a bundle's capability names to the kernel's five sets. runtime-spec `config.md`, Linux Process.

use nix::sys::prctl;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process};

use crate::cgroup::Cgroup;
use crate::failure::{Context, Result};
use crate::sys::credentials::{self, Sets};

const STEP: &str = "capabilities";

/// The five sets as masks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Masks {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Masks {
    /// The masks a bundle asks for; a set that is absent is empty.
    pub fn of(wanted: &LinuxCapabilities) -> Self {
        let mask =
            |set: &Option<Capabilities>| set.iter().flatten().fold(0, |all, cap| all | 1 << number(*cap));
        Self {
            bounding: mask(wanted.bounding()),
            effective: mask(wanted.effective()),
            permitted: mask(wanted.permitted()),
            inheritable: mask(wanted.inheritable()),
            ambient: mask(wanted.ambient()),
        }
    }

    /// Drops from the bounding set what is not wanted. First, while CAP_SETPCAP is still held.
    ///
    /// # Errors
    /// Without CAP_SETPCAP.
    pub fn bound(&self) -> Result<()> {
        for number in 0..64 {
            match credentials::is_bounded(number) {
                None => break,
                Some(true) if self.bounding & 1 << number == 0 => {
                    credentials::drop_bounding(number).step(STEP, || format!("drop capability {number}"))?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Sets the other four. What this process does not hold itself cannot be granted and is left out, as
    /// runtime-spec asks.
    ///
    /// # Errors
    /// When the kernel refuses a set.
    pub fn apply(&self) -> Result<()> {
        let held = credentials::sets()
            .step(STEP, || "read the capability sets")?
            .permitted;
        let permitted = self.permitted & held;
        let inheritable = self.inheritable & held;
        let sets = Sets {
            effective: self.effective & permitted,
            permitted,
            inheritable,
        };
        credentials::set(sets).step(STEP, || "set the capability sets")?;
        credentials::clear_ambient().step(STEP, || "clear the ambient set")?;
        for number in (0..64).filter(|number| self.ambient & permitted & inheritable & 1 << number != 0) {
            credentials::raise_ambient(number).step(STEP, || format!("raise ambient capability {number}"))?;
        }
        Ok(())
    }
}

/// Makes everything permitted effective again, which leaving uid 0 takes away.
///
/// # Errors
/// When the kernel refuses.
pub fn regain() -> Result<()> {
    let sets = credentials::sets().step(STEP, || "read the capability sets")?;
    credentials::set(Sets {
        effective: sets.permitted,
        ..sets
    })
    .step(STEP, || "set the effective set")
}

/// Keeps the permitted set across a change of user id, or stops keeping it.
///
/// # Errors
/// When the secure bits forbid it.
pub fn keep(is_kept: bool) -> Result<()> {
    prctl::set_keepcaps(is_kept).step(STEP, || "keep capabilities across setuid")
}

/// Takes the making of device nodes away from `process` where nothing guards the use of devices: without a devices
/// controller and without programs in the kernel a node of its own making would open any disk.
pub fn withhold_mknod(process: &mut Process, cgroup: &Cgroup) {
    let has_it = |sets: &LinuxCapabilities| Masks::of(sets).bounding & 1 << number(Capability::Mknod) != 0;
    let Some(mut sets) = process.capabilities().clone().filter(has_it) else {
        return;
    };
    if cgroup.guards_devices() {
        return;
    }
    let without = |set: &Option<Capabilities>| {
        set.clone().map(|mut set| {
            set.remove(&Capability::Mknod);
            set
        })
    };
    let (bounding, effective) = (without(sets.bounding()), without(sets.effective()));
    let (permitted, inheritable) = (without(sets.permitted()), without(sets.inheritable()));
    let ambient = without(sets.ambient());
    sets.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    sets.set_inheritable(inheritable).set_ambient(ambient);
    process.set_capabilities(Some(sets));
}

/// Adds `more` to the bounding, effective and permitted sets of `process`.
pub fn grant(process: &mut Process, more: &[Capability]) {
    if more.is_empty() {
        return;
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(more);
        Some(set)
    };
    let (bounding, effective) = (with(sets.bounding()), with(sets.effective()));
    let permitted = with(sets.permitted());
    sets.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    process.set_capabilities(Some(sets));
}

/// The names a bundle may use.
pub fn known() -> Vec<String> {
    ALL.iter().map(|capability| format!("CAP_{capability}")).collect()
}

fn number(capability: Capability) -> usize {
    ALL.iter()
        .position(|known| *known == capability)
        .expect("the table holds every capability")
}

/// Every capability, at the place that is its number in the kernel.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    #[test]
    fn the_default_sets_have_the_well_known_mask() {
        let masks = Masks::of(&defaults::capabilities());
        assert_eq!(masks.bounding, 0xa804_25fb);
        assert_eq!(masks.inheritable, 0);
        assert_eq!(masks.ambient, 0);
    }

    #[test]
    fn without_a_devices_controller_nobody_makes_nodes() {
        let mut process = Process::default();
        process.set_capabilities(Some(defaults::capabilities()));
        withhold_mknod(&mut process, &Cgroup::default());
        let left = Masks::of(process.capabilities().as_ref().expect("has sets"));
        assert_eq!(left.bounding, 0xa004_25fb);
        assert_eq!(left.effective, 0xa004_25fb);
    }
}
