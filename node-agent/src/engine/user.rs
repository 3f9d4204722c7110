//! Who a program runs as: `user[:group]` by name or number, looked up in the container's own /etc/passwd and
//! /etc/group. Both are files of the image, so they are opened beneath its root and never trusted to be small, regular
//! or well formed. Rules are Docker's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Images hold a few kilobytes.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;
/// Docker's limit; higher numbers have surprising meanings in places.
const LARGEST_ID: u32 = i32::MAX as u32;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, the primary one among them: a group that is denied something must not lose that by being
    /// the primary one (CVE-2022-36109).
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Why a user cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("the image's /etc/passwd has no user {name:?}: use a number, or a name the image has")]
    NoUser {
        /// The name.
        name: String,
    },
    /// No such group.
    #[error("the image's /etc/group has no group {name:?}: use a number, or a name the image has")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// A number out of range.
    #[error("{number} is not an id: use a number from 0 to {LARGEST_ID}")]
    Number {
        /// As written.
        number: String,
    },
    /// A file cannot be read.
    #[error("read {file} of the image")]
    File {
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Looks `wanted` up beneath `root`.
///
/// # Errors
/// When it is not there, or a file is not what it should be.
pub(super) fn resolve(root: BorrowedFd<'_>, wanted: &str) -> Result<User, UserError> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    look_up(&passwd, &group, wanted)
}

/// An image without the file has an empty one.
fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::File { file, source };
    let how = OpenHow::new()
        // A pipe in its place must not be waited for.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = loop {
        match openat2(root, file, how) {
            // A rename elsewhere made the kernel unsure that it has not left the root.
            Err(Errno::EAGAIN) => {}
            other => break other,
        }
    };
    let opened: File = match opened {
        Ok(fd) => fd.into(),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let mut text = Vec::new();
    opened
        .take(LONGEST_FILE + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(failed(io::Error::other("larger than 4 MiB")));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn look_up(passwd: &str, group: &str, wanted: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    let accounts = || passwd.lines().filter_map(account);
    let account = accounts()
        .find(|account| account.name == user)
        .or_else(|| accounts().find(|account| Some(account.uid) == number));
    let (uid, gid, home) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid, account.home),
        (None, Some(uid)) => (uid, 0, ""),
        (None, None) => {
            return Err(UserError::NoUser {
                name: user.to_owned(),
            });
        }
    };
    let (gid, mut groups) = match wanted_group {
        Some(wanted) => (group_id(group, wanted)?, Vec::new()),
        None => {
            let is_member = |group: &Group<'_>| {
                account
                    .as_ref()
                    .is_some_and(|account| group.members.split(',').any(|member| member == account.name))
            };
            let member_of = group.lines().filter_map(parse_group).filter(is_member);
            (gid, member_of.map(|group| group.gid).collect())
        }
    };
    groups.insert(0, gid);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(User {
        uid,
        gid,
        groups,
        home: if home.is_empty() { "/" } else { home }.to_owned(),
    })
}

fn group_id(group: &str, wanted: &str) -> Result<u32, UserError> {
    let number = number(wanted)?;
    let named = group
        .lines()
        .filter_map(parse_group)
        .find(|group| group.name == wanted);
    named
        .map(|group| group.gid)
        .or(number)
        .ok_or_else(|| UserError::NoGroup {
            name: wanted.to_owned(),
        })
}

/// `None` for a name.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number <= LARGEST_ID => Ok(Some(number)),
        _ => Err(UserError::Number {
            number: text.to_owned(),
        }),
    }
}

/// passwd(5); lines that are not entries are passed over.
fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid <= LARGEST_ID)?;
    let gid = fields.next()?.parse().ok().filter(|gid| *gid <= LARGEST_ID)?;
    let home = fields.nth(1).unwrap_or_default();
    Some(Account { name, uid, gid, home })
}

/// group(5).
fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1)?.parse().ok().filter(|gid| *gid <= LARGEST_ID)?;
    let members = fields.next().unwrap_or_default();
    Some(Group { name, gid, members })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\napp:x:1000:1001:App:/home/app:/bin/sh\nbad:x:nine:1::\n77:x:5:6::/seven:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\naudio:x:29:app,other\n";

    fn found(wanted: &str) -> (u32, u32, Vec<u32>, String) {
        let user = look_up(PASSWD, GROUP, wanted).expect("is found");
        (user.uid, user.gid, user.groups, user.home)
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        assert_eq!(found(""), (0, 0, vec![0, 10], "/root".to_owned()));
        assert_eq!(
            found("app"),
            (1000, 1001, vec![1001, 10, 29], "/home/app".to_owned())
        );
        assert_eq!(found("1000"), found("app"));
        assert_eq!(found("app:audio"), (1000, 29, vec![29], "/home/app".to_owned()));
        assert_eq!(found("app:"), found("app"));
        assert_eq!(found("4242"), (4242, 0, vec![0], "/".to_owned()));
        assert_eq!(found("4242:4343"), (4242, 4343, vec![4343], "/".to_owned()));
        assert_eq!(found(":wheel").1, 10);
        assert_eq!(found("77").0, 5, "a name wins over a number");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = |wanted: &str| look_up(PASSWD, GROUP, wanted).expect_err("is not there");
        assert!(matches!(error("nobody"), UserError::NoUser { name } if name == "nobody"));
        assert!(matches!(error("bad"), UserError::NoUser { .. }));
        assert!(matches!(error("app:none"), UserError::NoGroup { name } if name == "none"));
        assert!(matches!(error("4294967295"), UserError::Number { .. }));
        assert!(matches!(error("0:99999999999"), UserError::Number { .. }));
    }

    #[test]
    fn links_in_the_image_do_not_lead_to_the_hosts_files() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("root");
        std::fs::create_dir_all(root.join("etc")).expect("makes");
        std::fs::write(place.path().join("passwd"), "evil:x:1:1::/:\n").expect("writes");
        let directory = File::open(&root).expect("opens");
        assert_eq!(
            resolve(directory.as_fd(), "7").expect("no files are needed").uid,
            7
        );
        symlink("../../passwd", root.join("etc/passwd")).expect("links");
        resolve(directory.as_fd(), "evil").expect_err("is outside");
        std::fs::write(root.join("passwd"), "good:x:2:3::/:\n").expect("writes");
        assert_eq!(resolve(directory.as_fd(), "good").expect("is inside").gid, 3);
        std::fs::remove_file(root.join("etc/passwd")).expect("removes");
        nix::unistd::mkfifo(&root.join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).expect("makes");
        let error = resolve(directory.as_fd(), "good").expect_err("is a pipe");
        assert!(matches!(
            error,
            UserError::File {
                file: "/etc/passwd",
                ..
            }
        ));
    }
}
