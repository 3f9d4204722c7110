//! Pulling, checking and deleting blobs (end-2, end-10).

use blackbox::image::noise;
use blackbox::registry::header;
use oci::{Algorithm, Digest};
use reqwest::{Method, StatusCode};

use super::{clause, refused};

clause! {
    fn a_blob_comes_back_with_its_digest_and_size(registry) {
        let name = registry.repository("blobs");
        let content = noise(2_500_000, 21);
        let digest = registry.push_blob(&name, &content);
        let response = registry.get(&format!("/v2/{name}/blobs/{digest}"));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
        assert_eq!(header(&response, "content-length"), "2500000");
        assert_eq!(response.bytes().unwrap(), content);
    }
}

clause! {
    fn head_tells_what_get_tells(registry) {
        let name = registry.repository("blobs");
        let digest = registry.push_blob(&name, &noise(70_000, 22));
        let path = format!("/v2/{name}/blobs/{digest}");
        let (head, get) = (registry.send(Method::HEAD, &path), registry.get(&path));
        assert_eq!(head.status(), StatusCode::OK);
        for name in ["content-length", "content-type", "docker-content-digest", "etag", "accept-ranges"] {
            assert_eq!(header(&head, name), header(&get, name), "{name}");
        }
        assert_eq!(head.bytes().unwrap().len(), 0);
    }
}

clause! {
    fn an_unknown_blob_is_not_found(registry) {
        let name = registry.repository("blobs");
        registry.push_blob(&name, b"x");
        let path = format!("/v2/{name}/blobs/{}", Digest::sha256(b"never pushed"));
        refused(registry.get(&path), StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
        assert_eq!(registry.send(Method::HEAD, &path).status(), StatusCode::NOT_FOUND);
        assert_eq!(registry.get(&format!("/v2/no/such{}", &path[3 + name.len()..])).status(), StatusCode::NOT_FOUND);
    }
}

clause! {
    fn a_malformed_digest_is_refused(registry) {
        let name = registry.repository("blobs");
        let upper = format!("sha256:{}", "A".repeat(64));
        for digest in ["sha256:x", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", &upper] {
            refused(registry.get(&format!("/v2/{name}/blobs/{digest}")), StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
    }
}

clause! {
    /// Clients that build URLs with care encode the colon.
    fn the_colon_of_a_digest_may_be_encoded(registry) {
        let name = registry.repository("blobs");
        let digest = registry.push_blob(&name, b"x");
        for colon in ["%3A", "%3a"] {
            let path = format!("/v2/{name}/blobs/{}", digest.as_str().replace(':', colon));
            assert_eq!(registry.get(&path).bytes().unwrap().as_ref(), b"x");
        }
    }
}

clause! {
    fn the_empty_blob_is_a_blob(registry) {
        let name = registry.repository("blobs");
        let digest = registry.push_blob(&name, b"");
        let path = format!("/v2/{name}/blobs/{digest}");
        let head = registry.send(Method::HEAD, &path);
        assert_eq!((head.status(), header(&head, "content-length").as_str()), (StatusCode::OK, "0"));
        let get = registry.get(&path);
        assert_eq!((get.status(), get.bytes().unwrap().len()), (StatusCode::OK, 0));
    }
}

clause! {
    fn a_sha512_blob_keeps_the_digest_that_the_client_used(registry) {
        let name = registry.repository("blobs");
        let digest = Digest::of(Algorithm::Sha512, b"content");
        let upload = registry.begin_upload(&name);
        let pushed = registry.put(&format!("{upload}?digest={digest}"), b"content");
        assert_eq!(pushed.status(), StatusCode::CREATED);
        assert_eq!(header(&pushed, "docker-content-digest"), digest.as_str());
        let pulled = registry.get(&format!("/v2/{name}/blobs/{digest}"));
        assert_eq!(header(&pulled, "docker-content-digest"), digest.as_str());
        assert_eq!(pulled.bytes().unwrap().as_ref(), b"content");
    }
}

clause! {
    /// Compressing breaks ranges and digests.
    fn nothing_is_compressed_on_the_way(registry) {
        let name = registry.repository("blobs");
        let digest = registry.push_blob(&name, &[b'a'; 100_000]);
        let body = registry.manifest(&name, "plain");
        registry.push_manifest(&name, "t", &body);
        for path in [format!("/v2/{name}/blobs/{digest}"), format!("/v2/{name}/manifests/t")] {
            let request = registry.request(Method::GET, &path).header("accept-encoding", "zstd, gzip, br");
            let response = request.send().unwrap();
            assert!(response.headers().get("content-encoding").is_none(), "{path}");
            assert!(response.headers().get("content-length").is_some(), "{path}");
        }
    }
}

clause! {
    fn a_known_blob_is_not_sent_again(registry) {
        let name = registry.repository("blobs");
        let digest = registry.push_blob(&name, b"known");
        let path = format!("/v2/{name}/blobs/{digest}");
        let etag = header(&registry.get(&path), "etag");
        let with = |name: &str, value: &str| registry.request(Method::GET, &path).header(name, value).send().unwrap();
        let unmodified = with("if-none-match", &etag);
        assert_eq!(unmodified.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(header(&unmodified, "etag"), etag);
        assert_eq!(with("if-none-match", "\"other\"").status(), StatusCode::OK);
        assert_eq!(with("if-match", &etag).status(), StatusCode::OK);
        refused(with("if-match", "\"other\""), StatusCode::PRECONDITION_FAILED, "DENIED");
    }
}

clause! {
    fn a_deleted_blob_is_gone_at_once_and_only_here(registry) {
        let (here, there) = (registry.repository("blobs"), registry.repository("blobs"));
        let content = here.as_bytes();
        let digest = registry.push_blob(&here, content);
        registry.push_blob(&there, content);
        let path = format!("/v2/{here}/blobs/{digest}");
        assert_eq!(registry.send(Method::DELETE, &path).status(), StatusCode::ACCEPTED);
        assert_eq!(registry.get(&path).status(), StatusCode::NOT_FOUND);
        assert_eq!(registry.send(Method::HEAD, &path).status(), StatusCode::NOT_FOUND);
        refused(registry.send(Method::DELETE, &path), StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
        let other = registry.get(&format!("/v2/{there}/blobs/{digest}"));
        assert_eq!(other.bytes().unwrap(), content);
        registry.push_blob(&here, content);
        assert_eq!(registry.get(&path).status(), StatusCode::OK);
    }
}

clause! {
    /// No oracle: content of another repository is as unknown as content of none.
    fn a_blob_is_seen_only_through_repositories_that_hold_it(registry) {
        let (here, there) = (registry.repository("blobs"), registry.repository("blobs"));
        let digest = registry.push_blob(&here, here.as_bytes());
        registry.push_blob(&there, b"x");
        refused(registry.get(&format!("/v2/{there}/blobs/{digest}")), StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
    }
}
