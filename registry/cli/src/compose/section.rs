//! Reading nodes as what a key wants, both syntaxes of each; what does not fit becomes a problem, and the rest is read
//! on.

use super::node::{Entry, Node, Value};
use super::problem::{Place, Problems};

/// A map, with its place.
#[derive(Debug)]
pub struct Section<'a> {
    /// Where it is.
    pub place: Place,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Reads `node` as a map; nothing at all is an empty one.
    pub fn read(node: &'a Node, place: Place, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => Some(Self { place, entries }),
            Value::Null => Some(Self { place, entries: &[] }),
            other => {
                problems.error(&place, format!("a map is expected, not {}", other.kind()));
                None
            }
        }
    }

    /// Its entries, each with its place.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Place, &'a Node)> + use<'a> {
        let place = self.place.clone();
        self.entries
            .iter()
            .map(move |entry| (&*entry.key, place.key(&entry.key, entry.line), &entry.node))
    }

    /// The value of one key.
    pub fn get(&self, key: &str) -> Option<(Place, &'a Node)> {
        self.entries()
            .find(|(k, _, _)| *k == key)
            .map(|(_, place, node)| (place, node))
    }
}

/// A single value.
pub fn text<'a>(node: &'a Node, place: &Place, problems: &mut Problems) -> Option<&'a str> {
    match &node.value {
        Value::Scalar(text) if text.contains('\0') => {
            problems.error(place, "a value must not hold a NUL");
            None
        }
        Value::Scalar(text) => Some(text),
        other => {
            problems.error(place, format!("a single value is expected, not {}", other.kind()));
            None
        }
    }
}

/// A single value, parsed.
pub fn parsed<T>(
    node: &Node,
    place: &Place,
    problems: &mut Problems,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    match parse(text(node, place, problems)?) {
        Ok(value) => Some(value),
        Err(what) => {
            problems.error(place, what);
            None
        }
    }
}

/// The items of a list, each with its place.
pub fn items<'a>(node: &'a Node, place: &Place, problems: &mut Problems) -> Vec<(Place, &'a Node)> {
    match &node.value {
        Value::List(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (place.item(index, item.line), item))
            .collect(),
        Value::Null => Vec::new(),
        other => {
            problems.error(place, format!("a list is expected, not {}", other.kind()));
            Vec::new()
        }
    }
}

/// A list of single values.
pub fn texts(node: &Node, place: &Place, problems: &mut Problems) -> Vec<String> {
    items(node, place, problems)
        .into_iter()
        .filter_map(|(place, item)| text(item, &place, problems).map(str::to_owned))
        .collect()
}

/// Words: a list, or one text that is split as a shell would, without running anything.
pub fn words(node: &Node, place: &Place, problems: &mut Problems) -> Option<Vec<String>> {
    match &node.value {
        Value::Null => None,
        Value::List(_) => Some(texts(node, place, problems)),
        _ => parsed(node, place, problems, |text| {
            shlex::split(text).ok_or_else(|| format!("{text:?} has a quote that is not closed"))
        }),
    }
}

/// Names with values: a map, or a list of `NAME=VALUE` and `NAME`. The value is `None` where there is none.
pub fn pairs(node: &Node, place: &Place, problems: &mut Problems) -> Vec<(String, Option<String>, Place)> {
    let mut pairs = Vec::new();
    match &node.value {
        Value::Map(entries) => {
            for Entry { key, line, node } in entries {
                let place = place.key(key, *line);
                let value = match node.value {
                    Value::Null => None,
                    _ => match text(node, &place, problems) {
                        Some(value) => Some(value.to_owned()),
                        None => continue,
                    },
                };
                pairs.push((key.to_string(), value, place));
            }
        }
        Value::List(_) => {
            for (place, item) in items(node, place, problems) {
                if let Some(text) = text(item, &place, problems) {
                    let (name, value) = match text.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (text, None),
                    };
                    pairs.push((name.to_owned(), value, place));
                }
            }
        }
        Value::Null => {}
        other => problems.error(
            place,
            format!("a map or a list of NAME=VALUE is expected, not {}", other.kind()),
        ),
    }
    pairs.retain(|(name, _, place)| {
        let is_valid = !name.is_empty() && !name.contains(['=', '\0']);
        if !is_valid {
            problems.error(place, format!("{name:?} is no name"));
        }
        is_valid
    });
    pairs
}
