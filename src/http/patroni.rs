//! Paths as Patroni's REST API has them, for load balancers that ask Patroni now: `/patroni/{cluster}/{target}` stands where a
//! member's own address and port stood, and what follows it is Patroni's. The rules are those of [`health`].
//!
//! What differs: a `lag` that cannot be read is refused, where Patroni takes it for no limit; so is a parameter that is not
//! known, tags among them. Where the lag is unknown only because the primary is not heard, `[health]` decides. The leader's
//! lock is not seen from here: who is the primary by its own word leads, and in a cluster without one the only standby that
//! receives its WAL from elsewhere. What is not known (whether commits wait for a standby whose upstream is silent) is 503.

use std::sync::Arc;

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::limits::{BadParameter, decode, decode_value};
use super::reply::Reply;
use super::{Ask, overall};
use crate::core::health::{self, Limits, Status, Verdict};
use crate::core::observation::ServerState;
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Role;
use crate::core::topology::links::Upstream;

/// What can be asked of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Primary,
    StandbyLeader,
    Leader,
    Replica,
    ReadOnly,
    /// Of a standby whose upstream's commits stand so to it.
    Standby(Commits),
    /// The same, or the leader.
    ReadOnlyStandby(Commits),
    Health,
    Liveness,
    Readiness,
}

/// How the commits of its upstream stand to a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    /// They wait for it.
    Wait,
    /// They wait for so many of several, which it is one of.
    WaitForQuorum,
    DoNotWait,
}

/// The words that Patroni has for them.
pub(super) const WORDS: [(&str, Question); 20] = [
    ("primary", Question::Primary),
    ("master", Question::Primary),
    ("read-write", Question::Primary),
    ("leader", Question::Leader),
    ("standby-leader", Question::StandbyLeader),
    ("standby_leader", Question::StandbyLeader),
    ("replica", Question::Replica),
    ("read-only", Question::ReadOnly),
    ("synchronous", Question::Standby(Commits::Wait)),
    ("sync", Question::Standby(Commits::Wait)),
    ("quorum", Question::Standby(Commits::WaitForQuorum)),
    ("asynchronous", Question::Standby(Commits::DoNotWait)),
    ("async", Question::Standby(Commits::DoNotWait)),
    ("read-only-sync", Question::ReadOnlyStandby(Commits::Wait)),
    ("read-only-synchronous", Question::ReadOnlyStandby(Commits::Wait)),
    ("read-only-quorum", Question::ReadOnlyStandby(Commits::WaitForQuorum)),
    ("health", Question::Health),
    ("liveness", Question::Liveness),
    ("readiness", Question::Readiness),
    ("", Question::Primary),
];

/// A replica further behind is not ready, where no `lag` is given: Patroni's own default of `maximum_lag_on_failover`.
const READY_WITHIN: u64 = 1 << 20;

impl Question {
    /// The parameters that say something here.
    pub(super) const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Replica | Self::ReadOnly | Self::Standby(_) | Self::ReadOnlyStandby(_) => {
                &["lag", "replication_state"]
            }
            Self::Readiness => &["lag", "mode"],
            Self::Primary | Self::StandbyLeader | Self::Leader | Self::Health | Self::Liveness => &[],
        }
    }

    /// When the answer is 200.
    pub(super) const fn purpose(self) -> &'static str {
        match self {
            Self::Primary => "200 for the primary",
            Self::StandbyLeader => {
                "200 for the standby that leads a standby cluster: the only one that receives its WAL from elsewhere"
            }
            Self::Leader => "200 for the primary, and for the leader of a standby cluster",
            Self::Replica => "200 for a replica that reads may be sent to",
            Self::ReadOnly => "200 for a server that reads may be sent to, the primary among them",
            Self::Standby(Commits::Wait) => "200 for a replica that commits wait for",
            Self::Standby(Commits::WaitForQuorum) => "200 for a replica of the quorum that commits wait for",
            Self::Standby(Commits::DoNotWait) => "200 for a replica that commits do not wait for",
            Self::ReadOnlyStandby(Commits::WaitForQuorum) => {
                "200 for a replica of the quorum that commits wait for, and for the primary"
            }
            Self::ReadOnlyStandby(_) => "200 for a replica that commits wait for, and for the primary",
            Self::Health => "200 while PostgreSQL answers",
            Self::Liveness => "200 while the daemon's own loops make progress, whatever PostgreSQL does",
            Self::Readiness => "200 for the primary, and for a replica that streams and is not too far behind",
        }
    }
}

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
    if *question == Question::Liveness {
        return ask.yes_or_no("ok", "stuck", overall::stuck(&ask.snapshot, ask.now));
    }
    let verdict = Member { ask, cluster, target, asked }.answer(*question);
    let code = if verdict.status == Status::Ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if ask.wants_text {
        return Reply::text(code, verdict.line());
    }
    Reply::json(code, &View::new(target, verdict, commits_of(cluster, target, ask.now)))
}

/// A target that something is asked of.
struct Member<'a> {
    ask: &'a Ask<'a>,
    cluster: &'a ClusterView,
    target: &'a TargetView,
    asked: Asked,
}

impl Member<'_> {
    fn answer(&self, question: Question) -> Verdict {
        match question {
            Question::Primary => self.primary(),
            Question::StandbyLeader => self.standby_leader(),
            Question::Leader => self.leader(),
            Question::Replica => self.replica(self.asked.lag),
            Question::ReadOnly => self.leader_or(self.replica(self.asked.lag)),
            Question::Standby(commits) => self.standby(commits),
            Question::ReadOnlyStandby(commits) => self.leader_or(self.standby(commits)),
            Question::Readiness => self.leader_or(self.ready()),
            Question::Health | Question::Liveness => {
                let mut verdict = self.judged(None, None);
                // Whether the server runs, whatever is to be sent there.
                if self.target.is_up() && self.target.fresh(self.ask.now).is_some() {
                    verdict.status = Status::Ok;
                }
                verdict
            }
        }
    }

    fn judged(&self, role: Option<Role>, max_lag_bytes: Option<u64>) -> Verdict {
        let limits = Limits { max_lag_bytes, role, ..Limits::default() };
        health::verdict(self.cluster, self.target, self.ask.now, &limits, self.ask.state.health)
    }

    fn primary(&self) -> Verdict {
        self.judged(Some(Role::Primary), None)
    }

    fn standby_leader(&self) -> Verdict {
        let verdict = self.judged(Some(Role::Replica), None);
        match leads_standbys(self.cluster, self.target, self.ask.now) {
            Ok(()) => verdict,
            Err(reason) => unfit(verdict, reason),
        }
    }

    fn leader(&self) -> Verdict {
        let primary = self.primary();
        if primary.role == Some(Role::Replica) { self.standby_leader() } else { primary }
    }

    fn leader_or(&self, other: Verdict) -> Verdict {
        Some(self.leader()).filter(|leader| leader.status == Status::Ok).unwrap_or(other)
    }

    fn replica(&self, lag: Option<u64>) -> Verdict {
        let verdict = self.judged(Some(Role::Replica), lag);
        if leads_standbys(self.cluster, self.target, self.ask.now).is_ok() {
            return unfit(verdict, "it leads a standby cluster");
        }
        if self.asked.streaming { self.streaming(verdict) } else { verdict }
    }

    fn streaming(&self, verdict: Verdict) -> Verdict {
        if is_streaming(self.target) { verdict } else { unfit(verdict, "it does not stream") }
    }

    fn standby(&self, wanted: Commits) -> Verdict {
        let verdict = self.replica(self.asked.lag);
        match commits_of(self.cluster, self.target, self.ask.now) {
            Some(commits) if commits == wanted => verdict,
            Some(Commits::Wait) => unfit(verdict, "commits wait for it"),
            Some(Commits::WaitForQuorum) => unfit(verdict, "commits wait for a quorum that it is of"),
            Some(Commits::DoNotWait) => unfit(verdict, "commits do not wait for it"),
            None => unfit(verdict, "whether commits wait for it is not known"),
        }
    }

    fn ready(&self) -> Verdict {
        let limit = self.asked.lag.unwrap_or(READY_WITHIN);
        if !self.asked.received {
            return self.streaming(self.replica(Some(limit)));
        }
        let verdict = self.streaming(self.replica(None));
        match self.target.stages.as_ref().and_then(|stages| stages.unreceived) {
            Some(bytes) if bytes.0 <= limit => verdict,
            Some(bytes) => unfit(verdict, &format!("{} bytes are not received yet; the limit is {limit}", bytes.0)),
            None => unfit(verdict, "how much it has not received yet is not known"),
        }
    }
}

fn unfit(mut verdict: Verdict, reason: &str) -> Verdict {
    verdict.status = Status::Unfit;
    verdict.reasons.insert(0, reason.to_owned());
    verdict
}

/// Whether a standby leads a cluster that has no primary of its own: why not, or why that is not known.
fn leads_standbys(cluster: &ClusterView, target: &TargetView, now: MonoTime) -> Result<(), &'static str> {
    if cluster.primary.is_some() {
        return Err("the cluster has a primary: it is no standby cluster");
    }
    // One that is silent might be the primary, or the standby that leads.
    if cluster.targets.iter().any(|target| !target.is_up() || target.fresh(now).is_none()) {
        return Err("who leads is not known while a target of the cluster does not answer");
    }
    let is_fed_from_elsewhere = |target: &TargetView| matches!(target.links.upstream, Some(Upstream::Elsewhere(_)));
    if !is_fed_from_elsewhere(target) {
        return Err("it does not receive its WAL from elsewhere");
    }
    match cluster.targets.iter().filter(|target| is_fed_from_elsewhere(target)).count() {
        1 => Ok(()),
        _ => Err("several receive their WAL from elsewhere: which of them leads is not known"),
    }
}

/// By the row of the sender that serves it. `None` while that is not known.
fn commits_of(cluster: &ClusterView, target: &TargetView, now: MonoTime) -> Option<Commits> {
    target.fresh(now)?;
    let Some(sender) = &target.links.sender else {
        // Nobody waits for one that nobody serves.
        return (target.links.is_missing == Some(true)).then_some(Commits::DoNotWait);
    };
    let upstream = cluster.target(sender.upstream.as_str()).filter(|upstream| upstream.is_up())?;
    let senders = &upstream.fresh(now)?.positions.senders;
    match senders.iter().find(|row| row.pid == sender.pid)?.sync_state.as_deref()? {
        "sync" => Some(Commits::Wait),
        "quorum" => Some(Commits::WaitForQuorum),
        "async" | "potential" => Some(Commits::DoNotWait),
        _ => None,
    }
}

#[derive(Default)]
struct Asked {
    /// Bytes.
    lag: Option<u64>,
    /// `replication_state=streaming`.
    streaming: bool,
    /// `mode=write`: what is received counts, and not what is replayed.
    received: bool,
}

fn parse(query: Option<&str>, question: Question) -> Result<Asked, BadParameter> {
    let mut asked = Asked::default();
    let mut seen = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name).unwrap_or_else(|| name.into());
        let bad = |reason: String| BadParameter { parameter: name.escape_default().to_string(), reason };
        let Some(known) = question.parameters().iter().find(|known| **known == name) else {
            return Err(bad(match question.parameters() {
                [] => "this path takes no parameters".to_owned(),
                known => format!("not known here; known are {}", known.join(", ")),
            }));
        };
        if seen.contains(known) {
            return Err(bad("given twice".to_owned()));
        }
        seen.push(*known);
        let value = decode_value(value).ok_or_else(|| bad("not readable as UTF-8".to_owned()))?;
        match (*known, &*value) {
            ("lag", text) => {
                let bytes = bytes(text).ok_or_else(|| {
                    bad(format!("\"{}\" is not a size; write for example 16MB or 16777216", text.escape_default()))
                })?;
                asked.lag = Some(bytes);
            }
            ("mode", "write") => asked.received = true,
            ("mode", "apply") => asked.received = false,
            ("mode", _) => return Err(bad("write apply or write".to_owned())),
            (_, "streaming") => asked.streaming = true,
            _ => return Err(bad("write streaming".to_owned())),
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
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PatroniMember")]
pub(super) struct View {
    /// `running`, or `unknown` when the last poll failed.
    state: &'static str,
    server_version: Option<u32>,
    timeline: Option<u32>,
    xlog: Xlog,
    /// Commits wait for it. Left out where they do not, and while that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_standby: Option<bool>,
    /// Commits wait for a quorum that it is of. Left out as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    quorum_standby: Option<bool>,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Positions as numbers: bytes since the beginning of the WAL. Each is left out where it is not known.
#[derive(Default, Serialize, JsonSchema)]
struct Xlog {
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_location: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed_location: Option<u64>,
}

impl View {
    fn new(target: &Arc<TargetView>, verdict: Verdict, commits: Option<Commits>) -> Self {
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
            sync_standby: (commits == Some(Commits::Wait)).then_some(true),
            quorum_standby: (commits == Some(Commits::WaitForQuorum)).then_some(true),
            verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture;
    use crate::core::observation::PollFailure;
    use crate::core::topology::Name;
    use crate::core::topology::links::{Links, SenderId};
    use crate::http::AppState;
    use crate::http::tests::{ask, orders, state_of};

    /// For each path of a target the status that is answered.
    async fn check(state: &AppState, target: &str, expect: &[(&str, u16)]) {
        for (path, status) in expect {
            let got = ask(state, "GET", &format!("/patroni/orders/{target}/{path}"), "*/*").await;
            assert_eq!(got.status, *status, "{target}/{path}: {}", got.body);
        }
    }

    /// The fleet with `replica-1` served by the primary's sender, whose `sync_state` is that.
    fn commits(word: Option<&str>) -> Vec<TargetView> {
        let mut targets = fixture::orders();
        fixture::change_positions(&mut targets[0], |positions| positions.senders[0].sync_state = word.map(Arc::from));
        let sender = SenderId { upstream: Name::new("primary"), pid: 4711 };
        targets[1].links = Arc::new(Links { sender: Some(sender), ..Links::default() });
        targets
    }

    fn state(targets: Vec<TargetView>) -> AppState {
        state_of(orders(|all| *all = targets))
    }

    #[tokio::test]
    async fn whether_commits_wait_is_what_the_upstream_says() {
        for (word, sync, quorum, asynchronous) in [
            (Some("sync"), 200, 503, 503),
            (Some("quorum"), 503, 200, 503),
            (Some("async"), 503, 503, 200),
            // It may become a synchronous one, and is none yet.
            (Some("potential"), 503, 503, 200),
            // Not known: a role without pg_monitor sees NULL.
            (None, 503, 503, 503),
        ] {
            let state = state(commits(word));
            check(
                &state,
                "replica-1",
                &[
                    ("sync", sync),
                    ("synchronous", sync),
                    ("read-only-sync", sync),
                    ("read-only-synchronous", sync),
                    ("quorum", quorum),
                    ("read-only-quorum", quorum),
                    ("async", asynchronous),
                    ("asynchronous", asynchronous),
                    ("asynchronous?lag=256", asynchronous),
                    ("asynchronous?lag=255", 503),
                    ("replica", 200),
                ],
            )
            .await;
            check(
                &state,
                "primary",
                &[("sync", 503), ("async", 503), ("read-only-sync", 200), ("read-only-quorum", 200)],
            )
            .await;
        }
    }

    #[tokio::test]
    async fn what_a_silent_upstream_said_last_is_not_known() {
        let mut targets = commits(Some("sync"));
        fixture::fail(&mut targets[0], PollFailure::Refused);
        let silent = state(targets);
        check(&silent, "replica-1", &[("sync", 503), ("async", 503), ("read-only-sync", 503), ("replica", 200)]).await;
        // One that nobody serves is waited for by nobody.
        let mut targets = fixture::orders();
        targets[1].links = Arc::new(Links { is_missing: Some(true), ..Links::default() });
        check(&state(targets), "replica-1", &[("sync", 503), ("async", 200)]).await;
        check(&state(fixture::orders()), "replica-1", &[("sync", 503), ("async", 503)]).await;
    }

    #[tokio::test]
    async fn a_standby_that_is_fed_from_elsewhere_leads_where_there_is_no_primary() {
        let fed = |targets: &mut [TargetView], places: &[usize]| {
            for place in places {
                let elsewhere = Upstream::Elsewhere(Arc::from("10.9.9.9:5432"));
                targets[*place].links = Arc::new(Links { upstream: Some(elsewhere), ..Links::default() });
            }
        };
        let standbys = |places: &[usize], change: fn(&mut [TargetView])| {
            let mut targets = vec![fixture::replica("orders", "replica-1"), fixture::replica("orders", "replica-2")];
            fed(&mut targets, places);
            change(&mut targets);
            let mut cluster = fixture::cluster("orders", targets, Vec::new());
            cluster.primary = None;
            state_of(fixture::snapshot(vec![cluster]))
        };
        let one = standbys(&[0], |_| ());
        check(
            &one,
            "replica-1",
            &[
                ("standby-leader", 200),
                ("standby_leader", 200),
                ("leader", 200),
                ("primary", 503),
                ("read-write", 503),
                ("replica", 503),
                ("read-only", 200),
                ("readiness", 200),
            ],
        )
        .await;
        check(&one, "replica-2", &[("standby-leader", 503), ("leader", 503), ("replica", 200), ("read-only", 200)])
            .await;
        // Two of them: nobody here knows who holds the lock.
        check(&standbys(&[0, 1], |_| ()), "replica-1", &[("standby-leader", 503), ("leader", 503), ("replica", 200)])
            .await;
        // One that is silent might be the primary.
        let silent = standbys(&[0], |targets| fixture::fail(&mut targets[1], PollFailure::Refused));
        check(&silent, "replica-1", &[("standby-leader", 503), ("leader", 503)]).await;
        // With a primary it is no standby cluster, wherever a replica is fed from.
        let mut targets = fixture::orders();
        fed(&mut targets, &[1]);
        check(&state(targets), "replica-1", &[("standby-leader", 503), ("leader", 503), ("replica", 200)]).await;
    }

    #[tokio::test]
    async fn ready_is_who_streams_and_is_near() {
        let state = state_of(orders(|targets| {
            let stages = targets[1].stages.as_mut().expect("has stages");
            stages.unreplayed = Some(crate::core::wal::WalBytes(2 << 20));
            stages.unreceived = Some(crate::core::wal::WalBytes(100));
            fixture::change_standby(&mut targets[2], |standby| {
                standby.receiver = crate::core::observation::Receiver::Absent;
            });
        }));
        check(&state, "primary", &[("readiness", 200), ("liveness", 200)]).await;
        check(
            &state,
            "replica-1",
            &[
                // 1 MB where nothing else is said.
                ("readiness", 503),
                ("readiness?lag=2MB", 200),
                ("readiness?lag=2047kB", 503),
                ("readiness?mode=apply&lag=2MB", 200),
                ("readiness?mode=write", 200),
                ("readiness?mode=write&lag=100", 200),
                ("readiness?mode=write&lag=99", 503),
                ("readiness?mode=read", 400),
                ("readiness?lag=1&lag=2", 400),
                ("liveness", 200),
                ("liveness?lag=1", 400),
            ],
        )
        .await;
        check(
            &state,
            "replica-2",
            &[("readiness", 503), ("replica", 200), ("replica?replication_state=streaming", 503)],
        )
        .await;
        let failing = state_of(orders(|targets| fixture::fail(&mut targets[1], PollFailure::Refused)));
        check(&failing, "replica-1", &[("readiness", 503), ("health", 503), ("liveness", 200)]).await;
    }

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
