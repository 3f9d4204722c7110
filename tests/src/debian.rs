//! A Debian made by debootstrap, as an OCI layout of more than 100 MB.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::binary;
use crate::image;
use crate::process::succeed;

/// The layout, tagged `latest`, of one plain layer. Made once and kept in the target directory.
///
/// # Panics
/// When it cannot be made.
pub fn layout() -> PathBuf {
    // Another test may be making it.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let profile = binary("pierhead-registry");
    let target = profile.parent().expect("programs lie in target/PROFILE");
    let done = target.join("test-debian");
    if !done.exists() {
        let work = tempfile::tempdir_in(target).expect("a directory beside the programs");
        make(work.path());
        // Whole or not at all, should the test be stopped in between.
        std::fs::rename(work.path().join("layout"), &done).expect("rename within the target directory");
    }
    done
}

fn make(work: &Path) {
    let root = work.join("root");
    let archive = work.join("layer.tar");
    succeed(
        Command::new("debootstrap")
            .args(["--variant=minbase", "stable"])
            .arg(&root),
    );
    succeed(
        Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["--sort=name", "--numeric-owner", "-cf"])
            .arg(&archive)
            .arg("."),
    );
    let layer = std::fs::read(&archive).expect("read the archive");
    image::plain_image(&work.join("layout"), &layer);
}
