//! Mount options as words, sorted into what the kernel takes where.

use crate::sys::mount as kernel;

/// Options of one mount.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Options {
    /// For this mount.
    pub(super) here: Attributes,
    /// For this mount and everything below it.
    pub(super) below: Attributes,
    /// `MS_PRIVATE` and its kin; zero to leave it.
    pub(super) propagation: u64,
    /// Whether the propagation is that of everything below as well.
    pub(super) is_propagation_recursive: bool,
    /// `bind` or `rbind`.
    pub(super) is_bind: bool,
    /// `rbind`.
    pub(super) is_recursive: bool,
    /// `remount`: change what is mounted there already.
    pub(super) is_remount: bool,
    /// `tmpcopyup`: begin with the content of what is mounted over.
    pub(super) is_copied_up: bool,
    /// `idmap`, `ridmap`.
    pub(super) idmap: Option<Idmap>,
    /// What the file system itself understands.
    pub(super) data: Vec<String>,
}

/// `MOUNT_ATTR_*` to set and to clear; no bit is in both but those of the access times, which the kernel wants so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

/// How far a mapping of ids reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Idmap {
    /// The mount itself.
    Here,
    /// Everything below it as well.
    Below,
}

/// Words that set and clear one attribute. With an `r` before them they reach everything below.
const SWITCHES: [(&str, &str, u64); 6] = [
    ("ro", "rw", kernel::MOUNT_ATTR_RDONLY),
    ("nosuid", "suid", kernel::MOUNT_ATTR_NOSUID),
    ("nodev", "dev", kernel::MOUNT_ATTR_NODEV),
    ("noexec", "exec", kernel::MOUNT_ATTR_NOEXEC),
    ("nodiratime", "diratime", kernel::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", "symfollow", kernel::MOUNT_ATTR_NOSYMFOLLOW),
];

/// Words that choose when access times are written. `atime` and the `no` forms ask for the kernel's default.
const TIMES: [(&str, u64); 6] = [
    ("noatime", kernel::MOUNT_ATTR_NOATIME),
    ("relatime", kernel::MOUNT_ATTR_RELATIME),
    ("atime", kernel::MOUNT_ATTR_RELATIME),
    ("norelatime", kernel::MOUNT_ATTR_STRICTATIME),
    ("strictatime", kernel::MOUNT_ATTR_STRICTATIME),
    ("nostrictatime", kernel::MOUNT_ATTR_RELATIME),
];

const PROPAGATIONS: [(&str, libc::c_ulong); 4] = [
    ("private", libc::MS_PRIVATE),
    ("slave", libc::MS_SLAVE),
    ("shared", libc::MS_SHARED),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words that say what the kernel does anyway, or that no kernel of today acts on.
const WITHOUT_EFFECT: [&str; 9] = [
    "defaults",
    "loud",
    "silent",
    "nomand",
    "mand",
    "iversion",
    "noiversion",
    "acl",
    "noacl",
];

/// Every option understood here, sorted, as `features` tells it.
pub(crate) fn known() -> Vec<String> {
    let mut all: Vec<String> = ["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"]
        .iter()
        .chain(&["sync", "async", "dirsync", "lazytime", "nolazytime"])
        .chain(&WITHOUT_EFFECT)
        .map(|word| (*word).to_owned())
        .collect();
    let plain = SWITCHES
        .iter()
        .flat_map(|(on, off, _)| [*on, *off])
        .chain(TIMES.iter().map(|(word, _)| *word))
        .chain(PROPAGATIONS.iter().map(|(word, _)| *word));
    for word in plain {
        all.extend([word.to_owned(), format!("r{word}")]);
    }
    all.sort();
    all
}

impl Options {
    /// Sorts `words`; of two that contradict each other the last one wins.
    pub(super) fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words {
            options.take(word);
        }
        options
    }

    fn take(&mut self, word: &str) {
        match word {
            "bind" => self.is_bind = true,
            "rbind" => (self.is_bind, self.is_recursive) = (true, true),
            "remount" => self.is_remount = true,
            "tmpcopyup" => self.is_copied_up = true,
            "idmap" => self.idmap = Some(Idmap::Here),
            "ridmap" => self.idmap = Some(Idmap::Below),
            word if WITHOUT_EFFECT.contains(&word) => {}
            word => {
                let below = word.strip_prefix('r');
                let is_taken = self.here.take(word)
                    || below.is_some_and(|word| self.below.take(word))
                    || self.spread(word, false)
                    || below.is_some_and(|word| self.spread(word, true));
                if !is_taken {
                    self.data.push(word.to_owned());
                }
            }
        }
    }

    fn spread(&mut self, word: &str, is_recursive: bool) -> bool {
        let Some((_, propagation)) = PROPAGATIONS.iter().find(|(known, _)| *known == word) else {
            return false;
        };
        (self.propagation, self.is_propagation_recursive) = (*propagation, is_recursive);
        true
    }
}

impl Attributes {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn take(&mut self, word: &str) -> bool {
        if let Some((on, _, attribute)) = SWITCHES.iter().find(|(on, off, _)| *on == word || *off == word) {
            let (add, remove) = if *on == word {
                (&mut self.set, &mut self.clear)
            } else {
                (&mut self.clear, &mut self.set)
            };
            *add |= attribute;
            *remove &= !attribute;
            return true;
        }
        let Some((_, attribute)) = TIMES.iter().find(|(known, _)| *known == word) else {
            return false;
        };
        self.set = self.set & !kernel::MOUNT_ATTR__ATIME | attribute;
        self.clear |= kernel::MOUNT_ATTR__ATIME;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_sorted_and_the_last_one_wins() {
        let options = parse(&["rbind", "ro", "rw", "nosuid", "rprivate", "size=64k"]);
        assert!(options.is_bind && options.is_recursive && options.is_propagation_recursive);
        assert_eq!(options.here.set, kernel::MOUNT_ATTR_NOSUID);
        assert_eq!(options.here.clear, kernel::MOUNT_ATTR_RDONLY);
        assert_eq!(options.data, ["size=64k"]);
    }

    #[test]
    fn an_r_reaches_below_without_catching_words_that_begin_with_one() {
        let options = parse(&["rro", "rnosuid", "relatime", "rnoatime", "rslave", "ro"]);
        assert_eq!(options.here.set, kernel::MOUNT_ATTR_RDONLY);
        assert_eq!(options.here.clear, kernel::MOUNT_ATTR__ATIME);
        let below = kernel::MOUNT_ATTR_RDONLY | kernel::MOUNT_ATTR_NOSUID | kernel::MOUNT_ATTR_NOATIME;
        assert_eq!(options.below.set, below);
        assert_eq!(options.propagation, libc::MS_SLAVE);
        assert!(options.data.is_empty());
    }

    #[test]
    fn every_option_that_is_told_is_understood() {
        let superblock = ["sync", "async", "dirsync", "lazytime", "nolazytime"];
        for word in known() {
            let options = parse(&[&word]);
            assert_eq!(
                options.data.is_empty(),
                !superblock.contains(&word.as_str()),
                "{word}"
            );
        }
    }
}
