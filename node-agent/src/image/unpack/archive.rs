//! Reading a tar stream from somebody who may be hostile (POSIX ustar and pax, GNU long names and sparse files).
//!
//! Headers' fields are decoded by the `tar` crate; the walk over the stream is ours, because what a header may make
//! us buffer has to be bounded, a pax `size` must win over the header's everywhere (a reader that mixes them up can be
//! shown other entries than the next one sees), and pax values may hold newlines, as capabilities do.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{Limits, Reason};

const BLOCK: usize = 512;
/// The most bytes one pax header or long name may have: a path, a link, and attributes of 64 KiB.
const EXTENSION_MAX_BYTES: u64 = 1024 * 1024;
/// Headers that may come before the entry that they are about.
const EXTENSIONS_MAX: u32 = 8;
/// Regions of one sparse file.
const REGIONS_MAX: usize = 65_536;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// A moment, as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// One entry's header with everything that extends it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Moment,
    pub(super) device: (u32, u32),
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file once it is written, in bytes.
    pub(super) size_bytes: u64,
    /// Where the data goes, offset and length, when the file is sparse.
    pub(super) regions: Option<Vec<(u64, u64)>>,
}

/// What pax headers and long-name entries say about the entry after them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Moment>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive, and, by `Read`, the data of the entry that [`Archive::next`] returned last.
pub(super) struct Archive<'a, R> {
    input: R,
    limits: &'a Limits,
    entries: u64,
    data_left: u64,
    padding: u64,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(super) fn new(input: R, limits: &'a Limits) -> Self {
        Self {
            input,
            limits,
            entries: 0,
            data_left: 0,
            padding: 0,
        }
    }

    /// The stream behind the archive.
    pub(super) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry, or `None` at the end. What was not read of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Reason> {
        let mut extension = Extension::default();
        for _ in 0..=EXTENSIONS_MAX {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.limits.entries.saturating_mul(2) {
                return Err(Reason::TooManyEntries {
                    limit: self.limits.entries,
                });
            }
            let size = header.entry_size().map_err(malformed)?;
            match header.entry_type() {
                EntryType::XGlobalHeader => self.expect_data(size),
                EntryType::XHeader => extension.read_pax(&self.extension(size)?)?,
                EntryType::GNULongName => extension.path = Some(without_nul(self.extension(size)?)),
                EntryType::GNULongLink => extension.link = Some(without_nul(self.extension(size)?)),
                kind => return self.entry(&header, kind, size, extension).map(Some),
            }
        }
        Err(Reason::Malformed {
            what: format!("more than {EXTENSIONS_MAX} extension headers in a row"),
        })
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extension: Extension,
    ) -> Result<Entry, Reason> {
        let size = extension.size.unwrap_or(size);
        let path = extension.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let mut regions = None;
        let mut size_bytes = size;
        let kind = match kind {
            // Archives older than POSIX mark a directory by its name alone.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::Regular,
            EntryType::GNUSparse => {
                let (map, real_size) = self.sparse(header, size)?;
                regions = Some(map);
                size_bytes = real_size;
                Kind::Regular
            }
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::Character,
            EntryType::Block => Kind::Block,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            other => {
                return Err(Reason::UnknownType {
                    flag: other.as_byte().escape_ascii().to_string(),
                });
            }
        };
        // Only files carry data; a size elsewhere is noise that writers leave there.
        if kind == Kind::Regular {
            self.expect_data(size);
        } else {
            size_bytes = 0;
        }
        let link = extension
            .link
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let is_device = matches!(kind, Kind::Character | Kind::Block);
        let number = |part: io::Result<Option<u32>>| match is_device {
            true => part.map(Option::unwrap_or_default).map_err(malformed),
            false => Ok(0),
        };
        Ok(Entry {
            kind,
            link: link.unwrap_or_default(),
            mode: header.mode().map_err(malformed)? & 0o7777,
            uid: id(extension.uid, header.uid())?,
            gid: id(extension.gid, header.gid())?,
            modified: match extension.modified {
                Some(moment) => moment,
                None => Moment {
                    seconds: i64::try_from(header.mtime().map_err(malformed)?).unwrap_or(i64::MAX),
                    nanoseconds: 0,
                },
            },
            device: (number(header.device_major())?, number(header.device_minor())?),
            attributes: extension.attributes,
            size_bytes,
            regions,
            path,
        })
    }

    /// A header, or `None` where the archive ends: at two blocks of zeros, or with the stream.
    fn header(&mut self) -> Result<Option<Header>, Reason> {
        let mut header = Header::new_old();
        if !self.read_block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if is_zero(header.as_bytes()) {
            return match self.read_block(header.as_mut_bytes())? && !is_zero(header.as_bytes()) {
                true => Err(Reason::Malformed {
                    what: "a lone block of zeros".to_owned(),
                }),
                false => Ok(None),
            };
        }
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(*byte)
                }
            })
            .sum();
        match header.cksum() {
            Ok(told) if told == sum => {
                blank_is_zero(&mut header);
                Ok(Some(header))
            }
            _ => Err(Reason::Malformed {
                what: "a header with a wrong checksum".to_owned(),
            }),
        }
    }

    /// Fills `block`; false when the stream ends right before it.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Reason> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(Reason::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Reason::of_stream(error)),
            }
        }
        Ok(true)
    }

    fn expect_data(&mut self, size: u64) {
        self.data_left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_data(&mut self) -> Result<(), Reason> {
        // Both are below the archive's size, or the stream ends first.
        for left in [
            std::mem::take(&mut self.data_left),
            std::mem::take(&mut self.padding),
        ] {
            let skipped = io::copy(&mut self.input.by_ref().take(left), &mut io::sink());
            if skipped.map_err(Reason::of_stream)? < left {
                return Err(Reason::Truncated);
            }
        }
        Ok(())
    }

    /// The data of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Reason> {
        if size > EXTENSION_MAX_BYTES {
            return Err(Reason::ExtensionTooLong {
                size_bytes: size,
                limit: EXTENSION_MAX_BYTES,
            });
        }
        self.expect_data(size);
        let mut data = Vec::new();
        self.read_to_end(&mut data).map_err(Reason::of_stream)?;
        Ok(data)
    }

    /// The map of an old GNU sparse file, which goes on in blocks of its own, and the file's real size.
    fn sparse(&mut self, header: &Header, size: u64) -> Result<(Vec<(u64, u64)>, u64), Reason> {
        let bad = |what: &str| Reason::Malformed {
            what: format!("a sparse file {what}"),
        };
        let gnu = header.as_gnu().ok_or_else(|| bad("without a GNU header"))?;
        let real_size = gnu.real_size().map_err(malformed)?;
        let mut regions = Vec::new();
        let mut take = |parts: &[GnuSparseHeader]| -> Result<(), Reason> {
            for part in parts.iter().filter(|part| !part.is_empty()) {
                regions.push((
                    part.offset().map_err(malformed)?,
                    part.length().map_err(malformed)?,
                ));
            }
            match regions.len() > REGIONS_MAX {
                true => Err(bad("of too many regions")),
                false => Ok(()),
            }
        };
        take(&gnu.sparse)?;
        let mut is_extended = gnu.is_extended();
        while is_extended {
            let mut block = GnuExtSparseHeader::new();
            if !self.read_block(block.as_mut_bytes())? {
                return Err(Reason::Truncated);
            }
            take(block.sparse())?;
            is_extended = block.is_extended();
        }
        let (mut reached, mut total) = (0u64, 0u64);
        for (offset, length) in &regions {
            if *offset < reached {
                return Err(bad("whose regions overlap"));
            }
            reached = offset
                .checked_add(*length)
                .ok_or_else(|| bad("beyond any size"))?;
            total = total.checked_add(*length).ok_or_else(|| bad("beyond any size"))?;
        }
        if reached > real_size || total != size {
            return Err(bad("whose regions contradict its size"));
        }
        Ok((regions, real_size))
    }
}

impl<R: Read> Read for Archive<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.data_left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.data_left -= count as u64;
        Ok(count)
    }
}

impl Extension {
    /// Takes in the records of a pax header, `LENGTH KEY=VALUE\n` each (POSIX pax, Extended Header).
    fn read_pax(&mut self, mut data: &[u8]) -> Result<(), Reason> {
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or_else(|| Reason::Malformed {
                what: "a pax header".to_owned(),
            })?;
            data = rest;
            self.take(key, value)?;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Reason> {
        let bad = || Reason::Malformed {
            what: format!("pax {}={}", key.escape_ascii(), value.escape_ascii()),
        };
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number().ok_or_else(bad)?),
            b"uid" => self.uid = Some(number().ok_or_else(bad)?),
            b"gid" => self.gid = Some(number().ok_or_else(bad)?),
            b"mtime" => self.modified = Some(moment(value).ok_or_else(bad)?),
            _ if key.starts_with(b"GNU.sparse.") => return Err(Reason::PaxSparse),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The first record's key and value, and what follows it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let (record, rest) = data.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}

/// A pax time: seconds since the epoch, possibly negative, with a fraction.
fn moment(value: &[u8]) -> Option<Moment> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    // -1.25 is 1.25 seconds before the epoch; a file system counts its nanoseconds forward.
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some(Moment {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        }),
        false => Some(Moment { seconds, nanoseconds }),
    }
}

fn id(pax: Option<u64>, header: io::Result<u64>) -> Result<u32, Reason> {
    let id = match pax {
        Some(id) => id,
        None => header.map_err(malformed)?,
    };
    // The highest number means "unchanged" to the kernel.
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Reason::Malformed {
            what: format!("the owner {id}"),
        }),
    }
}

fn malformed(error: io::Error) -> Reason {
    Reason::Malformed {
        what: format!("a header: {error}"),
    }
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// A long name ends at its first NUL.
fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

/// Numeric fields of a header: mode, uid, gid, size, time, and the two device numbers.
const NUMBERS: [std::ops::Range<usize>; 7] = [
    100..108,
    108..116,
    116..124,
    124..136,
    136..148,
    329..337,
    337..345,
];

/// Writes 0 into numeric fields that were left blank, as some writers do and other readers understand.
fn blank_is_zero(header: &mut Header) {
    // What lies at 329 is a number only in archives that say that they are of POSIX.
    let is_ustar = header.as_bytes()[257..].starts_with(b"ustar");
    for field in NUMBERS {
        if field.start > 257 && !is_ustar {
            continue;
        }
        let field = &mut header.as_mut_bytes()[field];
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            field[0] = b'0';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_numbers_are_zero_and_others_stay() {
        let mut header = Header::new_ustar();
        header.set_size(5);
        header.as_mut_bytes()[108..116].fill(0);
        header.as_mut_bytes()[116..124].fill(b' ');
        header.as_mut_bytes()[329..345].fill(0);
        blank_is_zero(&mut header);
        assert_eq!((header.uid().expect("zero"), header.gid().expect("zero")), (0, 0));
        assert_eq!(header.device_major().expect("zero"), Some(0));
        assert_eq!(header.entry_size().expect("stays"), 5);
    }

    #[test]
    fn pax_values_may_hold_newlines() {
        let mut extension = Extension::default();
        extension
            .read_pax(b"28 SCHILY.xattr.user.a=x\ny\nz\n")
            .expect_err("a wrong length");
        extension
            .read_pax(b"29 SCHILY.xattr.user.a=x\ny\nz\n")
            .expect("reads");
        assert_eq!(extension.attributes, [(b"user.a".to_vec(), b"x\ny\nz".to_vec())]);
    }

    #[test]
    fn pax_records_that_lie_about_their_length_are_refused() {
        for bad in [
            b"".as_slice(),
            b"5 a=b\n",
            b"99 path=a\n",
            b"0 path=a\n",
            b"-1 path=a\n",
            b"18446744073709551615 a=b\n",
            b"9 path=ab",
            b"nonsense",
        ] {
            let result = Extension::default().read_pax(bad);
            assert_eq!(result.is_ok(), bad.is_empty(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn pax_times_before_the_epoch_count_forward() {
        let told = |text: &str| moment(text.as_bytes()).map(|m| (m.seconds, m.nanoseconds));
        assert_eq!(told("1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(told("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(told("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(told("7"), Some((7, 0)));
        assert_eq!(told("1.1234567891"), Some((1, 123_456_789)));
        for bad in ["", "x", "1.x", "1.-5", "9223372036854775808"] {
            assert_eq!(told(bad), None, "{bad:?}");
        }
    }
}
