//! A bundle of one busybox, and the runtime to run it with. Dropping it removes everything it made.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A runtime that cases run on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Runtime {
    Ours,
    Runc,
    Crun,
}

impl Runtime {
    pub fn program(self) -> PathBuf {
        match self {
            Self::Ours => binary(),
            Self::Runc => PathBuf::from("runc"),
            Self::Crun => PathBuf::from("crun"),
        }
    }

    /// Why cases cannot run on it here, if they cannot. crun refuses hybrid hosts, where v1 and v2 are both mounted.
    pub fn obstacle(self) -> Option<String> {
        static CRUN: OnceLock<Option<String>> = OnceLock::new();
        let is_installed = |name: &str| Command::new(name).arg("--version").output().is_ok();
        match self {
            Self::Ours => None,
            Self::Runc => (!is_installed("runc")).then(|| "runc is not installed".to_owned()),
            Self::Crun if !is_installed("crun") => Some("crun is not installed".to_owned()),
            Self::Crun => CRUN
                .get_or_init(|| {
                    let output = Bundle::on(Self::Crun, "true").run();
                    (!output.status.success())
                        .then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
                })
                .clone(),
        }
    }
}

/// Tests of one contract on several runtimes: `contract! { case on [ours, runc]; }` makes `case::ours` and
/// `case::runc` of `fn case(runtime: Runtime)`. A runtime that cannot run here is skipped with its reason.
macro_rules! contract {
    ($($case:ident on [$($runtime:ident),+];)+) => { $(
        mod $case {
            $(#[test]
            fn $runtime() {
                let runtime = crate::support::$runtime;
                match runtime.obstacle() {
                    Some(why) => eprintln!("skipped on {}: {why}", stringify!($runtime)),
                    None => super::$case(runtime),
                }
            })+
        }
    )+ };
}
pub(crate) use contract;

#[expect(non_upper_case_globals, reason = "names of tests, made by the macro")]
pub const ours: Runtime = Runtime::Ours;
#[expect(non_upper_case_globals, reason = "names of tests, made by the macro")]
pub const runc: Runtime = Runtime::Runc;
#[expect(non_upper_case_globals, reason = "names of tests, made by the macro")]
pub const crun: Runtime = Runtime::Crun;

pub struct Bundle {
    pub on: Runtime,
    pub place: TempDir,
    pub id: String,
    pub config: Value,
}

impl Bundle {
    /// A bundle for our runtime whose program is `sh -c script`.
    pub fn new(script: &str) -> Self {
        Self::on(Runtime::Ours, script)
    }

    /// The same for any runtime.
    pub fn on(runtime: Runtime, script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "contract-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let place = tempfile::tempdir().expect("makes a directory");
        let bin = place.path().join("bundle/rootfs/bin");
        fs::create_dir_all(&bin).expect("makes the root");
        fs::copy("/bin/busybox", bin.join("busybox")).expect("apt-get install busybox-static");
        for applet in [
            "cat", "echo", "grep", "hostname", "id", "ip", "ls", "mkdir", "mknod", "mount", "ps", "sh",
            "sleep", "touch", "true", "wc", "kill", "dd", "unshare", "readlink", "seq", "stat", "env",
            "stty", "tty", "umount", "chown", "ln", "mv", "nc", "head", "tail", "sort", "uname", "dmesg",
            "rm", "chmod", "date", "test", "find", "cut", "pwd", "rmdir", "awk", "sed", "xargs", "tr",
            "usleep",
        ] {
            symlink("busybox", bin.join(applet)).expect("links an applet");
        }
        let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
        let caps = [
            "CAP_CHOWN",
            "CAP_KILL",
            "CAP_SETUID",
            "CAP_SETGID",
            "CAP_NET_BIND_SERVICE",
        ];
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "hostname": "contract",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"],
                "args": ["sh", "-c", script], "noNewPrivileges": true,
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            },
            "mounts": [
                mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
                mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
                mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
                mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
            ],
            "linux": {
                "cgroupsPath": format!("/pierhead-contract/{id}"),
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"},
                ],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "maskedPaths": ["/proc/keys", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        Self {
            on: runtime,
            place,
            id,
            config,
        }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.place.path().join("bundle/rootfs")
    }

    pub fn directory(&self) -> PathBuf {
        self.place.path().join("bundle")
    }

    pub fn state_root(&self) -> PathBuf {
        self.place.path().join("state")
    }

    pub fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.config).expect("encodes");
        fs::write(self.directory().join("config.json"), text).expect("writes config.json");
    }

    /// `RUNTIME --root … ARGS`, to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.on.program());
        command.arg("--root").arg(self.state_root()).args(args);
        command
    }

    /// `RUNTIME --root … ARGS`, to its end.
    pub fn runtime(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("starts the runtime")
    }

    /// Runs a command that must succeed, and returns what it wrote.
    pub fn must(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{:?} {args:?}: {}: {error}",
            self.on,
            output.status
        );
        String::from_utf8(output.stdout).expect("is UTF-8")
    }

    /// Runs a command that must fail, and returns what it said.
    pub fn must_fail(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        assert!(!output.status.success(), "{:?} {args:?} succeeded", self.on);
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Creates the container, its standard streams on /dev/null but for the output, which goes to a file.
    pub fn create(&self) -> Output {
        self.create_with(&[])
    }

    /// The same with further options of `create`.
    pub fn create_with(&self, options: &[&str]) -> Output {
        self.write();
        let directory = self.directory();
        let log = self.place.path().join("create.log");
        // Not captured by a pipe: init would hold it open for as long as it lives.
        let status = self
            .command(&["create", "--bundle", directory.to_str().expect("is UTF-8")])
            .args(options)
            .arg(&self.id)
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.out()).expect("makes a file"))
            .stderr(fs::File::create(&log).expect("makes a file"))
            .status()
            .expect("starts the runtime");
        Output {
            status,
            stdout: Vec::new(),
            stderr: fs::read(log).expect("reads"),
        }
    }

    /// Creates and starts the container.
    pub fn start(&self) {
        let created = self.create();
        let error = String::from_utf8_lossy(&created.stderr);
        assert!(created.status.success(), "{:?}: create: {error}", self.on);
        self.must(&["start", &self.id]);
    }

    /// Where the output of a created container goes.
    pub fn out(&self) -> PathBuf {
        self.place.path().join("out")
    }

    /// The program's output once it is complete: it must end with the line `done`.
    pub fn finished_output(&self) -> String {
        blackbox::wait_for("the program's last line", Duration::from_secs(20), || {
            let text = fs::read_to_string(self.out()).unwrap_or_default();
            match text.strip_suffix("done\n") {
                Some(text) => Ok(text.to_owned()),
                None => Err(text),
            }
        })
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.must(&["state", &self.id])).expect("is JSON")
    }

    /// Waits until the container has this status.
    pub fn await_status(&self, wanted: &str) {
        blackbox::wait_for(&format!("status {wanted}"), Duration::from_secs(20), || {
            let state = self.state();
            if state["status"] == wanted {
                Ok(())
            } else {
                Err(state.to_string())
            }
        });
    }

    /// Adds a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) {
        self.config["mounts"]
            .as_array_mut()
            .expect("is a list")
            .push(json!({
                "destination": destination, "type": kind, "source": source, "options": options,
            }));
    }

    /// Gives the container a user namespace in which root is 100000 of the host, and lets that user reach the root.
    pub fn map_users(&mut self) {
        self.map_users_to(100_000);
    }

    /// The same with another root: what the kernel accounts by user is the container's alone then.
    pub fn map_users_to(&mut self, root: u32) {
        let namespaces = self.config["linux"]["namespaces"]
            .as_array_mut()
            .expect("is a list");
        namespaces.push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": root, "size": 65_536}]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        chown(self.rootfs(), Some(root), Some(root)).expect("sets");
        // As an engine would, so that the directories above can be passed.
        for directory in [self.place.path().to_owned(), self.directory()] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("sets");
        }
    }

    /// Runs the program, which must fail to start, and returns what was said.
    pub fn refusal(&self) -> String {
        let output = self.run();
        assert!(
            !output.status.success(),
            "{:?} ran it: {}",
            self.on,
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(
            self.cgroups().is_empty(),
            "{:?} left {:?}",
            self.on,
            self.cgroups()
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs the program to its end.
    pub fn run(&self) -> Output {
        self.write();
        let directory = self.directory();
        self.runtime(&["run", "--bundle", directory.to_str().expect("is UTF-8"), &self.id])
    }

    /// Runs the program and returns what it wrote.
    pub fn output(&self) -> String {
        let output = self.run();
        assert!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("is UTF-8")
    }

    /// Directories of this container left in any cgroup hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let base = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(base)
            .expect("lists")
            .flatten()
            .map(|entry| entry.path());
        std::iter::once(base.to_owned())
            .chain(hierarchies)
            .map(|mount| mount.join("pierhead-contract").join(&self.id))
            .filter(|path| path.exists())
            .collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let id = self.id.clone();
        self.runtime(&["delete", "--force", &id]);
    }
}

pub fn binary() -> PathBuf {
    std::env::var_os("PIERHEAD_RUNTIME").map_or_else(|| blackbox::binary("pierhead-runtime"), PathBuf::from)
}
