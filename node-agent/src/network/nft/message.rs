//! Netlink messages of nf_tables (linux/netfilter/nf_tables.h, nfnetlink.h): a batch of changes that the kernel
//! takes as one transaction.
//!
//! ```text
//! nlmsghdr  length u32 | type u16 (subsystem << 8 | kind) | flags u16 | sequence u32 | port u32   host byte order
//! nfgenmsg  family u8 | version u8 | resource u16                                              network byte order
//! nlattr    length u16 | type u16, then the value padded to four bytes; numbers inside are in network byte order
//! ```

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_IPV4: u8 = 2;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
const ERROR: u16 = 2;

/// What a message does; the value is `NFT_MSG_*`.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
}

/// `NLM_F_CREATE`, with `NLM_F_APPEND` for rules.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Attributes under construction.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds raw bytes as the value of attribute `kind`.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Adds a text with its final zero.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut terminated = value.as_bytes().to_vec();
        terminated.push(0);
        self.bytes(kind, &terminated)
    }

    /// Adds a number.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds attributes inside an attribute.
    pub(super) fn nested(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes of ours are far below 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Changes that happen all or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the last change begins, which is the one that asks for an acknowledgement: only newer kernels
    /// acknowledge the batch's own end.
    last: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
            last: 0,
        };
        batch.put(
            BATCH_BEGIN,
            REQUEST,
            FAMILY_UNSPECIFIED,
            SUBSYSTEM,
            &Attributes::default(),
        );
        batch
    }

    /// Appends one change.
    pub(super) fn change(&mut self, kind: Kind, attributes: &Attributes) {
        let flags = match kind {
            Kind::NewTable | Kind::NewChain => REQUEST | CREATE,
            Kind::NewRule => REQUEST | CREATE | APPEND,
            Kind::GetTable | Kind::DeleteTable => REQUEST,
        };
        self.last = self.bytes.len();
        self.put(SUBSYSTEM << 8 | kind as u16, flags, FAMILY_IPV4, 0, attributes);
    }

    /// Hands the batch to the kernel.
    ///
    /// # Errors
    /// The kernel's first complaint; nothing was changed then.
    pub(super) fn commit(mut self) -> io::Result<()> {
        let flags_at = self.last + 6;
        let flags = u16::from_ne_bytes([self.bytes[flags_at], self.bytes[flags_at + 1]]) | ACKNOWLEDGE;
        self.bytes[flags_at..flags_at + 2].copy_from_slice(&flags.to_ne_bytes());
        let last_sequence = self.sequence;
        self.put(
            BATCH_END,
            REQUEST,
            FAMILY_UNSPECIFIED,
            SUBSYSTEM,
            &Attributes::default(),
        );
        exchange(&self.bytes, last_sequence)
    }

    fn put(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &Attributes) {
        self.sequence += 1;
        put_message(
            &mut self.bytes,
            kind,
            flags,
            self.sequence,
            family,
            resource,
            attributes,
        );
    }
}

/// Whether the table `attributes` name exists.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn exists(attributes: &Attributes) -> io::Result<bool> {
    let mut bytes = Vec::new();
    let kind = SUBSYSTEM << 8 | Kind::GetTable as u16;
    put_message(
        &mut bytes,
        kind,
        REQUEST | ACKNOWLEDGE,
        1,
        FAMILY_IPV4,
        0,
        attributes,
    );
    match exchange(&bytes, 1) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn put_message(
    into: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attributes: &Attributes,
) {
    let length =
        u32::try_from(HEADER + 4 + attributes.0.len()).expect("messages of ours are far below 4 GiB");
    into.extend_from_slice(&length.to_ne_bytes());
    into.extend_from_slice(&kind.to_ne_bytes());
    into.extend_from_slice(&flags.to_ne_bytes());
    into.extend_from_slice(&sequence.to_ne_bytes());
    into.extend_from_slice(&0u32.to_ne_bytes());
    into.extend_from_slice(&[family, 0]);
    into.extend_from_slice(&resource.to_be_bytes());
    into.extend_from_slice(&attributes.0);
}

/// Sends and reads until the message `last_sequence` is acknowledged or any is refused. The kernel answers while
/// the call to send lasts, so nothing here waits.
fn exchange(bytes: &[u8], last_sequence: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // A transaction is one datagram, and several hundred ports outgrow the default limit.
    setsockopt(&socket, sockopt::SndBufForce, &(2 * bytes.len()).max(256 * 1024))?;
    socket.set_non_blocking(true)?;
    let sent = socket.send(bytes, 0)?;
    if sent != bytes.len() {
        return Err(io::Error::other("the kernel took only a part of the batch"));
    }
    loop {
        let (answer, _) = match socket.recv_from_full() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::other("the kernel did not acknowledge the batch"));
            }
            received => received?,
        };
        if is_acknowledged(&answer, last_sequence)? {
            return Ok(());
        }
    }
}

/// Looks through one datagram of answers.
fn is_acknowledged(mut answer: &[u8], last_sequence: u32) -> io::Result<bool> {
    let word = |bytes: &[u8], at: usize| {
        bytes
            .get(at..at + 4)
            .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    while let (Some(length), Some(kind_and_flags), Some(sequence)) =
        (word(answer, 0), word(answer, 4), word(answer, 8))
    {
        let kind = kind_and_flags.to_ne_bytes();
        if u16::from_ne_bytes([kind[0], kind[1]]) == ERROR {
            let code = word(answer, HEADER).unwrap_or_default().cast_signed();
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            if sequence == last_sequence {
                return Ok(true);
            }
        }
        let step = (length as usize).max(HEADER).next_multiple_of(4);
        answer = answer.get(step..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_say_their_true_length() {
        let attributes = Attributes::default().text(1, "abcd").number(2, 7);
        assert_eq!(attributes.0.len(), 12 + 8);
        assert_eq!(attributes.0[..2], 9u16.to_ne_bytes());
        assert_eq!(attributes.0[16..20], 7u32.to_be_bytes());
    }

    #[test]
    fn a_refusal_is_an_error_and_an_answer_to_another_message_is_not_the_end() {
        let mut answer = Vec::new();
        for (sequence, code) in [(3u32, 0i32), (4, -13)] {
            answer.extend_from_slice(&36u32.to_ne_bytes());
            answer.extend_from_slice(&ERROR.to_ne_bytes());
            answer.extend_from_slice(&0u16.to_ne_bytes());
            answer.extend_from_slice(&sequence.to_ne_bytes());
            answer.extend_from_slice(&0u32.to_ne_bytes());
            answer.extend_from_slice(&code.to_ne_bytes());
            answer.extend_from_slice(&[0; 16]);
        }
        assert!(is_acknowledged(&answer[..36], 3).expect("no refusal"));
        assert!(!is_acknowledged(&answer[..36], 4).expect("no refusal"));
        let refusal = is_acknowledged(&answer, 5).expect_err("is refused");
        assert_eq!(refusal.kind(), io::ErrorKind::PermissionDenied);
        assert!(!is_acknowledged(&answer[..10], 3).expect("nothing whole"));
    }
}
