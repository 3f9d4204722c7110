//! From the body of `POST /containers/create` to a container of the engine. What would have to change how the container
//! is isolated, or is not carried out, is refused by name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::{ContainerSpec, Resources};
use serde_json::Value;

use super::error::ApiError;
use super::wire::{CreateBody, HostConfig, PortBinding, Words};
use crate::engine::NewContainer;
use crate::image::Image;
use crate::network::{PortRequest, Protocol};

/// Fields that make no difference here: they are of the client, or of Windows.
const HARMLESS: [&str; 11] = [
    "AttachStdout",
    "AttachStderr",
    "ArgsEscaped",
    "OnBuild",
    "Shell",
    "ContainerIDFile",
    "ConsoleSize",
    "CpuCount",
    "CpuPercent",
    "IOMaximumIOps",
    "IOMaximumBandwidth",
];

/// Fields of Docker's that are not carried out. Any value but the neutral ones is refused.
const NOT_CARRIED_OUT: [&str; 63] = [
    "AttachStdin",
    "Domainname",
    "Healthcheck",
    "MacAddress",
    "NetworkDisabled",
    "OpenStdin",
    "StdinOnce",
    "StopSignal",
    "StopTimeout",
    "Tty",
    "Volumes",
    // HostConfig:
    "Annotations",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeight",
    "BlkioWeightDevice",
    "Cgroup",
    "CgroupParent",
    "CgroupnsMode",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Init",
    "IpcMode",
    "Isolation",
    "KernelMemory",
    "KernelMemoryTCP",
    "Links",
    "LogConfig",
    "MaskedPaths",
    "MemoryReservation",
    "MemorySwappiness",
    "Mounts",
    "OomKillDisable",
    "OomScoreAdj",
    "PidMode",
    "Privileged",
    "ReadonlyPaths",
    "RestartPolicy",
    "Runtime",
    "SecurityOpt",
    "ShmSize",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "UTSMode",
    "Ulimits",
    "UsernsMode",
    "VolumeDriver",
    "VolumesFrom",
];

/// What Docker's period is where none is given, in microseconds.
const DEFAULT_CPU_PERIOD: i64 = 100_000;

/// Makes of `body` what the engine is asked for.
///
/// # Errors
/// 400 with the field that cannot be carried out.
pub(super) fn container(body: CreateBody, name: String, image: Arc<Image>) -> Result<NewContainer, ApiError> {
    check_others("", &body.others)?;
    let host = body.host_config.unwrap_or_default();
    check_others("HostConfig.", &host.others)?;
    check_network(
        &host,
        body.networking_config.and_then(|config| config.endpoints_config),
    )?;
    let exposed = body.exposed_ports.unwrap_or_default();
    let ports = ports(&host, exposed.keys().chain(&image.config.exposed_ports))?;
    let resources = resources(&host)?;
    let entrypoint = words(body.entrypoint).filter(|words| !words.is_empty());
    let container = ContainerSpec {
        // One empty word is how an image's entrypoint is taken away.
        entrypoint: entrypoint.map(|words| if words == [""] { Vec::new() } else { words }),
        command: words(body.cmd).filter(|words| !words.is_empty()),
        environment: environment(body.env.unwrap_or_default(), &image)?,
        labels: body.labels.unwrap_or_default(),
        user: body.user.filter(|user| !user.is_empty()),
        working_dir: body.working_dir.filter(|directory| !directory.is_empty()),
        hostname: body.hostname.filter(|name| !name.is_empty()),
        read_only: host.readonly_rootfs.unwrap_or_default(),
        cap_add: words(host.cap_add).unwrap_or_default(),
        cap_drop: words(host.cap_drop).unwrap_or_default(),
    };
    Ok(NewContainer {
        name,
        image,
        image_name: body.image,
        is_removed_at_end: host.auto_remove.unwrap_or_default(),
        container,
        resources,
        ports,
    })
}

/// A name for a container whose name nobody cares about.
pub(super) fn random_name() -> String {
    const HOW: [&str; 16] = [
        "anchored", "brisk", "calm", "drifting", "eager", "floating", "gentle", "moored", "northern",
        "patient", "quiet", "salty", "southern", "steady", "sturdy", "windward",
    ];
    const WHAT: [&str; 16] = [
        "barge",
        "beacon",
        "breakwater",
        "buoy",
        "capstan",
        "crane",
        "cutter",
        "dinghy",
        "ferry",
        "gull",
        "harbour",
        "jetty",
        "ketch",
        "quay",
        "schooner",
        "tug",
    ];
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    let [how, what, high, low] = bytes;
    format!(
        "{}_{}_{high:02x}{low:02x}",
        HOW[usize::from(how) % 16],
        WHAT[usize::from(what) % 16]
    )
}

fn words(words: Option<Words>) -> Option<Vec<String>> {
    words.map(Words::into_vec)
}

fn refuse(field: &str, value: &Value) -> ApiError {
    ApiError::bad(format!(
        "{field} ({value}) is not supported by this engine: leave it out"
    ))
}

fn check_others(prefix: &str, others: &BTreeMap<String, Value>) -> Result<(), ApiError> {
    for (name, value) in others {
        if is_neutral(name, value) || HARMLESS.contains(&name.as_str()) {
            continue;
        }
        if NOT_CARRIED_OUT.contains(&name.as_str()) {
            return Err(refuse(&format!("{prefix}{name}"), value));
        }
        tracing::warn!(
            field = format!("{prefix}{name}"),
            "a field that nobody knows is ignored"
        );
    }
    Ok(())
}

/// Whether a value says what is done anyway.
fn is_neutral(name: &str, value: &Value) -> bool {
    if is_empty(value) {
        return true;
    }
    let text = value.as_str();
    let of = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    match name {
        "CgroupnsMode" | "IpcMode" => text == Some("private"),
        "Isolation" => text == Some("default"),
        "Healthcheck" => value["Test"] == serde_json::json!(["NONE"]),
        "LogConfig" => matches!(of("Type"), "" | "json-file") && value.get("Config").is_none_or(is_empty),
        "MemorySwappiness" => value.as_i64() == Some(-1),
        "RestartPolicy" => matches!(of("Name"), "" | "no"),
        _ => false,
    }
}

/// Null, zero, false, and what holds nothing else.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.iter().all(is_empty),
        Value::Object(values) => values.values().all(is_empty),
    }
}

fn check_network(host: &HostConfig, endpoints: Option<BTreeMap<String, Value>>) -> Result<(), ApiError> {
    let is_ours = |name: &str| matches!(name, "" | "default" | "bridge");
    if let Some(mode) = host.network_mode.as_deref().filter(|mode| !is_ours(mode)) {
        return Err(refuse("HostConfig.NetworkMode", &mode.into()));
    }
    for (name, settings) in endpoints.unwrap_or_default() {
        if !is_ours(&name) || !is_empty(&settings) {
            return Err(refuse(
                &format!("NetworkingConfig.EndpointsConfig.{name}"),
                &settings,
            ));
        }
    }
    Ok(())
}

fn resources(host: &HostConfig) -> Result<Resources, ApiError> {
    let limit = |field: &str, value: i64| match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(refuse(&format!("HostConfig.{field}"), &value.into())),
    };
    // Swap is never given on top of memory.
    if host.memory_swap != 0 && host.memory_swap != host.memory {
        return Err(refuse("HostConfig.MemorySwap", &host.memory_swap.into()));
    }
    let nano_cpus = match (host.nano_cpus, host.cpu_quota, host.cpu_period) {
        (nano_cpus, 0, 0) => nano_cpus,
        (0, quota, period) if quota > 0 && period >= 0 => {
            let period = if period == 0 { DEFAULT_CPU_PERIOD } else { period };
            let nano_cpus = i128::from(quota) * 1_000_000_000 / i128::from(period);
            i64::try_from(nano_cpus).map_err(|_| refuse("HostConfig.CpuQuota", &quota.into()))?
        }
        // No quota: the period has nothing to divide.
        (nano_cpus, 0 | -1, _) => nano_cpus,
        (0, quota, _) => return Err(refuse("HostConfig.CpuQuota", &quota.into())),
        _ => {
            return Err(ApiError::bad(
                "HostConfig.NanoCpus and HostConfig.CpuQuota say the same thing: give one of them",
            ));
        }
    };
    Ok(Resources {
        memory_bytes: limit("Memory", host.memory)?,
        nano_cpus: limit("NanoCpus", nano_cpus)?,
        // -1 is Docker's word for no limit, which is not given: the node's default applies.
        pids: limit("PidsLimit", host.pids_limit.max(0))?,
    })
}

/// A name alone takes the variable away, which cannot be done to one that the image sets.
fn environment(variables: Vec<String>, image: &Image) -> Result<BTreeMap<String, String>, ApiError> {
    let mut environment = BTreeMap::new();
    for variable in variables {
        match variable.split_once('=') {
            Some((name, value)) => drop(environment.insert(name.to_owned(), value.to_owned())),
            None => {
                let is_set =
                    |of_image: &String| of_image.split_once('=').is_some_and(|(name, _)| name == variable);
                if image.config.env.iter().any(is_set) {
                    return Err(ApiError::bad(format!(
                        "Env: taking {variable} away from the image's variables is not supported: set it to something"
                    )));
                }
            }
        }
    }
    Ok(environment)
}

fn ports<'a>(
    host: &HostConfig,
    exposed: impl Iterator<Item = &'a String>,
) -> Result<Vec<PortRequest>, ApiError> {
    let mut ports = Vec::new();
    for (port, bindings) in host.port_bindings.iter().flatten() {
        let (container_port, protocol) = port_of(port)?;
        let any = [PortBinding::default()];
        let bindings = bindings.as_deref().filter(|bindings| !bindings.is_empty());
        for binding in bindings.unwrap_or(&any) {
            ports.push(PortRequest {
                protocol,
                host_address: address_of(&binding.host_ip)?,
                host_port: host_port_of(&binding.host_port)?,
                container_port,
            });
        }
    }
    for port in exposed {
        let (container_port, protocol) = port_of(port)?;
        let is_bound = ports
            .iter()
            .any(|bound| (bound.container_port, bound.protocol) == (container_port, protocol));
        if host.publish_all_ports == Some(true) && !is_bound {
            ports.push(PortRequest {
                protocol,
                host_address: None,
                host_port: 0,
                container_port,
            });
        }
    }
    Ok(ports)
}

/// Reads `80` or `80/tcp`.
fn port_of(text: &str) -> Result<(u16, Protocol), ApiError> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => {
            return Err(ApiError::bad(format!(
                "port {text:?}: the protocol is not tcp or udp"
            )));
        }
    };
    match port.parse() {
        Ok(port) if port > 0 => Ok((port, protocol)),
        _ => Err(ApiError::bad(format!(
            "port {text:?}: a number from 1 to 65535 is needed"
        ))),
    }
}

fn address_of(text: &str) -> Result<Option<IpAddr>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.trim_start_matches('[').trim_end_matches(']').parse();
    address
        .map(Some)
        .map_err(|_| ApiError::bad(format!("HostIp {text:?} is not an address")))
}

fn host_port_of(text: &str) -> Result<u16, ApiError> {
    match text {
        "" => Ok(0),
        text => text
            .parse()
            .map_err(|_| ApiError::bad(format!("HostPort {text:?}: one number from 0 to 65535 is needed"))),
    }
}

#[cfg(test)]
mod tests {
    use oci::{Digest, RepositoryName};
    use serde_json::json;

    use super::*;
    use crate::image::ImageConfig;

    fn create(body: Value) -> Result<NewContainer, String> {
        let digest = Digest::sha256(b"");
        let image = Image {
            digest: digest.clone(),
            manifest_digest: digest.clone(),
            config_digest: digest,
            repository: "a".parse::<RepositoryName>().expect("a name"),
            config: ImageConfig {
                env: vec!["SET=1".to_owned()],
                exposed_ports: ["53/udp".to_owned()].into(),
                ..ImageConfig::default()
            },
            layers: Vec::new(),
            size_bytes: 0,
        };
        let body = serde_json::from_value(body).expect("a body");
        container(body, "name".to_owned(), Arc::new(image)).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn what_docker_run_sends_without_options_is_accepted() {
        let new = create(json!({
            "Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,
            "Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["true"],"Image":"busybox","Volumes":{},
            "WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"NetworkingConfig":{"EndpointsConfig":
            {"default":{"IPAMConfig":null,"Links":null,"Aliases":null,"DriverOpts":null,"GwPriority":0}}},
            "HostConfig":{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},
            "NetworkMode":"default","PortBindings":{},"RestartPolicy":{"Name":"no","MaximumRetryCount":0},
            "AutoRemove":true,"ConsoleSize":[24,80],"CgroupnsMode":"","Dns":[],"Privileged":false,"ShmSize":0,
            "MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"MaskedPaths":null,"ReadonlyPaths":null}
        }));
        let new = new.expect("is accepted");
        assert!(new.is_removed_at_end && new.ports.is_empty());
        assert_eq!(new.container.command, Some(vec!["true".to_owned()]));
        assert_eq!((new.container.entrypoint, new.container.user), (None, None));
        assert_eq!(new.resources, Resources::default());
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_name() {
        for (field, value) in [
            ("Tty", json!(true)),
            ("OpenStdin", json!(true)),
            ("Volumes", json!({"/data": {}, "x": {"y": 1}})),
            ("Healthcheck", json!({"Test": ["CMD", "x"]})),
        ] {
            let error = create(json!({field: value})).expect_err(field);
            assert!(error.contains(field), "{error}");
        }
        for (field, value) in [
            ("Privileged", json!(true)),
            ("Binds", json!(["/:/host"])),
            ("PidMode", json!("host")),
            ("NetworkMode", json!("host")),
            ("SecurityOpt", json!(["seccomp=unconfined"])),
            ("RestartPolicy", json!({"Name": "always"})),
            ("MaskedPaths", json!(["/proc/x"])),
            ("MemorySwap", json!(-1)),
            ("CpuQuota", json!(-5)),
            ("IpcMode", json!("shareable")),
        ] {
            let error = create(json!({"HostConfig": {field: value}})).expect_err(field);
            assert!(error.contains(&format!("HostConfig.{field}")), "{error}");
        }
        assert!(create(json!({"NoSuchField": true, "HostConfig": {"Neither": 7}})).is_ok());
    }

    #[test]
    fn limits_come_in_two_forms() {
        let host = |host: Value| create(json!({"HostConfig": host})).map(|new| new.resources);
        let limits = host(json!({"Memory": 64, "MemorySwap": 64, "CpuQuota": 50_000, "PidsLimit": -1}));
        let limits = limits.expect("is accepted");
        assert_eq!(
            (limits.memory_bytes, limits.nano_cpus, limits.pids),
            (Some(64), Some(500_000_000), None)
        );
        let limits = host(json!({"CpuQuota": 50_000, "CpuPeriod": 25_000})).expect("is accepted");
        assert_eq!(limits.nano_cpus, Some(2_000_000_000));
        assert!(host(json!({"CpuQuota": 1, "NanoCpus": 1})).is_err());
        assert!(host(json!({"Memory": -1})).is_err());
    }

    #[test]
    fn ports_are_bound_as_asked() {
        let ports = |body: Value| create(body).map(|new| new.ports);
        let bound = ports(
            json!({"HostConfig": {"PortBindings": {"80": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
            "81/udp": null}}}),
        );
        let bound = bound.expect("is accepted");
        assert_eq!(
            bound[0].host_address,
            Some("127.0.0.1".parse().expect("an address"))
        );
        assert_eq!((bound[0].host_port, bound[0].container_port), (8080, 80));
        assert_eq!((bound[1].host_port, bound[1].protocol), (0, Protocol::Udp));
        let all = ports(json!({"ExposedPorts": {"80/tcp": {}}, "HostConfig": {"PublishAllPorts": true}}));
        assert_eq!(all.expect("is accepted").len(), 2, "the image's too");
        assert!(ports(json!({"HostConfig": {"PortBindings": {"80/sctp": []}}})).is_err());
        assert!(ports(json!({"HostConfig": {"PortBindings": {"80": [{"HostPort": "8000-8010"}]}}})).is_err());
    }

    #[test]
    fn entrypoints_and_variables_follow_docker() {
        let new =
            create(json!({"Entrypoint": [""], "Cmd": "x", "Env": ["A=b=c", "UNSET"]})).expect("is accepted");
        assert_eq!(new.container.entrypoint, Some(Vec::new()));
        assert_eq!(
            new.container.environment,
            BTreeMap::from([("A".to_owned(), "b=c".to_owned())])
        );
        assert!(create(json!({"Env": ["SET"]})).is_err());
    }
}
