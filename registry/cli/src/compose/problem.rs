//! What is wrong with a compose file: collected, so that one run tells everything.

use std::fmt;

/// A place in the file: the keys that lead there, and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `services.web.ports[0]`.
    pub path: String,
    /// Line, from 1; 0 where it is not known.
    pub line: u64,
}

impl Place {
    /// The entry `key` below this place.
    pub fn key(&self, key: &str, line: u64) -> Self {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self { path, line }
    }

    /// The item `index` of the list at this place.
    pub fn item(&self, index: usize, line: u64) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            line,
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.line > 0 {
            write!(f, "line {}: ", self.place.line)?;
        }
        if !self.place.path.is_empty() {
            write!(f, "{}: ", self.place.path)?;
        }
        f.write_str(&self.what)
    }
}

/// All problems of a file.
#[derive(Debug, Default)]
pub struct Problems {
    allowed: Vec<String>,
    /// What stops the deployment.
    pub errors: Vec<Problem>,
    /// What does not.
    pub warnings: Vec<Problem>,
}

impl Problems {
    /// None yet. Keys named in `allowed`, alone (`healthcheck`) or with their path (`services.web.healthcheck`), are
    /// only warned about when they are unknown or not supported.
    pub fn new(allowed: &[String]) -> Self {
        Self {
            allowed: allowed.to_vec(),
            ..Self::default()
        }
    }

    /// Something is wrong at `place`.
    pub fn error(&mut self, place: &Place, what: impl Into<String>) {
        self.errors.push(Problem {
            place: place.clone(),
            what: what.into(),
        });
    }

    /// Something at `place` should be known.
    pub fn warn(&mut self, place: &Place, what: impl Into<String>) {
        self.warnings.push(Problem {
            place: place.clone(),
            what: what.into(),
        });
    }

    /// The key at `place` is not carried out; `instead` says what to do, or what holds.
    pub fn unsupported(&mut self, place: &Place, instead: &str) {
        self.unless_allowed(place, format!("not supported: {instead}"));
    }

    fn unless_allowed(&mut self, place: &Place, what: String) {
        let last = place.path.rsplit('.').next().unwrap_or_default();
        if self
            .allowed
            .iter()
            .any(|allowed| *allowed == place.path || allowed == last)
        {
            self.warn(place, "ignored, as --allow says");
        } else {
            self.error(place, format!("{what}; --allow {last} ignores it"));
        }
    }

    /// The key at `place` is not one of compose's; `known` are those that could have been meant.
    pub fn unknown(&mut self, place: &Place, known: &[&str]) {
        let last = place.path.rsplit('.').next().unwrap_or_default().to_owned();
        let nearest = known
            .iter()
            .map(|key| (strsim::damerau_levenshtein(key, &last), key))
            .min_by_key(|(distance, _)| *distance)
            .filter(|(distance, key)| *distance <= 2 && *distance < key.len());
        let what = match nearest {
            Some((_, key)) => format!("unknown key, did you mean {key}?"),
            None => "unknown key".to_owned(),
        };
        self.unless_allowed(place, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_and_what() {
        let root = Place {
            path: String::new(),
            line: 0,
        };
        let place = root.key("services", 1).key("web", 2).key("ports", 3).item(1, 5);
        let mut problems = Problems::default();
        problems.error(&place, "port 0 is none");
        assert_eq!(
            problems.errors[0].to_string(),
            "line 5: services.web.ports[1]: port 0 is none"
        );
    }

    #[test]
    fn allowed_keys_are_warnings_by_name_and_by_path() {
        let place = |path: &str| Place {
            path: path.to_owned(),
            line: 1,
        };
        let mut problems = Problems::new(&["healthcheck".to_owned(), "services.web.volumes".to_owned()]);
        problems.unsupported(&place("services.web.healthcheck"), "not carried out");
        problems.unsupported(&place("services.web.volumes"), "not carried out");
        problems.unsupported(&place("services.db.volumes"), "not carried out");
        assert_eq!(problems.warnings.len(), 2);
        assert_eq!(problems.errors.len(), 1);
        assert!(problems.errors[0].what.contains("--allow volumes"));
    }

    #[test]
    fn a_misspelt_key_is_recognised() {
        let place = Place {
            path: "services.web.enviroment".to_owned(),
            line: 1,
        };
        let mut problems = Problems::default();
        problems.unknown(&place, &["env_file", "environment"]);
        assert!(problems.errors[0].what.contains("did you mean environment?"));
    }
}
