//! Files of the run directory, each replaced as a whole and on disk before anybody hears of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::failure::{Context, Result};

/// Writes `value` to `name` in `directory`: temporary file, fsync, rename, fsync of the directory.
pub(super) fn write<T: Serialize>(directory: &Path, name: &str, value: &T) -> Result<()> {
    let (temporary, path) = (directory.join(format!("{name}.new")), directory.join(name));
    let tried = || format!("write {}", path.display());
    let text = serde_json::to_vec(value).step("shim", tried)?;
    let mut file = File::create(&temporary).step("shim", tried)?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .step("shim", tried)?;
    fs::rename(&temporary, &path).step("shim", tried)?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .step("shim", tried)
}
