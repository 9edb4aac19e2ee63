//! What a failed connection or query means: tokio-postgres' errors as [`PollFailure`]s, without passwords, addresses or
//! query text.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;

use tokio_postgres::error::{DbError, SqlState};

use super::passfile::Password;
use super::require_auth::Unwanted;
use super::session::SettingsBy;
use super::tls::{TlsSettings, explain, why};
use super::wire::TooMuch;
use crate::core::escape;
use crate::core::observation::PollFailure;

/// A failure of a session that had been started.
pub(super) fn of_session(error: &tokio_postgres::Error) -> PollFailure {
    if let Some(error) = error.as_db_error() {
        return of_server(error);
    }
    if said_too_much(error) {
        return too_much();
    }
    PollFailure::Lost { reason: reason(error) }
}

/// The settings of a session cannot be made: without them nothing is asked.
pub(super) fn of_settings(failure: PollFailure) -> PollFailure {
    match failure {
        PollFailure::Sql { .. } => {
            PollFailure::Connect { reason: format!("the settings of the session cannot be made: {failure}") }
        }
        failure => failure,
    }
}

/// An answer without an end.
pub(super) fn too_much() -> PollFailure {
    PollFailure::Connect { reason: "its answer is longer than any should be".to_owned() }
}

/// The same failure without the password that the server was given, should it repeat it. One that is also the user's
/// name, or that a word may have in it by chance, is no secret, and its absence would only tell it.
pub(super) fn without(failure: PollFailure, password: Option<&Password>) -> PollFailure {
    let Some(password) = password.map(Password::expose).filter(|password| password.len() >= SECRET) else {
        return failure;
    };
    let mut failure = failure;
    let Some(reason) = reason_of(&mut failure) else { return failure };
    // The server's words are escaped where they have to be, and so is a password in them.
    let escaped = escape::text(password);
    let written = std::str::from_utf8(password).unwrap_or(&escaped);
    for password in [written, &escaped, &escape::name(&escaped)] {
        if reason.contains(password) && !reason.contains(&format!("user \"{password}\"")) {
            *reason = reason.replace(password, "...");
        }
    }
    failure
}

/// Passwords below this many bytes are not looked for.
const SECRET: usize = 4;

const fn reason_of(failure: &mut PollFailure) -> Option<&mut String> {
    match failure {
        PollFailure::Lookup { reason }
        | PollFailure::Connect { reason }
        | PollFailure::Tls { reason }
        | PollFailure::Authentication { reason }
        | PollFailure::NotAccepting { reason }
        | PollFailure::TooManyConnections { reason }
        | PollFailure::Sql { reason, .. }
        | PollFailure::LoginTrigger { reason, .. }
        | PollFailure::Decode { reason, .. }
        | PollFailure::Lost { reason } => Some(reason),
        PollFailure::Timeout { .. } | PollFailure::Refused => None,
    }
}

/// The server's own words. Only the message: detail, hint and context may quote data.
pub(super) fn of_server(error: &DbError) -> PollFailure {
    let reason = without_address(&one_line(error.message()));
    let code = error.code();
    if *code == SqlState::CANNOT_CONNECT_NOW {
        PollFailure::NotAccepting { reason }
    } else if *code == SqlState::TOO_MANY_CONNECTIONS || reason.starts_with("no more connections allowed") {
        PollFailure::TooManyConnections { reason }
    } else if reason == "not allowed" {
        // PgBouncer's console to whoever may not look at it.
        let hint = "name the user in PgBouncer's stats_users";
        PollFailure::Authentication { reason: format!("{reason}; {hint}") }
    } else if code.code().starts_with("28") || POOLER_REFUSALS.iter().any(|refusal| reason.contains(refusal)) {
        let demands_tls = reason.contains("no encryption") || reason.contains("SSL off");
        let hint = if demands_tls { "; the server may demand TLS: write sslmode=require" } else { "" };
        PollFailure::Authentication { reason: format!("{reason}{hint}") }
    } else if ENDINGS.contains(code) {
        PollFailure::Lost { reason }
    } else {
        PollFailure::Sql { sqlstate: code.code().to_owned(), reason }
    }
}

/// An error with a context in which it arose, before a session asked anything: code of the database's own ran, which only
/// login event triggers (PostgreSQL 17 and later) and what stands in for them do. The context is translated and may
/// quote data, so that there is one is all that is taken from it, and the function's name where it is plain.
fn of_login_trigger(error: &DbError) -> Option<PollFailure> {
    let context = error.where_()?;
    let function = context.lines().rev().find_map(function_of);
    let function = function.map_or_else(String::new, |name| format!(" (function {name})"));
    let reason = format!("a login event trigger{function} refuses the session: {}", one_line(error.message()));
    Some(PollFailure::LoginTrigger { sqlstate: error.code().code().to_owned(), reason })
}

/// `on_login()` of `PL/pgSQL function on_login() line 4 at SQL statement`, in any language.
fn function_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix("PL/")?;
    let end = line.find("()")? + "()".len();
    let start = line[..end].rfind(char::is_whitespace)? + 1;
    let name = &line[start..end];
    (name.len() <= LONGEST_NAME).then_some(name)
}

/// A function's name with its schema, and more than that.
const LONGEST_NAME: usize = 140;

/// How PgBouncer says before 1.21, under a code of its own (08P01), that it does not know who asks.
const POOLER_REFUSALS: &[&str] = &["auth failed", "no such user", "authentication failed"];

/// The session was ended, whatever was being asked.
const ENDINGS: &[SqlState] = &[
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    SqlState::IDLE_SESSION_TIMEOUT,
];

/// Whether the server would take nobody like us, as opposed to a wrong password: its `pg_hba.conf` may still have a
/// line for the same session with, or without, TLS.
pub(super) fn is_barred(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// How settings are made instead where a pooler does not take them at start-up: PgBouncer names the parameter, RDS Proxy
/// speaks of "command-line options".
pub(super) fn settings_instead(error: &tokio_postgres::Error) -> Option<SettingsBy> {
    let message = error.as_db_error().map(DbError::message)?;
    if message.contains("unsupported startup parameter") {
        Some(SettingsBy::Transaction)
    } else if message.contains("command-line options") {
        Some(SettingsBy::Role)
    } else {
        None
    }
}

/// A failure between the TCP connection and the first query.
pub(super) fn of_start(error: &tokio_postgres::Error, tls: &TlsSettings) -> PollFailure {
    if let Some(error) = error.as_db_error() {
        return of_login_trigger(error).unwrap_or_else(|| of_server(error));
    }
    if said_too_much(error) {
        return too_much();
    }
    if let Some(unwanted) = within_io(error).and_then(|error| error.downcast_ref::<Unwanted>()) {
        return PollFailure::Authentication { reason: unwanted.to_string() };
    }
    if let Some(error) = rustls_error(error) {
        return PollFailure::Tls { reason: explain(error, tls) };
    }
    let reason = reason(error);
    // The kind is told by the text alone.
    match error.to_string().as_str() {
        "error performing TLS handshake" if reason == "server does not support TLS" => PollFailure::Tls {
            reason: format!("the server does not speak TLS, and sslmode={} demands it", tls.mode.as_str()),
        },
        "error performing TLS handshake" if tls.direct => {
            PollFailure::Tls { reason: format!("{reason}; sslnegotiation=direct needs PostgreSQL 17") }
        }
        "error performing TLS handshake" => PollFailure::Tls { reason },
        "authentication error" | "invalid configuration" => PollFailure::Authentication { reason },
        "error parsing response from server" | "unexpected message from server" => not_postgresql(),
        // An answer that ends within what would be a message.
        _ if reason == "bytes remaining on stream" || is_malformed(error) => not_postgresql(),
        _ => PollFailure::Lost { reason },
    }
}

/// The length or the kind of a message is none that there is.
fn is_malformed(error: &tokio_postgres::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput))
}

fn not_postgresql() -> PollFailure {
    PollFailure::Connect { reason: "what answers there does not speak PostgreSQL's protocol".to_owned() }
}

/// A failure to connect a socket.
pub(super) fn of_socket(error: &io::Error) -> PollFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => PollFailure::Refused,
        _ => PollFailure::Connect { reason: why(error) },
    }
}

/// TLS's own error, wherever it came up: a refused client certificate is told only with the first bytes after the
/// handshake.
fn rustls_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    within_io(error)?.downcast_ref::<rustls::Error>()
}

fn said_too_much(error: &tokio_postgres::Error) -> bool {
    matches!(within_io(error), Some(error) if error.is::<TooMuch>())
}

fn within_io(error: &tokio_postgres::Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    error.source()?.downcast_ref::<io::Error>()?.get_ref()
}

/// Messages are told in logs, pages and alerts: longer ones are cut.
const LONGEST: usize = 300;

/// A message without line breaks and other control characters, with which a log could be forged.
fn one_line(message: &str) -> String {
    let line: String = message.chars().take(LONGEST).map(|c| if matches!(c, '\t'..='\r') { ' ' } else { c }).collect();
    let mut line = escape::name(&line).into_owned();
    if message.chars().nth(LONGEST).is_some() {
        line.push_str("...");
    }
    line
}

fn reason(error: &tokio_postgres::Error) -> String {
    match error.source() {
        None if error.is_closed() => "the server closed it".to_owned(),
        None => error.to_string(),
        Some(source) => match source.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => "the server closed it".to_owned(),
            Some(error) if error.get_ref().is_none() => error.kind().to_string(),
            _ => source.to_string(),
        },
    }
}

/// `no pg_hba.conf entry for host "10.0.0.5", user ...` tells our own address to whoever reads the alert.
fn without_address(message: &str) -> String {
    const BEFORE: &str = "for host \"";
    let cut = message.find(BEFORE).and_then(|start| {
        let from = start + BEFORE.len();
        let length = message[from..].find('"')?;
        Some((start, from + length + 1))
    });
    match cut {
        Some((start, end)) => format!("{}for this host{}", &message[..start], &message[end..]),
        None => without_any_address(message),
    }
}

/// The same in another language: every address is cut out.
fn without_any_address(message: &str) -> String {
    let is_of_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
    let mut rest = message;
    let mut line = String::with_capacity(message.len());
    while let Some(start) = rest.find(is_of_address) {
        let length = rest[start..].find(|c: char| !is_of_address(c)).unwrap_or(rest.len() - start);
        let word = &rest[start..start + length];
        line.push_str(&rest[..start]);
        line.push_str(if word.parse::<IpAddr>().is_ok() { "..." } else { word });
        rest = &rest[start + length..];
    }
    line.push_str(rest);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        assert_eq!(
            one_line("the database\nsystem\x1b[31m is starting up"),
            r"the database system\x1B[31m is starting up"
        );
        assert_eq!(one_line(&"ä".repeat(LONGEST)), "ä".repeat(LONGEST));
        assert_eq!(one_line(&"ä".repeat(1 << 20)), "ä".repeat(LONGEST) + "...");
    }

    #[test]
    fn a_password_that_a_server_repeats_is_hidden() {
        let told = |reason: &str, password: &str| {
            let failure = PollFailure::Authentication { reason: reason.to_owned() };
            without(failure, Some(&Password::new(password))).to_string()
        };
        assert_eq!(told("no \"pa$$w0rd\" here: pa$$w0rd", "pa$$w0rd"), "authentication: no \"...\" here: ...");
        assert_eq!(told(r"at s\x5Cx41cret", r"s\x41cret"), "authentication: at ...");
        // Nothing is hidden that is not a secret.
        assert_eq!(told("no such user \"postgres\"", "postgres"), "authentication: no such user \"postgres\"");
        assert_eq!(told("password authentication failed", "a"), "authentication: password authentication failed");
        let sql = |reason: &str| PollFailure::Sql { sqlstate: "42601".to_owned(), reason: reason.to_owned() };
        assert_eq!(without(sql("at \"s3cret\""), Some(&Password::new("s3cret"))), sql("at \"...\""));
        assert_eq!(without(sql("at \"s3cret\""), None), sql("at \"s3cret\""));
    }

    #[test]
    fn the_function_of_a_context_is_named_in_any_language() {
        for (line, expected) in [
            ("PL/pgSQL function on_login() line 4 at SQL statement", Some("on_login()")),
            ("PL/pgSQL function audit.on_login() line 4 at RAISE", Some("audit.on_login()")),
            ("PL/pgSQL-Funktion on_login() Zeile 4 bei SQL-Anweisung", Some("on_login()")),
            ("PL/Python function \"on_login\"", None),
            ("SQL statement \"INSERT INTO t VALUES ('PL/x secret()')\"", None),
        ] {
            assert_eq!(function_of(line), expected, "{line}");
        }
    }

    #[test]
    fn our_own_address_is_cut_out_of_a_refusal() {
        for (message, expected) in [
            (
                "no pg_hba.conf entry for host \"10.0.0.5\", user \"u\", database \"d\", no encryption",
                "no pg_hba.conf entry for this host, user \"u\", database \"d\", no encryption",
            ),
            ("pg_hba.conf rejects connection for host \"::1\"", "pg_hba.conf rejects connection for this host"),
            ("the database system is starting up", "the database system is starting up"),
            ("for host \"", "for host \""),
            (
                "kein pg_hba.conf-Eintrag für Host »10.0.0.5«, Benutzer »u«, Datenbank »d«, keine Verschlüsselung",
                "kein pg_hba.conf-Eintrag für Host »...«, Benutzer »u«, Datenbank »d«, keine Verschlüsselung",
            ),
            ("pg_hba.conf weist Verbindung ab für Host »fe80::1«", "pg_hba.conf weist Verbindung ab für Host »...«"),
            ("at 12:30:01, 99 of 100. ab: é", "at 12:30:01, 99 of 100. ab: é"),
        ] {
            assert_eq!(without_address(message), expected);
        }
    }
}
