//! runtime-spec `config.md`: process, user, capabilities, limits; `config-linux.md`: seccomp, personality.

use std::fs::{self, File};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Bundle, Runtime, contract};

contract! {
    the_environment_is_the_one_given on [ours, runc, crun];
    user_groups_and_umask_are_set on [ours, runc, crun];
    the_five_capability_sets_are_set on [ours, runc, crun];
    ambient_capabilities_outlive_a_change_of_user on [ours, runc, crun];
    a_user_without_ambient_capabilities_has_none on [ours, runc, crun];
    no_new_privileges_are_as_asked on [ours, runc, crun];
    every_limit_is_applied on [ours, runc, crun];
    the_oom_score_is_adjusted on [ours, runc, crun];
    arguments_arrive_as_given on [ours, runc, crun];
    seccomp_actions_do_what_they_say on [ours, runc, crun];
    seccomp_compares_arguments on [ours, runc, crun];
    seccomp_works_without_no_new_privileges on [ours, runc, crun];
    seccomp_holds_for_exec on [ours, runc, crun];
    descriptors_are_passed_on_when_asked on [ours, runc, crun];
    sockets_of_activation_are_passed_on on [ours, crun];
    the_scheduler_is_set on [ours];
    the_io_priority_is_set on [ours];
    the_personality_is_set on [ours];
    labels_the_kernel_does_not_enforce_are_refused on [ours];
    a_user_may_open_its_output_by_name on [ours, runc, crun];
}

fn the_environment_is_the_one_given(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "env | sort");
    bundle.config["process"]["env"] = json!(["PATH=/bin", "A=1", "EMPTY=", "WITH=a=b c"]);
    let output = bundle.output();
    for wanted in ["A=1\n", "EMPTY=\n", "WITH=a=b c\n", "PATH=/bin\n"] {
        assert!(output.contains(wanted), "{output}");
    }
    assert!(
        !output.contains("CARGO") && !output.contains("PIERHEAD"),
        "{output}"
    );
}

fn user_groups_and_umask_are_set(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "id -u; id -g; id -G; umask");
    bundle.config["process"]["user"] =
        json!({"uid": 11, "gid": 22, "additionalGids": [33, 44], "umask": 0o027});
    assert_eq!(bundle.output(), "11\n22\n22 33 44\n0027\n");
}

fn capabilities(
    bundle: &mut Bundle,
    bounding: &[&str],
    effective: &[&str],
    inheritable: &[&str],
    ambient: &[&str],
) {
    bundle.config["process"]["capabilities"] = json!({
        "bounding": bounding, "effective": effective, "permitted": effective, "inheritable": inheritable, "ambient": ambient,
    });
}

const SHOW: &str = "grep ^Cap /proc/self/status | awk '{print $1 $2}'";

fn the_five_capability_sets_are_set(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, SHOW);
    capabilities(
        &mut bundle,
        &["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        &["CAP_CHOWN", "CAP_KILL"],
        &["CAP_KILL"],
        &[],
    );
    let output = bundle.output();
    for wanted in [
        "CapInh:0000000000000020",
        "CapPrm:0000000000000021",
        "CapEff:0000000000000021",
        "CapBnd:0000000000002021",
        "CapAmb:0000000000000000",
    ] {
        assert!(output.contains(wanted), "{wanted}: {output}");
    }
}

fn ambient_capabilities_outlive_a_change_of_user(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, SHOW);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let caps = ["CAP_NET_BIND_SERVICE"];
    capabilities(&mut bundle, &caps, &caps, &caps, &caps);
    let output = bundle.output();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            output.contains(&format!("{set}:0000000000000400")),
            "{set}: {output}"
        );
    }
}

fn a_user_without_ambient_capabilities_has_none(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, SHOW);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let output = bundle.output();
    assert!(
        output.contains("CapPrm:0000000000000000") && output.contains("CapEff:0000000000000000"),
        "{output}"
    );
}

fn no_new_privileges_are_as_asked(runtime: Runtime) {
    for (asked, shown) in [(true, "1"), (false, "0")] {
        let mut bundle = Bundle::on(runtime, "grep NoNewPrivs /proc/self/status");
        bundle.config["process"]["noNewPrivileges"] = json!(asked);
        assert_eq!(bundle.output(), format!("NoNewPrivs:\t{shown}\n"));
    }
}

fn every_limit_is_applied(runtime: Runtime) {
    let names = [
        ("RLIMIT_NOFILE", "Max open files"),
        ("RLIMIT_NPROC", "Max processes"),
        ("RLIMIT_CORE", "Max core file size"),
        ("RLIMIT_STACK", "Max stack size"),
        ("RLIMIT_FSIZE", "Max file size"),
        ("RLIMIT_CPU", "Max cpu time"),
        ("RLIMIT_MEMLOCK", "Max locked memory"),
        ("RLIMIT_SIGPENDING", "Max pending signals"),
        ("RLIMIT_MSGQUEUE", "Max msgqueue size"),
    ];
    let mut bundle = Bundle::on(runtime, "cat /proc/self/limits");
    let own = fs::read_to_string("/proc/self/limits").expect("reads");
    let mut limits = Vec::new();
    for (name, label) in names {
        // Below what this test has, as raising one is not everybody's.
        let line = own
            .lines()
            .find(|line| line.starts_with(label))
            .expect("is listed");
        let hard = line[label.len()..]
            .split_whitespace()
            .nth(1)
            .expect("has a hard limit");
        let hard: u64 = hard.parse().map_or(8_388_608, |hard: u64| hard.min(8_388_608));
        limits.push((name, label, hard.saturating_sub(1), hard));
    }
    bundle.config["process"]["rlimits"] = limits
        .iter()
        .map(|(name, _, soft, hard)| json!({"type": name, "soft": soft, "hard": hard}))
        .collect();
    let output = bundle.output();
    for (name, label, soft, hard) in limits {
        let line = output
            .lines()
            .find(|line| line.starts_with(label))
            .expect("is listed");
        let values: Vec<&str> = line[label.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, [soft.to_string(), hard.to_string()], "{name}");
    }
}

fn the_oom_score_is_adjusted(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "cat /proc/self/oom_score_adj");
    bundle.config["process"]["oomScoreAdj"] = json!(555);
    assert_eq!(bundle.output(), "555\n");
}

fn arguments_arrive_as_given(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "");
    bundle.config["process"]["args"] = json!([
        "sh",
        "-c",
        r#"for a; do echo "<$a>"; done"#,
        "name",
        "",
        "two words",
        "-x",
        "ünï",
        "\"q\""
    ]);
    assert_eq!(bundle.output(), "<>\n<two words>\n<-x>\n<ünï>\n<\"q\">\n");
}

fn seccomp(bundle: &mut Bundle, rule: Value) {
    bundle.config["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]});
}

fn seccomp_actions_do_what_they_say(runtime: Runtime) {
    for (action, shows) in [
        ("SCMP_ACT_ERRNO", "Operation not permitted"),
        ("SCMP_ACT_KILL_PROCESS", "status 159"),
        ("SCMP_ACT_TRAP", "status 159"),
        ("SCMP_ACT_ALLOW", "status 0"),
        ("SCMP_ACT_LOG", "status 0"),
        ("SCMP_ACT_TRACE", "not implemented"),
    ] {
        let mut bundle = Bundle::on(runtime, "mkdir /x 2>&1; echo status $?");
        seccomp(
            &mut bundle,
            json!({"names": ["mkdir", "mkdirat"], "action": action}),
        );
        let output = bundle.output();
        // The library that other runtimes compile with leaves out a rule that repeats the default.
        assert!(output.contains(shows), "{action}: {output}");
    }
}

fn seccomp_compares_arguments(runtime: Runtime) {
    // kill(pid, signal): only signal 10 is refused.
    let mut bundle = Bundle::on(
        runtime,
        "trap '' USR1 USR2; kill -USR1 $$ 2>&1 || echo refused; kill -USR2 $$ && echo sent",
    );
    seccomp(
        &mut bundle,
        json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11, "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}),
    );
    let output = bundle.output();
    assert!(output.contains("refused\nsent\n"), "{output}");
}

fn seccomp_works_without_no_new_privileges(runtime: Runtime) {
    let mut bundle = Bundle::on(
        runtime,
        "mkdir /x 2>&1; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status",
    );
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    seccomp(
        &mut bundle,
        json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}),
    );
    let output = bundle.output();
    assert!(
        output.contains("No space left") && output.contains("NoNewPrivs:\t0\nSeccomp:\t2\n"),
        "{output}"
    );
}

fn seccomp_holds_for_exec(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    seccomp(
        &mut bundle,
        json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}),
    );
    bundle.start();
    let output = bundle.must(&["exec", &bundle.id, "sh", "-c", "mkdir /x 2>&1; true"]);
    assert!(output.contains("No space left"), "{output}");
}

/// Runs the bundle from a shell that opens `redirections` first.
fn run_with_descriptors(
    bundle: &Bundle,
    redirections: &str,
    environment: &[(&str, &str)],
    options: &str,
) -> String {
    bundle.write();
    let script = format!(
        "exec {redirections}; exec {} --root {} run {options} --bundle {} {}",
        bundle.on.program().display(),
        bundle.state_root().display(),
        bundle.directory().display(),
        bundle.id,
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .envs(environment.iter().copied())
        .output()
        .expect("starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("is UTF-8")
}

fn descriptors_are_passed_on_when_asked(runtime: Runtime) {
    let bundle = Bundle::on(
        runtime,
        "cat <&3; cat <&4; for fd in /proc/1/fd/*; do readlink $fd; done; true",
    );
    for (name, text) in [("three", "third\n"), ("four", "fourth\n"), ("five", "fifth\n")] {
        fs::write(bundle.place.path().join(name), text).expect("writes");
    }
    let at = bundle.place.path().display();
    let output = run_with_descriptors(
        &bundle,
        &format!("3<{at}/three 4<{at}/four 5<{at}/five"),
        &[],
        "--preserve-fds 2",
    );
    assert!(output.starts_with("third\nfourth\n"), "{output}");
    assert!(
        output.contains("/four\n") && !output.contains("/five\n"),
        "{output}"
    );
}

fn sockets_of_activation_are_passed_on(runtime: Runtime) {
    let bundle = Bundle::on(runtime, "echo $LISTEN_FDS $LISTEN_PID; cat <&3");
    fs::write(bundle.place.path().join("three"), "third\n").expect("writes");
    let redirection = format!("3<{}/three", bundle.place.path().display());
    let output = run_with_descriptors(&bundle, &redirection, &[("LISTEN_FDS", "1")], "");
    assert_eq!(output, "1 1\nthird\n");
}

fn the_scheduler_is_set(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "awk '{print $19, $41}' /proc/self/stat");
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    assert_eq!(bundle.output(), "7 3\n");
    let mut bundle = Bundle::on(runtime, "awk '{print $41}' /proc/self/stat");
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"});
    assert_eq!(bundle.output(), "5\n");
}

fn the_io_priority_is_set(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "sleep 60");
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    bundle.start();
    let pid = bundle.state()["pid"].to_string();
    let output = Command::new("ionice")
        .args(["-p", &pid])
        .output()
        .expect("starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "best-effort: prio 6\n");
    let mut bundle = Bundle::on(runtime, "true");
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 9});
    assert!(bundle.refusal().contains("ioPriority"));
}

fn the_personality_is_set(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "uname -m");
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    assert_eq!(bundle.output(), "i686\n");
}

fn labels_the_kernel_does_not_enforce_are_refused(runtime: Runtime) {
    for (place, setting, label, option) in [
        (
            "process",
            "apparmorProfile",
            "some-profile",
            "CONFIG_SECURITY_APPARMOR",
        ),
        (
            "process",
            "selinuxLabel",
            "system_u:system_r:container_t:s0",
            "CONFIG_SECURITY_SELINUX",
        ),
        (
            "linux",
            "mountLabel",
            "system_u:object_r:container_file_t:s0",
            "CONFIG_SECURITY_SELINUX",
        ),
    ] {
        let has_module = match setting {
            "apparmorProfile" => fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with('Y')),
            _ => fs::exists("/sys/fs/selinux/enforce").expect("looks"),
        };
        if has_module {
            eprintln!("skipped {setting}: this kernel enforces it");
            continue;
        }
        let mut bundle = Bundle::on(runtime, "true");
        bundle.config[place][setting] = json!(label);
        let said = bundle.refusal();
        assert!(said.contains(setting) && said.contains(option), "{said}");
    }
}

fn a_user_may_open_its_output_by_name(runtime: Runtime) {
    let mut bundle = Bundle::on(runtime, "echo by name > /dev/stdout; echo as well > /dev/stderr");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let output = bundle.run();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "by name\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "as well\n");
    // A file of the caller stays the caller's.
    let file = bundle.place.path().join("file");
    let owned = File::create(&file).expect("makes a file");
    let directory = bundle.directory();
    bundle
        .command(&[
            "run",
            "--bundle",
            directory.to_str().expect("is UTF-8"),
            &bundle.id,
        ])
        .stdout(owned)
        .output()
        .expect("starts");
    if runtime == Runtime::Ours {
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&fs::metadata(file).expect("exists")),
            0
        );
    }
}
