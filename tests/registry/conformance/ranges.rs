//! Ranges of blobs (RFC 9110, 14).

use blackbox::image::noise;
use blackbox::registry::header;
use reqwest::blocking::Response;
use reqwest::{Method, StatusCode};

use super::{Endpoint, clause, refused};

const SIZE: usize = 2_300_000;

struct Blob<'a> {
    registry: &'a Endpoint,
    path: String,
    content: Vec<u8>,
}

impl<'a> Blob<'a> {
    fn push(registry: &'a Endpoint) -> Self {
        let name = registry.repository("ranges");
        let content = noise(SIZE, 31);
        let digest = registry.push_blob(&name, &content);
        let path = format!("/v2/{name}/blobs/{digest}");
        Self {
            registry,
            path,
            content,
        }
    }

    fn get(&self, range: &str) -> Response {
        self.registry
            .request(Method::GET, &self.path)
            .header("range", range)
            .send()
            .unwrap()
    }
}

/// The parts of a `multipart/byteranges` body: `Content-Range` and bytes.
fn parts(response: Response) -> Vec<(String, Vec<u8>)> {
    let kind = header(&response, "content-type");
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap()
        .to_owned();
    let announced: usize = header(&response, "content-length").parse().unwrap();
    let body = response.bytes().unwrap();
    assert_eq!(body.len(), announced);
    let find = |bytes: &[u8], needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle);
    let mut rest = body.strip_prefix(format!("--{boundary}").as_bytes()).unwrap();
    let mut parts = Vec::new();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head_end = find(part, b"\r\n\r\n").unwrap();
        let head = std::str::from_utf8(&part[..head_end]).unwrap();
        assert!(head.contains("Content-Type: application/octet-stream"), "{head}");
        let range = head
            .split("Content-Range: ")
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next()
            .unwrap();
        let content = &part[head_end + 4..];
        let next = format!("\r\n--{boundary}");
        let end = find(content, next.as_bytes()).unwrap();
        parts.push((range.to_owned(), content[..end].to_vec()));
        rest = &content[end + next.len()..];
    }
    assert_eq!(rest, b"--\r\n");
    parts
}

clause! {
    fn one_range_is_partial_content(registry) {
        let blob = Blob::push(registry);
        for (range, start, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=500-1499", 500, 1500),
            ("bytes=1048570-1048590", 1_048_570, 1_048_591),
            ("bytes=2299990-", 2_299_990, SIZE),
            ("bytes=-10", SIZE - 10, SIZE),
            ("bytes=-9999999", 0, SIZE),
            ("bytes=2299999-9999999", SIZE - 1, SIZE),
        ] {
            let response = blob.get(range);
            assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
            assert_eq!(header(&response, "content-range"), format!("bytes {start}-{}/{SIZE}", end - 1));
            assert_eq!(header(&response, "content-length"), (end - start).to_string());
            assert_eq!(header(&response, "accept-ranges"), "bytes");
            assert!(response.headers().get("etag").is_some());
            assert_eq!(response.bytes().unwrap(), blob.content[start..end], "{range}");
        }
    }
}

clause! {
    fn a_range_that_the_blob_does_not_have_is_unsatisfiable(registry) {
        let blob = Blob::push(registry);
        for range in ["bytes=2300000-", "bytes=9999999-99999999", "bytes=500-0", "bytes=-0", "bytes=9999999-,8888888-"] {
            let response = blob.get(range);
            assert_eq!(header(&response, "content-range"), format!("bytes */{SIZE}"), "{range}");
            refused(response, StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID");
        }
    }
}

clause! {
    fn a_range_that_cannot_be_read_is_ignored(registry) {
        let blob = Blob::push(registry);
        for range in ["lines=0-9", "bytes=a-b", "bytes=", "bytes", "bytes=1"] {
            let response = blob.get(range);
            assert_eq!(response.status(), StatusCode::OK, "{range}");
            assert_eq!(response.bytes().unwrap().len(), SIZE);
        }
    }
}

clause! {
    fn several_ranges_come_as_multipart_in_the_order_asked_for(registry) {
        let blob = Blob::push(registry);
        let response = blob.get("bytes=1500000-2200000, 0-9,10-19, -5");
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        assert!(response.headers().get("content-range").is_none());
        let parts = parts(response);
        let expected = [(1_500_000, 2_200_001), (0, 10), (10, 20), (SIZE - 5, SIZE)];
        assert_eq!(parts.len(), expected.len(), "ranges that only touch stay apart");
        for ((range, bytes), (start, end)) in parts.iter().zip(expected) {
            assert_eq!(*range, format!("bytes {start}-{}/{SIZE}", end - 1));
            assert!(bytes == &blob.content[start..end], "{range}");
        }
    }
}

clause! {
    fn overlapping_ranges_are_joined_and_absent_ones_left_out(registry) {
        let blob = Blob::push(registry);
        let response = blob.get("bytes=0-99,50-199,9999999-");
        assert_eq!(header(&response, "content-range"), format!("bytes 0-199/{SIZE}"));
        assert_eq!(response.bytes().unwrap(), blob.content[..200]);
        let parts = parts(blob.get("bytes=0-99,50-199,300-301"));
        assert_eq!(parts.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [200, 2]);
    }
}

clause! {
    fn sixty_four_ranges_are_served_and_more_refused(registry) {
        let blob = Blob::push(registry);
        let ranges = |count: usize| {
            let list: Vec<String> = (0..count).map(|n| format!("{}-{}", n * 10, n * 10 + 1)).collect();
            format!("bytes={}", list.join(","))
        };
        assert_eq!(parts(blob.get(&ranges(64))).len(), 64);
        refused(blob.get(&ranges(65)), StatusCode::BAD_REQUEST, "SIZE_INVALID");
    }
}

clause! {
    fn if_range_serves_the_range_only_of_the_content_named(registry) {
        let blob = Blob::push(registry);
        let etag = header(&registry.get(&blob.path), "etag");
        for (condition, status) in [
            (etag.as_str(), StatusCode::PARTIAL_CONTENT),
            ("\"other\"", StatusCode::OK),
            ("Wed, 21 Oct 2015 07:28:00 GMT", StatusCode::OK),
        ] {
            let request = registry.request(Method::GET, &blob.path).header("range", "bytes=0-9");
            assert_eq!(request.header("if-range", condition).send().unwrap().status(), status, "{condition}");
        }
    }
}

clause! {
    fn head_says_that_ranges_are_served_and_ignores_them(registry) {
        let blob = Blob::push(registry);
        let head = registry.request(Method::HEAD, &blob.path).header("range", "bytes=0-9").send().unwrap();
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(header(&head, "accept-ranges"), "bytes");
        assert_eq!(header(&head, "content-length"), SIZE.to_string());
    }
}

clause! {
    fn the_empty_blob_has_no_ranges(registry) {
        let name = registry.repository("ranges");
        let digest = registry.push_blob(&name, b"");
        for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            let request = registry.request(Method::GET, &format!("/v2/{name}/blobs/{digest}"));
            let response = request.header("range", range).send().unwrap();
            assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        }
    }
}
