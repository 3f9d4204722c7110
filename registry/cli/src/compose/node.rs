//! A YAML document as a tree in which every node knows its line.
//!
//! Scalars keep their source text: `3.10` is not 3.1 and `off` is not `false`, because compose decides by the key what
//! a value means. Anchors, aliases and merge keys are resolved by the parser, within limits; duplicate keys are errors.

use std::fmt;
use std::rc::Rc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};

/// The largest file accepted, in bytes. The longest compose files in use have some 50 KB.
pub const FILE_MAX_BYTES: usize = 1024 * 1024;
/// The most nodes of a tree, aliases expanded: 100 services of 200 values each, five times over.
const NODES_MAX: usize = 100_000;

/// A node and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Line in the file, from 1; 0 where it is not known.
    pub line: u64,
}

/// The content of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A text, number or boolean, as written.
    Scalar(Rc<str>),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
}

/// One entry of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Rc<str>,
    /// Line of the key.
    pub line: u64,
    /// The value.
    pub node: Node,
}

/// Why a text is no document.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Not YAML, or beyond the limits.
    #[error("{0}")]
    Yaml(String),
    /// Larger than any compose file.
    #[error("the file has more than {FILE_MAX_BYTES} bytes")]
    Large,
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Parses the one document of `text`.
///
/// # Errors
/// When it is no YAML, has a duplicate key, several documents, or is beyond the limits.
pub fn parse(text: &str) -> Result<Node, NodeError> {
    if text.len() > FILE_MAX_BYTES {
        return Err(NodeError::Large);
    }
    let options: Options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 2 * NODES_MAX,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    // An empty file is an empty document.
    if text.trim().is_empty() {
        return Ok(Node {
            value: Value::Null,
            line: 1,
        });
    }
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| NodeError::Yaml(error.to_string()))?;
    Ok(raw_to_node(raw, text))
}

/// A node before numbers have their text back.
enum Raw {
    Null,
    /// A number or boolean, whose text is in the source.
    Plain(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Key>, Spanned<Raw>)>),
}

struct Key(String);

fn raw_to_node(raw: Spanned<Raw>, source: &str) -> Node {
    let span = raw.defined.span();
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text.into()),
        Raw::Plain(value) => {
            let range = span.byte_offset().zip(span.byte_len());
            let text = range.and_then(|(start, length)| {
                let start = usize::try_from(start).ok()?;
                source.get(start..start + usize::try_from(length).ok()?)
            });
            let text = text.map(str::trim).filter(|text| !text.is_empty());
            Value::Scalar(text.unwrap_or(&value).into())
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| raw_to_node(item, source)).collect()),
        Raw::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| Entry {
                line: key.defined.line(),
                key: key.value.0.into(),
                node: raw_to_node(value, source),
            });
            Value::Map(entries.collect())
        }
    };
    Node {
        value,
        line: raw.defined.line(),
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let Value::Map(entries) = &node.value else {
            panic!("{node:?} is no map")
        };
        entries.iter().find(|e| &*e.key == key).expect("the key")
    }

    fn text(node: &Node) -> &str {
        match &node.value {
            Value::Scalar(text) => text,
            other => panic!("{other:?} is no scalar"),
        }
    }

    #[test]
    fn scalars_keep_their_text() {
        let plain = [
            "3.10", "0755", "1_000", "off", "yes", "0x10", "1e3", "TRUE", "22:22", ".inf", "-5", "1e999",
        ];
        for plain in plain {
            let node = parse(&format!("a:\n  b: {plain} # comment\n")).unwrap();
            assert_eq!(text(&entry(&entry(&node, "a").node, "b").node), plain);
        }
        let node = parse("- '3.10'\n- \"a\\tb\"\n- |\n  two\n  lines\n- ~\n-\n").unwrap();
        let Value::List(items) = &node.value else { panic!() };
        assert_eq!(text(&items[0]), "3.10");
        assert_eq!(text(&items[1]), "a\tb");
        assert_eq!(text(&items[2]), "two\nlines\n");
        assert_eq!(items[3].value, Value::Null);
        assert_eq!(items[4].value, Value::Null);
    }

    #[test]
    fn lines_are_known_also_through_anchors_and_merges() {
        let node = parse("x: &x\n  one: 1.50\n  two: 2\ny:\n  <<: *x\n  two: 3\nz: *x\n").unwrap();
        let y = &entry(&node, "y").node;
        assert_eq!(text(&entry(y, "one").node), "1.50");
        assert_eq!(text(&entry(y, "two").node), "3", "a key wins over what is merged");
        assert_eq!(entry(y, "two").line, 6);
        assert_eq!(
            entry(&entry(&node, "z").node, "one").line,
            2,
            "where it is written"
        );
    }

    #[test]
    fn broken_and_hostile_documents_are_refused_with_a_line() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert!(
            message("a: 1\nb: 2\na: 3\n").contains("line 3"),
            "{}",
            message("a: 1\nb: 2\na: 3\n")
        );
        assert!(message("a: [1, 2\n").contains("line"));
        assert!(message("a: *nowhere\n").contains("nowhere") || message("a: *nowhere\n").contains("anchor"));
        assert!(parse("a: 1\n---\nb: 2\n").is_err(), "two documents");
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", ")));
        }
        assert!(parse(&bomb).is_err(), "an alias bomb");
        assert!(
            parse(&format!("{}{}", "[".repeat(5000), "]".repeat(5000))).is_err(),
            "depth"
        );
        assert!(matches!(
            parse(&"#".repeat(FILE_MAX_BYTES + 1)),
            Err(NodeError::Large)
        ));
    }
}
