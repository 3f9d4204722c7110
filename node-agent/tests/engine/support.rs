//! A host of its own for each test: a network namespace, a directory, a control group, busybox as the image. Whatever a
//! test leaves behind fails it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use api::{ContainerSpec, LogQuery, Resources};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use node_agent::engine::{
    ContainerState, ContainerView, Engine, EngineConfig, EngineError, NewContainer, RootError,
    RootFilesystems,
};
use node_agent::image::{Image, ImageConfig};
use node_agent::network::{Network, NetworkConfig};
use oci::Digest;
use runtime::cgroup;
use runtime::container::ContainerId;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Where an agent in a process of its own finds its host.
pub const DIRECTORY: &str = "PIERHEAD_TEST_DIRECTORY";
/// What it does there.
pub const SCRIPT: &str = "PIERHEAD_TEST_SCRIPT";
/// How long anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The directories of a host, and names that follow from them.
#[derive(Clone, Debug)]
pub struct Host {
    pub directory: PathBuf,
}

/// Runs `test` on a host; nothing of any container may be left after it.
pub fn on_a_host(test: impl AsyncFnOnce(&Host) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: running containers needs root");
        return;
    }
    let directory = TempDir::with_prefix("pierhead-engine-").expect("makes a directory");
    let host = Host {
        directory: directory.path().to_owned(),
    };
    host.make_image();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            let status = Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(status.expect("apt-get install iproute2").success());
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| agent().block_on(test(&host))));
            // A failed test must not leave anything on the machine either.
            if let Err(panic) = outcome {
                agent().block_on(host.remove_everything());
                std::panic::resume_unwind(panic);
            }
            host.expect_nothing_left();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What an agent's threads run on.
pub fn agent() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

impl Host {
    pub async fn open(&self) -> Engine {
        self.try_open().await.expect("opens")
    }

    pub async fn try_open(&self) -> Result<Engine, EngineError> {
        let network = NetworkConfig::for_instance(&self.directory.join("data"), &self.run());
        let network = Network::open(network).await.expect("opens the network");
        let config = EngineConfig {
            data: self.data(),
            run: self.run(),
            cgroup_parent: self.cgroup_parent(),
        };
        let program = PathBuf::from(env!("CARGO_BIN_EXE_pierhead-node"));
        Engine::open_with(program, config, Overlays { host: self.clone() }, network).await
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join("data/containers")
    }

    pub fn run(&self) -> PathBuf {
        self.directory.join("run")
    }

    pub fn record(&self, id: &ContainerId) -> PathBuf {
        self.data().join(id.as_str()).join("container.json")
    }

    fn cgroup_parent(&self) -> String {
        let name = self.directory.file_name().expect("has a name");
        name.to_string_lossy().into_owned()
    }

    /// The directories of a container's control group, or of all when `id` is empty.
    pub fn cgroups(&self, id: &str) -> Vec<PathBuf> {
        let hierarchies = cgroup::hierarchies().expect("control groups are mounted");
        hierarchies
            .into_iter()
            .map(|known| known.mount.join(self.cgroup_parent()).join(id))
            .filter(|path| path.exists())
            .collect()
    }

    /// Content of a file of a container's control group, from the hierarchy that has it.
    pub fn limit(&self, id: &ContainerId, v1: &str, v2: &str) -> String {
        let paths = self.cgroups(id.as_str());
        let found = paths
            .iter()
            .flat_map(|path| [path.join(v1), path.join(v2)])
            .find_map(|file| fs::read_to_string(file).ok());
        found
            .unwrap_or_else(|| panic!("no {v1} or {v2} in {paths:?}"))
            .trim()
            .to_owned()
    }

    /// Starts an agent in a process of its own, which carries out `script`; see the test `agent_process`.
    pub fn spawn_agent(&self, script: &str) -> Agent {
        let mut child = Command::new(std::env::current_exe().expect("knows itself"))
            .args([
                "--exact",
                "agent_death::agent_process",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIRECTORY, &self.directory)
            .env(SCRIPT, script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = child.stdout.take().expect("is piped");
        Agent {
            child,
            output: BufReader::new(output),
        }
    }

    fn roots(&self) -> PathBuf {
        self.directory.join("roots")
    }

    fn make_image(&self) {
        let image = self.directory.join("image");
        for directory in ["bin", "etc", "tmp", "proc", "dev"] {
            fs::create_dir_all(image.join(directory)).expect("makes the image");
        }
        fs::copy("/bin/busybox", image.join("bin/busybox")).expect("apt-get install busybox-static");
        for applet in [
            "cat", "dd", "echo", "env", "grep", "head", "hostname", "id", "kill", "ls", "mount", "nc", "pwd",
            "seq", "sh", "sleep", "tail", "touch", "trap", "true", "wc", "tr",
        ] {
            symlink("busybox", image.join("bin").join(applet)).expect("links an applet");
        }
        fs::write(
            image.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
        )
        .expect("writes");
        fs::write(
            image.join("etc/group"),
            "root:x:0:\napp:x:1001:\naudio:x:29:app\n",
        )
        .expect("writes");
    }

    async fn remove_everything(&self) {
        let Ok(engine) = self.try_open().await else {
            return;
        };
        for container in engine.list().await {
            if let Err(error) = engine.remove(&container.id, true).await {
                eprintln!("cleaning up: {error}");
            }
        }
        self.remove_cgroups();
    }

    fn remove_cgroups(&self) {
        for path in self.cgroups("") {
            if let Err(error) = fs::remove_dir(&path) {
                eprintln!("cleaning up: {}: {error}", path.display());
            }
        }
    }

    pub fn expect_nothing_left(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reads");
        let place = self.directory.to_string_lossy().into_owned();
        let mounts: Vec<&str> = mounts.lines().filter(|line| line.contains(&place)).collect();
        assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
        for directory in [
            self.run().join("containers"),
            self.run().join("runtime"),
            self.run().join("netns"),
            self.roots(),
        ] {
            assert_eq!(
                names(&directory),
                Vec::<String>::new(),
                "in {}",
                directory.display()
            );
        }
        let data = names(&self.data());
        assert!(
            data.iter().all(|name| name == "lock"),
            "records are left: {data:?}"
        );
        for parent in self.cgroups("") {
            let left: Vec<_> = fs::read_dir(&parent)
                .expect("lists")
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .collect();
            assert!(left.is_empty(), "control groups are left: {left:?}");
        }
        let links = Command::new("ip").args(["-o", "link"]).output().expect("runs");
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        assert!(!links.contains("phv"), "interfaces are left: {links}");
        self.remove_cgroups();
    }
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// An agent in a process of its own.
pub struct Agent {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Agent {
    /// The next word it says, past what the test harness says.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.output.read_line(&mut line).expect("reads");
            assert!(length > 0, "the agent ended without a word");
            if let Some((_, word)) = line.split_once("agent: ") {
                return word.trim().to_owned();
            }
        }
    }

    /// SIGKILL, as the kernel would under memory pressure.
    pub fn kill(mut self) {
        self.child.kill().expect("kills");
        self.child.wait().expect("waits");
    }
}

/// Root file systems as the image store makes them: one overlay per container.
#[derive(Debug)]
struct Overlays {
    host: Host,
}

impl Overlays {
    fn place(&self, container: &ContainerId) -> PathBuf {
        self.host.roots().join(container.as_str())
    }

    fn try_mount(&self, container: &ContainerId) -> Result<PathBuf, RootError> {
        let place = self.place(container);
        let root = place.join("root");
        if root.join("bin/busybox").exists() {
            return Ok(root);
        }
        for directory in ["root", "upper", "work"] {
            fs::create_dir_all(place.join(directory))?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.host.directory.join("image").display(),
            place.join("upper").display(),
            place.join("work").display()
        );
        mount(
            Some("overlay"),
            &root,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?;
        Ok(root)
    }

    fn try_unmount(&self, container: &ContainerId) -> Result<(), RootError> {
        match umount2(&self.place(container).join("root"), MntFlags::empty()) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl RootFilesystems for Overlays {
    fn mount<'a>(
        &'a self,
        _: &'a Digest,
        container: &'a ContainerId,
    ) -> BoxFuture<'a, Result<PathBuf, RootError>> {
        async { self.try_mount(container) }.boxed()
    }

    fn unmount<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), RootError>> {
        async { self.try_unmount(container) }.boxed()
    }

    fn remove<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), RootError>> {
        async {
            self.try_unmount(container)?;
            match fs::remove_dir_all(self.place(container)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ContainerId>, RootError>> {
        async {
            let names = names(&self.host.roots());
            Ok(names
                .iter()
                .filter_map(|name| ContainerId::parse(name).ok())
                .collect())
        }
        .boxed()
    }
}

fn image() -> Image {
    let digest = Digest::sha256(b"busybox");
    Image {
        digest: digest.clone(),
        manifest_digest: digest.clone(),
        config_digest: digest,
        repository: "test/busybox".parse().expect("a name"),
        config: ImageConfig {
            entrypoint: vec!["sh".to_owned(), "-c".to_owned()],
            cmd: vec!["echo nothing asked for".to_owned()],
            labels: [("from".to_owned(), "image".to_owned())].into(),
            ..ImageConfig::default()
        },
        layers: Vec::new(),
        size_bytes: 0,
    }
}

/// The image's own words for this container.
pub fn config(new: &mut NewContainer) -> &mut ImageConfig {
    &mut Arc::make_mut(&mut new.image).config
}

/// A container that runs `sh -c script`.
pub fn shell(script: &str) -> NewContainer {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NewContainer {
        name: format!("shell-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        image: Arc::new(image()),
        image_name: None,
        is_removed_at_end: false,
        container: ContainerSpec {
            command: Some(vec![script.to_owned()]),
            ..ContainerSpec::default()
        },
        resources: Resources::default(),
        ports: Vec::new(),
    }
}

/// Creates and starts.
pub async fn run(engine: &Engine, new: NewContainer) -> ContainerId {
    let id = engine.create(new).await.expect("creates");
    engine.start(&id).await.expect("starts");
    id
}

/// Creates, starts, waits and removes; returns the output and the exit code.
pub async fn output(engine: &Engine, new: NewContainer) -> (String, i32) {
    let id = run(engine, new).await;
    let exit = engine.wait(&id).await.expect("ends");
    let text = log(engine, &id).await;
    engine.remove(&id, false).await.expect("removes");
    (text, exit.exit_code)
}

/// All that was written so far.
pub async fn log(engine: &Engine, id: &ContainerId) -> String {
    engine
        .logs(id, &LogQuery::default())
        .map(|entry| entry.expect("reads").log)
        .collect()
        .await
}

pub async fn view(engine: &Engine, id: &ContainerId) -> ContainerView {
    engine.get(id).await.expect("exists")
}

pub async fn pid(engine: &Engine, id: &ContainerId) -> i32 {
    match view(engine, id).await.state {
        ContainerState::Running { pid, .. } => pid,
        other => panic!("{other:?} is not running"),
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} did not come to be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
