//! Connections: who may hold one, for how long, and how they end.
//!
//! Each connection has a task of its own, kept in a set that ends with [`serve`]: the one place besides the wiring that
//! spawns, because a slow client must not hold up another. A page that panics costs its own connection and no other.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Method;
use axum::http::header::{self, HeaderValue};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, error, warn};

use super::reply::Reply;
use super::tls::Tls;
use super::{AppState, answer_at_once, route, router, wants_text};

/// Connections open at once. Beyond them clients wait in the kernel's queue.
const MAX_CONNECTIONS: u64 = 1024;

/// Open files that are neither a client's nor a target's: the log, the runtime, notifiers, certificates being read.
const OTHER_FILES: u64 = 32;

/// Time for a request's head, counted from the connection or the last answer: so also the longest idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Room for a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What is read as a body at most; a client that sends more is told so instead of being read to the end.
pub(super) const MAX_BODY_BYTES: u64 = 8 * 1024;

/// A connection is closed after its current answer once it is this old. So a client that does not read its answer
/// cannot hold it for ever.
const MAX_AGE: Duration = Duration::from_secs(300);

/// Time to finish the answer that is being written when the connection must end.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// A connection whose client takes nothing of its answer for this long is closed by the kernel.
const UNREAD: Duration = Duration::from_secs(10);

/// Pause after a failure to accept that the next attempt would only repeat (no file descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many clients may be connected at once when so many files may be open: as many as ever, unless they could keep the
/// targets' connections from being reopened.
pub fn places(open_files: u64, n_targets: usize) -> usize {
    let spare = open_files.saturating_sub(OTHER_FILES).saturating_sub(n_targets as u64);
    (spare / 2).clamp(8, MAX_CONNECTIONS) as usize
}

/// How many of so many clients may wait for a server to read from: the others are for everything else.
pub fn waiters(places: usize) -> Semaphore {
    Semaphore::new(places / 2)
}

/// Answers requests, `places` clients at once, until `cancel`; then lets open connections finish what they are answering.
///
/// Speaks TLS where there is one.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    state: AppState,
    places: usize,
    cancel: CancellationToken,
) -> io::Result<()> {
    let pages = Arc::new(Pages { router: router(state.clone()), state, turn: Semaphore::new(1) });
    let places = Arc::new(Semaphore::new(places));
    let mut connections = JoinSet::new();
    let mut accepting = true;
    loop {
        let place = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place.map_err(io::Error::other)?,
        };
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                accepting = true;
                let (pages, cancel) = (Arc::clone(&pages), cancel.clone());
                let acceptor = tls.as_ref().map(Tls::acceptor);
                connections.spawn(async move {
                    receive(stream, acceptor, pages, cancel).await;
                    drop(place);
                });
            }
            // The client was gone before it was let in.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if std::mem::replace(&mut accepting, false) {
                    warn!(%error, "cannot accept HTTP connections; trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
    Ok(())
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "an HTTP page panicked; its connection is closed");
    }
}

struct Pages {
    router: Router,
    state: AppState,
    /// Pages about everything take long to write: one at a time, so that however many are asked for, the next poll waits
    /// for one of them at most.
    turn: Semaphore,
}

async fn receive(stream: TcpStream, acceptor: Option<TlsAcceptor>, pages: Arc<Pages>, cancel: CancellationToken) {
    // Answers are small and written at once; waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    if let Err(error) = sockopt::set_tcp_user_timeout(&stream, UNREAD.as_millis() as u32) {
        debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
    let Some(acceptor) = acceptor else { return converse(stream, pages, cancel).await };
    let shaken = tokio::select! {
        biased;
        shaken = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)) => shaken,
        () = cancel.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => converse(stream, pages, cancel).await,
        Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
        Err(_) => debug!("TLS handshake took too long"),
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, pages: Arc<Pages>, cancel: CancellationToken) {
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.respond(request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            // Head and body are small: copied into one buffer they cost the kernel less than a vector of two.
            .writev(false)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = cancel.cancelled() => None,
        () = tokio::time::sleep(MAX_AGE) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        debug!(%error, "HTTP connection ended");
    }
}

impl Pages {
    async fn respond(&self, request: axum::http::Request<Incoming>) -> Response {
        if has_large_body(request.body()) {
            return refuse_body(&request);
        }
        if let Some(response) = answer_at_once(&self.state, &request) {
            return response;
        }
        // Never closed; if it were, pages would be written all the same. Who changes something waits for other things.
        let is_page = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        let takes_turn = is_page && !route::is_asked(request.uri().path());
        let _turn = if takes_turn { self.turn.acquire().await.ok() } else { None };
        match self.router.clone().oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn has_large_body(body: &Incoming) -> bool {
    !body.is_end_stream() && body.size_hint().upper().is_none_or(|length| length > MAX_BODY_BYTES)
}

fn refuse_body<B>(request: &axum::http::Request<B>) -> Response {
    let mut response = Reply::large_body(wants_text(request.headers())).into_response_to(request.method());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
