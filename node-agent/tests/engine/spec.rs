//! What a container is given, seen from inside it and from the control groups.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use node_agent::network::{PortRequest, Protocol};

use crate::support::{config, on_a_host, output, run, shell, until, view};

#[test]
fn the_program_finds_itself_where_it_should() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let mut new =
            shell("id -u; id -g; id -G; echo $HOME $A $PATH; pwd; hostname; cat /etc/hosts /etc/hostname");
        config(&mut new).env = vec!["A=image".to_owned()];
        new.container
            .environment
            .insert("A".to_owned(), "asked".to_owned());
        new.container.user = Some("app".to_owned());
        new.container.working_dir = Some("/made/for/it".to_owned());
        new.container.hostname = Some("web".to_owned());
        let (text, code) = output(&engine, new).await;
        assert_eq!(code, 0, "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["1000", "1001", "1001 29"]);
        assert_eq!(
            lines[3],
            "/home/app asked /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        );
        assert_eq!(lines[4..6], ["/made/for/it", "web"]);
        assert!(lines.iter().any(|line| line.ends_with("\tweb")), "{text}");
        assert_eq!(lines.last(), Some(&"web"));
    });
}

#[test]
fn isolation_is_there_by_default() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let script = "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '; ls /proc/self/ns | wc -l; \
                      wc -c < /proc/interrupts; touch /proc/sys/kernel/hostname 2>&1 | grep -c -i 'read-only'; \
                      cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /proc | grep -c '^[0-9]'";
        let (text, _) = output(&engine, shell(script)).await;
        let lines: Vec<&str> = text.lines().collect();
        let bounding = u64::from_str_radix(lines[0].trim_start_matches("CapBnd: "), 16).expect("a mask");
        assert_eq!(bounding & !0xa804_25fb, 0, "{text}");
        assert_eq!(lines[1..3], ["NoNewPrivs: 1", "Seccomp: 2"]);
        assert_eq!(lines[4], "0", "/proc/interrupts is masked: {text}");
        assert_eq!(lines[6], "0", "{text}");
        assert!(lines[7].parse::<u32>().is_ok_and(|count| count < 10), "{text}");

        let mut bare = shell("touch /new; grep CapEff /proc/self/status | tr '\\t' ' '");
        bare.container.read_only = true;
        bare.container.cap_drop = vec!["ALL".to_owned()];
        bare.container.cap_add = vec!["NET_BIND_SERVICE".to_owned()];
        let (text, _) = output(&engine, bare).await;
        assert!(text.contains("Read-only file system"), "{text}");
        assert!(text.contains("CapEff: 0000000000000400"), "{text}");
    });
}

#[test]
fn limits_are_in_the_control_groups() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let mut limited = shell("sleep 100");
        limited.resources.memory_bytes = Some(64 << 20);
        limited.resources.nano_cpus = Some(500_000_000);
        limited.resources.pids = Some(33);
        let limited = run(&engine, limited).await;
        assert_eq!(
            host.limit(&limited, "memory.limit_in_bytes", "memory.max"),
            (64 << 20).to_string()
        );
        let cpu = host.limit(&limited, "cpu.cfs_quota_us", "cpu.max");
        assert!(["50000", "50000 100000"].contains(&cpu.as_str()), "{cpu}");
        assert_eq!(host.limit(&limited, "pids.max", "pids.max"), "33");
        let free = run(&engine, shell("sleep 100")).await;
        assert_eq!(host.limit(&free, "pids.max", "pids.max"), "2048");
        for id in [limited, free] {
            engine.remove(&id, true).await.expect("removes");
        }
    });
}

#[test]
fn the_out_of_memory_killer_is_reported() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let mut greedy = shell("x=a; while true; do x=$x$x; done");
        greedy.resources.memory_bytes = Some(16 << 20);
        let id = run(&engine, greedy).await;
        let exit = engine.wait(&id).await.expect("ends");
        assert!(exit.oom_killed, "{exit:?}");
        assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
        engine.remove(&id, false).await.expect("removes");
    });
}

#[test]
fn published_ports_follow_the_container() {
    on_a_host(async |host| {
        let engine = host.open().await;
        let mut server = shell("while true; do echo here | nc -l -p 80; done");
        server.ports = vec![PortRequest {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port: 0,
            container_port: 80,
        }];
        let id = run(&engine, server).await;
        let running = view(&engine, &id).await;
        let port = running.ports[0].host_port;
        let ask = |address: Ipv4Addr, port: u16| {
            let limit = Duration::from_secs(2);
            let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), limit).ok()?;
            stream.set_read_timeout(Some(limit)).ok()?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).ok()?;
            Some(answer)
        };
        let address = running.address.expect("has an address");
        until("an answer", async || {
            tokio::task::block_in_place(|| ask(address, 80)) == Some(*b"here\n")
        })
        .await;
        until("an answer over the published port", async || {
            tokio::task::block_in_place(|| ask(Ipv4Addr::LOCALHOST, port)) == Some(*b"here\n")
        })
        .await;
        engine.stop(&id, Duration::ZERO).await.expect("stops");
        until("the port's end", async || {
            tokio::task::block_in_place(|| ask(Ipv4Addr::LOCALHOST, port)).is_none()
        })
        .await;
        assert!(view(&engine, &id).await.ports.is_empty());
        engine.remove(&id, false).await.expect("removes");
    });
}
