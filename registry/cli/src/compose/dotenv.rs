//! Files of variables: `.env` beside the compose file, and those that `env_file` names.

use std::collections::BTreeMap;

use super::interpolate::{Variables, expand};

/// The largest file accepted, in bytes.
pub const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// What may stand between a name and its value.
const BLANK: [char; 2] = [' ', '\t'];

/// A problem in a file of variables.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct DotenvError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With quotes, comments behind values, and variables.
    Compose,
    /// As they are, to the end of the line.
    Raw,
}

/// Parses a file. Values may use variables of `variables` and of earlier lines; a name without `=` takes its value
/// from `variables`, and is absent when there is none.
///
/// # Errors
/// At the first line that is malformed.
pub fn parse(
    text: &str,
    format: Format,
    variables: &Variables,
) -> Result<BTreeMap<String, String>, DotenvError> {
    let mut values = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let at = line;
        let error = |what: String| DotenvError { line: at, what };
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let first = first.trim_end_matches('\r').trim_start();
        if first.is_empty() || first.starts_with('#') {
            rest = after;
            continue;
        }
        let first = first.strip_prefix("export ").unwrap_or(first).trim_start();
        let Some((name, value)) = first.split_once('=') else {
            let name = first.split('#').next().unwrap_or_default().trim();
            check_name(name).map_err(error)?;
            if let Some(value) = variables.get(name) {
                values.insert(name.to_owned(), value.to_owned());
            }
            rest = after;
            continue;
        };
        let name = name.trim_end();
        check_name(name).map_err(error)?;
        let value = value.trim_start_matches(BLANK);
        let value = match (format, value.chars().next()) {
            (Format::Raw, _) => {
                rest = after;
                value.to_owned()
            }
            (Format::Compose, Some(quote @ ('\'' | '"'))) => {
                // A quoted value may go on over several lines: it is searched for in the whole rest.
                let source = rest.split_once('=').map_or("", |(_, value)| value);
                let source = source.trim_start_matches(BLANK).get(1..).unwrap_or_default();
                let (quoted, length) =
                    quoted(source, quote).ok_or_else(|| error(format!("{name}: {quote} is not closed")))?;
                line += source[..length].matches('\n').count();
                let tail = &source[length + 1..];
                let (tail, next) = tail.split_once('\n').unwrap_or((tail, ""));
                let tail = tail.trim();
                if !tail.is_empty() && !tail.starts_with('#') {
                    return Err(error(format!("{name}: text behind the closing {quote}")));
                }
                rest = next;
                if quote == '"' {
                    expanded(&quoted, &values, variables).map_err(|what| error(format!("{name}: {what}")))?
                } else {
                    quoted
                }
            }
            (Format::Compose, _) => {
                rest = after;
                // A comment needs a space before it; a value may hold '#'.
                let end = value
                    .match_indices('#')
                    .find(|(at, _)| *at == 0 || value[..*at].ends_with([' ', '\t']))
                    .map_or(value.len(), |(at, _)| at);
                expanded(value[..end].trim_end(), &values, variables)
                    .map_err(|what| error(format!("{name}: {what}")))?
            }
        };
        values.insert(name.to_owned(), value);
    }
    Ok(values)
}

fn check_name(name: &str) -> Result<(), String> {
    let is_valid = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if is_valid {
        Ok(())
    } else {
        Err(format!(
            "{:?} is no name of a variable",
            name.chars().take(40).collect::<String>()
        ))
    }
}

/// The text until the closing quote, and how long it is in the source. Double quotes know escapes.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((value, at));
        }
        if c == '\\' && quote == '"' {
            match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                // Doubled, as the text still goes through the replacement of variables.
                '$' => value.push_str("$$"),
                c @ ('"' | '\\') => value.push(c),
                c => value.extend(['\\', c]),
            }
        } else {
            value.push(c);
        }
    }
    None
}

fn expanded(text: &str, earlier: &BTreeMap<String, String>, variables: &Variables) -> Result<String, String> {
    let lookup = |name: &str| {
        variables
            .get(name)
            .or_else(|| earlier.get(name).map(String::as_str))
    };
    Ok(expand(text, &lookup)?.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        Variables {
            process: [("HOME".to_owned(), "/root".to_owned())].into(),
            file: BTreeMap::new(),
        }
    }

    #[test]
    fn every_way_to_write_a_value_is_understood() {
        let text = "\u{feff}# comment\n\nA=1\r\nexport B = two words # comment\nC='$A # no comment'\n\
                    D=\"x\\n${A}\\$y\" # comment\nE=\"over\ntwo lines\"\nF=a#b\nG=\nHOME\nNONE\nH=${B}/${HOME}\nI=#c\n";
        let values = parse(text, Format::Compose, &variables()).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "$A # no comment"),
            ("D", "x\n1$y"),
            ("E", "over\ntwo lines"),
            ("F", "a#b"),
            ("G", ""),
            ("H", "two words//root"),
            ("HOME", "/root"),
            ("I", ""),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(values, expected);
    }

    #[test]
    fn raw_files_are_taken_as_they_are() {
        let values = parse("A=\"$x\" # y\nB='\n", Format::Raw, &variables()).unwrap();
        assert_eq!(values["A"], "\"$x\" # y");
        assert_eq!(values["B"], "'");
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line, what) in [
            ("A=1\nB C=2\n", 2, "is no name"),
            ("A='1\nB=2\n", 1, "' is not closed"),
            ("A=\"x\ny\"\nB=\"1\" 2\n", 3, "behind the closing"),
            ("A=${X:?missing}\n", 1, "missing"),
            ("=1\n", 1, "is no name"),
        ] {
            let error = parse(text, Format::Compose, &variables()).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.what.contains(what), "{text}: {error}");
        }
    }
}
