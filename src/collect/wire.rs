//! The socket to a server, which takes in no more than it was allowed to, and no request to log in by a method that is not, and
//! gives its texts as UTF-8.
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

use super::messages::Messages;
use super::require_auth::Gate;

/// For a start-up: certificates and settings are some kilobytes.
const STARTUP_BYTES: usize = 1 << 20;

/// For one answer. A hundred thousand statements are half as much.
const ANSWER_BYTES: usize = 32 << 20;

/// How many bytes may still come.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// Another question is asked: its answer may be as long as the one before.
    pub(super) fn renew(&self) {
        self.0.store(ANSWER_BYTES, Ordering::Relaxed);
    }

    /// Takes so many bytes of it.
    ///
    /// # Errors
    /// There are not so many, or none at all.
    pub(super) fn spend(&self, bytes: usize) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(bytes), Ordering::Relaxed);
        if left == 0 || bytes > left { Err(io::Error::other(TooMuch)) } else { Ok(()) }
    }
}

/// More came than was allowed. Inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("it says more than there can be to say")]
pub(super) struct TooMuch;

#[derive(Debug)]
pub(super) struct Wire {
    socket: Counted,
    carries: Carries,
    gate: Option<Gate>,
    /// The first byte is the answer whether the server speaks TLS.
    is_answer_due: bool,
}

/// What arrives at the socket.
#[derive(Debug)]
enum Carries {
    /// At first, where TLS is asked for: one byte, `S` or `N`.
    Consent,
    /// TLS, within which the messages are.
    Encrypted,
    Messages(Messages),
}

/// The socket, and how much it may still give.
#[derive(Debug)]
struct Counted {
    socket: Either<TcpStream, UnixStream>,
    allowance: Allowance,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Before more is read: an answer may be as long as it may be.
        self.allowance.spend(0)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        let read = buf.filled().len().saturating_sub(before);
        Poll::Ready(if read == 0 { Ok(()) } else { self.allowance.spend(read) })
    }
}

impl Wire {
    /// Allows what a start-up takes. `asks_for_tls`: the server is asked whether it speaks TLS, or is taken to.
    pub(super) fn new(socket: Either<TcpStream, UnixStream>, asks_for_tls: bool) -> Self {
        let allowance = Allowance(Arc::new(AtomicUsize::new(STARTUP_BYTES)));
        let carries = if asks_for_tls { Carries::Consent } else { Carries::Messages(Messages::new(allowance.clone())) };
        Self { socket: Counted { socket, allowance }, carries, gate: None, is_answer_due: false }
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
        self.socket.allowance.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Self { socket, carries, .. } = &mut *self;
        let allowance = &socket.allowance.clone();
        let socket = Pin::new(socket);
        match carries {
            Carries::Messages(messages) => ready!(messages.poll_read(socket, cx, buf))?,
            Carries::Encrypted => ready!(socket.poll_read(cx, buf))?,
            Carries::Consent => {
                ready!(socket.poll_read(cx, buf))?;
                match &buf.filled()[before..] {
                    [] => {}
                    [b'N'] => *carries = Carries::Messages(Messages::new(allowance.clone())),
                    _ => *carries = Carries::Encrypted,
                }
            }
        }
        Poll::Ready(self.pass(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket.socket).poll_shutdown(cx)
    }
}
