//! A TCP proxy on loopback whose link can be cut, swallowed and slowed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What the proxy does with the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Passes everything on.
    Up,
    /// Passes everything on, each way this much later.
    Slow(Duration),
    /// Passes on no more than so many bytes a second, each way.
    Throttled(u32),
    /// Closes what is open, and what is opened.
    Cut,
    /// Accepts, and never passes anything on: neither data nor the end of it.
    BlackHole,
}

/// A proxy before one port. Dropping it cuts the link.
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
        let port = listener.local_addr().unwrap().port();
        let (link, watched) = watch::channel(Link::Up);
        let accepted = Arc::new(Mutex::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                *count.lock().unwrap() += 1;
                open.spawn(carry(client, upstream, watched.clone()));
            }
        });
        Self { port, link, accepted, task: task.abort_handle() }
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

/// Carries one connection until either end closes it or the link is cut.
async fn carry(client: TcpStream, upstream: u16, link: watch::Receiver<Link>) {
    let mut watched = link.clone();
    let cut = async move {
        // An error means that the proxy is gone, which cuts too.
        watched.wait_for(|link| *link == Link::Cut).await.ok();
    };
    let work = async {
        let mut watched = link.clone();
        watched.wait_for(|link| *link != Link::BlackHole).await.ok();
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

async fn pump(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, link: watch::Receiver<Link>) {
    let mut link = link;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let now = *link.borrow_and_update();
        // Twenty small portions a second rather than one large one.
        let portion =
            if let Link::Throttled(bytes) = now { (bytes as usize / 20).clamp(1, buffer.len()) } else { buffer.len() };
        let read = from.read(&mut buffer[..portion]).await;
        if let (Link::Throttled(bytes), Ok(n)) = (now, &read) {
            tokio::time::sleep(Duration::from_secs_f64(*n as f64 / f64::from(bytes))).await;
        }
        let now = *link.borrow_and_update();
        if let Link::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        // In a black hole the end of the stream is swallowed as well.
        if link.wait_for(|link| *link != Link::BlackHole).await.is_err() {
            return;
        }
        match read {
            Ok(n) if n > 0 && to.write_all(&buffer[..n]).await.is_ok() => {}
            _ => return,
        }
    }
}
