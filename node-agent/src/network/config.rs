//! Names and places of one agent's network. Several agents on one machine must not meet, so what is not configured
//! follows from a hash of the instance, which is the agent's data directory.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{NetworkError, Subnet};

/// The longest interface name the kernel takes, without its final zero.
const LONGEST_INTERFACE_NAME: usize = 15;

/// What [`super::Network::open`] needs.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Directory of the ledger; survives a reboot.
    pub data: PathBuf,
    /// Directory of the namespace files; empty after a reboot.
    pub run: PathBuf,
    /// The bridge. Its name also names the nftables table, so it must be this agent's alone.
    pub bridge: String,
    /// The containers' subnet. `None`: the one in the ledger, or a free default that is then kept there.
    pub subnet: Option<Subnet>,
}

impl NetworkConfig {
    /// Defaults of the agent whose directories these are: state below `data`/network, namespaces below
    /// `run`/netns, a bridge named after a hash of `data`.
    pub fn for_instance(data: &Path, run: &Path) -> Self {
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        let instance = fingerprint(&[data.as_os_str().as_encoded_bytes()]);
        Self {
            data: data.join("network"),
            run: run.join("netns"),
            bridge: format!("ph-{}", &instance[..10]),
            subnet: None,
        }
    }

    /// Checks what was typed.
    ///
    /// # Errors
    /// When the bridge's name could not be an interface's.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if self.bridge.is_empty()
            || self.bridge.len() > LONGEST_INTERFACE_NAME
            || !self.bridge.chars().all(is_good)
        {
            return Err(NetworkError::BridgeName {
                name: self.bridge.clone(),
            });
        }
        Ok(())
    }

    /// Default subnets in the order to try: all /24 of 10.64.0.0/10, beginning where the bridge's name points.
    pub(super) fn default_subnets(&self) -> impl Iterator<Item = Subnet> + use<> {
        const COUNT: u32 = 64 * 256;
        let hash = Sha256::digest(self.bridge.as_bytes());
        let first = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % COUNT;
        (0..COUNT).filter_map(move |step| {
            let at = (first + step) % COUNT;
            Subnet::containing(
                Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + (at << 8)),
                24,
            )
        })
    }

    /// The host end of a container's veth pair.
    pub(super) fn host_interface(&self, container: &str) -> String {
        format!(
            "phv{}",
            &fingerprint(&[self.bridge.as_bytes(), container.as_bytes()])[..12]
        )
    }
}

fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_do_not_share_names() {
        let one = NetworkConfig::for_instance(Path::new("/a"), Path::new("/run/a"));
        let two = NetworkConfig::for_instance(Path::new("/b"), Path::new("/run/b"));
        assert_ne!(one.bridge, two.bridge);
        assert_ne!(one.host_interface("c"), two.host_interface("c"));
        assert_eq!(one.host_interface("c").len(), LONGEST_INTERFACE_NAME);
        one.check().expect("a good name");
    }

    #[test]
    fn default_subnets_stay_in_their_range_and_differ() {
        let config = NetworkConfig::for_instance(Path::new("/a"), Path::new("/run/a"));
        let all: std::collections::HashSet<_> = config.default_subnets().map(Subnet::network).collect();
        assert_eq!(all.len(), 64 * 256);
        assert!(
            all.iter()
                .all(|network| network.octets()[0] == 10 && network.octets()[1] / 64 == 1)
        );
    }

    #[test]
    fn bridge_names_that_the_kernel_refuses_are_refused_first() {
        let mut config = NetworkConfig::for_instance(Path::new("/a"), Path::new("/run/a"));
        for bad in ["", "sixteen-letters-", "a/b", "a b"] {
            config.bridge = bad.to_owned();
            assert!(config.check().is_err(), "{bad:?}");
        }
    }
}
