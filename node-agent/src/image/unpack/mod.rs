//! Unpacking one layer in a process of its own (image-spec layer.md), the only place that reads what an image's
//! author wrote.
//!
//! `pierhead-node unpack REQUEST` starts in the layer's directory, reads the compressed layer from standard input and
//! prints one line of JSON: a [`Report`], or the [`UnpackError`] that says which entry was refused and why. In reading
//! order: what the daemon does (`spawn`), how the child gives up everything but its directory (`confine`), and then
//! decompresses (`stream`), reads (`archive`) and writes (`extract`) with names that were checked (`name`).
//!
//! Two walls stand between a layer and the host: names are resolved by descriptor inside the layer's root, and that
//! root is all there is in the child's mount namespace. What the child reports about content (the diff id) is as
//! trustworthy as the child; the digest of what was sent is computed by the daemon.

mod archive;
mod confine;
mod extract;
#[cfg(test)]
mod fuzz;
mod name;
mod spawn;
mod stream;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use oci::media_type::Compression;
use oci::{Algorithm, Digest};
use serde::{Deserialize, Serialize};

use archive::Archive;
use extract::Extractor;
use stream::LayerStream;

pub use spawn::Unpacker;

/// Bounds on what a layer may cost. Beyond them it is refused with the bound in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the decompressed archive, and of the files in it with the holes of sparse ones counted.
    pub unpacked_bytes: u64,
    /// Decompressed bytes per compressed byte, once there are more than `ratio_free_bytes`.
    pub ratio: u64,
    /// Decompressed bytes that no ratio is asked of.
    pub ratio_free_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Components of an entry's path.
    pub depth: usize,
}

impl Default for Limits {
    /// Well beyond the largest images in use (tens of GiB in a layer, a few hundred thousand files), well below what
    /// fills a machine.
    fn default() -> Self {
        Self {
            unpacked_bytes: 64 << 30,
            ratio: 200,
            ratio_free_bytes: 1 << 30,
            entries: 1_000_000,
            depth: 256,
        }
    }
}

/// What the child is asked to unpack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    #[serde(with = "compression_word")]
    compression: Compression,
    is_diff_sha512: bool,
    limits: Limits,
}

impl Request {
    /// A layer compressed with `compression`, whose diff id is made with `algorithm`.
    pub fn new(compression: Compression, algorithm: Algorithm, limits: Limits) -> Self {
        Self {
            compression,
            is_diff_sha512: algorithm == Algorithm::Sha512,
            limits,
        }
    }

    fn algorithm(&self) -> Algorithm {
        if self.is_diff_sha512 {
            Algorithm::Sha512
        } else {
            Algorithm::Sha256
        }
    }
}

/// What was unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Digest of the decompressed archive.
    pub diff_id: Digest,
    /// Bytes of the files.
    pub size_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Device nodes that were left out because containers get none but the harmless ones.
    pub devices_left_out: u64,
    /// Whether the layer hides everything below it.
    pub is_opaque: bool,
    /// What the layer says about the root directory itself, if anything.
    pub root: Option<RootEntry>,
}

/// Mode and owner of an image's root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootEntry {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Why a layer was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}{reason}", .entry.as_ref().map(|name| format!("entry {name:?}: ")).unwrap_or_default())]
pub struct UnpackError {
    /// The entry, with bytes that are not printable escaped; absent when the fault is not one entry's.
    pub entry: Option<String>,
    /// The reason.
    pub reason: Reason,
}

/// The rule that a layer broke, or the step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// The stream ends inside an entry or inside the compressed data.
    #[error("the layer ends too early")]
    Truncated,
    /// The compressed stream is damaged, or needs more memory than a layer may.
    #[error("the layer cannot be decompressed: {what}")]
    Corrupt {
        /// What the decompressor says.
        what: String,
    },
    /// The archive is damaged.
    #[error("the archive is malformed: {what}")]
    Malformed {
        /// Where.
        what: String,
    },
    /// More bytes than a layer may have.
    #[error("the layer has more than {limit} bytes unpacked")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A decompression bomb.
    #[error("{compressed} compressed bytes unfold to more than {unpacked}")]
    Bomb {
        /// Read so far.
        compressed: u64,
        /// Written so far.
        unpacked: u64,
    },
    /// More entries than a layer may have.
    #[error("the layer has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// A pax header or a long name that is too long to be kept in memory.
    #[error("an extension header of {size_bytes} bytes, at most {limit} are accepted")]
    ExtensionTooLong {
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A sparse file in one of the pax formats, which image writers do not use.
    #[error("sparse files in pax format are not accepted in layers")]
    PaxSparse,
    /// A type of entry that means nothing in a layer.
    #[error("type {flag:?} means nothing in a layer")]
    UnknownType {
        /// The type's byte.
        flag: String,
    },
    /// `..` in a name.
    #[error("the name has a `..` in it")]
    ParentReference,
    /// A NUL byte in a name.
    #[error("the name has a NUL byte in it")]
    NulByte,
    /// A name or a component that no file system takes.
    #[error("the name is too long")]
    NameTooLong,
    /// Too many components.
    #[error("the name is more than {limit} directories deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// The root itself as something else than a directory.
    #[error("the root can only be a directory")]
    RootNotDirectory,
    /// A whiteout that names no sibling.
    #[error("the whiteout does not name a file")]
    Whiteout,
    /// A device node that overlayfs would take for a whiteout.
    #[error("a character device 0:0 would hide a file")]
    WhiteoutDevice,
    /// A component of the path is a file, or a link that leads nowhere in the layer.
    #[error("{path:?} is not a directory")]
    ParentNotDirectory {
        /// The component's path.
        path: String,
    },
    /// A hard link to what the layer does not have as a file.
    #[error("the hard link's target {target:?} is no file of this layer")]
    LinkTarget {
        /// The target.
        target: String,
    },
    /// So many directories that their times cannot be kept in memory.
    #[error("the names of the layer's directories need too much memory")]
    TooManyDirectories,
    /// A system call failed.
    #[error("{step}: {}", io::Error::from_raw_os_error(*errno))]
    Io {
        /// What was being done.
        step: String,
        /// The kernel's error number.
        errno: i32,
    },
    /// The child could not be started or confined, or ended without a report.
    #[error("{what}")]
    Child {
        /// What happened.
        what: String,
    },
}

impl Reason {
    fn io(step: &str, error: nix::errno::Errno) -> Self {
        Self::Io {
            step: step.to_owned(),
            errno: error as i32,
        }
    }

    /// A failure to read the layer: what `stream` found wrong, or what the decompressor did.
    fn of_stream(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Truncated;
        }
        match error.downcast::<Reason>() {
            Ok(reason) => reason,
            Err(error) => Self::Corrupt {
                what: error.to_string(),
            },
        }
    }

    pub(in crate::image) fn alone(self) -> UnpackError {
        UnpackError {
            entry: None,
            reason: self,
        }
    }
}

/// The child: `args` is one [`Request`] as JSON. Prints the outcome and ends with 0 when that is a [`Report`]. Must be
/// called before any thread exists; the process is confined for good.
pub fn main(args: &[String]) -> ExitCode {
    let outcome = confined(args);
    let code = match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    };
    let written = serde_json::to_vec(&outcome)
        .map_err(io::Error::from)
        .and_then(|line| io::stdout().write_all(&line));
    match written {
        Ok(()) => code,
        // Nobody reads; the code still tells.
        Err(_) => ExitCode::FAILURE,
    }
}

fn confined(args: &[String]) -> Result<Report, UnpackError> {
    let request: Request = match args {
        [request] => serde_json::from_str(request).map_err(|error| Reason::Child {
            what: format!("the request is malformed: {error}"),
        }),
        _ => Err(Reason::Child {
            what: "the unpacker takes one argument and is started by the daemon".to_owned(),
        }),
    }
    .map_err(Reason::alone)?;
    let root = confine::enter(&request.limits).map_err(|failure| {
        Reason::Child {
            what: format!("the unpacker cannot be confined: {failure}"),
        }
        .alone()
    })?;
    unpack(&request, root, io::stdin().lock())
}

/// Unpacks the layer `input` into `root`. Everything that reads or writes on behalf of a layer is below this.
fn unpack(request: &Request, root: OwnedFd, input: impl Read) -> Result<Report, UnpackError> {
    let limits = &request.limits;
    let stream =
        LayerStream::new(input, request.compression, request.algorithm(), limits).map_err(Reason::alone)?;
    let mut archive = Archive::new(stream, limits);
    let mut extractor = Extractor::new(root, limits);
    while let Some(entry) = archive.next().map_err(|reason| UnpackError {
        entry: extractor.last_entry().map(|name| format!("after {name}")),
        reason,
    })? {
        extractor
            .add(&entry, &mut archive)
            .map_err(|reason| UnpackError {
                entry: Some(entry.path.escape_ascii().to_string()),
                reason,
            })?;
    }
    let diff_id = archive.into_inner().finish().map_err(Reason::alone)?;
    extractor.finish(diff_id).map_err(Reason::alone)
}

/// [`Compression`] as one word on the command line.
mod compression_word {
    use oci::media_type::Compression;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Compression, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match value {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Compression, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "none" => Ok(Compression::None),
            "gzip" => Ok(Compression::Gzip),
            "zstd" => Ok(Compression::Zstd),
            other => Err(serde::de::Error::custom(format!("{other:?} is no compression"))),
        }
    }
}
