//! Pushing, pulling and deleting manifests (end-3, end-7, end-9; content-negotiation; RFC 9110, 13).

use blackbox::registry::header;
use oci::{Algorithm, Digest, media_type};
use reqwest::blocking::{Body, Response};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Endpoint, clause, manifest, refused};

fn descriptor(media_type: &str, digest: &Digest) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": 2})
}

fn put_with(registry: &Endpoint, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let request = registry.request(Method::PUT, path);
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(body.to_vec()).send().unwrap()
}

clause! {
    fn a_manifest_comes_back_byte_for_byte(registry) {
        let name = registry.repository("manifests");
        let mut body = registry.manifest(&name, "bytes");
        body.splice(1..1, *b"  \n\t \"unknown\" : [ 1.50, \"\\u00e4\" ] ,");
        body.extend_from_slice(b" \r\n");
        let digest = Digest::sha256(&body);
        let pushed = registry.put_manifest(&name, "t", &body);
        assert_eq!(pushed.status(), StatusCode::CREATED);
        assert_eq!(header(&pushed, "docker-content-digest"), digest.as_str());
        assert_eq!(registry.get(&header(&pushed, "location")).bytes().unwrap(), body);
        for reference in ["t", digest.as_str()] {
            let path = format!("/v2/{name}/manifests/{reference}");
            let (get, head) = (registry.get(&path), registry.send(Method::HEAD, &path));
            assert_eq!((get.status(), head.status()), (StatusCode::OK, StatusCode::OK));
            for (name, value) in [
                ("content-type", media_type::OCI_MANIFEST.to_owned()),
                ("content-length", body.len().to_string()),
                ("docker-content-digest", digest.to_string()),
                ("etag", format!("\"{digest}\"")),
            ] {
                assert_eq!((header(&get, name), header(&head, name)), (value.clone(), value), "{name}");
            }
            assert_eq!(get.bytes().unwrap(), body);
        }
    }
}

clause! {
    fn an_unknown_manifest_is_not_found(registry) {
        let name = registry.repository("manifests");
        let absent = Digest::sha256(b"absent");
        refused(registry.get(&format!("/v2/{name}/manifests/t")), StatusCode::NOT_FOUND, "NAME_UNKNOWN");
        registry.push_blob(&name, b"x");
        for reference in ["t", absent.as_str()] {
            let path = format!("/v2/{name}/manifests/{reference}");
            refused(registry.get(&path), StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
            assert_eq!(registry.send(Method::HEAD, &path).status(), StatusCode::NOT_FOUND);
        }
    }
}

clause! {
    fn a_reference_that_is_neither_tag_nor_digest_is_refused(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "reference");
        let longest = "t".repeat(128);
        assert_eq!(registry.put_manifest(&name, &longest, &body).status(), StatusCode::CREATED);
        let too_long = "t".repeat(129);
        for reference in [&too_long, ".t", "-t", "t%20"] {
            refused(registry.put_manifest(&name, reference, &body), StatusCode::BAD_REQUEST, "NAME_INVALID");
        }
        for reference in ["sha256:baddigeststring", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
            refused(registry.put_manifest(&name, reference, &body), StatusCode::BAD_REQUEST, "DIGEST_INVALID");
            let got = registry.get(&format!("/v2/{name}/manifests/{reference}"));
            refused(got, StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
    }
}

clause! {
    fn a_digest_in_the_path_must_be_that_of_the_bytes(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "digest");
        let other = Digest::sha256(b"other");
        refused(registry.put_manifest(&name, other.as_str(), &body), StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, &body);
            let pushed = registry.put_manifest(&name, digest.as_str(), &body);
            assert_eq!(pushed.status(), StatusCode::CREATED);
            assert_eq!(header(&pushed, "docker-content-digest"), digest.as_str());
            assert_eq!(registry.get(&format!("/v2/{name}/manifests/{digest}")).bytes().unwrap(), body);
        }
    }
}

clause! {
    fn parameters_of_the_content_type_do_not_count(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "parameters");
        let sent_as = format!("{}; charset=utf-8", media_type::OCI_MANIFEST);
        let path = format!("/v2/{name}/manifests/t");
        assert_eq!(put_with(registry, &path, &[("content-type", &sent_as)], &body).status(), StatusCode::CREATED);
        assert_eq!(header(&registry.get(&path), "content-type"), media_type::OCI_MANIFEST);
    }
}

clause! {
    fn the_content_type_must_be_what_the_manifest_says(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "type");
        let path = format!("/v2/{name}/manifests/t");
        for sent_as in [media_type::OCI_INDEX, media_type::DOCKER_MANIFEST, "application/vnd.acme.thing"] {
            let pushed = put_with(registry, &path, &[("content-type", sent_as)], &body);
            refused(pushed, StatusCode::BAD_REQUEST, "MANIFEST_INVALID");
        }
        for sent_as in ["application/json", media_type::OCI_MANIFEST] {
            assert_eq!(put_with(registry, &path, &[("content-type", sent_as)], &body).status(), StatusCode::CREATED);
            assert_eq!(header(&registry.get(&path), "content-type"), media_type::OCI_MANIFEST);
        }
    }
}

clause! {
    /// Older clients wrote none into OCI manifests.
    fn a_manifest_need_not_say_its_media_type(registry) {
        let name = registry.repository("manifests");
        registry.push_blob(&name, b"{}");
        let mut value = manifest("untyped");
        value.as_object_mut().unwrap().remove("mediaType");
        let body = value.to_string();
        let path = format!("/v2/{name}/manifests/t");
        for sent_as in [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST] {
            let pushed = put_with(registry, &path, &[("content-type", sent_as)], body.as_bytes());
            assert_eq!(pushed.status(), StatusCode::CREATED);
        }
        let untyped = json!({"schemaVersion": 2, "manifests": []}).to_string();
        registry.push_manifest(&name, "index", untyped.as_bytes());
        let index = registry.get(&format!("/v2/{name}/manifests/index"));
        assert_eq!(header(&index, "content-type"), media_type::OCI_INDEX);
    }
}

clause! {
    fn docker_manifests_and_lists_are_kept_as_they_are(registry) {
        let name = registry.repository("manifests");
        let config = registry.push_blob(&name, b"{}");
        let image = json!({
            "schemaVersion": 2,
            "mediaType": media_type::DOCKER_MANIFEST,
            "config": descriptor(media_type::DOCKER_CONFIG, &config),
            "layers": [descriptor(media_type::DOCKER_LAYER_GZIP, &config)],
        });
        let image = image.to_string().into_bytes();
        let digest = registry.push_manifest(&name, "image", &image);
        let list = json!({
            "schemaVersion": 2,
            "mediaType": media_type::DOCKER_MANIFEST_LIST,
            "manifests": [{
                "mediaType": media_type::DOCKER_MANIFEST, "digest": digest, "size": image.len(),
                "platform": {"os": "linux", "architecture": "amd64"},
            }],
        });
        let list = list.to_string().into_bytes();
        registry.push_manifest(&name, "list", &list);
        for (tag, body, kind) in [
            ("image", &image, media_type::DOCKER_MANIFEST),
            ("list", &list, media_type::DOCKER_MANIFEST_LIST),
        ] {
            // Whatever is asked for, what is there is sent: another type would be another digest.
            for accept in ["*/*", media_type::OCI_MANIFEST, "text/html, nonsense", ""] {
                let request = registry.request(Method::GET, &format!("/v2/{name}/manifests/{tag}"));
                let response = request.header("accept", accept).send().unwrap();
                assert_eq!(header(&response, "content-type"), kind);
                assert_eq!(response.bytes().unwrap(), *body);
            }
        }
    }
}

clause! {
    fn kinds_that_are_unknown_here_are_accepted(registry) {
        let name = registry.repository("manifests");
        registry.push_blob(&name, b"{}");
        let kind = "application/vnd.acme.thing.v7+json";
        for body in [
            json!({"mediaType": kind, "config": 7, "layers": "none"}),
            json!({"mediaType": kind, "manifests": [descriptor("a/b", &Digest::sha256(b"absent"))]}),
            json!({}),
        ] {
            let body = body.to_string().into_bytes();
            let path = format!("/v2/{name}/manifests/t");
            assert_eq!(put_with(registry, &path, &[("content-type", kind)], &body).status(), StatusCode::CREATED);
            let pulled = registry.get(&path);
            assert_eq!(header(&pulled, "content-type"), kind);
            assert_eq!(pulled.bytes().unwrap(), body);
        }
    }
}

clause! {
    fn what_is_no_manifest_is_refused(registry) {
        let name = registry.repository("manifests");
        registry.push_blob(&name, b"{}");
        let mut both = manifest("ambiguous");
        both["manifests"] = json!([]);
        let mut old = manifest("version");
        old["schemaVersion"] = json!(1);
        let no_config = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": []});
        let mut negative = manifest("size");
        negative["config"]["size"] = json!(-1);
        for body in ["", "{", "[]", "null", &both.to_string(), &old.to_string(), &no_config.to_string(),
            &negative.to_string()]
        {
            let path = format!("/v2/{name}/manifests/t");
            let pushed = put_with(registry, &path, &[("content-type", media_type::OCI_MANIFEST)], body.as_bytes());
            refused(pushed, StatusCode::BAD_REQUEST, "MANIFEST_INVALID");
        }
        assert_eq!(registry.get(&format!("/v2/{name}/manifests/t")).status(), StatusCode::NOT_FOUND);
    }
}

clause! {
    fn absent_content_is_named(registry) {
        let name = registry.repository("manifests");
        registry.push_blob(&name, b"{}");
        let absent = [Digest::sha256(b"one"), Digest::sha256(b"two")];
        let mut image = manifest("absent");
        image["layers"] = absent.iter().map(|d| descriptor(media_type::OCI_LAYER, d)).collect();
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": absent.iter().map(|d| descriptor(media_type::OCI_MANIFEST, d)).collect::<Vec<_>>(),
        });
        for body in [image, index] {
            let pushed = registry.put_manifest(&name, "t", body.to_string().as_bytes());
            assert_eq!(pushed.status(), StatusCode::BAD_REQUEST);
            let error: Value = pushed.json().unwrap();
            assert_eq!(error["errors"][0]["code"], "MANIFEST_BLOB_UNKNOWN");
            for digest in &absent {
                assert!(error["errors"][0]["detail"].to_string().contains(digest.as_str()));
            }
        }
    }
}

clause! {
    fn content_of_another_repository_is_absent(registry) {
        let (here, there) = (registry.repository("manifests"), registry.repository("manifests"));
        let body = registry.manifest(&there, "elsewhere");
        let pushed = registry.put_manifest(&here, "t", &body);
        refused(pushed, StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN");
    }
}

clause! {
    fn layers_that_are_to_be_had_elsewhere_need_not_be_here(registry) {
        let name = registry.repository("manifests");
        registry.push_blob(&name, b"{}");
        for kind in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ] {
            let mut image = manifest(kind);
            image["layers"] = json!([descriptor(kind, &Digest::sha256(b"far away"))]);
            image["layers"][0]["urls"] = json!(["https://example.org/layer"]);
            registry.push_manifest(&name, "t", image.to_string().as_bytes());
        }
    }
}

clause! {
    /// BuildKit pushes caches as an index of layers.
    fn an_entry_of_an_index_may_be_a_blob(registry) {
        let name = registry.repository("manifests");
        let layer = registry.push_blob(&name, b"layer");
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": [descriptor(media_type::OCI_LAYER_GZIP, &layer)],
        });
        registry.push_manifest(&name, "cache", index.to_string().as_bytes());
    }
}

clause! {
    fn an_index_may_list_indexes(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "leaf");
        let mut child = registry.push_manifest(&name, "leaf", &body);
        let mut kind = media_type::OCI_MANIFEST;
        for depth in 0..3 {
            let index = json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [descriptor(kind, &child)],
            });
            child = registry.push_manifest(&name, &format!("depth{depth}"), index.to_string().as_bytes());
            kind = media_type::OCI_INDEX;
        }
    }
}

clause! {
    fn sparse_manifests_are_accepted_where_that_is_set_and_the_client_is_told(registry) {
        let name = registry.repository("sparse");
        let absent = Digest::sha256(b"absent");
        let mut image = manifest("sparse");
        image["layers"] = json!([descriptor(media_type::OCI_LAYER, &absent)]);
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
            "manifests": [descriptor(media_type::OCI_MANIFEST, &absent)],
        });
        for body in [image, index] {
            let body = body.to_string();
            let pushed = registry.put_manifest(&name, "t", body.as_bytes());
            assert_eq!(pushed.status(), StatusCode::CREATED);
            let warning = header(&pushed, "warning");
            assert!(warning.starts_with("299 - \"") && warning.ends_with('"'), "{warning}");
            assert_eq!(registry.get(&format!("/v2/{name}/manifests/t")).text().unwrap(), body);
        }
    }
}

clause! {
    fn four_mebibytes_pass_and_more_are_too_large(registry) {
        const MOST: usize = 4 * 1024 * 1024;
        let name = registry.repository("manifests");
        registry.push_blob(&name, b"{}");
        let padded = |size: usize| {
            let mut value = manifest("large");
            value["annotations"]["pad"] = "".into();
            let pad = size - value.to_string().len();
            value["annotations"]["pad"] = "x".repeat(pad).into();
            value.to_string().into_bytes()
        };
        let body = padded(MOST);
        assert_eq!(body.len(), MOST);
        registry.push_manifest(&name, "t", &body);
        assert_eq!(registry.get(&format!("/v2/{name}/manifests/t")).bytes().unwrap(), body);
        let body = padded(MOST + 1);
        let stream = Body::new(std::io::Cursor::new(body.clone()));
        for body in [Body::from(body), stream] {
            let request = registry.request(Method::PUT, &format!("/v2/{name}/manifests/t2"));
            let pushed = request.header("content-type", media_type::OCI_MANIFEST).body(body).send().unwrap();
            refused(pushed, StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID");
        }
    }
}

clause! {
    fn a_push_by_digest_may_set_several_tags(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "tags");
        for digest in [Digest::sha256(&body), Digest::of(Algorithm::Sha512, &body)] {
            let tags: Vec<String> = (0..10).map(|n| format!("{}-{n}", digest.algorithm())).collect();
            let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
            let pushed = registry.put_manifest(&name, &format!("{digest}?{}", query.join("&")), &body);
            assert_eq!(pushed.status(), StatusCode::CREATED);
            let told: Vec<&str> = pushed.headers().get_all("oci-tag").iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(told, tags);
            for tag in &tags {
                let pulled = registry.get(&format!("/v2/{name}/manifests/{tag}"));
                assert_eq!(header(&pulled, "docker-content-digest"), digest.as_str());
            }
        }
    }
}

clause! {
    fn too_many_tags_or_a_malformed_one_set_none(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "tags");
        let digest = Digest::sha256(&body);
        let many: Vec<String> = (0..11).map(|n| format!("tag=t{n}")).collect();
        let pushed = registry.put_manifest(&name, &format!("{digest}?{}", many.join("&")), &body);
        assert_eq!(pushed.status(), StatusCode::URI_TOO_LONG);
        let pushed = registry.put_manifest(&name, &format!("{digest}?tag=good&tag=.bad"), &body);
        assert_eq!(pushed.status(), StatusCode::BAD_REQUEST);
        let tags: Value = registry.get(&format!("/v2/{name}/tags/list")).json().unwrap();
        assert_eq!(tags["tags"], json!([]));
    }
}

clause! {
    fn a_known_manifest_is_not_sent_again(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "known");
        let digest = registry.push_manifest(&name, "t", &body);
        let etag = format!("\"{digest}\"");
        for reference in ["t", digest.as_str()] {
            for method in [Method::GET, Method::HEAD] {
                let request = registry.request(method, &format!("/v2/{name}/manifests/{reference}"));
                let response = request.header("if-none-match", format!("\"x\", W/{etag}")).send().unwrap();
                assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
                assert_eq!(header(&response, "etag"), etag);
                assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
            }
        }
    }
}

clause! {
    fn a_tag_is_compared_and_swapped(registry) {
        let name = registry.repository("manifests");
        let (one, two) = (registry.manifest(&name, "one"), registry.manifest(&name, "two"));
        let path = format!("/v2/{name}/manifests/t");
        let etags = [&one, &two].map(|body| format!("\"{}\"", Digest::sha256(body)));
        let kind = ("content-type", media_type::OCI_MANIFEST);
        let put = |name, value: &str, body: &[u8]| put_with(registry, &path, &[kind, (name, value)], body);
        refused(put("if-match", &etags[0], &one), StatusCode::PRECONDITION_FAILED, "DENIED");
        refused(put("if-match", "*", &one), StatusCode::PRECONDITION_FAILED, "DENIED");
        let made = put("if-none-match", "*", &one);
        assert_eq!((made.status(), header(&made, "etag")), (StatusCode::CREATED, etags[0].clone()));
        let taken = put("if-none-match", "*", &two);
        assert_eq!(header(&taken, "etag"), etags[0], "what is there instead");
        refused(taken, StatusCode::PRECONDITION_FAILED, "DENIED");
        let by_digest = registry.get(&format!("/v2/{name}/manifests/{}", Digest::sha256(&two)));
        assert_eq!(by_digest.status(), StatusCode::NOT_FOUND, "a refused push stores nothing");
        refused(put("if-match", &etags[1], &two), StatusCode::PRECONDITION_FAILED, "DENIED");
        refused(put("if-none-match", &etags[0], &two), StatusCode::PRECONDITION_FAILED, "DENIED");
        assert_eq!(put("if-match", &etags[0], &two).status(), StatusCode::CREATED);
        assert_eq!(header(&registry.get(&path), "etag"), etags[1]);
    }
}

clause! {
    fn of_many_who_swap_at_once_one_wins(registry) {
        let name = registry.repository("manifests");
        let first = registry.manifest(&name, "first");
        let etag = format!("\"{}\"", registry.push_manifest(&name, "t", &first));
        let path = format!("/v2/{name}/manifests/t");
        let won: Vec<bool> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|n| {
                    let (path, etag) = (&path, &etag);
                    scope.spawn(move || {
                        let body = manifest(&format!("racer {n}")).to_string();
                        let headers = [("content-type", media_type::OCI_MANIFEST), ("if-match", etag)];
                        put_with(registry, path, &headers, body.as_bytes()).status() == StatusCode::CREATED
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|w| **w).count(), 1, "{won:?}");
        let winner = won.iter().position(|w| *w).unwrap();
        let there: Value = registry.get(&path).json().unwrap();
        assert_eq!(there["annotations"]["seed"], format!("racer {winner}"));
    }
}

clause! {
    fn deleting_a_tag_leaves_the_manifest_and_its_other_tags(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "untag");
        let digest = registry.push_manifest(&name, "one", &body);
        registry.push_manifest(&name, "two", &body);
        let path = |reference: &str| format!("/v2/{name}/manifests/{reference}");
        assert_eq!(registry.send(Method::DELETE, &path("one")).status(), StatusCode::ACCEPTED);
        refused(registry.get(&path("one")), StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        refused(registry.send(Method::DELETE, &path("one")), StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        for reference in ["two", digest.as_str()] {
            assert_eq!(registry.get(&path(reference)).status(), StatusCode::OK);
        }
    }
}

clause! {
    fn deleting_a_manifest_deletes_all_its_tags(registry) {
        let name = registry.repository("manifests");
        let (gone, kept) = (registry.manifest(&name, "gone"), registry.manifest(&name, "kept"));
        let digest = registry.push_manifest(&name, "one", &gone);
        registry.push_manifest(&name, "two", &gone);
        registry.push_manifest(&name, "three", &kept);
        let path = |reference: &str| format!("/v2/{name}/manifests/{reference}");
        assert_eq!(registry.send(Method::DELETE, &path(digest.as_str())).status(), StatusCode::ACCEPTED);
        for reference in ["one", "two", digest.as_str()] {
            refused(registry.get(&path(reference)), StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        }
        let tags: Value = registry.get(&format!("/v2/{name}/tags/list")).json().unwrap();
        assert_eq!(tags["tags"], json!(["three"]));
        let again = registry.send(Method::DELETE, &path(digest.as_str()));
        refused(again, StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
        let nowhere = registry.send(Method::DELETE, &format!("/v2/no/such/manifests/{digest}"));
        refused(nowhere, StatusCode::NOT_FOUND, "NAME_UNKNOWN");
    }
}

clause! {
    fn a_tag_is_deleted_only_if_it_is_what_the_client_thinks(registry) {
        let name = registry.repository("manifests");
        let body = registry.manifest(&name, "conditional");
        let digest = registry.push_manifest(&name, "t", &body);
        let delete = |etag: &str| {
            let request = registry.request(Method::DELETE, &format!("/v2/{name}/manifests/t"));
            request.header("if-match", etag).send().unwrap()
        };
        let other = format!("\"{}\"", Digest::sha256(b"other"));
        refused(delete(&other), StatusCode::PRECONDITION_FAILED, "DENIED");
        assert_eq!(delete(&format!("\"{digest}\"")).status(), StatusCode::ACCEPTED);
    }
}
