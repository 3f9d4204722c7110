//! Starting and stopping.

use std::os::unix::fs::PermissionsExt;

use blackbox::process;

use crate::support::{Place, complaint};

const SIGTERM: i32 = 15;

#[test]
fn a_standalone_agent_stops_when_told_and_starts_again_on_what_it_left() {
    let place = Place::new();
    let first = place.standalone();
    first.signal(SIGTERM);
    assert!(first.wait().success());
    let second = place.standalone();
    let mode = std::fs::metadata(place.data())
        .expect("the data directory is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "images and keys are nobody else's business");
    second.kill();
    // Nor is anything in the way after SIGKILL.
    place.standalone().kill();
}

#[test]
fn a_second_agent_on_the_same_data_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let first = place.standalone();
    let said = complaint(&process::run(&mut place.serve(&["--standalone"])));
    assert!(said.contains("another agent works on"), "{said}");
    first.signal(SIGTERM);
    assert!(first.wait().success());
}

#[test]
fn an_agent_that_has_not_joined_says_how_to() {
    let place = Place::new();
    let said = complaint(&process::run(&mut place.serve(&[])));
    assert!(
        said.contains("pierhead-node join --server") && said.contains("--standalone"),
        "{said}"
    );
}

#[test]
fn a_purge_wants_to_be_meant_and_leaves_nothing() {
    let place = Place::new();
    let agent = place.standalone();
    let purge = |flags: &[&str]| process::run(&mut place.command("purge", flags));
    let said = complaint(&purge(&["--yes"]));
    assert!(said.contains("another agent works on"), "{said}");
    agent.signal(SIGTERM);
    assert!(agent.wait().success());
    let said = complaint(&purge(&[]));
    assert!(said.contains("--yes"), "{said}");
    assert!(place.data().exists());
    assert!(purge(&["--yes"]).status.success());
    assert!(!place.data().exists());
}
