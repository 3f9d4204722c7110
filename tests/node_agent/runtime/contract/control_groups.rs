//! runtime-spec `config-linux.md`, Control groups; the commands that work on them.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Bundle, Runtime, contract};

contract! {
    memory_is_limited on [ours, runc, crun];
    processes_are_limited on [ours, runc, crun];
    cpu_is_limited on [ours, runc, crun];
    processors_are_chosen on [ours, runc, crun];
    devices_are_guarded on [ours, runc, crun];
    a_controllers_file_is_written_by_name on [ours, runc, crun];
    update_takes_options on [ours, runc, crun];
    update_takes_a_file on [ours, runc, crun];
    a_paused_container_stands_still on [ours, runc, crun];
    a_paused_container_can_be_killed on [ours, runc, crun];
    statistics_are_told on [ours, runc];
    a_limit_that_is_refused_leaves_nothing on [ours, runc];
}

/// The content of a file of the container's cgroup, which has another name on each version.
fn read(bundle: &Bundle, v1: &str, v2: &str) -> String {
    let found = bundle.cgroups().into_iter().find_map(|path| {
        [v1, v2]
            .iter()
            .find_map(|name| fs::read_to_string(path.join(name)).ok())
    });
    found
        .unwrap_or_else(|| panic!("neither {v1} nor {v2} in {:?}", bundle.cgroups()))
        .trim()
        .to_owned()
}

fn is_v2(bundle: &Bundle) -> bool {
    bundle
        .cgroups()
        .iter()
        .any(|path| path.starts_with("/sys/fs/cgroup/pierhead-contract"))
}

fn memory_is_limited(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 67_108_864, "reservation": 33_554_432});
    bundle.start();
    assert_eq!(read(&bundle, "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(
        read(&bundle, "memory.soft_limit_in_bytes", "memory.low"),
        "33554432"
    );
    let mut bundle = Bundle::on(
        runtime,
        "dd if=/dev/zero of=/dev/null bs=200M count=1 2>&1; echo status $?",
    );
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
    let output = bundle.run();
    assert!(
        !String::from_utf8_lossy(&output.stdout).contains("status 0"),
        "{output:?}"
    );
}

fn processes_are_limited(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 13});
    bundle.start();
    assert_eq!(read(&bundle, "pids.max", "pids.max"), "13");
}

fn cpu_is_limited(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.config["linux"]["resources"]["cpu"] = json!({"shares": 2048, "quota": 30_000, "period": 60_000});
    bundle.start();
    if is_v2(&bundle) {
        assert_eq!(read(&bundle, "-", "cpu.max"), "30000 60000");
    } else {
        assert_eq!(read(&bundle, "cpu.shares", "-"), "2048");
        assert_eq!(read(&bundle, "cpu.cfs_quota_us", "-"), "30000");
        assert_eq!(read(&bundle, "cpu.cfs_period_us", "-"), "60000");
    }
}

fn processors_are_chosen(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "grep Cpus_allowed_list /proc/self/status");
    bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "0", "mems": "0"});
    assert_eq!(bundle.output(), "Cpus_allowed_list:\t0\n");
}

fn devices_are_guarded(runtime: Runtime) {
    let script = "mknod /dev/fuse-like c 10 229; (cat /dev/fuse-like) 2>&1; mknod /dev/kmsg-like c 1 11; (: < /dev/kmsg-like) 2>&1 && echo opened; \
                  (: > /dev/kmsg-like) 2>&1; head -c 1 /dev/urandom | wc -c";
    let mut bundle = Bundle::on(runtime, script);
    let caps = json!(["CAP_MKNOD", "CAP_SYSLOG", "CAP_DAC_OVERRIDE"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    bundle.config["linux"]["resources"]["devices"] = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
    ]);
    let output = bundle.output();
    assert_eq!(output.matches("Operation not permitted").count(), 2, "{output}");
    assert!(output.contains("opened\n") && output.ends_with("1\n"), "{output}");
}

fn a_controllers_file_is_written_by_name(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.config["linux"]["resources"]["unified"] = json!({"cgroup.max.depth": "7"});
    let created = bundle.create();
    if runtime == Runtime::Ours || created.status.success() {
        assert!(
            created.status.success(),
            "{}",
            String::from_utf8_lossy(&created.stderr)
        );
        assert_eq!(read(&bundle, "-", "cgroup.max.depth"), "7");
    } else {
        // runc has it on hosts that are v2 only.
        assert!(String::from_utf8_lossy(&created.stderr).contains("unified"));
    }
}

fn update_takes_options(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
    bundle.start();
    bundle.must(&[
        "update",
        "--memory",
        "134217728",
        "--pids-limit",
        "21",
        "--cpu-quota",
        "40000",
        "--cpu-period",
        "80000",
        &bundle.id,
    ]);
    assert_eq!(read(&bundle, "memory.limit_in_bytes", "memory.max"), "134217728");
    assert_eq!(read(&bundle, "pids.max", "pids.max"), "21");
    let quota = read(&bundle, "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "40000" || quota == "40000 80000", "{quota}");
    bundle.must_fail(&["update", "--memory", "much", &bundle.id]);
}

fn update_takes_a_file(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    let file = bundle.place.path().join("resources.json");
    let resources = json!({"memory": {"limit": 100_663_296}, "cpu": {"shares": 512}, "pids": {"limit": 31}});
    fs::write(&file, resources.to_string()).expect("writes");
    bundle.must(&[
        "update",
        "--resources",
        file.to_str().expect("is UTF-8"),
        &bundle.id,
    ]);
    assert_eq!(read(&bundle, "memory.limit_in_bytes", "memory.max"), "100663296");
    assert_eq!(read(&bundle, "pids.max", "pids.max"), "31");
}

fn a_paused_container_stands_still(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "while :; do echo x; usleep 1000; done");
    bundle.start();
    bundle.must(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    let length = || fs::metadata(bundle.out()).expect("exists").len();
    let before = length();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(length(), before, "it wrote while it was paused");
    if runtime != Runtime::Crun {
        bundle.must_fail(&["exec", &bundle.id, "true"]);
    }
    bundle.must(&["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    blackbox::wait_for("more output", std::time::Duration::from_secs(10), || {
        if length() > before { Ok(()) } else { Err(length()) }
    });
}

fn a_paused_container_can_be_killed(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "sleep 60");
    bundle.start();
    bundle.must(&["pause", &bundle.id]);
    bundle.must(&["delete", "--force", &bundle.id]);
    assert!(bundle.cgroups().is_empty());
}

fn statistics_are_told(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60 & wait");
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 50});
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
    bundle.start();
    blackbox::wait_for("two processes", std::time::Duration::from_secs(10), || {
        let event: Value =
            serde_json::from_str(&bundle.must(&["events", "--stats", &bundle.id])).expect("is JSON");
        if event["data"]["pids"]["current"] == 2 {
            Ok(())
        } else {
            Err(event.to_string())
        }
    });
    let event: Value =
        serde_json::from_str(&bundle.must(&["events", "--stats", &bundle.id])).expect("is JSON");
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("stats"), &json!(bundle.id))
    );
    let data = &event["data"];
    assert_eq!(data["pids"]["limit"], 50);
    assert_eq!(data["memory"]["usage"]["limit"], 67_108_864);
    assert!(
        data["memory"]["usage"]["usage"]
            .as_u64()
            .is_some_and(|usage| usage > 0),
        "{event}"
    );
    assert!(
        data["cpu"]["usage"]["total"]
            .as_u64()
            .is_some_and(|usage| usage > 0),
        "{event}"
    );
}

fn a_limit_that_is_refused_leaves_nothing(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "4095"});
    bundle.refusal();
}
