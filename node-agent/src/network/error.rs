//! What can go wrong with networks: each variant names its subject and, where a person can help, what to do.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::{Protocol, Subnet};

/// A failure of this module.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Text is not a subnet this module can use.
    #[error("{text:?} is not a subnet of containers: write it as 10.64.3.0/24, with a prefix from 8 to 29")]
    SubnetMalformed {
        /// What was written.
        text: String,
    },
    /// A bridge's name would not fit the kernel's limit.
    #[error("bridge name {name:?} must have 1 to 15 characters out of a-z, 0-9, `-` and `_`")]
    BridgeName {
        /// What was written.
        name: String,
    },
    /// No candidate subnet is free on this host.
    #[error("every default subnet overlaps an address of this host: choose one in the configuration")]
    NoFreeSubnet,
    /// The ledger belongs to another subnet and still has attachments.
    #[error(
        "containers are attached to {held}, but {asked} is configured: remove them first, or configure {held}"
    )]
    SubnetChanged {
        /// What the ledger holds.
        held: Subnet,
        /// What the configuration asks for.
        asked: Subnet,
    },
    /// All addresses are given out.
    #[error("subnet {subnet} has no free address left: remove containers or configure a larger one")]
    SubnetFull {
        /// The subnet.
        subnet: Subnet,
    },
    /// The ledger cannot be read or replaced.
    #[error("{step} {}", path.display())]
    Ledger {
        /// `read` or `replace`.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A network namespace cannot be made, entered or removed.
    #[error("{step} network namespace {}", path.display())]
    Namespace {
        /// What was being done.
        step: &'static str,
        /// The namespace's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kernel setting cannot be written.
    #[error("set {path}")]
    Setting {
        /// The file below /proc/sys.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a link, an address or a route.
    #[error("{step} {subject}")]
    Link {
        /// What was being done.
        step: &'static str,
        /// To what.
        subject: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused our nftables rules.
    #[error("{step} nftables table {table}")]
    Nftables {
        /// What was being done.
        step: &'static str,
        /// The table.
        table: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error(
        "port {port}/{protocol} on {address} is already in use: stop the program that holds it or publish another port"
    )]
    PortTaken {
        /// The host address.
        address: IpAddr,
        /// The host port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// Another container or service of ours holds the port.
    #[error("port {port}/{protocol} on {address} is already published by {holder}")]
    PortHeld {
        /// The host address.
        address: IpAddr,
        /// The host port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Who holds it.
        holder: String,
    },
    /// The host has no such address.
    #[error("port {port}/{protocol} cannot be published on {address}: it is not an address of this host")]
    AddressNotHere {
        /// The host address.
        address: IpAddr,
        /// The host port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// A listener cannot be made for another reason.
    #[error("listen on {address} port {port}/{protocol}")]
    Listen {
        /// The host address.
        address: IpAddr,
        /// The host port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
        /// Why.
        source: io::Error,
    },
    /// UDP is published by address translation only.
    #[error("port {port}/udp cannot be published on {address}: {reason}")]
    UdpUnavailable {
        /// The host address.
        address: IpAddr,
        /// The host port.
        port: u16,
        /// What is missing.
        reason: &'static str,
    },
    /// A port is to be published for a container that is not attached.
    #[error("container {container} is not attached to a network")]
    NotAttached {
        /// Its id.
        container: String,
    },
    /// The address asked for is outside the subnet or taken.
    #[error("address {address} is not free in {subnet}")]
    AddressTaken {
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Subnet,
    },
}
