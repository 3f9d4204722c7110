//! A bundle: a directory with a `config.json`. runtime-spec `bundle.md`, `config.md`.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::failure::{Context, Failure, Result};

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
        if self.spec.hostname().is_some() && self.namespace(LinuxNamespaceType::Uts).is_none() {
            return Err(Failure::new(STEP, "hostname is set without a uts namespace"));
        }
        if let Some(process) = self.spec.process() {
            check_process(process)?;
        }
        self.check_supported()
    }

    /// Refuses what is not carried out here: a setting that is silently dropped may be one that someone relies on.
    fn check_supported(&self) -> Result<()> {
        let linux = self.spec.linux().as_ref();
        let process = self.spec.process().as_ref();
        let is_set = [
            ("hooks", self.spec.hooks().is_some()),
            (
                "domainname",
                self.spec
                    .domainname()
                    .as_deref()
                    .is_some_and(|name| !name.is_empty()),
            ),
            (
                "linux.personality",
                linux.is_some_and(|l| l.personality().is_some()),
            ),
            (
                "linux.timeOffsets",
                linux.is_some_and(|l| {
                    l.time_offsets()
                        .as_ref()
                        .is_some_and(|offsets| !offsets.is_empty())
                }),
            ),
            (
                "process.scheduler",
                process.is_some_and(|p| p.scheduler().is_some()),
            ),
            (
                "process.ioPriority",
                process.is_some_and(|p| p.io_priority().is_some()),
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
    if process
        .apparmor_profile()
        .as_deref()
        .is_some_and(|name| !name.is_empty())
    {
        return Err(Failure::new(STEP, "process.apparmorProfile is not supported").advise("leave it out"));
    }
    if process
        .selinux_label()
        .as_deref()
        .is_some_and(|label| !label.is_empty())
    {
        return Err(Failure::new(STEP, "process.selinuxLabel is not supported").advise("leave it out"));
    }
    Ok(())
}
