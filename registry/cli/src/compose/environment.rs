//! The environment of a service: `environment`, and the files of `env_file`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::dotenv::{self, Format};
use super::interpolate::Variables;
use super::node::{Node, Value};
use super::problem::{Place, Problems};
use super::section::{Section, items, pairs, parsed, text};
use super::service::Context;
use super::value::boolean;

/// Reads `environment`. A name without a value takes it from `variables`, and is left out when there is none.
pub fn of_map_or_list(
    node: &Node,
    place: &Place,
    variables: &Variables,
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for (name, value, place) in pairs(node, place, problems) {
        match value.or_else(|| variables.get(&name).map(str::to_owned)) {
            Some(value) => {
                environment.insert(name, value);
            }
            None => problems.warn(&place, format!("variable {name} is not set; it is left out")),
        }
    }
    environment
}

/// Reads `env_file`: one file or a list, later files winning.
pub fn of_files(
    node: &Node,
    place: &Place,
    context: &Context<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    let files = match &node.value {
        Value::Scalar(_) => vec![(place.clone(), node)],
        _ => items(node, place, problems),
    };
    let mut environment = BTreeMap::new();
    for (place, node) in files {
        let Some((path, is_required, format)) = file(node, &place, problems) else {
            continue;
        };
        let path = context.directory.join(path);
        match read(&path) {
            Ok(None) if !is_required => {}
            Ok(None) => problems.error(
                &place,
                format!(
                    "{} does not exist; required: false makes it optional",
                    path.display()
                ),
            ),
            Err(error) => problems.error(&place, format!("{} cannot be read: {error}", path.display())),
            Ok(Some(text)) => match dotenv::parse(&text, format, context.variables) {
                Ok(values) => environment.extend(values),
                Err(error) => problems.error(&place, format!("{}: {error}", path.display())),
            },
        }
    }
    environment
}

fn file<'a>(node: &'a Node, place: &Place, problems: &mut Problems) -> Option<(&'a str, bool, Format)> {
    if !matches!(node.value, Value::Map(_)) {
        return Some((text(node, place, problems)?, true, Format::Compose));
    }
    let section = Section::read(node, place.clone(), problems)?;
    let (mut path, mut is_required, mut format) = (None, true, Format::Compose);
    for (key, place, node) in section.entries() {
        match key {
            "path" => path = text(node, &place, problems),
            "required" => is_required = parsed(node, &place, problems, boolean)?,
            "format" => {
                format = parsed(node, &place, problems, |text| match text {
                    "raw" => Ok(Format::Raw),
                    _ => Err(format!(
                        "{text:?} is no format; there is raw, and compose's own without this key"
                    )),
                })?;
            }
            _ => problems.unknown(&place, &["path", "required", "format"]),
        }
    }
    if path.is_none() && section.get("path").is_none() {
        problems.error(place, "no file is named; add path: FILE");
    }
    path.map(|path| (path, is_required, format))
}

/// A file of variables; `None` when there is none.
///
/// # Errors
/// When it cannot be read, is no text, or is too large.
pub fn read(path: &Path) -> std::io::Result<Option<String>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(dotenv::FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > dotenv::FILE_MAX_BYTES {
        return Err(std::io::Error::other(format!(
            "it has more than {} bytes",
            dotenv::FILE_MAX_BYTES
        )));
    }
    Ok(Some(text))
}
