//! Mount options as words, sorted into what the kernel takes where.

use crate::failure::{Failure, Result};
use crate::sys::mount as kernel;

/// Options of one mount.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Options {
    /// `MOUNT_ATTR_*` to set.
    pub(super) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(super) clear: u64,
    /// As `set`, but on everything below as well.
    pub(super) set_below: u64,
    /// `MS_PRIVATE` and its kin; zero to leave it.
    pub(super) propagation: u64,
    /// Whether the propagation is that of everything below as well.
    pub(super) is_propagation_recursive: bool,
    /// `bind` or `rbind`.
    pub(super) is_bind: bool,
    /// `rbind`.
    pub(super) is_recursive: bool,
    /// What the file system itself understands.
    pub(super) data: Vec<String>,
}

impl Options {
    /// Sorts `words`.
    ///
    /// # Errors
    /// For an option that is known but not supported.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            match word.as_str() {
                "bind" => options.is_bind = true,
                "rbind" => (options.is_bind, options.is_recursive) = (true, true),
                "ro" => options.on(kernel::MOUNT_ATTR_RDONLY),
                "rw" => options.off(kernel::MOUNT_ATTR_RDONLY),
                "nosuid" => options.on(kernel::MOUNT_ATTR_NOSUID),
                "suid" => options.off(kernel::MOUNT_ATTR_NOSUID),
                "nodev" => options.on(kernel::MOUNT_ATTR_NODEV),
                "dev" => options.off(kernel::MOUNT_ATTR_NODEV),
                "noexec" => options.on(kernel::MOUNT_ATTR_NOEXEC),
                "exec" => options.off(kernel::MOUNT_ATTR_NOEXEC),
                "nodiratime" => options.on(kernel::MOUNT_ATTR_NODIRATIME),
                "diratime" => options.off(kernel::MOUNT_ATTR_NODIRATIME),
                "noatime" => options.time(kernel::MOUNT_ATTR_NOATIME),
                "relatime" | "atime" => options.time(kernel::MOUNT_ATTR_RELATIME),
                "strictatime" => options.time(kernel::MOUNT_ATTR_STRICTATIME),
                "rro" => options.set_below |= kernel::MOUNT_ATTR_RDONLY,
                "rnosuid" => options.set_below |= kernel::MOUNT_ATTR_NOSUID,
                "rnodev" => options.set_below |= kernel::MOUNT_ATTR_NODEV,
                "rnoexec" => options.set_below |= kernel::MOUNT_ATTR_NOEXEC,
                "private" | "rprivate" => options.spread(libc::MS_PRIVATE, word),
                "slave" | "rslave" => options.spread(libc::MS_SLAVE, word),
                "shared" | "rshared" => options.spread(libc::MS_SHARED, word),
                "unbindable" | "runbindable" => options.spread(libc::MS_UNBINDABLE, word),
                "tmpcopyup" | "idmap" | "ridmap" | "remount" => {
                    return Err(Failure::new(
                        "mount",
                        format!("mount option {word} is not supported"),
                    ));
                }
                "defaults" | "async" | "loud" | "norelatime" | "nostrictatime" => {}
                _ => options.data.push(word.clone()),
            }
        }
        Ok(options)
    }

    fn on(&mut self, attribute: u64) {
        self.set |= attribute;
        self.clear &= !attribute;
    }

    fn off(&mut self, attribute: u64) {
        self.clear |= attribute;
        self.set &= !attribute;
    }

    fn time(&mut self, attribute: u64) {
        self.set = self.set & !kernel::MOUNT_ATTR__ATIME | attribute;
        self.clear |= kernel::MOUNT_ATTR__ATIME;
    }

    fn spread(&mut self, propagation: libc::c_ulong, word: &str) {
        self.propagation = propagation;
        self.is_propagation_recursive = word.starts_with('r');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_and_the_last_one_wins() {
        let words = ["rbind", "ro", "rw", "nosuid", "rprivate", "size=64k"].map(str::to_owned);
        let options = Options::parse(&words).expect("parses");
        assert!(options.is_bind && options.is_recursive && options.is_propagation_recursive);
        assert_eq!(options.set, kernel::MOUNT_ATTR_NOSUID);
        assert_eq!(options.clear, kernel::MOUNT_ATTR_RDONLY);
        assert_eq!(options.data, ["size=64k"]);
    }
}
