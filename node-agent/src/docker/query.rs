//! The parts of a query string, as loosely written as Docker's clients write them.

use std::collections::{BTreeMap, HashMap};

use axum::extract::Query;
use serde::Deserialize;

use super::error::ApiError;

/// The parameters of a request.
pub(super) type Parameters = Query<HashMap<String, String>>;

/// Whether a parameter is set: anything but nothing, `0`, `no`, `false` and `none`, in any case.
pub(super) fn flag(parameters: &HashMap<String, String>, name: &str) -> bool {
    parameters.get(name).is_some_and(|value| {
        let value = value.trim().to_ascii_lowercase();
        !["", "0", "no", "false", "none"].contains(&value.as_str())
    })
}

/// A parameter that is a whole number.
///
/// # Errors
/// When it is something else.
pub(super) fn number(parameters: &HashMap<String, String>, name: &str) -> Result<Option<i64>, ApiError> {
    match parameters.get(name).map(|value| value.trim()) {
        None | Some("") => Ok(None),
        Some(value) => value
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad(format!("{name} is {value:?}: a whole number is needed"))),
    }
}

/// A parameter that is a moment: seconds since 1970 with or without a fraction, or RFC 3339. In the form that logs have,
/// in which text is in the order of time.
///
/// # Errors
/// When it is something else.
pub(super) fn moment(parameters: &HashMap<String, String>, name: &str) -> Result<Option<String>, ApiError> {
    let Some(text) = parameters.get(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bad = || ApiError::bad(format!("{name} is {text:?}: seconds since 1970 are needed"));
    if let Ok(time) = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339) {
        let seconds = u64::try_from(time.unix_timestamp()).map_err(|_| bad())?;
        return Ok(Some(runtime::clock::rfc3339(seconds, time.nanosecond())));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    // Zero is how clients write that there is no bound.
    Ok(u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0 || nanos > 0)
        .map(|seconds| runtime::clock::rfc3339(seconds, nanos)))
}

/// What is filtered by, and the values of which one is enough.
#[derive(Clone, Debug, Default)]
pub(super) struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Set(BTreeMap<String, bool>),
}

impl Filters {
    /// Reads the parameter `filters`: `{"label":["a=b"]}` or `{"label":{"a=b":true}}`.
    ///
    /// # Errors
    /// When it is something else, or filters by what is not in `known`.
    pub(super) fn parse(parameters: &HashMap<String, String>, known: &[&str]) -> Result<Self, ApiError> {
        let Some(text) = parameters.get("filters").filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let parsed: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|error| ApiError::bad(format!("filters cannot be read: {error}")))?;
        let mut filters = BTreeMap::new();
        for (name, values) in parsed {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad(format!(
                    "invalid filter '{name}': this engine filters by {}",
                    known.join(", ")
                )));
            }
            let values: Vec<String> = match values {
                Values::List(values) => values,
                Values::Set(values) => values
                    .into_iter()
                    .filter(|(_, is_set)| *is_set)
                    .map(|(value, _)| value)
                    .collect(),
            };
            if !values.is_empty() {
                filters.insert(name, values);
            }
        }
        Ok(Self(filters))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether `matches` any value of `name`; so does everything where nothing is filtered by it.
    pub(super) fn any(&self, name: &str, matches: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(name)
            .is_none_or(|values| values.iter().any(|value| matches(value)))
    }

    /// Whether all labels that are filtered by, as `name` or `name=value`, are among these.
    pub(super) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.get("label").is_none_or(|wanted| {
            wanted.iter().all(|wanted| match wanted.split_once('=') {
                Some((name, value)) => labels.get(name).is_some_and(|has| has == value),
                None => labels.contains_key(wanted),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(name: &str, value: &str) -> HashMap<String, String> {
        HashMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn flags_have_many_spellings() {
        for (value, expected) in [
            ("1", true),
            ("True", true),
            ("0", false),
            ("False", false),
            ("", false),
        ] {
            assert_eq!(flag(&parameters("all", value), "all"), expected, "{value:?}");
        }
        assert!(!flag(&HashMap::new(), "all"));
    }

    #[test]
    fn moments_are_compared_as_logs_write_them() {
        let moment =
            |text| moment(&parameters("since", text), "since").map_err(|error| error.message().to_owned());
        let expected = "2026-01-01T00:00:00.500000000Z";
        assert_eq!(
            moment("1767225600.5").expect("a moment").as_deref(),
            Some(expected)
        );
        assert_eq!(
            moment("1767225600.500000000").expect("a moment").as_deref(),
            Some(expected)
        );
        assert_eq!(
            moment("2026-01-01T01:00:00.5+01:00")
                .expect("a moment")
                .as_deref(),
            Some(expected)
        );
        assert_eq!(moment("0").expect("none"), None);
        assert_eq!(moment("-5").expect("before all"), None);
        assert!(moment("yesterday").is_err() && moment("1.x").is_err());
    }

    #[test]
    fn filters_come_as_lists_or_sets() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        for text in [
            r#"{"label":["a=b"]}"#,
            r#"{"label":{"a=b":true,"c":false}}"#,
            r#"{"label":["a"]}"#,
        ] {
            let filters = Filters::parse(&parameters("filters", text), &["label"]);
            assert!(filters.expect("reads").labels(&labels), "{text}");
        }
        let other = Filters::parse(&parameters("filters", r#"{"label":["a=c"]}"#), &["label"]);
        assert!(!other.expect("reads").labels(&labels));
        assert!(Filters::parse(&parameters("filters", r#"{"colour":["red"]}"#), &["label"]).is_err());
    }
}
