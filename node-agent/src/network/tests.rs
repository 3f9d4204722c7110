//! The network against the real kernel: each test lives in a network namespace of its own, so that it sees no other
//! network of this machine and leaves none behind. Needs root; says so and does nothing without.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::link::ContainerEnd;
use super::*;

/// A host: a thread in a namespace of its own, on which the agent's runtime and its helper threads are born.
fn on_a_host(test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: making network namespaces needs root");
        return;
    }
    let directory = TempDir::new().expect("a directory");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            agent().block_on(async {
                let links = Links::connect().expect("connects");
                links.set_up_loopback().await.expect("is set up");
            });
            test(directory.path());
        });
    });
}

fn agent() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn config(directory: &Path) -> NetworkConfig {
    NetworkConfig::for_instance(&directory.join("data"), &directory.join("run"))
}

fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).expect("an id")
}

fn tcp(host_address: Option<&str>, host_port: u16) -> PortRequest {
    PortRequest {
        protocol: Protocol::Tcp,
        host_address: host_address.map(|text| text.parse().expect("an address")),
        host_port,
        container_port: 80,
    }
}

/// Runs `work` inside a namespace and waits for it.
fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(
                fs::File::open(namespace).expect("opens"),
                CloneFlags::CLONE_NEWNET,
            )
            .expect("enters");
            work()
        });
        thread.join().expect("does not panic")
    })
}

/// Serves `name` and the client's address on port 80 of a namespace for as long as the process lives.
fn serve(namespace: &Path, name: &'static str) {
    let listener = inside(namespace, || TcpListener::bind("0.0.0.0:80").expect("binds"));
    let datagrams = inside(namespace, || UdpSocket::bind("0.0.0.0:80").expect("binds"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            let peer = stream.peer_addr().expect("connected").ip();
            let _ = stream.write_all(format!("{name} {peer}").as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(name.as_bytes(), peer);
        }
    });
}

/// What a server answers, or why it does not.
fn ask(address: impl Into<IpAddr>, port: u16) -> std::io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address.into(), port), limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_published_port_is_reached_from_everywhere_even_without_the_agent() {
    on_a_host(|directory| {
        let config = config(directory);
        let first = agent();
        let network = first.block_on(Network::open(config.clone())).expect("opens");
        let one = first
            .block_on(network.attach(&id("one"), &[tcp(None, 0)]))
            .expect("attaches");
        let two = first.block_on(network.attach(&id("two"), &[])).expect("attaches");
        serve(&one.netns_path, "one");
        let port = one.ports[0].host_port;
        let gateway = network.subnet().gateway();

        assert_eq!(ask(one.address, 80).expect("direct"), format!("one {gateway}"));
        drop(network);
        first.shutdown_timeout(Duration::from_secs(5));

        // The agent is dead: what answers now is the kernel's translation.
        let from_loopback = ask(Ipv4Addr::LOCALHOST, port).expect("over loopback");
        assert_eq!(from_loopback, format!("one {gateway}"));
        ask(gateway, port).expect("over an address of the host");
        let from_neighbour = inside(&two.netns_path, || ask(gateway, port)).expect("from a neighbour");
        assert_eq!(from_neighbour, format!("one {gateway}"));
        inside(&one.netns_path, || ask(gateway, port)).expect("hairpin to itself");
        ask(Ipv6Addr::LOCALHOST, port).expect_err("IPv6 pauses until the agent is back");

        let second = agent();
        let network = second.block_on(Network::open(config)).expect("opens again");
        assert_eq!(
            second.block_on(network.attachment(&id("one"))).as_ref(),
            Some(&one)
        );
        let client = std::thread::spawn(move || ask(Ipv6Addr::LOCALHOST, port));
        let answer = second.block_on(async {
            tokio::task::spawn_blocking(|| client.join().expect("does not panic"))
                .await
                .expect("joins")
        });
        assert_eq!(
            answer.expect("IPv6 through the listener"),
            format!("one {gateway}")
        );
        ask(Ipv4Addr::LOCALHOST, port).expect("over loopback again");

        second.block_on(network.remove()).expect("is removed");
        assert!(!one.netns_path.exists() && !two.netns_path.exists());
        ask(Ipv4Addr::LOCALHOST, port).expect_err("nothing is published any more");
    });
}

#[test]
fn a_failed_attachment_leaves_nothing_and_names_the_port() {
    on_a_host(|directory| {
        let config = config(directory);
        let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = taken.local_addr().expect("bound").port();
        agent().block_on(async {
            let network = Network::open(config.clone()).await.expect("opens");
            let error = network
                .attach(&id("one"), &[tcp(None, 0), tcp(Some("127.0.0.1"), port)])
                .await
                .expect_err("the port is taken");
            let text = error.to_string();
            assert!(text.contains(&format!("port {port}/tcp on 127.0.0.1")), "{text}");
            assert!(network.attached().await.is_empty());
            assert!(!config.run.join("one").exists());
            let host_interface = config.host_interface("one");
            assert_eq!(network.0.links.index(&host_interface).await.expect("looks"), None);

            let held = network
                .attach(&id("one"), &[tcp(None, 0)])
                .await
                .expect("attaches")
                .ports[0]
                .host_port;
            let error = network
                .attach(&id("two"), &[tcp(None, held)])
                .await
                .expect_err("is held");
            assert!(
                error.to_string().contains("published by container one"),
                "{error}"
            );
            network.remove().await.expect("is removed");
        });
    });
}

#[test]
fn a_service_port_moves_to_the_next_container() {
    on_a_host(|directory| {
        let runtime = agent();
        let network = runtime.block_on(Network::open(config(directory))).expect("opens");
        let service = Holder::service("web");
        let mut port = 0;
        for name in ["one", "two"] {
            let attachment = runtime
                .block_on(network.attach(&id(name), &[]))
                .expect("attaches");
            serve(&attachment.netns_path, name);
            let mut request = tcp(None, 0);
            request.host_port = port;
            let published = runtime
                .block_on(network.publish(&service, &id(name), &[request]))
                .expect("publishes");
            port = published[0].host_port;
            let answer = ask(Ipv4Addr::LOCALHOST, port).expect("answers");
            assert!(answer.starts_with(name), "{answer}");
        }
        runtime.block_on(network.detach(&id("one"))).expect("detaches");
        assert!(
            ask(Ipv4Addr::LOCALHOST, port)
                .expect("answers")
                .starts_with("two")
        );
        runtime.block_on(network.detach(&id("two"))).expect("detaches");
        ask(Ipv4Addr::LOCALHOST, port).expect_err("nothing is left to lead to");
        runtime.block_on(network.remove()).expect("is removed");
    });
}

#[test]
fn udp_is_translated_and_needs_an_ipv4_address() {
    on_a_host(|directory| {
        let runtime = agent();
        let network = runtime.block_on(Network::open(config(directory))).expect("opens");
        let udp = |address: Option<&str>| PortRequest {
            protocol: Protocol::Udp,
            ..tcp(address, 0)
        };
        let one = runtime
            .block_on(network.attach(&id("one"), &[udp(None)]))
            .expect("attaches");
        serve(&one.netns_path, "one");
        let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
        client
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("is set");
        client
            .send_to(b"question", ("127.0.0.1", one.ports[0].host_port))
            .expect("sends");
        let mut answer = [0; 16];
        let length = client.recv(&mut answer).expect("is answered");
        assert_eq!(&answer[..length], b"one");
        let error = runtime
            .block_on(network.attach(&id("two"), &[udp(Some("::1"))]))
            .expect_err("cannot be");
        assert!(matches!(error, NetworkError::UdpUnavailable { .. }), "{error}");
        runtime.block_on(network.remove()).expect("is removed");
    });
}

#[test]
fn strangers_reach_published_ports_only_and_containers_leave_as_the_host() {
    on_a_host(|directory| {
        let runtime = agent();
        let network = runtime.block_on(Network::open(config(directory))).expect("opens");
        let one = runtime
            .block_on(network.attach(&id("one"), &[tcp(None, 0)]))
            .expect("attaches");
        serve(&one.netns_path, "one");
        // Another machine on a wire of its own, which routes everything over this host.
        let wire: Subnet = "198.51.100.0/24".parse().expect("a subnet");
        let (here, there) = (wire.gateway(), Ipv4Addr::new(198, 51, 100, 2));
        let stranger = directory.join("stranger");
        let end = ContainerEnd {
            host_interface: "wire0".to_owned(),
            address: there,
            mac: MacAddress::of(there),
            subnet: wire,
        };
        runtime.block_on(async {
            namespace::create(stranger.clone(), end).await.expect("is made");
            network
                .0
                .links
                .ensure_address("wire0", here, wire)
                .await
                .expect("is set");
        });
        serve(&stranger, "stranger");
        let left_as = inside(&one.netns_path, || ask(there, 80)).expect("egress");
        assert_eq!(
            left_as,
            format!("stranger {here}"),
            "egress carries the host's address"
        );
        let seen = inside(&stranger, || ask(here, one.ports[0].host_port)).expect("published");
        assert_eq!(
            seen,
            format!("one {there}"),
            "a published port keeps the client's address"
        );
        inside(&stranger, || ask(one.address, 80)).expect_err("unpublished ports stay closed");
        namespace::remove(&stranger).expect("is removed");
        runtime.block_on(network.remove()).expect("is removed");
    });
}

#[test]
fn a_flushed_table_is_seen_and_put_back_and_a_removed_bridge_comes_back() {
    on_a_host(|directory| {
        let config = config(directory);
        let runtime = agent();
        let network = runtime.block_on(Network::open(config.clone())).expect("opens");
        let one = runtime
            .block_on(network.attach(&id("one"), &[tcp(None, 0)]))
            .expect("attaches");
        serve(&one.netns_path, "one");
        let inner = Arc::clone(&network.0);
        assert!(inner.table.exists().expect("asks"));
        inner.table.remove().expect("is removed");
        assert!(!inner.table.exists().expect("asks"));
        runtime
            .block_on(inner.links.remove(network.bridge()))
            .expect("is removed");
        drop((inner, network));
        drop(runtime);

        let runtime = agent();
        let network = runtime.block_on(Network::open(config)).expect("opens");
        assert!(network.0.table.exists().expect("asks"));
        ask(Ipv4Addr::LOCALHOST, one.ports[0].host_port).expect("is reached again");
        runtime.block_on(network.remove()).expect("is removed");
    });
}

#[test]
fn hundreds_of_ports_fit_one_transaction() {
    on_a_host(|directory| {
        let config = config(directory);
        agent().block_on(async {
            let network = Network::open(config).await.expect("opens");
            let one = network.attach(&id("one"), &[]).await.expect("attaches");
            let ports: Vec<PublishedPort> = (1..2000)
                .map(|port| PublishedPort {
                    protocol: Protocol::Tcp,
                    host_address: None,
                    host_port: port,
                    container_port: port,
                })
                .collect();
            network
                .0
                .table
                .replace(ports.iter().map(|port| (port, one.address)))
                .expect("is taken");
            network.remove().await.expect("is removed");
        });
    });
}
