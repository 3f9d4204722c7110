//! Writes what the runtime reads: `config.json` and the files about names that a container sees. runtime-spec
//! `config.md`, `config-linux.md`.
//!
//! Isolation comes from `runtime::defaults`; this module adds what differs between containers.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use api::Resources;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
    Mount, MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use runtime::defaults;

use super::record::Record;
use super::spec;
use super::store::failed;
use super::user;
use super::{EngineError, names};
use crate::network::Attachment;

/// Processes and threads of a container that has no limit of its own: enough for any server, too few to starve a host.
const DEFAULT_PIDS: u64 = 2048;
const CPU_PERIOD_US: u64 = 100_000;
const NANO_CPUS_PER_CPU: u64 = 1_000_000_000;

/// Everything a bundle is made of.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) record: &'a Record,
    /// Where to write.
    pub(super) directory: &'a Path,
    /// The mounted root file system.
    pub(super) root: &'a Path,
    pub(super) attachment: &'a Attachment,
    /// Relative to each hierarchy's root.
    pub(super) cgroup: &'a Path,
}

/// Writes the bundle. Blocks.
///
/// # Errors
/// When the user cannot be found, or a file cannot be written.
pub(super) fn write(plan: &Plan<'_>) -> Result<(), EngineError> {
    let record = plan.record;
    let mut mounts = defaults::mounts();
    for (target, content) in [
        (
            "/etc/hosts",
            names::hosts(plan.attachment.address, &record.program.hostname),
        ),
        ("/etc/hostname", format!("{}\n", record.program.hostname)),
        ("/etc/resolv.conf", names::resolvers()),
    ] {
        let target = Path::new(target);
        let source = plan.directory.join(target.file_name().unwrap_or_default());
        fs::write(&source, content).map_err(failed("write", &source))?;
        mounts.push(bind(&source, target).map_err(|source| bundle_error(record, source))?);
    }
    let process = process(plan)?;
    let spec = assemble(plan, process, mounts).map_err(|source| bundle_error(record, source))?;
    let path = plan.directory.join("config.json");
    let file = File::create(&path).map_err(failed("write", &path))?;
    serde_json::to_writer(file, &spec).map_err(|error| failed("write", &path)(error.into()))
}

fn bundle_error(record: &Record, source: OciSpecError) -> EngineError {
    EngineError::Bundle {
        container: record.id.clone(),
        source,
    }
}

fn spec_error(record: &Record, source: spec::SpecError) -> EngineError {
    EngineError::Spec {
        name: record.name.clone(),
        source,
    }
}

fn process(plan: &Plan<'_>) -> Result<Process, EngineError> {
    let record = plan.record;
    let program = &record.program;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root =
        open(plan.root, flags, Mode::empty()).map_err(|errno| failed("open", plan.root)(errno.into()))?;
    let user = user::resolve(root.as_fd(), &program.user).map_err(|source| EngineError::User {
        user: program.user.clone(),
        source,
    })?;
    let mut environment = program.environment.clone();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        environment.push(format!("HOME={}", user.home));
    }
    let granted = spec::capabilities(&record.container).map_err(|source| spec_error(record, source))?;
    let built = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.groups)
        .build()
        .and_then(|user| {
            ProcessBuilder::default()
                .terminal(false)
                .user(user)
                .args(program.args.clone())
                .env(environment)
                .cwd(&program.working_dir)
                .capabilities(defaults::capabilities_of(granted))
                // Set-user-id programs gain nothing. The sysctls below serve what they were mostly used for.
                .no_new_privileges(true)
                .build()
        });
    let mut process = built.map_err(|source| bundle_error(record, source))?;
    // The limits that the agent runs under, not those of the library's example.
    process.set_rlimits(None);
    Ok(process)
}

fn assemble(plan: &Plan<'_>, process: Process, mounts: Vec<Mount>) -> Result<Spec, OciSpecError> {
    let granted = process
        .capabilities()
        .as_ref()
        .and_then(|sets| sets.bounding().clone())
        .unwrap_or_default();
    // Without these a program that is not root could neither serve a low port nor ping, which inside a network
    // namespace of its own endangers nobody.
    let sysctl: HashMap<String, String> = [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let linux = LinuxBuilder::default()
        .namespaces(namespaces(&plan.attachment.netns_path)?)
        .cgroups_path(plan.cgroup)
        .resources(resources(&plan.record.resources)?)
        .sysctl(sysctl)
        .seccomp(defaults::seccomp_for(&granted))
        .masked_paths(defaults::masked_paths())
        .readonly_paths(defaults::readonly_paths())
        .rootfs_propagation("rprivate")
        .build()?;
    SpecBuilder::default()
        .version("1.2.0")
        .root(
            RootBuilder::default()
                .path(plan.root)
                .readonly(plan.record.container.read_only)
                .build()?,
        )
        .process(process)
        .hostname(&plan.record.program.hostname)
        .mounts(mounts)
        .linux(linux)
        .build()
}

fn namespaces(network: &Path) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let own = [
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Cgroup,
    ];
    let mut all = own
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect::<Result<Vec<_>, _>>()?;
    all.push(
        LinuxNamespaceBuilder::default()
            .typ(LinuxNamespaceType::Network)
            .path(network)
            .build()?,
    );
    Ok(all)
}

/// Limits, and no device but those every container has, which the runtime adds.
fn resources(asked: &Resources) -> Result<LinuxResources, OciSpecError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let limit = |value: Option<u64>| value.filter(|value| *value > 0);
    let no_device = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm")
        .build()?;
    let pids = LinuxPidsBuilder::default()
        .limit(number(limit(asked.pids).unwrap_or(DEFAULT_PIDS)))
        .build()?;
    let mut all = LinuxResourcesBuilder::default()
        .devices(vec![no_device])
        .pids(pids);
    if let Some(bytes) = limit(asked.memory_bytes) {
        // Memory and swap together, so that nothing is swapped.
        let memory = LinuxMemoryBuilder::default()
            .limit(number(bytes))
            .swap(number(bytes));
        all = all.memory(memory.build()?);
    }
    if let Some(nano_cpus) = limit(asked.nano_cpus) {
        let quota_us = u128::from(nano_cpus) * u128::from(CPU_PERIOD_US) / u128::from(NANO_CPUS_PER_CPU);
        let quota_us = i64::try_from(quota_us).unwrap_or(i64::MAX);
        all = all.cpu(
            LinuxCpuBuilder::default()
                .period(CPU_PERIOD_US)
                .quota(quota_us)
                .build()?,
        );
    }
    all.build()
}

fn bind(source: &Path, target: &Path) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(target)
        .typ("bind")
        .source(source)
        .options(["bind", "rprivate"].map(str::to_owned).to_vec())
        .build()
}

/// The control group of a container below the agent's.
pub(super) fn cgroup(parent: &Path, id: &str) -> PathBuf {
    Path::new("/").join(parent).join(id)
}
