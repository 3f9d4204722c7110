//! An IPv4 subnet of containers: the first address is the bridge's, the others are given out.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NetworkError;

/// An IPv4 subnet with a prefix from 8 to 29; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The subnet of `address` with `prefix` bits; `None` outside 8 to 29.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (8..=29).contains(&prefix).then(|| Self {
            network: Ipv4Addr::from(u32::from(address) & mask_bits(prefix)),
            prefix,
        })
    }

    /// Its first address, all host bits zero.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The number of network bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The netmask.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask_bits(self.prefix))
    }

    /// The bridge's address, which is the containers' gateway.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask_bits(self.prefix) == u32::from(self.network)
    }

    /// Whether an address belongs to both.
    pub fn overlaps(self, other: Self) -> bool {
        let prefix = self.prefix.min(other.prefix);
        (u32::from(self.network) ^ u32::from(other.network)) & mask_bits(prefix) == 0
    }

    /// The addresses that containers may have, in order.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let network = u32::from(self.network);
        let broadcast = network | !mask_bits(self.prefix);
        (network + 2..broadcast).map(Ipv4Addr::from)
    }
}

fn mask_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let address: Ipv4Addr = address.parse().ok()?;
            let subnet = Self::containing(address, prefix.parse().ok()?)?;
            (subnet.network == address).then_some(subnet)
        });
        parsed.ok_or_else(|| NetworkError::SubnetMalformed {
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for Subnet {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("a good subnet")
    }

    #[test]
    fn host_bits_and_odd_prefixes_are_refused() {
        for bad in [
            "10.0.0.1/24",
            "10.0.0.0/30",
            "10.0.0.0/7",
            "10.0.0.0",
            "x/24",
            "10.0.0.0/-1",
            "",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?}");
        }
        assert_eq!(subnet("10.64.3.0/24").to_string(), "10.64.3.0/24");
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given_out() {
        let hosts: Vec<_> = subnet("10.0.0.8/29").hosts().collect();
        assert_eq!(hosts.first(), Some(&Ipv4Addr::new(10, 0, 0, 10)));
        assert_eq!(hosts.last(), Some(&Ipv4Addr::new(10, 0, 0, 14)));
        assert_eq!(subnet("10.0.0.8/29").gateway(), Ipv4Addr::new(10, 0, 0, 9));
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        let (wide, narrow, other) = (subnet("10.0.0.0/8"), subnet("10.9.0.0/24"), subnet("11.0.0.0/24"));
        assert!(wide.overlaps(narrow) && narrow.overlaps(wide));
        assert!(!wide.overlaps(other) && !other.overlaps(narrow));
    }
}
