//! One service of a compose file, as the server wants it.

use std::collections::BTreeMap;
use std::path::Path;

use api::{ContainerSpec, Resources, RestartPolicy, ServiceSpec, Trigger};

use super::deploy::{self, Deploy, PIDS_MAX};
use super::environment;
use super::image::{self, Image};
use super::interpolate::Variables;
use super::node::Node;
use super::ports;
use super::problem::{Place, Problems};
use super::section::{Section, items, pairs, parsed, words};
use super::value::{boolean, duration_ms, integer, nano_cpus};

/// Compose's time between SIGTERM and SIGKILL.
const STOP_GRACE_MS: u64 = 10_000;
/// A container that exits within this time never was ready.
const MIN_READY_MS: u64 = 3_000;
/// Time for a container to become ready after its start.
const READY_DEADLINE_MS: u64 = 60_000;

/// What services are read with.
#[derive(Debug)]
pub struct Context<'a> {
    /// The directory of the compose file, which `env_file` is relative to.
    pub directory: &'a Path,
    /// Variables that `environment` may take over by name.
    pub variables: &'a Variables,
    /// The server's host, with its port where that is not the scheme's.
    pub server_host: &'a str,
}

/// Keys that are carried out.
const KEYS: [&str; 22] = [
    "image",
    "command",
    "entrypoint",
    "environment",
    "env_file",
    "labels",
    "user",
    "working_dir",
    "hostname",
    "read_only",
    "cap_add",
    "cap_drop",
    "ports",
    "expose",
    "restart",
    "stop_grace_period",
    "deploy",
    "mem_limit",
    "cpus",
    "pids_limit",
    "scale",
    "x-trigger",
];

/// Keys of compose, and extensions of our own to come, that are not carried out: each with what to do instead.
const UNSUPPORTED: [(&str, &str); 41] = [
    ("annotations", "use labels"),
    ("blkio_config", "block I/O is not limited"),
    (
        "build",
        "images are not built here: build it, push it to the server, and name it with image",
    ),
    ("cgroup_parent", "the node places its containers itself"),
    (
        "configs",
        "files are not handed to containers yet; put them into the image",
    ),
    (
        "container_name",
        "the node names its containers, as a service may have several",
    ),
    ("cpu_shares", "use cpus"),
    ("cpuset", "use cpus"),
    (
        "depends_on",
        "services start side by side; let the program try again until what it needs is there",
    ),
    ("devices", "containers get no devices of their node"),
    ("dns", "containers use the resolver of their node"),
    ("extends", "write the keys out, or share them with a YAML anchor"),
    ("extra_hosts", "names are not added to containers yet"),
    ("gpus", "containers get no devices of their node"),
    ("group_add", "user takes one group, as user: NAME:GROUP"),
    (
        "healthcheck",
        "a container counts as ready once it stayed up for three seconds",
    ),
    ("init", "the program is process 1"),
    ("ipc", "containers share no IPC namespace"),
    ("links", "containers find each other by published ports"),
    ("logging", "the node keeps the logs; pierhead logs shows them"),
    (
        "network_mode",
        "each container has a network of its own on its node's bridge",
    ),
    ("networks", "each container is on its node's bridge"),
    ("pid", "containers share no PID namespace"),
    (
        "platform",
        "a node takes what fits it from a multi-platform image",
    ),
    (
        "privileged",
        "containers are not given their node; cap_add gives single capabilities",
    ),
    (
        "profiles",
        "name the services to deploy: pierhead deploy SERVICE…",
    ),
    (
        "pull_policy",
        "a deployment pins a digest, and nodes pull what they lack",
    ),
    (
        "secrets",
        "secrets are not handed to containers yet; env_file keeps them out of the compose file",
    ),
    (
        "security_opt",
        "containers run with the node's own seccomp filter",
    ),
    ("shm_size", "/dev/shm has its default size"),
    ("stdin_open", "containers have no standard input"),
    ("stop_signal", "containers are stopped with SIGTERM"),
    ("sysctls", "containers have their node's settings"),
    (
        "tmpfs",
        "containers have no file systems of their own yet, but for their root",
    ),
    ("tty", "containers have no terminal"),
    (
        "ulimits",
        "use pids_limit for the number of processes; others are the node's",
    ),
    (
        "volumes",
        "containers keep nothing yet: what they write is gone when they are replaced",
    ),
    (
        "x-approve",
        "a deployment waits for nobody yet; x-trigger: off leaves it to the command",
    ),
    (
        "x-health",
        "a container counts as ready once it stayed up for three seconds",
    ),
    ("x-route", "publish a port"),
    ("x-schedule", "services run all the time"),
];

/// What the keys said so far.
#[derive(Debug, Default)]
struct Draft {
    image: Option<Image>,
    container: ContainerSpec,
    ports: Vec<api::PortMapping>,
    deploy: Deploy,
    scale: Option<u32>,
    limits: Resources,
    restart: Option<RestartPolicy>,
    trigger: Trigger,
    stop_grace_ms: Option<u64>,
    env_files: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

/// Reads the service at `place`; `None` when its image cannot be read. Problems are collected either way.
pub fn read(
    node: &Node,
    place: Place,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<ServiceSpec> {
    let section = Section::read(node, place.clone(), problems)?;
    let mut draft = Draft::default();
    for (key, place, node) in section.entries() {
        key_of_service(key, &place, node, context, &mut draft, problems);
    }
    if section.get("image").is_none() {
        problems.error(&place, "no image; add image: REPOSITORY:TAG");
    }
    finish(draft, &place, problems)
}

fn key_of_service(
    key: &str,
    place: &Place,
    node: &Node,
    context: &Context<'_>,
    draft: &mut Draft,
    problems: &mut Problems,
) {
    let container = &mut draft.container;
    match key {
        "image" => draft.image = parsed(node, place, problems, |t| image::resolve(t, context.server_host)),
        "command" => container.command = words(node, place, problems),
        "entrypoint" => container.entrypoint = words(node, place, problems),
        "environment" => {
            draft.environment = environment::of_map_or_list(node, place, context.variables, problems);
        }
        "env_file" => draft.env_files = environment::of_files(node, place, context, problems),
        "labels" => {
            let pairs = pairs(node, place, problems).into_iter();
            container.labels = pairs
                .map(|(name, value, _)| (name, value.unwrap_or_default()))
                .collect();
        }
        "user" => container.user = parsed(node, place, problems, user),
        "working_dir" => container.working_dir = parsed(node, place, problems, directory),
        "hostname" => container.hostname = parsed(node, place, problems, hostname),
        "read_only" => container.read_only = parsed(node, place, problems, boolean).unwrap_or_default(),
        "cap_add" => container.cap_add = capabilities(node, place, problems),
        "cap_drop" => container.cap_drop = capabilities(node, place, problems),
        "ports" => draft.ports = ports::read(node, place, problems),
        "expose" => ports::check_exposed(node, place, problems),
        "restart" => draft.restart = parsed(node, place, problems, restart),
        "stop_grace_period" => draft.stop_grace_ms = parsed(node, place, problems, duration_ms),
        "deploy" => draft.deploy = deploy::read(node, place.clone(), problems),
        "mem_limit" => draft.limits.memory_bytes = parsed(node, place, problems, deploy::memory),
        "cpus" => draft.limits.nano_cpus = parsed(node, place, problems, nano_cpus),
        "pids_limit" => {
            draft.limits.pids = parsed(node, place, problems, |text| integer(text, 1, PIDS_MAX));
        }
        "scale" => draft.scale = deploy::replicas(node, place, problems),
        "x-trigger" => draft.trigger = parsed(node, place, problems, trigger).unwrap_or_default(),
        other => match UNSUPPORTED.iter().find(|(key, _)| *key == other) {
            Some((_, what)) => problems.unsupported(place, what),
            // What begins with x- is the author's own.
            None if other.starts_with("x-") => {}
            None => problems.unknown(place, &KEYS),
        },
    }
}

fn finish(draft: Draft, place: &Place, problems: &mut Problems) -> Option<ServiceSpec> {
    let mut container = draft.container;
    container.environment = draft.env_files;
    container.environment.extend(draft.environment);
    let replicas = one_of(
        "scale",
        draft.scale,
        "deploy.replicas",
        draft.deploy.replicas,
        place,
        problems,
    );
    let (old, new) = (draft.limits, draft.deploy.limits);
    let limits = "deploy.resources.limits";
    let resources = Resources {
        memory_bytes: one_of(
            "mem_limit",
            old.memory_bytes,
            &format!("{limits}.memory"),
            new.memory_bytes,
            place,
            problems,
        ),
        nano_cpus: one_of(
            "cpus",
            old.nano_cpus,
            &format!("{limits}.cpus"),
            new.nano_cpus,
            place,
            problems,
        ),
        pids: one_of(
            "pids_limit",
            old.pids,
            &format!("{limits}.pids"),
            new.pids,
            place,
            problems,
        ),
    };
    let image = draft.image?;
    Some(ServiceSpec {
        repository: image.repository,
        tag: image.tag,
        digest: image.digest,
        replicas: replicas.unwrap_or(1),
        trigger: draft.trigger,
        container,
        ports: draft.ports,
        resources,
        // Compose prefers the section over the key; with neither, a service is meant to stay up.
        restart: draft.deploy.restart.or(draft.restart).unwrap_or_default(),
        stop_grace_ms: draft.stop_grace_ms.unwrap_or(STOP_GRACE_MS),
        min_ready_ms: MIN_READY_MS,
        ready_deadline_ms: READY_DEADLINE_MS,
    })
}

/// A value that two keys may give, if they agree.
fn one_of<T: PartialEq>(
    old_key: &str,
    old: Option<T>,
    new_key: &str,
    new: Option<T>,
    place: &Place,
    problems: &mut Problems,
) -> Option<T> {
    if old.is_some() && new.is_some() && old != new {
        problems.error(place, format!("{old_key} and {new_key} differ; keep one of them"));
    }
    new.or(old)
}

fn user(text: &str) -> Result<String, String> {
    let is_valid = !text.is_empty()
        && !text.starts_with(':')
        && text.matches(':').count() <= 1
        && !text.contains(char::is_whitespace);
    if is_valid {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is no user; write NAME, UID or one of them with :GROUP"
        ))
    }
}

fn directory(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no absolute path"))
    }
}

/// RFC 1123 labels, at most 63 bytes in all, as the kernel's host name takes 64.
fn hostname(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() <= 63 && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no host name"))
    }
}

fn restart(text: &str) -> Result<RestartPolicy, String> {
    match text {
        "always" | "unless-stopped" => Ok(RestartPolicy::Always),
        "on-failure" => Ok(RestartPolicy::OnFailure),
        "no" => Ok(RestartPolicy::Never),
        _ if text.starts_with("on-failure:") => {
            Err("attempts are not counted; write on-failure, which pauses longer and longer".to_owned())
        }
        _ => Err(format!(
            "{text:?} is no policy; there are always, unless-stopped, on-failure and \"no\""
        )),
    }
}

fn trigger(text: &str) -> Result<Trigger, String> {
    match text {
        "push" => Ok(Trigger::Push),
        "off" => Ok(Trigger::Off),
        _ => Err(format!(
            "{text:?} is no trigger; there are push (a push of the tag deploys it) and off"
        )),
    }
}

/// The kernel's capabilities (capabilities(7)), without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

fn capabilities(node: &Node, place: &Place, problems: &mut Problems) -> Vec<String> {
    let mut names = Vec::new();
    for (place, item) in items(node, place, problems) {
        let name = parsed(item, &place, problems, |text| {
            let name = text.to_ascii_uppercase();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            if name == "ALL" || CAPABILITIES.contains(&name) {
                Ok(name.to_owned())
            } else {
                Err(format!("{text:?} is no capability"))
            }
        });
        names.extend(name);
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(yaml: &str) -> (Option<ServiceSpec>, Problems) {
        let node = super::super::node::parse(yaml).unwrap();
        let mut problems = Problems::default();
        let variables = Variables {
            process: [("FROM_SHELL".to_owned(), "s".to_owned())].into(),
            file: BTreeMap::new(),
        };
        let context = Context {
            directory: Path::new("/nonexistent"),
            variables: &variables,
            server_host: "localhost:5000",
        };
        let place = Place {
            path: "services.web".to_owned(),
            line: 1,
        };
        let spec = read(&node, place, &context, &mut problems);
        (spec, problems)
    }

    fn good(yaml: &str) -> ServiceSpec {
        let (spec, problems) = service(&format!("image: acme/web:v1\n{yaml}"));
        assert_eq!(problems.errors, [], "{yaml}");
        spec.unwrap()
    }

    fn bad(yaml: &str) -> String {
        let (_, problems) = service(&format!("image: acme/web:v1\n{yaml}"));
        assert!(!problems.errors.is_empty(), "{yaml} was accepted");
        problems.errors.iter().map(|p| format!("{p}\n")).collect()
    }

    #[test]
    fn both_syntaxes_of_each_key_mean_the_same() {
        for (one, other) in [
            (
                "command: sh -c 'echo \"a b\"'",
                "command: [sh, -c, 'echo \"a b\"']",
            ),
            ("entrypoint: /bin/a --x", "entrypoint: [/bin/a, --x]"),
            (
                "environment: {A: 1.50, B: yes, C: ''}",
                "environment: [A=1.50, B=yes, C=]",
            ),
            ("environment: {FROM_SHELL: }", "environment: [FROM_SHELL=s]"),
            (
                "environment: [FROM_SHELL, NOT_THERE]",
                "environment: {FROM_SHELL: s}",
            ),
            ("labels: {a: b, c: }", "labels: [a=b, c]"),
            ("scale: 3", "deploy: {replicas: 3}"),
            ("mem_limit: 64m", "deploy: {resources: {limits: {memory: 64M}}}"),
            ("cpus: 0.5", "deploy: {resources: {limits: {cpus: '0.50'}}}"),
            ("pids_limit: 100", "deploy: {resources: {limits: {pids: 100}}}"),
            (
                "restart: on-failure",
                "deploy: {restart_policy: {condition: on-failure}}",
            ),
            ("restart: always", "restart: unless-stopped"),
            ("restart: \"no\"", "restart: no"),
            ("cap_drop: [cap_net_raw]", "cap_drop: [NET_RAW]"),
        ] {
            assert_eq!(good(one), good(other), "{one}");
        }
    }

    #[test]
    fn defaults_are_those_that_keep_a_service_up() {
        let spec = good("");
        assert_eq!(spec.replicas, 1);
        assert_eq!(spec.restart, RestartPolicy::Always);
        assert_eq!(spec.trigger, Trigger::Push);
        assert_eq!((spec.stop_grace_ms, spec.min_ready_ms), (10_000, 3_000));
        assert_eq!(spec.container, ContainerSpec::default());
        assert_eq!(spec.resources, Resources::default());
    }

    #[test]
    fn values_that_do_not_fit_are_named() {
        for (yaml, expected) in [
            (
                "command: \"sh 'x\"",
                "services.web.command: \"sh 'x\" has a quote",
            ),
            ("command: {a: b}", "a single value is expected, not a map"),
            ("user: ':0'", "is no user"),
            ("working_dir: a/b", "is no absolute path"),
            ("hostname: a_b", "is no host name"),
            ("read_only: maybe", "neither true nor false"),
            (
                "cap_add: [SYS_MAGIC]",
                "services.web.cap_add[0]: \"SYS_MAGIC\" is no capability",
            ),
            ("restart: on-failure:3", "attempts are not counted"),
            ("restart: sometimes", "is no policy"),
            ("stop_grace_period: 10", "is no duration"),
            ("mem_limit: 1m", "below 6m"),
            ("scale: -1", "is no whole number"),
            (
                "scale: 2\ndeploy: {replicas: 3}",
                "scale and deploy.replicas differ",
            ),
            ("x-trigger: always", "is no trigger"),
            ("deploy: {mode: global}", "services are replicated"),
            ("deploy: {replica: 3}", "did you mean replicas?"),
            ("deploy: {placement: {}}", "spread evenly"),
            ("environment: ['=x']", "is no name"),
            ("environment: [A: b]", "a single value is expected, not a map"),
            ("healthcheck: {test: x}", "--allow healthcheck"),
            ("comand: x", "did you mean command?"),
            ("env_file: missing.env", "missing.env"),
        ] {
            let problems = bad(yaml);
            assert!(problems.contains(expected), "{yaml}: {problems}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let (spec, problems) = service("volumes: []\nbuild: .\nuser: ''\nports: [80]\nx-mine: 1\n");
        assert!(spec.is_none());
        assert_eq!(problems.errors.len(), 5, "{:?}", problems.errors);
    }
}
