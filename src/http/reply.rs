//! What a page says, and how it is put into a response.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use futures_util::{StreamExt as _, future, stream};
use serde::Serialize;

use super::PATHS;
use super::limits::BadParameter;
use super::metrics::{CONTENT_TYPE, Page};
use super::serve::MAX_BODY_BYTES;

/// Status, type and body; the same for GET, HEAD and OPTIONS.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    /// What follows, of a page that is too long to be held whole. Its length is not known when it begins.
    pub(super) rest: Option<Box<Page>>,
    pub(super) keep: Keep,
}

/// Whether a reply may be kept by who gets it.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// All that is told is true at one instant.
    Never,
    /// Another content has another path.
    Forever,
}

impl Keep {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "no-store",
            Self::Forever => "private, max-age=31536000, immutable",
        }
    }
}

/// Nothing is asked of anybody else, run that is not ours, or shown within another's page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Why there is no page.
#[derive(Serialize)]
struct Refusal {
    status: &'static str,
    reasons: [String; 1],
    /// The one that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
    /// Those that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<[&'static str; PATHS.len()]>,
}

impl Refusal {
    fn new(status: &'static str, reason: String) -> Self {
        Self { status, reasons: [reason], parameter: None, paths: None }
    }

    fn reply(self, code: StatusCode, wants_text: bool) -> Reply {
        if wants_text {
            let [reason] = self.reasons;
            return Reply::text(code, format!("{}: {reason}\n", self.status));
        }
        Reply::json(code, &self)
    }
}

impl Reply {
    pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(mut body) => {
                body.push(b'\n');
                Self { status, content_type: "application/json", body, rest: None, keep: Keep::Never }
            }
            // Our own types do not fail to serialize; were one to, the status must not say that all is well.
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    pub(super) fn text(status: StatusCode, line: String) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: line.into_bytes(),
            rest: None,
            keep: Keep::Never,
        }
    }

    pub(super) fn html(page: String) -> Self {
        let (status, content_type) = (StatusCode::OK, "text/html; charset=utf-8");
        Self { status, content_type, body: page.into_bytes(), rest: None, keep: Keep::Never }
    }

    pub(super) fn asset(content_type: &'static str, content: &'static str, keep: Keep) -> Self {
        Self { status: StatusCode::OK, content_type, body: content.as_bytes().to_vec(), rest: None, keep }
    }

    /// One piece is sent as any page is.
    pub(super) fn metrics(mut page: Page) -> Self {
        let first = page.next().unwrap_or_default();
        let rest = Some(page).filter(|page| !page.has_ended()).map(Box::new);
        Self { status: StatusCode::OK, content_type: CONTENT_TYPE, body: first.into_bytes(), rest, keep: Keep::Never }
    }

    pub(super) fn not_configured(path: &str, wants_text: bool) -> Self {
        let reason = format!("no cluster or target of that name is configured: {path}");
        Refusal::new("not_found", reason).reply(StatusCode::NOT_FOUND, wants_text)
    }

    pub(super) fn no_such_path(wants_text: bool) -> Self {
        let paths = PATHS.map(|(path, _)| path);
        let reason = format!("no such path; there are {}", paths.join(" "));
        Refusal { paths: Some(paths), ..Refusal::new("not_found", reason) }.reply(StatusCode::NOT_FOUND, wants_text)
    }

    pub(super) fn wrong_method(methods: &str, wants_text: bool) -> Self {
        let reason = format!("what is answered here is {methods}");
        Refusal::new("wrong_method", reason).reply(StatusCode::METHOD_NOT_ALLOWED, wants_text)
    }

    pub(super) fn large_body(wants_text: bool) -> Self {
        let reason = format!("a body is read up to {MAX_BODY_BYTES} bytes, and with its length told before");
        Refusal::new("too_large", reason).reply(StatusCode::PAYLOAD_TOO_LARGE, wants_text)
    }

    pub(super) fn bad_parameter(bad: &BadParameter, wants_text: bool) -> Self {
        Refusal { parameter: Some(bad.parameter.clone()), ..Refusal::new("bad_request", bad.to_string()) }
            .reply(StatusCode::BAD_REQUEST, wants_text)
    }

    pub(super) fn refusal(code: StatusCode, status: &'static str, reason: String, wants_text: bool) -> Self {
        Refusal::new(status, reason).reply(code, wants_text)
    }

    pub(super) fn into_response_to(self, method: &Method) -> Response {
        let length = self.rest.is_none().then_some(self.body.len());
        let (body, length) = match (method, self.rest) {
            (&Method::HEAD, None) => (Body::empty(), length),
            // An empty body of no known length: else it would be told as 0.
            (&Method::HEAD, Some(_)) => (Body::from_stream(stream::empty::<Result<Vec<u8>, Infallible>>()), None),
            (&Method::OPTIONS, _) => (Body::empty(), Some(0)),
            (_, None) => (Body::from(self.body), length),
            (_, Some(rest)) => (in_pieces(self.body, rest), None),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(self.keep.as_str()));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if *method == Method::OPTIONS || self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        }
        if self.content_type.starts_with("text/html") {
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        response
    }
}

/// Each piece is written when the one before is on its way, and others who ask get their turn in between.
fn in_pieces(first: Vec<u8>, rest: Box<Page>) -> Body {
    let rest = stream::unfold(rest, |mut page| async {
        tokio::task::yield_now().await;
        Some((page.next()?.into_bytes(), page))
    });
    let pieces = stream::iter([first]).chain(rest).filter(|piece| future::ready(!piece.is_empty()));
    Body::from_stream(pieces.map(Ok::<_, Infallible>))
}
