//! Who may call what: every route of `/api/v1` with every kind of caller.

use blackbox::registry::Registry;
use reqwest::blocking::Client;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::played_node::Node;

/// Whom a route is for.
#[derive(Clone, Copy, PartialEq)]
enum For {
    Admin,
    Node,
    /// Anybody with a join token in the body.
    Joining,
}

/// Every route, with a body that is well formed.
fn routes() -> Vec<(Method, &'static str, For, Value)> {
    let spec = json!({"spec": {
        "repository": "acme/none", "tag": "main", "replicas": 1, "container": {},
        "stop_grace_ms": 1, "min_ready_ms": 1, "ready_deadline_ms": 2,
    }});
    let beat = json!({"incarnation": "i", "boot_id": "b", "applied_generation": 0});
    let joining = json!({"token": "PIER1-none", "public_key": "A".repeat(43), "name": "n", "facts": {}});
    vec![
        (Method::GET, "cluster", For::Admin, Value::Null),
        (Method::POST, "join-tokens", For::Admin, Value::Null),
        (Method::POST, "join", For::Joining, joining),
        (Method::GET, "nodes", For::Admin, Value::Null),
        (Method::DELETE, "nodes/none", For::Admin, Value::Null),
        (Method::GET, "nodes/self/watch", For::Node, Value::Null),
        (Method::POST, "nodes/self/beat", For::Node, beat),
        (
            Method::POST,
            "nodes/self/report",
            For::Node,
            json!({"reports": []}),
        ),
        (Method::POST, "nodes/self/sessions/none", For::Node, Value::Null),
        (Method::GET, "services", For::Admin, Value::Null),
        (Method::GET, "services/acme/web", For::Admin, Value::Null),
        (Method::PUT, "services/acme/web", For::Admin, spec),
        (Method::DELETE, "services/acme/web", For::Admin, Value::Null),
        (Method::POST, "services/acme/web/rollback", For::Admin, json!({})),
        (Method::GET, "services/acme/web/logs", For::Admin, Value::Null),
        (Method::GET, "tasks", For::Admin, Value::Null),
        (Method::GET, "deployments", For::Admin, Value::Null),
        (Method::GET, "deployments/1", For::Admin, Value::Null),
        (Method::GET, "maintenance/collection", For::Admin, Value::Null),
        (Method::POST, "maintenance/collection", For::Admin, Value::Null),
    ]
}

#[test]
fn each_route_answers_those_it_is_for_and_nobody_else() {
    let registry = Registry::with_accounts();
    let node = Node::join(&registry, "n1");
    // A token of the token endpoint is limited to repositories, even an administrator's.
    let token: Value = registry
        .send(Method::GET, "/token?scope=repository:a/b:pull")
        .json()
        .unwrap();
    let limited = token["token"].as_str().unwrap();
    for (method, route, is_for, body) in routes() {
        let call = |caller: &str| {
            let url = format!("{}/api/v1/{route}", registry.url());
            let request = Client::new().request(method.clone(), url);
            let request = if body.is_null() {
                request
            } else {
                request.json(&body)
            };
            let request = match caller {
                "admin" => request.basic_auth("admin", Some(registry.password())),
                "node" => request.bearer_auth(node.key.token(&node.id)),
                "limited" => request.bearer_auth(limited),
                "wrong" => request.basic_auth("admin", Some("wrong")),
                _ => request,
            };
            request.send().unwrap().status()
        };
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        let what = format!("{method} {route}");
        if is_for == For::Joining {
            assert_eq!(
                call("anonymous"),
                StatusCode::FORBIDDEN,
                "{what}: the token is not known"
            );
            continue;
        }
        assert_eq!(call("anonymous"), StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(call("wrong"), StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(call("limited"), StatusCode::FORBIDDEN, "{what}");
        assert_eq!(
            refused.contains(&call("admin")),
            is_for != For::Admin,
            "{what} as admin"
        );
        assert_eq!(
            refused.contains(&call("node")),
            is_for != For::Node,
            "{what} as node"
        );
    }
}
