//! Values as compose writes them: durations, byte sizes, processors, booleans, numbers.

/// A duration in milliseconds: `10s`, `1m30s`, `1.5h`, `500ms` (compose-spec 11-extension.md, Specifying durations).
///
/// # Errors
/// When it is none, saying how one is written.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is no duration; write it like 10s, 1m30s or 500ms");
    let mut rest = text.trim();
    let mut total_us: f64 = 0.0;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let number: f64 = number.parse().map_err(|_| error())?;
        let length = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(length);
        total_us += number
            * match unit.trim() {
                "us" | "µs" => 1.0,
                "ms" => 1e3,
                "s" => 1e6,
                "m" => 60e6,
                "h" => 3600e6,
                _ => return Err(error()),
            };
        rest = after;
    }
    let total_ms = (total_us / 1e3).ceil();
    // A year: beyond that it is a mistake, and far below what a number of milliseconds holds.
    if total_ms > 365.0 * 24.0 * 3600e3 {
        return Err(format!("{text:?} is more than a year"));
    }
    Ok(total_ms as u64)
}

/// A number of bytes: `64m`, `1.5gb`, `1024`; units are powers of 1024 (compose-spec, Specifying byte values).
///
/// # Errors
/// When it is none, saying how one is written.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is no size; write it like 64m, 1.5g or 1048576");
    let (number, unit) = split_number(text.trim());
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "b" => 1_u64,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        _ => return Err(error()),
    };
    let bytes = if let Ok(whole) = number.parse::<u64>() {
        whole.checked_mul(factor).ok_or_else(error)?
    } else {
        let fraction: f64 = number.parse().map_err(|_| error())?;
        (fraction * factor as f64) as u64
    };
    // Sizes are kept in signed columns and passed to the kernel as such.
    if bytes > i64::MAX as u64 {
        Err(error())
    } else {
        Ok(bytes)
    }
}

/// The digits at the beginning, and the rest.
fn split_number(text: &str) -> (&str, &str) {
    let length = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    text.split_at(length)
}

/// Processors in billionths: `0.5`, `2`. Exact, with at most nine digits behind the point.
///
/// # Errors
/// When it is none.
pub fn nano_cpus(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is no number of processors; write it like 0.5 or 2");
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > 9 || whole.len() + fraction.len() == 0 {
        return Err(error());
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| error())?
    };
    let fraction: u64 = format!("{fraction:0<9}").parse().map_err(|_| error())?;
    let nanos = whole
        .checked_mul(1_000_000_000)
        .and_then(|n| n.checked_add(fraction));
    match nanos {
        Some(nanos) if nanos > 0 && whole < 100_000 => Ok(nanos),
        Some(0) => Err(format!(
            "{text:?} processors is none at all; leave the key out for no limit"
        )),
        _ => Err(error()),
    }
}

/// `true` or `false`, in YAML's spellings.
///
/// # Errors
/// When it is neither.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// A whole number from `min` to `max`.
///
/// # Errors
/// When it is none.
pub fn integer(text: &str, min: u64, max: u64) -> Result<u64, String> {
    match text.trim().parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is no whole number from {min} to {max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_follow_compose() {
        for (text, expected) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1h0m1s", 3_601_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("1us", 1),
            ("0s", 0),
        ] {
            assert_eq!(duration_ms(text), Ok(expected), "{text}");
        }
        for text in ["", "10", "s", "10 parsecs", "-1s", "1..2s", "9999999h", "1e9s"] {
            assert!(duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_follow_compose() {
        for (text, expected) in [
            ("1024", 1024),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("1gb", 1 << 30),
            ("1GiB", 1 << 30),
            ("1.5k", 1536),
            ("2 kb", 2048),
            ("7b", 7),
        ] {
            assert_eq!(size_bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "m",
            "64q",
            "-1",
            "1bb",
            "1ib",
            "i",
            "99999999t",
            "1mmm",
            "1kbbb",
        ] {
            assert!(size_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn processors_are_exact() {
        assert_eq!(nano_cpus("0.1"), Ok(100_000_000));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        assert_eq!(nano_cpus(".5"), Ok(500_000_000));
        for text in [
            "",
            ".",
            "0",
            "0.0",
            "-1",
            "1e3",
            "0.1234567890",
            "1.2.3",
            "9999999999",
        ] {
            assert!(nano_cpus(text).is_err(), "{text}");
        }
    }
}
