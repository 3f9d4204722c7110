//! When a process runs and how its I/O is ordered, and which machine it believes to be on. runtime-spec `config.md`,
//! Scheduler, I/O Priority; `config-linux.md`, Personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    Process,
};

use crate::failure::{Context, Failure, Result};
use crate::sys;
use crate::sys::schedule::Attributes;

const PER_LINUX: libc::c_ulong = 0;
const PER_LINUX32: libc::c_ulong = 8;

/// Applies the process's scheduler and I/O priority, while it still has its capabilities.
pub(super) fn apply(process: &Process) -> Result<()> {
    if let Some(wanted) = process.scheduler() {
        let flags = wanted
            .flags()
            .iter()
            .flatten()
            .fold(0, |all, flag| all | flag_bit(*flag));
        let attributes = Attributes {
            policy: policy_number(*wanted.policy()),
            flags,
            nice: wanted.nice().unwrap_or(0),
            priority: u32::try_from(wanted.priority().unwrap_or(0))
                .step("scheduler", || "read process.scheduler.priority")?,
            runtime: wanted.runtime().unwrap_or(0),
            deadline: wanted.deadline().unwrap_or(0),
            period: wanted.period().unwrap_or(0),
        };
        sys::schedule::set(attributes)
            .step("scheduler", || format!("set scheduler {}", wanted.policy()))
            .map_err(|failure| match failure.errno {
                Some(libc::EPERM) => failure.advise(
                    "real-time policies need CAP_SYS_NICE and, on cgroup v1, realtimeRuntime in the cpu limits",
                ),
                _ => failure,
            })?;
    }
    if let Some(wanted) = process.io_priority() {
        let class = match wanted.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let Some(level) = u8::try_from(wanted.priority()).ok().filter(|level| *level < 8) else {
            return Err(Failure::new(
                "io priority",
                format!(
                    "process.ioPriority.priority {} is not between 0 and 7",
                    wanted.priority()
                ),
            ));
        };
        sys::schedule::set_io_priority(class, level)
            .step("io priority", || format!("set I/O class {class}, level {level}"))?;
    }
    Ok(())
}

/// Applies `linux.personality`.
pub(super) fn personality(wanted: Option<&LinuxPersonality>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    if let Some(flag) = wanted.flags().iter().flatten().next() {
        return Err(Failure::new(
            "personality",
            format!("personality flag {flag:?} is not known"),
        ));
    }
    let domain = match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    sys::process::personality(domain).step("personality", || "set the personality")
}

fn policy_number(policy: LinuxSchedulerPolicy) -> u32 {
    match policy {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    }
}

fn flag_bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}
