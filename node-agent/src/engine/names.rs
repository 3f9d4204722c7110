//! What a container is told about names: /etc/hosts and /etc/resolv.conf.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

/// Where the host's resolvers are written, in the order to try: where systemd-resolved runs, the first names only its
/// own listener on loopback and the second what stands behind it.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Content of /etc/hosts.
pub(super) fn hosts(address: Ipv4Addr, hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{hostname}\n")
}

/// Content of /etc/resolv.conf: the host's, without resolvers that only the host can reach.
pub(super) fn resolvers() -> String {
    let mut last = String::new();
    for path in RESOLVER_FILES {
        // A host without the file has no resolver to pass on.
        let text = reachable(&fs::read_to_string(path).unwrap_or_default());
        if text.lines().any(|line| line.starts_with("nameserver")) {
            return text;
        }
        last = text;
    }
    tracing::warn!("the host has no resolver that containers can reach; names do not resolve in containers");
    last
}

fn reachable(text: &str) -> String {
    let is_reachable = |line: &&str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => {
                // A zone names an interface of the host.
                address
                    .parse::<IpAddr>()
                    .is_ok_and(|address| !address.is_loopback())
            }
            (Some("search" | "domain" | "options"), Some(_)) => true,
            _ => false,
        }
    };
    text.lines()
        .filter(is_reachable)
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_loopback_are_left_out() {
        let text = "# comment\nnameserver 127.0.0.53\n nameserver 10.0.0.2 \nnameserver fe80::1%eth0\nnameserver ::1\noptions edns0\nsearch example.org\nsortlist 1\n";
        assert_eq!(
            reachable(text),
            "nameserver 10.0.0.2\noptions edns0\nsearch example.org\n"
        );
    }

    #[test]
    fn the_container_knows_itself() {
        let text = hosts(Ipv4Addr::new(10, 64, 0, 2), "web");
        assert!(text.contains("\n10.64.0.2\tweb\n"), "{text}");
    }
}
