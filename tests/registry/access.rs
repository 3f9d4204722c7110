//! Accounts: who gets in, and what those who do not are told.

use std::process::Command;

use blackbox::binary;
use blackbox::process::run;
use blackbox::registry::{Registry, error_code, header};
use reqwest::{Method, StatusCode};

fn anonymous(registry: &Registry, path: &str) -> reqwest::blocking::Response {
    reqwest::blocking::get(format!("{}{path}", registry.url())).unwrap()
}

#[test]
fn the_ping_challenges_with_bearer_and_nothing_else() {
    let registry = Registry::with_accounts();
    let response = anonymous(&registry, "/v2/");
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        header(&response, "docker-distribution-api-version"),
        "registry/2.0"
    );
    let challenge = header(&response, "www-authenticate");
    assert!(
        challenge.starts_with(&format!("Bearer realm=\"{}/token\"", registry.url())),
        "{challenge}"
    );
    assert_eq!(response.headers().get_all("www-authenticate").iter().count(), 1);
    assert_eq!(error_code(response), "UNAUTHORIZED");
    assert_eq!(registry.send(Method::GET, "/v2/").status(), StatusCode::OK);
}

#[test]
fn anonymous_callers_reach_nothing() {
    let registry = Registry::with_accounts();
    registry.push_blob("a/b", b"secret");
    for path in [
        "/v2/a/b/tags/list",
        "/v2/no/such/tags/list",
        "/v2/_catalog",
        "/v2/a/b/manifests/latest",
    ] {
        let response = anonymous(&registry, path);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(response.headers().contains_key("www-authenticate"), "{path}");
    }
}

#[test]
fn wrong_credentials_are_refused_without_telling_which_part_is_wrong() {
    let registry = Registry::with_accounts();
    let answer = |name: &str, password: &str| {
        let client = reqwest::blocking::Client::new();
        let request = client.get(format!("{}/token?scope=repository:a/b:pull", registry.url()));
        let response = request.basic_auth(name, Some(password)).send().unwrap();
        (response.status(), response.text().unwrap())
    };
    let (unknown, wrong) = (answer("nobody", registry.password()), answer("admin", "wrong"));
    assert_eq!(unknown.0, StatusCode::UNAUTHORIZED);
    assert_eq!(unknown, wrong);
}

#[test]
fn a_token_grants_its_scope_and_no_more() {
    let registry = Registry::with_accounts();
    let digest = registry.push_blob("a/b", b"content");
    let response = registry.send(
        Method::GET,
        "/token?service=x&scope=repository:a/b:pull&scope=registry:catalog:*",
    );
    let body: serde_json::Value = response.json().unwrap();
    assert_eq!(body["token"], body["access_token"]);
    assert!(body["expires_in"].as_u64().unwrap() >= 60);
    let token = body["token"].as_str().unwrap();
    let with_token = |method: Method, path: &str| {
        let client = reqwest::blocking::Client::new();
        client
            .request(method, format!("{}{path}", registry.url()))
            .bearer_auth(token)
            .send()
            .unwrap()
    };
    assert_eq!(
        with_token(Method::GET, &format!("/v2/a/b/blobs/{digest}")).status(),
        StatusCode::OK
    );
    let push = with_token(Method::POST, "/v2/a/b/blobs/uploads/");
    assert_eq!(push.status(), StatusCode::UNAUTHORIZED);
    assert!(header(&push, "www-authenticate").contains("error=\"insufficient_scope\""));
    assert_eq!(
        with_token(Method::GET, "/v2/c/d/tags/list").status(),
        StatusCode::UNAUTHORIZED
    );
}

#[test]
fn an_open_server_refuses_an_address_that_others_can_reach() {
    let data = tempfile::tempdir().unwrap();
    let output = run(Command::new(binary("pierhead-registry"))
        .args(["serve", "--open", "--listen", "0.0.0.0:0", "--data"])
        .arg(data.path()));
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--open-to-everyone"), "{text}");
}

#[test]
fn a_token_to_push_mounts_what_its_owner_may_read_and_reads_nothing_else() {
    let registry = Registry::with_accounts();
    let digest = registry.push_blob("from/a", b"content");
    let response = registry.send(Method::GET, "/token?scope=repository:to/b:pull,push");
    let body: serde_json::Value = response.json().unwrap();
    let send = |method: Method, path: String| {
        let request = reqwest::blocking::Client::new().request(method, format!("{}{path}", registry.url()));
        request
            .bearer_auth(body["token"].as_str().unwrap())
            .send()
            .unwrap()
    };
    let other = send(Method::GET, format!("/v2/from/a/blobs/{digest}"));
    assert_eq!(other.status(), StatusCode::UNAUTHORIZED);
    for query in [format!("mount={digest}&from=from/a"), format!("mount={digest}")] {
        let mounted = send(Method::POST, format!("/v2/to/b/blobs/uploads/?{query}"));
        assert_eq!(mounted.status(), StatusCode::CREATED, "{query}");
    }
}
