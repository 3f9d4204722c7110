//! Mounting blobs from other repositories (end-11).

use blackbox::registry::header;
use oci::Digest;
use reqwest::blocking::Response;
use reqwest::{Method, StatusCode};

use super::{Endpoint, clause, refused};

fn mount(registry: &Endpoint, name: &str, query: &str) -> Response {
    registry.send(Method::POST, &format!("/v2/{name}/blobs/uploads/?{query}"))
}

clause! {
    fn a_blob_is_mounted_from_the_repository_named(registry) {
        let (from, to) = (registry.repository("mounts"), registry.repository("mounts"));
        let digest = registry.push_blob(&from, from.as_bytes());
        let mounted = mount(registry, &to, &format!("mount={digest}&from={from}"));
        assert_eq!(mounted.status(), StatusCode::CREATED);
        assert_eq!(header(&mounted, "docker-content-digest"), digest.as_str());
        let location = header(&mounted, "location");
        assert_eq!(location, format!("/v2/{to}/blobs/{digest}"));
        assert_eq!(registry.get(&location).bytes().unwrap(), from.as_bytes());
    }
}

clause! {
    fn a_blob_is_mounted_from_wherever_it_is(registry) {
        let (from, to) = (registry.repository("mounts"), registry.repository("mounts"));
        let digest = registry.push_blob(&from, from.as_bytes());
        assert_eq!(mount(registry, &to, &format!("mount={digest}")).status(), StatusCode::CREATED);
        assert_eq!(registry.get(&format!("/v2/{to}/blobs/{digest}")).status(), StatusCode::OK);
    }
}

clause! {
    fn what_cannot_be_mounted_can_be_uploaded(registry) {
        let (from, to) = (registry.repository("mounts"), registry.repository("mounts"));
        registry.push_blob(&from, b"x");
        let content = to.as_bytes();
        let digest = Digest::sha256(content);
        for query in [
            format!("mount={digest}"),
            format!("mount={digest}&from={from}"),
            format!("mount={digest}&from=no/such"),
            format!("mount={digest}&from=NOT%20A%20NAME"),
        ] {
            let started = mount(registry, &to, &query);
            assert_eq!(started.status(), StatusCode::ACCEPTED, "{query}");
            let done = registry.put(&format!("{}?digest={digest}", header(&started, "location")), content);
            assert_eq!(done.status(), StatusCode::CREATED);
            let deleted = registry.send(Method::DELETE, &format!("/v2/{to}/blobs/{digest}"));
            assert_eq!(deleted.status(), StatusCode::ACCEPTED);
        }
    }
}

clause! {
    fn a_mount_of_a_malformed_digest_is_refused(registry) {
        let name = registry.repository("mounts");
        refused(mount(registry, &name, "mount=sha256:x&from=a"), StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    }
}
