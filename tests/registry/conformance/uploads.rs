//! Pushing blobs (end-4 to end-6, end-13, end-14).

use blackbox::image::noise;
use blackbox::registry::header;
use oci::Digest;
use reqwest::blocking::{Body, Response};
use reqwest::{Method, StatusCode};

use super::{Endpoint, clause, refused};

fn patch(registry: &Endpoint, upload: &str, start: usize, bytes: &[u8]) -> Response {
    registry
        .request(Method::PATCH, upload)
        .header("content-range", format!("{start}-{}", start + bytes.len() - 1))
        .header("content-type", "application/octet-stream")
        .body(bytes.to_vec())
        .send()
        .unwrap()
}

clause! {
    /// Clients take a location without a leading slash for a host, and one with another host loses their credentials.
    fn a_location_is_a_path_of_this_host(registry) {
        let name = registry.repository("uploads");
        let started = registry.send(Method::POST, &format!("/v2/{name}/blobs/uploads/"));
        assert_eq!(started.status(), StatusCode::ACCEPTED);
        let upload = header(&started, "location");
        assert!(upload.starts_with(&format!("/v2/{name}/blobs/uploads/")), "{upload}");
        assert!(upload.ends_with(&header(&started, "docker-upload-uuid")));
        assert_eq!(header(&started, "range"), "0-0");
        let done = registry.put(&format!("{upload}?digest={}", Digest::sha256(b"x")), b"x");
        assert!(header(&done, "location").starts_with("/v2/"));
    }
}

clause! {
    fn sessions_have_ids_of_their_own(registry) {
        let name = registry.repository("uploads");
        assert_ne!(registry.begin_upload(&name), registry.begin_upload(&name));
    }
}

clause! {
    fn post_then_put_pushes_a_blob(registry) {
        let name = registry.repository("uploads");
        let content = noise(1_500_000, 41);
        let digest = Digest::sha256(&content);
        let upload = registry.begin_upload(&name);
        let done = registry.put(&format!("{upload}?digest={digest}"), &content);
        assert_eq!(done.status(), StatusCode::CREATED);
        assert_eq!(header(&done, "docker-content-digest"), digest.as_str());
        assert_eq!(registry.get(&header(&done, "location")).bytes().unwrap(), content);
    }
}

clause! {
    fn one_post_pushes_a_blob(registry) {
        let name = registry.repository("uploads");
        let digest = Digest::sha256(b"content");
        let request = registry.request(Method::POST, &format!("/v2/{name}/blobs/uploads/?digest={digest}"));
        let done = request.body("content").send().unwrap();
        assert_eq!(done.status(), StatusCode::CREATED);
        assert_eq!(registry.get(&header(&done, "location")).bytes().unwrap().as_ref(), b"content");
    }
}

clause! {
    fn chunks_are_acknowledged_one_by_one(registry) {
        let name = registry.repository("uploads");
        let content = noise(300_000, 42);
        let mut upload = registry.begin_upload(&name);
        for start in [0, 100_000] {
            let end = start + 100_000;
            let chunk = patch(registry, &upload, start, &content[start..end]);
            assert_eq!(chunk.status(), StatusCode::ACCEPTED);
            assert_eq!(header(&chunk, "range"), format!("0-{}", end - 1));
            upload = header(&chunk, "location");
            let status = registry.get(&upload);
            assert_eq!(status.status(), StatusCode::NO_CONTENT);
            assert_eq!(header(&status, "range"), format!("0-{}", end - 1));
            assert_eq!(header(&status, "location"), upload);
        }
        let last = registry.request(Method::PUT, &format!("{upload}?digest={}", Digest::sha256(&content)));
        let done = last.header("content-range", "200000-299999").body(content[200_000..].to_vec()).send().unwrap();
        assert_eq!(done.status(), StatusCode::CREATED);
        assert_eq!(registry.get(&header(&done, "location")).bytes().unwrap(), content);
    }
}

clause! {
    fn all_chunks_may_come_before_an_empty_put(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        assert_eq!(patch(registry, &upload, 0, b"content").status(), StatusCode::ACCEPTED);
        let done = registry.put(&format!("{upload}?digest={}", Digest::sha256(b"content")), b"");
        assert_eq!(done.status(), StatusCode::CREATED);
    }
}

clause! {
    /// Docker and podman send one PATCH without a length and without a range.
    fn a_stream_of_unknown_length_is_one_chunk(registry) {
        let name = registry.repository("uploads");
        let content = noise(700_000, 43);
        let upload = registry.begin_upload(&name);
        let request = registry.request(Method::PATCH, &upload);
        let chunk = request.body(Body::new(std::io::Cursor::new(content.clone()))).send().unwrap();
        assert_eq!(chunk.status(), StatusCode::ACCEPTED);
        assert_eq!(header(&chunk, "range"), "0-699999");
        let done = registry.put(&format!("{upload}?digest={}", Digest::sha256(&content)), b"");
        assert_eq!(done.status(), StatusCode::CREATED);
    }
}

clause! {
    fn a_chunk_out_of_order_is_refused_and_the_session_goes_on(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        let content = b"0123456789";
        assert_eq!(patch(registry, &upload, 0, &content[..4]).status(), StatusCode::ACCEPTED);
        for (start, end) in [(5, 10), (0, 4), (3, 6)] {
            let gap = patch(registry, &upload, start, &content[start..end]);
            assert_eq!(header(&gap, "range"), "0-3", "the way to recover");
            assert_eq!(header(&gap, "location"), upload);
            refused(gap, StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID");
        }
        assert_eq!(patch(registry, &upload, 4, &content[4..]).status(), StatusCode::ACCEPTED);
        let done = registry.put(&format!("{upload}?digest={}", Digest::sha256(content)), b"");
        assert_eq!(done.status(), StatusCode::CREATED);
    }
}

clause! {
    fn a_last_chunk_out_of_order_is_refused_as_well(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        assert_eq!(patch(registry, &upload, 0, b"0123").status(), StatusCode::ACCEPTED);
        let url = format!("{upload}?digest={}", Digest::sha256(b"0123456789"));
        let put = |range: &str, body: &'static str| {
            registry.request(Method::PUT, &url).header("content-range", range).body(body).send().unwrap()
        };
        let gap = put("5-9", "56789");
        assert_eq!(header(&gap, "range"), "0-3");
        refused(gap, StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID");
        assert_eq!(put("4-9", "456789").status(), StatusCode::CREATED);
    }
}

clause! {
    fn a_range_of_another_length_than_the_body_is_refused(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        for range in ["0-8", "0-10", "9-0", "x", "0-", "-9"] {
            let request = registry.request(Method::PATCH, &upload).header("content-range", range);
            let response = request.body("0123456789").send().unwrap();
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{range}");
        }
        assert_eq!(header(&registry.get(&upload), "pierhead-upload-offset"), "0");
    }
}

clause! {
    fn content_of_another_digest_is_refused_and_the_session_ends(registry) {
        let name = registry.repository("uploads");
        let wrong = Digest::sha256(name.as_bytes());
        let upload = registry.begin_upload(&name);
        let done = registry.put(&format!("{upload}?digest={wrong}"), b"something else");
        refused(done, StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        refused(registry.get(&upload), StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
        assert_eq!(registry.get(&format!("/v2/{name}/blobs/{wrong}")).status(), StatusCode::NOT_FOUND);
        let request = registry.request(Method::POST, &format!("/v2/{name}/blobs/uploads/?digest={wrong}"));
        refused(request.body("something else").send().unwrap(), StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    }
}

clause! {
    fn a_digest_that_is_absent_malformed_or_of_an_unknown_algorithm_is_refused(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        for query in ["", "?digest=", "?digest=sha256:x", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e"] {
            refused(registry.put(&format!("{upload}{query}"), b"x"), StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
        assert_eq!(registry.get(&upload).status(), StatusCode::NO_CONTENT, "the session goes on");
    }
}

clause! {
    fn the_algorithm_of_the_digest_may_be_named_at_the_start(registry) {
        let name = registry.repository("uploads");
        let start = |query: &str| registry.send(Method::POST, &format!("/v2/{name}/blobs/uploads/?{query}"));
        let started = start("digest-algorithm=sha512");
        assert_eq!(started.status(), StatusCode::ACCEPTED);
        let upload = header(&started, "location");
        assert_eq!(patch(registry, &upload, 0, b"content").status(), StatusCode::ACCEPTED);
        let digest = Digest::of(oci::Algorithm::Sha512, b"content");
        let done = registry.put(&format!("{upload}?digest={digest}"), b"");
        assert_eq!(done.status(), StatusCode::CREATED);
        assert_eq!(header(&done, "docker-content-digest"), digest.as_str());
        assert_eq!(registry.get(&header(&done, "location")).bytes().unwrap().as_ref(), b"content");
        refused(start("digest-algorithm=crc32"), StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    }
}

clause! {
    /// Clients append the digest to whatever query the location has.
    fn other_parameters_do_not_disturb(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        let digest = Digest::sha256(b"x").to_string().replace(':', "%3A");
        assert_eq!(registry.get(&format!("{upload}?state=a&digest={digest}")).status(), StatusCode::NO_CONTENT);
        let done = registry.put(&format!("{upload}?state=a%20b&&digest={digest}"), b"x");
        assert_eq!(done.status(), StatusCode::CREATED);
    }
}

clause! {
    fn a_cancelled_session_is_gone(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        assert_eq!(patch(registry, &upload, 0, b"x").status(), StatusCode::ACCEPTED);
        assert_eq!(registry.send(Method::DELETE, &upload).status(), StatusCode::NO_CONTENT);
        refused(registry.get(&upload), StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
        refused(registry.send(Method::DELETE, &upload), StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
        refused(patch(registry, &upload, 1, b"x"), StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
    }
}

clause! {
    fn a_session_belongs_to_its_repository(registry) {
        let (name, other) = (registry.repository("uploads"), registry.repository("uploads"));
        let upload = registry.begin_upload(&name);
        let elsewhere = upload.replace(&name, &other);
        refused(registry.get(&elsewhere), StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
        refused(registry.send(Method::DELETE, &elsewhere), StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
        assert_eq!(registry.get(&upload).status(), StatusCode::NO_CONTENT);
    }
}

clause! {
    /// An answer that got lost must not fail the push.
    fn a_repeated_put_succeeds_again(registry) {
        let name = registry.repository("uploads");
        let upload = registry.begin_upload(&name);
        let url = format!("{upload}?digest={}", Digest::sha256(b"twice"));
        for _ in 0..2 {
            assert_eq!(registry.put(&url, b"twice").status(), StatusCode::CREATED);
        }
    }
}

clause! {
    fn two_clients_may_push_the_same_blob_at_once(registry) {
        let name = registry.repository("uploads");
        let content = noise(2_000_000, 44);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| registry.push_blob(&name, &content));
            }
        });
        let digest = Digest::sha256(&content);
        assert_eq!(registry.get(&format!("/v2/{name}/blobs/{digest}")).bytes().unwrap(), content);
    }
}
