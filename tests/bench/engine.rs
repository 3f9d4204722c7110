//! What running containers costs beside Debian's dockerd: `docker run`, twenty containers in the background, memory.
//!
//! Both engines are driven by the same docker command, pull from the same registry, and take turns, so that a machine
//! that slows down slows both; medians are printed. Nothing here passes or fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use blackbox::process::{Process, run, succeed};
use blackbox::registry::Registry;
use blackbox::{binary, image, wait_for};
use tempfile::TempDir;

/// dockerd's bridge, so that another dockerd of this machine keeps its own.
const BRIDGE: &str = "ph-bench";
/// Containers in the background.
const COUNT: usize = 20;
const USAGE: &str = "usage: bench-engine [--rounds N]; rounds of each measurement (10)";

/// An engine and the directory that its processes have in their command lines.
struct Engine {
    name: &'static str,
    directory: TempDir,
    process: Option<Process>,
}

/// What one round measured.
#[derive(Clone, Copy)]
struct Figures {
    run_ms: f64,
    start_ms: f64,
    memory_mib: f64,
}

fn main() {
    let rounds = match rounds() {
        Ok(rounds) => rounds,
        Err(error) => {
            eprintln!("bench-engine: {error}\n{USAGE}");
            std::process::exit(2);
        }
    };
    let registry = Registry::open();
    let image = format!("{}/bench/busybox:latest", registry.address());
    let layout = registry.scratch().join("layout");
    image::busybox(&layout, &[]);
    succeed(
        Command::new("skopeo")
            .args(["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{image}")),
    );
    let engines = [Engine::dockerd(), Engine::pierhead()];
    for engine in &engines {
        wait_for(engine.name, Duration::from_secs(60), || {
            let answer = run(&mut engine.docker(&["pull", "--quiet", &image]));
            answer
                .status
                .success()
                .then_some(())
                .ok_or_else(|| String::from_utf8_lossy(&answer.stderr).into_owned())
        });
        // The first run makes what all others find.
        engine.run(&image);
    }
    let idle: Vec<f64> = engines.iter().map(Engine::memory_mib).collect();
    let mut figures: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (engine, figures) in engines.iter().zip(&mut figures) {
            figures.push(engine.round(&image));
        }
    }
    println!(
        "| what | {} | {} | ratio |\n|---|---|---|---|",
        engines[0].name, engines[1].name
    );
    let row = |what: &str, of: &dyn Fn(&Figures) -> f64| {
        let [theirs, ours] = [0, 1].map(|at: usize| median(figures[at].iter().map(of)));
        println!("| {what} | {theirs:.1} | {ours:.1} | {:.2} |", ours / theirs);
    };
    row("`docker run --rm busybox true`, ms", &|f| f.run_ms);
    row(&format!("{COUNT} × `docker run -d`, ms"), &|f| f.start_ms);
    row(&format!("engine's memory with {COUNT} containers, MiB"), &|f| {
        f.memory_mib
    });
    println!(
        "| engine's memory at rest, MiB | {:.1} | {:.1} | {:.2} |",
        idle[0],
        idle[1],
        idle[1] / idle[0]
    );
}

fn rounds() -> Result<usize, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [] => Ok(10),
        [flag, value] if flag == "--rounds" => match value.parse() {
            Ok(rounds) if rounds > 0 => Ok(rounds),
            _ => Err(format!(
                "--rounds {value}: a whole number of at least 1 is needed"
            )),
        },
        [word, ..] => Err(format!("unknown option {word}")),
    }
}

impl Engine {
    /// Debian's dockerd with directories of its own. Without iptables, which spares it work.
    fn dockerd() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut command = Command::new("dockerd");
        command
            .args(["--data-root", &at("data"), "--exec-root", &at("run")])
            .args(["--pidfile", &at("pid"), "--bridge", BRIDGE])
            .args(["--host", &format!("unix://{}", at("docker.sock"))])
            .args(["--iptables=false", "--ip6tables=false", "--userland-proxy=false"])
            .args(["--log-level", "error"]);
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["address", "add", "10.213.77.1/24", "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);
        Self {
            name: "dockerd",
            process: Some(Process::start(command)),
            directory,
        }
    }

    fn pierhead() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = agent("serve", directory.path());
        command.args(["--standalone"]).env("PIERHEAD_LOG", "error");
        Self {
            name: "pierhead-node",
            process: Some(Process::start(command)),
            directory,
        }
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(arguments)
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.directory.path().join("docker.sock").display()),
            )
            .env("DOCKER_CONFIG", self.directory.path().join("config"));
        command
    }

    fn run(&self, image: &str) {
        succeed(&mut self.docker(&["run", "--rm", image, "true"]));
    }

    fn round(&self, image: &str) -> Figures {
        let begun = Instant::now();
        self.run(image);
        let run_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let begun = Instant::now();
        let mut ids = Vec::new();
        for _ in 0..COUNT {
            let id = succeed(&mut self.docker(&["run", "-d", image, "sleep", "1000"]));
            ids.push(String::from_utf8_lossy(&id).trim().to_owned());
        }
        let start_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let memory_mib = self.memory_mib();
        let mut remove = self.docker(&["rm", "-f"]);
        succeed(remove.args(&ids));
        Figures {
            run_ms,
            start_ms,
            memory_mib,
        }
    }

    /// Proportional memory of all processes of the engine, in MiB: of those that have its directory in their command
    /// lines, which the containers' own have not.
    fn memory_mib(&self) -> f64 {
        let mark = self.directory.path().display().to_string();
        let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
        let kib = |process: PathBuf| {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            if !String::from_utf8_lossy(&line).contains(&mark) {
                return 0;
            }
            let rollup = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            pss.and_then(|pss| pss.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        processes.map(|entry| kib(entry.path())).sum::<u64>() as f64 / 1024.0
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(15);
            process.wait();
        }
        // Nothing may be left, whatever becomes of the other.
        if self.name == "pierhead-node" {
            run(agent("purge", self.directory.path()).arg("--yes"));
        } else {
            run(Command::new("ip").args(["link", "delete", BRIDGE]));
        }
    }
}

fn ip(arguments: &[&str]) {
    succeed(Command::new("ip").args(arguments));
}

fn agent(verb: &str, directory: &Path) -> Command {
    let mut command = Command::new(binary("pierhead-node"));
    command
        .arg(verb)
        .arg("--data")
        .arg(directory.join("data"))
        .arg("--run")
        .arg(directory.join("run"))
        .arg("--socket")
        .arg(directory.join("docker.sock"))
        .args(["--cgroup-parent", "pierhead-bench"]);
    command
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
