//! Known ways out of a container, each tried.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};

use serde_json::json;

use crate::support::{Bundle, binary};

#[test]
fn no_descriptor_reaches_the_program() {
    // CVE-2024-21626: a directory of the host left open is a way out.
    let bundle = Bundle::new("for fd in /proc/1/fd/*; do echo $fd; done");
    bundle.write();
    let directory = bundle.directory();
    let command = format!(
        "exec 9</ ; exec {} --root {} run --bundle {} {}",
        binary().display(),
        bundle.state_root().display(),
        directory.display(),
        bundle.id
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &command])
        .output()
        .expect("starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("/proc/1/fd/0") && !text.contains("/proc/1/fd/9"),
        "{text}"
    );
}

#[test]
fn a_working_directory_through_a_descriptor_is_refused() {
    for fd in 3..12 {
        let mut bundle = Bundle::new("ls ..");
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        assert!(
            !bundle.run().status.success(),
            "cwd /proc/self/fd/{fd} was accepted"
        );
    }
}

#[test]
fn links_in_the_image_do_not_lead_mounts_to_the_host() {
    // CVE-2021-30465 without the race: the target of a mount is a link out of the root.
    let outside = tempfile::tempdir().expect("makes a directory");
    let mut bundle = Bundle::new("true");
    symlink(outside.path(), bundle.rootfs().join("data")).expect("links");
    bundle.config["mounts"]
        .as_array_mut()
        .expect("is a list")
        .push(json!({"destination": "/data/inner", "type": "tmpfs", "source": "tmpfs", "options": []}));
    bundle.run();
    assert_eq!(fs::read_dir(outside.path()).expect("lists").count(), 0);
}

#[test]
fn the_runtimes_own_file_cannot_be_written_from_inside() {
    // CVE-2019-5736. While the container waits to be started its init still is the runtime: take hold of its
    // file, and write once nobody executes it any more. A copy, because other tests execute the original.
    const O_PATH: i32 = 0o10_000_000;
    let bundle = Bundle::new("true");
    bundle.write();
    let copy = bundle.place.path().join("runtime");
    fs::copy(binary(), &copy).expect("copies the runtime");
    let directory = bundle.directory();
    let status = std::process::Command::new(&copy)
        .arg("--root")
        .arg(bundle.state_root())
        .args([
            "create",
            "--bundle",
            directory.to_str().expect("is UTF-8"),
            &bundle.id,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("starts");
    assert!(status.success());
    let state: serde_json::Value =
        serde_json::from_slice(&bundle.runtime(&["state", &bundle.id]).stdout).expect("is JSON");
    let exe = format!("/proc/{}/exe", state["pid"]);
    let held = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_PATH)
        .open(exe)
        .expect("takes hold");
    assert!(
        bundle
            .runtime(&["delete", "--force", &bundle.id])
            .status
            .success()
    );
    let link = format!("/proc/self/fd/{}", held.as_raw_fd());
    let error = fs::OpenOptions::new()
        .append(true)
        .open(link)
        .expect_err("it was opened for writing");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
}

#[test]
fn masked_and_readonly_paths_hold() {
    let bundle = Bundle::new(
        "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic 2>/dev/null && echo written; true",
    );
    assert_eq!(bundle.output(), "0\n0\n");
}

#[test]
fn a_sysctl_of_the_host_is_refused() {
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["sysctl"] = json!({"kernel.panic": "5"});
    let output = bundle.run();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("kernel.panic"));
}

#[test]
fn cgroups_cannot_be_written_or_mounted() {
    // CVE-2022-0492.
    let bundle = Bundle::new(
        "for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs; do (echo 1 > $f) 2>/dev/null && echo wrote $f; done; \
         mkdir /m; mount -t cgroup -o memory c /m 2>/dev/null && echo mounted; true",
    );
    assert_eq!(bundle.output(), "");
}
