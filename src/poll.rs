//! `pgvigil poll`: one look at everything, for a shell or a script.
//!
//! The servers are asked just as the daemon asks them, until there is enough to tell a lag. What is printed is what a
//! [`Snapshot`] says, and nothing of its own. With `--watch` it is asked and printed until somebody has seen enough.

mod screen;
pub mod watch;

use std::collections::HashMap;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;

use crate::aws::Aws;
use crate::clock;
use crate::collect::tls::Trust;
use crate::collect::{self, PollConfig, TargetSpec};
use crate::config::Config;
use crate::core::alert::{AlertView, Phase, Severity};
use crate::core::fleet::{Event, Fleet, FleetSpec};
use crate::core::lag::{Certainty, Evidence, LagEstimate, Method};
use crate::core::observation::{PollFailure, Receiver, ReplayPause};
use crate::core::signal::Unit;
use crate::core::snapshot::{ClusterView, PoolerView, Snapshot, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::{Role, TargetId};
use crate::table::{Cell, Table, Tone, bytes, painted, seconds, short, wrapped};

/// A lag is the age of WAL whose writing was seen: one answer cannot tell it, a second one a while later can.
const ANSWERS: u32 = 2;

/// Nobody at a prompt wants to wait longer for the second answer.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// Where something is wrong, why is told by what moves and what does not: that takes a few seconds.
const WATCH: Duration = Duration::from_secs(6);

/// How long sessions may take to end, beside what is still being answered.
const ENDING: Duration = Duration::from_secs(1);

/// Asks every target, and says what is then known. `say` is told how far it has come, and what makes it take longer.
pub async fn look(mut config: Config, say: impl Fn(&str)) -> Arc<Snapshot> {
    config.poll.interval = config.poll.interval.min(LONGEST_INTERVAL);
    let mut round = Round::start(&config);
    let mut progress: HashMap<TargetId, Progress> = config
        .clusters
        .iter()
        .flat_map(|cluster| cluster.targets.iter().chain(&cluster.poolers))
        .map(|target| (target.id.clone(), Progress::default()))
        .collect();
    let deadline = tokio::time::sleep(patience(&config.poll));
    tokio::pin!(deadline);
    let mut watches = false;
    let mut n_told = usize::MAX;
    loop {
        let n_done = progress.values().filter(|progress| progress.is_done()).count();
        if !watches && n_told != n_done {
            n_told = n_done;
            say(&format!("{n_done} of {} servers and poolers asked", progress.len()));
        }
        if !watches && n_done == progress.len() {
            // Who follows whom is found out at a tick.
            if !is_puzzling(&round.snapshot()) {
                break;
            }
            watches = true;
            say(&format!("something is wrong or behind: watching {} s to say why", WATCH.as_secs()));
            deadline.as_mut().reset(tokio::time::Instant::now() + WATCH);
        }
        let event = tokio::select! {
            event = round.event() => event,
            () = &mut deadline => break,
        };
        match &event {
            Event::Polled(observation) => {
                if let Some(target) = progress.get_mut(&observation.target) {
                    target.polled(observation.outcome.as_ref().err());
                }
            }
            Event::Surveyed(survey) => {
                if let Some(target) = progress.get_mut(&survey.target) {
                    target.is_surveyed = true;
                }
            }
            Event::Pooled(observation) => {
                if let Some(pooler) = progress.get_mut(&observation.pooler) {
                    pooler.polled(observation.outcome.as_ref().err());
                    // Once is enough: nothing of a pooler is told from two answers.
                    if !pooler.is_still_tried() {
                        (pooler.n_answers, pooler.is_surveyed) = (ANSWERS, true);
                    }
                }
            }
            _ => {}
        }
        round.apply(event);
    }
    let snapshot = Arc::new(round.snapshot());
    round.end().await;
    snapshot
}

/// Servers that are being asked, and what they have said so far.
struct Round {
    fleet: Fleet,
    tasks: FuturesUnordered<Task>,
    received: mpsc::Receiver<Event>,
    stop: CancellationToken,
    ticks: Interval,
    /// How long sessions may take to end: what is being answered is waited for, so that no server logs a lost client.
    ending: Duration,
}

impl Round {
    fn start(config: &Config) -> Self {
        let (events, received) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let tasks = pollers(config, &events, &stop);
        let ending = config.poll.timeout + ENDING;
        // Whom it would tell is not told: this is a look, not the watch.
        let spec = FleetSpec { recipients: Vec::new(), ..config.fleet_spec() };
        Self { fleet: Fleet::new(spec), tasks, received, stop, ticks: tokio::time::interval(TICK), ending }
    }

    /// What happens next.
    async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                Some(event) = self.received.recv() => return event,
                Some(()) = self.tasks.next() => {}
                _ = self.ticks.tick() => return Event::Tick,
            }
        }
    }

    fn apply(&mut self, event: Event) {
        self.fleet.apply(event, clock::now(), clock::wall());
    }

    /// What is known now. The rules judge, and who follows whom is found out, at a tick.
    fn snapshot(&mut self) -> Snapshot {
        self.apply(Event::Tick);
        self.fleet.snapshot(clock::now(), clock::wall())
    }

    /// A session that does not end in time is cut off.
    async fn end(mut self) {
        self.stop.cancel();
        // Who has something to say waits until there is room for it.
        self.received.close();
        let _ = tokio::time::timeout(self.ending, async { while self.tasks.next().await.is_some() {} }).await;
    }
}

/// How often what depends on time alone is brought up to date.
const TICK: Duration = Duration::from_millis(500);

/// Whether there is something of which more time would tell more: why a replica lags, or whether it does.
fn is_puzzling(snapshot: &Snapshot) -> bool {
    snapshot.clusters.iter().any(|cluster| {
        let replicas = || cluster.targets.iter().filter(|target| target.last_role() == Some(Role::Replica));
        let is_at_rest = |target: &TargetView| {
            let streams = matches!(state(target).1, Tone::Good);
            let is_known = target.lag.is_some_and(|lag| lag.value.is_some_and(|value| value < SHORT));
            streams && is_known && target.diagnosis.is_none()
        };
        replicas().any(|target| target.is_up() && !is_at_rest(target))
    })
}

/// A lag below this is WAL on its way. Seconds.
const SHORT: f64 = 1.0;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The daemon's own pollers, to be driven by the one who waits for what they say.
fn pollers(config: &Config, events: &mpsc::Sender<Event>, stop: &CancellationToken) -> FuturesUnordered<Task> {
    let trust = Arc::new(Trust::new(Aws::new(config.aws.clone())));
    let tasks: FuturesUnordered<Task> = FuturesUnordered::new();
    for (place, cluster) in config.clusters.iter().enumerate() {
        let specs = cluster
            .targets
            .iter()
            .map(|target| TargetSpec { name: target.id.target.clone(), conninfo: Arc::clone(&target.conninfo) });
        let (beat, targets) =
            collect::cluster(place, &cluster.name, specs.collect(), &config.poll, config.statements, &trust);
        for pooler in &cluster.poolers {
            let (id, conninfo) = (pooler.id.clone(), Arc::clone(&pooler.conninfo));
            let task = collect::pooler(0, id, conninfo, &config.poll, &trust);
            tasks.push(Box::pin(task.run(events.clone(), stop.clone())));
        }
        tasks.push(Box::pin(beat.run(stop.clone())));
        for target in targets {
            tasks.push(Box::pin(target.run(events.clone(), stop.clone())));
        }
    }
    tasks
}

/// How far one target has come.
#[derive(Debug, Default)]
struct Progress {
    n_answers: u32,
    n_time_outs: u32,
    has_failed: bool,
    is_surveyed: bool,
}

impl Progress {
    fn polled(&mut self, failure: Option<&PollFailure>) {
        self.n_answers += u32::from(failure.is_none());
        self.n_time_outs += u32::from(matches!(failure, Some(PollFailure::Timeout { .. })));
        self.has_failed = failure.is_some() && !self.is_still_tried();
    }

    /// A connection that takes longer than a poll may take is reported as failed, and may still be opened.
    fn is_still_tried(&self) -> bool {
        self.n_answers == 0 && self.n_time_outs == 1
    }

    fn is_done(&self) -> bool {
        self.has_failed || (self.n_answers >= ANSWERS && self.is_surveyed)
    }
}

/// Time in which everything that can be known is known.
fn patience(poll: &PollConfig) -> Duration {
    (ANSWERS + 1) * poll.interval + poll.timeout + poll.timeout.max(poll.connect_timeout)
}

/// Whether every target answered and no critical rule breaches, fired or not: a single look cannot wait for `for`.
pub fn is_well(snapshot: &Snapshot) -> bool {
    snapshot.clusters.iter().all(|cluster| {
        let is_critical = |alert: &AlertView| alert.severity == Severity::Critical && alert.phase != Phase::Resolved;
        let all_poolers = cluster.poolers.iter().all(|pooler| pooler.is_up(snapshot.published_at));
        cluster.targets.iter().all(|target| target.is_up()) && all_poolers && !cluster.alerts.iter().any(is_critical)
    })
}

/// A row for each target, what there is to say of it, and a line for each alert. Prose is broken to `width`, where there
/// is one.
pub fn table(snapshot: &Snapshot, has_colour: bool, width: Option<usize>) -> String {
    let heading = ["CLUSTER", "TARGET", "ROLE", "VERSION", "STATE", "LAG", "BEHIND"];
    let mut table = Table::new(&heading, &["LAG", "BEHIND"]);
    let mut notes = String::new();
    for cluster in &snapshot.clusters {
        for target in &cluster.targets {
            table.row(row(cluster, target));
            if let Some(note) = note(cluster, target, snapshot.published_at) {
                notes.push_str(&wrapped(&format!("{}: {}", target.id, printable(&note)), width, 2));
                notes.push('\n');
            }
        }
    }
    let mut text = table.render(has_colour);
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes);
    }
    text.push_str(&subscriptions(snapshot, has_colour));
    text.push_str(&poolers(snapshot, has_colour));
    let active = |alert: &&AlertView| alert.phase != Phase::Resolved;
    let mut alerts: Vec<&AlertView> =
        snapshot.clusters.iter().flat_map(|cluster| cluster.alerts.iter()).filter(active).collect();
    alerts.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), alert.id.clone()));
    if !alerts.is_empty() {
        text.push('\n');
    }
    for alert in alerts {
        let tone = if alert.severity == Severity::Critical { Tone::Bad } else { Tone::Doubtful };
        let severity = alert.severity.as_str();
        let is = alert
            .reading
            .map_or_else(|| "is not known".to_owned(), |value| format!("is {}", amount(alert.unit, value)));
        let line = wrapped(&format!("{severity}  {}: {}; {is}", alert.id, alert.condition), width, 2);
        let told = line.strip_prefix(severity).unwrap_or(&line);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}{told}", painted(severity, tone, has_colour));
    }
    text
}

/// A server's words must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn amount(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => seconds(value),
        Unit::Bytes if value >= 0.0 => bytes(value as u64),
        Unit::BytesPerSecond if value >= 0.0 => format!("{}/s", bytes(value as u64)),
        Unit::Ratio => format!("{:.0} %", value * 100.0),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

/// A table of the subscriptions. Nothing where there are none.
fn subscriptions(snapshot: &Snapshot, has_colour: bool) -> String {
    let heading = ["CLUSTER", "TARGET", "SUBSCRIPTION", "STATE", "LAG", "BEHIND", "ERRORS"];
    let mut table = Table::new(&heading, &["LAG", "BEHIND", "ERRORS"]);
    let mut is_empty = true;
    let targets = || snapshot.clusters.iter().flat_map(|cluster| &cluster.targets);
    for target in targets().filter(|target| target.is_up()) {
        let of_target = target.fresh_survey(snapshot.published_at).and_then(|facts| facts.subscriptions.as_deref());
        for subscription in of_target.unwrap_or_default() {
            is_empty = false;
            let runs = subscription.workers.as_ref().map(|workers| workers.apply.is_some());
            let state = match (subscription.enabled, runs) {
                (false, _) => Cell::new("disabled", Tone::Doubtful),
                (true, Some(true)) => Cell::new("running", Tone::Good),
                (true, Some(false)) => Cell::new("no worker", Tone::Bad),
                (true, None) => "".into(),
            };
            let lag = target.subscription_lag(subscription);
            let errors: u64 = subscription.errors.iter().map(|(_, count)| count).sum();
            table.row(vec![
                target.id.cluster.as_str().into(),
                target.id.target.as_str().into(),
                format!("{}/{}", subscription.datname, subscription.name).into(),
                state,
                lag.map_or_else(|| "".into(), |lag| lag_cell(&lag.lag)),
                lag.and_then(|lag| lag.unconfirmed).map_or_else(String::new, |wal| bytes(wal.0)).into(),
                if errors > 0 { Cell::new(&errors.to_string(), Tone::Doubtful) } else { "".into() },
            ]);
        }
    }
    if is_empty { String::new() } else { format!("\n{}", table.render(has_colour)) }
}

/// A table of the poolers, a row for each pool. Nothing where there are none.
fn poolers(snapshot: &Snapshot, has_colour: bool) -> String {
    const RIGHT: &[&str] = &["ACTIVE", "WAITING", "LONGEST WAIT", "SERVERS"];
    let heading =
        ["CLUSTER", "POOLER", "STATE", "DATABASE", "USER", "ACTIVE", "WAITING", "LONGEST WAIT", "SERVERS", "NOTE"];
    let mut table = Table::new(&heading, RIGHT);
    let views = || snapshot.clusters.iter().flat_map(|cluster| &cluster.poolers);
    for pooler in views() {
        let place = [pooler.id.cluster.as_str().into(), pooler.id.target.as_str().into()];
        let row = |rest: Vec<Cell>| place.iter().cloned().chain(rest).collect::<Vec<Cell>>();
        let answer = match (&pooler.failing, &pooler.answer) {
            (Some(failing), _) => {
                let empty = vec!["".into(); 6];
                let note = failing.failure.to_string().into();
                table.row(row([vec![Cell::new("down", Tone::Bad)], empty, vec![note]].concat()));
                continue;
            }
            (None, None) => {
                table.row(row(vec![Cell::new("not asked", Tone::Doubtful)]));
                continue;
            }
            (None, Some(answer)) => answer,
        };
        let up = || Cell::new("up", Tone::Good);
        if answer.facts.pools.is_empty() {
            table.row(row(vec![up()]));
        }
        for pool in &answer.facts.pools {
            let is_paused = answer.facts.databases.iter().any(|own| own.name == pool.database && own.paused);
            let waits = pool.clients_waiting > 0;
            let of = pool.size.map_or_else(String::new, |size| format!("/{size}"));
            table.row(row(vec![
                up(),
                pool.database.as_str().into(),
                pool.user.as_str().into(),
                pool.clients_active.to_string().into(),
                Cell::new(&pool.clients_waiting.to_string(), if waits { Tone::Doubtful } else { Tone::Plain }),
                seconds(pool.longest_wait).into(),
                format!("{}{of}", pool.servers_active).into(),
                if is_paused { Cell::new("paused", Tone::Doubtful) } else { "".into() },
            ]));
        }
    }
    if views().next().is_some() { format!("\n{}", table.render(has_colour)) } else { String::new() }
}

fn row(cluster: &ClusterView, target: &TargetView) -> Vec<Cell> {
    let version = target.answer.as_ref().map_or("", |answer| short(&answer.positions.identity.version));
    let role = target.last_role().map_or("", |role| role.as_str());
    let (state, tone) = state(target);
    let lag = target.lag.as_ref().map_or_else(|| "".into(), lag_cell);
    let behind = target.stages.and_then(|stages| stages.unreplayed).map_or_else(String::new, |wal| bytes(wal.0));
    vec![
        cluster.name.as_str().into(),
        target.id.target.as_str().into(),
        role.into(),
        version.into(),
        Cell::new(&state, tone),
        lag,
        behind.into(),
    ]
}

/// What a server does, in a word or two.
fn state(target: &TargetView) -> (String, Tone) {
    if target.failing.is_some() {
        return ("down".to_owned(), Tone::Bad);
    }
    let Some(answer) = &target.answer else { return ("not asked".to_owned(), Tone::Doubtful) };
    let Some(standby) = answer.positions.standby() else { return ("up".to_owned(), Tone::Good) };
    match (standby.pause, &standby.receiver) {
        (ReplayPause::Paused, _) => ("replay paused".to_owned(), Tone::Doubtful),
        (ReplayPause::Requested, _) => ("pausing replay".to_owned(), Tone::Doubtful),
        (ReplayPause::NotPaused, Receiver::Absent) if target.is_fed_by_archive() == Some(true) => {
            ("from an archive".to_owned(), Tone::Good)
        }
        (ReplayPause::NotPaused, Receiver::Absent) => ("no receiver".to_owned(), Tone::Doubtful),
        (ReplayPause::NotPaused, Receiver::Connecting) => ("connecting".to_owned(), Tone::Doubtful),
        (ReplayPause::NotPaused, Receiver::Hidden) => ("receiving".to_owned(), Tone::Good),
        (ReplayPause::NotPaused, Receiver::Running(receiver)) => {
            let tone = if receiver.status == "streaming" { Tone::Good } else { Tone::Doubtful };
            (receiver.status.clone(), tone)
        }
    }
}

fn lag_cell(lag: &LagEstimate) -> Cell {
    match (lag.value, lag.certainty) {
        (None, _) | (_, Certainty::Unknown) => Cell::new("?", Tone::Doubtful),
        (Some(value), Certainty::Exact) => seconds(value).into(),
        (Some(value), Certainty::AtLeast) => format!("≥ {}", seconds(value)).into(),
        (Some(value), Certainty::AtMost) => format!("≤ {}", seconds(value)).into(),
    }
}

/// The proven bounds.
fn between(lag: &LagEstimate) -> String {
    if lag.upper.is_infinite() && lag.lower <= 0.0 {
        return String::new();
    }
    let (lower, upper) = (seconds(lag.lower), seconds(lag.upper));
    if lower == upper { lower } else { format!("{lower} and {upper}") }
}

/// What there is to say of a target beside its row. `None` when all is as it should be.
fn note(cluster: &ClusterView, target: &TargetView, now: MonoTime) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(other) = &target.links.same_as {
        parts.push(format!("leads to the same server as {other}; it counts once"));
    }
    if let Some(failing) = &target.failing {
        parts.push(failing.failure.to_string());
    }
    if let Some(told) = target.diagnosis.as_ref().and_then(|diagnosis| diagnosis.cause()) {
        parts.push(told.why.clone());
    } else if target.is_up() && target.last_role() == Some(Role::Replica) && !cluster.hears_primary(now) {
        parts.push("no primary answers, so that its lag is known only as far as it can tell itself".to_owned());
    }
    if let Some(lag) = target.lag.as_ref().filter(|lag| lag.certainty != Certainty::Exact) {
        let between = between(lag);
        let between = if between.is_empty() { String::new() } else { format!(" between {between}") };
        parts.push(format!("lag{between}: {}", plain(lag.method)));
    }
    if let Some(failing) = &target.survey_failing {
        parts.push(format!("slow facts: {}", failing.failure));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// How a lag was found, for people.
fn plain(method: Method) -> String {
    let mut words = match method.evidence {
        Evidence::CaughtUp => "it has replayed all there was",
        Evidence::LsnAndTimestamp | Evidence::Lsn | Evidence::LsnPlateau => "by the primary's positions",
        Evidence::Receiver => "its stream was alive a moment ago",
        Evidence::PrimaryDown => "the primary is down",
        Evidence::PrimaryLost => "the primary does not answer",
        Evidence::WalSender => "as its upstream measured it",
        Evidence::Timestamp => "by its last commit, older than this look",
        Evidence::LowerBound => "it began before this look",
        Evidence::ReceiverOnly => "by its stream alone",
        Evidence::TimestampOnly => "by its last commit alone",
        Evidence::Aurora => "as Aurora says",
        Evidence::Warming => "not known yet: it takes a longer look",
        Evidence::OtherPrimary => "it is a primary itself",
        Evidence::ForeignCluster => "it belongs to another cluster",
        Evidence::NoPosition => "it has told no position",
        Evidence::NoPrimary => "no primary has answered",
    }
    .to_owned();
    for (holds, addition) in [
        (method.last_known, "by its last known position"),
        (method.upstream, "by its upstream's word"),
        (method.old_timeline, "on a timeline that the primary has left"),
        (method.primary_lost, "while the primary does not answer"),
    ] {
        if holds {
            words.push_str(", ");
            words.push_str(addition);
        }
    }
    words
}

/// The same for programs. What is not known is null; so is an upper bound that nothing bounds.
pub fn json(snapshot: &Snapshot) -> Value {
    json!({ "clusters": snapshot.clusters.iter().map(|cluster| cluster_json(cluster, snapshot)).collect::<Vec<_>>() })
}

fn cluster_json(cluster: &ClusterView, snapshot: &Snapshot) -> Value {
    json!({
        "name": cluster.name,
        "primary": cluster.primary,
        "targets": cluster.targets.iter().map(|target| target_json(target, snapshot)).collect::<Vec<_>>(),
        "poolers": cluster.poolers.iter().map(|pooler| pooler_json(pooler)).collect::<Vec<_>>(),
        "alerts": cluster.alerts.iter().map(|alert| json!({
            "rule": alert.id.rule,
            "severity": alert.severity,
            "state": alert.phase,
            "target": alert.id.target,
            "labels": alert.id.labels.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "condition": alert.condition,
            "reading": alert.reading,
        })).collect::<Vec<_>>(),
    })
}

fn pooler_json(pooler: &PoolerView) -> Value {
    let facts = pooler.answer.as_ref().filter(|_| pooler.failing.is_none()).map(|answer| &answer.facts);
    json!({
        "name": pooler.id.target,
        "up": facts.is_some(),
        "failure": pooler.failing.as_ref().map(|failing| json!({
            "kind": failing.failure.kind(),
            "reason": failing.failure.to_string(),
        })),
        "version": facts.and_then(|facts| facts.version.as_ref()),
        "pools": facts.map(|facts| facts.pools.iter().map(|pool| json!({
            "database": pool.database,
            "user": pool.user,
            "clients_active": pool.clients_active,
            "clients_waiting": pool.clients_waiting,
            "longest_wait_seconds": pool.longest_wait,
            "servers_active": pool.servers_active,
            "servers": pool.servers(),
            "pool_size": pool.size,
        })).collect::<Vec<_>>()),
        "paused": facts.map(|facts| {
            facts.databases.iter().filter(|database| database.paused).map(|database| &database.name).collect::<Vec<_>>()
        }),
    })
}

fn target_json(target: &TargetView, snapshot: &Snapshot) -> Value {
    let identity = target.answer.as_ref().map(|answer| &answer.positions.identity);
    let finite = |value: f64| value.is_finite().then_some(value);
    json!({
        "name": target.id.target,
        "up": target.is_up(),
        "failure": target.failing.as_ref().map(|failing| json!({
            "kind": failing.failure.kind(),
            "reason": failing.failure.to_string(),
        })),
        "role": target.last_role(),
        "version": identity.map(|identity| &identity.version),
        "flavor": identity.map(|identity| identity.flavor.as_str()),
        "state": state(target).0,
        "lsn": target.lsn().map(|lsn| lsn.to_string()),
        "timeline": target.timeline(),
        "lag_seconds": target.lag.and_then(|lag| lag.value),
        "lag_lower_seconds": target.lag.and_then(|lag| finite(lag.lower)),
        "lag_upper_seconds": target.lag.and_then(|lag| finite(lag.upper)),
        "lag_certainty": target.lag.map(|lag| lag.certainty.as_str()),
        "lag_method": target.lag.map(|lag| lag.method.to_string()),
        "cause": target.diagnosis.as_ref().and_then(|diagnosis| diagnosis.cause()).map(|told| told.cause),
        "diagnosis": target.diagnosis.as_ref().filter(|diagnosis| diagnosis.lags).and_then(|_| target.diagnosis_sentence()),
        "lag_bytes": target.stages.and_then(|stages| stages.unreplayed),
        "sample_age_ms": target.answer.as_ref().map(|answer| {
            u64::try_from(snapshot.published_at.duration_since(answer.answered_at).as_millis()).unwrap_or(u64::MAX)
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fixture;
    use crate::core::observation::PollFailure;
    use crate::core::survey::{Subscription, SubscriptionWorkers};

    fn snapshot(targets: Vec<TargetView>, alerts: Vec<AlertView>) -> Snapshot {
        fixture::snapshot(vec![fixture::cluster("orders", targets, alerts)])
    }

    #[test]
    fn each_target_has_a_row_and_each_active_alert_a_line() {
        let mut targets = fixture::orders();
        targets[2].lag = Some(fixture::lag(75.0, 75.0, f64::INFINITY, Certainty::AtLeast, Evidence::LowerBound));
        fixture::change_standby(&mut targets[2], |standby| standby.pause = ReplayPause::Paused);
        let mut silent = TargetView::new(TargetId::new("orders", "replica-3"), Duration::from_secs(10));
        silent.lag = Some(fixture::unknown_lag(Evidence::NoPosition));
        fixture::fail(&mut silent, PollFailure::Sql { sqlstate: "57014".to_owned(), reason: "a\x1b[2Jb".to_owned() });
        targets.push(silent);
        let alerts = vec![
            fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[]),
            fixture::alert("ReplicaLagCritical", Severity::Critical, Phase::Pending, &[]),
            fixture::alert("SlotRetainingWal", Severity::Critical, Phase::Resolved, &[("slot", "debezium")]),
        ];
        let expected = "\
CLUSTER  TARGET     ROLE     VERSION  STATE               LAG  BEHIND
orders   primary    primary  15.18    up
orders   replica-1  replica  15.18    streaming        120 ms   256 B
orders   replica-2  replica  15.18    replay paused  ≥ 1m 15s   256 B
orders   replica-3                    down                  ?

orders/replica-2: lag between 1m 15s and ∞: it began before this look
orders/replica-3: SQLSTATE 57014: a [2Jb; lag: it has told no position

critical  ReplicaLagCritical orders/replica-1: replay_lag_seconds > 5s; is 6.50
  s
warning  ReplicaLagging orders/replica-1: replay_lag_seconds > 5s; is 6.50 s
";
        let told = table(&snapshot(targets, alerts), false, Some(80));
        assert!(told.lines().all(|line| line.chars().count() <= 80), "{told}");
        assert_eq!(told, expected);
    }

    #[test]
    fn a_look_takes_longer_only_where_that_tells_more() {
        let is_puzzling = |change: fn(&mut TargetView)| {
            let mut replica = fixture::replica("orders", "replica-1");
            change(&mut replica);
            super::is_puzzling(&snapshot(vec![fixture::primary("orders", "primary"), replica], Vec::new()))
        };
        assert!(!is_puzzling(|_| {}));
        assert!(is_puzzling(|view| view.lag = Some(fixture::unknown_lag(Evidence::Warming))));
        assert!(is_puzzling(|view| fixture::change_standby(view, |standby| standby.receiver = Receiver::Absent)));
        assert!(is_puzzling(|view| {
            view.lag = Some(fixture::lag(75.0, 75.0, 76.0, Certainty::Exact, Evidence::Lsn));
        }));
        // Nothing more is to be heard of it.
        assert!(!is_puzzling(|view| fixture::fail(view, PollFailure::Refused)));
    }

    #[test]
    fn subscriptions_have_a_table_of_their_own() {
        let mut primary = fixture::primary("orders", "primary");
        fixture::change_survey(&mut primary, |facts| {
            facts.subscriptions = Some(vec![Subscription {
                datname: "app".into(),
                name: "orders_in".into(),
                enabled: true,
                slot_name: None,
                workers: Some(SubscriptionWorkers::default()),
                tables: None,
                errors: vec![("apply".into(), 3)],
                conflicts: Vec::new(),
            }]);
        });
        let told = table(&snapshot(vec![primary], Vec::new()), false, None);
        let expected = "\
CLUSTER  TARGET   SUBSCRIPTION   STATE      ERRORS
orders   primary  app/orders_in  no worker       3
";
        assert!(told.ends_with(expected), "{told}");
    }

    #[test]
    fn a_target_that_is_down_or_a_critical_breach_is_not_well() {
        let alert = |severity, phase| vec![fixture::alert("a", severity, phase, &[])];
        let well = |alerts| is_well(&snapshot(fixture::orders(), alerts));
        assert!(well(Vec::new()));
        assert!(well(alert(Severity::Warning, Phase::Firing)));
        assert!(well(alert(Severity::Critical, Phase::Resolved)));
        assert!(!well(alert(Severity::Critical, Phase::Pending)));
        assert!(!well(alert(Severity::Critical, Phase::Firing)));
        let mut targets = fixture::orders();
        fixture::fail(&mut targets[1], PollFailure::Refused);
        assert!(!is_well(&snapshot(targets, Vec::new())));
    }

    #[test]
    fn what_is_not_known_is_null_for_programs() {
        let mut replica = fixture::replica("orders", "replica-1");
        replica.lag = Some(fixture::unknown_lag(Evidence::NoPrimary));
        replica.stages = None;
        fixture::fail(&mut replica, PollFailure::Refused);
        let alert = fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[("slot", "a")]);
        let expected = json!({ "clusters": [{
            "name": "orders",
            "primary": null,
            "targets": [{
                "name": "replica-1", "up": false, "failure": { "kind": "refused", "reason": "connection refused" },
                "role": "replica", "version": "15.18 (Debian 15.18-1)", "flavor": "postgresql", "state": "down",
                "lsn": "0/2FFFF00", "timeline": 3, "lag_seconds": null, "lag_lower_seconds": 0.0,
                "lag_upper_seconds": null, "lag_certainty": "unknown", "lag_method": "no_primary", "lag_bytes": null,
                "cause": null, "diagnosis": null,
                "sample_age_ms": 10_480,
            }],
            "poolers": [],
            "alerts": [{
                "rule": "ReplicaLagging", "severity": "warning", "state": "firing", "target": "replica-1",
                "labels": { "slot": "a" }, "condition": "replay_lag_seconds > 5s", "reading": 6.5,
            }],
        }]});
        assert_eq!(json(&snapshot(vec![replica], vec![alert])), expected);
    }
}
