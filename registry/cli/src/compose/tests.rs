//! Whole compose files: realistic ones against the specs they must become, and arbitrary ones that must not do harm.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn options<'a>(directory: &'a Path, allowed: &'a [String]) -> Options<'a> {
    Options {
        directory,
        project: None,
        environment: [("REGION".to_owned(), "eu".to_owned())].into(),
        allowed,
        server_host: "reg.acme.io",
    }
}

/// Reads `testdata/NAME/compose.yaml` and compares it with `expected.json` beside it.
fn matches_golden(name: &str) {
    let directory = golden(name);
    let text = std::fs::read_to_string(directory.join("compose.yaml")).unwrap();
    let project = read(&text, options(&directory, &[])).unwrap_or_else(|error| panic!("{name}: {error}"));
    let specs: BTreeMap<_, _> = project
        .services
        .into_iter()
        .map(|(n, s)| (n.to_string(), s))
        .collect();
    let actual = serde_json::to_value(specs).unwrap();
    let expected = std::fs::read(directory.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    assert_eq!(
        actual,
        expected,
        "{name}; it became\n{}",
        serde_json::to_string_pretty(&actual).unwrap()
    );
}

#[test]
fn a_web_service_with_everything_becomes_what_it_should() {
    matches_golden("web");
}

#[test]
fn several_services_share_their_keys_by_anchors() {
    matches_golden("anchors");
}

fn problems(text: &str) -> Vec<String> {
    match read(text, options(Path::new("/nonexistent/acme"), &[])) {
        Ok(project) => panic!("it was accepted: {project:?}"),
        Err(ComposeError(lines)) => lines,
    }
}

#[test]
fn a_file_of_another_tool_is_told_all_that_is_missing() {
    let directory = golden("unsupported");
    let text = std::fs::read_to_string(directory.join("compose.yaml")).unwrap();
    let expected = std::fs::read_to_string(directory.join("expected.txt")).unwrap();
    let problems = problems(&text);
    assert_eq!(
        problems.join("\n"),
        expected.trim_end(),
        "{}",
        problems.join("\n")
    );
}

#[test]
fn allowed_keys_are_left_out_with_a_warning() {
    let text = "services:\n  web:\n    image: web:1\n    healthcheck: {test: x}\n    volumes: [a:/b]\n";
    let allowed = ["healthcheck".to_owned(), "services.web.volumes".to_owned()];
    let project = read(text, options(Path::new("/srv/acme"), &allowed)).unwrap();
    assert_eq!(project.services.len(), 1);
    assert_eq!(
        project.warnings,
        [
            "line 4: services.web.healthcheck: ignored, as --allow says",
            "line 5: services.web.volumes: ignored, as --allow says"
        ]
    );
}

#[test]
fn the_project_is_named_by_flag_file_or_directory() {
    let name = |text: &str, directory: &str, flag: Option<&str>| {
        let mut options = options(Path::new(directory), &[]);
        options.project = flag;
        read(text, options).map(|p| p.services[0].0.to_string())
    };
    let text = "services: {web: {image: web}}\n";
    let named = "name: ${REGION}-acme\nservices: {web: {image: web}}\n";
    assert_eq!(name(text, "/srv/My App.2", None).unwrap(), "myapp2/web");
    assert_eq!(name(named, "/srv/x", None).unwrap(), "eu-acme/web");
    assert_eq!(name(named, "/srv/x", Some("flag")).unwrap(), "flag/web");
    assert!(
        name(text, "/", None)
            .unwrap_err()
            .to_string()
            .contains("--project")
    );
    assert!(
        name(text, "/srv/x", Some("A b"))
            .unwrap_err()
            .to_string()
            .contains("\"A b\"")
    );
}

#[test]
fn files_without_services_say_so() {
    for text in ["", "# nothing\n", "name: x\n", "- a\n", "text"] {
        let problems = problems(text).join("\n");
        assert!(
            problems.contains("no services") || problems.contains("a map is expected"),
            "{text:?}: {problems}"
        );
    }
    assert!(problems("services: {web: }").join("\n").contains("no image"));
    assert!(
        problems("services: {We b: {image: x}}")
            .join("\n")
            .contains("is named with")
    );
    assert!(
        problems("servces: {}")
            .join("\n")
            .contains("did you mean services?")
    );
}

/// Texts that look like compose files often enough to get deep into the readers.
fn compose_like() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "services",
        "web",
        "image",
        "ports",
        "environment",
        "deploy",
        "resources",
        "limits",
        "cpus",
        "command",
        "env_file",
        "labels",
        "<<",
        "x-trigger",
        "published",
        "target",
        "condition",
        "path",
        "name",
        "restart",
        "cap_add",
        "expose",
    ]);
    let value = prop_oneof![
        Just("8080:80".to_owned()),
        Just("'[::1]:1-2:3-4/udp'".to_owned()),
        Just("${A:-${B:?c}}".to_owned()),
        Just("*a".to_owned()),
        Just("&a x".to_owned()),
        Just("acme/web:v1@sha256:00".to_owned()),
        Just("- x".to_owned()),
        Just("{a: [1, ~, {b: c}]}".to_owned()),
        Just(String::new()),
        "[0-9.]{1,5}[a-zµ]{0,3}",
        "[\\PC]{0,12}",
    ];
    prop::collection::vec((0_usize..6, key, value), 0..16).prop_map(|lines| {
        let lines = lines.into_iter();
        lines
            .map(|(indent, key, value)| format!("{}{key}: {value}\n", "  ".repeat(indent)))
            .collect()
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![compose_like(), any::<String>()]) {
        let _ = read(&text, options(Path::new("/nonexistent/acme"), &[]));
    }

    #[test]
    fn no_service_makes_the_reader_panic(body in compose_like()) {
        let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
        let _ = read(&format!("services:\n  web:\n{body}"), options(Path::new("/nonexistent/acme"), &[]));
    }

    #[test]
    fn no_file_of_variables_makes_the_reader_panic(text in any::<String>(), lines in "([A-Z]{1,2}=[\"'$a-z{}\\\\ #]{0,8}\n){0,6}") {
        let variables = Variables::default();
        for format in [Format::Compose, Format::Raw] {
            let _ = dotenv::parse(&text, format, &variables);
            let _ = dotenv::parse(&lines, format, &variables);
        }
    }

    #[test]
    fn a_plain_text_survives_interpolation(text in "[^$]*") {
        let expanded = interpolate::expand(&text, &|_| None).unwrap();
        prop_assert_eq!(&expanded.text, &text);
        let escaped = format!("$${text}$$");
        prop_assert_eq!(interpolate::expand(&escaped, &|_| None).unwrap().text, format!("${text}$"));
    }
}
