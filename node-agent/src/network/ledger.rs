//! The ledger: which container has which address, and which ports are published for whom. One JSON file, replaced
//! atomically and synced, so an address is given out and released exactly once whatever kills the agent.
//!
//! ```text
//! DATA/ledger.json   {"bridge", "subnet", "attachments": {ID: {"address"}}, "publications": {HOLDER: {...}}}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::port::PublishedPort;
use super::{NetworkError, Subnet};

/// Content of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub(super) subnet: Subnet,
    #[serde(default)]
    pub(super) attachments: BTreeMap<String, Held>,
    #[serde(default)]
    pub(super) publications: BTreeMap<String, Publication>,
}

/// What a container holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) address: Ipv4Addr,
}

/// Ports under one holder's name, and the container they lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Publication {
    pub(super) container: String,
    pub(super) ports: Vec<PublishedPort>,
}

impl Ledger {
    pub(super) fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            attachments: BTreeMap::new(),
            publications: BTreeMap::new(),
        }
    }

    /// The file below a network's data directory.
    pub(super) fn path(data: &Path) -> PathBuf {
        data.join("ledger.json")
    }

    /// Reads the ledger; `None` when there is none yet.
    pub(super) fn load(data: &Path) -> Result<Option<Self>, NetworkError> {
        let path = Self::path(data);
        let failed = |source| NetworkError::Ledger {
            step: "read",
            path: path.clone(),
            source,
        };
        match fs::read(&path) {
            Ok(bytes) => {
                let ledger =
                    serde_json::from_slice(&bytes).map_err(|error| failed(io::Error::from(error)))?;
                Ok(Some(ledger))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Replaces the file; what it says survives a power cut once this returns.
    pub(super) fn save(&self, data: &Path) -> Result<(), NetworkError> {
        let path = Self::path(data);
        let replace = || -> io::Result<()> {
            fs::create_dir_all(data)?;
            let fresh = path.with_extension("new");
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(data)?.sync_all()
        };
        replace().map_err(|source| NetworkError::Ledger {
            step: "replace",
            path,
            source,
        })
    }

    /// Gives `container` an address, the one it already has if any.
    pub(super) fn reserve(&mut self, container: &str) -> Result<Ipv4Addr, NetworkError> {
        if let Some(held) = self.attachments.get(container) {
            return Ok(held.address);
        }
        let taken: BTreeSet<Ipv4Addr> = self.attachments.values().map(|held| held.address).collect();
        let address = self
            .subnet
            .hosts()
            .find(|address| !taken.contains(address))
            .ok_or(NetworkError::SubnetFull { subnet: self.subnet })?;
        self.attachments.insert(container.to_owned(), Held { address });
        Ok(address)
    }

    /// Who else than `holder` has published a port that collides with `port`.
    pub(super) fn holder_of(&self, port: &PublishedPort, holder: &str) -> Option<&str> {
        self.publications
            .iter()
            .filter(|(name, _)| *name != holder)
            .find(|(_, publication)| publication.ports.iter().any(|held| held.collides(port)))
            .map(|(name, _)| name.as_str())
    }

    /// Forgets every publication that leads to `container`; returns their holders.
    pub(super) fn withdraw(&mut self, container: &str) -> Vec<String> {
        let holders: Vec<String> = self
            .publications
            .iter()
            .filter(|(_, publication)| publication.container == container)
            .map(|(holder, _)| holder.clone())
            .collect();
        for holder in &holders {
            self.publications.remove(holder);
        }
        holders
    }

    /// Each published port with the address it leads to.
    pub(super) fn translations(&self) -> impl Iterator<Item = (&PublishedPort, Ipv4Addr)> {
        self.publications.values().flat_map(|publication| {
            let address = self
                .attachments
                .get(&publication.container)
                .map(|held| held.address);
            publication
                .ports
                .iter()
                .filter_map(move |port| Some((port, address?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Protocol;

    fn ledger(subnet: &str) -> Ledger {
        Ledger::new(subnet.parse().expect("a subnet"))
    }

    #[test]
    fn an_address_is_given_once_and_again_after_release() {
        let mut ledger = ledger("10.0.0.0/29");
        let first = ledger.reserve("a").expect("free");
        assert_eq!(ledger.reserve("a").expect("held"), first);
        assert_ne!(ledger.reserve("b").expect("free"), first);
        ledger.attachments.remove("a");
        assert_eq!(ledger.reserve("c").expect("free again"), first);
    }

    #[test]
    fn a_full_subnet_says_so() {
        let mut ledger = ledger("10.0.0.0/29");
        for name in ["a", "b", "c", "d", "e"] {
            ledger.reserve(name).expect("free");
        }
        assert!(matches!(
            ledger.reserve("f"),
            Err(NetworkError::SubnetFull { .. })
        ));
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(Ledger::load(directory.path()).expect("readable"), None);
        let mut ledger = ledger("10.0.0.0/24");
        ledger.reserve("a").expect("free");
        let port = PublishedPort {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port: 8080,
            container_port: 80,
        };
        ledger.publications.insert(
            "service".to_owned(),
            Publication {
                container: "a".to_owned(),
                ports: vec![port.clone()],
            },
        );
        ledger.save(directory.path()).expect("writable");
        let mut loaded = Ledger::load(directory.path()).expect("readable").expect("exists");
        assert_eq!(loaded, ledger);
        assert_eq!(loaded.holder_of(&port, "other"), Some("service"));
        assert_eq!(loaded.holder_of(&port, "service"), None);
        assert_eq!(loaded.translations().count(), 1);
        assert_eq!(loaded.withdraw("a"), ["service"]);
        assert_eq!(loaded.translations().count(), 0);
    }

    #[test]
    fn a_broken_file_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(Ledger::path(directory.path()), b"{").expect("writable");
        let error = Ledger::load(directory.path()).expect_err("is broken");
        assert!(error.to_string().contains("ledger.json"), "{error}");
    }
}
