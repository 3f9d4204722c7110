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

#[test]
fn a_working_directory_through_a_descriptor_is_refused_to_exec() {
    // CVE-2024-21626, from within `exec`: descriptors of the runtime are open while it changes directory.
    let bundle = Bundle::new("sleep 60");
    bundle.start();
    for fd in 3..40 {
        let cwd = format!("/proc/self/fd/{fd}");
        let output = bundle.runtime(&["exec", "--cwd", &cwd, &bundle.id, "sh", "-c", "ls .. /; pwd"]);
        assert!(
            !output.status.success(),
            "{cwd} was accepted: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

#[test]
fn exec_cannot_be_caught_by_the_container_it_enters() {
    // CVE-2019-5736 in its first form: the container waits for a process of the runtime among its own and opens its
    // executable for writing. A copy of the runtime, because other tests execute the original.
    let attack = "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] && continue; \
                  (echo overwritten >> $p/exe) 2>/dev/null && readlink $p/exe >> /caught; done; done";
    let mut bundle = Bundle::new(attack);
    let caps = json!([
        "CAP_DAC_OVERRIDE",
        "CAP_SYS_PTRACE",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID"
    ]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    bundle.start();
    let copy = bundle.place.path().join("runtime");
    fs::copy(binary(), &copy).expect("copies the runtime");
    let before = fs::read(&copy).expect("reads");
    for _ in 0..rounds(30) {
        let status = std::process::Command::new(&copy)
            .arg("--root")
            .arg(bundle.state_root())
            .args(["exec", &bundle.id, "/bin/true"])
            .status()
            .expect("starts");
        assert!(status.success());
    }
    bundle.must(&["delete", "--force", &bundle.id]);
    assert!(
        before == fs::read(&copy).expect("reads"),
        "the runtime's file was written"
    );
    let caught = fs::read_to_string(bundle.rootfs().join("caught")).unwrap_or_default();
    assert!(
        !caught.contains("runtime"),
        "a process of the runtime was opened for writing: {caught}"
    );
}

#[test]
fn a_program_that_is_a_link_to_the_runtime_cannot_write_it() {
    // The image names /proc/self/exe as its program, which is the runtime until execve.
    let copied = Bundle::new("true");
    let copy = copied.place.path().join("runtime");
    fs::copy(binary(), &copy).expect("copies the runtime");
    let mut bundle = Bundle::new("true");
    symlink("/proc/self/exe", bundle.rootfs().join("bin/entry")).expect("links");
    bundle.config["process"]["args"] = json!(["/bin/entry", "--version"]);
    bundle.write();
    let directory = bundle.directory();
    let output = std::process::Command::new(&copy)
        .arg("--root")
        .arg(bundle.state_root())
        .args([
            "run",
            "--bundle",
            directory.to_str().expect("is UTF-8"),
            &bundle.id,
        ])
        .output()
        .expect("starts");
    // Whether the dynamic loader finds its libraries in there or not, nothing of the host is changed.
    let original = fs::read(binary()).expect("reads");
    assert!(fs::read(&copy).expect("reads") == original, "{output:?}");
}

#[test]
fn the_mark_of_a_sealed_runtime_cannot_be_forged() {
    let bundle = Bundle::new("true");
    bundle.write();
    let directory = bundle.directory();
    let output = bundle
        .command(&[
            "run",
            "--bundle",
            directory.to_str().expect("is UTF-8"),
            &bundle.id,
        ])
        .env("PIERHEAD_RUNTIME_SEALED", "1")
        .output()
        .expect("starts");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("can be written"));
}

#[test]
fn a_race_of_links_does_not_lead_mounts_out_of_the_root() {
    // CVE-2021-30465: one container exchanges a directory of a shared volume for a link to the host's root, again and
    // again, while others are started with a mount below that directory.
    let outside = tempfile::tempdir().expect("makes a directory");
    fs::create_dir(outside.path().join("inner")).expect("makes a directory");
    let volume = tempfile::tempdir().expect("makes a directory");
    fs::create_dir_all(volume.path().join("real/inner")).expect("makes a directory");
    let swap = format!(
        "cd /volume; ln -s {} link; while :; do mv real target; usleep 100; mv target real; mv link target; usleep 100; mv target link; done",
        outside.path().display()
    );
    let mut attacker = Bundle::new(&swap);
    let shared = volume.path().to_str().expect("is UTF-8").to_owned();
    attacker.mount("/volume", "bind", &shared, &["rbind"]);
    attacker.start();
    let canary = "canary";
    let mut mounted = 0;
    for _ in 0..rounds(60) {
        let mut victim = Bundle::new("grep -c . /proc/self/mountinfo");
        let source = victim.place.path().join("source");
        fs::create_dir(&source).expect("makes a directory");
        fs::write(source.join(canary), "").expect("writes");
        victim.mount("/volume", "bind", &shared, &["rbind"]);
        victim.mount(
            "/volume/target/inner",
            "bind",
            source.to_str().expect("is UTF-8"),
            &["bind"],
        );
        // It may fail, as the directory comes and goes; it must not reach the host.
        mounted += u32::from(victim.run().status.success());
        assert!(!outside.path().join("inner").join(canary).exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        assert!(
            !mounts.contains(outside.path().to_str().expect("is UTF-8")),
            "a mount shows on the host"
        );
    }
    attacker.must(&["delete", "--force", &attacker.id]);
    assert_eq!(
        fs::read_dir(outside.path().join("inner")).expect("lists").count(),
        0
    );
    assert!(mounted > 0, "no start came through, so nothing was tried");
}

#[test]
fn an_images_own_null_device_masks_nothing() {
    // CVE-2025-31133: without a /dev of its own, the image's /dev/null is what it likes, here a link to the host's
    // control files; what covers masked paths must be the host's null device all the same.
    let mut bundle = Bundle::new("stat -L -c '%t:%T' /proc/keys; cat /proc/keys | wc -c");
    bundle.config["mounts"]
        .as_array_mut()
        .expect("is a list")
        .retain(|mount| {
            !mount["destination"]
                .as_str()
                .is_some_and(|path| path.starts_with("/dev"))
        });
    fs::create_dir(bundle.rootfs().join("dev")).expect("makes a directory");
    symlink("/proc/sys/kernel/core_pattern", bundle.rootfs().join("dev/null")).expect("links");
    assert_eq!(bundle.output(), "1:3\n0\n");
}

#[test]
fn masks_are_refused_where_proc_is_not_procfs() {
    // CVE-2025-52881: a /proc that is something else, so that what is written or mounted lands elsewhere.
    let mut bundle = Bundle::new("true");
    let place = bundle.place.path().join("proc");
    fs::create_dir_all(place.join("sys")).expect("makes a directory");
    symlink("../sysrq-trigger", place.join("keys")).expect("links");
    fs::write(place.join("sysrq-trigger"), "").expect("writes");
    bundle.config["mounts"]
        .as_array_mut()
        .expect("is a list")
        .retain(|mount| mount["destination"] != "/proc");
    bundle.mount("/proc", "bind", place.to_str().expect("is UTF-8"), &["bind"]);
    let said = bundle.refusal();
    assert!(said.contains("procfs"), "{said}");
}

#[test]
fn parameters_are_written_to_the_kernel_and_nowhere_else() {
    // CVE-2025-52881: a parameter's file is redirected to another one.
    let mut bundle = Bundle::new("cat /proc/sys/net/ipv4/ip_forward; true");
    let place = bundle.place.path().join("proc");
    fs::create_dir_all(place.join("sys/net/ipv4")).expect("makes a directory");
    fs::write(place.join("sys/net/ipv4/ip_forward"), "decoy\n").expect("writes");
    bundle.config["mounts"]
        .as_array_mut()
        .expect("is a list")
        .retain(|mount| mount["destination"] != "/proc");
    bundle.mount("/proc", "bind", place.to_str().expect("is UTF-8"), &["bind"]);
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.config["linux"]["readonlyPaths"] = json!([]);
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    assert_eq!(bundle.output(), "decoy\n", "the file in the way was not written");
}

#[test]
fn a_console_is_bound_on_nothing_of_the_host() {
    // CVE-2025-52565: /dev/console and the multiplexer are the image's, and lead out of it.
    let outside = tempfile::tempdir().expect("makes a directory");
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").expect("writes");
    let run = |bundle: &mut Bundle| {
        bundle.config["process"]["terminal"] = json!(true);
        bundle.write();
        let command = format!(
            "{} --root {} run --bundle {} {}",
            binary().display(),
            bundle.state_root().display(),
            bundle.directory().display(),
            bundle.id
        );
        std::process::Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("starts script(1)")
    };
    let prepare = || {
        let mut bundle = Bundle::new("echo x > /dev/console");
        bundle.config["mounts"]
            .as_array_mut()
            .expect("is a list")
            .retain(|mount| mount["destination"] != "/dev");
        fs::create_dir_all(bundle.rootfs().join("dev/pts")).expect("makes a directory");
        bundle
    };
    let mut bundle = prepare();
    symlink(&victim, bundle.rootfs().join("dev/console")).expect("links");
    run(&mut bundle);
    assert_eq!(fs::read_to_string(&victim).expect("reads"), "untouched");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    assert!(!mounts.contains("victim"));

    let mut bundle = prepare();
    bundle.config["mounts"]
        .as_array_mut()
        .expect("is a list")
        .retain(|mount| mount["destination"] != "/dev/pts");
    symlink(&victim, bundle.rootfs().join("dev/pts/ptmx")).expect("links");
    assert!(
        !run(&mut bundle).status.success(),
        "what is no multiplexer makes no terminal"
    );
    assert_eq!(fs::read_to_string(&victim).expect("reads"), "untouched");
}

#[test]
fn a_container_has_a_keyring_of_its_own() {
    // In a user namespace, where the kernel lists the keys of its users only, and those of the host's by number.
    let mut bundle = Bundle::new("cat /proc/keys");
    bundle.map_users_to(300_000);
    bundle.config["linux"]["maskedPaths"] = json!([]);
    let output = bundle.output();
    let owned = |line: &&str| line.contains("_ses") && line.split_whitespace().nth(5) == Some("0");
    assert_eq!(output.lines().filter(owned).count(), 1, "{output}");
}

#[test]
fn groups_of_the_host_are_not_kept_in_a_user_namespace() {
    let mut bundle = Bundle::new(
        "id -G; cat /proc/self/setgroups; (cat /data/secret) 2>&1; (chown 5 /data/secret) 2>&1; true",
    );
    bundle.map_users();
    let caps = json!([
        "CAP_DAC_OVERRIDE",
        "CAP_CHOWN",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_FOWNER"
    ]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    let data = bundle.place.path().join("data");
    fs::create_dir(&data).expect("makes a directory");
    fs::write(data.join("secret"), "secret").expect("writes");
    fs::set_permissions(
        data.join("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .expect("sets");
    bundle.mount("/data", "bind", data.to_str().expect("is UTF-8"), &["bind"]);
    let output = bundle.output();
    assert!(output.starts_with("0\n"), "{output}");
    assert!(
        output.contains("Permission denied") && output.contains("not permitted"),
        "{output}"
    );
    assert!(!output.contains("secret\n"), "{output}");
}

#[test]
fn a_hostile_name_stays_a_name() {
    // Labels, host names and arguments with control characters and JSON inside reach the program and nothing else.
    let mut bundle = Bundle::new("");
    let odd = "a\"},\"pid\":1,\n\u{1b}[2J{";
    bundle.config["annotations"] = json!({ odd: odd });
    bundle.config["process"]["args"] = json!(["sleep", "60"]);
    bundle.start();
    let state = bundle.state();
    assert_eq!(state["annotations"][odd], odd);
    assert_ne!(state["pid"], 1);
}

/// How often a race is run: far more often in a soak.
fn rounds(few: u32) -> u32 {
    if std::env::var_os("PIERHEAD_SOAK").is_some() {
        1000
    } else {
        few
    }
}
