//! Puts together what the cause of a replica's lag is decided from: its own answer, its past, its upstream, the primary.

use std::sync::Arc;

use super::Cluster;
use crate::core::cause::{
    self, Archive, Backlog, Diagnosis, Facts, Lagging, PausedBy, Receiving, Silence, SlotFate, SlotTrouble, Timelines,
};
use crate::core::observation::{Positions, Receiver, ReplayPause, StandbyState};
use crate::core::snapshot::TargetView;
use crate::core::standby_settings::{Capacity, Shortfall, StandbySettings};
use crate::core::survey::Slot;
use crate::core::time::{MonoTime, ServerTime};
use crate::core::topology::Role;
use crate::core::wal::{Lsn, Timeline};

/// A server seen this soon after its start is taken to be starting until it has caught up. Seconds.
const STARTING: f64 = 300.0;
/// A receiver that is away for less is merely connecting anew, and WAL that is away for less is on its way. Seconds.
const INTERRUPTION: f64 = 3.0;
/// Receiving begins at the start of a WAL segment, whose size is a multiple of this. Bytes.
const LEAST_SEGMENT: u64 = 1 << 20;

/// What must be remembered of a replica, for its present answer does not say it.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The server process that this is about.
    started_at: Option<ServerTime>,
    has_streamed: bool,
    /// It started a short while ago and has not caught up since.
    is_starting: bool,
    received: Option<Lsn>,
    /// Since when nothing comes: no receiver runs, or there is more and it stays away.
    nothing_since: Option<MonoTime>,
    /// The highest that its primary's settings have been since it started. Lowering them again does not heal a replica that
    /// has met the higher ones.
    primary_capacity: Capacity,
    /// Since when a pause of replay is seen.
    paused_since: Option<MonoTime>,
    /// An answer of the primary that was asked for later than that has ruled out that its settings are the reason.
    pause_is_requested: bool,
}

impl Past {
    /// Takes the next answer.
    pub(super) fn observe(
        &mut self,
        positions: &Positions,
        standby: &StandbyState,
        unreceived: Option<u64>,
        lagging: Lagging,
        primary: Option<PrimaryCapacity>,
        now: MonoTime,
    ) {
        let started_at = positions.identity.started_at;
        if self.started_at != Some(started_at) {
            let is_starting = positions.clock.seconds_since(started_at) <= STARTING;
            *self = Self { started_at: Some(started_at), is_starting, ..Self::default() };
        }
        self.is_starting &= lagging != Lagging::No;
        let received = standby.received();
        self.has_streamed |= is_streaming(standby) == Some(true) || has_received(standby);
        let comes = match is_streaming(standby) {
            Some(false) => false,
            Some(true) | None => received != self.received || unreceived.is_none_or(|bytes| bytes == 0),
        };
        self.observe_pause(standby.pause, &positions.identity.standby_settings, primary, now);
        self.received = received;
        self.nothing_since = if comes { None } else { self.nothing_since.or(Some(now)) };
    }
}

impl Past {
    fn observe_pause(
        &mut self,
        pause: ReplayPause,
        own: &StandbySettings,
        primary: Option<PrimaryCapacity>,
        now: MonoTime,
    ) {
        if let Some(primary) = primary {
            self.primary_capacity = self.primary_capacity.max(primary.capacity);
        }
        if pause == ReplayPause::NotPaused {
            (self.paused_since, self.pause_is_requested) = (None, false);
            return;
        }
        let since = *self.paused_since.get_or_insert(now);
        self.pause_is_requested |= own.capacity.is_known()
            && primary.is_some_and(|primary| primary.asked_at > since && primary.capacity.is_known());
    }

    /// What is lower on the replica than it has been on its primary, or is there now: a replica that is down does not answer
    /// after its primary has.
    fn shortfalls(&self, own: &StandbySettings, primary: Option<PrimaryCapacity>) -> Vec<Shortfall> {
        let now = primary.map_or_else(Capacity::default, |primary| primary.capacity);
        own.capacity.shortfalls(self.primary_capacity.max(now))
    }

    fn paused_by<'a>(&self, own: &'a StandbySettings, shortfalls: &[Shortfall]) -> PausedBy<'a> {
        match &own.recovery_target {
            _ if !shortfalls.is_empty() => PausedBy::Settings,
            Some(target) => PausedBy::Target(target),
            None if self.pause_is_requested => PausedBy::Request,
            None => PausedBy::NotKnown,
        }
    }
}

/// What a primary's last answer says of its settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrimaryCapacity {
    asked_at: MonoTime,
    capacity: Capacity,
}

/// `None` when it may not be seen.
fn is_streaming(standby: &StandbyState) -> Option<bool> {
    match &standby.receiver {
        Receiver::Absent | Receiver::Connecting => Some(false),
        Receiver::Hidden => None,
        Receiver::Running(receiver) => Some(receiver.status == "streaming"),
    }
}

/// Whether WAL was ever streamed in this life of the server. A stream that is merely asked for sets the position to the
/// start of the segment that is replayed.
fn has_received(standby: &StandbyState) -> bool {
    standby
        .receive_lsn
        .is_some_and(|received| !received.as_u64().is_multiple_of(LEAST_SEGMENT) || Some(received) > standby.replay_lsn)
}

impl Cluster {
    /// What is wrong with a replica. `None` on a primary and when nothing is.
    pub(super) fn diagnosis(&self, position: usize, now: MonoTime) -> Option<Arc<Diagnosis>> {
        let target = &self.view.targets[position];
        if target.last_role() == Some(Role::Primary) && target.failing.is_none() || target.answer.is_none() {
            return None;
        }
        let lagging = self.lagging(target);
        if lagging == Lagging::No && target.failing.is_some() {
            return None;
        }
        let positions = &target.answer.as_ref()?.positions;
        let standby = positions.standby()?;
        let mut facts = Facts { lagging, ..Facts::well() };
        facts.failure = target.failing.as_ref().map(|failing| &failing.failure);
        facts.primary_is_silent = self.silence(now);
        facts.timelines = self.timelines(target, standby);
        facts.reads_all_stats = positions.identity.reads_all_stats;
        let past = &self.pasts[position];
        let own_settings = &positions.identity.standby_settings;
        facts.shortfalls = past.shortfalls(own_settings, self.primary_capacity());
        if facts.failure.is_some() {
            facts.receiving = Receiving::Unknown;
            return cause::diagnose(&facts).map(Arc::new);
        }
        facts.receiving = receiving(standby, past, now);
        facts.archive = archive(target, standby, now);
        if facts.receiving.is_without_stream() {
            facts.slot = self.slot_trouble(target, standby, now);
        }
        facts.pause = standby.pause;
        facts.paused_by = past.paused_by(own_settings, &facts.shortfalls);
        facts.wait = standby.wait.as_deref();
        facts.clock = positions.clock;
        facts.apply_delay = target.apply_delay();
        facts.starting_since =
            past.is_starting.then(|| positions.clock.seconds_since(positions.identity.started_at).max(0.0));
        facts.trend = target.trend.unwrap_or_default();
        let primary = self.view.primary_target().filter(|_| facts.primary_is_silent.is_none());
        facts.write_rate = primary.and_then(|primary| primary.trend?.write_rate);
        facts.flush_after_write = flush_after_write(target);
        facts.backlog = self.backlog(target, standby, primary.is_some());
        // Those of the upstream are told only where they are what the replica waits for.
        let upstream = if lagging == Lagging::No { None } else { self.upstream_of(target) };
        facts.upstream = upstream
            .filter(|upstream| upstream.last_role() == Some(Role::Replica))
            .and_then(|upstream| Some((&upstream.id.target, upstream.diagnosis.as_ref()?.cause()?)));
        cause::diagnose(&facts).map(Arc::new)
    }

    /// Of the primary that answers us.
    pub(super) fn primary_capacity(&self) -> Option<PrimaryCapacity> {
        let primary = self.view.primary_target().filter(|primary| primary.is_up())?;
        let answer = primary.answer.as_ref()?;
        let capacity = answer.positions.identity.standby_settings.capacity;
        Some(PrimaryCapacity { asked_at: answer.asked_at, capacity })
    }

    pub(super) fn lagging(&self, target: &TargetView) -> Lagging {
        Lagging::of(target.lag.as_ref(), self.poll_interval)
    }

    /// WAL that a replica's upstream has and the replica has not received, in bytes. `None` where it is not known.
    pub(super) fn unreceived(&self, target: &TargetView, standby: &StandbyState) -> Option<u64> {
        // Most of the time nothing is missing, and nobody need be looked for.
        if target.stages?.unflushed?.0 == 0 {
            return Some(0);
        }
        let upstream = self.upstream_of(target);
        match upstream.and_then(|upstream| upstream.answer.as_ref()?.positions.standby()) {
            Some(above) => Some(above.received()?.bytes_ahead_of(standby.received()?).0),
            None => target.stages?.unflushed.map(|bytes| bytes.0),
        }
    }

    fn silence(&self, now: MonoTime) -> Option<Silence<'_>> {
        if self.view.hears_primary(now) {
            return None;
        }
        let primary = self.view.primary_target();
        Some(Silence {
            name: primary.map(|primary| &primary.id.target),
            failure: primary.and_then(|primary| primary.failing.as_ref()).map(|failing| &failing.failure),
        })
    }

    fn timelines(&self, target: &TargetView, standby: &StandbyState) -> Timelines {
        let primary: Option<Timeline> = self.view.primary_target().and_then(|primary| primary.timeline());
        let (Some(own), Some(primary)) = (target.timeline(), primary) else { return Timelines::Same };
        // A receiver that may not be seen could be on any timeline: then the control file's word is not enough.
        if own == primary || (own < primary && standby.receiver == Receiver::Hidden) {
            return Timelines::Same;
        }
        if own > primary {
            return Timelines::Ahead { own, primary };
        }
        match (self.lag.fork_after(Some(own)), standby.replay_lsn) {
            (Some(fork), Some(replayed)) if replayed > fork => Timelines::Diverged { own, primary, replayed, fork },
            _ => Timelines::Behind { own, primary },
        }
    }

    fn backlog(&self, target: &TargetView, standby: &StandbyState, hears_primary: bool) -> Backlog {
        let unreceived = target.stages.and_then(|stages| stages.unflushed).filter(|_| hears_primary);
        let unreplayed = standby.received().zip(standby.replay_lsn);
        Backlog {
            unreceived: unreceived.map_or(0, |bytes| bytes.0),
            unreplayed: unreplayed.map_or(0, |(received, replayed)| received.bytes_ahead_of(replayed).0),
        }
    }

    /// What is wrong with the slot of a replica: on its upstream, which while it does not stream is taken to be the primary,
    /// or the one other target that has the slot.
    fn slot_trouble<'a>(
        &'a self,
        target: &'a TargetView,
        standby: &'a StandbyState,
        now: MonoTime,
    ) -> Option<SlotTrouble<'a>> {
        let configured = target.fresh_survey(now).and_then(|survey| survey.recovery.as_ref()?.slot_name.as_deref());
        let used = standby.receiver.running().and_then(|receiver| receiver.slot_name.as_deref());
        let name = used.or(configured)?;
        let of_name = |view: &'a TargetView| -> Option<Option<&'a Slot>> {
            let slots = view.fresh_survey(now)?.slots.as_ref()?;
            Some(slots.iter().find(|slot| slot.name == name && slot.slot_type == "physical"))
        };
        let others = || self.view.targets.iter().filter(|other| other.id != target.id);
        let known = self.upstream_of(target);
        let mut upstream = known.or(self.view.primary_target())?;
        let mut slot = of_name(upstream)?;
        if known.is_none() && slot.is_none() {
            let mut holders =
                others().filter(|other| other.is_up()).filter_map(|other| Some((other, of_name(other)??)));
            if let (Some((holder, held)), None) = (holders.next(), holders.next()) {
                (upstream, slot) = (holder, Some(held));
            }
        }
        let fate = match slot {
            Some(slot) if slot.wal_status == Some("lost") => SlotFate::Lost,
            Some(_) => return None,
            // It may follow another server, which has the slot, or of which that is not known.
            None => others().all(|other| matches!(of_name(other), Some(None))).then_some(SlotFate::Gone)?,
        };
        Some(SlotTrouble { name, on: &upstream.id.target, fate })
    }
}

/// By PostgreSQL's own measurements, which its upstream has.
fn flush_after_write(target: &TargetView) -> Option<f64> {
    let own_lag = target.stages?.own_lag;
    let (write, flush) = (own_lag.write_us?, own_lag.flush_us?);
    let after = flush.saturating_sub(write);
    (after > write).then_some(after as f64 / 1e6)
}

fn receiving(standby: &StandbyState, past: &Past, now: MonoTime) -> Receiving {
    let is_streaming = is_streaming(standby);
    let is_long = past.nothing_since.is_some_and(|since| now.seconds_since(since) >= INTERRUPTION);
    match is_streaming {
        Some(false) if !past.has_streamed => Receiving::Never,
        Some(false) if is_long && standby.receiver == Receiver::Connecting => Receiving::Connecting,
        Some(false) if is_long => Receiving::CutOff,
        Some(true) | None if is_long => Receiving::Silent,
        _ => Receiving::Streaming,
    }
}

/// Replay that goes beyond what was ever received is fed by an archive.
fn archive(target: &TargetView, standby: &StandbyState, now: MonoTime) -> Archive {
    if is_streaming(standby) != Some(false) {
        return Archive::None;
    }
    let restores =
        target.fresh_survey(now).and_then(|survey| survey.recovery.as_ref()).is_some_and(|settings| settings.restores);
    let moves = target.trend.and_then(|trend| trend.replay_rate).is_some_and(|rate| rate > 0.0);
    let is_beyond = standby.replay_lsn > standby.receive_lsn;
    match () {
        () if moves && is_beyond && standby.pause == ReplayPause::NotPaused => Archive::Replaying,
        () if !restores => Archive::None,
        () => match target.is_fed_by_archive() {
            Some(true) => Archive::Only,
            Some(false) => Archive::None,
            None => Archive::Unstreamed,
        },
    }
}
