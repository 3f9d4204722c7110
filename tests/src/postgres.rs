//! Private schemas in the PostgreSQL server that `PIERHEAD_TEST_POSTGRES` names.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::process::{run, succeed};

/// A schema of its own, dropped when dropped.
#[derive(Debug)]
pub struct Schema {
    server: String,
    name: String,
}

impl Schema {
    /// A new schema; `None` when no server is named, which has been said then.
    ///
    /// # Panics
    /// When it cannot be made, or none is named in CI.
    pub fn create() -> Option<Self> {
        let Ok(server) = std::env::var("PIERHEAD_TEST_POSTGRES") else {
            let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(
                !is_ci,
                "PIERHEAD_TEST_POSTGRES names no database, and CI runs every suite"
            );
            eprintln!("not run on PostgreSQL: PIERHEAD_TEST_POSTGRES names no database");
            return None;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("blackbox_{}_{}", std::process::id(), now.as_nanos());
        succeed(&mut psql(&server, &format!("CREATE SCHEMA {name}")));
        Some(Self { server, name })
    }

    /// A URL of the server that sees this schema alone.
    pub fn url(&self) -> String {
        let separator = if self.server.contains('?') { '&' } else { '?' };
        format!("{}{separator}options=-csearch_path%3D{}", self.server, self.name)
    }

    /// The first column of the first row that a query gives, as text.
    ///
    /// # Panics
    /// When the query fails.
    pub fn value(&self, query: &str) -> String {
        let mut command = psql(&self.url(), query);
        let output = succeed(command.arg("--tuples-only").arg("--no-align"));
        String::from_utf8(output).expect("text").trim().to_owned()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        run(&mut psql(
            &self.server,
            &format!("DROP SCHEMA {} CASCADE", self.name),
        ));
    }
}

fn psql(url: &str, statement: &str) -> Command {
    let mut command = Command::new("psql");
    command
        .args([
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--command",
            statement,
        ])
        .arg(url);
    command
}
