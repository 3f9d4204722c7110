//! When blobs that nothing needs are removed.

use std::time::Duration;

use serde::Deserialize;

/// When blobs that nothing needs are removed.
#[derive(Clone, Copy, Debug)]
pub struct CollectionConfig {
    /// How long after its last use a blob may still be wanted; its bytes stay as long again.
    pub grace: Duration,
    /// Time between two passes.
    pub interval: Duration,
}

/// The table `collection` of the file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CollectionFile {
    grace_s: u64,
    interval_s: u64,
}

impl Default for CollectionFile {
    fn default() -> Self {
        Self {
            grace_s: 24 * 3600,
            interval_s: 60,
        }
    }
}

impl CollectionFile {
    pub(super) fn check(self, wrong: &mut Vec<String>) -> CollectionConfig {
        if self.grace_s == 0 || self.interval_s == 0 {
            wrong.push("collection.grace_s and collection.interval_s must be at least 1".to_owned());
        }
        CollectionConfig {
            grace: Duration::from_secs(self.grace_s),
            interval: Duration::from_secs(self.interval_s),
        }
    }
}
