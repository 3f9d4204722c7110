//! Listeners on published ports.
//!
//! Address translation carries almost all traffic and goes on without the agent. The listener reserves the port, so
//! that nobody else takes it unseen, and serves what translation cannot: IPv6 clients, and kernels without nf_tables.
//! UDP ports are reserved only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::NetworkError;
use super::port::{PortRequest, Protocol, PublishedPort};

/// Connections per port. Each takes two descriptors and two 8 KiB buffers: 8 MiB and 1,024 descriptors at most.
/// Further clients wait in the kernel's accept queue.
const MOST_CONNECTIONS: usize = 512;
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after a failed accept, which is nearly always a shortage of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One published port, held until [`Proxy::close`] or the end of the runtime.
#[derive(Debug)]
pub(super) struct Proxy {
    port: PublishedPort,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Tcp {
        target: watch::Sender<SocketAddrV4>,
        task: JoinHandle<()>,
    },
    Udp {
        _socket: UdpSocket,
    },
}

impl Proxy {
    /// Binds what `request` asks for and leads it to `container`. Needs the context of an async runtime; binding
    /// does not wait.
    ///
    /// # Errors
    /// [`NetworkError::PortTaken`], [`NetworkError::AddressNotHere`] or [`NetworkError::Listen`].
    pub(super) fn open(request: &PortRequest, container: Ipv4Addr) -> Result<Self, NetworkError> {
        let target = SocketAddrV4::new(container, request.container_port);
        let bound = match request.protocol {
            Protocol::Tcp => bind(request, TcpListener::bind).and_then(|listener| {
                listener.set_nonblocking(true)?;
                let host_port = listener.local_addr()?.port();
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let (target, targets) = watch::channel(target);
                let task = tokio::spawn(accept(listener, targets));
                Ok((host_port, Held::Tcp { target, task }))
            }),
            Protocol::Udp => bind(request, UdpSocket::bind)
                .and_then(|socket| Ok((socket.local_addr()?.port(), Held::Udp { _socket: socket }))),
        };
        let (host_port, held) = bound.map_err(|error| explain(request, error))?;
        let port = PublishedPort {
            protocol: request.protocol,
            host_address: request.host_address,
            host_port,
            container_port: request.container_port,
        };
        Ok(Self { port, held })
    }

    /// What is published.
    pub(super) fn port(&self) -> &PublishedPort {
        &self.port
    }

    /// Leads new connections to another container; those that exist stay where they are.
    pub(super) fn point_to(&self, container: Ipv4Addr) {
        if let Held::Tcp { target, .. } = &self.held {
            target.send_replace(SocketAddrV4::new(container, self.port.container_port));
        }
    }

    /// Ends the listener and its connections; the port is free once this returns. For threads that may block.
    pub(super) fn close(self) {
        if let Held::Tcp { task, .. } = self.held {
            task.abort();
            // An aborted task answers with an error, which is what was asked for.
            let _ = tokio::runtime::Handle::current().block_on(task);
        }
    }
}

/// Binds the asked address. All addresses are one socket for both families, or IPv4 alone where the host has no IPv6.
fn bind<S>(request: &PortRequest, bind: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    let on = |address: IpAddr| bind(SocketAddr::new(address, request.host_port));
    match request.host_address {
        Some(address) => on(address),
        None => match on(Ipv6Addr::UNSPECIFIED.into()) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
                ) || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) =>
            {
                on(Ipv4Addr::UNSPECIFIED.into())
            }
            bound => bound,
        },
    }
}

fn explain(request: &PortRequest, source: io::Error) -> NetworkError {
    let address = request.host_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let (port, protocol) = (request.host_port, request.protocol);
    match source.kind() {
        io::ErrorKind::AddrInUse => NetworkError::PortTaken {
            address,
            port,
            protocol,
        },
        io::ErrorKind::AddrNotAvailable => NetworkError::AddressNotHere {
            address,
            port,
            protocol,
        },
        _ => NetworkError::Listen {
            address,
            port,
            protocol,
            source,
        },
    }
}

async fn accept(listener: tokio::net::TcpListener, targets: watch::Receiver<SocketAddrV4>) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Ends with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                let target = *targets.borrow();
                connections.spawn(async move {
                    if let Err(error) = relay(client, target).await {
                        tracing::debug!(%error, %target, "proxied connection ended early");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on a published port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Copies both ways until both sides have ended; the end of one side is passed on while the other continues.
async fn relay(mut client: TcpStream, target: SocketAddrV4) -> io::Result<()> {
    let mut container = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(target))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    client.set_nodelay(true)?;
    container.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut container).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn request(host_address: Option<IpAddr>, host_port: u16, container_port: u16) -> PortRequest {
        PortRequest {
            protocol: Protocol::Tcp,
            host_address,
            host_port,
            container_port,
        }
    }

    /// A server on 127.0.0.1 that reads all of its input before it answers: it needs the half-close to be passed on.
    async fn serve_one(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.expect("reads");
                all.extend_from_slice(answer.as_bytes());
                stream.write_all(&all).await.expect("writes");
            }
        });
        port
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(b"question ").await.expect("writes");
        stream.shutdown().await.expect("half-closes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn half_close_is_passed_on_and_targets_can_change() {
        let first = serve_one("one").await;
        let proxy = Proxy::open(&request(None, 0, first), Ipv4Addr::LOCALHOST).expect("opens");
        let port = proxy.port().host_port;
        assert_ne!(port, 0);
        assert_eq!(ask((Ipv4Addr::LOCALHOST, port).into()).await, "question one");
        assert_eq!(ask((Ipv6Addr::LOCALHOST, port).into()).await, "question one");
        // The same port of another address: nothing listens there, so the connection ends without an answer.
        proxy.point_to(Ipv4Addr::new(127, 9, 9, 9));
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .expect("connects");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }

    #[tokio::test]
    async fn a_taken_port_is_named_and_free_again_once_closed() {
        let address = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let proxy = Proxy::open(&request(address, 0, 9), Ipv4Addr::LOCALHOST).expect("opens");
        let port = proxy.port().host_port;
        let error = Proxy::open(&request(address, port, 9), Ipv4Addr::LOCALHOST).expect_err("is taken");
        assert!(
            matches!(error, NetworkError::PortTaken { port: taken, .. } if taken == port),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("port {port}/tcp on 127.0.0.1")),
            "{error}"
        );
        tokio::task::spawn_blocking(|| proxy.close())
            .await
            .expect("closes");
        Proxy::open(&request(address, port, 9), Ipv4Addr::LOCALHOST).expect("is free");
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_refused_as_such() {
        let elsewhere = Some(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)));
        let error = Proxy::open(&request(elsewhere, 0, 9), Ipv4Addr::LOCALHOST).expect_err("is not here");
        assert!(matches!(error, NetworkError::AddressNotHere { .. }), "{error}");
    }
}
