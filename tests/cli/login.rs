//! Accounts: kept privately, verified first, used by later commands, forgotten on request.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use blackbox::image::layout;
use blackbox::registry::Registry;

use crate::{fail, pierhead, run, succeed};

#[test]
fn an_account_is_verified_kept_privately_used_and_forgotten() {
    let registry = Registry::with_accounts();
    let home = registry.scratch();
    let file = home.join(".config/pierhead/credentials.json");
    let login = |password: &str| {
        let mut command = pierhead(home);
        command.args([
            "login",
            "--server",
            &registry.url(),
            "--username",
            "admin",
            "--password-stdin",
        ]);
        run(&mut command, &format!("{password}\n"))
    };

    let wrong = login("wrong");
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.err.contains("does not know user admin"), "{}", wrong.err);
    assert!(!file.exists(), "what was not verified is not kept");

    let right = login(registry.password());
    assert_eq!(right.code, Some(0), "{}", right.err);
    assert!(!right.err.contains(registry.password()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let source = home.join("source");
    layout(&source, &[("f", b"content")]);
    let image = format!("{}/acme/web:v1", registry.address());
    let copy = [
        "image",
        "copy",
        &format!("oci:{}:latest", source.display()),
        &image,
    ];
    succeed(pierhead(home).args(copy));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = fail(pierhead(home).args(copy), 1);
    assert!(refused.contains("chmod 600"), "{refused}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    succeed(pierhead(home).args(["logout", "--server", &registry.url()]));
    assert!(!fs::read_to_string(&file).unwrap().contains(registry.password()));
    assert!(fail(pierhead(home).args(copy), 1).contains("401"));
    assert!(fail(pierhead(home).arg("logout"), 1).contains("no login"));
}

#[test]
fn dockers_account_is_used_where_there_is_no_login() {
    let registry = Registry::with_accounts();
    let home = registry.scratch();
    let source = home.join("source");
    layout(&source, &[("f", b"content")]);
    fs::create_dir(home.join(".docker")).unwrap();
    let auth = BASE64_STANDARD.encode(format!("admin:{}", registry.password()));
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address());
    fs::write(home.join(".docker/config.json"), config).unwrap();
    let image = format!("{}/acme/web:v1", registry.address());
    succeed(pierhead(home).args([
        "image",
        "copy",
        &format!("oci:{}:latest", source.display()),
        &image,
    ]));
}

#[test]
fn a_given_password_is_not_sent_to_the_registry_that_is_copied_from() {
    let (source, target) = (Registry::with_accounts(), Registry::with_accounts());
    let home = target.scratch();
    let directory = home.join("source");
    layout(&directory, &[("f", b"content")]);
    let from = format!("{}/acme/web:v1", source.address());
    let as_admin = |registry: &Registry, from: &str, to: &str| {
        let mut command = pierhead(home);
        command.args(["image", "copy", from, to]);
        command
            .env("PIERHEAD_USERNAME", "admin")
            .env("PIERHEAD_PASSWORD", registry.password());
        command
    };
    succeed(&mut as_admin(
        &source,
        &format!("oci:{}:latest", directory.display()),
        &from,
    ));
    let to = format!("{}/acme/web:v1", target.address());
    // The given password is even the source's: had it been sent there, the pull would have worked.
    let refused = fail(&mut as_admin(&source, &from, &to), 1);
    assert!(refused.contains(&format!("pull {from}")), "{refused}");
}

#[test]
fn without_a_terminal_nothing_is_asked() {
    let home = tempfile::tempdir().unwrap();
    let error = fail(
        pierhead(home.path()).args(["login", "--server", "http://127.0.0.1:1"]),
        1,
    );
    assert!(error.contains("--username"), "{error}");
    let arguments = ["login", "--server", "http://127.0.0.1:1", "--username", "x"];
    let error = fail(pierhead(home.path()).args(arguments), 1);
    assert!(error.contains("--password-stdin"), "{error}");
}
