//! Listing referrers (end-12; Pushing manifests with subject; Enabling the referrers API).

use std::collections::BTreeSet;

use blackbox::registry::header;
use oci::{Algorithm, Digest, media_type};
use reqwest::blocking::Response;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::tags::next;
use super::{Endpoint, clause, manifest, refused};

fn entries(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), media_type::OCI_INDEX);
    let index: Value = response.json().unwrap();
    assert_eq!(
        (&index["schemaVersion"], &index["mediaType"]),
        (&json!(2), &json!(media_type::OCI_INDEX))
    );
    index["manifests"].as_array().unwrap().clone()
}

/// A manifest about `subject`.
fn about(subject: &Digest, seed: &str) -> Value {
    let mut value = manifest(seed);
    value["subject"] = json!({"mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 1234});
    value
}

fn push(registry: &Endpoint, name: &str, value: &Value) -> Digest {
    registry.push_blob(name, b"{}");
    let body = value.to_string();
    registry.push_manifest(name, Digest::sha256(body.as_bytes()).as_str(), body.as_bytes())
}

clause! {
    fn nothing_refers_to_an_unknown_subject(registry) {
        let name = registry.repository("referrers");
        let zeros = format!("sha256:{}", "0".repeat(64));
        assert!(entries(registry.get(&format!("/v2/{name}/referrers/{zeros}"))).is_empty());
        registry.push_blob(&name, b"x");
        assert!(entries(registry.get(&format!("/v2/{name}/referrers/{zeros}"))).is_empty());
    }
}

clause! {
    fn a_malformed_digest_is_refused(registry) {
        let name = registry.repository("referrers");
        for digest in ["sha256:x", "latest"] {
            let response = registry.get(&format!("/v2/{name}/referrers/{digest}"));
            refused(response, StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
    }
}

clause! {
    fn a_subject_is_acknowledged_whether_it_is_there_or_not(registry) {
        let name = registry.repository("referrers");
        let body = registry.manifest(&name, "subject");
        let present = registry.push_manifest(&name, "t", &body);
        let absent = Digest::sha256(name.as_bytes());
        for subject in [present, absent] {
            let body = about(&subject, "acknowledged").to_string();
            let pushed = registry.put_manifest(&name, "signature", body.as_bytes());
            assert_eq!(pushed.status(), StatusCode::CREATED);
            assert_eq!(header(&pushed, "oci-subject"), subject.as_str());
        }
        assert!(registry.put_manifest(&name, "t", &body).headers().get("oci-subject").is_none());
    }
}

clause! {
    fn descriptors_have_type_size_annotations_and_artifact_type(registry) {
        let name = registry.repository("referrers");
        registry.push_blob(&name, b"{}");
        let subject = Digest::sha256(name.as_bytes());
        let mut typed = about(&subject, "typed");
        typed["artifactType"] = json!("application/vnd.acme.sbom");
        let by_config = about(&subject, "by config");
        let mut emptily_typed = about(&subject, "emptily typed");
        emptily_typed["artifactType"] = json!("");
        let index = |artifact_type: Option<&str>| {
            let mut value = json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [],
                "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 7},
            });
            if let Some(artifact_type) = artifact_type {
                value["artifactType"] = json!(artifact_type);
            }
            value
        };
        let pushed: Vec<(Value, Option<&str>)> = vec![
            (typed, Some("application/vnd.acme.sbom")),
            (by_config, Some(media_type::OCI_EMPTY)),
            (emptily_typed, Some(media_type::OCI_EMPTY)),
            (index(Some("application/vnd.acme.list")), Some("application/vnd.acme.list")),
            (index(None), None),
        ];
        let digests: Vec<Digest> = pushed.iter().map(|(value, _)| push(registry, &name, value)).collect();
        let found = entries(registry.get(&format!("/v2/{name}/referrers/{subject}")));
        assert_eq!(found.len(), pushed.len());
        for ((value, artifact_type), digest) in pushed.iter().zip(digests) {
            let entry = found.iter().find(|e| e["digest"] == digest.as_str()).unwrap();
            assert_eq!(entry["mediaType"], value["mediaType"]);
            assert_eq!(entry["size"], value.to_string().len());
            assert_eq!(entry.get("artifactType").and_then(Value::as_str), *artifact_type);
            assert_eq!(entry.get("annotations"), value.get("annotations"));
        }
    }
}

clause! {
    fn a_filter_is_applied_and_said_to_be(registry) {
        let name = registry.repository("referrers");
        let subject = Digest::sha256(name.as_bytes());
        let mut sbom = about(&subject, "sbom");
        sbom["artifactType"] = json!("application/vnd.acme.sbom+json");
        let digest = push(registry, &name, &sbom);
        push(registry, &name, &about(&subject, "other"));
        let list = |query: &str| registry.get(&format!("/v2/{name}/referrers/{subject}{query}"));
        let all = list("");
        assert!(all.headers().get("oci-filters-applied").is_none());
        assert_eq!(entries(all).len(), 2);
        let filtered = list("?artifactType=application/vnd.acme.sbom%2Bjson");
        assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
        let found = entries(filtered);
        assert_eq!((found.len(), &found[0]["digest"]), (1, &json!(digest)));
        let none = list("?artifactType=application/none");
        assert_eq!(header(&none, "oci-filters-applied"), "artifactType");
        assert!(entries(none).is_empty());
    }
}

clause! {
    fn many_referrers_come_in_linked_pages(registry) {
        let name = registry.repository("referrers");
        let subject = Digest::sha256(name.as_bytes());
        let mut pushed = BTreeSet::new();
        for number in 0..7 {
            pushed.insert(push(registry, &name, &about(&subject, &format!("{number}"))).to_string());
        }
        let kind = media_type::OCI_EMPTY.replace('+', "%2B");
        for filter in [String::new(), format!("&artifactType={kind}")] {
            let mut path = format!("/v2/{name}/referrers/{subject}?n=3{filter}");
            let (mut found, mut pages) = (Vec::new(), 0);
            loop {
                let response = registry.get(&path);
                let link = next(&response);
                assert_eq!(response.headers().contains_key("oci-filters-applied"), !filter.is_empty());
                found.extend(entries(response).iter().map(|e| e["digest"].as_str().unwrap().to_owned()));
                pages += 1;
                match link {
                    Some(link) => path = link,
                    None => break,
                }
            }
            assert_eq!((pages, found.len()), (3, 7));
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), pushed);
        }
    }
}

clause! {
    /// Clients read a page into memory, and refuse it above the size of a manifest.
    fn a_page_stays_below_the_size_of_a_manifest(registry) {
        let name = registry.repository("referrers");
        let subject = Digest::sha256(name.as_bytes());
        for number in 0..3 {
            let mut value = about(&subject, &format!("{number}"));
            value["annotations"]["pad"] = "x".repeat(1_500_000).into();
            push(registry, &name, &value);
        }
        let mut path = format!("/v2/{name}/referrers/{subject}");
        let mut count = 0;
        loop {
            let response = registry.get(&path);
            let link = next(&response);
            let body = response.text().unwrap();
            assert!(body.len() < 4 * 1024 * 1024);
            count += serde_json::from_str::<Value>(&body).unwrap()["manifests"].as_array().unwrap().len();
            match link {
                Some(link) => path = link,
                None => break,
            }
        }
        assert_eq!(count, 3);
    }
}

clause! {
    fn lists_that_clients_kept_themselves_are_merged(registry) {
        let name = registry.repository("sparse");
        for subject in [Digest::sha256(name.as_bytes()), Digest::of(Algorithm::Sha512, name.as_bytes())] {
            let own = push(registry, &name, &about(&subject, "own"));
            let other = push(registry, &name, &about(&Digest::sha256(b"another subject"), "other"));
            let listed = push(registry, &name, &manifest("listed only"));
            let absent = Digest::sha256(b"never pushed");
            let entry = |digest| json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": 1});
            let listed_too = [&own, &other, &listed, &absent].map(entry).to_vec();
            let list = json!({
                "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": listed_too,
            });
            let tag = format!("{}-{}", subject.algorithm(), &subject.hex()[..64]);
            registry.push_manifest(&name, &tag, list.to_string().as_bytes());
            let path = format!("/v2/{name}/referrers/{subject}");
            let found: BTreeSet<String> = entries(registry.get(&path))
                .iter()
                .map(|e| e["digest"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(found, BTreeSet::from([own.to_string(), listed.to_string()]));
            let deleted = registry.send(Method::DELETE, &format!("/v2/{name}/manifests/{tag}"));
            assert_eq!(deleted.status(), StatusCode::ACCEPTED);
            assert_eq!(entries(registry.get(&path)).len(), 1);
        }
    }
}

clause! {
    fn a_deleted_referrer_is_no_longer_listed_and_one_of_a_deleted_subject_still(registry) {
        let name = registry.repository("referrers");
        let body = registry.manifest(&name, "subject");
        let subject = registry.push_manifest(&name, "t", &body);
        let one = push(registry, &name, &about(&subject, "one"));
        push(registry, &name, &about(&subject, "two"));
        let list = || entries(registry.get(&format!("/v2/{name}/referrers/{subject}"))).len();
        let delete = |digest: &Digest| registry.send(Method::DELETE, &format!("/v2/{name}/manifests/{digest}"));
        assert_eq!(list(), 2);
        assert_eq!(delete(&one).status(), StatusCode::ACCEPTED);
        assert_eq!(list(), 1);
        assert_eq!(delete(&subject).status(), StatusCode::ACCEPTED);
        assert_eq!(list(), 1);
    }
}
