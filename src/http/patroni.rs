//! Paths as Patroni's REST API has them, for load balancers that ask Patroni now: `/patroni/{cluster}/{target}` stands where a
//! member's own address and port stood, and what follows it is Patroni's. The rules are those of [`health`].
//!
//! What differs: a `lag` that cannot be read is refused, where Patroni takes it for no limit; so is a parameter that is not
//! known, tags among them. And where the lag is unknown only because the primary is not heard, `[health]` decides.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::Serialize;

use super::Ask;
use super::limits::{BadParameter, decode, decode_value};
use super::reply::Reply;
use crate::core::health::{self, Limits, Status, Verdict};
use crate::core::observation::ServerState;
use crate::core::snapshot::TargetView;
use crate::core::topology::Role;

/// What can be asked of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Primary,
    Replica,
    ReadOnly,
    Health,
}

/// The words that Patroni has for them.
const WORDS: [(&str, Question); 8] = [
    ("primary", Question::Primary),
    ("master", Question::Primary),
    ("leader", Question::Primary),
    ("read-write", Question::Primary),
    ("replica", Question::Replica),
    ("read-only", Question::ReadOnly),
    ("health", Question::Health),
    ("", Question::Primary),
];

/// `/patroni/{cluster}/{target}` and what stands below it.
pub(super) fn page(ask: &Ask<'_>) -> Reply {
    let mut names = ask.path.strip_prefix("/patroni/").unwrap_or_default().splitn(3, '/');
    let mut name = || names.next().and_then(decode);
    let found = name().zip(name()).and_then(|(cluster, target)| {
        let cluster = ask.snapshot.cluster(&cluster)?;
        Some((cluster, cluster.target(&target)?))
    });
    let word = name().unwrap_or_default();
    let Some((cluster, target)) = found else { return Reply::not_configured(ask.path, ask.wants_text) };
    let Some((_, question)) = WORDS.iter().find(|(known, _)| *known == word) else {
        let known = WORDS.map(|(word, _)| word).join(" ");
        let reason = format!("not answered here; of Patroni's paths there are {}", known.trim_end());
        return Reply::refusal(StatusCode::NOT_FOUND, "not_found", reason, ask.wants_text);
    };
    let asked = match parse(ask.query, *question) {
        Ok(asked) => asked,
        Err(bad) => return Reply::bad_parameter(&bad, ask.wants_text),
    };
    let mut verdict = health::verdict(cluster, target, ask.now, &asked.limits, ask.state.health);
    if asked.streaming && !is_streaming(target) {
        verdict.status = Status::Unfit;
        verdict.reasons.insert(0, "it does not stream".to_owned());
    }
    // Whether the server runs, whatever is to be sent there.
    if *question == Question::Health && target.is_up() && target.fresh(ask.now).is_some() {
        verdict.status = Status::Ok;
    }
    let code = if verdict.status == Status::Ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if ask.wants_text {
        return Reply::text(code, verdict.line());
    }
    Reply::json(code, &View::new(target, verdict))
}

struct Asked {
    limits: Limits,
    /// `replication_state=streaming`.
    streaming: bool,
}

fn parse(query: Option<&str>, question: Question) -> Result<Asked, BadParameter> {
    let role = match question {
        Question::Primary => Some(Role::Primary),
        Question::Replica => Some(Role::Replica),
        Question::ReadOnly | Question::Health => None,
    };
    let mut asked = Asked { limits: Limits { role, ..Limits::default() }, streaming: false };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |reason: String| BadParameter { parameter: name.escape_default().to_string(), reason };
        let value = decode_value(value).ok_or_else(|| bad("not readable as UTF-8".to_owned()))?;
        match (name, question) {
            ("lag", Question::Replica | Question::ReadOnly) if asked.limits.max_lag_bytes.is_none() => {
                let bytes = bytes(&value).ok_or_else(|| {
                    bad(format!("\"{}\" is not a size; write for example 16MB or 16777216", value.escape_default()))
                })?;
                asked.limits.max_lag_bytes = Some(bytes);
            }
            ("lag", Question::Replica | Question::ReadOnly) => return Err(bad("given twice".to_owned())),
            ("replication_state", Question::Replica) if &*value == "streaming" => asked.streaming = true,
            ("replication_state", Question::Replica) => return Err(bad("write streaming".to_owned())),
            _ => return Err(bad("not known here; known are lag and, of a replica, replication_state".to_owned())),
        }
    }
    Ok(asked)
}

/// A size as PostgreSQL's settings have it: units of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn is_streaming(target: &TargetView) -> bool {
    let standby = target.answer.as_ref().and_then(|answer| answer.positions.standby());
    standby.and_then(|standby| standby.receiver.running()).is_some_and(|receiver| receiver.status == "streaming")
}

/// What Patroni says of a member, as far as it is known here, and the verdict beside it.
#[derive(Serialize)]
struct View {
    /// `running`, or `unknown` when the last poll failed.
    state: &'static str,
    server_version: Option<u32>,
    timeline: Option<u32>,
    xlog: Xlog,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Positions as numbers.
#[derive(Default, Serialize)]
struct Xlog {
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_location: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_location: Option<u64>,
}

impl View {
    fn new(target: &Arc<TargetView>, verdict: Verdict) -> Self {
        let positions = target.answer.as_ref().map(|answer| &answer.positions);
        let xlog = match positions.map(|positions| &positions.state) {
            Some(ServerState::Primary(primary)) => {
                Xlog { location: Some(primary.flush_lsn.as_u64()), ..Xlog::default() }
            }
            Some(ServerState::Standby(standby)) => Xlog {
                received_location: standby.received().map(crate::core::wal::Lsn::as_u64),
                replayed_location: standby.replay_lsn.map(crate::core::wal::Lsn::as_u64),
                ..Xlog::default()
            },
            _ => Xlog::default(),
        };
        Self {
            state: if target.is_up() { "running" } else { "unknown" },
            server_version: positions.map(|positions| positions.identity.version_num),
            timeline: target.timeline().map(|timeline| timeline.0),
            xlog,
            verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_postgresql() {
        for (text, expect) in [
            ("0", Some(0)),
            ("16777216", Some(1 << 24)),
            ("16MB", Some(1 << 24)),
            ("16 kB", Some(1 << 14)),
            ("1GB", Some(1 << 30)),
            ("abc", None),
            ("", None),
            ("-1", None),
            ("1.5MB", None),
            ("16mb", None),
            ("99999999999TB", None),
        ] {
            assert_eq!(bytes(text), expect, "{text:?}");
        }
    }
}
