//! nginx as a reverse proxy, with a private prefix.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::wait_for;

/// A running nginx. Stopped and its files removed when dropped.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    _prefix: TempDir,
    address: String,
}

impl Nginx {
    /// Passes everything on to `upstream` (`HOST:PORT`), as a guide would have it: no limit to bodies, no buffering of
    /// them, and the host that the client named.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn in_front_of(upstream: &str) -> Self {
        let prefix = tempfile::tempdir().expect("a temporary directory");
        // nginx cannot take a free port itself. This one is free until somebody else takes it.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it is bound").to_string();
        drop(free);
        let directory = prefix.path().display();
        let config = format!(
            "daemon off; master_process off; user root; pid {directory}/pid; error_log stderr;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
                fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
                scgi_temp_path {directory}/scgi;
                server {{
                    listen {address};
                    client_max_body_size 0;
                    location / {{
                        proxy_pass http://{upstream};
                        proxy_http_version 1.1;
                        proxy_request_buffering off;
                        proxy_set_header Host $http_host;
                    }}
                }}
            }}"
        );
        let path = prefix.path().join("nginx.conf");
        std::fs::write(&path, config).expect("write the configuration");
        let mut command = Command::new("nginx");
        command
            .args(["-e", "stderr", "-p"])
            .arg(prefix.path())
            .arg("-c")
            .arg(&path);
        let process = Process::start(command);
        wait_for("nginx to listen", Duration::from_secs(20), || {
            TcpStream::connect(&address).map(drop)
        });
        Self {
            _process: process,
            _prefix: prefix,
            address,
        }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}
