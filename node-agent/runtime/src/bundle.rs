//! A bundle: a directory with a `config.json`. runtime-spec `bundle.md`, `config.md`.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::failure::{Context, Failure, Result};
use crate::label;

const STEP: &str = "bundle";

/// A bundle that has been read and found consistent.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Absolute path of the directory.
    pub path: PathBuf,
    /// The configuration.
    pub spec: Spec,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
}

impl Bundle {
    /// Reads the bundle in `directory`.
    ///
    /// # Errors
    /// When `config.json` is missing, is not a configuration, or asks for what no Linux container can be.
    pub fn load(directory: &Path) -> Result<Self> {
        let path =
            fs::canonicalize(directory).step(STEP, || format!("open bundle {}", directory.display()))?;
        let file = path.join("config.json");
        let text = fs::read(&file).step(STEP, || format!("read {}", file.display()))?;
        let spec: Spec = serde_json::from_slice(&text).step(STEP, || format!("parse {}", file.display()))?;
        let Some(root) = spec.root() else {
            return Err(Failure::new(STEP, format!("{} has no root", file.display())));
        };
        let rootfs = path.join(root.path());
        let rootfs = fs::canonicalize(&rootfs).step(STEP, || format!("open rootfs {}", rootfs.display()))?;
        let bundle = Self { path, spec, rootfs };
        bundle.check()?;
        Ok(bundle)
    }

    /// The program to run.
    ///
    /// # Errors
    /// When the configuration has none.
    pub fn process(&self) -> Result<&Process> {
        self.spec
            .process()
            .as_ref()
            .ok_or_else(|| Failure::new(STEP, "config.json has no process"))
    }

    /// Whether a namespace of this type is asked for, and the path to join if it is not a new one.
    pub fn namespace(&self, kind: LinuxNamespaceType) -> Option<Option<&Path>> {
        let linux = self.spec.linux().as_ref()?;
        let found = linux
            .namespaces()
            .iter()
            .flatten()
            .find(|namespace| namespace.typ() == kind)?;
        Some(found.path().as_deref())
    }

    fn check(&self) -> Result<()> {
        if self.namespace(LinuxNamespaceType::Mount).is_none() {
            return Err(Failure::new(STEP, "linux.namespaces lists no mount namespace")
                .advise("a container without its own mounts would change the host's"));
        }
        if let Some(linux) = self.spec.linux() {
            let kinds: Vec<_> = linux
                .namespaces()
                .iter()
                .flatten()
                .map(|namespace| namespace.typ())
                .collect();
            for (at, kind) in kinds.iter().enumerate() {
                if kinds[..at].contains(kind) {
                    return Err(Failure::new(STEP, format!("linux.namespaces lists {kind} twice")));
                }
            }
        }
        if is_named(self.spec.hostname()) && self.namespace(LinuxNamespaceType::Uts).is_none() {
            return Err(Failure::new(STEP, "hostname is set without a uts namespace"));
        }
        if is_named(self.spec.domainname()) && self.namespace(LinuxNamespaceType::Uts).is_none() {
            return Err(Failure::new(STEP, "domainname is set without a uts namespace"));
        }
        self.check_time()?;
        self.check_users()?;
        if let Some(process) = self.spec.process() {
            check_process(process)?;
        }
        self.check_supported()
    }

    fn check_time(&self) -> Result<()> {
        let offsets = self
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.time_offsets().as_ref());
        let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else {
            return Ok(());
        };
        if self.namespace(LinuxNamespaceType::Time) != Some(None) {
            return Err(Failure::new(
                STEP,
                "linux.timeOffsets is set without a new time namespace",
            ));
        }
        match offsets
            .keys()
            .find(|clock| !matches!(clock.as_str(), "monotonic" | "boottime"))
        {
            Some(clock) => Err(
                Failure::new(STEP, format!("linux.timeOffsets has no clock {clock:?}"))
                    .advise("there are monotonic and boottime"),
            ),
            None => Ok(()),
        }
    }

    fn check_users(&self) -> Result<()> {
        let Some(linux) = self.spec.linux() else {
            return Ok(());
        };
        let count = |maps: &Option<Vec<_>>| maps.as_ref().map_or(0, Vec::len);
        let (uids, gids) = (count(linux.uid_mappings()), count(linux.gid_mappings()));
        match self.namespace(LinuxNamespaceType::User) {
            Some(None) if uids == 0 || gids == 0 => Err(Failure::new(
                STEP,
                "a new user namespace needs linux.uidMappings and linux.gidMappings",
            )),
            None if uids + gids > 0 => Err(Failure::new(STEP, "ids are mapped without a user namespace")),
            _ => Ok(()),
        }
    }

    /// Refuses what is not carried out here: a setting that is silently dropped may be one that someone relies on.
    fn check_supported(&self) -> Result<()> {
        let linux = self.spec.linux().as_ref();
        let process = self.spec.process().as_ref();
        let is_set = [
            (
                "process.execCPUAffinity",
                process.is_some_and(|p| p.exec_cpu_affinity().is_some()),
            ),
            ("linux.intelRdt", linux.is_some_and(|l| l.intel_rdt().is_some())),
            (
                "linux.memoryPolicy",
                linux.is_some_and(|l| l.memory_policy().is_some()),
            ),
            (
                "linux.netDevices",
                linux.is_some_and(|l| {
                    l.net_devices()
                        .as_ref()
                        .is_some_and(|devices| !devices.is_empty())
                }),
            ),
        ];
        match is_set.iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => {
                Err(Failure::new(STEP, format!("{name} is not supported")).advise("leave it out"))
            }
            None => Ok(()),
        }
    }
}

/// Refuses a process that cannot be executed.
///
/// # Errors
/// Without arguments, or with a relative working directory.
pub fn check_process(process: &Process) -> Result<()> {
    if process.args().as_deref().unwrap_or(&[]).is_empty() {
        return Err(Failure::new(STEP, "process.args is empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Failure::new(
            STEP,
            format!("process.cwd {:?} is not absolute", process.cwd()),
        ));
    }
    label::check(process)
}

fn is_named(name: &Option<String>) -> bool {
    name.as_deref().is_some_and(|name| !name.is_empty())
}
