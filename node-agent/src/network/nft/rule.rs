//! One rule as nf_tables sees it: expressions that load into register 1, compare, and act.

use std::net::Ipv4Addr;

use super::message::Attributes;
use crate::network::{Protocol, Subnet};

const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

const META_INPUT_INTERFACE: u32 = 6;
const META_OUTPUT_INTERFACE: u32 = 7;
const META_TRANSPORT: u32 = 16;

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const DESTINATION_PORT: u32 = 2;

const CONNTRACK_STATE: u32 = 0;
const CONNTRACK_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT` of established and related, `IPS_DST_NAT`; registers hold them in host byte order.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const DESTINATION_TRANSLATED: u32 = 1 << 5;

const INTERFACE_NAME: usize = 16;

/// What a packet must be; ends with an action.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Match(Attributes);

/// A finished rule: the list for `NFTA_RULE_EXPRESSIONS`.
#[derive(Debug)]
pub(super) struct Rule(pub(super) Attributes);

impl Match {
    /// Every packet.
    pub(super) fn any() -> Self {
        Self::default()
    }

    /// It came in by this interface, or by any other.
    pub(super) fn entered_by(self, name: &str, is: bool) -> Self {
        self.meta(META_INPUT_INTERFACE).compare(is, &interface_name(name))
    }

    /// It goes out by this interface, or by any other.
    pub(super) fn leaves_by(self, name: &str, is: bool) -> Self {
        self.meta(META_OUTPUT_INTERFACE)
            .compare(is, &interface_name(name))
    }

    /// Its source lies in the subnet.
    pub(super) fn source_in(self, subnet: Subnet) -> Self {
        self.address_in(IPV4_SOURCE, subnet)
    }

    /// Its destination lies in the subnet.
    pub(super) fn destination_in(self, subnet: Subnet) -> Self {
        self.address_in(IPV4_DESTINATION, subnet)
    }

    /// Its destination is this address.
    pub(super) fn destination_is(self, address: Ipv4Addr) -> Self {
        self.payload(BASE_NETWORK, IPV4_DESTINATION, 4)
            .compare(true, &address.octets())
    }

    /// Its destination is an address of this host.
    pub(super) fn destination_is_local(self) -> Self {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        let expression = Attributes::default()
            .number(1, REGISTER_1)
            .number(2, RESULT_ADDRESS_TYPE)
            .number(3, BY_DESTINATION);
        self.then("fib", expression).compare(true, &LOCAL.to_ne_bytes())
    }

    /// It is sent to this port.
    pub(super) fn destination_port(self, protocol: Protocol, port: u16) -> Self {
        let number: u8 = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        self.meta(META_TRANSPORT)
            .compare(true, &[number])
            .payload(BASE_TRANSPORT, DESTINATION_PORT, 2)
            .compare(true, &port.to_be_bytes())
    }

    /// Its connection exists, or belongs to one that does.
    pub(super) fn established(self) -> Self {
        self.conntrack_bits(CONNTRACK_STATE, ESTABLISHED_OR_RELATED)
    }

    /// Its connection's destination was translated.
    pub(super) fn destination_translated(self) -> Self {
        self.conntrack_bits(CONNTRACK_STATUS, DESTINATION_TRANSLATED)
    }

    /// Let it pass this chain.
    pub(super) fn accept(self) -> Rule {
        self.verdict(1)
    }

    /// Drop it.
    pub(super) fn drop(self) -> Rule {
        self.verdict(0)
    }

    /// Give it the address of the interface it leaves by.
    pub(super) fn masquerade(self) -> Rule {
        Rule(self.then("masq", Attributes::default()).0)
    }

    /// Send it to `address` and `port`.
    pub(super) fn translate_destination(self, address: Ipv4Addr, port: u16) -> Rule {
        const DESTINATION: u32 = 1;
        const IPV4: u32 = 2;
        let expression = Attributes::default()
            .number(1, DESTINATION)
            .number(2, IPV4)
            .number(3, REGISTER_1)
            .number(5, REGISTER_2);
        let loaded = self
            .load(REGISTER_1, &address.octets())
            .load(REGISTER_2, &port.to_be_bytes());
        Rule(loaded.then("nat", expression).0)
    }

    fn then(self, name: &str, data: Attributes) -> Self {
        Self(
            self.0
                .nested(1, Attributes::default().text(1, name).nested(2, data)),
        )
    }

    fn meta(self, key: u32) -> Self {
        self.then("meta", Attributes::default().number(1, REGISTER_1).number(2, key))
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let expression = Attributes::default()
            .number(1, REGISTER_1)
            .number(2, base)
            .number(3, offset)
            .number(4, length);
        self.then("payload", expression)
    }

    fn address_in(self, offset: u32, subnet: Subnet) -> Self {
        self.payload(BASE_NETWORK, offset, 4)
            .bitwise(&subnet.mask().octets())
            .compare(true, &subnet.network().octets())
    }

    fn conntrack_bits(self, key: u32, bits: u32) -> Self {
        self.then("ct", Attributes::default().number(1, REGISTER_1).number(2, key))
            .bitwise(&bits.to_ne_bytes())
            .compare(false, &[0; 4])
    }

    fn bitwise(self, mask: &[u8; 4]) -> Self {
        let expression = Attributes::default()
            .number(1, REGISTER_1)
            .number(2, REGISTER_1)
            .number(3, 4)
            .nested(4, value(mask))
            .nested(5, value(&[0; 4]));
        self.then("bitwise", expression)
    }

    fn compare(self, is: bool, with: &[u8]) -> Self {
        let operator = if is { EQUAL } else { NOT_EQUAL };
        let expression = Attributes::default()
            .number(1, REGISTER_1)
            .number(2, operator)
            .nested(3, value(with));
        self.then("cmp", expression)
    }

    fn load(self, register: u32, bytes: &[u8]) -> Self {
        self.then(
            "immediate",
            Attributes::default().number(1, register).nested(2, value(bytes)),
        )
    }

    fn verdict(self, code: u32) -> Rule {
        let verdict = Attributes::default().nested(2, Attributes::default().number(1, code));
        let expression = Attributes::default()
            .number(1, REGISTER_VERDICT)
            .nested(2, verdict);
        Rule(self.then("immediate", expression).0)
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

/// The name as registers hold it: padded with zeros to the kernel's `IFNAMSIZ`.
fn interface_name(name: &str) -> [u8; INTERFACE_NAME] {
    let mut padded = [0; INTERFACE_NAME];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}
