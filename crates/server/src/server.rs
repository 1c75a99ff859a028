//! Listening, connections and their limits, the end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use chiaro::{Device, Error, Result};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::guard::Peer;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::{device, openai, routes};

/// Connections at a time.
const MOST_CONNECTIONS: usize = 512;
/// How long a request's head may take to come, and a connection may lie idle.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// How long a client may take to read what was sent.
const READ_TIME: Duration = Duration::from_secs(30);
/// Headers of a request, and bytes of its head.
const MOST_HEADERS: usize = 64;
const HEAD_BYTES: usize = 32 << 10;
/// How often jobs that ended long ago are looked for.
const TIDY: Duration = Duration::from_secs(60);

/// A server that has its folder, its device and its addresses, and answers once it [`run`](Self::run)s.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    thread: JoinHandle<()>,
}

/// Ends a server, from any thread.
#[derive(Debug, Clone)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// One that nobody has asked to end.
    pub fn new() -> Self {
        Stop(watch::Sender::new(false))
    }

    /// Asks it to end: it takes no more jobs, lets the picture that it draws end within [`Settings::grace`] or leaves it for the next start, and
    /// returns from [`Server::run`].
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// Takes the folder, reads its journal, and listens. Jobs of an earlier run go on from here.
    ///
    /// # Errors
    /// Settings that do not go together, a folder that another server has, a journal that is damaged, a name that is not found, an address that
    /// is taken.
    pub fn open(settings: Settings, device: Device) -> Result<Self> {
        settings.check()?;
        let mut listeners = Vec::new();
        for address in &settings.addresses {
            match TcpListener::bind(address) {
                Ok(listener) => listeners.push(listener),
                // Without IPv6 in the system, IPv4 does.
                Err(error) if address.is_ipv6() && !listeners.is_empty() && address.ip().is_loopback() => {
                    if error.kind() == std::io::ErrorKind::AddrInUse {
                        return Err(Error::io(address.to_string(), error));
                    }
                }
                Err(error) => return Err(Error::io(address.to_string(), error)),
            }
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>();
        let addresses = addresses.map_err(|e| Error::io("an address", e))?;
        let shared = Arc::new(Shared::open(settings, device)?);
        let thread = device::start(&shared)?;
        Ok(Server { shared, listeners, addresses, thread })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Jobs that wait, of an earlier run.
    pub fn waiting(&self) -> usize {
        self.shared.jobs.order().len()
    }

    /// Answers until it is asked to end.
    ///
    /// # Errors
    /// When the system refuses threads or sockets.
    pub fn run(self, stop: &Stop) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .thread_name("chiaro serve")
            .enable_all()
            .build()
            .map_err(|e| Error::io("threads that answer", e))?;
        let shared = self.shared;
        let result = runtime.block_on(async {
            let router = routes::router(&shared);
            let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
            for listener in self.listeners {
                listener.set_nonblocking(true).map_err(|e| Error::io("a socket", e))?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| Error::io("a socket", e))?;
                tokio::spawn(accept(listener, router.clone(), Arc::clone(&room)));
            }
            openai::resume_batches(&shared);
            tokio::spawn(tidy(Arc::clone(&shared)));
            let mut asked = stop.0.subscribe();
            // The sender outlives this: it is borrowed.
            let _ = asked.wait_for(|asked| *asked).await;
            end(&shared, self.thread).await;
            Ok(())
        });
        // Those who still read are let go.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }
}

/// Lets what runs end, or leaves it for the next start.
async fn end(shared: &Arc<Shared>, thread: JoinHandle<()>) {
    shared.jobs.drain();
    let running = shared.jobs.running();
    let all_ended = async {
        for live in &running {
            live.ended().await;
        }
    };
    if tokio::time::timeout(shared.settings.grace, all_ended).await.is_err() {
        running.iter().for_each(|live| live.interrupt());
    }
    // Callers hear how their jobs ended before their connections go.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn tidy(shared: Arc<Shared>) {
    loop {
        let own = Arc::clone(&shared);
        let _ = tokio::task::spawn_blocking(move || own.tidy()).await;
        tokio::time::sleep(TIDY).await;
    }
}

async fn accept(listener: tokio::net::TcpListener, router: Router, room: Arc<Semaphore>) {
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, peer, router).await;
                    drop(place);
                });
            }
            // Out of descriptors: others will close.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(READ_TIME));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip().to_canonical()));
        router.clone().oneshot(request.map(Body::new))
    });
    // What goes wrong on a connection is its client's to see.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(MOST_HEADERS)
        .max_buf_size(HEAD_BYTES.max(8192))
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .await;
}
