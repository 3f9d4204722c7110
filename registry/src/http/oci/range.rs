//! `Range` of reads (RFC 9110, 14.2) and `Content-Range` of uploads (distribution-spec, end-5: `START-END`).

use std::ops::Range;

/// The most ranges of one request. podman asks again for fewer and larger ones when it is told 400.
pub const RANGES_MAX: usize = 64;

/// What a `Range` header asks of content of a known size.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: no header, another unit, or one that cannot be read.
    Whole,
    /// These ranges, cut to the size, at least one, in the order asked for, none overlapping another.
    Parts(Vec<Range<u64>>),
    /// Nothing that the content has, or a range that ends before it begins.
    Unsatisfiable,
    /// More than [`RANGES_MAX`] ranges.
    TooMany,
}

/// Reads a `Range` header for content of `size` bytes. Ranges that the content does not have are left out, as long as
/// there are others.
///
/// Overlapping ranges are joined, so that no request makes more bytes than the content has. Those that only touch are
/// not: podman counts the parts and expects as many as it asked for.
pub fn parse(header: Option<&str>, size: u64) -> Wanted {
    let Some((unit, specs)) = header.and_then(|h| h.trim().split_once('=')) else {
        return Wanted::Whole;
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let specs = specs.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    let mut parts: Vec<Range<u64>> = Vec::new();
    let (mut count, mut is_reversed) = (0, false);
    for spec in specs {
        count += 1;
        if count > RANGES_MAX {
            return Wanted::TooMany;
        }
        match parse_one(spec, size) {
            One::Part(part) => join(&mut parts, part),
            One::Beyond => {}
            One::Reversed => is_reversed = true,
            One::Malformed => return Wanted::Whole,
        }
    }
    if count == 0 {
        Wanted::Whole
    } else if parts.is_empty() || is_reversed {
        Wanted::Unsatisfiable
    } else {
        Wanted::Parts(parts)
    }
}

enum One {
    Part(Range<u64>),
    Beyond,
    Reversed,
    Malformed,
}

fn parse_one(spec: &str, size: u64) -> One {
    let Some((first, last)) = spec.split_once('-') else {
        return One::Malformed;
    };
    // A number that does not fit is larger than any size.
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if last < first => One::Reversed,
        (Some(first), _) if first >= size && (last.is_empty() || number(last).is_some()) => One::Beyond,
        (Some(first), Some(last)) => One::Part(first..last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => One::Part(first..size),
        (None, Some(count)) if first.is_empty() => match count.min(size) {
            0 => One::Beyond,
            count => One::Part(size - count..size),
        },
        _ => One::Malformed,
    }
}

fn join(parts: &mut Vec<Range<u64>>, mut part: Range<u64>) {
    // A joined range takes the place of the first that it joins; joining may make it reach further ones.
    let mut place = None;
    let mut index = 0;
    while index < parts.len() {
        if parts[index].start < part.end && part.start < parts[index].end {
            let other = parts.remove(index);
            place = Some(place.map_or(index, |place: usize| place.min(index)));
            part = part.start.min(other.start)..part.end.max(other.end);
            index = 0;
        } else {
            index += 1;
        }
    }
    let place = place.unwrap_or(parts.len());
    parts.insert(place, part);
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
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn parts(parts: &[(u64, u64)]) -> Wanted {
        Wanted::Parts(parts.iter().map(|&(start, end)| start..end).collect())
    }

    #[test]
    fn single_ranges_are_cut_to_the_size() {
        for (header, wanted) in [
            ("bytes=0-0", parts(&[(0, 1)])),
            ("bytes=2-", parts(&[(2, 10)])),
            ("bytes=2-100", parts(&[(2, 10)])),
            ("bytes=-3", parts(&[(7, 10)])),
            ("bytes=-30", parts(&[(0, 10)])),
            ("Bytes=1-1", parts(&[(1, 2)])),
            ("bytes=0-99999999999999999999", parts(&[(0, 10)])),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=10-20", Wanted::Unsatisfiable),
            ("bytes=5-0", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=20-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=5", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("nonsense", Wanted::Whole),
        ] {
            assert_eq!(parse(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(parse(None, 10), Wanted::Whole);
        assert_eq!(parse(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn several_ranges_keep_their_order_and_overlapping_ones_are_joined() {
        for (header, wanted) in [
            ("bytes=0-1, 4-5", parts(&[(0, 2), (4, 6)])),
            ("bytes=8-9,0-1", parts(&[(8, 10), (0, 2)])),
            ("bytes=0-1,2-3", parts(&[(0, 2), (2, 4)])),
            ("bytes=0-3,2-5", parts(&[(0, 6)])),
            ("bytes=0-1,8-9,1-8", parts(&[(0, 10)])),
            ("bytes=8-9,0-1,4-5,1-4", parts(&[(8, 10), (0, 6)])),
            ("bytes=0-1,20-30,-1", parts(&[(0, 2), (9, 10)])),
            ("bytes=20-30,40-", Wanted::Unsatisfiable),
            ("bytes=0-1,5-4", Wanted::Unsatisfiable),
            ("bytes=0-1,x", Wanted::Whole),
        ] {
            assert_eq!(parse(Some(header), 10), wanted, "{header}");
        }
        let many = |count| format!("bytes={}", vec!["0-0"; count].join(","));
        assert_eq!(parse(Some(&many(64)), 10), parts(&[(0, 1)]));
        assert_eq!(parse(Some(&many(65)), 10), Wanted::TooMany);
    }

    proptest! {
        #[test]
        fn any_header_gives_ranges_within_the_content(header in ".{0,80}", size in any::<u64>()) {
            check(parse(Some(&header), size), size)?;
        }

        #[test]
        fn ranges_as_clients_write_them_cover_exactly_what_was_asked_for(
            wanted in vec((0u64..300, proptest::option::of(0u64..300)), 1..20),
            size in 0u64..256,
        ) {
            let specs: Vec<String> = wanted
                .iter()
                .map(|(first, last)| match last {
                    Some(last) => format!("{first}-{}", first + last),
                    None => format!("{first}-"),
                })
                .collect();
            let found = parse(Some(&format!("bytes={}", specs.join(","))), size);
            let covered = |byte: u64| match &found {
                Wanted::Parts(parts) => parts.iter().any(|p| p.contains(&byte)),
                _ => false,
            };
            for byte in 0..size {
                let is_wanted = wanted
                    .iter()
                    .any(|(first, last)| byte >= *first && last.is_none_or(|last| byte <= first + last));
                prop_assert_eq!(covered(byte), is_wanted, "byte {}", byte);
            }
            check(found, size)?;
        }

        #[test]
        fn content_ranges_survive_a_round_trip(start in 0..u64::MAX / 2, length in 1..u64::MAX / 2) {
            let range = start..start + length;
            prop_assert_eq!(parse_content_range(&format!("{}-{}", start, range.end - 1)), Some(range));
        }

        #[test]
        fn any_content_range_is_read_or_refused(header in "[0-9a-z -]{0,50}") {
            if let Some(range) = parse_content_range(&header) {
                prop_assert!(range.start < range.end);
            }
        }
    }

    fn check(wanted: Wanted, size: u64) -> Result<(), TestCaseError> {
        if let Wanted::Parts(parts) = wanted {
            prop_assert!(!parts.is_empty());
            for (index, part) in parts.iter().enumerate() {
                prop_assert!(part.start < part.end && part.end <= size);
                for other in &parts[..index] {
                    prop_assert!(part.end <= other.start || other.end <= part.start);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn content_ranges_have_no_unit() {
        assert_eq!(parse_content_range("0-99"), Some(0..100));
        for header in ["", "-", "5", "9-0", "a-b", "0-+1", "0-18446744073709551615"] {
            assert_eq!(parse_content_range(header), None, "{header}");
        }
    }
}
