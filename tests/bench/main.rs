//! Benchmarks of the registry beside nginx serving the same bytes (the limit) and Debian's docker-registry (the peer).
//!
//! Rounds are interleaved, so that a machine that slows down slows everybody, and medians are printed: the rate, and the
//! server's own CPU time per unit, which a busy neighbour disturbs least. Nothing here passes or fails.

mod load;
mod meter;
mod peer;

use std::collections::BTreeMap;
use std::time::Duration;

use blackbox::image::noise;
use oci::Digest;

use load::{Load, Outcome};
use peer::{Peer, Server};

/// A blob that takes long enough to fill a connection.
const LARGE_BYTES: usize = 256 << 20;
/// A blob that is all overhead.
const SMALL_BYTES: usize = 4096;
const USAGE: &str =
    "usage: bench [--seconds N] [--rounds N] [--only WORD]; seconds for each measurement (3), rounds (3)";

struct Options {
    seconds: Duration,
    rounds: usize,
    only: Option<String>,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            seconds: Duration::from_secs(3),
            rounds: 3,
            only: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let number = || value.parse::<u32>().ok().filter(|n| *n > 0);
            let bad = || format!("{word} {value}: a whole number of at least 1 is needed");
            match word.as_str() {
                "--seconds" => options.seconds = Duration::from_secs(number().ok_or_else(bad)?.into()),
                "--rounds" => options.rounds = number().ok_or_else(bad)? as usize,
                "--only" => options.only = Some(value),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(options)
    }
}

/// One line of the table: what is done, and in which unit the CPU time is told.
struct Workload {
    name: &'static str,
    unit: &'static str,
    /// CPU seconds are multiplied by this before they are printed: microseconds a request, milliseconds a MiB.
    scale: f64,
    is_write: bool,
    load: fn(&Content) -> Load,
}

/// What every server holds.
struct Content {
    small: Digest,
    large: Digest,
}

const WORKLOADS: [Workload; 6] = [
    Workload {
        name: "manifest GET by tag, 64 connections",
        unit: "µs/request",
        scale: 1e6,
        is_write: false,
        load: |_| Load::manifest(64),
    },
    Workload {
        name: "4 KiB blob GET, 64 connections",
        unit: "µs/request",
        scale: 1e6,
        is_write: false,
        load: |content| Load::blob(64, &content.small, 1.0),
    },
    Workload {
        name: "256 MiB blob GET, 8 readers",
        unit: "ms/MiB",
        scale: 1e3,
        is_write: false,
        load: |content| Load::blob(8, &content.large, (LARGE_BYTES >> 20) as f64),
    },
    Workload {
        name: "64 MiB blob push, 2 writers",
        unit: "ms/MiB",
        scale: 1e3,
        is_write: true,
        load: |_| Load::push_blobs(2, 64 << 20),
    },
    Workload {
        name: "1 MiB blob push, 8 writers",
        unit: "ms/MiB",
        scale: 1e3,
        is_write: true,
        load: |_| Load::push_blobs(8, 1 << 20),
    },
    Workload {
        name: "small image push (3 requests a blob), 8 writers",
        unit: "ms/image",
        scale: 1e3,
        is_write: true,
        load: |_| Load::push_images(8),
    },
];

#[tokio::main]
async fn main() {
    let options = Options::parse().unwrap_or_else(|error| {
        eprintln!("bench: {error}\n{USAGE}");
        std::process::exit(2);
    });
    let servers: Vec<Server> = [Peer::Nginx, Peer::Distribution, Peer::Pierhead]
        .map(Server::start)
        .into();
    for server in &servers {
        eprintln!("{} serves at {}", server.peer.name(), server.address);
    }
    let content = fill(&servers).await;
    let idle: Vec<f64> = servers.iter().map(|s| meter::resident_mib(s.pid())).collect();
    println!("| what | server | rate | CPU | CPU / nginx |\n|---|---|---|---|---|");
    for workload in &WORKLOADS {
        if options
            .only
            .as_ref()
            .is_some_and(|word| !workload.name.contains(word.as_str()))
        {
            continue;
        }
        let mut outcomes: BTreeMap<&str, Vec<Outcome>> = BTreeMap::new();
        for _ in 0..options.rounds {
            for server in servers
                .iter()
                .filter(|s| !workload.is_write || s.peer.takes_pushes())
            {
                let load = (workload.load)(&content);
                let before = meter::cpu_seconds(server.pid());
                let mut outcome = load.run(server, options.seconds).await;
                outcome.cpu_seconds = meter::cpu_seconds(server.pid()) - before;
                outcomes.entry(server.peer.name()).or_default().push(outcome);
            }
        }
        print_rows(workload, &servers, &outcomes);
    }
    memory(&servers, &content, &idle).await;
}

fn print_rows(workload: &Workload, servers: &[Server], outcomes: &BTreeMap<&str, Vec<Outcome>>) {
    let cost = |outcome: &Outcome| outcome.cpu_seconds / outcome.units * workload.scale;
    let limit = outcomes
        .get(Peer::Nginx.name())
        .map(|all| median(all.iter().map(cost)));
    for server in servers {
        let Some(all) = outcomes.get(server.peer.name()) else {
            continue;
        };
        let (rate, cpu) = (
            median(all.iter().map(|o| o.units / o.seconds)),
            median(all.iter().map(cost)),
        );
        let per = workload.unit.rsplit('/').next().unwrap_or_default();
        let ratio = limit.map_or("–".to_owned(), |limit| format!("{:.2}", cpu / limit));
        let errors: u64 = all.iter().map(|o| o.errors).sum();
        let note = if errors == 0 {
            String::new()
        } else {
            format!(" ({errors} failed)")
        };
        println!(
            "| {} | {} | {rate:.0} {per}/s{note} | {cpu:.2} {} | {ratio} |",
            workload.name,
            server.peer.name(),
            workload.unit
        );
    }
}

/// Resident memory at rest and its highest value under 64 large downloads.
async fn memory(servers: &[Server], content: &Content, idle: &[f64]) {
    println!("\n| resident memory | idle, MiB | under 64 large pulls, MiB |\n|---|---|---|");
    for (server, idle) in servers.iter().zip(idle) {
        let load = Load::blob(64, &content.large, (LARGE_BYTES >> 20) as f64);
        let watch = meter::Peak::watch(server.pid());
        load.run(server, Duration::from_secs(3)).await;
        println!(
            "| {} | {idle:.1} | {:.1} |",
            server.peer.name(),
            watch.finish().await
        );
    }
}

/// Gives every server the same blobs and the same manifest.
async fn fill(servers: &[Server]) -> Content {
    let (small, large) = (noise(SMALL_BYTES, 1), noise(LARGE_BYTES, 2));
    for server in servers {
        server.put(&small).await;
        server.put(&large).await;
        server.put_manifest(&small, &large).await;
    }
    Content {
        small: Digest::sha256(&small),
        large: Digest::sha256(&large),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
