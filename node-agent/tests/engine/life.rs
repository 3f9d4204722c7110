//! Create, start, stop, kill, wait, remove.

use std::time::Duration;

use futures::future::join_all;
use node_agent::engine::{ContainerState, EngineError, EventKind, SpecError};
use node_agent::network::{PortRequest, Protocol};

use crate::support::{config, on_a_host, output, pid, run, shell, until, view};

#[test]
fn a_container_lives_and_leaves_nothing() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let mut events = engine.events();
        let id = engine.create(shell("echo hello; exit 3")).await.expect("creates");
        assert_eq!(view(&engine, &id).await.state, ContainerState::Created);
        let waiter = tokio::spawn({
            let (engine, id) = (engine.clone(), id.clone());
            async move { engine.wait(&id).await }
        });
        engine.start(&id).await.expect("starts");
        let exit = waiter.await.expect("joins").expect("ends");
        assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (3, None, false));
        assert!(
            exit.started_at
                .as_ref()
                .is_some_and(|start| *start < exit.finished_at)
        );
        assert_eq!(
            view(&engine, &id).await.state,
            ContainerState::Exited(exit.clone())
        );
        engine.remove(&id, false).await.expect("removes");
        assert!(engine.get(&id).await.is_none());
        let mut kinds = Vec::new();
        while let Ok(event) = events.try_recv() {
            assert_eq!((&event.id, event.labels["from"].as_str()), (&id, "image"));
            kinds.push(event.kind);
        }
        let expected = [
            EventKind::Created,
            EventKind::Started,
            EventKind::Exited(exit),
            EventKind::Removed,
        ];
        assert_eq!(kinds, expected);
    });
}

#[test]
fn what_was_written_is_there_after_a_second_start() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let id = run(&engine, shell("echo x >> /tmp/times; exit $(wc -l < /tmp/times)")).await;
        assert_eq!(engine.wait(&id).await.expect("ends").exit_code, 1);
        engine.start(&id).await.expect("starts again");
        until("the second end", async || {
            matches!(view(&engine, &id).await.state, ContainerState::Exited(exit) if exit.exit_code == 2)
        })
        .await;
        engine.remove(&id, false).await.expect("removes");
    });
}

#[test]
fn stop_asks_first_and_kills_then() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let mut polite = shell("trap 'exit 7' QUIT; echo ready; while true; do sleep 0.05; done");
        config(&mut polite).stop_signal = Some("SIGQUIT".to_owned());
        let polite = run(&engine, polite).await;
        let stubborn = run(
            &engine,
            shell("trap '' TERM; echo ready; while true; do sleep 0.05; done"),
        )
        .await;
        for id in [&polite, &stubborn] {
            until("the trap", async || {
                crate::support::log(&engine, id).await.contains("ready")
            })
            .await;
        }
        let exit = engine
            .stop(&polite, Duration::from_secs(30))
            .await
            .expect("stops");
        assert_eq!((exit.exit_code, exit.signal), (7, None));
        let exit = engine
            .stop(&stubborn, Duration::from_millis(200))
            .await
            .expect("stops");
        assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
        for id in [&polite, &stubborn] {
            engine.remove(id, false).await.expect("removes");
        }
    });
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let id = engine.create(shell("sleep 100")).await.expect("creates");
        let error = engine.kill(&id, 9).await.expect_err("never ran");
        assert!(
            matches!(error, EngineError::NotRunning { state: "created", .. }),
            "{error}"
        );
        engine.start(&id).await.expect("starts");
        let error = engine.start(&id).await.expect_err("runs");
        assert!(matches!(error, EngineError::AlreadyRunning { .. }), "{error}");
        let error = engine.remove(&id, false).await.expect_err("runs");
        assert!(matches!(error, EngineError::RemoveRunning { .. }), "{error}");
        let error = engine.kill(&id, 99).await.expect_err("no such signal");
        assert!(matches!(error, EngineError::NoSignal { signal: 99 }), "{error}");
        engine.kill(&id, 9).await.expect("kills");
        assert_eq!(engine.wait(&id).await.expect("ends").signal, Some(9));
        let error = engine.stop(&id, Duration::ZERO).await.expect_err("has ended");
        assert!(
            matches!(error, EngineError::NotRunning { state: "exited", .. }),
            "{error}"
        );
        assert!(error.to_string().contains("start it first"), "{error}");
        engine.start(&id).await.expect("starts again");
        let process = pid(&engine, &id).await;
        engine.remove(&id, true).await.expect("removes what runs");
        assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
        let error = engine.start(&id).await.expect_err("is gone");
        assert!(matches!(error, EngineError::NotFound { .. }), "{error}");
    });
}

#[test]
fn names_are_unique_and_ids_may_be_short() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let named = |name: &str| {
            let mut new = shell("true");
            name.clone_into(&mut new.name);
            new
        };
        let attempts = join_all((0..8).map(|_| engine.create(named("web")))).await;
        let (made, refused): (Vec<_>, Vec<_>) = attempts.into_iter().partition(Result::is_ok);
        let id = made.into_iter().next().expect("one wins").expect("is made");
        assert_eq!(refused.len(), 7);
        for error in refused {
            let error = error.expect_err("is refused");
            assert!(
                matches!(&error, EngineError::NameTaken { holder, .. } if holder == id.as_str()),
                "{error}"
            );
        }
        for bad in ["", "a", "-a", "a b", "../x", "a/b", &"a".repeat(300)] {
            let error = engine.create(named(bad)).await.expect_err("is no name");
            assert!(matches!(error, EngineError::NameMalformed { .. }), "{error}");
        }
        for query in ["web", id.as_str(), &id.as_str()[..5]] {
            assert_eq!(engine.resolve(query).expect("is found"), id);
        }
        for query in ["", "we", "ffffffffffffffffg"] {
            let error = engine.resolve(query).expect_err("is nobody");
            assert!(matches!(error, EngineError::NotFound { .. }), "{error}");
        }
        let mut ids = vec![id];
        // Sixteen first digits: seventeen ids have a pair.
        for number in 0..16 {
            ids.push(
                engine
                    .create(named(&format!("web-{number}")))
                    .await
                    .expect("creates"),
            );
        }
        let ambiguous = ids.iter().any(|id| {
            matches!(
                engine.resolve(&id.as_str()[..1]),
                Err(EngineError::Ambiguous { .. })
            )
        });
        assert!(ambiguous);
        for id in ids {
            engine.remove(&id, false).await.expect("removes");
        }
        let again = engine.create(named("web")).await.expect("the name is free again");
        engine.remove(&again, false).await.expect("removes");
    });
}

#[test]
fn many_start_and_end_at_once() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let results = join_all((0..12).map(|number| {
            let engine = engine.clone();
            async move { output(&engine, shell(&format!("echo {number}; exit {number}"))).await }
        }));
        for (number, (text, code)) in results.await.into_iter().enumerate() {
            assert_eq!(
                (text, code),
                (format!("{number}\n"), i32::try_from(number).expect("fits"))
            );
        }
    });
}

#[test]
fn operations_on_one_container_take_turns() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let id = engine.create(shell("sleep 100")).await.expect("creates");
        let starts = join_all((0..6).map(|_| engine.start(&id))).await;
        assert_eq!(
            starts.iter().filter(|start| start.is_ok()).count(),
            1,
            "{starts:?}"
        );
        let removals = join_all((0..6).map(|_| engine.remove(&id, true))).await;
        assert_eq!(
            removals.iter().filter(|removal| removal.is_ok()).count(),
            1,
            "{removals:?}"
        );
    });
}

#[test]
fn a_failed_start_names_the_step_and_leaves_nothing() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let mut missing_program = shell("");
        missing_program.container.entrypoint = Some(vec!["/bin/absent".to_owned()]);
        let mut missing_user = shell("true");
        missing_user.container.user = Some("ghost".to_owned());
        let mut missing_group = shell("true");
        missing_group.container.user = Some("app:ghost".to_owned());
        let mut not_executable = shell("");
        not_executable.container.entrypoint = Some(vec!["/etc/passwd".to_owned()]);
        for (new, words) in [
            (missing_program, ["exec", "/bin/absent"]),
            (missing_user, ["find user", "ghost"]),
            (missing_group, ["/etc/group", "ghost"]),
            (not_executable, ["exec", "/etc/passwd"]),
        ] {
            let id = engine.create(new).await.expect("creates");
            for _ in 0..2 {
                let error = engine.start(&id).await.expect_err("cannot start");
                let text = node_agent::chain::Chain(&error).to_string();
                assert!(words.iter().all(|word| text.contains(word)), "{text}");
                assert!(!text.contains("cleaning up"), "{text}");
                assert_eq!(view(&engine, &id).await.state, ContainerState::Created);
                assert!(host.cgroups(id.as_str()).is_empty());
                assert!(!host.run().join("containers").join(id.as_str()).exists());
                assert!(!host.run().join("netns").join(id.as_str()).exists());
            }
            engine.remove(&id, false).await.expect("removes");
        }
        let mut nothing = shell("");
        nothing.container.entrypoint = Some(Vec::new());
        nothing.container.command = None;
        let error = engine.create(nothing).await.expect_err("has nothing to run");
        let source = match &error {
            EngineError::Spec { source, .. } => source,
            other => panic!("{other}"),
        };
        assert_eq!(*source, SpecError::NoCommand);
    });
}

#[test]
fn a_port_that_is_taken_fails_the_start_and_leaves_nothing() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let serving = || {
            let mut new = shell("sleep 1000");
            new.ports = vec![PortRequest {
                protocol: Protocol::Tcp,
                host_address: None,
                host_port: 8080,
                container_port: 80,
            }];
            new
        };
        let first = run(&engine, serving()).await;
        let second = engine.create(serving()).await.expect("creates");
        let error = engine.start(&second).await.expect_err("the port is taken");
        let text = node_agent::chain::Chain(&error).to_string();
        assert!(text.contains("attach") && text.contains(first.as_str()), "{text}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("reads");
        assert!(!mounts.contains(second.as_str()), "its root is unmounted");
        engine.remove(&first, true).await.expect("removes");
        engine.start(&second).await.expect("the port is free");
        engine.remove(&second, true).await.expect("removes");
    });
}
