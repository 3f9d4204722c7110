//! Patterns of repository names, for policies that are set for many repositories at once.

use std::fmt;
use std::str::FromStr;

use crate::digest::bounded;
use crate::name::{NAME_MAX_BYTES, RepositoryName};

/// A pattern of repository names: `*` stands for any characters of one component, a component `**` for any number of
/// components, none included.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RepositoryPattern(String);

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "repository pattern {0:?} is invalid; it is a repository name in which `*` stands for characters of one \
     component and `**` for any number of components"
)]
pub struct PatternError(String);

impl RepositoryPattern {
    /// Whether the whole of `name` fits.
    pub fn matches(&self, name: &RepositoryName) -> bool {
        let pattern: Vec<&str> = self.0.split('/').collect();
        let name: Vec<&str> = name.as_str().split('/').collect();
        fits(
            &pattern,
            &name,
            &|component| *component == "**",
            &|pattern, text| {
                let pattern: Vec<char> = pattern.chars().collect();
                let text: Vec<char> = text.chars().collect();
                fits(&pattern, &text, &|c| *c == '*', &|a, b| a == b)
            },
        )
    }
}

/// Whether `text` fits `pattern`, in which a wild item stands for any number of items. Goes back only to the last wild
/// item, so that hostile patterns cost no more than the product of the lengths.
fn fits<P, T>(
    pattern: &[P],
    text: &[T],
    is_wild: &dyn Fn(&P) -> bool,
    equal: &dyn Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut resume: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(item) if is_wild(item) => {
                resume = Some((p + 1, t));
                p += 1;
            }
            Some(item) if equal(item, &text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match resume {
                Some((after, at)) => {
                    resume = Some((after, at + 1));
                    (p, t) = (after, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(is_wild)
}

impl FromStr for RepositoryPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let is_allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'*');
        let is_component = |c: &str| !c.is_empty() && c.bytes().all(is_allowed);
        if text.len() <= NAME_MAX_BYTES && text.split('/').all(is_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PatternError(bounded(text)))
        }
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_in_a_component_and_double_stars_do_not() {
        for (pattern, name, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/*", "a", false),
            ("a/b*d", "a/bcd", true),
            ("a/b*d*f", "a/bdxxd", false),
            ("**", "a/b/c", true),
            ("a/**", "a", true),
            ("a/**", "a/b/c", true),
            ("a/**", "ab/c", false),
            ("**/cache", "x/y/cache", true),
            ("**/cache", "cache", true),
            ("**/cache", "cache/x", false),
            ("a/**/z", "a/z", true),
        ] {
            let parsed: RepositoryPattern = pattern.parse().unwrap();
            assert_eq!(
                parsed.matches(&name.parse().unwrap()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn nonsense_is_no_pattern() {
        for text in ["", "/", "a//b", "A", "a b", "a?"] {
            assert!(text.parse::<RepositoryPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let pattern: RepositoryPattern = "a*".repeat(100).parse().unwrap();
        let name: RepositoryName = "a".repeat(99).parse().unwrap();
        assert!(!pattern.matches(&name));
    }
}
