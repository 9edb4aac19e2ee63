//! `pgvigil health`: asks the daemon of this machine over HTTP how it is, for supervisors that run a command.
//!
//! It asks where `[server]` says that the daemon listens, over TLS where it does. Whose certificate is shown is not asked:
//! none is made out to the loopback address, and a daemon that keeps an old one, because the new cannot be used, is well.

use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST};
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::tls;
use super::{AuthConfig, ServerConfig};

/// An answer is one line.
const MAX_ANSWER: usize = 4096;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Do its own loops make progress?
    Alive,
    /// Has it tried every target once?
    Ready,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Alive => "/livez",
            Self::Ready => "/readyz",
        }
    }
}

/// What the daemon says when it is well.
///
/// # Errors
/// Why it is not, or does not answer within `patience`, in one line for people.
pub async fn ask(server: &ServerConfig, question: Question, patience: Duration) -> Result<String, String> {
    let asked = format!("{}{}", server.url(), question.path());
    let no_answer = |reason: String| format!("{asked}: {reason}; is pgvigil running there?");
    let (status, text) = match tokio::time::timeout(patience, answer(server, question)).await {
        Ok(answer) => answer.map_err(no_answer)?,
        Err(_) => return Err(format!("{asked}: no answer within {}", humantime::format_duration(patience))),
    };
    if status == StatusCode::OK { Ok(text) } else { Err(format!("{asked} answers {}: {text}", status.as_u16())) }
}

async fn answer(server: &ServerConfig, question: Question) -> Result<(StatusCode, String), String> {
    let address = server.beside();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    };
    let mut request = Request::get(question.path())
        .header(HOST, address.to_string())
        .header(ACCEPT, "text/plain")
        .header(CONNECTION, "close");
    if let Some(credential) = server.auth.as_ref().filter(|auth| auth.health).and_then(AuthConfig::credential) {
        request = request.header(AUTHORIZATION, credential);
    }
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    if server.tls.is_none() {
        return exchange(stream, request).await;
    }
    let connector = tls::connector().map_err(|error| error.to_string())?;
    let name = ServerName::IpAddress(address.ip().into());
    exchange(connector.connect(name, stream).await.map_err(failed)?, request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, String), String> {
    let failed = |error: hyper::Error| format!("no answer in HTTP: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let conversation = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut conversation = std::pin::pin!(conversation);
    tokio::select! {
        answer = &mut conversation => answer,
        // Its end leaves what came before it to be read.
        _ = &mut connection => conversation.await,
    }
}
