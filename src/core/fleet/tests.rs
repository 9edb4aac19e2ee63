//! Whole incidents, told event by event.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::*;
use crate::core::alert::Phase;
use crate::core::cause::Cause;
use crate::core::fixture::{identity, sender, slot, survey, wall};
use crate::core::ledger::{Entry, SendFailure};
use crate::core::observation::{
    Identity, Positions, PrimaryState, Receiver, ReplayPause, SenderClient, SenderSlot, SenderState, ServerAddress,
    ServerState, StandbyState, WalReceiver,
};
use crate::core::rule::preset;
use crate::core::signal::SIGNALS;
use crate::core::standby_settings::{Capacity, StandbySettings};
use crate::core::survey::{RecoverySettings, SurveyFacts};
use crate::core::time::ServerTime;
use crate::core::topology::links::Upstream;
use crate::core::topology::synchronous::SyncStandbys;
use crate::core::trend::Direction;
use crate::core::wal::Timeline;

/// The monitor's clock at second 0 of every story.
const START: MonoTime = MonoTime::from_nanos(1_000_000_000_000);

fn at(seconds: f64) -> MonoTime {
    START.plus_seconds(seconds)
}

fn wall_at(seconds: f64) -> SystemTime {
    wall() + Duration::from_secs_f64(seconds)
}

/// A fleet of one cluster, `orders`, with the preset's rules and two notifiers, and what they have been told.
struct Story {
    fleet: Fleet,
    second: f64,
    /// `notifier: phase rule target`, in the order told.
    told: Vec<String>,
    /// Notifiers that refuse what they are handed.
    refusing: Vec<&'static str>,
    /// What the primary says of its standbys.
    senders: Vec<WalSender>,
    /// Whether that is all there is to say.
    sees_senders: bool,
    /// A server of another cluster.
    stranger: Option<&'static str>,
    /// Servers with settings of their own.
    standby_settings: BTreeMap<&'static str, StandbySettings>,
}

fn spec(targets: &[&str]) -> FleetSpec {
    let cluster = ClusterSpec {
        name: Name::new("orders"),
        targets: targets.iter().map(|name| Name::new(name)).collect(),
        poolers: vec![Name::new("pgb")],
        redis: vec![Name::new("sessions")],
    };
    FleetSpec {
        clusters: vec![cluster],
        discoveries: Vec::new(),
        poll_interval: Duration::from_secs(1),
        stale_after: Duration::from_secs(5),
        survey_stale_after: Duration::from_secs(45),
        pooler_stale_after: Duration::from_secs(15),
        rules: Rule::parse_all(&preset(), &SIGNALS).expect("the preset is valid"),
        maintenance: Vec::new(),
        recipients: vec![Recipient::new("sns"), Recipient::new("log")],
        alerting: AlertingConfig::IMMEDIATE,
    }
}

impl Story {
    fn new() -> Self {
        Self::of(&["db-1", "db-2"])
    }

    fn of(targets: &[&str]) -> Self {
        let fleet = Fleet::new(spec(targets));
        Self {
            fleet,
            second: 0.0,
            told: Vec::new(),
            refusing: Vec::new(),
            senders: Vec::new(),
            sees_senders: false,
            stranger: None,
            standby_settings: BTreeMap::new(),
        }
    }

    fn apply(&mut self, event: Event) {
        let now = at(self.second);
        let mut notices = self.fleet.apply(event, now, wall_at(self.second));
        while !notices.is_empty() {
            let notice = notices.remove(0);
            let refused = self.refusing.contains(&notice.notifier.as_str());
            if !refused {
                for Entry { alert, .. } in &notice.alerts {
                    let target = alert.id.target.as_ref().map_or("-", Name::as_str);
                    let phase = alert.phase.as_str();
                    self.told.push(format!("{}: {phase} {} {target}", notice.notifier, alert.id.rule));
                }
            }
            let outcome = if refused { Err(SendFailure::Transient("no".to_owned())) } else { Ok(()) };
            notices.extend(self.fleet.apply(Event::Delivered(notice.ended(outcome)), now, wall_at(self.second)));
        }
    }

    /// One poll of a target, ended a moment ago.
    fn poll(&mut self, target: &str, outcome: Result<ServerState, PollFailure>) {
        let asked_at = at(self.second - 0.002);
        let outcome = outcome.map(|state| Positions {
            identity: Arc::new(Identity {
                address: address_of(target),
                system_identifier: if self.stranger == Some(target) { Some(9) } else { identity().system_identifier },
                standby_settings: self.standby_settings.get(target).cloned().unwrap_or(identity().standby_settings),
                ..identity()
            }),
            clock: ServerTime::from_unix_micros(((1e9 + self.second) * 1e6) as i64),
            senders: match state {
                ServerState::Primary(_) => self.senders.clone(),
                ServerState::Standby(_) | ServerState::Aurora(_) => Vec::new(),
            },
            sees_senders: self.sees_senders,
            state,
        });
        self.apply(Event::Polled(Observation {
            target: TargetId::new("orders", target),
            beat: self.second as u64,
            asked_at,
            answered_at: at(self.second - 0.001),
            outcome,
        }));
    }

    fn survey(&mut self, target: &str, facts: SurveyFacts) {
        let answered_at = at(self.second);
        let target = TargetId::new("orders", target);
        self.apply(Event::Surveyed(Box::new(Survey {
            target,
            asked_at: answered_at,
            answered_at,
            outcome: Ok(facts),
        })));
    }

    /// Lets seconds pass. In each, the servers answer what `servers` says at that second, then the engine ticks.
    fn run(&mut self, seconds: u32, servers: impl Fn(f64) -> [Result<ServerState, PollFailure>; 2]) {
        for _ in 0..seconds {
            self.second += 1.0;
            let [first, second] = servers(self.second);
            self.poll("db-1", first);
            self.poll("db-2", second);
            self.apply(Event::Tick);
        }
    }

    /// From now on this is watched.
    fn watch(&mut self, spec: FleetSpec) {
        self.apply(Event::Members(Box::new(spec)));
        self.apply(Event::Tick);
    }

    fn snapshot(&self) -> Snapshot {
        self.fleet.snapshot(at(self.second), wall_at(self.second))
    }

    fn target(&self, name: &str) -> TargetView {
        let snapshot = self.snapshot();
        TargetView::clone(snapshot.cluster("orders").and_then(|cluster| cluster.target(name)).expect("is watched"))
    }

    fn phases(&self) -> Vec<(String, Phase)> {
        let snapshot = self.snapshot();
        let cluster = snapshot.cluster("orders").expect("is watched");
        cluster.alerts.iter().map(|alert| (alert.id.rule.to_string(), alert.phase)).collect()
    }
}

/// Of `db-1`: 10.0.0.1, and so on.
fn address_of(target: &str) -> ServerAddress {
    let host = format!("10.0.0.{}", target.trim_start_matches("db-"));
    ServerAddress { configured: Some((host, 5432)), ..ServerAddress::default() }
}

fn primary(flush_lsn: u64) -> Result<ServerState, PollFailure> {
    let state = PrimaryState { flush_lsn: Lsn::new(flush_lsn), timeline: Timeline(3), checkpoint: None };
    Ok(ServerState::Primary(state))
}

/// A standby that has replayed all that it received, and whose receiver is gone unless told otherwise.
fn severed(lsn: u64) -> Result<ServerState, PollFailure> {
    Ok(ServerState::Standby(StandbyState {
        replay_lsn: Some(Lsn::new(lsn)),
        receive_lsn: Some(Lsn::new(lsn)),
        last_commit_replayed_at: None,
        control_timeline: Some(Timeline(3)),
        pause: ReplayPause::NotPaused,
        receiver: Receiver::Absent,
        wait: None,
    }))
}

fn streaming(lsn: u64) -> Result<ServerState, PollFailure> {
    let mut state = severed(lsn)?;
    if let ServerState::Standby(standby) = &mut state {
        standby.receiver = Receiver::Hidden;
    }
    Ok(state)
}

fn refused() -> Result<ServerState, PollFailure> {
    Err(PollFailure::Refused)
}

/// Where a primary that writes a kilobyte a second is.
fn written(second: f64) -> u64 {
    0x0300_0000 + 1024 * second as u64
}

#[test]
fn a_severed_standby_pends_then_fires_though_it_replayed_all_it_received_and_resolves_once() {
    let mut story = Story::new();
    story.run(10, |second| [primary(written(second)), streaming(written(second))]);
    assert_eq!(story.target("db-2").lag.and_then(|lag| lag.value), Some(0.0));
    assert_eq!(story.phases(), []);

    story.run(8, |second| [primary(written(second)), severed(written(10.0))]);
    let lag = story.target("db-2").lag.and_then(|lag| lag.value).expect("is known");
    assert!((6.5..=8.0).contains(&lag), "{lag}");
    let pending = [("ReplicaNotReceiving", Phase::Pending), ("ReplicaLagging", Phase::Pending)];
    assert_eq!(story.phases(), pending.map(|(rule, phase)| (rule.to_owned(), phase)));
    assert!(story.told.is_empty(), "{:?}", story.told);

    story.run(15, |second| [primary(written(second)), severed(written(10.0))]);
    assert_eq!(story.told, ["sns: firing ReplicaLagging db-2", "log: firing ReplicaLagging db-2"]);

    story.told.clear();
    story.run(10, |second| [primary(written(second)), streaming(written(second))]);
    assert_eq!(story.told, ["sns: resolved ReplicaLagging db-2", "log: resolved ReplicaLagging db-2"]);
}

#[test]
fn a_replica_that_answered_before_its_primary_is_measured_as_soon_as_that_one_answers() {
    let mut story = Story::new();
    story.second = 1.0;
    story.poll("db-2", streaming(written(0.0)));
    assert_eq!(story.target("db-2").lag.and_then(|lag| lag.value), None);
    story.poll("db-1", primary(written(0.0)));
    let view = story.target("db-2");
    assert_eq!(view.lag.and_then(|lag| lag.value), Some(0.0));
    assert_eq!(view.stages.and_then(|stages| stages.unreplayed), Some(WalBytes(0)));
}

#[test]
fn a_notifier_that_fails_is_told_later_and_the_other_is_not_told_twice() {
    let mut story = Story::new();
    story.refusing = vec!["sns"];
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    story.run(30, |second| [primary(written(second)), refused()]);
    let down = |told: &[String]| told.iter().filter(|told| told.contains("TargetDown")).cloned().collect::<Vec<_>>();
    assert_eq!(down(&story.told), ["log: firing TargetDown db-2"]);

    story.refusing.clear();
    story.run(60, |second| [primary(written(second)), refused()]);
    assert_eq!(down(&story.told), ["log: firing TargetDown db-2", "sns: firing TargetDown db-2"]);
}

#[test]
fn the_lag_of_a_silent_replica_grows_between_its_polls() {
    let mut story = Story::new();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    story.second += 1.0;
    story.poll("db-1", primary(written(6.0)));
    story.poll("db-2", refused());
    // From now on nobody asks it: it is backed off.
    for _ in 0..20 {
        story.second += 1.0;
        story.poll("db-1", primary(written(story.second)));
        story.apply(Event::Tick);
    }
    let lag = story.target("db-2").lag.expect("is told");
    let value = lag.value.expect("is known");
    assert!((19.0..=22.0).contains(&value), "{value}");
    assert_eq!((lag.lower, lag.method.to_string().as_str()), (0.0, "lsn@last_known"));
}

#[test]
fn a_replica_whose_answer_is_overdue_is_measured_before_any_poll_fails() {
    let mut story = Story::new();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    let lag_of = |story: &Story| {
        let lag = story.target("db-2").lag.expect("is known");
        (lag.method.to_string(), lag.lower, lag.upper)
    };
    let answered = lag_of(&story);
    // The primary goes on; nothing comes of the replica, neither an answer nor a failure.
    story.second += 1.0;
    story.poll("db-1", primary(written(story.second)));
    story.apply(Event::Tick);
    assert_eq!(lag_of(&story), answered, "no answer is overdue yet");
    for second in [1.5, 2.5] {
        story.second = 5.0 + second - 0.5;
        story.poll("db-1", primary(written(story.second)));
        story.second = 5.0 + second;
        story.apply(Event::Tick);
        let (method, lower, upper) = lag_of(&story);
        assert_eq!((method.as_str(), lower), ("lsn@last_known", 0.0));
        assert!((second..=second + 0.1).contains(&upper), "{upper}");
    }
    // It is noticed between ticks, too.
    story.run(1, |second| [primary(written(second)), streaming(written(second))]);
    assert!(!story.fleet.age(at(story.second + 1.2)), "nothing is overdue");
    assert!(story.fleet.age(at(story.second + 1.3)));
    assert!(!story.fleet.age(at(story.second + 1.3)), "it is known by now");
    assert_eq!(lag_of(&story).0, "primary_lost@last_known");
    // The row that the primary has of it is taken as soon as it is read.
    story.senders = vec![WalSender { replay_lsn: Some(Lsn::new(written(8.0))), ..sender("walreceiver", None) }];
    story.second += 2.0;
    story.poll("db-1", primary(written(8.0)));
    assert_eq!(lag_of(&story).0, "caught_up@upstream");
}

#[test]
fn a_late_answer_of_the_primary_is_used_at_once() {
    let mut story = Story::new();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    // The replica answers while the primary's answer, asked for before it, is on its way.
    story.second += 1.0;
    story.poll("db-2", streaming(written(5.0)));
    let lag = |story: &Story| story.target("db-2").lag.map(|lag| (lag.method.to_string(), lag.upper));
    let before = lag(&story);
    assert!(before.as_ref().is_some_and(|(method, _)| method == "caught_up"), "{before:?}");
    story.poll("db-1", primary(written(6.0)));
    assert!(lag(&story).is_some_and(|(method, _)| method == "lsn_plateau"), "{:?}", lag(&story));
}

#[test]
fn stages_say_how_much_wal_is_before_each_of_them() {
    let mut story = Story::new();
    story.senders = vec![sender("walreceiver", Some(SenderState::Streaming))];
    story.run(1, |_| [primary(0x0300_1000), streaming(0x0300_0400)]);
    let stages = story.target("db-2").stages.expect("a replica has stages");
    assert_eq!(stages.unsent, Some(WalBytes(0x1000)), "the sender's sent_lsn is 0/3000000");
    assert_eq!(stages.unreceived, Some(WalBytes(0xC00)));
    assert_eq!(stages.unflushed, Some(WalBytes(0xC00)));
    assert_eq!(stages.unreplayed, Some(WalBytes(0xC00)));
    let own = OwnLag { write_us: Some(1_000), flush_us: Some(2_000), replay_us: Some(120_000) };
    assert_eq!(stages.own_lag, own);
    assert_eq!(story.target("db-1").stages, None);
}

#[test]
fn of_another_clusters_replica_no_byte_lag_is_told() {
    let mut story = Story::new();
    story.stranger = Some("db-2");
    // Ahead of the primary, and behind it.
    for lsn in [0x0400_0000, 0x0200_0000] {
        story.run(2, |_| [primary(0x0300_1000), streaming(lsn)]);
        let stages = story.target("db-2").stages.expect("a replica has stages");
        assert_eq!((stages.unsent, stages.unreceived), (None, None));
        assert_eq!((stages.unflushed, stages.unreplayed), (None, None));
    }
}

#[test]
fn without_a_primary_no_byte_lag_is_told() {
    let mut story = Story::new();
    story.run(5, |_| [refused(), streaming(0x0300_0400)]);
    let stages = story.target("db-2").stages.expect("a replica has stages");
    assert_eq!(stages, Stages::default());
}

#[test]
fn two_standbys_under_one_name_share_nobodys_row() {
    let mut story = Story::new();
    let row = || sender("walreceiver", Some(SenderState::Streaming));
    story.senders = vec![row(), row()];
    story.run(1, |_| [primary(0x0300_1000), streaming(0x0300_0400)]);
    let stages = story.target("db-2").stages.expect("a replica has stages");
    assert_eq!((stages.own_lag, stages.unsent), (OwnLag::default(), None));
    assert_eq!(stages.unreplayed, Some(WalBytes(0xC00)), "this needs no row");
}

#[test]
fn a_slot_that_has_gone_resolves_and_one_on_a_silent_server_is_held() {
    let mut story = Story::new();
    let facts = |slots| SurveyFacts { slots, ..SurveyFacts::clone(&survey().facts) };
    let mut retaining = slot("debezium", false);
    retaining.retained_bytes = Some(2 << 30);
    let run = |story: &mut Story, seconds: u32, slots: Option<Vec<crate::core::survey::Slot>>| {
        for _ in 0..seconds {
            story.run(1, |second| [primary(written(second)), streaming(written(second))]);
            if let Some(slots) = slots.clone() {
                story.survey("db-1", facts(Some(slots)));
            }
        }
    };
    run(&mut story, 310, Some(vec![retaining]));
    assert_eq!(story.told, ["sns: firing InactiveSlotRetainsWal db-1", "log: firing InactiveSlotRetainsWal db-1"]);
    story.told.clear();

    // No survey any more: after a while nobody knows what became of it.
    run(&mut story, 120, None);
    assert_eq!(story.told, Vec::<String>::new());
    let snapshot = story.snapshot();
    let alerts = &snapshot.cluster("orders").expect("is watched").alerts;
    assert!(alerts.iter().any(|alert| alert.phase == Phase::Firing && alert.is_unknown));

    run(&mut story, 1, Some(Vec::new()));
    story.run(1, |second| [primary(written(second)), streaming(written(second))]);
    assert_eq!(story.told, ["sns: resolved InactiveSlotRetainsWal db-1", "log: resolved InactiveSlotRetainsWal db-1"]);
}

#[test]
fn a_survey_tells_of_connections_and_statements_and_counts_what_it_leaves_out() {
    let mut story = Story::new();
    story.run(1, |second| [primary(written(second)), streaming(written(second))]);
    let mut facts = SurveyFacts::clone(&survey().facts);
    facts.statement_counters = Some(Arc::new(crate::core::fixture::statements()));
    for n in 0..20 {
        facts.sessions.as_mut().expect("has sessions").total = 40 + 2 * n;
        story.survey("db-1", facts.clone());
        story.second += 15.0;
    }
    let view = story.target("db-1");
    // 78 of the 92 that may be used, and two more every 15 s.
    assert_eq!(view.connections_exhausted_in.map(f64::round), Some(105.0));
    assert_eq!(view.statements.as_deref(), facts.statement_counters.as_deref());
    assert_eq!(view.survey.map(|survey| survey.facts.statement_counters.is_none()), Some(true));
    assert_eq!(
        view.dropped.iter().collect::<Vec<_>>(),
        [("sessions", 20), ("statements", 60), ("slots", 0), ("wal_senders", 0)]
    );
    story.survey("db-1", SurveyFacts::clone(&survey().facts));
    let view = story.target("db-1");
    assert_eq!((view.statements, view.connections_exhausted_in.is_some()), (None, true));
}

#[test]
fn a_poll_shares_with_the_last_snapshot_all_that_it_did_not_change() {
    let mut story = Story::new();
    story.run(3, |second| [primary(written(second)), streaming(written(second))]);
    let before = story.snapshot();
    story.second += 1.0;
    story.poll("db-1", primary(written(story.second)));
    let after = story.snapshot();
    let target = |snapshot: &Snapshot, name| Arc::clone(snapshot.clusters[0].target(name).expect("is watched"));
    assert!(Arc::ptr_eq(&target(&before, "db-2"), &target(&after, "db-2")));
    assert!(!Arc::ptr_eq(&target(&before, "db-1"), &target(&after, "db-1")));
}

#[test]
fn what_is_not_watched_changes_nothing() {
    let mut story = Story::new();
    story.poll("stranger", primary(1));
    story.survey("stranger", SurveyFacts::clone(&survey().facts));
    let snapshot = story.snapshot();
    assert!(snapshot.clusters[0].targets.iter().all(|target| !target.tried()));
}

#[test]
fn a_severed_standby_says_why_and_where_it_is_going() {
    let mut story = Story::new();
    story.run(10, |second| [primary(written(second)), streaming(written(second))]);
    let view = story.target("db-2");
    assert_eq!(view.diagnosis, None);
    let trend = view.trend.expect("is known");
    assert_eq!((trend.replay_rate, trend.stalled), (Some(1024.0), Some(false)));
    assert_eq!(trend.direction, Some(Direction::Holding));
    let write_rate = story.target("db-1").trend.and_then(|trend| trend.write_rate);
    assert_eq!(write_rate, Some(1024.0));

    // It had 64 KiB before it when the stream broke, so that it is not merely the last bytes that are missing.
    let far = 0x0300_0000 + 65_536;
    story.run(8, |second| [primary(far + written(second)), severed(written(10.0))]);
    let view = story.target("db-2");
    let sentence = view.diagnosis_sentence().expect("is told");
    assert!(
        sentence.contains("behind and falling further: its WAL receiver is cut off from the upstream"),
        "{sentence}"
    );
    assert_eq!(view.trend.and_then(|trend| trend.stalled), Some(true));

    story.run(3, |second| [primary(far + written(second)), refused()]);
    let view = story.target("db-2");
    let cause = view.diagnosis.as_ref().and_then(|diagnosis| diagnosis.cause()).map(|told| told.cause);
    assert_eq!(cause, Some(Cause::ReplicaUnreachable));

    story.run(3, |second| [primary(far + written(second)), streaming(far + written(second))]);
    assert_eq!(story.target("db-2").diagnosis, None);
}

#[test]
fn a_pause_is_by_request_only_where_a_later_answer_of_the_primary_rules_out_its_settings() {
    let with_connections = |count: u64| StandbySettings {
        capacity: Capacity::new(|name| Some(if name == "max_connections" { count } else { 8 })),
        recovery_target: None,
    };
    let paused = |second: f64| {
        let mut state = streaming(written(second))?;
        if let ServerState::Standby(standby) = &mut state {
            standby.pause = ReplayPause::Paused;
            standby.replay_lsn = Some(Lsn::new(written(5.0)));
        }
        Ok(state)
    };
    let first = |story: &Story| {
        let found = story.target("db-2").diagnosis.expect("is paused");
        found.causes[0].cause
    };
    let paused_for = |story: &mut Story, seconds: u32, primary: &dyn Fn(f64) -> Result<ServerState, PollFailure>| {
        for _ in 0..seconds {
            story.run(1, |second| [primary(second), paused(second)]);
        }
    };
    let up = |second: f64| primary(written(second));

    let mut story = Story::new();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    paused_for(&mut story, 5, &up);
    assert_eq!(first(&story), Cause::ReplayPaused);
    // Once known, it stays known while the primary does not answer.
    paused_for(&mut story, 5, &|_| refused());
    assert_eq!(first(&story), Cause::ReplayPaused);

    // What the primary said before the pause says nothing of its settings now.
    let mut story = Story::new();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    paused_for(&mut story, 5, &|_| refused());
    assert_eq!(first(&story), Cause::Unknown);
    story.standby_settings.insert("db-1", with_connections(200));
    story.standby_settings.insert("db-2", with_connections(100));
    paused_for(&mut story, 1, &up);
    assert_eq!(first(&story), Cause::InsufficientSettings);
    // Nor is it healed by lowering them again, or hidden when the primary goes.
    story.standby_settings.insert("db-1", with_connections(100));
    paused_for(&mut story, 5, &up);
    assert_eq!(first(&story), Cause::InsufficientSettings);
    paused_for(&mut story, 5, &|_| refused());
    assert_eq!(first(&story), Cause::InsufficientSettings);

    // PostgreSQL 13 shuts down instead, and so does who resumes it.
    let mut story = Story::new();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    story.standby_settings.insert("db-1", with_connections(200));
    story.standby_settings.insert("db-2", with_connections(100));
    story.run(10, |second| [primary(written(second)), refused()]);
    assert_eq!(first(&story), Cause::InsufficientSettings);
}

#[test]
fn a_slot_that_its_primary_has_lost_is_why_a_standby_does_not_stream() {
    let recovery = RecoverySettings {
        slot_name: Some("db_2".to_owned()),
        restores: false,
        streams: Some(true),
        ..Default::default()
    };
    for (status, other, expect) in [
        (Some("lost"), false, Cause::SlotLost),
        (Some("reserved"), false, Cause::ReceiverCutOff),
        (None, true, Cause::SlotLost),
    ] {
        let mut story = Story::new();
        story.run(5, |second| [primary(written(second)), streaming(written(second))]);
        let mut slots = vec![slot(if other { "another" } else { "db_2" }, false)];
        slots[0].wal_status = status;
        let known = |slots| SurveyFacts { slots: Some(slots), ..SurveyFacts::default() };
        story.survey("db-1", known(slots));
        story.survey("db-2", SurveyFacts { recovery: Some(recovery.clone()), ..known(Vec::new()) });
        story.run(8, |second| [primary(written(second)), severed(written(5.0))]);
        let found = story.target("db-2").diagnosis.expect("is told");
        assert_eq!(found.causes[0].cause, expect, "{status:?}: {found:?}");
    }
}

#[test]
fn a_slot_that_another_standby_has_lost_is_why_a_cascading_one_does_not_stream() {
    let recovery = RecoverySettings {
        slot_name: Some("db_2".to_owned()),
        restores: false,
        streams: Some(true),
        ..Default::default()
    };
    let known = |slots| SurveyFacts { slots: Some(slots), ..SurveyFacts::default() };
    let with = |status| {
        let mut slot = slot("db_2", false);
        slot.wal_status = Some(status);
        known(vec![slot])
    };
    for (primary_has, standby_has, expect) in [
        (known(Vec::new()), with("lost"), Some("db-3")),
        (known(Vec::new()), with("reserved"), None),
        (known(Vec::new()), known(Vec::new()), Some("db-1")),
        (with("lost"), with("reserved"), Some("db-1")),
        (with("reserved"), with("lost"), None),
        (SurveyFacts::default(), with("lost"), None),
    ] {
        let mut story = Story::of(&["db-1", "db-2", "db-3"]);
        for second in 0..13 {
            let second = f64::from(second);
            if story.second == 5.0 {
                story.survey("db-1", primary_has.clone());
                story.survey("db-2", SurveyFacts { recovery: Some(recovery.clone()), ..known(Vec::new()) });
                story.survey("db-3", standby_has.clone());
            }
            story.poll("db-3", streaming(written(second)));
            let below = if second < 5.0 { streaming(written(second)) } else { severed(written(5.0)) };
            story.run(1, |second| [primary(written(second)), below.clone()]);
        }
        let found = story.target("db-2").diagnosis.expect("is told");
        let first = &found.causes[0];
        assert_eq!(first.cause == Cause::SlotLost, expect.is_some(), "{found:?}");
        assert!(expect.is_none_or(|on| first.why.contains(on)), "{expect:?}: {found:?}");
    }
}

/// A standby whose receiver streams from the server on `port` of this machine.
fn receiving(lsn: u64, port: u16, slot: Option<&str>) -> Result<ServerState, PollFailure> {
    let mut state = severed(lsn)?;
    if let ServerState::Standby(standby) = &mut state {
        standby.receiver = Receiver::Running(WalReceiver {
            status: "streaming".to_owned(),
            timeline: Some(Timeline(3)),
            written_lsn: None,
            flushed_lsn: None,
            latest_end_lsn: None,
            latest_end_at: None,
            last_msg_sent_at: None,
            last_msg_received_at: None,
            sender_host: Some("10.0.0.1".to_owned()),
            sender_port: Some(port),
            slot_name: slot.map(str::to_owned),
        });
    }
    Ok(state)
}

fn row(pid: i32, slot: Option<&str>) -> WalSender {
    let slot = slot.map(|name| SenderSlot { name: name.to_owned(), is_logical: false });
    let client = Arc::new(SenderClient { slot, ..SenderClient::default() });
    WalSender { pid, client: Some(client), ..sender("walreceiver", Some(SenderState::Streaming)) }
}

#[test]
fn two_standbys_under_one_name_have_rows_of_their_own_where_their_slots_differ() {
    let mut story = Story::new();
    let mut other = row(2, Some("other"));
    other.sent_lsn = Some(Lsn::new(0x0300_0800));
    story.senders = vec![row(1, Some("db_2")), other];
    let servers = |_| [primary(0x0300_1000), receiving(0x0300_0400, 5432, Some("db_2"))];
    story.run(1, servers);
    let unsent = |story: &Story| story.target("db-2").stages.expect("a replica has stages").unsent;
    assert_eq!(unsent(&story), Some(WalBytes(0x1000)));
    story.senders.reverse();
    story.senders[0].client.clone_from(&row(0, Some("db_2")).client);
    story.senders[1].client.clone_from(&row(0, Some("other")).client);
    story.run(1, servers);
    assert_eq!(unsent(&story), Some(WalBytes(0x800)), "the slot went over to the other connection");
}

#[test]
fn a_silent_standby_is_measured_by_its_own_connection_though_another_has_its_name() {
    let mut story = Story::new();
    story.sees_senders = true;
    let at_lsn = |pid, slot, second: f64| WalSender { replay_lsn: Some(Lsn::new(written(second))), ..row(pid, slot) };
    for _ in 0..30 {
        let second = story.second + 1.0;
        story.senders = vec![at_lsn(1, Some("db_2"), second), at_lsn(2, Some("other"), 0.0)];
        story.run(1, |second| {
            let silent = Err(PollFailure::Timeout { doing: "polling".to_owned(), limit_ms: 3000 });
            let answer = if second < 5.0 { receiving(written(second), 5432, Some("db_2")) } else { silent };
            [primary(written(second)), answer]
        });
    }
    let lag = story.target("db-2").lag.expect("is told");
    assert_eq!((lag.value, lag.method.to_string().as_str()), (Some(0.0), "caught_up@upstream"));
}

#[test]
fn who_is_missing_and_who_is_a_stranger_is_told_once_it_has_lasted() {
    let mut story = Story::new();
    story.sees_senders = true;
    story.senders = vec![row(1, Some("db_2"))];
    let servers = |second| [primary(written(second)), receiving(written(second), 5432, Some("db_2"))];
    story.run(400, servers);
    assert_eq!(story.told, Vec::<String>::new());
    assert_eq!(story.target("db-2").links.upstream, Some(Upstream::Target(Name::new("db-1"))));

    // The primary has no connection any more, of which the replica has not heard; and another one came.
    story.senders = vec![row(3, Some("stranger"))];
    story.run(119, servers);
    assert_eq!(story.told, Vec::<String>::new());
    story.run(2, servers);
    assert_eq!(story.told, ["sns: firing ReplicaMissing db-2", "log: firing ReplicaMissing db-2"]);
    story.run(180, servers);
    assert_eq!(story.told[2..], ["sns: firing UndeclaredStandby db-1", "log: firing UndeclaredStandby db-1"]);
    story.told.clear();
    story.senders = vec![row(4, Some("db_2"))];
    story.run(1, servers);
    story.told.sort();
    assert_eq!(
        story.told,
        ["log: resolved ReplicaMissing db-2", "log: resolved UndeclaredStandby db-1"]
            .into_iter()
            .chain(["sns: resolved ReplicaMissing db-2", "sns: resolved UndeclaredStandby db-1"])
            .collect::<Vec<_>>()
    );
}

/// A primary on a timeline of its own.
fn promoted(lsn: u64) -> Result<ServerState, PollFailure> {
    let state = PrimaryState { flush_lsn: Lsn::new(lsn), timeline: Timeline(4), checkpoint: None };
    Ok(ServerState::Primary(state))
}

#[test]
fn a_promotion_is_an_event_and_what_lags_since_is_held_for_a_minute() {
    let mut story = Story::new();
    story.run(10, |second| [primary(written(second)), severed(written(second))]);
    assert!(story.snapshot().clusters[0].events.is_empty() && story.fleet.take_news().is_empty());
    story.told.clear();

    // A switchover: the old primary stays behind where it was, and nobody makes it follow.
    let switched = |second| [severed(written(10.0)), promoted(written(second) + 64)];
    story.run(50, switched);
    let events = story.snapshot().clusters[0].events.clone();
    let told: Vec<_> = events.iter().map(|event| (event.target.as_str(), event.change, event.timeline)).collect();
    assert_eq!(told, [("db-1", Change::Demoted, None), ("db-2", Change::Promoted, Some(Timeline(4)))]);
    assert_eq!(story.fleet.take_news().len(), 2);
    assert!(story.fleet.take_news().is_empty());
    let lag = story.target("db-1").lag.and_then(|lag| lag.value).expect("is known");
    assert!(lag > 40.0, "{lag}");
    let lagging = |told: &[String]| told.iter().filter(|told| told.contains("Lag")).count();
    assert_eq!(lagging(&story.told), 0, "{:?}", story.told);
    assert!(story.told.contains(&"sns: firing PrimaryPromoted db-2".to_owned()), "{:?}", story.told);

    // It is still behind when the time is over.
    story.run(40, switched);
    assert!(story.told.contains(&"sns: firing ReplicaLagging db-1".to_owned()), "{:?}", story.told);
}

#[test]
fn wal_beyond_the_fork_is_not_the_primarys_however_far_a_replica_has_replayed_it() {
    let mut story = Story::new();
    story.run(10, |second| [primary(written(second)), severed(written(second))]);
    // The old primary had gone on, and came back as a standby of its own timeline.
    story.run(40, |second| [severed(written(500.0)), promoted(written(second) + 64)]);
    let old = story.target("db-1");
    let unreplayed = old.stages.and_then(|stages| stages.unreplayed).expect("is known");
    assert!(unreplayed.0 > 35 * 1024 && unreplayed.0 < 45 * 1024, "{unreplayed:?}");
    assert_eq!(old.diagnosis.map(|found| found.causes[0].cause), Some(Cause::TimelineDiverged));
}

#[test]
fn a_replica_that_lagged_before_the_promotion_is_told_of() {
    let mut story = Story::new();
    story.run(100, |second| [primary(written(second)), severed(written(second.min(10.0)))]);
    assert!(story.told.contains(&"sns: firing ReplicaLagging db-2".to_owned()), "{:?}", story.told);
    story.told.clear();
    // A new timeline at the same address: its replica's lag neither fires anew nor resolves.
    story.run(30, |second| [promoted(written(second)), severed(written(10.0))]);
    let phases = story.phases();
    assert!(phases.contains(&("ReplicaLagging".to_owned(), Phase::Firing)), "{phases:?}");
    assert!(!story.told.iter().any(|told| told.contains("resolved ReplicaLagging")), "{:?}", story.told);
}

#[test]
fn too_few_synchronous_standbys_are_told_while_commits_wait() {
    let mut story = Story::new();
    story.sees_senders = true;
    let facts = SurveyFacts { sync_standbys: SyncStandbys::parse("FIRST 1 (*)"), ..SurveyFacts::default() };
    let sync = |state: &str| vec![WalSender { sync_state: Some(Arc::from(state)), ..row(1, Some("db_2")) }];
    story.senders = sync("sync");
    let run = |story: &mut Story, seconds: u32| {
        for _ in 0..seconds {
            story.run(1, |second| [primary(written(second)), receiving(written(second), 5432, Some("db_2"))]);
            story.survey("db-1", facts.clone());
        }
    };
    run(&mut story, 60);
    assert_eq!(story.told, Vec::<String>::new());
    story.senders = sync("async");
    run(&mut story, 32);
    assert_eq!(story.told, ["sns: firing SyncStandbysMissing db-1", "log: firing SyncStandbysMissing db-1"]);
}

#[test]
fn a_server_under_two_names_is_one_primary_and_lags_behind_nobody() {
    let mut story = Story::of(&["db-1", "db-2", "db-3"]);
    let poll = |story: &mut Story, name: &str, started: i64, state: fn(u64) -> Result<ServerState, PollFailure>| {
        let outcome = state(written(story.second)).map(|state| Positions {
            identity: Arc::new(Identity {
                address: ServerAddress { port: Some(5432), ..ServerAddress::default() },
                started_at: ServerTime::from_unix_micros(started),
                ..identity()
            }),
            clock: ServerTime::from_unix_micros(((1e9 + story.second) * 1e6) as i64),
            senders: Vec::new(),
            sees_senders: false,
            state,
        });
        let (asked_at, answered_at) = (at(story.second - 0.002), at(story.second - 0.001));
        let target = TargetId::new("orders", name);
        story.apply(Event::Polled(Observation { target, beat: story.second as u64, asked_at, answered_at, outcome }));
    };
    for second in 0..60 {
        story.second = f64::from(second);
        for (name, started) in [("db-1", 1), ("db-2", 1)] {
            poll(&mut story, name, started, primary);
        }
        poll(&mut story, "db-3", 2, streaming);
        story.apply(Event::Tick);
    }
    assert_eq!(story.told, Vec::<String>::new());
    let twin = story.target("db-2");
    assert_eq!((twin.links.same_as.clone(), twin.lag, twin.diagnosis), (Some(Name::new("db-1")), None, None));
    assert_eq!(story.target("db-3").lag.and_then(|lag| lag.value), Some(0.0));
    let same = News::SameServer { target: Name::new("db-2"), other: Name::new("db-1") };
    assert_eq!(story.fleet.take_news(), [(Name::new("orders"), same)]);

    // Whichever of the names answers first.
    for order in [["db-1", "db-2", "db-3"], ["db-3", "db-2", "db-1"], ["db-2", "db-3", "db-1"]] {
        let mut story = Story::of(&["db-1", "db-2", "db-3"]);
        for name in order {
            poll(&mut story, name, 1, primary);
        }
        story.apply(Event::Tick);
        for name in order {
            assert_eq!(story.target(name).lag, None, "{name} of {order:?}");
        }
    }

    // A server of its own comes to the second name: then there are two.
    for _ in 0..10 {
        story.second += 1.0;
        poll(&mut story, "db-1", 1, primary);
        poll(&mut story, "db-2", 3, primary);
        poll(&mut story, "db-3", 2, streaming);
        story.apply(Event::Tick);
    }
    assert!(story.told.contains(&"log: firing SeveralPrimaries -".to_owned()), "{:?}", story.told);
}

#[test]
fn a_promotion_and_its_grace_outlive_a_restart_of_the_daemon() {
    let mut story = Story::new();
    story.run(10, |second| [primary(written(second)), severed(written(second))]);
    let switched = |second| [severed(written(10.0)), promoted(written(second) + 64)];
    story.run(5, switched);
    let text = serde_json::to_string(&story.fleet.saved_lags()).expect("has a JSON form");
    let before = story.snapshot().clusters[0].events.clone();
    assert_eq!(before.len(), 2);

    let mut again = Story::new();
    again.second = story.second;
    let lags = serde_json::from_str(&text).expect("is read back");
    again.fleet.restore(Saved { lags, ..Saved::default() }, at(story.second));
    assert_eq!(again.snapshot().clusters[0].events, before);
    assert_eq!(again.target("db-2").role_changes.map(|changes| changes.count), Some(1));
    again.run(40, switched);
    let lagging = again.told.iter().filter(|told| told.contains("Lag")).count();
    assert_eq!(lagging, 0, "{:?}", again.told);
}

#[test]
fn what_leaves_is_gone_what_stays_keeps_its_state_and_what_comes_is_unknown() {
    let mut story = Story::new();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    story.run(30, |second| [primary(written(second)), refused()]);
    assert_eq!(story.told, ["sns: firing TargetDown db-2", "log: firing TargetDown db-2"]);
    story.told.clear();

    let before = story.target("db-1");
    story.watch(spec(&["db-3", "db-1"]));
    assert_eq!(story.told, ["sns: resolved TargetDown db-2", "log: resolved TargetDown db-2"]);
    let snapshot = story.snapshot();
    let cluster = snapshot.cluster("orders").expect("is watched");
    assert!(cluster.target("db-2").is_none());
    let gone = cluster.alerts.iter().find(|alert| alert.id.rule.as_str() == "TargetDown").and_then(|alert| alert.gone);
    assert_eq!(gone, Some(crate::core::alert::Gone::Unwatched));
    let after = story.target("db-1");
    assert_eq!(after.answer.map(|answer| answer.answered_at), before.answer.map(|answer| answer.answered_at));
    let came = story.target("db-3");
    assert_eq!((came.tried(), came.since, came.lag), (false, Some(at(story.second)), None));

    // The history of the primary's WAL is there, so the newcomer's lag is known with its first answer.
    story.second += 1.0;
    story.poll("db-3", streaming(written(story.second - 20.0)));
    let lag = story.target("db-3").lag.and_then(|lag| lag.value).expect("is known");
    assert!((18.0..=21.0).contains(&lag), "{lag}");
    // What comes back is a newcomer as well.
    story.watch(spec(&["db-1", "db-2"]));
    assert!(!story.target("db-2").tried());
}

#[test]
fn a_cluster_that_leaves_takes_its_alerts_along_and_an_answer_that_comes_late_is_nobodys() {
    let mut story = Story::new();
    story.run(30, |second| [primary(written(second)), refused()]);
    story.told.clear();
    let billing = ClusterSpec {
        name: Name::new("billing"),
        targets: vec![Name::new("db-1")],
        poolers: Vec::new(),
        redis: Vec::new(),
    };
    let others = FleetSpec { clusters: vec![billing], ..spec(&[]) };
    story.watch(others.clone());
    assert_eq!(story.told, ["sns: resolved TargetDown db-2", "log: resolved TargetDown db-2"]);
    story.poll("db-1", primary(written(0.0)));
    let snapshot = story.snapshot();
    assert_eq!(snapshot.clusters.len(), 1);
    assert!(snapshot.cluster("billing").and_then(|cluster| cluster.target("db-1")).is_some_and(|it| !it.tried()));
    // Nothing at all may be watched, for a while.
    story.watch(FleetSpec { clusters: Vec::new(), ..others });
    assert_eq!(story.snapshot().clusters.len(), 0);
}

#[test]
fn other_rules_end_the_alerts_of_those_that_are_no_more_and_leave_the_others_alone() {
    let rules = |pairs: &[(&str, &str)]| {
        let configs: Vec<crate::core::rule::RuleConfig> = pairs
            .iter()
            .map(|(name, when)| crate::core::rule::RuleConfig {
                name: (*name).to_owned(),
                when: Some((*when).to_owned()),
                ..Default::default()
            })
            .collect();
        Rule::parse_all(&configs, &SIGNALS).expect("good rules")
    };
    let with = |pairs: &[(&str, &str)]| FleetSpec { rules: rules(pairs), ..spec(&["db-1", "db-2"]) };
    let mut story = Story::new();
    story.watch(with(&[("Down", "target_up == 0"), ("Behind", "replay_lag_bytes > 1MB")]));
    story.run(3, |second| [primary(written(second)), streaming(0x0200_0000)]);
    assert_eq!(story.told, ["sns: firing Behind db-2", "log: firing Behind db-2"]);
    story.told.clear();
    // Another threshold, and still beyond it.
    story.watch(with(&[("Behind", "replay_lag_bytes > 2MB"), ("Up", "target_up == 1")]));
    let up = ["sns: firing Up db-1", "sns: firing Up db-2", "log: firing Up db-1", "log: firing Up db-2"];
    assert_eq!(story.told, up);
    story.told.clear();
    // Not beyond this one.
    story.watch(with(&[("Behind", "replay_lag_bytes > 1GB"), ("Up", "target_up == 1")]));
    assert_eq!(story.told, ["sns: resolved Behind db-2", "log: resolved Behind db-2"]);
    story.told.clear();
    // The same name, and about something else.
    story.watch(with(&[("Up", "observation_age_seconds > 1h")]));
    let mut told = std::mem::take(&mut story.told);
    told.sort();
    let ended = ["log: resolved Up db-1", "log: resolved Up db-2", "sns: resolved Up db-1", "sns: resolved Up db-2"];
    assert_eq!(told, ended);
}

#[test]
fn a_new_notifier_hears_what_fires_and_the_others_not_again() {
    let mut story = Story::new();
    story.run(30, |second| [primary(written(second)), refused()]);
    story.told.clear();
    let recipients = vec![Recipient::new("pager"), Recipient::new("log")];
    story.watch(FleetSpec { recipients, ..spec(&["db-1", "db-2"]) });
    assert_eq!(story.told, ["pager: firing TargetDown db-2"]);
    story.told.clear();
    story.run(5, |second| [primary(written(second)), streaming(written(second))]);
    assert_eq!(story.told, ["pager: resolved TargetDown db-2", "log: resolved TargetDown db-2"]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Whatever comes and goes, each target keeps what is its own for as long as it stays.
    #[test]
    fn nobody_is_taken_for_another(
        steps in proptest::collection::vec(proptest::sample::subsequence(vec!["db-1", "db-2", "db-3", "db-4"], 0..=4), 1..8),
        turn in 0..4_usize,
    ) {
        let mut story = Story::of(&["db-1", "db-2"]);
        let mut answered: std::collections::BTreeMap<&str, MonoTime> = std::collections::BTreeMap::new();
        for (step, mut targets) in steps.into_iter().enumerate() {
            let turn = (turn + step) % targets.len().max(1);
            targets.rotate_left(turn);
            story.second += 1.0;
            story.watch(spec(&targets));
            answered.retain(|name, _| targets.contains(name));
            let snapshot = story.snapshot();
            let view = snapshot.cluster("orders").expect("is watched");
            let names: Vec<&str> = view.targets.iter().map(|target| target.id.target.as_str()).collect();
            proptest::prop_assert_eq!(&names, &targets);
            for target in &view.targets {
                let name = target.id.target.as_str();
                let known = target.answer.as_ref().map(|answer| answer.answered_at);
                proptest::prop_assert_eq!(known, answered.get(name).copied(), "{}", name);
            }
            for name in targets {
                let lsn = written(story.second);
                story.poll(name, if name == "db-1" { primary(lsn) } else { streaming(lsn) });
                story.survey(name, SurveyFacts::clone(&survey().facts));
                answered.insert(name, at(story.second - 0.001));
            }
            story.apply(Event::Tick);
        }
    }
}
