//! Published ports: what is asked for and what was given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A transport that ports belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host address to publish on; `None` is every address, IPv4 and IPv6.
    pub host_address: Option<IpAddr>,
    /// The host port; 0 asks for any free one.
    pub host_port: u16,
    /// The port inside the container.
    pub container_port: u16,
}

/// A port as published: [`PortRequest`] with a host port that is never 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host address; `None` is every address.
    pub host_address: Option<IpAddr>,
    /// The host port.
    pub host_port: u16,
    /// The port inside the container.
    pub container_port: u16,
}

impl PublishedPort {
    /// The host address for messages: `::` for every address.
    pub fn shown_address(&self) -> IpAddr {
        self.host_address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }

    /// Whether both could not be published at once.
    pub(super) fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && addresses_meet(self.host_address, other.host_address)
    }

    /// Whether this is what `request` asks for, except where it lets us choose.
    pub(super) fn answers(&self, request: &PortRequest) -> bool {
        self.protocol == request.protocol
            && self.host_address == request.host_address
            && self.container_port == request.container_port
            && (request.host_port == 0 || request.host_port == self.host_port)
    }

    /// Which destination addresses are translated. `None`: an IPv6 address, which only the proxy serves.
    pub(super) fn translated(&self) -> Option<Destination> {
        match self.host_address {
            None | Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Some(Destination::EveryLocal),
            Some(IpAddr::V4(address)) => Some(Destination::Only(address)),
            Some(IpAddr::V6(address)) if address.is_unspecified() => Some(Destination::EveryLocal),
            Some(IpAddr::V6(_)) => None,
        }
    }
}

/// The destination of packets that a published port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Every address of this host.
    EveryLocal,
    /// One address.
    Only(Ipv4Addr),
}

fn addresses_meet(one: Option<IpAddr>, two: Option<IpAddr>) -> bool {
    let is_any = |address: Option<IpAddr>| {
        address.is_none_or(|address| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unspecified(),
        })
    };
    let is_any_of_family =
        |address: IpAddr, other: IpAddr| address.is_unspecified() && address.is_ipv4() == other.is_ipv4();
    match (one, two) {
        _ if is_any(one) || is_any(two) => true,
        (Some(one), Some(two)) => one == two || is_any_of_family(one, two) || is_any_of_family(two, one),
        (None, _) | (_, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: Option<&str>, host_port: u16) -> PublishedPort {
        PublishedPort {
            protocol: Protocol::Tcp,
            host_address: address.map(|text| text.parse().expect("an address")),
            host_port,
            container_port: 80,
        }
    }

    #[test]
    fn every_address_collides_with_each_address() {
        let everywhere = port(None, 8080);
        for address in [None, Some("127.0.0.1"), Some("::1"), Some("0.0.0.0"), Some("::")] {
            assert!(everywhere.collides(&port(address, 8080)), "{address:?}");
            assert!(port(address, 8080).collides(&everywhere), "{address:?}");
        }
        assert!(!everywhere.collides(&port(None, 8081)));
    }

    #[test]
    fn different_addresses_may_share_a_port() {
        assert!(!port(Some("127.0.0.1"), 80).collides(&port(Some("127.0.0.2"), 80)));
        assert!(!port(Some("0.0.0.0"), 80).collides(&port(Some("::1"), 80)));
        assert!(port(Some("0.0.0.0"), 80).collides(&port(Some("127.0.0.1"), 80)));
    }

    #[test]
    fn only_ipv4_destinations_are_translated() {
        assert_eq!(port(None, 1).translated(), Some(Destination::EveryLocal));
        assert_eq!(
            port(Some("127.0.0.1"), 1).translated(),
            Some(Destination::Only(Ipv4Addr::LOCALHOST))
        );
        assert_eq!(port(Some("::1"), 1).translated(), None);
    }
}
