//! Entries' names: bytes from an archive become a path below the root, a whiteout, or a refusal. No I/O.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Limits, Reason};

const PATH_MAX_BYTES: usize = 4095;
const NAME_MAX_BYTES: usize = 255;
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that AUFS kept for itself and that old images still carry; they mean nothing to anyone else.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// What an entry's name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The root directory itself.
    Root,
    /// A file of this name in this directory.
    File(Place),
    /// Hides a file of the layers below (image-spec layer.md, Whiteouts).
    Whiteout(Place),
    /// Hides everything that layers below have in this directory (Opaque Whiteout).
    Opaque(PathBuf),
    /// Nothing.
    Ignored,
}

/// A file's place: its directory relative to the root, empty for the root, and its name, one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) name: OsString,
}

impl Place {
    /// The whole path, relative to the root.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

impl Target {
    /// What an entry called `bytes` stands for.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, Reason> {
        let Some(place) = parse_place(bytes, limits)? else {
            return Ok(Self::Root);
        };
        let name = place.name.as_bytes();
        let is_component = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
        if name == OPAQUE {
            return Ok(Self::Opaque(place.directory));
        }
        if name.starts_with(AUFS_PREFIX) && name.len() > AUFS_PREFIX.len() {
            return Ok(Self::Ignored);
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            Some(hidden) if is_component(hidden) && !hidden.starts_with(WHITEOUT_PREFIX) => {
                Ok(Self::Whiteout(Place {
                    name: OsString::from_vec(hidden.to_vec()),
                    directory: place.directory,
                }))
            }
            Some(_) => Err(Reason::Whiteout),
            None => Ok(Self::File(place)),
        }
    }
}

/// The place that `bytes` name, or `None` for the root. A leading `/` or `./` means the image's root, as everywhere.
pub(super) fn parse_place(bytes: &[u8], limits: &Limits) -> Result<Option<Place>, Reason> {
    if bytes.contains(&0) {
        return Err(Reason::NulByte);
    }
    if bytes.len() > PATH_MAX_BYTES {
        return Err(Reason::NameTooLong);
    }
    let mut parts = Vec::new();
    for part in bytes.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Reason::ParentReference),
            part if part.len() > NAME_MAX_BYTES => return Err(Reason::NameTooLong),
            part => parts.push(OsStr::from_bytes(part)),
        }
    }
    if parts.len() > limits.depth {
        return Err(Reason::TooDeep { limit: limits.depth });
    }
    let Some(name) = parts.pop() else {
        return Ok(None);
    };
    Ok(Some(Place {
        directory: parts.iter().collect(),
        name: name.to_owned(),
    }))
}

/// A path for a message.
pub(super) fn printable(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<Target, Reason> {
        Target::parse(name.as_bytes(), &Limits::default())
    }

    fn place(directory: &str, name: &str) -> Place {
        Place {
            directory: directory.into(),
            name: name.into(),
        }
    }

    #[test]
    fn names_are_taken_relative_to_the_root_however_they_are_written() {
        for name in [
            "etc/passwd",
            "./etc/passwd",
            "/etc/passwd",
            "//etc/./passwd",
            "etc//passwd/",
        ] {
            assert_eq!(parse(name), Ok(Target::File(place("etc", "passwd"))), "{name}");
        }
        for name in ["", ".", "./", "/", "././/"] {
            assert_eq!(parse(name), Ok(Target::Root), "{name:?}");
        }
    }

    #[test]
    fn names_that_lead_upwards_are_refused() {
        for name in ["..", "../x", "a/../b", "a/..", "/..", "./../x"] {
            assert_eq!(parse(name), Err(Reason::ParentReference), "{name}");
        }
        assert_eq!(parse("a/..b/c..").ok(), Some(Target::File(place("a/..b", "c.."))));
    }

    #[test]
    fn whiteouts_name_a_sibling_or_are_refused() {
        assert_eq!(parse("a/.wh.b"), Ok(Target::Whiteout(place("a", "b"))));
        assert_eq!(parse(".wh.b"), Ok(Target::Whiteout(place("", "b"))));
        assert_eq!(parse("a/.wh..wh..opq"), Ok(Target::Opaque("a".into())));
        assert_eq!(parse("a/.wh..wh.plnk"), Ok(Target::Ignored));
        for name in ["a/.wh.", "a/.wh..", "a/.wh...", ".wh..", ".wh...", "a/.wh..wh."] {
            assert_eq!(parse(name), Err(Reason::Whiteout), "{name}");
        }
    }

    #[test]
    fn names_beyond_the_limits_are_refused() {
        assert_eq!(parse(&"x".repeat(256)), Err(Reason::NameTooLong));
        assert_eq!(parse(&"x/".repeat(2048)), Err(Reason::NameTooLong));
        assert_eq!(parse(&"x/".repeat(257)), Err(Reason::TooDeep { limit: 256 }));
        assert_eq!(parse("a\0b"), Err(Reason::NulByte));
        assert!(parse(&"x/".repeat(256)).is_ok());
    }
}
