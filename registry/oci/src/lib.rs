//! Nouns of the OCI image-spec and distribution-spec, shared by server, node agent and command line.
//!
//! Owns: the grammar of names, tags, references and digests; descriptors; the parts of manifests that a
//! registry or a puller must understand; media types; the specification's error codes. Parsing is the only
//! constructor of each newtype, so a value in hand is a valid value. No I/O.

pub mod descriptor;
pub mod digest;
pub mod error_code;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod pattern;
pub mod reference;

pub use descriptor::{Descriptor, Platform};
pub use digest::{Algorithm, Digest, Hasher};
pub use error_code::{ErrorBody, ErrorCode, ErrorEntry};
pub use manifest::{Manifest, ManifestKind};
pub use name::{RepositoryName, Tag};
pub use pattern::RepositoryPattern;
pub use reference::{ImageReference, Reference};
