//! runtime-spec `config-linux.md`: namespaces, user namespace mappings, time offsets.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use crate::support::{Bundle, Runtime, contract};

contract! {
    new_namespaces_are_new_and_others_are_the_hosts on [ours, runc, crun];
    namespaces_are_joined_by_path on [ours, runc, crun];
    root_of_a_user_namespace_is_nobody_outside on [ours, runc, crun];
    a_user_namespace_works_below_a_closed_directory on [ours, runc];
    exec_joins_a_user_namespace on [ours, runc, crun];
    host_and_domain_names_are_set on [ours];
    clocks_are_ahead_as_asked on [ours];
    exec_shares_the_clocks_of_the_container on [ours];
}

fn namespace(bundle: &mut Bundle, kind: &str, path: Option<&str>) {
    let all = bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("is a list");
    all.retain(|entry| entry["type"] != kind);
    match path {
        Some("") => {}
        Some(path) => all.push(json!({"type": kind, "path": path})),
        None => all.push(json!({"type": kind})),
    }
}

fn new_namespaces_are_new_and_others_are_the_hosts(runtime: Runtime) {
    const LINKS: [(&str, &str); 6] = [
        ("ipc", "ipc"),
        ("network", "net"),
        ("pid", "pid"),
        ("uts", "uts"),
        ("mount", "mnt"),
        ("cgroup", "cgroup"),
    ];
    let script = LINKS
        .map(|(_, link)| format!("readlink /proc/self/ns/{link}"))
        .join(";");
    let host = |link: &str| {
        fs::read_link(format!("/proc/self/ns/{link}"))
            .expect("reads")
            .display()
            .to_string()
    };
    let seen = Bundle::on(runtime, &script).output();
    for ((_, link), line) in LINKS.iter().zip(seen.lines()) {
        assert_ne!(line, host(link), "{link} is the host's");
    }
    let mut bundle = Bundle::on(runtime, &script);
    for (kind, _) in LINKS
        .iter()
        .filter(|(kind, _)| !matches!(*kind, "mount" | "pid" | "network"))
    {
        namespace(&mut bundle, kind, Some(""));
    }
    bundle
        .config
        .as_object_mut()
        .expect("is an object")
        .remove("hostname");
    let seen = bundle.output();
    for ((kind, link), line) in LINKS.iter().zip(seen.lines()) {
        let is_new = matches!(*kind, "mount" | "pid" | "network");
        assert_eq!(line != host(link), is_new, "{link}");
    }
}

fn namespaces_are_joined_by_path(runtime: Runtime) {
    let first = Bundle::on(runtime, "sleep 60");
    first.start();
    let pid = first.state()["pid"].clone();
    let links = ["pid", "ipc", "uts", "net"];
    let mut second = Bundle::on(
        runtime,
        "for n in pid ipc uts net; do readlink /proc/self/ns/$n; done; ps | grep -c '[s]leep 60'",
    );
    second
        .config
        .as_object_mut()
        .expect("is an object")
        .remove("hostname");
    for (kind, link) in ["pid", "ipc", "uts", "network"].iter().zip(links) {
        namespace(&mut second, kind, Some(&format!("/proc/{pid}/ns/{link}")));
    }
    let output = second.output();
    let lines: Vec<&str> = output.lines().collect();
    for (at, link) in links.iter().enumerate() {
        let wanted = fs::read_link(format!("/proc/{pid}/ns/{link}")).expect("reads");
        assert_eq!(lines[at], wanted.to_str().expect("is UTF-8"), "{link}");
    }
    assert_eq!(lines[4], "1", "it sees the other's processes: {output}");
    namespace(&mut second, "ipc", Some("/no/such/namespace"));
    second.refusal();
}

fn root_of_a_user_namespace_is_nobody_outside(runtime: Runtime) {
    let script = "id -u; cat /proc/self/uid_map; touch /made; (echo 1 > /proc/sys/kernel/panic) 2>&1; cat /data/secret 2>&1; stat -c %u /data/secret; echo x > /dev/null && echo null";
    let mut bundle = Bundle::on(runtime, script);
    bundle.map_users();
    let data = bundle.place.path().join("data");
    fs::create_dir(&data).expect("makes a directory");
    fs::write(data.join("secret"), "secret").expect("writes");
    fs::set_permissions(data.join("secret"), fs::Permissions::from_mode(0o600)).expect("sets");
    bundle.mount("/data", "bind", data.to_str().expect("is UTF-8"), &["bind"]);
    let output = bundle.output();
    let map: Vec<&str> = output
        .lines()
        .nth(1)
        .expect("has a map")
        .split_whitespace()
        .collect();
    assert!(output.starts_with("0\n"), "{output}");
    assert_eq!(map, ["0", "100000", "65536"]);
    assert!(output.contains("Permission denied\n65534\nnull\n"), "{output}");
    assert_eq!(
        fs::metadata(bundle.rootfs().join("made"))
            .expect("was made")
            .uid(),
        100_000
    );
}

fn a_user_namespace_works_below_a_closed_directory(runtime: Runtime) {
    // Volumes and roots of engines lie below directories that only the host's root may enter.
    let mut bundle = Bundle::on(runtime, "cat /data/file; touch /made");
    bundle.map_users();
    let data = bundle.place.path().join("closed/data");
    fs::create_dir_all(&data).expect("makes a directory");
    fs::write(data.join("file"), "content\n").expect("writes");
    fs::set_permissions(
        bundle.place.path().join("closed"),
        fs::Permissions::from_mode(0o700),
    )
    .expect("sets");
    if runtime == Runtime::Ours {
        fs::set_permissions(bundle.place.path(), fs::Permissions::from_mode(0o700)).expect("sets");
    }
    bundle.mount("/data", "bind", data.to_str().expect("is UTF-8"), &["bind"]);
    assert_eq!(bundle.output(), "content\n");
}

fn exec_joins_a_user_namespace(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.map_users();
    bundle.start();
    let output = bundle.must(&[
        "exec",
        &bundle.id,
        "sh",
        "-c",
        "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; touch /by-exec",
    ]);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "0");
    assert_eq!(lines[1], lines[2]);
    assert_eq!(
        fs::metadata(bundle.rootfs().join("by-exec"))
            .expect("was made")
            .uid(),
        100_000
    );
}

fn host_and_domain_names_are_set(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "hostname; cat /proc/sys/kernel/domainname");
    bundle.config["hostname"] = json!("inside");
    bundle.config["domainname"] = json!("example.org");
    assert_eq!(bundle.output(), "inside\nexample.org\n");
}

fn ahead(bundle: &mut Bundle) {
    namespace(bundle, "time", None);
    bundle.config["linux"]["timeOffsets"] =
        json!({"monotonic": {"secs": 1_000_000}, "boottime": {"secs": 2_000_000, "nanosecs": 5}});
}

fn clocks_are_ahead_as_asked(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "cut -d. -f1 /proc/uptime; awk '{print $1, $2, $3}' /proc/self/timens_offsets",
    );
    ahead(&mut bundle);
    let output = bundle.output();
    let lines: Vec<&str> = output.lines().collect();
    assert!(
        lines[0].parse::<u64>().expect("is a number") > 2_000_000,
        "{output}"
    );
    assert_eq!(lines[1..], ["monotonic 1000000 0", "boottime 2000000 5"]);
    let mut bundle = Bundle::on(runtime, "true");
    ahead(&mut bundle);
    namespace(&mut bundle, "time", Some(""));
    assert!(bundle.refusal().contains("timeOffsets"));
}

fn exec_shares_the_clocks_of_the_container(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    ahead(&mut bundle);
    bundle.start();
    let uptime: Value = serde_json::from_str(
        bundle
            .must(&["exec", &bundle.id, "cut", "-d.", "-f1", "/proc/uptime"])
            .trim(),
    )
    .expect("is a number");
    assert!(uptime.as_u64().expect("is a number") > 2_000_000);
}
