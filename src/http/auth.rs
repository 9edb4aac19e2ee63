//! Who may read. Without `[server.auth]` everybody may; with it the page, the API and all that is not named here ask for
//! a name and a password, or for a token. What machines ask for, `/metrics` and the health paths, asks only where that is
//! set. Who knows `server.token`, by which things are changed, may read as well; nothing else changes anything.

use std::fmt;
use std::sync::Arc;

use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use subtle::ConstantTimeEq;

use super::AppState;
use super::reply::Reply;
use super::silences::Token;

/// Fewer characters can be guessed.
const SHORTEST_PASSWORD: usize = 8;

/// `[server.auth]`: who may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// With a password: what a browser asks for.
    pub user: Option<String>,
    pub password: Option<Password>,
    /// What programs show.
    pub token: Option<Token>,
    /// `/metrics`, `/probe` and `/api/v1/sd` ask as well.
    pub metrics: bool,
    /// `/healthz`, `/livez`, `/readyz` and `/patroni` ask as well.
    pub health: bool,
}

impl AuthConfig {
    /// What is wrong with it: the key and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        match (&self.user, &self.password) {
            (Some(user), Some(_)) if user.is_empty() => Some(("user", "is empty".to_owned())),
            (Some(user), Some(_)) if user.contains(':') || user.chars().any(char::is_control) => {
                Some(("user", "holds a colon or a control character, which no browser can send".to_owned()))
            }
            (Some(_), None) => Some(("password", "is missing: user needs one".to_owned())),
            (None, Some(_)) => Some(("user", "is missing: password needs one".to_owned())),
            (None, None) if self.token.is_none() => Some((
                "user",
                "is missing: name user and password, or token; without the section everybody may read".to_owned(),
            )),
            _ => None,
        }
    }

    /// What a client is told to show.
    fn challenges(&self) -> Vec<HeaderValue> {
        let basic = self.password.is_some().then_some("Basic realm=\"pgvigil\", charset=\"UTF-8\"");
        let bearer = self.token.is_some().then_some("Bearer realm=\"pgvigil\"");
        basic.into_iter().chain(bearer).map(HeaderValue::from_static).collect()
    }

    /// What a client that knows all of it shows.
    pub(super) fn credential(&self) -> Option<String> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {}", token.secret()));
        bearer.or_else(|| {
            let (user, password) = (self.user.as_ref()?, self.password.as_ref()?);
            Some(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.0))))
        })
    }

    fn admits(&self, given: &str, writing: Option<&Token>) -> bool {
        let Some((scheme, given)) = given.split_once(' ') else { return false };
        let given = given.trim();
        if scheme.eq_ignore_ascii_case("Bearer") {
            // Both, whichever it is: the time taken tells nothing.
            let reads = self.token.as_ref().is_some_and(|token| token.is(given));
            let writes = writing.is_some_and(|token| token.is(given));
            return reads | writes;
        }
        let (Some(user), Some(password)) = (&self.user, &self.password) else { return false };
        if !scheme.eq_ignore_ascii_case("Basic") {
            return false;
        }
        let Ok(pair) = STANDARD.decode(given) else { return false };
        let end = pair.iter().position(|byte| *byte == b':').unwrap_or(pair.len());
        let (name, secret) = (&pair[..end], pair.get(end + 1..).unwrap_or_default());
        (name.ct_eq(user.as_bytes()) & secret.ct_eq(password.0.as_bytes())).into()
    }
}

/// It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<str>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Password;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Password, E> {
                if text.chars().count() < SHORTEST_PASSWORD {
                    return Err(E::custom(format!(
                        "is shorter than {SHORTEST_PASSWORD} characters; make one with for example \"openssl rand -base64 12\""
                    )));
                }
                if text.chars().any(char::is_control) {
                    return Err(E::custom("holds a control character, which no browser can send"));
                }
                Ok(Password(Arc::from(text)))
            }

            // An error of serde's would repeat the number.
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Password, E> {
                Err(E::custom("is a number; write it in quotes"))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Password, E> {
                Err(E::custom("is a number; write it in quotes"))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Password, E> {
                Err(E::custom("is a number; write it in quotes"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Who asks for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Scraper,
    Probe,
    Person,
}

fn reader_of(path: &str) -> Reader {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "metrics" | "probe" => Reader::Scraper,
        // Where Prometheus finds what to scrape.
        "api" if path == "/api/v1/sd" => Reader::Scraper,
        "healthz" | "livez" | "readyz" | "patroni" => Reader::Probe,
        _ => Reader::Person,
    }
}

/// Why it is not answered. `None`: it is.
pub(super) fn refusal(state: &AppState, path: &str, headers: &HeaderMap, wants_text: bool) -> Option<Reply> {
    let auth = state.auth.as_ref()?;
    let asks = match reader_of(path) {
        Reader::Scraper => auth.metrics,
        Reader::Probe => auth.health,
        Reader::Person => true,
    };
    if !asks {
        return None;
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let reason = match given {
        Some(given) if auth.admits(given, state.token.as_ref()) => return None,
        Some(_) => "what was shown is not what [server.auth] names",
        None => "this asks who you are: see [server.auth] of the configuration",
    };
    Some(Reply::refusal(StatusCode::UNAUTHORIZED, "unauthorized", reason.to_owned(), wants_text))
}

/// Tells a client that was refused what it must show.
pub(super) fn challenging(state: &AppState, mut response: Response) -> Response {
    let challenges = state.auth.as_ref().map(AuthConfig::challenges).unwrap_or_default();
    for challenge in challenges {
        response.headers_mut().append(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::core::fixture;
    use crate::http::tests::{orders, state_of};
    use crate::http::{answer_at_once, router};

    fn config(json: &serde_json::Value) -> AuthConfig {
        serde_json::from_value(json.clone()).expect("a section")
    }

    fn guarded(auth: &serde_json::Value) -> AppState {
        let token = serde_json::from_value("the-token-of-writers".into()).expect("a token");
        AppState { auth: Some(config(auth)), token: Some(token), ..state_of(orders(|_| ())) }
    }

    async fn got(state: &AppState, method: &str, path: &str, authorization: &str) -> (u16, Vec<String>, String) {
        let mut request = Request::builder().method(method).uri(path);
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let response = router(state.clone()).oneshot(request.body(Body::empty()).expect("a request")).await;
        let (parts, body) = response.expect("infallible").into_parts();
        let challenges = parts.headers.get_all(header::WWW_AUTHENTICATE);
        let challenges = challenges.iter().map(|value| value.to_str().expect("text").to_owned()).collect();
        let body = if path.starts_with("/live") && parts.status == 200 {
            String::new()
        } else {
            let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
            String::from_utf8_lossy(&body).into_owned()
        };
        assert!(!body.contains("the-token-of") && !body.contains("open sesame"), "{body}");
        (parts.status.as_u16(), challenges, body)
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[tokio::test]
    async fn who_shows_nothing_or_something_else_reads_nothing() {
        let state = guarded(&serde_json::json!({
            "user": "ops", "password": "open sesame: ä", "token": "the-token-of-readers"
        }));
        let right = [
            basic("ops:open sesame: ä"),
            "Bearer the-token-of-readers".to_owned(),
            "bearer the-token-of-readers".to_owned(),
            // Who may write may read.
            "Bearer the-token-of-writers".to_owned(),
        ];
        let wrong = [
            String::new(),
            "Basic".to_owned(),
            "Basic !!!".to_owned(),
            basic("ops:open sesame"),
            basic("ops:open sesame: äx"),
            basic("root:open sesame: ä"),
            basic("ops"),
            basic(":"),
            basic(""),
            "Bearer the-token-of-reader".to_owned(),
            "Bearer the-token-of-readersx".to_owned(),
            "Bearer open sesame: ä".to_owned(),
            "Digest ops".to_owned(),
        ];
        for path in
            ["/", "/clusters/orders", "/live", "/assets/page.css", "/api/v1/clusters", "/api/v1/alerts", "/nothing"]
        {
            for authorization in &right {
                assert_ne!(got(&state, "GET", path, authorization).await.0, 401, "{path} {authorization}");
            }
            for authorization in &wrong {
                for method in ["GET", "HEAD", "OPTIONS"] {
                    let (status, challenges, _) = got(&state, method, path, authorization).await;
                    let asked = ["Basic realm=\"pgvigil\", charset=\"UTF-8\"", "Bearer realm=\"pgvigil\""];
                    assert_eq!(
                        (status, challenges),
                        (401, asked.map(str::to_owned).to_vec()),
                        "{path} {authorization}"
                    );
                }
            }
        }
        // To read is not to write.
        let (status, ..) = got(&state, "DELETE", "/api/v1/silences/1", "Bearer the-token-of-readers").await;
        assert_eq!(status, 401);
        let (status, ..) = got(&state, "DELETE", "/api/v1/silences/1", &right[0]).await;
        assert_eq!(status, 401);
    }

    #[tokio::test]
    async fn machines_are_asked_only_where_that_is_set() {
        for (metrics, health) in [(false, false), (true, false), (false, true)] {
            let auth = serde_json::json!({ "token": "the-token-of-readers", "metrics": metrics, "health": health });
            let state = guarded(&auth);
            for (path, asks) in [
                ("/metrics", metrics),
                ("/probe?target=orders/replica-1", metrics),
                ("/api/v1/sd", metrics),
                ("/healthz", health),
                ("/healthz/orders", health),
                ("/healthz/orders/primary", health),
                ("/livez", health),
                ("/patroni/orders/primary/primary", health),
                ("/readyz", health),
                ("/metricsx", true),
            ] {
                let (status, challenges, body) = got(&state, "GET", path, "").await;
                assert_eq!(status == 401, asks, "{path}: {status} {body}");
                assert_eq!(challenges.is_empty(), !asks, "{path}");
                assert_ne!(got(&state, "GET", path, "Bearer the-token-of-readers").await.0, 401, "{path}");
            }
            let request = Request::builder().uri("/healthz/orders/primary").body(()).expect("a request");
            let short = answer_at_once(&state, &request).expect("a path it knows");
            assert_eq!(short.status(), if health { 401 } else { 200 });
        }
    }

    #[tokio::test]
    async fn without_the_section_everybody_may_read() {
        let state = state_of(fixture::snapshot(vec![]));
        assert_eq!(got(&state, "GET", "/", "").await.0, 200);
    }

    #[test]
    fn what_is_missing_is_said_and_nothing_is_shown() {
        for (json, key) in [
            (serde_json::json!({}), Some("user")),
            (serde_json::json!({ "metrics": true }), Some("user")),
            (serde_json::json!({ "user": "ops" }), Some("password")),
            (serde_json::json!({ "password": "open sesame" }), Some("user")),
            (serde_json::json!({ "user": "", "password": "open sesame" }), Some("user")),
            (serde_json::json!({ "user": "a:b", "password": "open sesame" }), Some("user")),
            (serde_json::json!({ "user": "ops", "password": "open sesame" }), None),
            (serde_json::json!({ "token": "the-token-of-readers" }), None),
        ] {
            let config = config(&json);
            assert_eq!(config.fault().map(|(key, _)| key), key, "{json}");
            assert!(!format!("{config:?}").contains("sesame") && !format!("{config:?}").contains("the-token"));
        }
        for (json, says) in [
            (serde_json::json!({ "password": "sesame" }), "is shorter than 8 characters"),
            (serde_json::json!({ "password": "open\nsesame" }), "holds a control character"),
            (serde_json::json!({ "password": 12345678 }), "is a number; write it in quotes"),
        ] {
            let error = serde_json::from_value::<AuthConfig>(json).expect_err("refused").to_string();
            assert!(error.starts_with(says) && !error.contains("sesame") && !error.contains("123"), "{error}");
        }
    }
}
