//! How containers are shown: complete, because clients read fields that nobody set.

use std::collections::BTreeMap;

use oci::Digest;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::wire::{ContainerSummary, Port, PortBinding, State};
use crate::engine::{ContainerState, ContainerView};
use crate::image::Image;
use crate::network::{MacAddress, Network, PublishedPort};

/// Docker's moment that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Seconds since 1970 of a moment in RFC 3339; 0 for what is none.
pub(super) fn unix_seconds(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
}

/// The image's id as Docker has it; what the container was made of where the image is gone.
pub(super) fn image_id(view: &ContainerView, image: Option<&Image>) -> String {
    image
        .map_or(&view.image, |image| &image.config_digest)
        .to_string()
}

/// What whoever asked calls the image.
pub(super) fn image_name(name: Option<&str>, digest: &Digest) -> String {
    name.map_or_else(|| digest.to_string(), str::to_owned)
}

/// One line of a list.
pub(super) fn summary(view: ContainerView, image: Option<&Image>, network: &Network) -> ContainerSummary {
    ContainerSummary {
        names: vec![format!("/{}", view.name)],
        image: image_name(view.image_name.as_deref(), &view.image),
        image_id: image_id(&view, image),
        command: view.program.args.join(" "),
        created: unix_seconds(&view.created_at),
        ports: listed_ports(&view),
        state: view.state.as_str(),
        status: status(&view.state),
        host_config: json!({"NetworkMode": "bridge"}),
        network_settings: json!({"Networks": {"bridge": endpoint(&view, network)}}),
        mounts: [],
        id: view.id.as_str().to_owned(),
        labels: view.labels,
    }
}

/// `Up 5 minutes`, as people read it.
fn status(state: &ContainerState) -> String {
    let since = |text: &str| ago(OffsetDateTime::now_utc().unix_timestamp() - unix_seconds(text));
    match state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running { started_at, .. } => format!("Up {}", since(started_at)),
        ContainerState::Exited(exit) => {
            format!("Exited ({}) {} ago", exit.exit_code, since(&exit.finished_at))
        }
    }
}

/// A length of time in Docker's words.
fn ago(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Where a published port is reached: every address is one of each family.
fn addresses(port: &PublishedPort) -> Vec<String> {
    match port.host_address {
        Some(address) => vec![address.to_string()],
        None => vec!["0.0.0.0".to_owned(), "::".to_owned()],
    }
}

fn listed_ports(view: &ContainerView) -> Vec<Port> {
    let mut listed = Vec::new();
    for port in &view.ports {
        for address in addresses(port) {
            listed.push(Port {
                ip: Some(address),
                private_port: port.container_port,
                public_port: Some(port.host_port),
                kind: port.protocol.to_string(),
            });
        }
    }
    listed
}

fn bindings(
    view: &ContainerView,
    exposed: impl Iterator<Item = String>,
) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let mut ports: BTreeMap<String, Option<Vec<PortBinding>>> = exposed.map(|port| (port, None)).collect();
    for port in &view.ports {
        let key = format!("{}/{}", port.container_port, port.protocol);
        let list = ports.entry(key).or_default().get_or_insert_default();
        list.extend(addresses(port).into_iter().map(|host_ip| PortBinding {
            host_ip,
            host_port: port.host_port.to_string(),
        }));
    }
    ports
}

/// One name for the one network there is.
fn network_id(network: &Network) -> String {
    Digest::sha256(network.bridge().as_bytes()).hex().to_owned()
}

fn endpoint(view: &ContainerView, network: &Network) -> Value {
    let subnet = network.subnet();
    let is_attached = view.address.is_some();
    let text = |text: String| if is_attached { text } else { String::new() };
    json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": null,
        "MacAddress": view.address.map(|address| MacAddress::of(address).to_string()).unwrap_or_default(),
        "DriverOpts": null,
        "NetworkID": network_id(network),
        "EndpointID": text(view.id.as_str().to_owned()),
        "Gateway": text(subnet.gateway().to_string()),
        "IPAddress": view.address.map(|address| address.to_string()).unwrap_or_default(),
        "IPPrefixLen": if is_attached { subnet.prefix() } else { 0 },
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    })
}

/// `State` of a container.
fn state(view: &ContainerView) -> State {
    let exit = match &view.state {
        ContainerState::Exited(exit) => Some(exit),
        _ => view.last_exit.as_ref(),
    };
    let ended = matches!(view.state, ContainerState::Exited(_))
        .then_some(exit)
        .flatten();
    let (pid, started_at) = match &view.state {
        ContainerState::Running { pid, started_at } => (*pid, Some(started_at.clone())),
        _ => (0, exit.and_then(|exit| exit.started_at.clone())),
    };
    State {
        status: view.state.as_str(),
        running: matches!(view.state, ContainerState::Running { .. }),
        paused: false,
        restarting: false,
        oom_killed: ended.is_some_and(|exit| exit.oom_killed),
        dead: false,
        pid,
        exit_code: ended.map_or(0, |exit| exit.exit_code),
        error: ended.and_then(|exit| exit.reason.clone()).unwrap_or_default(),
        started_at: started_at.unwrap_or_else(|| NEVER.to_owned()),
        finished_at: exit.map_or_else(|| NEVER.to_owned(), |exit| exit.finished_at.clone()),
    }
}

/// `GET /containers/{id}/json`.
pub(super) fn container(view: &ContainerView, image: Option<&Image>, network: &Network) -> Value {
    let asked = &view.container;
    let of_image = image.map(|image| &image.config);
    let entrypoint = asked
        .entrypoint
        .clone()
        .or_else(|| of_image.map(|config| config.entrypoint.clone()))
        .filter(|words| !words.is_empty());
    let command = match (&asked.command, &asked.entrypoint) {
        (None, None) => of_image.map(|config| config.cmd.clone()),
        (command, _) => command.clone(),
    };
    let mut exposed: BTreeMap<String, Value> = of_image
        .into_iter()
        .flat_map(|config| config.exposed_ports.iter().map(|port| (port.clone(), json!({}))))
        .collect();
    for port in &view.asked_ports {
        exposed.insert(format!("{}/{}", port.container_port, port.protocol), json!({}));
    }
    let config = json!({
        "Hostname": view.program.hostname,
        "Domainname": "",
        "User": view.program.user,
        "AttachStdin": false,
        "AttachStdout": true,
        "AttachStderr": true,
        "ExposedPorts": exposed,
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "Env": view.program.environment,
        "Cmd": command,
        "Image": image_name(view.image_name.as_deref(), &view.image),
        "Volumes": null,
        "WorkingDir": view.program.working_dir,
        "Entrypoint": entrypoint,
        "OnBuild": null,
        "Labels": view.labels,
        "StopSignal": view.program.stop_signal.to_string(),
    });
    let endpoint = endpoint(view, network);
    let network_settings = json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "Ports": match view.state {
            ContainerState::Running { .. } => bindings(view, exposed.keys().cloned()),
            _ => BTreeMap::new(),
        },
        "EndpointID": endpoint["EndpointID"],
        "Gateway": endpoint["Gateway"],
        "IPAddress": endpoint["IPAddress"],
        "IPPrefixLen": endpoint["IPPrefixLen"],
        "MacAddress": endpoint["MacAddress"],
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "Networks": {"bridge": endpoint},
    });
    json!({
        "Id": view.id.as_str(),
        "Created": view.created_at,
        "Path": view.program.args.first(),
        "Args": view.program.args.get(1..).unwrap_or_default(),
        "State": state(view),
        "Image": image_id(view, image),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": view.log_path,
        "Name": format!("/{}", view.name),
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(view),
        "GraphDriver": {"Name": "overlay2", "Data": null},
        "Mounts": [],
        "Config": config,
        "NetworkSettings": network_settings,
    })
}

fn host_config(view: &ContainerView) -> Value {
    let mut port_bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for port in &view.asked_ports {
        let key = format!("{}/{}", port.container_port, port.protocol);
        port_bindings.entry(key).or_default().push(PortBinding {
            host_ip: port
                .host_address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            host_port: match port.host_port {
                0 => String::new(),
                port => port.to_string(),
            },
        });
    }
    let (asked, limits) = (&view.container, &view.resources);
    let memory = limits.memory_bytes.unwrap_or_default();
    let mut config = json!({
        "AutoRemove": view.is_removed_at_end,
        "CapAdd": asked.cap_add,
        "CapDrop": asked.cap_drop,
        "CgroupnsMode": "private",
        "IpcMode": "private",
        "LogConfig": {"Type": "json-file", "Config": {}},
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": limits.nano_cpus.unwrap_or_default(),
        "NetworkMode": "bridge",
        "PidsLimit": limits.pids,
        "PortBindings": port_bindings,
        "ReadonlyRootfs": asked.read_only,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "Runtime": super::system::RUNTIME,
        "ConsoleSize": [0, 0],
    });
    // What cannot be asked for is there all the same, as Docker shows what was not.
    let neutral = [
        (
            json!(null),
            &[
                "Binds",
                "VolumesFrom",
                "BlkioWeightDevice",
                "BlkioDeviceReadBps",
                "BlkioDeviceReadIOps",
                "BlkioDeviceWriteBps",
                "BlkioDeviceWriteIOps",
                "DeviceCgroupRules",
                "DeviceRequests",
                "Devices",
                "ExtraHosts",
                "GroupAdd",
                "Links",
                "MemorySwappiness",
                "OomKillDisable",
                "SecurityOpt",
                "Ulimits",
                "MaskedPaths",
                "ReadonlyPaths",
            ][..],
        ),
        (
            json!(""),
            &[
                "Cgroup",
                "CgroupParent",
                "ContainerIDFile",
                "CpusetCpus",
                "CpusetMems",
                "Isolation",
                "PidMode",
                "UTSMode",
                "UsernsMode",
                "VolumeDriver",
            ][..],
        ),
        (
            json!(0),
            &[
                "BlkioWeight",
                "CpuCount",
                "CpuPercent",
                "CpuPeriod",
                "CpuQuota",
                "CpuRealtimePeriod",
                "CpuRealtimeRuntime",
                "CpuShares",
                "IOMaximumBandwidth",
                "IOMaximumIOps",
                "MemoryReservation",
                "OomScoreAdj",
                "ShmSize",
            ][..],
        ),
        (json!(false), &["Privileged", "PublishAllPorts"][..]),
        (json!([]), &["Dns", "DnsOptions", "DnsSearch"][..]),
    ];
    for (value, names) in neutral {
        for name in names {
            config[name] = value.clone();
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_dockers() {
        for (seconds, text) in [
            (-3, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3599, "59 minutes"),
            (3700, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 21, "3 weeks"),
            (86_400 * 100, "3 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(ago(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn what_is_no_moment_is_the_beginning() {
        assert_eq!(unix_seconds("2026-01-01T00:00:00.5Z"), 1_767_225_600);
        assert_eq!(unix_seconds("soon"), 0);
    }
}
