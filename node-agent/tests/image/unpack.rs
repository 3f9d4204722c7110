//! A corpus of hostile layers. Each is unpacked by the real child beside canaries, which must stay as they were.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use node_agent::image::unpack::{Limits, Reason, Report, Request, UnpackError, Unpacker};
use oci::media_type::Compression;
use oci::{Algorithm, Digest};
use runtime::sys::xattr;
use tar::EntryType;
use tempfile::TempDir;

use crate::layer::{Layer, gzip, header, zstd};

const CANARY: &str = "alive";

/// A directory to unpack into, with a canary beside it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        fs::create_dir(place.path().join("root")).expect("makes the root");
        fs::write(place.path().join("canary"), CANARY).expect("writes the canary");
        Self(place)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn canary(&self) -> String {
        self.0.path().join("canary").display().to_string()
    }

    fn unpack_with(
        &self,
        bytes: &[u8],
        compression: Compression,
        limits: Limits,
    ) -> Result<Report, UnpackError> {
        let request = Request::new(compression, Algorithm::Sha256, limits);
        let program = Path::new(env!("CARGO_BIN_EXE_pierhead-node"));
        let mut unpacker = Unpacker::start(program, &self.root(), &request)?;
        for piece in bytes.chunks(100_000) {
            if !unpacker.write(piece)? {
                break;
            }
        }
        let outcome = unpacker.finish();
        let canary = fs::symlink_metadata(self.0.path().join("canary")).expect("the canary is there");
        assert!(
            canary.is_file() && canary.nlink() == 1,
            "the canary was replaced or linked"
        );
        assert_eq!(fs::read_to_string(self.canary()).expect("reads"), CANARY);
        let mut beside: Vec<_> = fs::read_dir(self.0.path())
            .expect("lists")
            .map(|entry| entry.expect("lists").file_name())
            .collect();
        beside.sort();
        assert_eq!(beside, ["canary", "root"], "something was made beside the root");
        outcome
    }

    fn unpack(&self, layer: Layer) -> Result<Report, UnpackError> {
        self.unpack_with(&layer.end(), Compression::None, Limits::default())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root().join(path)).unwrap_or_else(|error| panic!("stat {path}: {error}"))
    }

    fn attribute(&self, path: &str, name: &std::ffi::CStr) -> Option<Vec<u8>> {
        let file = fs::File::open(self.root().join(path)).expect("opens");
        xattr::get(file.as_fd(), name).expect("reads the attribute")
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let found = self.stat(path);
        found.file_type().is_char_device() && found.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.attribute(path, c"trusted.overlay.opaque").as_deref() == Some(b"y")
    }
}

/// The reason why a layer is refused, and the entry.
fn refusal(layer: Layer) -> (Reason, String) {
    let error = Place::new().unpack(layer).expect_err("the layer is hostile");
    (error.reason, error.entry.unwrap_or_default())
}

#[test]
fn parent_references_are_refused() {
    for name in [
        "../canary",
        "a/../../canary",
        "..",
        "/../canary",
        "./../canary",
        "a/..",
    ] {
        let (reason, entry) = refusal(Layer::default().file(name, b"dead"));
        assert_eq!((reason, entry.as_str()), (Reason::ParentReference, name));
        let (reason, _) = refusal(Layer::default().directory(name));
        assert_eq!(reason, Reason::ParentReference, "directory {name}");
    }
    let long = Layer::default()
        .pax(&[("path", b"../canary")])
        .file("innocent", b"dead");
    assert_eq!(refusal(long).0, Reason::ParentReference);
    let long = Layer::default()
        .entry(EntryType::GNULongName, "././@LongLink", "", b"../canary\0")
        .file("innocent", b"dead");
    assert_eq!(refusal(long).0, Reason::ParentReference);
}

#[test]
fn absolute_names_land_in_the_layer() {
    let place = Place::new();
    let canary = place.canary();
    place
        .unpack(
            Layer::default()
                .file(&canary, b"inside")
                .file("/etc/shadow", b"inside"),
        )
        .expect("unpacks");
    assert_eq!(place.read(canary.trim_start_matches('/')), "inside");
    assert_eq!(place.read("etc/shadow"), "inside");
}

#[test]
fn nothing_is_written_through_links_that_lead_out() {
    let place = Place::new();
    let outside = place.0.path().display().to_string();
    for target in [
        outside.as_str(),
        "..",
        "../../../../../../../tmp",
        "/proc/self/cwd",
        "nowhere",
    ] {
        let layer = Layer::default()
            .symlink("out", target)
            .file("out/canary", b"dead");
        let outcome = Place::new().unpack(layer);
        match outcome {
            // `..` of the root is the root, as in the container.
            Ok(_) => assert_eq!(target, "..", "a link to {target} was followed"),
            Err(error) => assert_eq!(
                error.reason,
                Reason::ParentNotDirectory {
                    path: "out".to_owned()
                },
                "{target}"
            ),
        }
    }
    let layer = Layer::default()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/file", b"dead");
    assert!(matches!(refusal(layer).0, Reason::Io { .. }), "a loop of links");
}

#[test]
fn links_within_the_layer_are_followed_as_in_the_container() {
    let place = Place::new();
    let layer = Layer::default()
        .directory("usr/lib")
        .symlink("lib", "/usr/lib")
        .file("lib/libc.so", b"c");
    place.unpack(layer).expect("unpacks");
    assert_eq!(place.read("usr/lib/libc.so"), "c");
    assert!(place.stat("lib").is_symlink());
}

#[test]
fn a_file_replaces_a_link_of_its_name() {
    let place = Place::new();
    let layer = Layer::default()
        .symlink("file", &place.canary())
        .file("file", b"own")
        .symlink("directory", "..")
        .directory("directory");
    place.unpack(layer).expect("unpacks");
    assert!(place.stat("file").is_file() && place.stat("directory").is_dir());
}

#[test]
fn hard_links_reach_files_of_the_layer_only() {
    let place = Place::new();
    let layer = Layer::default()
        .file("a", b"shared")
        .hard_link("b", "a")
        .hard_link("c", "/a")
        .hard_link("c", "c");
    place.unpack(layer).expect("unpacks");
    assert_eq!(place.stat("a").ino(), place.stat("b").ino());
    assert_eq!(place.stat("a").nlink(), 3);
    let canary = place.canary();
    for target in [
        "/etc/passwd",
        canary.as_str(),
        "missing",
        "directory",
        "",
        "hidden",
    ] {
        let layer = Layer::default()
            .directory("directory")
            .file(".wh.hidden", b"")
            .hard_link("x", target);
        assert!(
            matches!(refusal(layer).0, Reason::LinkTarget { .. }),
            "{target:?}"
        );
    }
    assert_eq!(
        refusal(Layer::default().hard_link("x", "../canary")).0,
        Reason::ParentReference
    );
}

#[test]
fn hard_links_through_links_do_not_leave_the_layer() {
    let place = Place::new();
    let outside = place.0.path().display().to_string();
    let layer = Layer::default()
        .symlink("out", &outside)
        .hard_link("x", "out/canary");
    assert!(matches!(refusal(layer).0, Reason::LinkTarget { .. }));
    // A hard link to a link is the link, and writing to it afterwards replaces it.
    let layer = Layer::default()
        .symlink("out", &place.canary())
        .hard_link("x", "out")
        .file("x", b"own");
    place.unpack(layer).expect("unpacks");
    assert_eq!(place.read("x"), "own");
}

#[test]
fn only_harmless_devices_are_made() {
    let place = Place::new();
    let layer = Layer::default()
        .device(EntryType::Char, "dev/null", 1, 3)
        .device(EntryType::Char, "dev/mem", 1, 1)
        .device(EntryType::Block, "dev/sda", 8, 0)
        .device(EntryType::Block, "dev/null-block", 1, 3)
        .device(EntryType::Fifo, "run/pipe", 0, 0);
    let report = place.unpack(layer).expect("unpacks");
    assert_eq!(report.devices_left_out, 3);
    assert!(place.stat("dev/null").file_type().is_char_device());
    assert_eq!(place.stat("dev/null").mode() & 0o7777, 0o755);
    assert!(place.stat("run/pipe").file_type().is_fifo());
    for absent in ["dev/mem", "dev/sda", "dev/null-block"] {
        assert!(!place.root().join(absent).exists(), "{absent}");
    }
}

#[test]
fn a_device_that_would_be_a_whiteout_is_refused() {
    let layer = Layer::default().device(EntryType::Char, "etc/passwd", 0, 0);
    assert_eq!(refusal(layer).0, Reason::WhiteoutDevice);
}

#[test]
fn whiteouts_of_parents_are_refused() {
    for name in [
        ".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", ".wh..wh.",
    ] {
        assert_eq!(
            refusal(Layer::default().file(name, b"")).0,
            Reason::Whiteout,
            "{name}"
        );
    }
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let place = Place::new();
    let layer = Layer::default()
        .file("etc/.wh.passwd", b"")
        .file("var/.wh..wh..opq", b"")
        .file("var/.wh..wh.plnk", b"");
    let report = place.unpack(layer).expect("unpacks");
    assert!(place.is_whiteout("etc/passwd"));
    assert!(place.is_opaque("var") && !place.is_opaque("etc"));
    assert_eq!(fs::read_dir(place.root().join("var")).expect("lists").count(), 0);
    assert!(!report.is_opaque);
    let report = Place::new()
        .unpack(Layer::default().file(".wh..wh..opq", b""))
        .expect("unpacks");
    assert!(report.is_opaque);
}

#[test]
fn a_whiteout_hides_only_what_lies_below_in_either_order() {
    for is_whiteout_first in [true, false] {
        let place = Place::new();
        let hide = |layer: Layer| {
            layer
                .file(".wh.file", b"")
                .file(".wh.directory", b"")
                .file(".wh.implied", b"")
        };
        let show = |layer: Layer| {
            layer
                .file("file", b"own")
                .directory("directory")
                .file("implied/file", b"own")
        };
        let layer = match is_whiteout_first {
            true => show(hide(Layer::default())),
            false => hide(show(Layer::default())),
        };
        place.unpack(layer).expect("unpacks");
        assert_eq!(place.read("file"), "own");
        assert_eq!(place.read("implied/file"), "own");
        assert!(
            place.is_opaque("directory") && place.is_opaque("implied"),
            "{is_whiteout_first}"
        );
    }
}

#[test]
fn the_last_of_entries_with_one_name_counts() {
    let place = Place::new();
    let layer = Layer::default()
        .file("file", b"first")
        .hard_link("other", "file")
        .file("file", b"second")
        .file("directory/deep/er/file", b"gone")
        .file("directory", b"a file now")
        .file("becomes", b"a file")
        .directory("becomes")
        .file("becomes/full", b"kept")
        .directory("becomes");
    place.unpack(layer).expect("unpacks");
    assert_eq!(place.read("file"), "second");
    assert_eq!(place.read("other"), "first", "the former file is another");
    assert_eq!(place.read("directory"), "a file now");
    assert_eq!(place.read("becomes/full"), "kept");
}

#[test]
fn the_root_can_only_be_a_directory() {
    for layer in [
        Layer::default().file("./", b"").file(".", b"x"),
        Layer::default().symlink("/", "/etc"),
        Layer::default().file("a", b"").hard_link(".", "a"),
    ] {
        assert_eq!(refusal(layer).0, Reason::RootNotDirectory);
    }
}

fn sparse(real_size: u64, regions: &[(u64, u64)]) -> tar::Header {
    let size = regions.iter().map(|(_, length)| length).sum();
    let mut header = header(EntryType::GNUSparse, "sparse", "", size);
    let gnu = header.as_gnu_mut().expect("is one");
    gnu.set_real_size(real_size);
    for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(regions) {
        slot.set_offset(*offset);
        slot.set_length(*length);
    }
    header
}

#[test]
fn sparse_files_keep_their_holes() {
    let place = Place::new();
    let layer = Layer::default()
        .raw(sparse(50 << 20, &[(0, 3), (40 << 20, 3)]), b"abcdef")
        .file("after", b"the archive goes on");
    place.unpack(layer).expect("unpacks");
    let found = place.stat("sparse");
    assert_eq!(found.len(), 50 << 20);
    assert!(found.blocks() < 1000, "{} blocks", found.blocks());
    assert_eq!(place.read("after"), "the archive goes on");
    let bytes = fs::read(place.root().join("sparse")).expect("reads");
    assert_eq!(&bytes[40 << 20..(40 << 20) + 3], b"def");
}

#[test]
fn huge_and_lying_sparse_files_are_refused() {
    let layer = Layer::default().raw(sparse(1 << 60, &[]), b"");
    assert!(matches!(refusal(layer).0, Reason::TooLarge { .. }));
    for (real_size, regions) in [
        (10, [(8, 4)].as_slice()),
        (100, &[(8, 4), (4, 2)]),
        (100, &[(8, 4), (8, 4)]),
        (u64::MAX, &[(u64::MAX - 1, 4)]),
    ] {
        let layer = Layer::default().raw(sparse(real_size, regions), b"abcdefgh");
        assert!(
            matches!(refusal(layer).0, Reason::Malformed { .. }),
            "{regions:?}"
        );
    }
    let layer = Layer::default()
        .pax(&[("GNU.sparse.major", b"1")])
        .file("x", b"x");
    assert_eq!(refusal(layer).0, Reason::PaxSparse);
}

#[test]
fn too_many_entries_are_refused() {
    let limits = Limits {
        entries: 100,
        ..Limits::default()
    };
    let many = |count: usize| (0..count).fold(Layer::default(), |layer, at| layer.file(&at.to_string(), b""));
    let place = Place::new();
    place
        .unpack_with(&many(100).end(), Compression::None, limits)
        .expect("as many as are accepted");
    let error = place
        .unpack_with(&many(101).end(), Compression::None, limits)
        .expect_err("one more");
    assert_eq!(error.reason, Reason::TooManyEntries { limit: 100 });
    // Headers that make no files count, too.
    let none = (0..1000).fold(Layer::default(), |layer, _| {
        layer.entry(EntryType::XGlobalHeader, "g", "", b"")
    });
    let error = place
        .unpack_with(&none.end(), Compression::None, limits)
        .expect_err("global headers without end");
    assert!(
        matches!(
            error.reason,
            Reason::TooManyEntries { .. } | Reason::Malformed { .. }
        ),
        "{error}"
    );
}

#[test]
fn long_names_work_up_to_the_file_systems_limits() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let layer = Layer::default()
        .pax(&[("path", long.as_bytes())])
        .file("short", b"pax")
        .entry(
            EntryType::GNULongName,
            "././@LongLink",
            "",
            format!("{long}2\0").replace("f2", "g").as_bytes(),
        )
        .file("short", b"gnu");
    place.unpack(layer).expect("unpacks");
    assert_eq!(place.read(&long), "pax");
    let component = "f".repeat(256);
    let path = "d/".repeat(2100);
    for name in [component.as_str(), path.as_str()] {
        let layer = Layer::default()
            .pax(&[("path", name.as_bytes())])
            .file("short", b"");
        assert_eq!(refusal(layer).0, Reason::NameTooLong);
    }
    let deep = Layer::default()
        .pax(&[("path", "d/".repeat(300).as_bytes())])
        .file("short", b"");
    assert_eq!(refusal(deep).0, Reason::TooDeep { limit: 256 });
    let target = "t".repeat(5000);
    let layer = Layer::default()
        .pax(&[("linkpath", target.as_bytes())])
        .symlink("link", "x");
    assert!(matches!(refusal(layer).0, Reason::Io { .. }));
}

#[test]
fn pax_bombs_are_refused() {
    for kind in [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink] {
        let layer = Layer::default().raw(header(kind, "bomb", "", 8 << 30), b"path=");
        assert!(
            matches!(refusal(layer).0, Reason::ExtensionTooLong { .. }),
            "{kind:?}"
        );
    }
    let stacked = (0..100).fold(Layer::default(), |layer, _| layer.pax(&[("path", b"x")]));
    assert!(matches!(
        refusal(stacked.file("y", b"")).0,
        Reason::Malformed { .. }
    ));
    for record in [
        b"99999 path=x\n".as_slice(),
        b"9 pathx\n",
        b"junk",
        b"-5 path=x\n",
    ] {
        let layer = Layer::default()
            .entry(EntryType::XHeader, "pax", "", record)
            .file("y", b"");
        assert!(matches!(refusal(layer).0, Reason::Malformed { .. }));
    }
    for (key, value) in [
        ("size", "-1"),
        ("uid", "4294967295"),
        ("gid", "x"),
        ("mtime", "now"),
    ] {
        let layer = Layer::default().pax(&[(key, value.as_bytes())]).file("y", b"");
        assert!(matches!(refusal(layer).0, Reason::Malformed { .. }), "{key}");
    }
}

#[test]
fn a_pax_size_wins_over_the_headers() {
    // A reader that goes by the header's size would take the hidden entry for the next one.
    let hidden = Layer::default().file("hidden", b"dead").end();
    let mut outer = header(EntryType::Regular, "outer", "", 0);
    outer.set_size(0);
    let layer = Layer::default()
        .pax(&[("size", hidden.len().to_string().as_bytes())])
        .raw(outer, &hidden)
        .file("after", b"x");
    let place = Place::new();
    place.unpack(layer).expect("unpacks");
    assert_eq!(place.stat("outer").len(), hidden.len() as u64);
    assert!(!place.root().join("hidden").exists());
    assert_eq!(place.read("after"), "x");
}

#[test]
fn bombs_are_refused_before_they_unfold() {
    let limits = Limits {
        ratio: 50,
        ratio_free_bytes: 4 << 20,
        ..Limits::default()
    };
    let bomb = Layer::default().file("bomb", &vec![0; 100 << 20]).end();
    for (compression, bytes) in [(Compression::Gzip, gzip(&bomb)), (Compression::Zstd, zstd(&bomb))] {
        let place = Place::new();
        let error = place
            .unpack_with(&bytes, compression, limits)
            .expect_err("a bomb");
        assert!(
            matches!(error.reason, Reason::Bomb { .. }),
            "{compression:?}: {error}"
        );
        assert!(place.stat("bomb").len() < bomb.len() as u64, "{compression:?}");
    }
    let limits = Limits {
        unpacked_bytes: 4 << 20,
        ..Limits::default()
    };
    let error = Place::new()
        .unpack_with(&gzip(&bomb), Compression::Gzip, limits)
        .expect_err("too large");
    assert_eq!(error.reason, Reason::TooLarge { limit: 4 << 20 });
    // The bomb may also hide behind the end of the archive.
    let mut hidden = Layer::default().file("small", b"x").end();
    hidden.resize(100 << 20, 0);
    let error = Place::new()
        .unpack_with(&gzip(&hidden), Compression::Gzip, limits)
        .expect_err("too large");
    assert_eq!(error.reason, Reason::TooLarge { limit: 4 << 20 });
}

#[test]
fn a_zstd_window_bomb_is_refused() {
    // A frame that asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2), and one empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
    let error = Place::new()
        .unpack_with(&frame, Compression::Zstd, Limits::default())
        .expect_err("a bomb");
    assert!(matches!(error.reason, Reason::Corrupt { .. }), "{error}");
    let modest = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (20 - 10) << 3, 0x01, 0x00, 0x00];
    Place::new()
        .unpack_with(&modest, Compression::Zstd, Limits::default())
        .expect("only the window's size was wrong");
}

#[test]
fn truncated_layers_are_refused() {
    let content: Vec<u8> = (0..50_000u32)
        .flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let plain = Layer::default().file("file", &content).file("last", b"x").end();
    for (compression, bytes) in [
        (Compression::None, plain.clone()),
        (Compression::Gzip, gzip(&plain)),
        (Compression::Zstd, zstd(&plain)),
    ] {
        Place::new()
            .unpack_with(&bytes, compression, Limits::default())
            .expect("the whole layer is fine");
        for length in [1, 100, 700, bytes.len() / 2, bytes.len() * 9 / 10] {
            let error = Place::new()
                .unpack_with(&bytes[..length], compression, Limits::default())
                .expect_err("truncated");
            assert!(
                matches!(error.reason, Reason::Truncated | Reason::Corrupt { .. }),
                "{compression:?} of {length}: {error}"
            );
        }
    }
}

#[test]
fn what_follows_the_compressed_data_is_not_ignored() {
    let plain = Layer::default().file("file", b"x").end();
    let second = Layer::default().file("second", b"x").end();
    let mut members = gzip(&plain[..plain.len() - 1024]);
    members.extend(gzip(&second));
    let place = Place::new();
    let report = place
        .unpack_with(&members, Compression::Gzip, Limits::default())
        .expect("several members are one stream");
    assert_eq!(report.entries, 2);
    let whole = [&plain[..plain.len() - 1024], &second].concat();
    assert_eq!(report.diff_id, Digest::sha256(&whole));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut bytes = match compression {
            Compression::Gzip => gzip(&plain),
            _ => zstd(&plain),
        };
        bytes.extend_from_slice(b"something else that is no member");
        let error = place
            .unpack_with(&bytes, compression, Limits::default())
            .expect_err("garbage");
        assert!(
            matches!(error.reason, Reason::Corrupt { .. }),
            "{compression:?}: {error}"
        );
    }
}

#[test]
fn ownership_modes_times_and_attributes_are_kept() {
    let place = Place::new();
    // Version 2, effective, CAP_NET_RAW with a newline among the bytes, as binary values may have.
    let mut capability = [0u8; 20];
    capability[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    capability[4..8].copy_from_slice(&(1u32 << 13 | u32::from(b'\n')).to_le_bytes());
    let mut setuid = header(EntryType::Regular, "bin/su", "", 1);
    setuid.set_mode(0o4755);
    setuid.set_uid(12);
    setuid.set_gid(34);
    let mut directory = header(EntryType::Directory, "home/", "", 0);
    directory.set_mode(0o1770);
    directory.set_uid(1000);
    directory.set_mtime(1_000_000_000);
    let mut root = header(EntryType::Directory, "./", "", 0);
    root.set_mode(0o711);
    root.set_gid(7);
    let layer = Layer::default()
        .raw(root, b"")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"two\nlines"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("mtime", b"1500000000.25"),
        ])
        .raw(setuid, b"x")
        .raw(directory, b"")
        .file("home/file", b"written after its directory");
    let report = place.unpack(layer).expect("unpacks");
    let su = place.stat("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), (0o4755, 12, 34));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_500_000_000, 250_000_000));
    assert_eq!(
        place.attribute("bin/su", c"security.capability").as_deref(),
        Some(&capability[..])
    );
    assert_eq!(
        place.attribute("bin/su", c"user.note").as_deref(),
        Some(&b"two\nlines"[..])
    );
    assert_eq!(place.attribute("bin/su", c"trusted.overlay.redirect"), None);
    assert_eq!(place.attribute("bin/su", c"user.overlay.opaque"), None);
    let home = place.stat("home");
    assert_eq!(
        (home.mode() & 0o7777, home.uid(), home.mtime()),
        (0o1770, 1000, 1_000_000_000)
    );
    let root = report.root.expect("the layer has the root");
    assert_eq!((root.mode, root.uid, root.gid), (0o711, 0, 7));
    assert_eq!(place.stat("").mode() & 0o7777, 0o711);
}

#[test]
fn unknown_types_and_wrong_checksums_are_refused() {
    let layer = Layer::default().entry(EntryType::new(b'M'), "volume", "", b"");
    assert!(matches!(refusal(layer).0, Reason::UnknownType { .. }));
    let mut bytes = Layer::default().file("file", b"x").end();
    bytes[0] ^= 1;
    let error = Place::new()
        .unpack_with(&bytes, Compression::None, Limits::default())
        .expect_err("a damaged header");
    assert!(matches!(error.reason, Reason::Malformed { .. }));
}

#[test]
fn the_child_holds_nothing_but_its_directory() {
    let place = Place::new();
    let request = Request::new(Compression::None, Algorithm::Sha256, Limits::default());
    let program = Path::new(env!("CARGO_BIN_EXE_pierhead-node"));
    let mut unpacker = Unpacker::start(program, &place.root(), &request).expect("starts");
    let layer = Layer::default().file("file", b"x").end();
    assert!(unpacker.write(&layer[..1024]).expect("takes the first entry"));
    // The entry is on disk, so the child is past its confinement.
    let started = std::time::Instant::now();
    while !place.root().join("file").exists() {
        assert!(
            started.elapsed().as_secs() < 30,
            "the first entry does not appear"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let proc = PathBuf::from(format!("/proc/{}", unpacker.id()));
    let status = fs::read_to_string(proc.join("status")).expect("reads");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    // chown, dac_override, fowner, fsetid, sys_admin, mknod, setfcap; the last three as numbers 21, 27 and 31.
    let few = (1u64 << 0) | (1 << 1) | (1 << 3) | (1 << 4) | (1 << 21) | (1 << 27) | (1 << 31);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let held = u64::from_str_radix(&field(set), 16).expect("a mask");
        assert_eq!(held & !few, 0, "{set} {held:x}");
    }
    let visible: Vec<_> = fs::read_dir(proc.join("root"))
        .expect("lists the child's root")
        .map(|entry| entry.expect("lists").file_name())
        .collect();
    assert_eq!(visible, ["file"]);
    let mounts = fs::read_to_string(proc.join("mountinfo")).expect("reads");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let descriptors = fs::read_dir(proc.join("fd")).expect("lists").count();
    // Standard input, output and error, and the root; the parent of an entry while it is written.
    assert!(descriptors <= 5, "{descriptors} descriptors");
    assert!(unpacker.write(&layer[1024..]).expect("takes the rest"));
    unpacker.finish().expect("unpacks");
}
