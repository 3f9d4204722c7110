//! A PostgreSQL schema of a test's own.

use std::process::Command;

use crate::process::{run, succeed};

/// A schema in the database that `PIERHEAD_TEST_POSTGRES` names. Dropped with all it holds.
#[derive(Debug)]
pub struct Schema {
    url: String,
    name: String,
}

impl Schema {
    /// Makes a schema; `None`, with the reason printed, when no database is named.
    ///
    /// # Panics
    /// When the database cannot be used.
    pub fn create() -> Option<Self> {
        let Ok(url) = std::env::var("PIERHEAD_TEST_POSTGRES") else {
            eprintln!("not run: PIERHEAD_TEST_POSTGRES names no database");
            return None;
        };
        let since = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("a clock after 1970");
        let name = format!("test_{}_{}", std::process::id(), since.as_nanos());
        succeed(Command::new("psql").args([&url, "-qc", &format!("CREATE SCHEMA {name}")]));
        Some(Self { url, name })
    }

    /// The URL of the database with this schema as the only one.
    pub fn url(&self) -> String {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{separator}options=-csearch_path%3D{}", self.url, self.name)
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let drop = format!("DROP SCHEMA {} CASCADE", self.name);
        let output = run(Command::new("psql").args([&self.url, "-qc", &drop]));
        if !output.status.success() {
            eprintln!("cannot drop schema {}: {output:?}", self.name);
        }
    }
}
