//! Bad input is refused, and nothing is left of the attempt.

use std::fs;

use serde_json::json;

use crate::support::{Bundle, Runtime, contract};

contract! {
    a_bundle_that_is_not_one_is_refused on [ours, runc, crun];
    a_process_that_cannot_be_executed_is_refused on [ours, runc, crun];
    a_missing_program_fails_the_creation on [ours, runc, crun];
    names_that_are_paths_are_refused on [ours, runc];
    a_missing_source_of_a_mount_is_refused on [ours, runc, crun];
    a_namespace_listed_twice_is_refused on [ours, runc];
    a_host_name_needs_a_namespace on [ours, runc];
    a_missing_container_is_told on [ours, runc, crun];
    a_users_map_is_needed on [ours];
}

fn a_bundle_that_is_not_one_is_refused(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "true");
    let directory = bundle.directory();
    let directory = directory.to_str().expect("is UTF-8");
    bundle.must_fail(&["run", "--bundle", directory, &bundle.id]);
    fs::write(bundle.directory().join("config.json"), "{ this is not JSON").expect("writes");
    bundle.must_fail(&["run", "--bundle", directory, &bundle.id]);
    bundle.must_fail(&["run", "--bundle", "/no/such/directory", &bundle.id]);
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["root"]["path"] = json!("nowhere");
    bundle.refusal();
    assert!(bundle.must(&["list", "--quiet"]).is_empty());
}

fn a_process_that_cannot_be_executed_is_refused(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["process"]["args"] = json!([]);
    bundle.refusal();
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["process"]["args"] = json!(["/bin"]);
    bundle.refusal();
}

fn a_missing_program_fails_the_creation(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["process"]["args"] = json!(["no-such-program"]);
    let created = bundle.create();
    assert!(!created.status.success());
    assert!(String::from_utf8_lossy(&created.stderr).contains("no-such-program"));
    bundle.must_fail(&["state", &bundle.id]);
    assert!(bundle.cgroups().is_empty());
}

fn names_that_are_paths_are_refused(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "true");
    bundle.write();
    let directory = bundle.directory();
    for id in ["../escape", "a/b", "", ".."] {
        bundle.must_fail(&["run", "--bundle", directory.to_str().expect("is UTF-8"), id]);
    }
    assert!(!bundle.place.path().join("escape").exists());
}

fn a_missing_source_of_a_mount_is_refused(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "true");
    bundle.mount("/data", "bind", "/no/such/source", &["bind"]);
    assert!(bundle.refusal().contains("/no/such/source"));
}

fn a_namespace_listed_twice_is_refused(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("is a list")
        .push(json!({"type": "pid"}));
    bundle.refusal();
}

fn a_host_name_needs_a_namespace(runtime: Runtime) {
    let before = fs::read_to_string("/proc/sys/kernel/hostname").expect("reads");
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("is a list")
        .retain(|kind| kind["type"] != "uts");
    bundle.refusal();
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").expect("reads"),
        before
    );
}

fn a_missing_container_is_told(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "true");
    for command in [
        &["state"][..],
        &["start"],
        &["kill"],
        &["pause"],
        &["ps"],
        &["exec"],
    ] {
        let mut args = command.to_vec();
        args.push("no-such-container");
        if command == ["exec"] {
            args.push("true");
        }
        bundle.must_fail(&args);
    }
}

fn a_users_map_is_needed(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("is a list")
        .push(json!({"type": "user"}));
    bundle.refusal();
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    bundle.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    bundle.refusal();
}
