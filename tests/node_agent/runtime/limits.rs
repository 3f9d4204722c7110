//! Control groups and resource limits.

use serde_json::json;

use crate::support::Bundle;

#[test]
fn memory_is_limited_and_the_limit_is_seen_inside() {
    let mut bundle = Bundle::new(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true",
    );
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
    assert!(bundle.output().contains("33554432"));

    let mut bundle = Bundle::new("dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
    let output = bundle.run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("Killed") || !output.status.success(), "{text}");
}

#[test]
fn a_fork_bomb_meets_the_pids_limit() {
    let mut bundle = Bundle::new("for i in $(seq 40); do sleep 5 & done; echo made them all");
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 10});
    let output = bundle.run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("can't fork"), "{text}");
    assert!(bundle.cgroups().is_empty());
}

#[test]
fn rlimits_are_applied() {
    let mut bundle = Bundle::new("ulimit -n");
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]);
    assert_eq!(bundle.output(), "77\n");
}
