//! Variables in values (compose-spec 12-interpolation.md): `$VAR`, `${VAR}`, defaults, required values, `$$`.

use std::collections::BTreeMap;

use super::node::{Entry, Node, Value};
use super::problem::{Place, Problems};

/// How deep defaults may hold variables with defaults.
const DEPTH_MAX: usize = 16;

/// Where variables come from: the process's environment wins over the `.env` file.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// Of the process.
    pub process: BTreeMap<String, String>,
    /// Of the `.env` file.
    pub file: BTreeMap<String, String>,
}

impl Variables {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.process
            .get(name)
            .or_else(|| self.file.get(name))
            .map(String::as_str)
    }
}

/// A text with its variables replaced.
#[derive(Debug, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Variables that have no value and no default, replaced by nothing.
    pub unset: Vec<String>,
}

/// Replaces the variables in `text`.
///
/// # Errors
/// When a required variable has no value, or the text is malformed; the message says which.
pub fn expand<'a>(text: &str, lookup: &dyn Fn(&str) -> Option<&'a str>) -> Result<Expanded, String> {
    let mut expanded = Expanded {
        text: String::with_capacity(text.len()),
        unset: Vec::new(),
    };
    expand_into(text, lookup, DEPTH_MAX, &mut expanded)?;
    Ok(expanded)
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn name_length(text: &str) -> usize {
    if !text.starts_with(is_name_start) {
        return 0;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len())
}

fn expand_into<'a>(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<&'a str>,
    depth: usize,
    out: &mut Expanded,
) -> Result<(), String> {
    if depth == 0 {
        return Err(format!("variables are nested more than {DEPTH_MAX} deep"));
    }
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.text.push('$');
            rest = after;
        } else if let Some(braced) = rest.strip_prefix('{') {
            let end = closing_brace(braced).ok_or_else(|| {
                format!(
                    "\"${{{}\" is not closed; a literal $ is written $$",
                    bounded(braced)
                )
            })?;
            braces(&braced[..end], lookup, depth, out)?;
            rest = &braced[end + 1..];
        } else {
            let length = name_length(rest);
            if length == 0 {
                return Err(format!(
                    "\"${}\" names no variable; a literal $ is written $$",
                    bounded(rest)
                ));
            }
            let (name, after) = rest.split_at(length);
            plain(name, lookup, out);
            rest = after;
        }
    }
    out.text.push_str(rest);
    Ok(())
}

fn plain<'a>(name: &str, lookup: &dyn Fn(&str) -> Option<&'a str>, out: &mut Expanded) {
    match lookup(name) {
        Some(value) => out.text.push_str(value),
        None => out.unset.push(name.to_owned()),
    }
}

/// Where the brace that was opened before `text` closes, defaults in between skipped.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1;
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if previous == '$' => open += 1,
            '}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        previous = c;
    }
    None
}

/// What is between `${` and `}`.
fn braces<'a>(
    inside: &str,
    lookup: &dyn Fn(&str) -> Option<&'a str>,
    depth: usize,
    out: &mut Expanded,
) -> Result<(), String> {
    let (name, rest) = inside.split_at(name_length(inside));
    if name.is_empty() {
        return Err(format!("\"${{{}}}\" names no variable", bounded(inside)));
    }
    let value = lookup(name);
    let filled = value.filter(|value| !value.is_empty());
    // With the colon, an empty value counts as none.
    if rest.is_empty() {
        plain(name, lookup, out);
        return Ok(());
    }
    let operators = [":-", ":?", ":+", "-", "?", "+"];
    let operator = operators.into_iter().find(|operator| rest.starts_with(operator));
    let Some(operator) = operator else {
        return Err(format!(
            "\"${{{}}}\" is not understood; write ${{{name}}}, ${{{name}:-DEFAULT}} or ${{{name}:?MESSAGE}}",
            bounded(inside)
        ));
    };
    let word = &rest[operator.len()..];
    let present = if operator.starts_with(':') { filled } else { value };
    match (operator.chars().last(), present) {
        (Some('+'), Some(_)) | (Some('-'), None) => expand_into(word, lookup, depth - 1, out),
        (Some('+'), None) => Ok(()),
        (Some('?'), None) => {
            let mut message = Expanded {
                text: String::new(),
                unset: Vec::new(),
            };
            expand_into(word, lookup, depth - 1, &mut message)?;
            let message = match message.text.as_str() {
                "" => "it is required".to_owned(),
                text => text.to_owned(),
            };
            Err(format!("variable {name} is not set: {message}"))
        }
        (_, Some(value)) => {
            out.text.push_str(value);
            Ok(())
        }
        (_, None) => Ok(()),
    }
}

/// The beginning of a text, for messages.
fn bounded(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Replaces the variables in all values of a tree; keys stay as they are.
pub fn interpolate(node: &mut Node, variables: &Variables, place: &Place, problems: &mut Problems) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(text) => {
            if !text.contains('$') {
                return;
            }
            match expand(text, &|name| variables.get(name)) {
                Ok(expanded) => {
                    for name in expanded.unset {
                        problems.warn(place, format!("variable {name} is not set; it is taken as empty"));
                    }
                    *text = expanded.text.into();
                }
                Err(what) => problems.error(place, what),
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                let place = place.item(index, item.line);
                interpolate(item, variables, &place, problems);
            }
        }
        Value::Map(entries) => {
            for Entry { key, line, node } in entries {
                interpolate(node, variables, &place.key(key, *line), problems);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<&'static str> {
        match name {
            "SET" => Some("value"),
            "EMPTY" => Some(""),
            _ => None,
        }
    }

    #[test]
    fn each_form_follows_the_specification() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$SET/x", "value/x"),
            ("${SET}x", "valuex"),
            ("$$SET $${SET}", "$SET ${SET}"),
            ("${NONE:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NONE-d}", "d"),
            ("${SET:-d}", "value"),
            ("${SET:+r}", "r"),
            ("${EMPTY:+r}", ""),
            ("${EMPTY+r}", "r"),
            ("${NONE+r}", ""),
            ("${SET:?m}", "value"),
            ("${EMPTY?m}", ""),
            ("${NONE:-${EMPTY:-${SET}}}/x", "value/x"),
            ("${NONE:-a:b-c}", "a:b-c"),
            ("${NONE:-{a}}", "{a}"),
            ("ü$SET", "üvalue"),
        ] {
            let expanded = expand(text, &lookup).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(expanded.text, expected, "{text}");
        }
    }

    #[test]
    fn unset_variables_are_told() {
        let expanded = expand("$A ${B} $SET", &lookup).unwrap();
        assert_eq!(expanded.text, "  value");
        assert_eq!(expanded.unset, ["A", "B"]);
    }

    #[test]
    fn malformed_and_required_variables_are_errors() {
        for (text, expected) in [
            (
                "${NONE:?set it in .env}",
                "variable NONE is not set: set it in .env",
            ),
            ("${EMPTY:?}", "variable EMPTY is not set: it is required"),
            ("$1", "a literal $ is written $$"),
            ("cost $", "a literal $ is written $$"),
            ("${SET", "is not closed"),
            ("${}", "names no variable"),
            ("${SET/a/b}", "is not understood"),
            ("${SETü}", "is not understood"),
        ] {
            let error = expand(text, &lookup).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(40), "}".repeat(40));
        assert!(expand(&deep, &lookup).unwrap_err().contains("deep"));
    }
}
