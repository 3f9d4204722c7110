//! Scopes of the token protocol: `repository:NAME:pull,push` (distribution's token specification, scope grammar).

use serde::{Deserialize, Serialize};

/// What may be done in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Read.
    Pull,
    /// Add.
    Push,
    /// Delete.
    Delete,
}

impl Action {
    /// The name in scopes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Actions on one repository, or the right to list those that the caller may see: an entry of a token's `access` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `repository`; or `registry`, with the name `catalog`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository.
    pub name: String,
    /// What may be done.
    pub actions: Vec<Action>,
}

impl Grant {
    /// Whether it lets the caller do `action` in `repository`.
    pub fn allows(&self, repository: &str, action: Action) -> bool {
        self.kind == "repository" && self.name == repository && self.actions.contains(&action)
    }

    /// Whether it lets the caller list repositories.
    pub fn is_catalog(&self) -> bool {
        self.kind == "registry"
    }
}

/// Reads scopes as clients send them: several may stand in one value, separated by spaces. What is not understood
/// is left out, since the answer is an intersection and never an error. `*` means every action.
pub fn parse(scope: &str) -> Vec<Grant> {
    scope.split(' ').filter_map(parse_one).collect()
}

fn parse_one(scope: &str) -> Option<Grant> {
    // The name may contain a colon (a port), so it is what lies between the first and the last one.
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    if (kind, name) == ("registry", "catalog") && actions.split(',').any(|a| a == "*") {
        return Some(Grant {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: vec![Action::Pull],
        });
    }
    if kind != "repository" || name.is_empty() {
        return None;
    }
    let mut parsed = Vec::new();
    for action in actions.split(',') {
        match action {
            "pull" => parsed.push(Action::Pull),
            "push" => parsed.push(Action::Push),
            "delete" => parsed.push(Action::Delete),
            "*" => parsed.extend([Action::Pull, Action::Push, Action::Delete]),
            _ => {}
        }
    }
    Some(Grant {
        kind: kind.to_owned(),
        name: name.to_owned(),
        actions: parsed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_scopes_stand_in_one_value() {
        let grants = parse("repository:a/b:pull,push repository:c:pull");
        assert_eq!(grants.len(), 2);
        assert_eq!(grants[0].actions, [Action::Pull, Action::Push]);
    }

    #[test]
    fn names_may_hold_a_port_and_star_means_everything() {
        let grants = parse("repository:host:5000/a:*");
        assert_eq!(
            (grants[0].name.as_str(), grants[0].actions.len()),
            ("host:5000/a", 3)
        );
    }

    #[test]
    fn what_is_not_understood_grants_nothing() {
        assert!(parse("").is_empty());
        assert!(parse("registry:other:*").is_empty());
        assert!(parse("repository:a:fly")[0].actions.is_empty());
    }

    #[test]
    fn the_catalog_is_no_repository() {
        let grants = parse("registry:catalog:*");
        assert!(grants[0].is_catalog() && !grants[0].allows("catalog", Action::Pull));
        assert!(parse("repository:catalog:pull")[0].allows("catalog", Action::Pull));
    }
}
