//! Where an image is: the grammar of SRC and DST.

use std::path::PathBuf;
use std::str::FromStr;

use oci::reference::ReferenceError;
use oci::{ImageReference, Tag};

/// A place for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `docker-archive:FILE`, as `docker save` writes it.
    Archive(PathBuf),
    /// `oci:DIR[:TAG]`, an OCI image layout.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// The tag; the only image of the layout where `None`.
        tag: Option<String>,
    },
    /// `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`, also with `docker://` before it.
    Registry(ImageReference),
}

/// Why a text names no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Nothing behind the prefix.
    #[error("{0:?} names no file; write docker-archive:FILE or oci:DIR[:TAG]")]
    Empty(String),
    /// Not an image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let empty = || PlaceError::Empty(text.to_owned());
        if let Some(path) = text.strip_prefix("docker-archive:") {
            return if path.is_empty() {
                Err(empty())
            } else {
                Ok(Self::Archive(path.into()))
            };
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (directory, tag) = match rest.rsplit_once(':') {
                // A colon inside a path component is part of the path.
                Some((directory, tag)) if tag.parse::<Tag>().is_ok() => (directory, Some(tag.to_owned())),
                _ => (rest, None),
            };
            return if directory.is_empty() {
                Err(empty())
            } else {
                Ok(Self::Layout {
                    directory: directory.into(),
                    tag,
                })
            };
        }
        Ok(Self::Registry(
            text.strip_prefix("docker://").unwrap_or(text).parse()?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_place_is_recognised() {
        assert_eq!(
            "docker-archive:/a/b.tar".parse::<Place>().unwrap(),
            Place::Archive("/a/b.tar".into())
        );
        let layout = |directory: &str, tag: Option<&str>| Place::Layout {
            directory: directory.into(),
            tag: tag.map(str::to_owned),
        };
        assert_eq!("oci:dir".parse::<Place>().unwrap(), layout("dir", None));
        assert_eq!(
            "oci:/a:b/dir:v1".parse::<Place>().unwrap(),
            layout("/a:b/dir", Some("v1"))
        );
        assert_eq!("oci:/a:b/dir".parse::<Place>().unwrap(), layout("/a:b/dir", None));
        assert!(matches!("localhost:5000/a:b".parse(), Ok(Place::Registry(_))));
        assert!(matches!(
            "docker://localhost:5000/a:b".parse(),
            Ok(Place::Registry(_))
        ));
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in ["", "oci:", "docker-archive:", "busybox", "HOST/UPPER"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
