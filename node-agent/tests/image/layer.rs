//! Layers as bytes, including those that no writer of archives would write.

use std::io::Write;

use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// An archive that is being written.
#[derive(Default)]
pub struct Layer(Vec<u8>);

impl Layer {
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", content)
    }

    pub fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    pub fn device(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Self {
        let mut header = header(kind, name, "", 0);
        header.set_device_major(major).expect("fits");
        header.set_device_minor(minor).expect("fits");
        self.raw(header, b"")
    }

    /// A pax header for the entry that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let name = "pax";
        self.entry(EntryType::XHeader, name, "", &data)
    }

    pub fn entry(self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        self.raw(header(kind, name, link, content.len() as u64), content)
    }

    /// An entry with this header, whose checksum is made right, and this data, padded.
    pub fn raw(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A header with the name exactly as given, which `tar` itself would refuse to write. Owner 0:0, mode 0755.
pub fn header(kind: EntryType, name: &str, link: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory")
}
