//! Compose files (compose-spec): from text to the services that the server is asked for.
//!
//! `node` parses YAML into a tree that knows its lines, `interpolate` replaces variables in it, and one file per
//! section reads it. The tree is read by hand rather than by derived types, because those end at the first mistake:
//! here every mistake of a file is told in one run, with its path and line. Nothing is dropped silently: a key that is
//! not carried out is an error unless the operator allows it.

mod deploy;
mod dotenv;
mod environment;
mod image;
mod interpolate;
mod node;
mod ports;
mod problem;
mod section;
mod service;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use api::{ServiceName, ServiceSpec};

use dotenv::Format;
use interpolate::{Variables, interpolate};
use problem::{Place, Problems};
use section::{Section, text};

pub use node::FILE_MAX_BYTES;

/// The names under which a compose file is looked for, the first that exists winning.
pub const FILE_NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
];

/// What a compose file is read with, besides its text.
#[derive(Debug)]
pub struct Options<'a> {
    /// The directory of the file: `.env` and `env_file` lie there, and it names the project where nothing else does.
    pub directory: &'a Path,
    /// The project, where the operator names it.
    pub project: Option<&'a str>,
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
    /// Keys that are ignored although they are not carried out.
    pub allowed: &'a [String],
    /// The server's host, with its port where that is not the scheme's.
    pub server_host: &'a str,
}

/// A compose file that can be deployed.
#[derive(Debug, PartialEq, Eq)]
pub struct Project {
    /// Its services, in the order of the file.
    pub services: Vec<(ServiceName, ServiceSpec)>,
    /// What should be known, one line each.
    pub warnings: Vec<String>,
}

/// All that stops a compose file, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ComposeError(pub Vec<String>);

const KEYS: [&str; 8] = [
    "name", "services", "version", "volumes", "networks", "secrets", "configs", "include",
];

/// Reads the compose file `text`.
///
/// # Errors
/// With everything that is wrong with it.
pub fn read(text: &str, options: Options<'_>) -> Result<Project, ComposeError> {
    let fatal = |what: String| ComposeError(vec![what]);
    let mut root = node::parse(text).map_err(|error| fatal(error.to_string()))?;
    let variables = variables(options.directory, options.environment).map_err(fatal)?;
    let mut problems = Problems::new(options.allowed);
    let place = Place {
        path: String::new(),
        line: 0,
    };
    interpolate(&mut root, &variables, &place, &mut problems);
    let context = service::Context {
        directory: options.directory,
        variables: &variables,
        server_host: options.server_host,
    };
    let services = Section::read(&root, place, &mut problems).map(|root| {
        let project = project(&root, &options.project, options.directory, &mut problems);
        of_root(&root, project.as_deref(), &context, &mut problems)
    });
    let lines = |problems: &mut Vec<problem::Problem>| {
        problems.sort_by_key(|problem| problem.place.line);
        problems.iter().map(ToString::to_string).collect()
    };
    match services {
        Some(services) if problems.errors.is_empty() => Ok(Project {
            services,
            warnings: lines(&mut problems.warnings),
        }),
        _ => Err(ComposeError(lines(&mut problems.errors))),
    }
}

fn variables(directory: &Path, process: BTreeMap<String, String>) -> Result<Variables, String> {
    let path = directory.join(".env");
    let mut variables = Variables {
        process,
        file: BTreeMap::new(),
    };
    let file =
        environment::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if let Some(text) = file {
        variables.file = dotenv::parse(&text, Format::Compose, &variables)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(variables)
}

/// The project's name: the operator's, the file's, or the directory's, as compose makes one of it.
fn project(
    root: &Section<'_>,
    asked: &Option<&str>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<String> {
    let (place, name) = match (asked, root.get("name")) {
        (Some(name), _) => (root.place.clone(), (*name).to_owned()),
        (None, Some((place, node))) => {
            let name = text(node, &place, problems)?.to_owned();
            (place, name)
        }
        (None, None) => {
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            let name = name.to_lowercase();
            let name: String = name
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
                .collect();
            (root.place.clone(), name.trim_start_matches(['-', '_']).to_owned())
        }
    };
    match format!("{name}/x").parse::<ServiceName>() {
        Ok(_) => Some(name),
        Err(_) => {
            problems.error(
                &place,
                format!(
                    "{name:?} is no name for a project; use --project NAME or name: NAME with a-z, 0-9, '-' and '_', \
                     starting with a letter or digit, at most 63 characters"
                ),
            );
            None
        }
    }
}

fn of_root(
    root: &Section<'_>,
    project: Option<&str>,
    context: &service::Context<'_>,
    problems: &mut Problems,
) -> Vec<(ServiceName, ServiceSpec)> {
    let mut services = Vec::new();
    for (key, place, node) in root.entries() {
        match key {
            "name" => {}
            "services" => {
                let Some(section) = Section::read(node, place, problems) else {
                    continue;
                };
                for (name, place, node) in section.entries() {
                    // Without a project there is a problem already; the services are read for theirs.
                    let full = format!("{}/{name}", project.unwrap_or("x")).parse::<ServiceName>();
                    if full.is_err() {
                        problems.error(
                            &place,
                            "a service is named with a-z, 0-9, '-' and '_', starting with a letter or digit, at most \
                             63 characters",
                        );
                    }
                    let spec = service::read(node, place, context, problems);
                    services.extend(full.ok().zip(spec));
                }
            }
            "version" => problems.warn(&place, "obsolete and ignored; it can be removed"),
            "volumes" => problems.unsupported(&place, "containers keep nothing yet"),
            "networks" => problems.unsupported(&place, "each container is on its node's bridge"),
            "secrets" | "configs" => problems.unsupported(&place, "files are not handed to containers yet"),
            "include" => problems.unsupported(&place, "deploy each file by itself"),
            // What begins with x- is the author's own, for anchors.
            other if other.starts_with("x-") => {}
            _ => problems.unknown(&place, &KEYS),
        }
    }
    if root.get("services").is_none() {
        problems.error(
            &root.place,
            "no services; add services: {NAME: {image: REPOSITORY:TAG}}",
        );
    }
    services
}
