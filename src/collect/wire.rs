//! The socket to a server, which takes in no more than it was allowed to, and no request to log in by a method that is not.
//!
//! What a server says is kept in memory until it is understood, and nothing else bounds it: a server gone mad, or
//! something that is none, could otherwise send until the poll's time is up, which is gigabytes on a quick network.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use super::require_auth::Gate;

/// For a start-up: certificates and settings are some kilobytes.
const STARTUP_BYTES: usize = 1 << 20;

/// For one answer. A hundred thousand statements are half as much.
const ANSWER_BYTES: usize = 32 << 20;

/// How many bytes may still come.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// Another question is asked: its answer may be as long as the one before.
    pub(super) fn renew(&self) {
        self.0.store(ANSWER_BYTES, Ordering::Relaxed);
    }
}

/// More came than was allowed. Inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("it says more than there can be to say")]
pub(super) struct TooMuch;

#[derive(Debug)]
pub(super) struct Wire {
    socket: Either<TcpStream, UnixStream>,
    allowance: Allowance,
    gate: Option<Gate>,
    /// The first byte is the answer whether the server speaks TLS.
    is_answer_due: bool,
}

impl Wire {
    /// Allows what a start-up takes.
    pub(super) fn new(socket: Either<TcpStream, UnixStream>) -> Self {
        let allowance = Allowance(Arc::new(AtomicUsize::new(STARTUP_BYTES)));
        Self { socket, allowance, gate: None, is_answer_due: false }
    }

    /// Watches how the server has us log in, should it be without TLS.
    pub(super) fn watch(&mut self, gate: Gate, asks_for_tls: bool) {
        self.gate = Some(gate);
        self.is_answer_due = asks_for_tls;
    }

    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (Some(gate), Some(first)) = (&mut self.gate, bytes.first()) else { return Ok(()) };
        let is_answer = std::mem::take(&mut self.is_answer_due);
        if is_answer && *first == b'S' {
            self.gate = None;
            return Ok(());
        }
        gate.pass(&bytes[usize::from(is_answer)..]).map_err(io::Error::other)
    }

    pub(super) fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.allowance.0.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        let read = buf.filled().len().saturating_sub(before);
        self.allowance.0.store(left.saturating_sub(read), Ordering::Relaxed);
        Poll::Ready(self.pass(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
