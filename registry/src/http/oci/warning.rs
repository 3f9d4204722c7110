//! Warnings for the person behind a client (distribution-spec, Warnings): `Warning: 299 - "text"`.

use http::header::WARNING;
use http::{HeaderMap, HeaderValue};

/// The most bytes of all warnings of one response together.
const ALL_MAX_BYTES: usize = 4096;
/// The most of one, so that a long one leaves room for others.
const ONE_MAX_BYTES: usize = 1024;

/// Adds a warning, unless the response has as much of them as it may. Characters that clients fail to read in a
/// quoted string are replaced or left out.
pub fn add(headers: &mut HeaderMap, text: &str) {
    let text: String = text
        .chars()
        .map(|c| if matches!(c, '"' | '\\') { '\'' } else { c })
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .take(ONE_MAX_BYTES)
        .collect();
    let value = format!("299 - \"{text}\"");
    let sent: usize = headers.get_all(WARNING).iter().map(HeaderValue::len).sum();
    if sent + value.len() > ALL_MAX_BYTES {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.append(WARNING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_and_bounded_together() {
        let mut headers = HeaderMap::new();
        add(&mut headers, "a \"b\" \\ c\n\u{e4}");
        assert_eq!(headers[WARNING], "299 - \"a 'b' ' c\"");
        for _ in 0..10 {
            add(&mut headers, &"x".repeat(5000));
        }
        let all: usize = headers.get_all(WARNING).iter().map(HeaderValue::len).sum();
        assert!(
            all <= ALL_MAX_BYTES && headers.get_all(WARNING).iter().count() == 4,
            "{all}"
        );
    }
}
