//! The agent's nftables table: one per bridge, written by netlink in one transaction, so that packets always see the
//! old rules or the new ones. Tables of docker, ufw, firewalld and of other agents are never touched.
//!
//! ```text
//! guard     prerouting, raw       containers may not address the host's 127.0.0.0/8, which route_localnet opens
//! published prerouting, dstnat    published port → container, for packets from elsewhere and from containers
//! local     output, dstnat        the same for programs on this host, 127.0.0.1 included
//! forward   forward, filter       from outside, only answers and published ports reach a container
//! leaving   postrouting, srcnat   masquerade: egress, loopback sources, and hairpin to a neighbour or itself
//! ```

mod message;
mod rule;

use std::net::Ipv4Addr;

use message::{Attributes, Batch, Kind};
use rule::{Match, Rule};

use super::port::{Destination, PublishedPort};
use super::{NetworkError, Subnet};

/// Attribute numbers of linux/netfilter/nf_tables.h, as far as they are used here.
mod attribute {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
}

/// A base chain: name, type, hook number (`NF_INET_*`) and priority.
#[derive(Debug)]
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

const GUARD: Chain = Chain {
    name: "guard",
    kind: "filter",
    hook: 0,
    priority: -300,
};
const PUBLISHED: Chain = Chain {
    name: "published",
    kind: "nat",
    hook: 0,
    priority: -100,
};
const LOCAL: Chain = Chain {
    name: "local",
    kind: "nat",
    hook: 3,
    priority: -100,
};
const FORWARD: Chain = Chain {
    name: "forward",
    kind: "filter",
    hook: 2,
    priority: 0,
};
const LEAVING: Chain = Chain {
    name: "leaving",
    kind: "nat",
    hook: 4,
    priority: 100,
};

/// One agent's table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    bridge: String,
    name: String,
    subnet: Subnet,
}

impl Table {
    pub(super) fn new(bridge: &str, subnet: Subnet) -> Self {
        Self {
            bridge: bridge.to_owned(),
            name: format!("pierhead-{bridge}"),
            subnet,
        }
    }

    /// Replaces the table by one that publishes `ports`. Connections that exist keep their translation.
    ///
    /// # Errors
    /// When the kernel refuses; the old rules are in force then.
    pub(super) fn replace<'a>(
        &self,
        ports: impl Iterator<Item = (&'a PublishedPort, Ipv4Addr)>,
    ) -> Result<(), NetworkError> {
        let mut batch = self.emptied();
        let table = || Attributes::default().text(attribute::TABLE_NAME, &self.name);
        batch.change(Kind::NewTable, &table());
        for chain in [GUARD, PUBLISHED, LOCAL, FORWARD, LEAVING] {
            self.add_chain(&mut batch, &chain);
        }
        for (port, address) in ports {
            let Some(destination) = port.translated() else {
                continue;
            };
            // A packet from elsewhere never carries a loopback destination, hence nothing to translate there.
            if !matches!(destination, Destination::Only(address) if address.is_loopback()) {
                self.add_rule(&mut batch, &PUBLISHED, translation(port, destination, address));
            }
            self.add_rule(&mut batch, &LOCAL, translation(port, destination, address));
        }
        let loopback = Subnet::containing(Ipv4Addr::LOCALHOST, 8).expect("127.0.0.0/8 is a subnet");
        let (bridge, subnet) = (self.bridge.as_str(), self.subnet);
        let fixed = [
            (
                &GUARD,
                Match::any()
                    .entered_by(bridge, true)
                    .destination_in(loopback)
                    .drop(),
            ),
            (
                &FORWARD,
                Match::any().leaves_by(bridge, true).established().accept(),
            ),
            (
                &FORWARD,
                Match::any()
                    .leaves_by(bridge, true)
                    .destination_translated()
                    .accept(),
            ),
            (
                &FORWARD,
                Match::any()
                    .leaves_by(bridge, true)
                    .entered_by(bridge, false)
                    .drop(),
            ),
            (
                &LEAVING,
                Match::any()
                    .source_in(subnet)
                    .leaves_by(bridge, false)
                    .masquerade(),
            ),
            (
                &LEAVING,
                Match::any()
                    .source_in(loopback)
                    .leaves_by(bridge, true)
                    .masquerade(),
            ),
            (
                &LEAVING,
                Match::any()
                    .source_in(subnet)
                    .destination_in(subnet)
                    .destination_translated()
                    .masquerade(),
            ),
        ];
        for (chain, rule) in fixed {
            self.add_rule(&mut batch, chain, rule);
        }
        batch.commit().map_err(|source| self.failed("replace", source))
    }

    /// Removes the table; one that is absent is no error.
    pub(super) fn remove(&self) -> Result<(), NetworkError> {
        self.emptied()
            .commit()
            .map_err(|source| self.failed("remove", source))
    }

    /// Whether the table is there: `nft flush ruleset` takes it away like all others.
    pub(super) fn exists(&self) -> Result<bool, NetworkError> {
        let name = Attributes::default().text(attribute::TABLE_NAME, &self.name);
        message::exists(&name).map_err(|source| self.failed("look for", source))
    }

    /// A batch after which the table is gone: deleting is an error where there is nothing, so it is made first.
    fn emptied(&self) -> Batch {
        let mut batch = Batch::new();
        let name = Attributes::default().text(attribute::TABLE_NAME, &self.name);
        batch.change(Kind::NewTable, &name);
        batch.change(Kind::DeleteTable, &name);
        batch
    }

    fn add_chain(&self, batch: &mut Batch, chain: &Chain) {
        const ACCEPT: u32 = 1;
        let hook = Attributes::default()
            .number(attribute::HOOK_NUMBER, chain.hook)
            .number(attribute::HOOK_PRIORITY, chain.priority.cast_unsigned());
        let attributes = Attributes::default()
            .text(attribute::CHAIN_TABLE, &self.name)
            .text(attribute::CHAIN_NAME, chain.name)
            .nested(attribute::CHAIN_HOOK, hook)
            .number(attribute::CHAIN_POLICY, ACCEPT)
            .text(attribute::CHAIN_TYPE, chain.kind);
        batch.change(Kind::NewChain, &attributes);
    }

    fn add_rule(&self, batch: &mut Batch, chain: &Chain, Rule(expressions): Rule) {
        let attributes = Attributes::default()
            .text(attribute::RULE_TABLE, &self.name)
            .text(attribute::RULE_CHAIN, chain.name)
            .nested(attribute::RULE_EXPRESSIONS, expressions);
        batch.change(Kind::NewRule, &attributes);
    }

    fn failed(&self, step: &'static str, source: std::io::Error) -> NetworkError {
        NetworkError::Nftables {
            step,
            table: self.name.clone(),
            source,
        }
    }
}

fn translation(port: &PublishedPort, destination: Destination, to: Ipv4Addr) -> Rule {
    let matched = match destination {
        Destination::EveryLocal => Match::any().destination_is_local(),
        Destination::Only(address) => Match::any().destination_is(address),
    };
    matched
        .destination_port(port.protocol, port.host_port)
        .translate_destination(to, port.container_port)
}
