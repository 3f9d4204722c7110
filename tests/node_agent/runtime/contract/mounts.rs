//! runtime-spec `config.md`, Mounts; `config-linux.md`, devices, masked and read-only paths, sysctl, propagation.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use serde_json::json;

use crate::support::{Bundle, Runtime, contract};

contract! {
    options_of_a_bind_mount_reach_the_kernel on [ours, runc, crun];
    options_of_a_new_file_system_reach_the_kernel on [ours, runc, crun];
    recursive_options_reach_below on [ours, runc, crun];
    a_plain_option_stays_at_the_top on [ours, runc, crun];
    files_and_directories_are_made_where_mounts_go on [ours, runc, crun];
    a_relative_source_lies_in_the_bundle on [ours, runc];
    mounts_come_in_the_order_given on [ours, runc, crun];
    a_tmpfs_copies_up_what_it_covers on [ours, runc, crun];
    a_remount_changes_what_is_there on [ours];
    the_root_can_be_read_only on [ours, runc, crun];
    the_host_does_not_see_mounts_of_the_container on [ours, runc, crun];
    a_slave_sees_later_mounts_of_the_host on [ours, runc, crun];
    a_shared_mount_travels_both_ways on [ours, runc, crun];
    a_private_mount_does_not_travel on [ours, runc, crun];
    default_devices_are_there on [ours, runc, crun];
    devices_are_made_as_asked on [ours, runc, crun];
    masked_paths_show_nothing on [ours, runc, crun];
    readonly_paths_cannot_be_written on [ours, runc, crun];
    parameters_of_the_kernel_are_set on [ours, runc, crun];
    a_working_directory_is_made on [ours, runc, crun];
    an_idmapped_mount_shows_other_owners on [ours, crun];
    an_idmapped_mount_takes_the_containers_map on [ours, crun];
}

/// Options of the mount on `place`, as `mount` shows them inside.
fn shown(bundle: &Bundle, place: &str) -> Vec<String> {
    let output = bundle.output();
    let line = output
        .lines()
        .find(|line| line.contains(&format!(" on {place} type ")));
    let line = line.unwrap_or_else(|| panic!("{place} is not mounted: {output}"));
    let inside = line
        .rsplit_once('(')
        .map(|(_, rest)| rest.trim_end_matches(')'))
        .expect("has options");
    inside.split(',').map(str::to_owned).collect()
}

fn has(options: &[String], wanted: &str) -> bool {
    options.iter().any(|option| option == wanted)
}

/// A directory of the host beside the bundle.
fn shared(bundle: &Bundle) -> String {
    let path = bundle.place.path().join("shared");
    fs::create_dir_all(path.join("below")).expect("makes a directory");
    fs::write(path.join("file"), "content\n").expect("writes");
    path.to_str().expect("is UTF-8").to_owned()
}

/// Mounts a tmpfs of the host on a directory while it lives.
struct HostMount(String);

impl HostMount {
    fn new(path: String) -> Self {
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "host", &path])
            .status()
            .expect("starts");
        assert!(status.success());
        Self(path)
    }

    fn propagation(&self, word: &str) {
        let status = std::process::Command::new("mount")
            .args([&format!("--make-{word}"), &self.0])
            .status()
            .expect("starts");
        assert!(status.success());
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        // Lazily, so that a container that still uses it does not keep the test from cleaning up.
        let _ = std::process::Command::new("umount")
            .args(["-R", "-l", &self.0])
            .status();
    }
}

fn options_of_a_bind_mount_reach_the_kernel(runtime: Runtime) {
    for (asked, wanted) in [
        ("ro", "ro"),
        ("rw", "rw"),
        ("nosuid", "nosuid"),
        ("nodev", "nodev"),
        ("noexec", "noexec"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
    ] {
        let mut bundle = Bundle::on(runtime, "mount");
        let source = shared(&bundle);
        bundle.mount("/data", "bind", &source, &["bind", asked]);
        let options = shown(&bundle, "/data");
        assert!(has(&options, wanted), "{asked}: {options:?}");
    }
    let mut bundle = Bundle::on(runtime, "(echo x > /data/new) 2>&1; cat /data/file");
    let source = shared(&bundle);
    bundle.mount("/data", "none", &source, &["bind", "ro"]);
    assert!(bundle.output().contains("Read-only file system\ncontent\n"));
}

fn options_of_a_new_file_system_reach_the_kernel(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "mount");
    bundle.mount(
        "/scratch",
        "tmpfs",
        "name",
        &[
            "nosuid",
            "nodev",
            "noexec",
            "size=64k",
            "mode=1700",
            "nr_inodes=99",
        ],
    );
    let options = shown(&bundle, "/scratch");
    for wanted in [
        "rw",
        "nosuid",
        "nodev",
        "noexec",
        "size=64k",
        "mode=1700",
        "nr_inodes=99",
    ] {
        assert!(has(&options, wanted), "{wanted}: {options:?}");
    }
    let mut bundle = Bundle::on(runtime, "mount | grep ' on /scratch '");
    bundle.mount("/scratch", "tmpfs", "name", &["ro"]);
    assert!(bundle.output().starts_with("name on /scratch type tmpfs (ro,"));
}

fn recursive_options_reach_below(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "mount");
    let source = shared(&bundle);
    let _below = HostMount::new(format!("{source}/below"));
    bundle.mount("/data", "bind", &source, &["rbind", "rro", "rnosuid", "rnoexec"]);
    for place in ["/data", "/data/below"] {
        let options = shown(&bundle, place);
        for wanted in ["ro", "nosuid", "noexec"] {
            assert!(has(&options, wanted), "{place}: {wanted}: {options:?}");
        }
    }
}

fn a_plain_option_stays_at_the_top(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "mount");
    let source = shared(&bundle);
    let _below = HostMount::new(format!("{source}/below"));
    bundle.mount("/data", "bind", &source, &["rbind", "ro"]);
    assert!(has(&shown(&bundle, "/data"), "ro"));
    assert!(has(&shown(&bundle, "/data/below"), "rw"));
    let mut bundle = Bundle::on(runtime, "mount | grep -c /data");
    bundle.mount("/data", "bind", &source, &["bind"]);
    assert_eq!(
        bundle.output(),
        "1\n",
        "without rbind what is mounted below is left out"
    );
}

fn files_and_directories_are_made_where_mounts_go(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "cat /new/deep/file; cat /other/dir/file; test -d /new/deep && echo directory",
    );
    let source = shared(&bundle);
    bundle.mount("/new/deep/file", "bind", &format!("{source}/file"), &["bind"]);
    bundle.mount("/other/dir", "bind", &source, &["bind"]);
    assert_eq!(bundle.output(), "content\ncontent\ndirectory\n");
}

fn a_relative_source_lies_in_the_bundle(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "cat /data/file");
    fs::create_dir(bundle.directory().join("volume")).expect("makes a directory");
    fs::write(bundle.directory().join("volume/file"), "of the bundle\n").expect("writes");
    bundle.mount("/data", "bind", "volume", &["bind"]);
    bundle.write();
    // Others take it from their own working directory, which engines set to the bundle.
    let output = bundle
        .command(&["run", &bundle.id])
        .current_dir(bundle.directory())
        .output()
        .expect("starts");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "of the bundle\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn mounts_come_in_the_order_given(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "ls /a /a/b");
    let source = shared(&bundle);
    bundle.mount("/a", "tmpfs", "tmpfs", &[]);
    bundle.mount("/a/b", "bind", &source, &["bind"]);
    assert_eq!(bundle.output(), "/a:\nb\n\n/a/b:\nbelow\nfile\n");
}

fn a_tmpfs_copies_up_what_it_covers(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "cat /etc/dir/file; readlink /etc/link; stat -c '%a %u %g' /etc/dir/file /etc; echo x > /etc/new; ls /etc",
    );
    let etc = bundle.rootfs().join("etc");
    fs::create_dir_all(etc.join("dir")).expect("makes a directory");
    fs::write(etc.join("dir/file"), "content\n").expect("writes");
    symlink("dir/file", etc.join("link")).expect("links");
    fs::set_permissions(etc.join("dir/file"), fs::Permissions::from_mode(0o644)).expect("sets");
    chown(etc.join("dir/file"), Some(12), Some(34)).expect("sets");
    fs::set_permissions(&etc, fs::Permissions::from_mode(0o751)).expect("sets");
    bundle.mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let output = bundle.output();
    assert!(output.starts_with("content\ndir/file\n644 12 34\n"), "{output}");
    assert!(output.ends_with("dir\nlink\nnew\n"), "{output}");
    if runtime == Runtime::Ours {
        assert!(output.contains("751 0 0\n"), "{output}");
    }
    assert!(!etc.join("new").exists());
}

fn a_remount_changes_what_is_there(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "mount");
    let source = shared(&bundle);
    bundle.mount("/data", "bind", &source, &["bind"]);
    bundle.mount("/data", "none", "none", &["remount", "ro", "noexec"]);
    let options = shown(&bundle, "/data");
    assert!(has(&options, "ro") && has(&options, "noexec"), "{options:?}");
}

fn the_root_can_be_read_only(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "(touch /x) 2>&1; touch /dev/y && echo dev");
    bundle.config["root"]["readonly"] = json!(true);
    assert!(bundle.output().contains("Read-only file system\ndev\n"));
    assert!(!bundle.rootfs().join("x").exists());
}

fn the_host_does_not_see_mounts_of_the_container(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "echo mounted; echo done; exec sleep 60");
    let source = shared(&bundle);
    bundle.mount("/data", "bind", &source, &["rbind"]);
    bundle.start();
    assert_eq!(bundle.finished_output(), "mounted\n");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
    let place = bundle.place.path().to_str().expect("is UTF-8").to_owned();
    assert!(!mounts.contains(&place), "{mounts}");
}

/// What a container's mount and a host's later mount see of each other.
fn travel(runtime: Runtime, root: &str, option: &str) -> (bool, bool) {
    let script = "echo ready; while [ ! -e /data/go ]; do usleep 10000; done; \
                  mount -t tmpfs inner /data/below && touch /data/below/inner; ls /data/outer; echo done; while [ -e /data/go ]; do usleep 10000; done";
    let mut bundle = Bundle::on(runtime, script);
    let caps = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    let source = shared(&bundle);
    let base = HostMount::new(source.clone());
    base.propagation("shared");
    fs::create_dir(format!("{source}/below")).expect("makes a directory");
    fs::create_dir(format!("{source}/outer")).expect("makes a directory");
    bundle.config["linux"]["rootfsPropagation"] = json!(root);
    bundle.mount("/data", "bind", &source, &["rbind", option]);
    bundle.start();
    blackbox::wait_for("the program", std::time::Duration::from_secs(10), || {
        let text = fs::read_to_string(bundle.out()).unwrap_or_default();
        if text.contains("ready") { Ok(()) } else { Err(text) }
    });
    let _outer = HostMount::new(format!("{source}/outer"));
    fs::write(format!("{source}/outer/from-host"), "").expect("writes");
    fs::write(format!("{source}/go"), "").expect("writes");
    let output = bundle.finished_output();
    let seen = (
        output.contains("from-host"),
        fs::exists(format!("{source}/below/inner")).expect("looks"),
    );
    fs::remove_file(format!("{source}/go")).expect("removes");
    bundle.must(&["delete", "--force", &bundle.id]);
    seen
}

fn a_slave_sees_later_mounts_of_the_host(runtime: Runtime) {
    assert_eq!(travel(runtime, "rslave", "rslave"), (true, false));
}

fn a_shared_mount_travels_both_ways(runtime: Runtime) {
    assert_eq!(travel(runtime, "rshared", "rshared"), (true, true));
}

fn a_private_mount_does_not_travel(runtime: Runtime) {
    assert_eq!(travel(runtime, "rprivate", "rprivate"), (false, false));
}

fn default_devices_are_there(runtime: Runtime) {
    let script = "for d in null zero full random urandom tty ptmx; do stat -L -c '%n %t:%T %a %F' /dev/$d; done; \
                  for l in fd stdin stdout stderr; do readlink /dev/$l; done; head -c 4 /dev/zero | wc -c; echo x > /dev/null; (echo x > /dev/full) 2>&1";
    let mut bundle = Bundle::on(runtime, script);
    bundle.config["process"]["args"][2] = json!(format!("{script}; true"));
    let output = bundle.output();
    for wanted in [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
        "/dev/ptmx 5:2 666",
    ] {
        assert!(output.contains(wanted), "{wanted}: {output}");
    }
    assert!(
        output.contains("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n4\n"),
        "{output}"
    );
    assert!(output.contains("No space left"), "{output}");
}

fn devices_are_made_as_asked(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "stat -c '%n %t:%T %a %u:%g %F' /dev/fuse-like /dev/pipe /dev/disk; (cat /dev/disk) 2>&1; true",
    );
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/fuse-like", "type": "c", "major": 10, "minor": 229, "fileMode": 0o620, "uid": 3, "gid": 4},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/dev/disk", "type": "b", "major": 7, "minor": 99, "fileMode": 0o660},
    ]);
    let output = bundle.output();
    assert!(
        output.contains("/dev/fuse-like a:e5 620 3:4 character special file"),
        "{output}"
    );
    assert!(output.contains("/dev/pipe 0:0 600 0:0 fifo"), "{output}");
    assert!(
        output.contains("/dev/disk 7:63 660 0:0 block special file"),
        "{output}"
    );
    assert!(
        output.contains("Operation not permitted"),
        "not allowed by the rules for devices: {output}"
    );
}

fn masked_paths_show_nothing(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "cat /secret /proc/keys | wc -c; ls /vault | wc -l; (touch /vault/x) 2>&1; true",
    );
    fs::write(bundle.rootfs().join("secret"), "secret").expect("writes");
    fs::create_dir(bundle.rootfs().join("vault")).expect("makes a directory");
    fs::write(bundle.rootfs().join("vault/gold"), "").expect("writes");
    bundle.config["linux"]["maskedPaths"] = json!(["/secret", "/vault", "/proc/keys", "/not/there"]);
    let output = bundle.output();
    assert!(
        output.starts_with("0\n0\n") && output.contains("Read-only file system"),
        "{output}"
    );
}

fn readonly_paths_cannot_be_written(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "(touch /frozen/x) 2>&1; (echo 1 > /proc/sys/kernel/panic) 2>&1; cat /frozen/file",
    );
    fs::create_dir(bundle.rootfs().join("frozen")).expect("makes a directory");
    fs::write(bundle.rootfs().join("frozen/file"), "content\n").expect("writes");
    bundle.config["linux"]["readonlyPaths"] = json!(["/frozen", "/proc/sys", "/not/there"]);
    let output = bundle.output();
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    assert!(output.ends_with("content\n"), "{output}");
}

fn parameters_of_the_kernel_are_set(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max",
    );
    bundle.config["linux"]["sysctl"] =
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "17"});
    assert_eq!(bundle.output(), "1\n1\n17\n");
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["linux"]["sysctl"] = json!({"vm.swappiness": "10"});
    bundle.refusal();
}

fn a_working_directory_is_made(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "pwd; stat -c %F .");
    bundle.config["process"]["cwd"] = json!("/made/for/this");
    assert_eq!(bundle.output(), "/made/for/this\ndirectory\n");
}

fn idmap(container: u32, host: u32) -> serde_json::Value {
    json!([{"containerID": container, "hostID": host, "size": 1000}])
}

/// Whether the file system of temporary files can be mounted with other ids: a tmpfs can since Linux 6.3.
fn has_idmapped_mounts(bundle: &Bundle) -> bool {
    let error = String::from_utf8_lossy(&bundle.run().stderr).into_owned();
    let is_refused = error.contains("Invalid argument");
    if is_refused {
        eprintln!("skipped: {error}");
    }
    !is_refused
}

fn an_idmapped_mount_shows_other_owners(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "stat -c '%u:%g' /data/file");
    let source = shared(&bundle);
    chown(format!("{source}/file"), Some(5), Some(6)).expect("sets");
    bundle.mount("/data", "bind", &source, &["bind"]);
    let entry = bundle.config["mounts"]
        .as_array_mut()
        .and_then(|mounts| mounts.last_mut())
        .expect("was added");
    entry["uidMappings"] = idmap(0, 2000);
    entry["gidMappings"] = idmap(0, 3000);
    if has_idmapped_mounts(&bundle) {
        assert_eq!(bundle.output(), "2005:3006\n");
    }
}

fn an_idmapped_mount_takes_the_containers_map(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "stat -c '%u:%g' /data/file; touch /data/made");
    let source = shared(&bundle);
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("is a list")
        .push(json!({"type": "user"}));
    bundle.config["linux"]["uidMappings"] = idmap(0, 100_000);
    bundle.config["linux"]["gidMappings"] = idmap(0, 100_000);
    chown(bundle.rootfs(), Some(100_000), Some(100_000)).expect("sets");
    bundle.mount("/data", "bind", &source, &["bind", "idmap"]);
    if !has_idmapped_mounts(&bundle) {
        return;
    }
    assert_eq!(
        bundle.output(),
        "0:0\n",
        "what belongs to the host's root belongs to the container's"
    );
    let made = fs::metadata(format!("{source}/made")).expect("was made");
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&made),
        0,
        "and what it makes belongs to the host's"
    );
}
