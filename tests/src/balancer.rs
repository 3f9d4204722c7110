//! A plain TCP balancer: each connection goes to the next of several addresses, whatever it carries.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A running balancer. It accepts nothing more when dropped; connections end with their ends.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    backends: Mutex<Vec<String>>,
    next: AtomicUsize,
    is_stopped: AtomicBool,
}

impl Balancer {
    /// Balances over `backends`, each `HOST:PORT`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(backends: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            backends: Mutex::new(backends),
            ..State::default()
        });
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_stopped.load(Ordering::SeqCst) {
                    break;
                }
                if let Some(backend) = shared.connect() {
                    join(client, backend);
                }
            }
        });
        Self { address, state }
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl State {
    /// The next backend that answers.
    fn connect(&self) -> Option<TcpStream> {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        (0..backends.len()).find_map(|_| {
            let next = self.next.fetch_add(1, Ordering::SeqCst) % backends.len();
            TcpStream::connect(&backends[next]).ok()
        })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.state.is_stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn join(client: TcpStream, backend: TcpStream) {
    let copies = [
        (client.try_clone(), backend.try_clone()),
        (Ok(backend), Ok(client)),
    ];
    for (from, to) in copies {
        if let (Ok(mut from), Ok(mut to)) = (from, to) {
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    }
}
