//! Listing tags (end-8) and repositories.

use blackbox::registry::header;
use reqwest::blocking::Response;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Endpoint, clause, refused};

/// A repository whose tags are these, all of one manifest.
fn tagged(registry: &Endpoint, tags: &[&str]) -> String {
    let name = registry.repository("tags");
    let body = registry.manifest(&name, "tags");
    for tag in tags {
        registry.push_manifest(&name, tag, &body);
    }
    name
}

fn tags(response: Response) -> Value {
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().unwrap();
    body["tags"].clone()
}

/// Where the next page is, as the client finds it.
pub(super) fn next(response: &Response) -> Option<String> {
    let link = response.headers().get("link")?.to_str().unwrap();
    let target = link
        .strip_prefix('<')
        .unwrap()
        .strip_suffix(">; rel=\"next\"")
        .unwrap();
    assert!(
        target.starts_with("/v2/"),
        "relative to the host, since some clients follow only path and query"
    );
    Some(target.to_owned())
}

clause! {
    fn tags_are_listed_bytewise(registry) {
        let name = tagged(registry, &["b", "B", "a", "_", "1.0", "1.0-rc", "a.b", "a-b"]);
        let response = registry.get(&format!("/v2/{name}/tags/list"));
        assert!(next(&response).is_none());
        let body: Value = response.json().unwrap();
        assert_eq!(body, json!({"name": name, "tags": ["1.0", "1.0-rc", "B", "_", "a", "a-b", "a.b", "b"]}));
    }
}

clause! {
    fn pages_are_as_long_as_asked_for_and_linked(registry) {
        let name = tagged(registry, &["a", "b", "c", "d", "e"]);
        let mut path = format!("/v2/{name}/tags/list?n=2");
        let mut pages = Vec::new();
        loop {
            let response = registry.get(&path);
            let link = next(&response);
            pages.push(tags(response));
            match link {
                Some(link) => path = link,
                None => break,
            }
        }
        assert_eq!(pages, [json!(["a", "b"]), json!(["c", "d"]), json!(["e"])]);
    }
}

clause! {
    fn a_full_last_page_has_no_link(registry) {
        let name = tagged(registry, &["a", "b"]);
        let response = registry.get(&format!("/v2/{name}/tags/list?n=2"));
        assert!(next(&response).is_none());
    }
}

clause! {
    fn no_tags_are_asked_for_with_zero(registry) {
        let name = tagged(registry, &["a"]);
        let response = registry.get(&format!("/v2/{name}/tags/list?n=0"));
        assert!(next(&response).is_none());
        assert_eq!(tags(response), json!([]));
    }
}

clause! {
    fn last_need_not_be_a_tag_any_more_and_is_not_listed(registry) {
        let name = tagged(registry, &["a", "c", "e"]);
        let list = |query: &str| tags(registry.get(&format!("/v2/{name}/tags/list?{query}")));
        assert_eq!(list("last=a"), json!(["c", "e"]));
        assert_eq!(list("last=b&n=1"), json!(["c"]));
        assert_eq!(list("last=e"), json!([]));
        assert_eq!(list("last=%2F%3F%20"), json!(["a", "c", "e"]));
        assert_eq!(list("last="), json!(["a", "c", "e"]));
    }
}

clause! {
    fn more_than_there_can_be_is_cut_and_nonsense_refused(registry) {
        let name = tagged(registry, &["a"]);
        for n in ["1000000", "99999999999999999999999"] {
            assert_eq!(tags(registry.get(&format!("/v2/{name}/tags/list?n={n}"))), json!(["a"]));
        }
        for n in ["-1", "x", "", "1.5", "0x1"] {
            let response = registry.get(&format!("/v2/{name}/tags/list?n={n}"));
            refused(response, StatusCode::BAD_REQUEST, "UNSUPPORTED");
        }
    }
}

clause! {
    fn a_repository_without_tags_has_an_empty_list_and_an_unknown_one_none(registry) {
        let name = registry.repository("tags");
        refused(registry.get(&format!("/v2/{name}/tags/list")), StatusCode::NOT_FOUND, "NAME_UNKNOWN");
        registry.push_blob(&name, b"x");
        assert_eq!(tags(registry.get(&format!("/v2/{name}/tags/list"))), json!([]));
    }
}

clause! {
    fn head_tells_what_get_tells(registry) {
        let name = tagged(registry, &["a"]);
        let path = format!("/v2/{name}/tags/list");
        let (head, get) = (registry.send(Method::HEAD, &path), registry.get(&path));
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(header(&head, "content-type"), header(&get, "content-type"));
    }
}

clause! {
    fn repositories_are_listed_in_pages(registry) {
        let body = registry.manifest("catalog/a", "catalog");
        for name in ["catalog/a", "catalog/b", "catalog/b-c", "catalog/b/c"] {
            registry.push_blob(name, b"{}");
            registry.push_manifest(name, "t", &body);
        }
        let response = registry.get("/v2/_catalog?last=catalog/&n=3");
        let link = next(&response).unwrap();
        let names = |response: Response| response.json::<Value>().unwrap()["repositories"].clone();
        assert_eq!(names(response), json!(["catalog/a", "catalog/b", "catalog/b-c"]));
        assert_eq!(names(registry.get(&link))[0], "catalog/b/c");
    }
}
