//! Determining support (end-1), and what every answer has in common.

use blackbox::registry::header;
use reqwest::{Method, StatusCode};

use super::{clause, refused};

clause! {
    fn the_ping_answers_with_and_without_a_slash(registry) {
        for path in ["/v2/", "/v2"] {
            assert_eq!(registry.get(path).status(), StatusCode::OK, "{path}");
        }
        let head = registry.send(Method::HEAD, "/v2/");
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(header(&head, "docker-distribution-api-version"), "registry/2.0");
    }
}

clause! {
    fn every_answer_names_the_version_of_the_api(registry) {
        let name = registry.repository("ping");
        let digest = registry.push_blob(&name, b"x");
        let absent = oci::Digest::sha256(b"absent");
        for (method, path, status) in [
            (Method::GET, "/v2/".to_owned(), 200),
            (Method::GET, format!("/v2/{name}/blobs/{digest}"), 200),
            (Method::HEAD, format!("/v2/{name}/blobs/{absent}"), 404),
            (Method::GET, format!("/v2/{name}/blobs/sha256:x"), 400),
            (Method::POST, format!("/v2/{name}/blobs/uploads/"), 202),
            (Method::PUT, format!("/v2/{name}/tags/list"), 405),
            (Method::GET, "/v2/nowhere".to_owned(), 404),
        ] {
            let response = registry.send(method, &path);
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(header(&response, "docker-distribution-api-version"), "registry/2.0", "{path}");
        }
    }
}

clause! {
    fn a_method_that_a_path_does_not_have_is_unsupported_and_others_are_named(registry) {
        let name = registry.repository("ping");
        let digest = oci::Digest::sha256(b"x");
        for (method, path, allow) in [
            (Method::PUT, format!("/v2/{name}/blobs/{digest}"), "GET, HEAD, DELETE"),
            (Method::GET, format!("/v2/{name}/blobs/uploads/"), "POST"),
            (Method::POST, format!("/v2/{name}/manifests/t"), "GET, HEAD, PUT, DELETE"),
            (Method::DELETE, format!("/v2/{name}/tags/list"), "GET, HEAD"),
            (Method::OPTIONS, format!("/v2/{name}/referrers/{digest}"), "GET, HEAD"),
        ] {
            let response = registry.send(method, &path);
            assert_eq!(header(&response, "allow"), allow, "{path}");
            refused(response, StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
        }
    }
}

clause! {
    fn a_path_of_no_endpoint_is_unknown(registry) {
        for path in ["/v2/nothing", "/v2/a/b/c", "/v2/a/manifests/", "/v2/a/blobs/uploads/nonsense"] {
            refused(registry.get(path), StatusCode::NOT_FOUND, "UNSUPPORTED");
        }
    }
}

clause! {
    fn answers_have_an_id_to_ask_the_operator_about(registry) {
        let (one, two) = (registry.get("/v2/"), registry.get("/v2/"));
        assert_ne!(header(&one, "x-request-id"), header(&two, "x-request-id"));
    }
}
