//! Conditional requests (RFC 9110, 13). The entity tag of content is its digest in quotes.

use http::HeaderMap;
use http::header::{AsHeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use oci::Digest;

use crate::db::{Condition, Named};

/// What a read is to answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The content.
    Send,
    /// 304: the client has it.
    NotModified,
    /// 412: it is not what the client wants.
    Failed,
}

/// The entity tag of content.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Judges `If-Match` and `If-None-Match` of a read, in the order of RFC 9110, 13.2.2.
pub fn judge(headers: &HeaderMap, digest: &Digest) -> Verdict {
    if let Some(wanted) = named(headers, IF_MATCH, Weak::NeverMatches)
        && !matches(&wanted, digest)
    {
        return Verdict::Failed;
    }
    match named(headers, IF_NONE_MATCH, Weak::Matches) {
        Some(known) if matches(&known, digest) => Verdict::NotModified,
        _ => Verdict::Send,
    }
}

/// The condition that `If-Match` and `If-None-Match` put on a change.
pub fn condition(headers: &HeaderMap) -> Condition {
    Condition {
        is: named(headers, IF_MATCH, Weak::NeverMatches),
        is_not: named(headers, IF_NONE_MATCH, Weak::Matches),
    }
}

/// Whether a range may be served: `If-Range` is absent or names the content. A date never does, since content has
/// none.
pub fn range_applies(headers: &HeaderMap, digest: &Digest) -> bool {
    match headers.get(IF_RANGE) {
        None => true,
        Some(value) => value.as_bytes() == etag(digest).as_bytes(),
    }
}

fn matches(named: &Named, digest: &Digest) -> bool {
    match named {
        Named::Anything => true,
        Named::OneOf(digests) => digests.contains(digest),
    }
}

/// How weak tags (`W/"…"`) compare; proxies that compress make them of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weak {
    Matches,
    NeverMatches,
}

/// The list of entity tags in a header, which may come on several lines. Tags that are no digests are left out: they
/// are none of ours and match nothing. Quotes are not insisted upon.
fn named(headers: &HeaderMap, name: impl AsHeaderName, weak: Weak) -> Option<Named> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    let mut digests = Vec::new();
    for tag in lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
    {
        let tag = tag.trim();
        if tag == "*" {
            return Some(Named::Anything);
        }
        let tag = match (tag.strip_prefix("W/"), weak) {
            (Some(_), Weak::NeverMatches) => continue,
            (Some(tag), Weak::Matches) => tag,
            (None, _) => tag,
        };
        digests.extend(tag.trim_matches('"').parse::<Digest>().ok());
    }
    Some(Named::OneOf(digests))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, String)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn reads_are_judged_by_both_headers() {
        let (this, other) = (Digest::sha256(b"this"), Digest::sha256(b"other"));
        let (this_tag, other_tag) = (|| etag(&this), || etag(&other));
        for (lines, verdict) in [
            (vec![], Verdict::Send),
            (vec![("if-none-match", this_tag())], Verdict::NotModified),
            (
                vec![("if-none-match", format!("W/{}", this_tag()))],
                Verdict::NotModified,
            ),
            (
                vec![("if-none-match", format!("{}, {}", other_tag(), this_tag()))],
                Verdict::NotModified,
            ),
            (vec![("if-none-match", "*".to_owned())], Verdict::NotModified),
            (vec![("if-none-match", other_tag())], Verdict::Send),
            (vec![("if-none-match", "\"x\"".to_owned())], Verdict::Send),
            (
                vec![("if-none-match", other_tag()), ("if-none-match", this_tag())],
                Verdict::NotModified,
            ),
            (vec![("if-match", this_tag())], Verdict::Send),
            (vec![("if-match", "*".to_owned())], Verdict::Send),
            (vec![("if-match", other_tag())], Verdict::Failed),
            (vec![("if-match", format!("W/{}", this_tag()))], Verdict::Failed),
            (
                vec![("if-match", this_tag()), ("if-none-match", this_tag())],
                Verdict::NotModified,
            ),
        ] {
            assert_eq!(judge(&headers(&lines), &this), verdict, "{lines:?}");
        }
    }

    #[test]
    fn ranges_apply_only_to_the_content_named() {
        let digest = Digest::sha256(b"this");
        assert!(range_applies(&headers(&[]), &digest));
        assert!(range_applies(&headers(&[("if-range", etag(&digest))]), &digest));
        assert!(!range_applies(
            &headers(&[("if-range", format!("W/{}", etag(&digest)))]),
            &digest
        ));
        let date = "Wed, 21 Oct 2015 07:28:00 GMT".to_owned();
        assert!(!range_applies(&headers(&[("if-range", date)]), &digest));
    }
}
