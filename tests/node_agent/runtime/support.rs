//! A bundle of one busybox, and the runtime to run it with. Dropping it removes everything it made.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

pub struct Bundle {
    pub place: TempDir,
    pub id: String,
    pub config: Value,
}

impl Bundle {
    /// A bundle whose program is `sh -c script`.
    pub fn new(script: &str) -> Self {
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
            "sleep", "touch", "true", "wc", "kill", "dd", "unshare", "readlink", "seq",
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
        Self { place, id, config }
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

    /// `pierhead-runtime --root … ARGS`.
    pub fn runtime(&self, args: &[&str]) -> Output {
        Command::new(binary())
            .arg("--root")
            .arg(self.state_root())
            .args(args)
            .output()
            .expect("starts the runtime")
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
