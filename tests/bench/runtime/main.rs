//! How long an OCI runtime takes to run a container of `/bin/true`, beside others on the same machine.
//!
//! `cargo bench -p blackbox --bench runtime [-- ROUNDS]`, as root. The runtimes take turns, so that a busy machine is
//! equally busy for all. Prints a table; passes no judgement.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

/// Something a runtime does, and how long it took.
type Act = fn(&Trial) -> Result<Duration, String>;

/// What is measured, with the time it took in each round.
struct Row {
    runtime: String,
    act: &'static str,
    times: Vec<Duration>,
    processor: Duration,
}

fn main() {
    let rounds: usize = std::env::args()
        .skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or(50);
    let place = tempfile::tempdir().expect("makes a directory");
    let bundle = bundle(place.path());
    let mut runtimes: Vec<(String, PathBuf)> = vec![(
        "pierhead-runtime".to_owned(),
        blackbox::binary("pierhead-runtime"),
    )];
    for other in ["runc", "crun", "youki"] {
        let trial = Trial {
            program: PathBuf::from(other),
            state: place.path().join("trial"),
            bundle: bundle.clone(),
        };
        match trial.run() {
            Ok(_) => runtimes.push((other.to_owned(), PathBuf::from(other))),
            Err(why) => eprintln!("without {other}: {why}"),
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..rounds {
        for (name, program) in &runtimes {
            let trial = Trial {
                program: program.clone(),
                state: place.path().join(name),
                bundle: bundle.clone(),
            };
            let acts: [(&str, Act); 3] = [
                ("run", Trial::run),
                ("create, start, delete", Trial::create_start_delete),
                ("exec", Trial::exec),
            ];
            for (act, measure) in acts {
                let before = processor_time();
                match measure(&trial) {
                    Ok(time) => note(&mut rows, name, act, time, processor_time() - before),
                    Err(why) => eprintln!("{name} {act}: {why}"),
                }
            }
        }
        let before = processor_time();
        let floor = timed(Command::new("unshare").args(["-mpfnui", "/bin/true"]));
        let used = processor_time() - before;
        note(&mut rows, "unshare(1)", "run", floor.expect("unshare runs"), used);
    }
    print(&mut rows);
}

fn note(rows: &mut Vec<Row>, runtime: &str, act: &'static str, time: Duration, processor: Duration) {
    let known = rows
        .iter()
        .position(|row| row.runtime == runtime && row.act == act);
    let at = known.unwrap_or_else(|| {
        rows.push(Row {
            runtime: runtime.to_owned(),
            act,
            times: Vec::new(),
            processor: Duration::ZERO,
        });
        rows.len() - 1
    });
    rows[at].times.push(time);
    rows[at].processor += processor;
}

/// What ended children of this process have used so far. The kernel tells hundredths of a second, so only the sum of
/// many rounds means something.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").expect("reads");
    let fields = text
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' '))
        .expect("has fields");
    let ticks: u64 = fields
        .skip(13)
        .take(2)
        .map(|field| field.parse().unwrap_or(0))
        .sum();
    Duration::from_millis(ticks * 10)
}

fn print(rows: &mut [Row]) {
    rows.sort_by_key(|row| row.act);
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("| act | runtime | median ms | lowest ms | 95th percentile ms | processor ms |");
    println!("|---|---|---|---|---|---|");
    for row in rows {
        row.times.sort();
        let at = |share: usize| milliseconds(row.times[(row.times.len() - 1) * share / 100]);
        let used = milliseconds(row.processor) / row.times.len() as f64;
        let (middle, lowest, high) = (at(50), at(0), at(95));
        println!(
            "| {} | {} | {middle:.1} | {lowest:.1} | {high:.1} | {used:.1} |",
            row.act, row.runtime
        );
    }
}

struct Trial {
    program: PathBuf,
    state: PathBuf,
    bundle: PathBuf,
}

impl Trial {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).args(args);
        command
    }

    fn at_bundle(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = self.command(&[verb]);
        command
            .args(options)
            .arg("--bundle")
            .arg(&self.bundle)
            .arg("bench");
        command
    }

    fn run(&self) -> Result<Duration, String> {
        timed(&mut self.at_bundle("run", &[]))
    }

    fn create_start_delete(&self) -> Result<Duration, String> {
        let started = Instant::now();
        timed(&mut self.at_bundle("create", &[]))?;
        timed(&mut self.command(&["start", "bench"]))?;
        timed(&mut self.command(&["delete", "--force", "bench"]))?;
        Ok(started.elapsed())
    }

    fn exec(&self) -> Result<Duration, String> {
        let text = fs::read_to_string(self.bundle.join("config.json")).map_err(|error| error.to_string())?;
        let long = text.replace("\"/bin/true\"", "\"/bin/sleep\",\"60\"");
        let other = self.bundle.with_file_name("long");
        // The root of the one serves for the other.
        fs::create_dir_all(&other)
            .and_then(|()| fs::write(other.join("config.json"), long))
            .map_err(|error| error.to_string())?;
        let held = Trial {
            program: self.program.clone(),
            state: self.state.clone(),
            bundle: other,
        };
        timed(&mut held.at_bundle("run", &["--detach"]))?;
        let time = timed(&mut self.command(&["exec", "bench", "/bin/true"]));
        timed(&mut self.command(&["delete", "--force", "bench"]))?;
        time
    }
}

fn timed(command: &mut Command) -> Result<Duration, String> {
    let started = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // Not a pipe, which a container that lives on would hold open.
        .stderr(Stdio::null())
        .status()
        .map_err(|error| error.to_string())?;
    if output.success() {
        Ok(started.elapsed())
    } else {
        Err(format!("{output}"))
    }
}

/// A root of one busybox and a configuration with what engines ask for: all namespaces, capabilities, masks, limits.
fn bundle(place: &Path) -> PathBuf {
    let root = place.join("root");
    fs::create_dir_all(root.join("bin")).expect("makes a directory");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("apt-get install busybox-static");
    for applet in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("links an applet");
    }
    let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let caps = [
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_BIND_SERVICE",
    ];
    let config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": root},
        "hostname": "bench",
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": ["/bin/true"], "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/pierhead-bench-{}", std::process::id()),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"},
            ],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 134_217_728}, "pids": {"limit": 100},
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["mount", "kexec_load", "bpf", "reboot"], "action": "SCMP_ACT_ERRNO"}],
            },
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    let bundle = place.join("bundle");
    fs::create_dir_all(&bundle).expect("makes a directory");
    fs::write(bundle.join("config.json"), config.to_string()).expect("writes");
    bundle
}
