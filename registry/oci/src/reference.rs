//! What a manifest is asked for by: a tag or a digest; and the full image reference that people type.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError, bounded};
use crate::name::{NameError, RepositoryName, Tag};

/// A tag or a digest inside one repository (distribution-spec, `<reference>`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By tag: what it names may change.
    Tag(Tag),
    /// By digest: immutable.
    Digest(Digest),
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It contains a colon and so must be a digest, and is not.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It is not a tag, or a name in it is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An image reference without a registry host.
    #[error("image reference {0:?} names no registry; write HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]")]
    NoHost(String),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        // A tag cannot contain a colon, so the two grammars do not overlap.
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

/// `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]` with a host: nothing is completed silently here, since which
/// registry a bare name means is a policy of the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// Registry host, with a port where one was given.
    pub host: String,
    /// Repository within the registry.
    pub repository: RepositoryName,
    /// Tag, where one was given.
    pub tag: Option<Tag>,
    /// Digest, where one was given; it wins over the tag.
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// What to ask the registry for: the digest, else the tag, else `latest`.
    pub fn reference(&self) -> Reference {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Reference::Digest(digest.clone()),
            (None, Some(tag)) => Reference::Tag(tag.clone()),
            (None, None) => Reference::Tag("latest".parse().expect("`latest` is a tag by the grammar")),
        }
    }

    /// Splits `text` into a host, if its first component looks like one, and the rest, as docker does: a host
    /// contains a dot or a colon or is `localhost`.
    pub fn split_host(text: &str) -> (Option<&str>, &str) {
        match text.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
            _ => (None, text),
        }
    }

    /// Parses `text`, taking `default_host` where it names none.
    ///
    /// # Errors
    /// When the name, tag or digest is malformed.
    pub fn parse_with_default_host(text: &str, default_host: &str) -> Result<Self, ReferenceError> {
        let (host, rest) = Self::split_host(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse::<Tag>()?)),
            None => (rest, None),
        };
        Ok(Self {
            host: host.unwrap_or(default_host).to_owned(),
            repository: repository.parse()?,
            tag,
            digest,
        })
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        match Self::split_host(text) {
            (Some(host), _) => Self::parse_with_default_host(text, host),
            (None, _) => Err(ReferenceError::NoHost(bounded(text))),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colon_means_digest() {
        assert!(matches!("latest".parse(), Ok(Reference::Tag(_))));
        assert!(matches!(
            Digest::sha256(b"").to_string().parse(),
            Ok(Reference::Digest(_))
        ));
        assert!("sha256:short".parse::<Reference>().is_err());
    }

    #[test]
    fn image_references_round_trip() {
        let digest = Digest::sha256(b"x");
        for text in [
            "localhost/a:b".to_owned(),
            "reg.example.org:5000/acme/web:1".to_owned(),
            format!("127.0.0.1:5000/a@{digest}"),
            format!("127.0.0.1:5000/a:t@{digest}"),
        ] {
            assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn image_reference_needs_a_host_unless_given_one() {
        assert!("library/busybox".parse::<ImageReference>().is_err());
        let image = ImageReference::parse_with_default_host("library/busybox", "r:1").unwrap();
        assert_eq!(
            (image.host.as_str(), image.reference().to_string().as_str()),
            ("r:1", "latest")
        );
    }
}
