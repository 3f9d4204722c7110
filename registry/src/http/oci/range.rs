//! `Range` of reads (RFC 9110, 14.2) and `Content-Range` of uploads (distribution-spec, end-5: `START-END`).

use std::ops::Range;

/// What a `Range` header asks of content of a known size.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: no header, another unit, or several ranges, which may be answered with the whole.
    Whole,
    /// One range, cut to the size.
    Part(Range<u64>),
    /// A range that the content does not have.
    Unsatisfiable,
}

/// Reads a `Range` header for content of `size` bytes.
pub fn parse(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-').filter(|_| !spec.contains(',')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u64>())
    };
    match (number(first), number(last)) {
        (Some(Ok(first)), _) if first >= size => Wanted::Unsatisfiable,
        (Some(Ok(first)), Some(Ok(last))) if last < first => Wanted::Unsatisfiable,
        (Some(Ok(first)), Some(Ok(last))) => Wanted::Part(first..last.saturating_add(1).min(size)),
        (Some(Ok(first)), None) if last.is_empty() => Wanted::Part(first..size),
        (None, Some(Ok(count))) if first.is_empty() => match count.min(size) {
            0 => Wanted::Unsatisfiable,
            count => Wanted::Part(size - count..size),
        },
        (Some(Err(_)), _) | (_, Some(Err(_))) => Wanted::Unsatisfiable,
        _ => Wanted::Whole,
    }
}

/// Reads the `Content-Range` of a chunk; `None` when it is malformed. The end is inclusive on the wire.
pub fn parse_content_range(header: &str) -> Option<Range<u64>> {
    let (start, end) = header.strip_prefix("bytes ").unwrap_or(header).split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(start) || !is_number(end) {
        return None;
    }
    let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
    (start <= end).then(|| Some(start..end.checked_add(1)?))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_cut_to_the_size() {
        for (header, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=2-100", Wanted::Part(2..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-30", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=5-0", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(parse(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(parse(None, 10), Wanted::Whole);
    }

    #[test]
    fn content_ranges_have_no_unit() {
        assert_eq!(parse_content_range("0-99"), Some(0..100));
        for header in ["", "-", "5", "9-0", "a-b", "0-+1", "0-18446744073709551615"] {
            assert_eq!(parse_content_range(header), None, "{header}");
        }
    }
}
