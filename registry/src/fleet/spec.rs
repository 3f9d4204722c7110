//! What a specification must keep to, beyond its types: each mistake is told with its field and what to write.

use std::collections::HashSet;

use api::{ContainerSpec, ServiceSpec};

/// The most copies of one service.
const REPLICAS_MAX: u32 = 1000;
/// The longest time that any wait may be asked for.
const WAIT_MAX_MS: u64 = 24 * 3600 * 1000;
/// Less memory than this starts no program.
const MEMORY_MIN_BYTES: u64 = 4 * 1024 * 1024;

/// Everything that is wrong with `spec`.
pub(super) fn mistakes(spec: &ServiceSpec) -> Vec<String> {
    let mut wrong = Vec::new();
    if spec.tag.is_none() && spec.digest.is_none() {
        wrong.push("tag: neither a tag nor a digest is given; write one of them".to_owned());
    }
    if spec.replicas > REPLICAS_MAX {
        let replicas = spec.replicas;
        wrong.push(format!(
            "replicas: {replicas} is too many; write at most {REPLICAS_MAX}"
        ));
    }
    let waits = [
        ("stop_grace_ms", spec.stop_grace_ms),
        ("min_ready_ms", spec.min_ready_ms),
        ("ready_deadline_ms", spec.ready_deadline_ms),
    ];
    for (field, value) in waits.into_iter().filter(|(_, value)| *value > WAIT_MAX_MS) {
        wrong.push(format!(
            "{field}: {value} is too long; write at most {WAIT_MAX_MS} (a day)"
        ));
    }
    if spec.ready_deadline_ms <= spec.min_ready_ms {
        wrong.push(format!(
            "ready_deadline_ms: {} passes before min_ready_ms ({}) is over, so no copy could become ready; write more",
            spec.ready_deadline_ms, spec.min_ready_ms
        ));
    }
    ports(spec, &mut wrong);
    container(&spec.container, &mut wrong);
    let resources = &spec.resources;
    if resources
        .memory_bytes
        .is_some_and(|bytes| bytes < MEMORY_MIN_BYTES)
    {
        wrong.push(format!(
            "resources.memory_bytes: too little to start a program; write at least {MEMORY_MIN_BYTES}, or leave it out"
        ));
    }
    if resources.nano_cpus == Some(0) {
        wrong.push(
            "resources.nano_cpus: 0 would never run; write billionths of a core, or leave it out".to_owned(),
        );
    }
    if resources.pids == Some(0) {
        wrong.push("resources.pids: 0 would start nothing; write at least 1, or leave it out".to_owned());
    }
    wrong
}

fn ports(spec: &ServiceSpec, wrong: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        if port.host_port == 0 {
            wrong.push(format!(
                "ports[{index}].host_port: 0 is no port; write 1 to 65535"
            ));
        }
        if port.container_port == 0 {
            wrong.push(format!(
                "ports[{index}].container_port: 0 is no port; write 1 to 65535"
            ));
        }
        if !seen.insert((port.host_ip, port.host_port, port.protocol)) {
            wrong.push(format!(
                "ports[{index}].host_port: {} is published twice; write another port",
                port.host_port
            ));
        }
    }
}

fn container(container: &ContainerSpec, wrong: &mut Vec<String>) {
    for name in container.environment.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            wrong.push(format!(
                "container.environment: {name:?} is no name of a variable; write one without '=' and NUL"
            ));
        }
    }
    let lists = [
        ("entrypoint", &container.entrypoint),
        ("command", &container.command),
    ];
    let texts = lists
        .iter()
        .filter_map(|(field, list)| list.as_ref().map(|list| (*field, list)));
    for (field, list) in texts {
        if list.iter().any(|text| text.contains('\0')) {
            wrong.push(format!(
                "container.{field}: an argument holds NUL, which no program can be given"
            ));
        }
    }
    if container
        .working_dir
        .as_ref()
        .is_some_and(|path| !path.starts_with('/'))
    {
        wrong.push("container.working_dir: it is not absolute; write a path that begins with '/'".to_owned());
    }
    let is_hostname = |name: &String| {
        let is_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        !name.is_empty() && name.len() <= 64 && name.bytes().all(is_valid)
    };
    if container.hostname.as_ref().is_some_and(|name| !is_hostname(name)) {
        wrong.push(
            "container.hostname: it is no host name; write letters, digits, '-' and '.', at most 64 characters"
                .to_owned(),
        );
    }
    let is_capability =
        |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    for (field, list) in [("cap_add", &container.cap_add), ("cap_drop", &container.cap_drop)] {
        for name in list
            .iter()
            .filter(|name| !is_capability(name) || name.starts_with("CAP_"))
        {
            wrong.push(format!(
                "container.{field}: {name:?} is no capability; write it as NET_ADMIN, without CAP_"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ServiceSpec {
        let text = r#"{"repository":"acme/web","tag":"main","replicas":1,"container":{},
            "stop_grace_ms":10000,"min_ready_ms":1000,"ready_deadline_ms":60000}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_plain_specification_is_right() {
        assert_eq!(mistakes(&spec()), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_names_its_field() {
        type Change = fn(&mut ServiceSpec);
        let cases: [(&str, Change); 8] = [
            ("tag:", |s| s.tag = None),
            ("replicas:", |s| s.replicas = 5000),
            ("ready_deadline_ms:", |s| s.ready_deadline_ms = 10),
            ("container.working_dir:", |s| {
                s.container.working_dir = Some("srv".into())
            }),
            ("container.cap_add:", |s| {
                s.container.cap_add = vec!["CAP_SYS_ADMIN".into()]
            }),
            ("container.environment:", |s| {
                s.container.environment.insert("A=B".into(), String::new());
            }),
            ("resources.memory_bytes:", |s| s.resources.memory_bytes = Some(1)),
            ("ports[1].host_port:", |s| {
                let port: api::PortMapping =
                    serde_json::from_str(r#"{"host_port":80,"container_port":80}"#).unwrap();
                s.ports = vec![port.clone(), port];
            }),
        ];
        for (field, change) in cases {
            let mut spec = spec();
            change(&mut spec);
            let wrong = mistakes(&spec);
            assert!(
                wrong.len() == 1 && wrong[0].starts_with(field),
                "{field} {wrong:?}"
            );
        }
    }
}
