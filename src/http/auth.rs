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
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
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
    /// `/metrics` asks as well.
    pub metrics: bool,
    /// `/healthz`, `/livez` and `/readyz` ask as well.
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
            (None, None) if self.token.is_none() => {
                Some(("user", "is missing: name user and password, or token; without the section everybody may read".to_owned()))
            }
            _ => None,
        }
    }

    /// What a client is told to show.
    fn challenges(&self) -> Vec<HeaderValue> {
        let basic = self.password.is_some().then_some("Basic realm=\"pgvigil\", charset=\"UTF-8\"");
        let bearer = self.token.is_some().then_some("Bearer realm=\"pgvigil\"");
        basic.into_iter().chain(bearer).map(HeaderValue::from_static).collect()
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Reader {
    Scraper,
    Probe,
    Person,
}

fn reader_of(path: &str) -> Reader {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "metrics" => Reader::Scraper,
        "healthz" | "livez" | "readyz" => Reader::Probe,
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
