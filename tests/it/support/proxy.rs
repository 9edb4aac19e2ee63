//! A TCP proxy on loopback whose link can be cut, swallowed and slowed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// What the proxy does with the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Passes everything on.
    Up,
    /// Passes everything on, each way this much later, as a long line does: what follows need not wait for what is under
    /// way. Opening a connection takes a round trip.
    Slow(Duration),
    /// Passes on no more than so many bytes a second, each way.
    Throttled(u32),
    /// Closes what is open, and what is opened.
    Cut,
    /// Closes what is open, and refuses connections.
    Refused,
    /// Accepts, and never passes anything on: neither data nor the end of it.
    BlackHole,
}

impl Link {
    /// How long a question and its answer are under way.
    pub(crate) fn round_trip(self) -> Duration {
        if let Self::Slow(delay) = self { delay * 2 } else { Duration::ZERO }
    }

    fn is_closed(&self) -> bool {
        matches!(self, Self::Cut | Self::Refused)
    }
}

/// A proxy before one port. Dropping it cuts the link.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub port: u16,
    link: watch::Sender<Link>,
    accepted: Arc<Mutex<u64>>,
    task: AbortHandle,
}

impl Proxy {
    /// Starts before `upstream`, a port of loopback.
    pub(crate) async fn start(upstream: u16) -> Self {
        Self::at("127.0.0.1:0", upstream).await
    }

    /// The same at an address of loopback.
    pub(crate) async fn at(address: &str, upstream: u16) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, watched) = watch::channel(Link::Up);
        let accepted = Arc::new(Mutex::new(0));
        let task = tokio::spawn(serve(listener, upstream, watched, Arc::clone(&accepted)));
        Self { port: address.port(), link, accepted, task: task.abort_handle() }
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        *self.accepted.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, upstream: u16, link: watch::Receiver<Link>, accepted: Arc<Mutex<u64>>) {
    let address = listener.local_addr().unwrap();
    let mut listener = listener;
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = until(&link, |link| *link == Link::Refused) => {
                drop(listener);
                let reserved = reserve(address).await;
                until(&link, |link| *link != Link::Refused).await;
                listener = reserved.listen(1024).unwrap();
            }
            client = listener.accept() => {
                *accepted.lock().unwrap() += 1;
                open.spawn(carry(client.unwrap().0, upstream, link.clone()));
                while open.try_join_next().is_some() {}
            }
        }
    }
}

/// The address, bound and not listened on: connections to it are refused, and it cannot be taken meanwhile.
async fn reserve(address: SocketAddr) -> TcpSocket {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        if socket.bind(address).is_ok() {
            return socket;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until the link is so. Never, when the proxy is gone.
async fn until(link: &watch::Receiver<Link>, is_so: impl FnMut(&Link) -> bool) {
    let mut link = link.clone();
    if link.wait_for(is_so).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Carries one connection until either end closes it or the link is cut.
async fn carry(client: TcpStream, upstream: u16, link: watch::Receiver<Link>) {
    let mut watched = link.clone();
    let cut = async move {
        // An error means that the proxy is gone, which cuts too.
        watched.wait_for(Link::is_closed).await.ok();
    };
    let work = async {
        until(&link, |link| *link != Link::BlackHole).await;
        let handshake = link.borrow().round_trip();
        tokio::time::sleep(handshake).await;
        let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let (client_reads, client_writes) = client.into_split();
        let (server_reads, server_writes) = server.into_split();
        tokio::select! {
            () = pump(client_reads, server_writes, link.clone()) => {}
            () = pump(server_reads, client_writes, link) => {}
        }
    };
    tokio::select! {
        () = cut => {}
        () = work => {}
    }
}

/// So many portions may be under way at a time.
const UNDER_WAY: usize = 256;

async fn pump(from: impl AsyncReadExt + Unpin, to: impl AsyncWriteExt + Unpin, link: watch::Receiver<Link>) {
    let (sender, receiver) = mpsc::channel(UNDER_WAY);
    tokio::select! {
        () = take(from, sender, link.clone()) => {}
        () = deliver(receiver, to, link) => {}
    }
}

/// Reads, and notes when each portion is to arrive. An empty one is the end of the stream.
async fn take(
    mut from: impl AsyncReadExt + Unpin,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    link: watch::Receiver<Link>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut last = Instant::now();
    loop {
        let now = *link.borrow();
        // Twenty small portions a second rather than one large one.
        let portion =
            if let Link::Throttled(bytes) = now { (bytes as usize / 20).clamp(1, buffer.len()) } else { buffer.len() };
        let n = from.read(&mut buffer[..portion]).await.unwrap_or(0);
        if let Link::Throttled(bytes) = now {
            tokio::time::sleep(Duration::from_secs_f64(n as f64 / f64::from(bytes))).await;
        }
        // In a black hole the end of the stream is swallowed as well.
        until(&link, |link| *link != Link::BlackHole).await;
        let delay = if let Link::Slow(delay) = *link.borrow() { delay } else { Duration::ZERO };
        last = last.max(Instant::now() + delay);
        if sender.send((last, buffer[..n].to_vec())).await.is_err() || n == 0 {
            break;
        }
    }
    // The end of the delivery ends the connection.
    std::future::pending::<()>().await;
}

async fn deliver(
    mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: impl AsyncWriteExt + Unpin,
    link: watch::Receiver<Link>,
) {
    while let Some((at, portion)) = receiver.recv().await {
        tokio::time::sleep_until(at).await;
        until(&link, |link| *link != Link::BlackHole).await;
        if portion.is_empty() || to.write_all(&portion).await.is_err() {
            return;
        }
    }
}
