//! curl: parallel ranges, and downloads that go on where they broke off.

use std::path::Path;
use std::process::Command;

use blackbox::image::noise;
use blackbox::process::{Process, run, succeed};
use blackbox::registry::Registry;
use blackbox::wait_for;

fn curl(registry: &Registry) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--user"]);
    command.arg(format!("admin:{}", registry.password()));
    command
}

fn url(registry: &Registry, content: &[u8]) -> String {
    let digest = registry.push_blob("acme/data", content);
    format!("{}/v2/acme/data/blobs/{digest}", registry.url())
}

#[test]
fn parts_fetched_at_once_make_the_whole() {
    let registry = Registry::with_accounts();
    let content = noise(40_000_000, 51);
    let url = url(&registry, &content);
    let (url, registry) = (&url, &registry);
    let part_size = 5_000_000;
    let fetch = |part: usize| {
        let (first, last) = (part * part_size, (part + 1) * part_size - 1);
        succeed(curl(registry).args(["--range", &format!("{first}-{last}"), url]))
    };
    let parts: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..8).map(|part| scope.spawn(move || fetch(part))).collect();
        running.into_iter().map(|part| part.join().unwrap()).collect()
    });
    assert!(parts.concat() == content, "the parts are not the whole");
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let registry = Registry::with_accounts();
    let content = noise(30_000_000, 52);
    let url = url(&registry, &content);
    let file = registry.scratch().join("download");
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let mut slow = curl(&registry);
    slow.args(["--limit-rate", "2M", "--output"]).arg(&file).arg(&url);
    let slow = Process::start(slow);
    wait_for(
        "a part of the download",
        std::time::Duration::from_secs(30),
        || match length(&file) {
            0 => Err("nothing has come"),
            _ => Ok(()),
        },
    );
    slow.kill();
    let before = length(&file);
    assert!(before < 30_000_000, "it was to break off");
    succeed(
        curl(&registry)
            .args(["--continue-at", "-", "--output"])
            .arg(&file)
            .arg(&url),
    );
    assert!(std::fs::read(&file).unwrap() == content, "the download differs");
}

#[test]
fn several_ranges_and_conditions_are_understood() {
    let registry = Registry::with_accounts();
    let url = url(&registry, &noise(1_000_000, 53));
    let answer = |arguments: &[&str]| {
        let output = succeed(
            curl(&registry)
                .args(["--dump-header", "-", "--output", "/dev/null"])
                .args(arguments)
                .arg(&url),
        );
        String::from_utf8(output).unwrap().to_lowercase()
    };
    let several = answer(&["--range", "0-9,100-109"]);
    assert!(
        several.contains("206 partial") && several.contains("multipart/byteranges"),
        "{several}"
    );
    let etag = several
        .lines()
        .find_map(|l| l.strip_prefix("etag: "))
        .unwrap()
        .trim()
        .to_owned();
    assert!(answer(&["--header", &format!("if-none-match: {etag}")]).contains("304"));
    assert!(answer(&["--http2-prior-knowledge", "--range", "0-9"]).starts_with("http/2 206"));
    assert!(
        !run(curl(&registry).args(["--range", "1000000-", &url]))
            .status
            .success()
    );
}
