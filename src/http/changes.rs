//! What is changed over HTTP, silences and drains: who may, what is read of a body, and how long whoever asks waits until it is
//! done. A change is put to the engine, and answered when it is written.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{self, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::reply::Reply;
use super::serve::MAX_BODY_BYTES;
use super::{AppState, wants_text};

/// Where changes go: each with whoever waits for the answer.
pub(super) type Changing<C, D, R> = mpsc::Sender<(C, oneshot::Sender<Result<D, R>>)>;

/// Time for a body to arrive, and for the engine and the store to be done.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a body may be told to be.
const JSON_OR_CURL: [&str; 2] = ["application/json", "application/x-www-form-urlencoded"];

/// A change that is asked for.
pub(super) struct Asked {
    parts: Parts,
    pub(super) wants_text: bool,
}

impl Asked {
    /// With the body, which is not read yet.
    pub(super) fn new(request: Request) -> (Self, Body) {
        let (parts, body) = request.into_parts();
        let wants_text = wants_text(&parts.headers);
        (Self { parts, wants_text }, body)
    }

    pub(super) fn path(&self) -> &str {
        self.parts.uri.path()
    }

    pub(super) fn is_removal(&self) -> bool {
        self.parts.method == Method::DELETE
    }

    fn refusal(&self, code: StatusCode, status: &'static str, reason: String) -> Reply {
        Reply::refusal(code, status, reason, self.wants_text)
    }

    /// Whether the token was given. `what` cannot be done where there is none.
    pub(super) fn authorized(&self, state: &AppState, what: &str) -> Result<(), Reply> {
        let Some(token) = &state.token else {
            let reason = format!(
                "{what} here, since no token is set: write for example token = \"file:/etc/pgvigil/token\" or \
                 token = \"${{PGVIGIL_TOKEN}}\" under [server]"
            );
            return Err(self.refusal(StatusCode::FORBIDDEN, "forbidden", reason));
        };
        let given = self.parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| {
            let (scheme, given) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("Bearer").then(|| given.trim())
        });
        let reason = match given {
            Some(given) if token.is(given) => return Ok(()),
            Some(_) => "the token is not the one of server.token",
            None => "this takes the token of server.token, as a header \"Authorization: Bearer ...\"",
        };
        Err(self.refusal(StatusCode::UNAUTHORIZED, "unauthorized", reason.to_owned()))
    }

    /// The body, which must be told to be JSON if it is told to be anything; or to be a form, as curl says of every body.
    pub(super) async fn json(&self, body: Body) -> Result<Bytes, Reply> {
        let kind = self.parts.headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
        let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
        let is_read = |kind: &str| JSON_OR_CURL.iter().any(|read| kind.eq_ignore_ascii_case(read));
        if kind.is_some_and(|kind| !is_read(kind)) {
            let reason = "the body must be JSON, with a header \"Content-Type: application/json\"".to_owned();
            return Err(self.refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", reason));
        }
        let read = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_BODY_BYTES as usize)).await;
        let Ok(Ok(body)) = read else {
            let reason = format!("the body did not arrive, or is longer than {MAX_BODY_BYTES} bytes");
            return Err(self.refusal(StatusCode::BAD_REQUEST, "bad_request", reason));
        };
        Ok(body)
    }

    /// Has it done. `list` is where it can be seen whether it was.
    pub(super) async fn done<C, D, R>(
        &self,
        changing: &Changing<C, D, R>,
        change: C,
        list: &str,
    ) -> Result<Result<D, R>, Reply> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            changing.send((change, answer)).await.ok()?;
            answered.await.ok()
        };
        let reason = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => "the daemon is stopping; ask again when it is back".to_owned(),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                format!("no answer within {seconds} s: GET {list} says whether it was done")
            }
        };
        Err(self.refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason))
    }

    /// 201 for what was made, 200 for what was ended.
    pub(super) fn success(&self) -> StatusCode {
        if self.is_removal() { StatusCode::OK } else { StatusCode::CREATED }
    }

    /// Tells whoever gave no token how to give one.
    pub(super) fn answer(&self, reply: Reply) -> Response {
        let mut response = reply.into_response_to(&self.parts.method);
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"pgvigil\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Whether what was done outlives the daemon.
#[derive(Serialize, JsonSchema)]
pub(super) struct Keeping {
    /// Whether a restart of the daemon will find it.
    stored: bool,
    /// Why not. Left out where it will.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl Keeping {
    pub(super) fn new(stored: &Result<(), String>) -> Self {
        let warning = stored.as_ref().err();
        Self {
            stored: stored.is_ok(),
            warning: warning.map(|error| format!("a restart of the daemon will undo this: {error}")),
        }
    }
}
