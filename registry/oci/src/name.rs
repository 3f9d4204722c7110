//! Repository names and tags (distribution-spec, Pulling manifests: `<name>` and `<reference>` grammars).

use std::fmt;
use std::str::FromStr;

use crate::digest::bounded;

/// The longest repository name accepted, in bytes. Clients limit host and name together to 255.
pub const NAME_MAX_BYTES: usize = 255;
/// The longest tag, in bytes, by the specification's grammar.
pub const TAG_MAX_BYTES: usize = 128;

/// Why a text is not a repository name or a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a repository name.
    #[error(
        "repository name {0:?} is invalid; it takes path components of a-z and 0-9, joined inside by one of \
         '.', '_', '__' or any number of '-', separated by '/', at most {NAME_MAX_BYTES} bytes"
    )]
    Repository(String),
    /// Not a tag.
    #[error(
        "tag {0:?} is invalid; it starts with a letter, a digit or '_', goes on with those, '.' and '-', and \
         has at most {TAG_MAX_BYTES} characters"
    )]
    Tag(String),
}

macro_rules! text_newtype {
    ($type:ident) => {
        impl $type {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A repository's name, such as `library/busybox`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(String);
text_newtype!(RepositoryName);

impl RepositoryName {
    /// The first path component, which names the namespace.
    pub fn namespace(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= NAME_MAX_BYTES && text.split('/').all(is_path_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Repository(bounded(text)))
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let run = rest.iter().take_while(|b| is_alphanumeric(b)).count();
        if run == 0 {
            return false;
        }
        rest = &rest[run..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.iter().take_while(|b| !is_alphanumeric(b)).count();
        let is_valid = match &rest[..separator] {
            b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|b| *b == b'-'),
        };
        if !is_valid {
            return false;
        }
        rest = &rest[separator..];
    }
}

/// A tag, such as `latest`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);
text_newtype!(Tag);

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_valid = text.len() <= TAG_MAX_BYTES
            && text.bytes().next().is_some_and(is_word)
            && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-');
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Tag(bounded(text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_of_the_grammar_are_accepted() {
        let longest = "a".repeat(NAME_MAX_BYTES);
        for text in [
            "a",
            "library/busybox",
            "a.b_c__d-e---f/0/tags/list",
            "x/blobs",
            "a/manifests/b",
            &longest,
        ] {
            assert!(text.parse::<RepositoryName>().is_ok(), "{text}");
        }
    }

    #[test]
    fn repository_names_outside_the_grammar_are_refused() {
        let too_long = "a".repeat(NAME_MAX_BYTES + 1);
        for text in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "a._b", "..", "a/../b", "a b",
            "a%2fb", "é", "a\n", "a:b", "a@b", &too_long,
        ] {
            assert!(text.parse::<RepositoryName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn tags_follow_the_grammar() {
        let longest = "t".repeat(TAG_MAX_BYTES);
        for text in ["latest", "_", "1.0-rc.1", "A", &longest] {
            assert!(text.parse::<Tag>().is_ok(), "{text}");
        }
        let too_long = "t".repeat(TAG_MAX_BYTES + 1);
        for text in ["", ".a", "-a", "a/b", "a:b", "a b", "ü", &too_long] {
            assert!(text.parse::<Tag>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn namespace_is_the_first_component() {
        let name: RepositoryName = "acme/team/web".parse().unwrap();
        assert_eq!(name.namespace(), "acme");
    }
}
