//! Writing entries below the layer's root, in the form that overlayfs reads (kernel, filesystems/overlayfs.rst).
//!
//! Every path is resolved by the kernel inside the root's descriptor (`RESOLVE_IN_ROOT`): a link in the layer means
//! what it will mean in the container, and never more. The last component is always handled by name in its parent's
//! descriptor and never followed. A later entry of the same name replaces the earlier one.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use oci::Digest;
use runtime::sys::xattr;

use super::archive::{Entry, Kind, Moment};
use super::name::{Place, Target, parse_place, printable};
use super::{Limits, Reason, Report, RootEntry};
use crate::image::tree;

/// How much of a file is in memory.
const BUFFER_BYTES: usize = 128 * 1024;
/// Bytes of directories' paths that are kept until their times can be set.
const DIRECTORIES_MAX_BYTES: usize = 128 * 1024 * 1024;
/// Devices that tell and change nothing about the host, (major, minor): null, zero, full, random, urandom, tty,
/// console, ptmx. What else an image brings is left out; a container gets its devices from its runtime.
const HARMLESS_DEVICES: [(u32, u32); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];

/// Writes a layer's entries.
pub(super) struct Extractor<'a> {
    root: OwnedFd,
    limits: &'a Limits,
    buffer: Vec<u8>,
    /// Set last: every file that is put into a directory changes its time.
    times: BTreeMap<PathBuf, Moment>,
    times_bytes: usize,
    entries: u64,
    size_bytes: u64,
    devices_left_out: u64,
    is_opaque: bool,
    root_entry: Option<RootEntry>,
    last: Option<Vec<u8>>,
}

/// What was at a place before an entry came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Former {
    Nothing,
    Whiteout,
    Directory,
}

impl<'a> Extractor<'a> {
    pub(super) fn new(root: OwnedFd, limits: &'a Limits) -> Self {
        Self {
            root,
            limits,
            buffer: vec![0; BUFFER_BYTES],
            times: BTreeMap::new(),
            times_bytes: 0,
            entries: 0,
            size_bytes: 0,
            devices_left_out: 0,
            is_opaque: false,
            root_entry: None,
            last: None,
        }
    }

    /// The name of the entry that was added last, for a message.
    pub(super) fn last_entry(&self) -> Option<String> {
        self.last.as_ref().map(|name| name.escape_ascii().to_string())
    }

    /// Writes one entry, with `data` where it is a file.
    pub(super) fn add(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), Reason> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Reason::TooManyEntries {
                limit: self.limits.entries,
            });
        }
        self.size_bytes = self.size_bytes.saturating_add(entry.size_bytes);
        if self.size_bytes > self.limits.unpacked_bytes {
            return Err(Reason::TooLarge {
                limit: self.limits.unpacked_bytes,
            });
        }
        self.last = Some(entry.path.clone());
        match Target::parse(&entry.path, self.limits)? {
            Target::Root if entry.kind == Kind::Directory => self.set_root(entry),
            Target::Root => Err(Reason::RootNotDirectory),
            Target::Ignored => Ok(()),
            Target::Opaque(directory) => self.hide_all(&directory),
            Target::Whiteout(place) => self.hide(&place),
            Target::File(place) => match entry.kind {
                Kind::Directory => self.add_directory(&place, entry),
                Kind::Regular => self.add_file(&place, entry, data),
                Kind::HardLink => self.add_link(&place, entry),
                Kind::Symlink => self.add_symlink(&place, entry),
                Kind::Character | Kind::Block | Kind::Fifo => self.add_node(&place, entry),
            },
        }
    }

    /// Sets the directories' times and tells what was done.
    pub(super) fn finish(self, diff_id: Digest) -> Result<Report, Reason> {
        for (path, modified) in &self.times {
            match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW) {
                Ok(directory) => set_times(directory.as_fd(), *modified)?,
                // Replaced by a later entry.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(error) => return Err(Reason::io("open a directory again", error)),
            }
        }
        Ok(Report {
            diff_id,
            size_bytes: self.size_bytes,
            entries: self.entries,
            devices_left_out: self.devices_left_out,
            is_opaque: self.is_opaque,
            root: self.root_entry,
        })
    }

    fn set_root(&mut self, entry: &Entry) -> Result<(), Reason> {
        let root = self
            .open(Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(|error| Reason::io("open the root", error))?;
        set_owner_and_mode(root.as_fd(), entry)?;
        set_attributes(root.as_fd(), entry)?;
        self.root_entry = Some(RootEntry {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
        });
        self.remember(PathBuf::from("."), entry.modified)
    }

    fn add_directory(&mut self, place: &Place, entry: &Entry) -> Result<(), Reason> {
        let parent = self.parent(&place.directory)?;
        let former = self.clear(parent.as_fd(), &place.name, true)?;
        if former != Former::Directory {
            mkdirat(parent.as_fd(), place.name.as_os_str(), Mode::S_IRWXU)
                .map_err(|error| Reason::io("make the directory", error))?;
        }
        let directory = open_directory(parent.as_fd(), &place.name)?;
        if former == Former::Whiteout {
            set_opaque(directory.as_fd())?;
        }
        set_owner_and_mode(directory.as_fd(), entry)?;
        set_attributes(directory.as_fd(), entry)?;
        self.remember(place.path(), entry.modified)
    }

    fn add_file(&mut self, place: &Place, entry: &Entry, data: &mut impl Read) -> Result<(), Reason> {
        let parent = self.parent(&place.directory)?;
        self.clear(parent.as_fd(), &place.name, false)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(
            parent.as_fd(),
            place.name.as_os_str(),
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )
        .map_err(|error| Reason::io("make the file", error))?;
        let mut file = File::from(file);
        match &entry.regions {
            None => self.copy(data, &mut file, entry.size_bytes)?,
            Some(regions) => {
                for (offset, length) in regions {
                    file.seek(SeekFrom::Start(*offset)).map_err(write_failed)?;
                    self.copy(data, &mut file, *length)?;
                }
                file.set_len(entry.size_bytes).map_err(write_failed)?;
            }
        }
        // A change of owner takes the set-id bits and capabilities away, so it comes first.
        set_owner_and_mode(file.as_fd(), entry)?;
        set_attributes(file.as_fd(), entry)?;
        set_times(file.as_fd(), entry.modified)
    }

    fn copy(&mut self, data: &mut impl Read, file: &mut File, length: u64) -> Result<(), Reason> {
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match data.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(Reason::Truncated),
                Ok(count) => {
                    file.write_all(&self.buffer[..count]).map_err(write_failed)?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Reason::of_stream(error)),
            }
        }
        Ok(())
    }

    fn add_link(&mut self, place: &Place, entry: &Entry) -> Result<(), Reason> {
        let missing = || Reason::LinkTarget {
            target: entry.link.escape_ascii().to_string(),
        };
        let target = parse_place(&entry.link, self.limits)?.ok_or_else(missing)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let source = match self.open(&target.directory, flags) {
            Ok(source) => source,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(missing()),
            Err(error) => return Err(Reason::io("open the link's target", error)),
        };
        let found = status(source.as_fd(), &target.name)?
            .filter(|found| !is_directory(found) && !is_whiteout(found))
            .ok_or_else(missing)?;
        let parent = self.parent(&place.directory)?;
        if let Some(own) = status(parent.as_fd(), &place.name)?
            && (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)
        {
            return Ok(());
        }
        self.clear(parent.as_fd(), &place.name, false)?;
        let linked = linkat(
            source.as_fd(),
            target.name.as_os_str(),
            parent.as_fd(),
            place.name.as_os_str(),
            LinkatFlags::empty(),
        );
        match linked {
            // The entry replaced the directory that its target was in.
            Err(Errno::ENOENT) => Err(missing()),
            other => other.map_err(|error| Reason::io("make the hard link", error)),
        }
    }

    fn add_symlink(&mut self, place: &Place, entry: &Entry) -> Result<(), Reason> {
        if entry.link.contains(&0) {
            return Err(Reason::NulByte);
        }
        let parent = self.parent(&place.directory)?;
        self.clear(parent.as_fd(), &place.name, false)?;
        symlinkat(
            OsStr::from_bytes(&entry.link),
            parent.as_fd(),
            place.name.as_os_str(),
        )
        .map_err(|error| Reason::io("make the symbolic link", error))?;
        set_owner_at(parent.as_fd(), &place.name, entry)?;
        set_times_at(parent.as_fd(), &place.name, entry.modified)
    }

    fn add_node(&mut self, place: &Place, entry: &Entry) -> Result<(), Reason> {
        let kind = match entry.kind {
            Kind::Character if entry.device == (0, 0) => return Err(Reason::WhiteoutDevice),
            Kind::Character if HARMLESS_DEVICES.contains(&entry.device) => SFlag::S_IFCHR,
            Kind::Fifo => SFlag::S_IFIFO,
            _ => {
                self.devices_left_out += 1;
                return Ok(());
            }
        };
        let parent = self.parent(&place.directory)?;
        self.clear(parent.as_fd(), &place.name, false)?;
        let device = makedev(entry.device.0.into(), entry.device.1.into());
        mknodat(
            parent.as_fd(),
            place.name.as_os_str(),
            kind,
            Mode::empty(),
            device,
        )
        .map_err(|error| Reason::io("make the node", error))?;
        set_owner_at(parent.as_fd(), &place.name, entry)?;
        // The file was made a moment ago and is no link.
        let mode = Mode::from_bits_truncate(entry.mode);
        fchmodat(
            parent.as_fd(),
            place.name.as_os_str(),
            mode,
            FchmodatFlags::FollowSymlink,
        )
        .map_err(|error| Reason::io("set the mode", error))?;
        set_times_at(parent.as_fd(), &place.name, entry.modified)
    }

    /// Hides a file of the layers below. What this layer itself has there stays visible, in whatever order the two
    /// entries come (image-spec layer.md, Whiteouts).
    fn hide(&mut self, place: &Place) -> Result<(), Reason> {
        let parent = self.parent(&place.directory)?;
        match status(parent.as_fd(), &place.name)? {
            None => mknodat(
                parent.as_fd(),
                place.name.as_os_str(),
                SFlag::S_IFCHR,
                Mode::empty(),
                makedev(0, 0),
            )
            .map_err(|error| Reason::io("make the whiteout", error)),
            Some(found) if is_directory(&found) => {
                set_opaque(open_directory(parent.as_fd(), &place.name)?.as_fd())
            }
            Some(_) => Ok(()),
        }
    }

    fn hide_all(&mut self, directory: &Path) -> Result<(), Reason> {
        if directory.as_os_str().is_empty() {
            // overlayfs does not look for the mark on the root; whoever mounts stacks nothing below this layer.
            self.is_opaque = true;
            return Ok(());
        }
        let directory = self.parent(directory)?;
        set_opaque(open_directory(directory.as_fd(), OsStr::new("."))?.as_fd())
    }

    /// Opens a directory of the layer, making what is missing of it: archives need not name directories before what
    /// is in them.
    fn parent(&mut self, path: &Path) -> Result<OwnedFd, Reason> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, flags) {
            Ok(directory) => return Ok(directory),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(error) => return Err(Reason::io("open the parent", error)),
        }
        let mut reached = PathBuf::new();
        let mut current = self
            .open(&reached, flags)
            .map_err(|error| Reason::io("open the root", error))?;
        for name in path {
            reached.push(name);
            current = match self.open(&reached, flags) {
                Ok(next) => next,
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    let found = status(current.as_fd(), name)?;
                    if found.is_some_and(|found| !is_whiteout(&found)) {
                        return Err(Reason::ParentNotDirectory {
                            path: printable(&reached),
                        });
                    }
                    if found.is_some() {
                        unlink(current.as_fd(), name)?;
                    }
                    mkdirat(current.as_fd(), name, Mode::from_bits_truncate(0o755))
                        .map_err(|error| Reason::io("make the parent", error))?;
                    let made = open_directory(current.as_fd(), name)?;
                    if found.is_some() {
                        set_opaque(made.as_fd())?;
                    }
                    made
                }
                Err(error) => return Err(Reason::io("open the parent", error)),
            };
        }
        Ok(current)
    }

    /// Makes room for an entry at `name`. A directory stays where the entry is one, too.
    fn clear(&self, parent: BorrowedFd<'_>, name: &OsStr, is_directory_next: bool) -> Result<Former, Reason> {
        let Some(found) = status(parent, name)? else {
            return Ok(Former::Nothing);
        };
        if !is_directory(&found) {
            unlink(parent, name)?;
            return Ok(match is_whiteout(&found) {
                true => Former::Whiteout,
                false => Former::Nothing,
            });
        }
        if is_directory_next {
            return Ok(Former::Directory);
        }
        tree::remove(parent, name).map_err(|error| Reason::Io {
            step: "remove the directory that the entry replaces".to_owned(),
            errno: errno_of(&error),
        })?;
        Ok(Former::Nothing)
    }

    fn remember(&mut self, path: PathBuf, modified: Moment) -> Result<(), Reason> {
        let length = path.as_os_str().len();
        if self.times.insert(path, modified).is_none() {
            self.times_bytes += length;
        }
        if self.times_bytes > DIRECTORIES_MAX_BYTES {
            return Err(Reason::TooManyDirectories);
        }
        Ok(())
    }

    fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.root.as_fd(), path, how)
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Reason> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|error| Reason::io("open the directory", error))
}

fn status(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileStat>, Reason> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(Reason::io("look at the name", error)),
    }
}

fn kind_of(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn is_directory(found: &FileStat) -> bool {
    kind_of(found) == SFlag::S_IFDIR
}

fn is_whiteout(found: &FileStat) -> bool {
    kind_of(found) == SFlag::S_IFCHR && found.st_rdev == 0
}

fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Reason> {
    unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
        .map_err(|error| Reason::io("remove what the entry replaces", error))
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn set_owner_and_mode(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Reason> {
    let (uid, gid) = owner(entry);
    fchown(file, uid, gid).map_err(|error| Reason::io("set the owner", error))?;
    fchmod(file, Mode::from_bits_truncate(entry.mode)).map_err(|error| Reason::io("set the mode", error))
}

fn set_owner_at(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Reason> {
    let (uid, gid) = owner(entry);
    fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|error| Reason::io("set the owner", error))
}

fn spec(moment: Moment) -> TimeSpec {
    TimeSpec::new(moment.seconds, moment.nanoseconds.into())
}

fn set_times(file: BorrowedFd<'_>, modified: Moment) -> Result<(), Reason> {
    let time = spec(modified);
    futimens(file, &time, &time).map_err(|error| Reason::io("set the time", error))
}

fn set_times_at(parent: BorrowedFd<'_>, name: &OsStr, modified: Moment) -> Result<(), Reason> {
    let time = spec(modified);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|error| Reason::io("set the time", error))
}

/// Sets the attributes that mean something inside a container: capabilities of files, and users' own. Others speak
/// to the host: security labels, and above all the marks by which overlayfs finds its way.
fn set_attributes(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Reason> {
    for (name, value) in &entry.attributes {
        let is_users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if name != b"security.capability" && !is_users {
            continue;
        }
        let name = CString::new(name.clone()).map_err(|_| Reason::NulByte)?;
        xattr::set(file, &name, value).map_err(|error| Reason::Io {
            step: format!("set attribute {}", name.to_bytes().escape_ascii()),
            errno: errno_of(&error),
        })?;
    }
    Ok(())
}

fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Reason> {
    xattr::set(directory, c"trusted.overlay.opaque", b"y").map_err(|error| Reason::Io {
        step: "mark the directory as opaque".to_owned(),
        errno: errno_of(&error),
    })
}

fn write_failed(error: std::io::Error) -> Reason {
    Reason::Io {
        step: "write the file".to_owned(),
        errno: errno_of(&error),
    }
}

/// The kernel's number; an error without one is as good as a failing disk.
fn errno_of(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::EIO as i32)
}
