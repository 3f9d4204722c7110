//! Profile files: a runtime-spec filter whose entries may depend on capabilities and architecture.
//!
//! The form is the one Docker documents for `--security-opt seccomp=FILE`, so an operator's existing
//! profile can be used as it is. Resolving removes the conditions.

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

/// A profile with its conditions.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    architectures: Option<Vec<Arch>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<oci_spec::runtime::Capability>,
    #[serde(default)]
    arches: Vec<String>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// When the text is not JSON of the documented form.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The filter for a container with the capabilities `granted` on this machine's architecture.
    pub fn resolve(&self, granted: &Capabilities) -> LinuxSeccomp {
        let (native, name) = native_arch();
        let architectures = self.architectures.clone().unwrap_or_else(|| {
            let mut all = vec![native];
            let map = self.arch_map.iter().find(|map| map.architecture == native);
            all.extend(
                map.into_iter()
                    .flat_map(|map| map.sub_architectures.clone().unwrap_or_default()),
            );
            all
        });
        let rules = self
            .syscalls
            .iter()
            .filter(|entry| entry.applies(granted, name))
            .map(Entry::rule);
        let mut filter = LinuxSeccompBuilder::default()
            .default_action(self.default_action)
            .architectures(architectures)
            .syscalls(rules.collect::<Vec<_>>())
            .build()
            .expect("every field has a default");
        filter.set_default_errno_ret(self.default_errno_ret);
        filter.set_flags(self.flags.clone());
        filter
    }
}

impl Entry {
    fn applies(&self, granted: &Capabilities, arch: &str) -> bool {
        let includes = &self.includes;
        let excludes = &self.excludes;
        includes.caps.iter().all(|cap| granted.contains(cap))
            && (includes.arches.is_empty() || includes.arches.iter().any(|name| name == arch))
            && !excludes.caps.iter().any(|cap| granted.contains(cap))
            && !excludes.arches.iter().any(|name| name == arch)
    }

    fn rule(&self) -> LinuxSyscall {
        let names: Vec<String> = self.names.iter().chain(&self.name).cloned().collect();
        let mut rule = LinuxSyscallBuilder::default()
            .names(names)
            .action(self.action)
            .build()
            .expect("every field has a default");
        rule.set_errno_ret(self.errno_ret);
        rule.set_args(self.args.clone());
        rule
    }
}

fn native_arch() -> (Arch, &'static str) {
    if cfg!(target_arch = "aarch64") {
        (Arch::ScmpArchAarch64, "arm64")
    } else {
        (Arch::ScmpArchX86_64, "amd64")
    }
}
