//! Several registry processes on PostgreSQL and S3 behind a plain TCP balancer, none of them special.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use blackbox::balancer::Balancer;
use blackbox::image::noise;
use blackbox::objects::ObjectServer;
use blackbox::postgres::Schema;
use blackbox::process::succeed;
use blackbox::registry::{Registry, header};
use blackbox::wait_for;
use oci::Digest;
use reqwest::blocking::{Client, Response};
use reqwest::{Method, StatusCode};

const REPLICAS: usize = 3;
const MIB: usize = 1024 * 1024;

/// Fields are dropped in this order: nothing loses what it stands on before it ends.
struct Cluster {
    balancer: Balancer,
    replicas: Vec<Registry>,
    schema: Schema,
    objects: ObjectServer,
}

impl Cluster {
    /// All of them start at once on an empty database.
    fn start(config: &str) -> Option<Self> {
        let schema = Schema::create()?;
        let objects = ObjectServer::s3()?;
        let storage = format!("{}{config}", objects.config());
        let replicas = thread::scope(|scope| {
            let start = || Registry::replica(&schema.url(), &storage);
            let starting: Vec<_> = (0..REPLICAS).map(|_| scope.spawn(start)).collect();
            starting
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        let addresses = replicas.iter().map(|replica| replica.address().to_owned());
        Some(Self {
            balancer: Balancer::start(addresses.collect()),
            replicas,
            schema,
            objects,
        })
    }

    /// A request on a connection of its own, so that the next process gets it.
    fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let client = Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        let mut request = client.request(method, format!("{}{path}", self.balancer.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body.to_vec()).send().unwrap()
    }

    fn begin(&self) -> String {
        let begun = self.send(Method::POST, "/v2/a/b/blobs/uploads/", &[], b"");
        assert_eq!(begun.status(), StatusCode::ACCEPTED);
        header(&begun, "location")
    }

    fn push(&self, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let upload = self.begin();
        let done = self.send(Method::PUT, &format!("{upload}?digest={digest}"), &[], content);
        assert_eq!(done.status(), StatusCode::CREATED);
        digest
    }
}

#[test]
fn the_requests_of_one_upload_go_to_different_processes() {
    let Some(cluster) = Cluster::start("") else { return };
    // Parts are 5 MiB: cuts before, at and behind their edges, and small ones between.
    let content = noise(17 * MIB + 11, 1);
    let cuts = [
        3,
        5 * MIB,
        5 * MIB + 1,
        11 * MIB,
        15 * MIB,
        16 * MIB,
        content.len(),
    ];
    let upload = cluster.begin();
    let mut start = 0;
    for cut in cuts {
        let range = format!("{start}-{}", cut - 1);
        let sent = cluster.send(
            Method::PATCH,
            &upload,
            &[("content-range", range.as_str())],
            &content[start..cut],
        );
        assert_eq!(sent.status(), StatusCode::ACCEPTED, "{range}");
        let status = cluster.send(Method::GET, &upload, &[], b"");
        assert_eq!(header(&status, "range"), format!("0-{}", cut - 1));
        start = cut;
    }
    let digest = Digest::sha256(&content);
    let done = cluster.send(Method::PUT, &format!("{upload}?digest={digest}"), &[], b"");
    assert_eq!(done.status(), StatusCode::CREATED);
    for replica in &cluster.replicas {
        let path = format!("/v2/a/b/blobs/{digest}");
        let pulled = replica.send(Method::GET, &path).bytes().unwrap();
        assert!(pulled == content, "{}", replica.url());
        let ranged = replica
            .request(Method::GET, &path)
            .header("range", "bytes=5242879-5242881");
        let part = ranged.send().unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert!(part.bytes().unwrap() == content[5_242_879..5_242_882]);
    }
    assert_eq!(cluster.objects.count("b/"), 1, "tails of chunks are removed");
    assert_eq!(cluster.schema.value("SELECT COUNT(*) FROM upload"), "0");
}

#[test]
fn equal_blobs_pushed_everywhere_at_once_become_one() {
    let Some(cluster) = Cluster::start("") else { return };
    let content = noise(MIB, 2);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| cluster.push(&content));
        }
    });
    assert_eq!(cluster.schema.value("SELECT COUNT(*) FROM blob"), "1");
    assert_eq!(cluster.objects.count("b/"), 1, "the others are dropped");
    let digest = Digest::sha256(&content);
    let pulled = cluster.send(Method::GET, &format!("/v2/a/b/blobs/{digest}"), &[], b"");
    assert!(pulled.bytes().unwrap() == content);
}

#[test]
fn a_killed_process_leaves_its_upload_to_the_others() {
    let Some(mut cluster) = Cluster::start("") else {
        return;
    };
    let content = noise(9 * MIB, 3);
    let upload = cluster.begin();
    let first = cluster.send(
        Method::PATCH,
        &upload,
        &[("content-range", "0-999")],
        &content[..1000],
    );
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    // The one that dies has written a part, and acknowledged nothing of it.
    let mut stream = TcpStream::connect(cluster.replicas[0].address()).unwrap();
    write!(
        stream,
        "PATCH {upload} HTTP/1.1\r\nHost: registry\r\nContent-Length: {}\r\n\r\n",
        content.len() - 1000
    )
    .unwrap();
    stream.write_all(&content[1000..8 * MIB]).unwrap();
    wait_for("its lease", Duration::from_secs(20), || {
        match cluster.schema.value("SELECT lease_owner FROM upload").as_str() {
            "" => Err("nobody has it"),
            _ => Ok(()),
        }
    });
    let path = upload.as_str();
    let busy = cluster.replicas[1]
        .request(Method::PATCH, path)
        .body("x")
        .send()
        .unwrap();
    assert_eq!(
        busy.status(),
        StatusCode::CONFLICT,
        "one request at a time, of all processes"
    );
    cluster.replicas[0].kill();
    // By a byte at a time: what is refused is not read.
    let mut start = 0;
    wait_for(
        "the lease of the dead to run out",
        Duration::from_secs(60),
        || {
            let standing = header(
                &cluster.replicas[1].send(Method::GET, path),
                "pierhead-upload-offset",
            );
            start = standing.parse().unwrap();
            let range = format!("{start}-{start}");
            let request = cluster.replicas[1].request(Method::PATCH, path);
            let next = content[start..=start].to_vec();
            match request
                .header("content-range", range)
                .body(next)
                .send()
                .unwrap()
                .status()
            {
                StatusCode::ACCEPTED => Ok(()),
                status => Err(format!("status {status} at {start}")),
            }
        },
    );
    start += 1;
    let range = format!("{start}-{}", content.len() - 1);
    let rest = cluster.send(
        Method::PATCH,
        path,
        &[("content-range", &range)],
        &content[start..],
    );
    assert_eq!(rest.status(), StatusCode::ACCEPTED);
    let digest = Digest::sha256(&content);
    // Through the balancer, which passes over the dead one.
    let done = cluster.send(Method::PUT, &format!("{upload}?digest={digest}"), &[], b"");
    assert_eq!(done.status(), StatusCode::CREATED);
    let pulled = cluster.send(Method::GET, &format!("/v2/a/b/blobs/{digest}"), &[], b"");
    assert!(pulled.bytes().unwrap() == content);
}

#[test]
fn a_client_pushes_and_pulls_an_image_through_the_balancer() {
    let Some(cluster) = Cluster::start("") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("image");
    blackbox::image::layout(
        &layout,
        &[("large", &noise(6 * MIB, 4)), ("small", &noise(1000, 5))],
    );
    let skopeo = |from: &str, to: &str| {
        succeed(
            Command::new("skopeo")
                .args([
                    "--insecure-policy",
                    "copy",
                    "--src-tls-verify=false",
                    "--dest-tls-verify=false",
                ])
                .args(["--preserve-digests", from, to]),
        );
    };
    let remote = format!("docker://{}/a/image:v1", cluster.balancer.address());
    skopeo(&format!("oci:{}:latest", layout.display()), &remote);
    let back = scratch.path().join("back");
    skopeo(&remote, &format!("oci:{}:v1", back.display()));
    let blobs = |of: &std::path::Path| -> BTreeSet<_> {
        let entries = std::fs::read_dir(of.join("blobs/sha256")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(blobs(&layout), blobs(&back));
}

#[test]
fn clients_of_chosen_networks_are_sent_to_the_store() {
    let on = "[storage.redirect]\nenabled = true\ncidrs = [\"127.0.0.0/8\"]\n";
    let elsewhere = "[storage.redirect]\nenabled = true\ncidrs = [\"10.0.0.0/8\"]\n";
    for (config, is_sent) in [(on, true), (elsewhere, false), ("", false)] {
        let Some(cluster) = Cluster::start(config) else {
            return;
        };
        let content = noise(100_000, 6);
        let digest = cluster.push(&content);
        let path = format!("/v2/a/b/blobs/{digest}");
        let direct = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let url = format!("{}{path}", cluster.balancer.url());
        let answer = direct.get(&url).send().unwrap();
        assert_eq!(
            answer.status() == StatusCode::TEMPORARY_REDIRECT,
            is_sent,
            "{config}"
        );
        if is_sent {
            assert!(header(&answer, "location").starts_with(cluster.objects.endpoint()));
        }
        assert_eq!(
            direct.head(&url).send().unwrap().status(),
            StatusCode::OK,
            "we know what it is"
        );
        let pulled = cluster.send(Method::GET, &path, &[("range", "bytes=10-19")], b"");
        assert_eq!(pulled.status(), StatusCode::PARTIAL_CONTENT);
        assert!(pulled.bytes().unwrap() == content[10..20]);
        assert!(cluster.send(Method::GET, &path, &[], b"").bytes().unwrap() == content);
    }
}
