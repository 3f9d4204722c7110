//! Archives that nobody would write, unpacked without the child around them: the first wall has to hold alone.

use std::fs;
use std::os::unix::fs::MetadataExt;

use oci::media_type::Compression;
use oci::{Algorithm, Digest};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use tar::{EntryType, Header};

use super::{Limits, Report, Request, UnpackError, unpack};

const CANARY: &str = "alive";

/// Stands for the path of the place that the root is in.
const PLACE: &str = "@PLACE@";

/// Directories between the place and the root: more than a name has `..`, so that even an archive that escapes stays in
/// the place, and does not touch the machine that runs the test.
const DEPTH: &str = "1/2/3/4/5";

/// Unpacks what `make` returns beside canaries, and checks that they alone are there afterwards.
fn unpack_beside_canary(
    compression: Compression,
    make: impl FnOnce(&str) -> Vec<u8>,
) -> Result<Report, UnpackError> {
    let place = tempfile::tempdir().expect("a directory");
    let parent = place.path().join(DEPTH);
    let root = parent.join("root");
    fs::create_dir_all(&root).expect("makes");
    let canaries = [place.path().join("canary"), parent.join("canary")];
    for canary in &canaries {
        fs::write(canary, CANARY).expect("writes");
    }
    let bytes = make(&place.path().display().to_string());
    let limits = Limits {
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let request = Request::new(compression, Algorithm::Sha256, limits);
    let outcome = unpack(
        &request,
        fs::File::open(&root).expect("opens").into(),
        bytes.as_slice(),
    );
    for canary in &canaries {
        let found = fs::symlink_metadata(canary).expect("the canary is there");
        assert!(
            found.is_file() && found.nlink() == 1,
            "the canary was replaced or linked"
        );
        // Entries have owner 1 and any mode.
        assert_eq!(
            (found.uid(), found.mode() & 0o7777),
            (nix::unistd::geteuid().as_raw(), 0o644)
        );
        assert_eq!(fs::read_to_string(canary).expect("reads"), CANARY);
    }
    for (directory, entries) in [(place.path(), 2), (&place.path().join("1"), 1), (&parent, 2)] {
        assert_eq!(fs::read_dir(directory).expect("lists").count(), entries);
        assert_eq!(
            fs::metadata(directory).expect("stats").uid(),
            nix::unistd::geteuid().as_raw()
        );
    }
    outcome
}

#[derive(Clone, Debug)]
struct Piece {
    kind: u8,
    name: String,
    link: String,
    pax: Option<String>,
    content: Vec<u8>,
    mode: u32,
    device: (u32, u32),
    /// Bytes of the header that are changed before the checksum is made right.
    damage: Vec<(usize, u8)>,
}

fn path() -> impl Strategy<Value = String> {
    let part = select(vec![
        "a",
        "b",
        "c",
        "a",
        "b",
        "..",
        ".",
        "",
        "canary",
        "root",
        ".wh.a",
        ".wh.b",
        ".wh..wh..opq",
        ".wh...",
        ".wh..",
        "~1",
        PLACE,
    ]);
    vec(part, 0..4).prop_map(|parts| parts.join("/"))
}

/// Names that meet each other often, so that entries change what others made.
fn meeting(others: &'static [&'static str]) -> impl Strategy<Value = String> {
    let common = select(others).prop_map(str::to_owned);
    prop_oneof![1 => path(), 12 => common]
}

fn piece() -> impl Strategy<Value = Piece> {
    (
        select(b"000000002222222255555113467xgLKS".to_vec()),
        meeting(&[
            "a",
            "b",
            "a/canary",
            "b/canary",
            "a/b",
            "b/a",
            "a/a",
            ".wh.a",
            "a/.wh.b",
            "a/.wh..wh..opq",
        ]),
        meeting(&[
            "a",
            "b",
            "a/canary",
            "/",
            "/a",
            "../a",
            PLACE,
            "@PLACE@/canary",
            "b/b",
            "..",
        ]),
        option::weighted(0.1, path()),
        vec(any::<u8>(), 0..700),
        0..0o7777u32,
        select(vec![(0, 0), (1, 3), (8, 0)]),
        option::weighted(0.05, vec((0..512usize, any::<u8>()), 1..4)),
    )
        .prop_map(|(kind, name, link, pax, content, mode, device, damage)| Piece {
            kind,
            name,
            link,
            pax,
            content,
            mode,
            device,
            damage: damage.unwrap_or_default(),
        })
}

fn write(archive: &mut Vec<u8>, header: &mut Header, content: &[u8]) {
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn archive(pieces: &[Piece], place: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    for piece in pieces {
        let name = piece.name.replace(PLACE, place);
        // Absolute targets begin in the place, too.
        let link = match piece.link.strip_prefix('/') {
            Some(rest) => format!("{place}/{}", rest.replace(PLACE, place)),
            None => piece.link.replace(PLACE, place),
        };
        if let Some(path) = &piece.pax {
            let record = format!(" path={}\n", path.replace(PLACE, place));
            let length = (record.len()..).find(|length| *length == record.len() + length.to_string().len());
            let record = format!("{}{record}", length.expect("some length fits"));
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_size(record.len() as u64);
            write(&mut archive, &mut header, record.as_bytes());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(piece.kind));
        // Only these carry data; after others it would be taken for headers.
        let content: &[u8] = match piece.kind {
            b'0' | b'7' | b'x' | b'g' | b'L' | b'K' | b'S' => &piece.content,
            _ => b"",
        };
        header.set_size(content.len() as u64);
        header.set_mode(piece.mode);
        header.set_uid(1);
        header.set_gid(1);
        header.set_mtime(1);
        header.set_device_major(piece.device.0).expect("fits");
        header.set_device_minor(piece.device.1).expect("fits");
        let bytes = header.as_mut_bytes();
        let (name, link) = (name.as_bytes(), link.as_bytes());
        bytes[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        for (at, value) in &piece.damage {
            bytes[*at] = *value;
        }
        write(&mut archive, &mut header, content);
    }
    archive
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn archives_of_hostile_entries_stay_below_their_root(
        pieces in vec(piece(), 1..12),
        length in option::weighted(0.2, 0..5000usize),
    ) {
        let outcome = unpack_beside_canary(Compression::None, |place| {
            let mut bytes = archive(&pieces, place);
            bytes.truncate(length.unwrap_or(usize::MAX));
            bytes
        });
        if let Ok(report) = outcome {
            prop_assert!(report.size_bytes <= 1 << 20);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_hashed(bytes in vec(any::<u8>(), 0..4000)) {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let outcome = unpack_beside_canary(compression, |_| bytes.clone());
            if let (Compression::None, Ok(report)) = (compression, outcome) {
                prop_assert_eq!(report.diff_id, Digest::sha256(&bytes));
            }
        }
    }
}
