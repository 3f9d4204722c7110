//! The agent is killed, the host is rebooted, the shim is killed: what the next agent makes of it.

use std::fs;
use std::time::Duration;

use node_agent::engine::{ContainerState, EngineError, EventKind};
use runtime::clock::process_stat;
use runtime::container::ContainerId;
use serde_json::Value;

use crate::support::{DIRECTORY, Host, SCRIPT, agent, log, on_a_host, pid, run, shell, until, view};

/// Not a test: the agent that others kill. Ignored by itself, and started by `Host::spawn_agent`.
#[test]
#[ignore = "is the other process of the tests in this file"]
fn agent_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let host = Host {
        directory: directory.into(),
    };
    let script = std::env::var(SCRIPT).expect("is set");
    agent().block_on(async {
        let engine = host.open().await;
        println!("agent: open");
        match script.strip_prefix("run ") {
            Some(script) => {
                let id = run(&engine, shell(script)).await;
                println!("agent: {}", id.as_str());
            }
            // Lives and deaths until it is killed itself.
            None => loop {
                let id = run(&engine, shell("echo hello; sleep 0.01")).await;
                engine.remove(&id, true).await.expect("removes");
            },
        }
        std::future::pending::<()>().await;
    });
}

fn has_ended(process: i32) -> bool {
    process_stat(process).map_or(true, |(state, _)| state == 'Z')
}

fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).expect("an id")
}

#[test]
fn containers_outlive_the_agent_and_are_adopted() {
    on_a_host(async |host| {
        let mut first = host.spawn_agent("run i=0; while true; do i=$((i+1)); echo $i; sleep 0.02; done");
        first.hear();
        let id = id(&first.hear());
        first.kill();
        let record: Value =
            serde_json::from_slice(&fs::read(host.record(&id)).expect("reads")).expect("is JSON");
        let recorded = &record["phase"]["running"];
        let before = process_stat(recorded["init"]["pid"].as_i64().expect("a pid") as i32).expect("runs on");

        let engine = host.open().await;
        let process = pid(&engine, &id).await;
        assert_eq!(recorded["init"]["pid"], process);
        assert_eq!(
            process_stat(process).expect("runs on").1,
            before.1,
            "the very same process"
        );
        let state = view(&engine, &id).await.state;
        assert!(
            matches!(&state, ContainerState::Running { started_at, .. } if recorded["started_at"] == started_at.as_str()),
            "{state:?}"
        );
        assert!(view(&engine, &id).await.address.is_some());
        let so_far = log(&engine, &id).await;
        until("more output", async || {
            log(&engine, &id).await.len() > so_far.len()
        })
        .await;
        let all = log(&engine, &id).await;
        assert!(all.starts_with("1\n2\n") && all.starts_with(&so_far), "{all}");
        let exit = engine.stop(&id, Duration::ZERO).await.expect("stops");
        assert_eq!(exit.signal, Some(9));
        engine.remove(&id, false).await.expect("removes");
    });
}

#[test]
fn an_exit_that_no_agent_saw_is_announced_once() {
    on_a_host(async |host| {
        let mut first = host.spawn_agent("run while ! test -e /tmp/go; do sleep 0.02; done; exit 5");
        first.hear();
        let id = id(&first.hear());
        first.kill();
        let root = host.directory.join("roots").join(id.as_str()).join("upper");
        let record: Value =
            serde_json::from_slice(&fs::read(host.record(&id)).expect("reads")).expect("is JSON");
        let process = record["phase"]["running"]["init"]["pid"].as_i64().expect("a pid");
        fs::write(format!("/proc/{process}/root/tmp/go"), "").expect("reaches the container");
        let exit_file = host.run().join("containers").join(id.as_str()).join("exit.json");
        until("the exit record", async || exit_file.exists()).await;
        assert!(root.exists());

        // On a runtime of its own, as an agent that ends takes all its tasks with it.
        let second = std::thread::spawn({
            let host = host.clone();
            move || {
                let runtime = agent();
                // The shim may be about to end still; then the exit is announced a moment after the opening.
                let event = runtime.block_on(async {
                    let engine = host.open().await;
                    let mut events = engine.events();
                    tokio::time::timeout(Duration::from_secs(20), events.recv()).await
                });
                runtime.shutdown_timeout(Duration::from_secs(5));
                event.expect("is in time").expect("is announced").kind
            }
        });
        let first = tokio::task::block_in_place(|| second.join().expect("does not panic"));
        let engine = host.open().await;
        let ContainerState::Exited(exit) = view(&engine, &id).await.state else {
            panic!("has not ended");
        };
        assert_eq!((exit.exit_code, exit.oom_killed, &exit.reason), (5, false, &None));
        assert!(
            exit.started_at
                .as_ref()
                .is_some_and(|start| *start < exit.finished_at)
        );
        assert_eq!(EventKind::Exited(exit), first);
        assert!(engine.events().try_recv().is_err(), "it is announced once");
        engine.remove(&id, false).await.expect("removes");
    });
}

#[test]
fn after_a_reboot_nothing_runs_and_everything_can_start_again() {
    on_a_host(async |host| {
        let mut first = host.spawn_agent("run sleep 1000");
        first.hear();
        let id = id(&first.hear());
        first.kill();
        // A reboot ends every process and empties RUN; the boot id is another one.
        let text = fs::read_to_string(host.record(&id)).expect("reads");
        let mut record: Value = serde_json::from_str(&text).expect("is JSON");
        let running = record["phase"]["running"].clone();
        for who in ["shim", "init"] {
            let process = running[who]["pid"].as_i64().expect("a pid") as i32;
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(process),
                nix::sys::signal::Signal::SIGKILL,
            );
            until("its end", async || has_ended(process)).await;
        }
        fs::remove_dir_all(host.run().join("containers")).expect("removes");
        fs::remove_dir_all(host.run().join("runtime")).expect("removes");
        record["phase"]["running"]["boot_id"] = Value::from("another");
        fs::write(host.record(&id), record.to_string()).expect("writes");

        let engine = host.open().await;
        let ContainerState::Exited(exit) = view(&engine, &id).await.state else {
            panic!("runs");
        };
        assert_eq!(exit.exit_code, 255);
        assert_eq!(exit.reason.as_deref(), Some("the host was restarted"));
        assert_eq!(exit.started_at.as_deref(), running["started_at"].as_str());
        engine.start(&id).await.expect("starts again");
        engine.remove(&id, true).await.expect("removes");
    });
}

#[test]
fn a_killed_shim_takes_its_container_with_it() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let id = run(
            &engine,
            shell("trap '' TERM HUP PIPE; sleep 1000 & while true; do sleep 1; done"),
        )
        .await;
        let process = pid(&engine, &id).await;
        let record: Value =
            serde_json::from_slice(&fs::read(host.record(&id)).expect("reads")).expect("is JSON");
        let shim = record["phase"]["running"]["shim"]["pid"].as_i64().expect("a pid") as i32;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(shim),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("kills");
        let exit = engine.wait(&id).await.expect("ends");
        assert_eq!(exit.exit_code, 255);
        assert!(exit.reason.is_some_and(|reason| reason.contains("shim")));
        engine
            .start(&id)
            .await
            .expect("starts again, after all of the first run is gone");
        // Whoever adopts orphans on this machine may take its time to reap it.
        assert!(has_ended(process), "nothing of it runs on");
        engine.remove(&id, true).await.expect("removes");
    });
}

#[test]
fn a_second_agent_on_the_same_data_is_refused() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let error = host.try_open().await.expect_err("is in use");
        assert!(matches!(error, EngineError::InUse { .. }), "{error}");
        drop(engine);
    });
}

#[test]
fn a_kill_at_any_moment_leaves_nothing_that_the_next_agent_does_not_settle() {
    on_a_host(async |host| {
        for round in 0..30u64 {
            let mut doomed = host.spawn_agent("churn");
            assert_eq!(doomed.hear(), "open");
            // Different moments of create, start and remove; together they take some 100 ms here.
            tokio::time::sleep(Duration::from_millis(round * 7)).await;
            doomed.kill();
            let next = std::thread::spawn({
                let host = host.clone();
                move || {
                    let runtime = agent();
                    runtime.block_on(async {
                        let engine = host.open().await;
                        for container in engine.list().await {
                            // Whatever it was in the middle of, it can be run and removed.
                            let id = &container.id;
                            if !matches!(container.state, ContainerState::Running { .. }) {
                                engine.start(id).await.expect("starts");
                            }
                            engine.wait(id).await.expect("ends");
                            engine.remove(id, false).await.expect("removes");
                        }
                    });
                    runtime.shutdown_timeout(Duration::from_secs(5));
                }
            });
            tokio::task::block_in_place(|| next.join().expect("does not panic"));
            host.expect_nothing_left();
        }
    });
}

#[test]
fn a_container_whose_shim_file_is_damaged_stays_until_somebody_insists() {
    on_a_host(async |host| {
        let mut first = host.spawn_agent("run sleep 1000");
        first.hear();
        let id = id(&first.hear());
        first.kill();
        let file = host.run().join("containers").join(id.as_str()).join("shim.json");
        let good = fs::read(&file).expect("reads");
        fs::write(&file, "{").expect("writes");
        let engine = host.open().await;
        let process = pid(&engine, &id).await;
        let error = engine
            .stop(&id, Duration::ZERO)
            .await
            .expect_err("cannot be asked");
        assert!(
            node_agent::chain::Chain(&error).to_string().contains("shim.json"),
            "{error}"
        );
        assert!(!has_ended(process), "absence of information stops nothing");
        fs::write(&file, good).expect("writes");
        engine.kill(&id, 0x0f).await.expect("is found again");
        fs::write(&file, "{").expect("writes");
        engine.remove(&id, true).await.expect("removes");
        assert!(has_ended(process));
    });
}
