//! Links, addresses and routes, by rtnetlink.
//!
//! ```text
//!  host namespace                        container's namespace
//!  bridge (gateway) ── phvXXXXXXXXXXXX ═══ eth0 (address, default route), lo
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::{MacAddress, NetworkError, Subnet};

/// The interface that a container sees.
const INSIDE: &str = "eth0";
/// The loopback interface is the first of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// A connection to the routing tables of one network namespace.
#[derive(Clone, Debug)]
pub(super) struct Links(Handle);

impl Links {
    /// Connects to the namespace of the calling thread. The connection ends with the last clone.
    pub(super) fn connect() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetworkError::Link {
            step: "connect to",
            subject: "rtnetlink".to_owned(),
            source,
        })?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// The index of a link, if it exists.
    pub(super) async fn index(&self, name: &str) -> Result<Option<u32>, NetworkError> {
        let found = self.0.link().get().match_name(name).execute().try_next().await;
        match found {
            Ok(message) => Ok(message.map(|message| message.header.index)),
            Err(error) if errno(&error) == Some(libc_errno::ENODEV) => Ok(None),
            Err(error) => Err(failed("look for", name)(error)),
        }
    }

    async fn expect_index(&self, name: &str) -> Result<u32, NetworkError> {
        self.index(name).await?.ok_or_else(|| NetworkError::Link {
            step: "look for",
            subject: name.to_owned(),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    /// Subnets of every IPv4 address on this host but those of `own`, as far as a container's subnet could meet them.
    pub(super) async fn subnets_in_use(&self, own: &str) -> Result<Vec<Subnet>, NetworkError> {
        let own_index = self.index(own).await?;
        let mut addresses = self.0.address().get().execute();
        let mut found = Vec::new();
        while let Some(message) = addresses.try_next().await.map_err(failed("list", "addresses"))? {
            if Some(message.header.index) == own_index {
                continue;
            }
            for attribute in &message.attributes {
                if let AddressAttribute::Address(IpAddr::V4(address)) = attribute {
                    found.extend(Subnet::containing(
                        *address,
                        message.header.prefix_len.clamp(8, 29),
                    ));
                }
            }
        }
        Ok(found)
    }

    /// Makes sure that the bridge exists, has its address and is up; returns its index.
    pub(super) async fn ensure_bridge(&self, name: &str, subnet: Subnet) -> Result<u32, NetworkError> {
        let index = match self.index(name).await? {
            Some(index) => index,
            None => {
                let added = self
                    .0
                    .link()
                    .add(LinkBridge::new(name).up().build())
                    .execute()
                    .await;
                accept_existing(added).map_err(failed("make bridge", name))?;
                self.expect_index(name).await?
            }
        };
        self.ensure_address(name, subnet.gateway(), subnet).await?;
        Ok(index)
    }

    /// Makes sure that a link of this namespace has the address and is up.
    pub(super) async fn ensure_address(
        &self,
        name: &str,
        address: Ipv4Addr,
        subnet: Subnet,
    ) -> Result<(), NetworkError> {
        let index = self.expect_index(name).await?;
        let added = self
            .0
            .address()
            .add(index, IpAddr::V4(address), subnet.prefix())
            .execute()
            .await;
        accept_existing(added).map_err(failed("give an address to", name))?;
        self.set_up(index).await.map_err(failed("set up", name))
    }

    /// Sets the loopback interface of this namespace up.
    pub(super) async fn set_up_loopback(&self) -> Result<(), NetworkError> {
        self.set_up(LOOPBACK_INDEX).await.map_err(failed("set up", "lo"))
    }

    async fn set_up(&self, index: u32) -> Result<(), rtnetlink::Error> {
        self.0
            .link()
            .change(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
    }

    /// Puts a container's host end on the bridge and sets it up.
    ///
    /// The port may send a frame back to where it came from: with br_netfilter loaded, a container that asks for its
    /// own published port is translated inside the bridge.
    pub(super) async fn join_bridge(&self, name: &str, bridge_index: u32) -> Result<(), NetworkError> {
        let index = self.expect_index(name).await?;
        let joined = LinkUnspec::new_with_index(index)
            .controller(bridge_index)
            .up()
            .build();
        self.0
            .link()
            .change(joined)
            .execute()
            .await
            .map_err(failed("put on the bridge", name))?;
        let port = LinkBridgePort::new(index).hairpin(true).build();
        self.0
            .link()
            .set_port(port)
            .execute()
            .await
            .map_err(failed("allow hairpin on", name))
    }

    /// Removes a link; one that is absent is no error.
    pub(super) async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let Some(index) = self.index(name).await? else {
            return Ok(());
        };
        match self.0.link().del(index).execute().await {
            Err(error) if errno(&error) != Some(libc_errno::ENODEV) => Err(failed("remove", name)(error)),
            _ => Ok(()),
        }
    }
}

/// What a container finds in its namespace.
#[derive(Clone, Debug)]
pub(super) struct ContainerEnd {
    /// Name of the veth pair's other end, in the agent's namespace.
    pub(super) host_interface: String,
    pub(super) address: Ipv4Addr,
    pub(super) mac: MacAddress,
    pub(super) subnet: Subnet,
}

impl ContainerEnd {
    /// Makes the pair from inside, so that a failure takes it away together with the namespace.
    pub(super) async fn apply(&self, outside: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let links = Links::connect()?;
        links.set_up_loopback().await?;

        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(self.host_interface.clone())
            .setns_by_fd(outside.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(INSIDE)
            .address(self.mac.octets().to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let made = links.0.link().add(pair).execute().await;
        made.map_err(failed("make the veth pair of", &self.host_interface))?;

        links.ensure_address(INSIDE, self.address, self.subnet).await?;
        links
            .0
            .route()
            .add(
                RouteMessageBuilder::<Ipv4Addr>::new()
                    .gateway(self.subnet.gateway())
                    .build(),
            )
            .execute()
            .await
            .map_err(failed("add the default route of", INSIDE))
    }
}

/// Error numbers that are answers, not failures.
mod libc_errno {
    use nix::errno::Errno;

    pub(super) const ENODEV: i32 = Errno::ENODEV as i32;
    pub(super) const EEXIST: i32 = Errno::EEXIST as i32;
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

fn accept_existing(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(libc_errno::EEXIST) => Ok(()),
        other => other,
    }
}

fn failed(step: &'static str, subject: &str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let subject = subject.to_owned();
    move |error| {
        let source = errno(&error).map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        );
        NetworkError::Link {
            step,
            subject,
            source,
        }
    }
}
