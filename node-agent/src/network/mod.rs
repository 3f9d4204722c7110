//! The network of one agent: a bridge, a namespace with an address for each container, published ports.
//!
//! Owns the bridge, the veth pairs, the namespace files below RUN, the nftables table and the ledger of addresses and
//! ports below DATA. Leaves to others what happens inside a namespace after it was made, and names (DNS).
//!
//! Invariants: an address has one holder from its reservation until [`Network::detach`] returns, across any crash; a
//! published port has one holder; what is in force in the kernel follows from the ledger, never the other way round,
//! so [`Network::open`] restores all of it; nothing here execs a program, and no async thread changes its namespace.
//! When the agent dies, attached containers keep their network and published ports keep their translation; only what
//! goes through the listeners (`proxy`) pauses until the next open.

mod attach;
mod config;
mod error;
mod ledger;
mod link;
mod namespace;
mod nft;
mod port;
mod proxy;
mod publish;
mod subnet;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use runtime::container::ContainerId;

use crate::chain::Chain;

use ledger::Ledger;
use link::Links;
use nft::Table;
use proxy::Proxy;
use publish::close_proxies;

pub use config::NetworkConfig;
pub use error::NetworkError;
pub use port::{PortRequest, Protocol, PublishedPort};
pub use subnet::Subnet;

/// How often the table is looked for, in case somebody flushed every table of the host.
const RESTORE_PERIOD: Duration = Duration::from_secs(30);

/// A handle to the network; clones share it.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    subnet: Subnet,
    table: Table,
    links: Links,
    bridge_index: AtomicU32,
    /// Whether the kernel takes our rules. Where it does not, TCP ports are served by the listeners alone.
    has_translation: AtomicBool,
    /// Locked only on threads that may block.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    proxies: HashMap<String, Vec<Proxy>>,
}

/// What a container has been given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The file that names the network namespace; the runtime joins it.
    pub netns_path: PathBuf,
    /// The container's address.
    pub address: Ipv4Addr,
    /// Its subnet.
    pub subnet: Subnet,
    /// Its interface's hardware address.
    pub mac: MacAddress,
    /// Ports that lead to it, whoever holds them.
    pub ports: Vec<PublishedPort>,
}

/// A hardware address, which follows from the IPv4 address so that neighbours' caches never go stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address of the container at `address`: locally administered, unicast.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x70, a, b, c, d])
    }

    /// The six bytes.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// In whose name ports are published. A container's ports are its own; a service's stay when its containers change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(String);

impl Holder {
    /// The container itself.
    pub fn container(id: &ContainerId) -> Self {
        Self(format!("container {}", id.as_str()))
    }

    /// The service of this name.
    pub fn service(name: &str) -> Self {
        Self(format!("service {name}"))
    }
}

impl Network {
    /// Opens the network: bridge, kernel settings and rules are made or restored, and everything that the ledger
    /// holds is adopted as it is. Needs a multi-threaded async runtime, CAP_NET_ADMIN and CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// When the ledger is unreadable, no subnet is free, or the kernel refuses the bridge. A kernel without nf_tables
    /// is only logged: TCP ports are then served by listeners, without UDP and without masquerading.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        config.check()?;
        let links = Links::connect()?;
        let ledger = open_ledger(&config, &links).await?;
        let subnet = ledger.subnet;
        let bridge_index = links.ensure_bridge(&config.bridge, subnet).await?;
        set("net/ipv4/ip_forward", "1")?;
        // Lets 127.0.0.1 of the host be translated; the table's guard chain keeps containers from using it.
        set(&format!("net/ipv4/conf/{}/route_localnet", config.bridge), "1")?;
        let table = Table::new(&config.bridge, subnet);
        let inner = Arc::new(Inner {
            config,
            subnet,
            table,
            links,
            bridge_index: AtomicU32::new(bridge_index),
            has_translation: AtomicBool::new(true),
            state: Mutex::new(State {
                ledger,
                proxies: HashMap::new(),
            }),
        });
        let network = Self(inner);
        network.rejoin(bridge_index).await;
        network.blocking(|inner| inner.adopt()).await;
        tokio::spawn(keep_restored(Arc::downgrade(&network.0)));
        Ok(network)
    }

    /// The containers' subnet.
    pub fn subnet(&self) -> Subnet {
        self.0.subnet
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.0.config.bridge
    }

    /// Gives a container its namespace and address, and publishes `ports` in its own name. A container that is
    /// attached already keeps what it has; after a reboot it gets its old address in a new namespace.
    ///
    /// # Errors
    /// When the subnet is full, a port is taken or the kernel refuses; what this call made is undone.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped; [`Network::detach`] undoes it. Calls for one container must not
    /// overlap.
    pub async fn attach(
        &self,
        container: &ContainerId,
        ports: &[PortRequest],
    ) -> Result<Attachment, NetworkError> {
        let (network, container, ports) = (self.clone(), container.clone(), ports.to_vec());
        tracked(async move { network.attach_tracked(&container, ports).await }).await
    }

    /// Publishes exactly `ports` for `holder`, leading to `container`. Ports that `holder` had before and are asked
    /// for again are re-pointed in one step; those not asked for are closed. Where a request leaves the host port
    /// open, the one held before is kept.
    ///
    /// # Errors
    /// When a port is taken or the kernel refuses; what was published before stays.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn publish(
        &self,
        holder: &Holder,
        container: &ContainerId,
        ports: &[PortRequest],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let (holder, container, ports) = (holder.clone(), container.as_str().to_owned(), ports.to_vec());
        self.blocking(move |inner| inner.publish(&holder, &container, &ports))
            .await
    }

    /// Closes the ports of `holder`; none is no error.
    ///
    /// # Errors
    /// When the ledger or the rules cannot be replaced.
    pub async fn unpublish(&self, holder: &Holder) -> Result<(), NetworkError> {
        let holder = holder.clone();
        self.blocking(move |inner| {
            let mut state = inner.lock();
            let mut next = state.ledger.clone();
            next.publications.remove(&holder.0);
            inner.replace_ledger(&mut state, next)?;
            close_proxies(&mut state, &[holder.0]);
            Ok(())
        })
        .await
    }

    /// Takes everything back: ports that lead to the container, its namespace, and at the very end its address. A
    /// container that is not attached is no error, so a failed call may be repeated.
    ///
    /// # Errors
    /// The first failure; the address stays reserved then. Later steps are tried all the same.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let (network, container) = (self.clone(), container.clone());
        tracked(async move { network.detach_tracked(&container).await }).await
    }

    /// What a container holds; `None` when it is not attached.
    pub async fn attachment(&self, container: &ContainerId) -> Option<Attachment> {
        let container = container.as_str().to_owned();
        self.blocking(move |inner| inner.attachment(&inner.lock().ledger, &container))
            .await
    }

    /// Ids of all containers that hold an address. Who holds one and is no container any more should be detached.
    pub async fn attached(&self) -> Vec<String> {
        self.blocking(|inner| inner.lock().ledger.attachments.keys().cloned().collect())
            .await
    }

    /// Removes the network from this machine: containers' namespaces, rules, bridge and ledger.
    ///
    /// # Errors
    /// The first failure; later steps are tried all the same.
    pub async fn remove(&self) -> Result<(), NetworkError> {
        let network = self.clone();
        tracked(async move {
            let mut outcome = Ok(());
            for container in network.attached().await {
                if let Ok(container) = ContainerId::parse(&container) {
                    outcome = outcome.and(network.detach_tracked(&container).await);
                }
            }
            let bridge = network.0.config.bridge.clone();
            outcome = outcome.and(network.0.links.remove(&bridge).await);
            outcome.and(network.blocking(|inner| inner.remove()).await)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = Arc::clone(&self.0);
        joined(tokio::task::spawn_blocking(move || work(&inner)).await)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the ledger")
    }

    fn namespace_path(&self, container: &str) -> PathBuf {
        self.config.run.join(container)
    }

    fn attachment(&self, ledger: &Ledger, container: &str) -> Option<Attachment> {
        let address = ledger.attachments.get(container)?.address;
        let publications = ledger
            .publications
            .values()
            .filter(|held| held.container == container);
        Some(Attachment {
            netns_path: self.namespace_path(container),
            address,
            subnet: self.subnet,
            mac: MacAddress::of(address),
            ports: publications.flat_map(|held| held.ports.iter().cloned()).collect(),
        })
    }

    /// Makes `next` the truth: on disk first, then in the kernel. On an error, what was before is in force.
    fn replace_ledger(&self, state: &mut State, next: Ledger) -> Result<(), NetworkError> {
        if next == state.ledger {
            return Ok(());
        }
        next.save(&self.config.data)?;
        let is_translated_alike = next.translations().eq(state.ledger.translations());
        if !is_translated_alike
            && self.has_translation.load(Ordering::Relaxed)
            && let Err(error) = self.table.replace(next.translations())
        {
            state.ledger.save(&self.config.data)?;
            return Err(error);
        }
        state.ledger = next;
        Ok(())
    }

    fn remove(&self) -> Result<(), NetworkError> {
        let mut state = self.lock();
        let holders: Vec<String> = state.proxies.keys().cloned().collect();
        close_proxies(&mut state, &holders);
        let outcome = self.table.remove();
        let path = Ledger::path(&self.config.data);
        let removed = fs::remove_file(&path).map_err(|source| NetworkError::Ledger {
            step: "remove",
            path,
            source,
        });
        outcome.and(removed)
    }
}

/// The ledger on disk, or a new one with the configured or a free subnet, which is on disk once this returns.
async fn open_ledger(config: &NetworkConfig, links: &Links) -> Result<Ledger, NetworkError> {
    let data = config.data.clone();
    let loaded = joined(tokio::task::spawn_blocking(move || Ledger::load(&data)).await)?;
    let ledger = match (loaded, config.subnet) {
        (Some(ledger), None) => return Ok(ledger),
        (Some(ledger), Some(asked)) if ledger.subnet == asked => return Ok(ledger),
        (Some(ledger), Some(asked)) if !ledger.attachments.is_empty() => {
            return Err(NetworkError::SubnetChanged {
                held: ledger.subnet,
                asked,
            });
        }
        (_, Some(asked)) => Ledger::new(asked),
        (None, None) => {
            let used = links.subnets_in_use(&config.bridge).await?;
            let is_free = |candidate: &Subnet| !used.iter().any(|used| used.overlaps(*candidate));
            Ledger::new(
                config
                    .default_subnets()
                    .find(is_free)
                    .ok_or(NetworkError::NoFreeSubnet)?,
            )
        }
    };
    let data = config.data.clone();
    joined(tokio::task::spawn_blocking(move || ledger.save(&data).map(|()| ledger)).await)
}

/// Puts our table back when somebody flushed all tables. Ends with the network.
async fn keep_restored(network: Weak<Inner>) {
    loop {
        tokio::time::sleep(RESTORE_PERIOD).await;
        let Some(inner) = network.upgrade() else {
            return;
        };
        if !inner.has_translation.load(Ordering::Relaxed) {
            continue;
        }
        let restored = tokio::task::spawn_blocking(move || {
            if inner.table.exists()? {
                return Ok(());
            }
            tracing::warn!("the nftables table had disappeared and is restored");
            let state = inner.lock();
            inner.table.replace(state.ledger.translations())
        });
        if let Err(error) = joined(restored.await) {
            tracing::warn!(error = %Chain(&error), "cannot restore the nftables table");
        }
    }
}

/// Writes a kernel setting unless it is so already, because /proc/sys may be read-only where somebody else set it.
fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/{name}");
    if fs::read_to_string(&path).is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Setting { path, source })
}

/// Runs `work` to its end even if the caller goes away.
async fn tracked<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    joined(tokio::spawn(work).await)
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
