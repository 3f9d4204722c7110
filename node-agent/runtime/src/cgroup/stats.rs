//! What a container has used, in the shape in which runc tells it (`events --stats`).

use std::fs;

use serde_json::{Map, Value, json};

use super::{Cgroup, Directory};

impl Cgroup {
    /// Counters and limits as they are now. What no mounted controller counts is left out.
    pub fn stats(&self) -> Value {
        let mut all = Map::new();
        for directory in &self.directories {
            if directory.is_v2 {
                unified(directory, &mut all);
            } else {
                separate(directory, &mut all);
            }
        }
        Value::Object(all)
    }
}

fn unified(directory: &Directory, all: &mut Map<String, Value>) {
    if directory.has("cpu") {
        let stat = directory.pairs("cpu.stat");
        let nanoseconds = |key| stat.get(key).and_then(Value::as_u64).unwrap_or(0) * 1000;
        let usage = json!({
            "total": nanoseconds("usage_usec"),
            "kernel": nanoseconds("system_usec"),
            "user": nanoseconds("user_usec"),
        });
        let throttling = json!({
            "periods": stat.get("nr_periods"),
            "throttledPeriods": stat.get("nr_throttled"),
            "throttledTime": nanoseconds("throttled_usec"),
        });
        all.insert(
            "cpu".to_owned(),
            json!({"usage": usage, "throttling": throttling}),
        );
    }
    if directory.has("memory") {
        let raw = directory.pairs("memory.stat");
        all.insert(
            "memory".to_owned(),
            json!({
                "cache": raw.get("file"),
                "usage": {
                    "usage": directory.count("memory.current"),
                    "limit": directory.count("memory.max"),
                    "max": directory.count("memory.peak"),
                    "failcnt": directory.pairs("memory.events").get("max"),
                },
                "swap": {
                    "usage": directory.count("memory.swap.current"),
                    "limit": directory.count("memory.swap.max"),
                },
                "raw": raw,
            }),
        );
    }
    if directory.has("pids") {
        pids(directory, all);
    }
    if directory.has("io") {
        let mut bytes = Vec::new();
        let mut operations = Vec::new();
        for line in directory.text("io.stat").lines() {
            let mut words = line.split(' ');
            let Some(device) = words.next() else { continue };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let (into, operation) = match key {
                    "rbytes" => (&mut bytes, "Read"),
                    "wbytes" => (&mut bytes, "Write"),
                    "rios" => (&mut operations, "Read"),
                    "wios" => (&mut operations, "Write"),
                    _ => continue,
                };
                into.extend(device_entry(device, operation, value));
            }
        }
        all.insert(
            "blkio".to_owned(),
            json!({"ioServiceBytesRecursive": bytes, "ioServicedRecursive": operations}),
        );
    }
}

fn separate(directory: &Directory, all: &mut Map<String, Value>) {
    if directory.has("cpuacct") {
        let stat = directory.pairs("cpuacct.stat");
        // The kernel counts these two in hundredths of a second.
        let nanoseconds = |key| stat.get(key).and_then(Value::as_u64).unwrap_or(0) * 10_000_000;
        let text = directory.text("cpuacct.usage_percpu");
        let each: Vec<u64> = text
            .split_whitespace()
            .filter_map(|value| value.parse().ok())
            .collect();
        member(all, "cpu")["usage"] = json!({
            "total": directory.count("cpuacct.usage"),
            "percpu": each,
            "kernel": nanoseconds("system"),
            "user": nanoseconds("user"),
        });
    }
    if directory.has("cpu") {
        let stat = directory.pairs("cpu.stat");
        member(all, "cpu")["throttling"] = json!({
            "periods": stat.get("nr_periods"),
            "throttledPeriods": stat.get("nr_throttled"),
            "throttledTime": stat.get("throttled_time"),
        });
    }
    if directory.has("memory") {
        let raw = directory.pairs("memory.stat");
        let group = |prefix: &str| {
            json!({
                "usage": directory.count(&format!("{prefix}.usage_in_bytes")),
                "limit": directory.count(&format!("{prefix}.limit_in_bytes")),
                "max": directory.count(&format!("{prefix}.max_usage_in_bytes")),
                "failcnt": directory.count(&format!("{prefix}.failcnt")),
            })
        };
        let (usage, swap) = (group("memory"), group("memory.memsw"));
        all.insert(
            "memory".to_owned(),
            json!({"cache": raw.get("cache"), "usage": usage, "swap": swap, "raw": raw}),
        );
    }
    if directory.has("pids") {
        pids(directory, all);
    }
    if directory.has("blkio") {
        let list = |file: &str| -> Vec<Value> {
            let text = directory.text(file);
            let entries = text.lines().filter_map(|line| {
                let mut words = line.split(' ');
                device_entry(words.next()?, words.next()?, words.next()?)
            });
            entries.collect()
        };
        all.insert(
            "blkio".to_owned(),
            json!({
                "ioServiceBytesRecursive": list("blkio.throttle.io_service_bytes_recursive"),
                "ioServicedRecursive": list("blkio.throttle.io_serviced_recursive"),
            }),
        );
    }
}

fn pids(directory: &Directory, all: &mut Map<String, Value>) {
    all.insert(
        "pids".to_owned(),
        json!({"current": directory.count("pids.current"), "limit": directory.count("pids.max")}),
    );
}

fn member<'a>(all: &'a mut Map<String, Value>, name: &str) -> &'a mut Value {
    all.entry(name).or_insert_with(|| json!({}))
}

fn device_entry(device: &str, operation: &str, value: &str) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    Some(json!({
        "major": major.parse::<u64>().ok()?,
        "minor": minor.parse::<u64>().ok()?,
        "op": operation,
        "value": value.parse::<u64>().ok()?,
    }))
}

impl Directory {
    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// A file that holds one number; 0 where it says `max` or is not there, as runc has it.
    fn count(&self, file: &str) -> u64 {
        self.text(file).trim().parse().unwrap_or(0)
    }

    /// A file of lines with a name and a number each.
    fn pairs(&self, file: &str) -> Map<String, Value> {
        let text = self.text(file);
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), json!(value.parse::<u64>().ok()?)))
        });
        pairs.collect()
    }
}
