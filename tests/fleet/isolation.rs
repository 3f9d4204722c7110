//! What a deployed container may use and what it may see.

use std::fs;
use std::path::PathBuf;

use blackbox::cluster::{Cluster, PATIENCE};
use blackbox::process::succeed;
use blackbox::wait_for;

/// Deploys a shell script as a service with `more` keys and returns its log once it holds `end`.
fn logged(cluster: &Cluster, script: &str, more: &str) -> String {
    cluster.push(
        "acme/probe:main",
        &[(
            "probe",
            format!("#!/bin/sh\n{script}\necho end of probe\nexec sleep 1000\n").as_bytes(),
        )],
    );
    cluster.deployed(&format!(
        "services:\n  probe:\n    image: acme/probe:main\n    command: /probe\n    stop_grace_period: 0s\n{more}"
    ));
    wait_for("the probe's log", PATIENCE, || {
        let log = succeed(&mut cluster.pierhead(&["logs", "acme/probe"]));
        let log = String::from_utf8_lossy(&log).into_owned();
        if log.contains("end of probe") {
            Ok(log)
        } else {
            Err(log)
        }
    })
}

#[test]
fn its_processes_do_not_see_the_host() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    let canary = std::process::id();
    let log = logged(
        &cluster,
        &format!(
            "echo pid $$\nps\nls -d /proc/{canary} /work /root/.cargo 2>&1\nhostname\ngrep -E '^(Cap|NoNewPrivs|Seccomp):*' \
             /proc/self/status\nmount -t tmpfs none /tmp 2>&1\nls -l /sys/fs/cgroup >/dev/null && echo cgroup seen\n\
             touch /proc/sys/kernel/hostname 2>&1; echo kcore $(cat /proc/kcore 2>/dev/null | head -c 1 | wc -c)"
        ),
        "    hostname: inside\n",
    );
    assert!(log.contains("pid 1\n"), "{log}");
    assert!(log.contains(&format!("/proc/{canary}: No such file")), "{log}");
    assert!(log.contains("/root/.cargo: No such file"), "{log}");
    assert!(log.contains("inside"), "{log}");
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("Seccomp:\t2"), "{log}");
    assert!(log.contains("mount: permission denied"), "{log}");
    assert!(
        log.contains("/proc/sys/kernel/hostname: Read-only file system"),
        "{log}"
    );
    assert!(log.contains("kcore 0"), "{log}");
    // Its own processes, and nobody else's.
    assert!(!log.contains("pierhead-registry"), "{log}");
}

#[test]
fn limits_are_in_its_cgroup_and_a_hog_is_stopped_by_them() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    cluster.push("acme/hog:main", &[]);
    cluster.deployed(
        "services:\n  hog:\n    image: acme/hog:main\n    command: sleep 1000\n    stop_grace_period: 0s\n    \
         deploy: {resources: {limits: {memory: 32M, cpus: '0.5', pids: 20}}}\n",
    );
    let container = cluster.ready_task("acme/hog").container_id.expect("it runs");
    let memory = limit(&container, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, (32 << 20).to_string());
    assert_eq!(limit(&container, "pids", "pids.max", "pids.max"), "20");
    let cpu = limit(&container, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(cpu == "50000" || cpu == "50000 100000", "{cpu}");

    // Reading an endless line takes memory until the kernel stops it.
    let deployed = cluster.deploy(
        "services:\n  hog:\n    image: acme/hog:main\n    command: tail /dev/zero\n    stop_grace_period: 0s\n    \
         deploy: {resources: {limits: {memory: 32M}}}\n",
    );
    let said = String::from_utf8_lossy(&[deployed.stdout, deployed.stderr].concat()).into_owned();
    assert_eq!(deployed.status.code(), Some(1), "{said}");
    assert!(
        said.to_lowercase().contains("memory"),
        "the reason is told: {said}"
    );
}

/// A limit as the kernel holds it, on whichever version of cgroups this host has the controller.
fn limit(container: &str, controller: &str, v1: &str, v2: &str) -> String {
    let roots = [
        (PathBuf::from("/sys/fs/cgroup").join(controller), v1),
        (PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), v1),
        (PathBuf::from("/sys/fs/cgroup"), v2),
    ];
    for (root, file) in roots {
        if let Some(directory) = find(&root, container, 6)
            && let Ok(text) = fs::read_to_string(directory.join(file))
        {
            return text.trim().to_owned();
        }
    }
    panic!("no cgroup of {container} has {controller}");
}

fn find(directory: &PathBuf, container: &str, depth: u32) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let inside: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    let is_it = |path: &&PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().contains(container))
    };
    if let Some(found) = inside.iter().find(is_it) {
        return Some(found.clone());
    }
    (depth > 0)
        .then(|| inside.iter().find_map(|path| find(path, container, depth - 1)))
        .flatten()
}
