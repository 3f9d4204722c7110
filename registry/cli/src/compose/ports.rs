//! Published ports, in short and long syntax (compose-spec 05-services.md, ports).

use std::net::IpAddr;

use api::{PortMapping, Protocol};

use super::node::{Node, Value};
use super::problem::{Place, Problems};
use super::section::{Section, items, parsed, text};

const LONG_KEYS: [&str; 7] = [
    "target",
    "published",
    "host_ip",
    "protocol",
    "mode",
    "name",
    "app_protocol",
];

/// Reads the list of `ports`.
pub fn read(node: &Node, place: &Place, problems: &mut Problems) -> Vec<PortMapping> {
    let mut ports: Vec<PortMapping> = Vec::new();
    for (place, item) in items(node, place, problems) {
        let read = match &item.value {
            Value::Map(_) => long(item, &place, problems),
            _ => parsed(item, &place, problems, short).unwrap_or_default(),
        };
        for port in read {
            let is_taken = |other: &&PortMapping| {
                other.host_port == port.host_port
                    && other.protocol == port.protocol
                    && (other.host_ip.is_none() || port.host_ip.is_none() || other.host_ip == port.host_ip)
            };
            if ports.contains(&port) {
                problems.warn(
                    &place,
                    format!("port {} is published twice alike", port.host_port),
                );
            } else if ports.iter().find(is_taken).is_some() {
                problems.error(
                    &place,
                    format!("port {} of the node is already taken above", port.host_port),
                );
            } else {
                ports.push(port);
            }
        }
    }
    ports
}

/// Reads the list of `expose`, which opens nothing: containers of a project are not closed to each other by ports.
pub fn check_exposed(node: &Node, place: &Place, problems: &mut Problems) {
    for (place, item) in items(node, place, problems) {
        parsed(item, &place, problems, |text| {
            let (ports, protocol) = split_protocol(text)?;
            range(ports).map(|range| (range, protocol))
        });
    }
}

/// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, HOST and CONTAINER one port or a range.
fn short(text: &str) -> Result<Vec<PortMapping>, String> {
    let (addresses, protocol) = split_protocol(text)?;
    let (rest, container) = match addresses.rsplit_once(':') {
        Some(parts) => parts,
        None => return Err(unpublished(addresses)),
    };
    // The address may be IPv6 in brackets, with colons of its own.
    let (host_ip, host) = match rest.rsplit_once(':') {
        Some((ip, host)) => (Some(address(ip)?), host),
        None => (None, rest),
    };
    if host.is_empty() {
        return Err(unpublished(container));
    }
    pair(host_ip, range(host)?, range(container)?, protocol)
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), String> {
    match text.split_once('/') {
        Some((rest, protocol)) => Ok((rest, self::protocol(protocol)?)),
        None => Ok((text, Protocol::Tcp)),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(format!("{text:?} is no protocol; there are tcp and udp")),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .map_err(|_| format!("{text:?} is no IP address of a node"))
}

fn unpublished(container: &str) -> String {
    format!("no port of the node is named; write HOST:{container}, for example \"8080:{container}\"")
}

/// The first and the last port.
fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is no port; ports are 1 to 65535")),
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => match (port(first)?, port(last)?) {
            (first, last) if first <= last => Ok((first, last)),
            _ => Err(format!("the range {text} ends before it begins")),
        },
    }
}

fn pair(
    host_ip: Option<IpAddr>,
    host: (u16, u16),
    container: (u16, u16),
    protocol: Protocol,
) -> Result<Vec<PortMapping>, String> {
    if host.1 - host.0 != container.1 - container.0 {
        return Err("the range of the node and that of the container differ in length".to_owned());
    }
    let pairs = (host.0..=host.1).zip(container.0..=container.1);
    Ok(pairs
        .map(|(host_port, container_port)| PortMapping {
            host_ip,
            host_port,
            container_port,
            protocol,
        })
        .collect())
}

fn long(node: &Node, place: &Place, problems: &mut Problems) -> Vec<PortMapping> {
    let Some(section) = Section::read(node, place.clone(), problems) else {
        return Vec::new();
    };
    let (mut target, mut published, mut host_ip, mut protocol) = (None, None, None, Protocol::Tcp);
    let before = problems.errors.len();
    for (key, place, node) in section.entries() {
        match key {
            "target" => target = parsed(node, &place, problems, range),
            "published" => published = parsed(node, &place, problems, range),
            "host_ip" => host_ip = parsed(node, &place, problems, address),
            "protocol" => protocol = parsed(node, &place, problems, self::protocol).unwrap_or_default(),
            "mode" => match text(node, &place, problems) {
                Some("host") | None => {}
                Some("ingress") => problems.unsupported(
                    &place,
                    "there is no port that every node answers on; ports are those of the nodes that run a copy: write mode: host",
                ),
                Some(other) => problems.error(&place, format!("{other:?} is no mode; write host")),
            },
            // A name is for people.
            "name" => {}
            "app_protocol" => problems.unsupported(&place, "connections are passed on as they are"),
            _ => problems.unknown(&place, &LONG_KEYS),
        }
    }
    if problems.errors.len() > before {
        return Vec::new();
    }
    let ports = match (target, published) {
        (Some(target), Some(published)) => pair(host_ip, published, target, protocol),
        (Some(_), None) => Err("no port of the node is named; add published: PORT".to_owned()),
        (None, _) => Err("no port of the container is named; add target: PORT".to_owned()),
    };
    ports.unwrap_or_else(|what| {
        problems.error(place, what);
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(yaml: &str) -> Result<Vec<String>, String> {
        let node = super::super::node::parse(yaml).unwrap();
        let mut problems = Problems::default();
        let place = Place {
            path: "ports".to_owned(),
            line: 1,
        };
        let ports = read(&node, &place, &mut problems);
        if let Some(problem) = problems.errors.first() {
            return Err(problem.to_string());
        }
        Ok(ports
            .iter()
            .map(|p| {
                let ip = p.host_ip.map(|ip| format!("{ip} ")).unwrap_or_default();
                format!("{ip}{}:{}/{:?}", p.host_port, p.container_port, p.protocol)
            })
            .collect())
    }

    #[test]
    fn both_syntaxes_are_read() {
        for (yaml, expected) in [
            ("- 8080:80", vec!["8080:80/Tcp"]),
            ("- '8080:80'", vec!["8080:80/Tcp"]),
            ("- 127.0.0.1:53:5353/udp", vec!["127.0.0.1 53:5353/Udp"]),
            ("- '[::1]:80:80'", vec!["::1 80:80/Tcp"]),
            ("- 3000-3001:4000-4001", vec!["3000:4000/Tcp", "3001:4001/Tcp"]),
            ("- 22:22", vec!["22:22/Tcp"]),
            ("- {target: 80, published: 8080}", vec!["8080:80/Tcp"]),
            (
                "- {target: 53, published: '53', protocol: udp, mode: host, host_ip: 10.0.0.1, name: dns}",
                vec!["10.0.0.1 53:53/Udp"],
            ),
            ("- 80:80\n- 80:80/udp", vec!["80:80/Tcp", "80:80/Udp"]),
            (
                "- 10.0.0.1:80:80\n- 10.0.0.2:80:80",
                vec!["10.0.0.1 80:80/Tcp", "10.0.0.2 80:80/Tcp"],
            ),
        ] {
            let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(ports(yaml), Ok(expected), "{yaml}");
        }
    }

    #[test]
    fn what_is_no_port_is_explained() {
        for (yaml, expected) in [
            ("- 80", "no port of the node is named; write HOST:80"),
            ("- 127.0.0.1::80", "no port of the node"),
            ("- 0:80", "\"0\" is no port"),
            ("- 80:99999", "is no port"),
            ("- 80:80/sctp", "there are tcp and udp"),
            ("- 90-80:90-80", "ends before it begins"),
            ("- 80-90:80", "differ in length"),
            ("- web:80:80", "is no IP address"),
            ("- {published: 80}", "add target"),
            ("- {target: 80}", "add published"),
            ("- {target: 80, published: 80, mode: ingress}", "mode: host"),
            ("- {target: 80, publishd: 80}", "did you mean published?"),
            ("- 80:80\n- 80:81", "already taken"),
            ("- 80:80\n- 10.0.0.1:80:80", "already taken"),
            ("80:80", "a list is expected"),
            ("- [80]", "a single value is expected"),
        ] {
            let error = ports(yaml).unwrap_err();
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }
}
