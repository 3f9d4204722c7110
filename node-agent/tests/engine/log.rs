//! Output: both streams, tails, following, rotation by the real shim.

use api::{LogQuery, LogStream};
use futures::StreamExt;

use crate::support::{log, on_a_host, run, shell, until};

#[test]
fn lines_keep_their_stream_and_tails_are_short() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let id = run(
            &engine,
            shell("echo one; sleep 0.2; echo two >&2; sleep 0.2; printf three"),
        )
        .await;
        engine.wait(&id).await.expect("ends");
        let query = |tail| LogQuery {
            tail,
            ..LogQuery::default()
        };
        let read = async |tail| -> Vec<(String, LogStream)> {
            engine
                .logs(&id, &query(tail))
                .map(|entry| entry.expect("reads"))
                .map(|entry| (entry.log, entry.stream))
                .collect()
                .await
        };
        let all = [
            ("one\n".to_owned(), LogStream::Stdout),
            ("two\n".to_owned(), LogStream::Stderr),
            ("three".to_owned(), LogStream::Stdout),
        ];
        assert_eq!(read(None).await, all);
        assert_eq!(read(Some(2)).await, all[1..]);
        assert_eq!(read(Some(0)).await, []);
        engine.remove(&id, false).await.expect("removes");
        let gone: Vec<_> = engine.logs(&id, &query(None)).collect().await;
        assert!(matches!(gone[..], [Err(_)]), "{gone:?}");
    });
}

#[test]
fn a_follower_hears_everything_until_the_end() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let script =
            "echo first; while ! test -e /tmp/go; do sleep 0.05; done; for i in 1 2 3; do echo $i; done";
        let id = run(&engine, shell(script)).await;
        let query = LogQuery {
            follow: true,
            ..LogQuery::default()
        };
        let mut lines = Box::pin(engine.logs(&id, &query));
        let first = lines.next().await.expect("a line").expect("reads");
        assert_eq!(first.log, "first\n");
        let process = crate::support::pid(&engine, &id).await;
        std::fs::write(format!("/proc/{process}/root/tmp/go"), "").expect("reaches the container");
        let rest: String = lines.map(|entry| entry.expect("reads").log).collect().await;
        assert_eq!(rest, "1\n2\n3\n", "and then it ends by itself");
        engine.remove(&id, false).await.expect("removes");
    });
}

#[test]
fn a_flood_is_rotated_and_followed_in_order() {
    on_a_host(async |host| {
        let engine = host.open().await;
        // About 40 MB of log, four times the size of a file.
        let filler = "x".repeat(1000);
        let id = run(
            &engine,
            shell(&format!("for i in $(seq 36000); do echo $i {filler}; done")),
        )
        .await;
        let query = LogQuery {
            follow: true,
            ..LogQuery::default()
        };
        let mut lines = Box::pin(engine.logs(&id, &query));
        let (mut last, mut count) = (0, 0u32);
        while let Some(entry) = lines.next().await {
            let entry = entry.expect("reads");
            let number: u32 = entry
                .log
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .expect("a number");
            assert!(number > last, "{number} after {last}");
            (last, count) = (number, count + 1);
        }
        assert_eq!(last, 36000);
        assert!(
            count > 18_000,
            "a follower keeps more than what is on disk at one moment, or nearly: {count}"
        );
        let path = crate::support::view(&engine, &id).await.log_path;
        let sizes: Vec<u64> = ["", ".1", ".2", ".3"]
            .iter()
            .filter_map(|suffix| std::fs::metadata(format!("{}{suffix}", path.display())).ok())
            .map(|file| file.len())
            .collect();
        assert_eq!(sizes.len(), 3, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= 10 << 20), "{sizes:?}");
        until("the last line", async || {
            log(&engine, &id).await.contains("36000 ")
        })
        .await;
        engine.remove(&id, false).await.expect("removes");
    });
}
