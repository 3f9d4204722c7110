//! What is asked first: `/_ping`, `/version`, `/info`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use serde_json::{Value, json};

use super::error::ApiError;
use super::version::{API_VERSION, MIN_API_VERSION};
use super::{Api, reference};
use crate::engine::ContainerState;
use crate::host;

/// The name of the one runtime.
pub(super) const RUNTIME: &str = "pierhead";
const ENGINE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET` and `HEAD /_ping`.
pub(super) async fn ping() -> Response {
    let headers = [
        // The builder that is asked for where there is no BuildKit.
        ("builder-version", "1"),
        ("swarm", "inactive"),
        (CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate"),
        (PRAGMA.as_str(), "no-cache"),
        (CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
    ];
    (headers, "OK").into_response()
}

/// `GET /version`.
pub(super) async fn version() -> Json<Value> {
    let facts = host::facts();
    Json(json!({
        "Platform": {"Name": "Pierhead"},
        "Components": [{
            "Name": "Engine",
            "Version": ENGINE_VERSION,
            "Details": {
                "ApiVersion": API_VERSION,
                "MinAPIVersion": MIN_API_VERSION,
                "Os": facts.os,
                "Arch": facts.architecture,
                "KernelVersion": facts.kernel,
                "Experimental": "false",
            },
        }],
        "Version": ENGINE_VERSION,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": facts.os,
        "Arch": facts.architecture,
        "KernelVersion": facts.kernel,
        "BuildTime": "",
    }))
}

/// `GET /info`.
pub(super) async fn info(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let facts = host::facts();
    let containers = api.engine.list().await;
    let is_running = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
    let running = containers.iter().filter(|view| is_running(&view.state)).count();
    let images = reference::all(&api.images).await?;
    let machine = match facts.architecture.as_str() {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    let mut info = never_different();
    let own = json!({
        "ID": api.network.bridge(),
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": 0,
        "ContainersStopped": containers.len() - running,
        "Images": images.len(),
        "CgroupVersion": if facts.cgroup == "v2" { "2" } else { "1" },
        "KernelVersion": facts.kernel,
        "OperatingSystem": operating_system(),
        "Architecture": machine,
        "NCPU": facts.cpus,
        "MemTotal": facts.memory_bytes,
        "Name": host_name(),
    });
    for (name, value) in own.as_object().into_iter().flatten() {
        info[name] = value.clone();
    }
    Ok(Json(info))
}

/// The part of `/info` that is the same on every machine.
fn never_different() -> Value {
    json!({
        "Driver": "overlay2",
        "DriverStatus": [],
        "Plugins": {"Volume": [], "Network": ["bridge"], "Authorization": null, "Log": ["json-file"]},
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": false,
        "CPUSet": false,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "Debug": false,
        "OomKillDisable": false,
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "OSVersion": "",
        "OSType": "linux",
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
            "IndexConfigs": {},
            "Mirrors": [],
        },
        "DockerRootDir": "",
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": ENGINE_VERSION,
        "Runtimes": {RUNTIME: {"path": "pierhead-node"}},
        "DefaultRuntime": RUNTIME,
        "Swarm": {"NodeID": "", "LocalNodeState": "inactive", "ControlAvailable": false},
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "",
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
        "Warnings": [],
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |name| name.trim_matches('"')).to_owned()
}
