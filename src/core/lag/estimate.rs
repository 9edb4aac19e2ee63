//! Reading one replica's lag from all that is known. The order of the evidence is the module doc's table.

use super::primary::Primary;
use super::server::{Polled, Report, Row, Server, Standing, Stream};
use super::{Certainty, Evidence, LagEstimate, LagTracker, Method, mono_seconds};
use crate::core::time::MonoTime;
use crate::core::topology::Name;
use crate::core::wal::Lsn;

/// A sender's measurement older than this is not believed: standbys reply at least every 10 s
/// (`wal_receiver_status_interval`). Seconds.
const REPLY_MAX: f64 = 12.0;
/// A stream is alive while its last message is younger than this: an idle one is silent for half of `wal_sender_timeout`,
/// 30 s by default. Seconds.
const KEEPALIVE: f64 = 35.0;
/// A history younger than this holds one poll. Seconds.
const WARMING: f64 = 0.9;
/// Bounds that are this many poll intervals apart are as near as polling can bring them.
pub(super) const EXACT_INTERVALS: f64 = 2.0;
/// Bounds that are this part of the value apart are exact, too.
const EXACT_PART: f64 = 0.05;

/// Where a replica stands, and since when that is known. Instants are seconds of the monitor's clock.
#[derive(Clone, Copy)]
pub(super) struct Position {
    lsn: Lsn,
    /// The position was true at some instant between these two.
    asked: f64,
    answered: f64,
    pub(super) last_known: bool,
    pub(super) upstream: bool,
    old_timeline: bool,
}

impl Position {
    pub(super) fn at(lsn: Lsn, asked_at: MonoTime, answered_at: MonoTime) -> Self {
        Self {
            lsn,
            asked: mono_seconds(asked_at),
            answered: mono_seconds(answered_at),
            last_known: false,
            upstream: false,
            old_timeline: false,
        }
    }
}

/// An estimate before its certainty is judged and its bounds are put in order.
pub(super) struct Reading {
    pub(super) evidence: Evidence,
    pub(super) value: Option<f64>,
    pub(super) lower: f64,
    pub(super) upper: f64,
    /// The value may be too small and is hardly too large, if the bounds leave room for either.
    pub(super) is_floor: bool,
    /// The value supposes something that is not known: it is not exact, however near the bounds are.
    pub(super) is_guess: bool,
    pub(super) primary_lost: bool,
}

impl Reading {
    pub(super) const fn unknown(evidence: Evidence) -> Self {
        Self {
            evidence,
            value: None,
            lower: 0.0,
            upper: f64::INFINITY,
            is_floor: false,
            is_guess: false,
            primary_lost: false,
        }
    }
}

impl LagTracker {
    /// How far `target` lags: as of its last answer while no newer one is due, else by all that is known of it.
    /// `None` for the primary itself, and for a target that was never tried.
    pub fn estimate(&self, target: &Name, now: MonoTime) -> Option<LagEstimate> {
        if self.aurora.has(target) {
            return self.aurora_estimate(target, now);
        }
        let server = self.servers.get(target)?;
        let is_silent = server.silent_since.is_some() || self.is_overdue(target, now);
        let nowhere = Position { last_known: is_silent, ..Position::at(Lsn::new(0), now, now) };
        let is_primary = self.primary.as_ref().is_some_and(|primary| primary.name == *target);
        let Some(last_answer) = &server.last_answer else {
            return Some(self.told(Reading::unknown(Evidence::NoPosition), nowhere));
        };
        let Some(standing) = &last_answer.standing else {
            return (!is_primary).then(|| self.told(Reading::unknown(Evidence::OtherPrimary), nowhere));
        };
        let system_identifier = last_answer.identity.system_identifier;
        if self.primary.as_ref().is_some_and(|primary| primary.is_foreign(system_identifier)) {
            return Some(self.told(Reading::unknown(Evidence::ForeignCluster), nowhere));
        }
        let Some(replay_lsn) = (if is_silent { server.replay_lsn } else { standing.replay_lsn }) else {
            return Some(self.told(Reading::unknown(Evidence::NoPosition), nowhere));
        };
        let own = Report { replay_lsn, timeline: None, asked_at: standing.asked_at, answered_at: standing.answered_at };
        let row = if is_silent { self.row_since(server, own.answered_at) } else { None };
        let shown = server.shown.filter(|_| is_silent);
        let report = shown.into_iter().chain(row).fold(own, Report::and);
        let mut position = self.position(report, row, is_silent, now);
        // It streams from there, so it has followed to there.
        let timeline = server.timeline.max(report.timeline);
        let Some(primary) = &self.primary else {
            return Some(self.told(self.without_primary(standing, position), position));
        };
        // A receiver that may not be seen could be on any timeline: then the control file's word is not enough.
        let may_judge = !matches!(standing.receiver, Stream::Hidden);
        if may_judge
            && let Some(fork) = timeline.and_then(|timeline| primary.fork_after(timeline))
            && standing.receiver.timeline() != Some(primary.timeline)
        {
            position.lsn = position.lsn.min(fork);
            position.old_timeline = true;
        }
        Some(self.told(self.against_history(primary, server, standing, position), position))
    }

    /// Where a standby is known to stand: as of its own answer or of the row that an upstream has of it, while no newer
    /// one is due; else as of `now`.
    fn position(&self, report: Report, row: Option<Report>, is_silent: bool, now: MonoTime) -> Position {
        let is_recent = |row: Report| now.seconds_since(row.answered_at) <= self.overdue_after();
        let has_row = row.is_some_and(is_recent);
        if is_silent && !has_row {
            return Position { last_known: true, ..Position::at(report.replay_lsn, now, now) };
        }
        Position { upstream: has_row, ..Position::at(report.replay_lsn, report.asked_at, report.answered_at) }
    }

    fn against_history(&self, primary: &Primary, server: &Server, standing: &Standing, position: Position) -> Reading {
        let Position { lsn, asked, answered, last_known, .. } = position;
        let bracket = self.history.bracket(lsn);
        // A replica on a newer timeline has another primary, of which the history knows nothing.
        let is_beyond = standing.timeline() > Some(primary.timeline);
        let after = bracket.after.filter(|_| !is_beyond).map(mono_seconds);
        let by = bracket.by.filter(|_| !is_beyond).map(mono_seconds);
        let is_overdue = answered - mono_seconds(primary.answered_at) > self.overdue_after();
        let primary_lost = primary.is_lost || is_overdue || is_beyond;
        let uncertainty = primary.clock.uncertainty();

        let commit = standing
            .last_commit_replayed_at
            .filter(|_| !position.old_timeline && !is_beyond)
            .and_then(|stamp| primary.clock.instant(stamp))
            .filter(|&commit| commit <= by.unwrap_or(answered) + uncertainty);
        let since = |stamp: Option<f64>| stamp.map_or(f64::INFINITY, |stamp| answered - stamp + uncertainty);
        let since_after = after.map_or(f64::INFINITY, |after| answered - after);
        // Looked for only where it could tell more than the history does: it takes a walk over all senders.
        let is_needed = primary_lost || since_after > self.poll_interval;
        let message = is_needed.then(|| self.last_message(primary, server, standing, lsn)).flatten();
        let by_stamps = since(commit).min(since(message.map(|message| message.sent)));

        let Some(by) = by else {
            let stream_is_alive =
                message.is_some_and(|message| message.streaming && answered - message.sent < KEEPALIVE);
            let evidence = match () {
                () if !primary_lost => Evidence::CaughtUp,
                () if stream_is_alive => Evidence::Receiver,
                () if primary.down_since.is_some() && !is_beyond => Evidence::PrimaryDown,
                () => Evidence::PrimaryLost,
            };
            let upper = since_after.min(by_stamps);
            return Reading {
                evidence,
                value: Some(0.0),
                lower: 0.0,
                upper,
                is_floor: true,
                is_guess: primary_lost && upper > self.overdue_after(),
                primary_lost: false,
            };
        };
        let at_least = (asked - by).max(0.0);
        // A silent replica may have replayed more since, and its row is as old as its last reply, or older than what is
        // still in its socket: nothing is proven from below.
        let is_silent = last_known || position.upstream;
        let lower = if is_silent { 0.0 } else { at_least };
        let Some(after) = after else {
            return self.older_than_history(primary, server, standing, position, (at_least, lower), by_stamps);
        };

        let likely_by = bracket.likely_by.map_or(by, mono_seconds);
        let within = |fraction: f64| after + (likely_by - after).max(0.0) * fraction;
        let rested = bracket.fraction == 0.0;
        let by_lsn = if rested { Evidence::LsnPlateau } else { Evidence::Lsn };
        // The primary was lost or late in between, and wrote at no steady pace: the middle errs least.
        let is_known = !rested && self.is_narrow(by - after, answered - by);
        let from_lsn = within(if is_known { bracket.fraction } else { 0.5 });
        if last_known {
            return Reading {
                evidence: Evidence::Lsn,
                value: Some(answered - within(0.5)),
                lower,
                upper: since_after,
                is_floor: false,
                is_guess: true,
                primary_lost,
            };
        }
        if by > asked && asked - after > self.overdue_after() {
            // Nothing beyond its position was known yet when it was asked: the primary was lost, or late.
            let upper = since_after.min(since(commit));
            let (evidence, is_guess) = (by_lsn, upper > self.overdue_after());
            return Reading { evidence, value: Some(0.0), lower, upper, is_floor: true, is_guess, primary_lost };
        }
        let (mut evidence, mut went_beyond, upper) = match commit.filter(|&commit| after < commit) {
            Some(commit) => (Evidence::LsnAndTimestamp, commit.min(by), since_after.min(since(Some(commit)))),
            None => (by_lsn, from_lsn, since_after),
        };
        // What is first heard of after an outage was hardly written before it, though that cannot be ruled out.
        if let Some(down_until) = primary.down_until.map(mono_seconds)
            && went_beyond < down_until
            && down_until < by
        {
            (evidence, went_beyond) = (by_lsn, f64::midpoint(down_until, by));
        }
        let lag = (f64::midpoint(asked, answered) - went_beyond).clamp(lower, upper.max(lower));
        // As near as one poll and the ways of both servers can bring it.
        let near = self.overdue_after() + primary.clock.round_trip() + (answered - asked);
        let is_guess = is_silent || (lag - lower).max(upper - lag) > near.max(EXACT_PART * lag);
        Reading { evidence, value: Some(lag), lower, upper, is_floor: false, is_guess, primary_lost }
    }

    /// The history begins after the primary went beyond the position.
    fn older_than_history(
        &self,
        primary: &Primary,
        server: &Server,
        standing: &Standing,
        position: Position,
        (at_least, lower): (f64, f64),
        upper: f64,
    ) -> Reading {
        let (evidence, value) = if let Some(measured) = self
            .measured_by_sender(primary, server, standing, position)
            .filter(|&measured| lower <= measured && measured <= upper)
        {
            (Evidence::WalSender, Some(measured))
        } else if position.answered - mono_seconds(primary.first_answered_at) < WARMING {
            (Evidence::Warming, None)
        } else if upper.is_finite() {
            (Evidence::Timestamp, Some((upper - primary.clock.uncertainty()).max(at_least)))
        } else {
            (Evidence::LowerBound, Some(at_least))
        };
        let primary_lost = primary.is_lost && matches!(evidence, Evidence::Timestamp | Evidence::LowerBound);
        let is_silent = position.last_known || position.upstream;
        Reading {
            evidence,
            value,
            lower,
            upper,
            is_floor: !is_silent && (primary_lost || upper.is_infinite()),
            is_guess: is_silent,
            primary_lost,
        }
    }

    /// The primary's own measurement of exactly this position, with its age added: both by the replica's clock.
    fn measured_by_sender(
        &self,
        primary: &Primary,
        server: &Server,
        standing: &Standing,
        position: Position,
    ) -> Option<f64> {
        if position.last_known || position.upstream || position.old_timeline {
            return None;
        }
        let upstream = self.servers.get(&primary.name).filter(|upstream| {
            let polled = upstream.senders.polled.map(|polled| mono_seconds(polled.answered_at));
            polled.is_some_and(|polled| position.answered - polled <= self.overdue_after())
        })?;
        let row = self.only_row(&primary.name, upstream, server)?;
        if !row.streaming || row.replay_lsn != Some(position.lsn) {
            return None;
        }
        let age = standing.clock.unix_seconds() - row.reply_time?.unix_seconds();
        let lag = row.replay_lag.filter(|lag| *lag >= 0.0)?;
        (age < REPLY_MAX).then_some(lag + age.max(0.0))
    }

    /// No primary has answered since the start: the replica alone must do.
    fn without_primary(&self, standing: &Standing, position: Position) -> Reading {
        // Until the primary has had two beats to answer, silence about it means nothing.
        if self.first_beat.is_none_or(|first_beat| self.beat <= first_beat.saturating_add(1)) {
            return Reading::unknown(Evidence::Warming);
        }
        let clock = standing.clock.unix_seconds() + (position.answered - mono_seconds(standing.answered_at));
        if let Stream::Running { streaming: true, last_msg_sent_at: Some(sent), last_msg_received_at, .. } =
            standing.receiver
            && standing.received().is_some_and(|received| position.lsn >= received)
        {
            // By two clocks; the time since it was received is by one, and no message arrives before it is sent.
            let received = last_msg_received_at.unwrap_or(sent);
            let age = clock - sent.min(received).unix_seconds();
            if age < KEEPALIVE {
                return Reading {
                    evidence: Evidence::ReceiverOnly,
                    value: Some(0.0),
                    lower: 0.0,
                    upper: age,
                    is_floor: true,
                    is_guess: false,
                    primary_lost: false,
                };
            }
        }
        let Some(commit) = standing.last_commit_replayed_at else {
            return Reading::unknown(Evidence::NoPrimary);
        };
        let age = (clock - commit.unix_seconds()).max(0.0);
        Reading {
            evidence: Evidence::TimestampOnly,
            value: Some(age),
            lower: 0.0,
            upper: age,
            is_floor: false,
            is_guess: false,
            primary_lost: false,
        }
    }

    pub(super) fn told(&self, reading: Reading, position: Position) -> LagEstimate {
        let lower = reading.lower.max(0.0);
        let upper = reading.upper.max(lower);
        let value = reading.value.map(|value| value.clamp(lower, upper));
        let is_silent = position.last_known || position.upstream;
        let certainty = match value {
            None => Certainty::Unknown,
            Some(value) if !reading.is_guess && self.is_narrow(upper - lower, value) => Certainty::Exact,
            Some(_) if reading.is_floor => Certainty::AtLeast,
            // The bound that is clearly nearer says in which direction the value may be wrong.
            Some(value) if !is_silent && 2.0 * (value - lower) < upper - value => Certainty::AtLeast,
            Some(_) => Certainty::AtMost,
        };
        let method = Method {
            evidence: reading.evidence,
            last_known: position.last_known,
            upstream: position.upstream,
            old_timeline: position.old_timeline,
            primary_lost: reading.primary_lost,
        };
        LagEstimate { value, lower, upper, certainty, method }
    }

    /// Whether bounds that are so many seconds apart are as near as can be, of a lag of so many seconds.
    fn is_narrow(&self, width: f64, lag: f64) -> bool {
        width <= (EXACT_INTERVALS * self.poll_interval).max(EXACT_PART * lag)
    }

    /// What the last message of the primary's own stream proves about `lsn`: when it was sent, the primary had nothing
    /// beyond. `None` when it proves nothing.
    fn last_message(&self, primary: &Primary, server: &Server, standing: &Standing, lsn: Lsn) -> Option<Message> {
        let Stream::Running {
            streaming,
            timeline: Some(timeline),
            latest_end_lsn: Some(latest_end_lsn),
            last_msg_sent_at: Some(sent_at),
            ..
        } = standing.receiver
        else {
            return None;
        };
        if latest_end_lsn > lsn || timeline != primary.timeline || !self.streams_from(primary, server) {
            return None;
        }
        let sent = primary.clock.instant(sent_at)?;
        let now = mono_seconds(standing.answered_at) + primary.clock.uncertainty();
        (sent <= now).then_some(Message { sent, streaming })
    }

    /// Whether `server` streams from the primary itself, and not through another standby whose clock would count.
    fn streams_from(&self, primary: &Primary, server: &Server) -> bool {
        if let Some(sender) = &server.sender {
            let upstream = self.servers.get(&sender.upstream).filter(|_| sender.upstream == primary.name);
            return upstream.is_some_and(|upstream| upstream.senders.of_pid(sender.pid).is_some());
        }
        let Some(name) = server.application_name() else { return false };
        let standbys = self.standbys_named(name);
        let rows_of = |upstream: &Server| upstream.senders.named(name).count();
        let rows: usize = self.servers.get(&primary.name).map_or(0, rows_of);
        rows >= 1
            && rows == standbys
            && self.servers.iter().all(|(other, upstream)| *other == primary.name || rows_of(upstream) == 0)
    }

    /// What the rows that upstreams have of a server show, as far as they are newer than its own last answer.
    fn row_since(&self, server: &Server, own_answer: MonoTime) -> Option<Report> {
        let rows = self.servers.keys().filter_map(|upstream| self.report_of_row(upstream, server));
        rows.filter(|row| row.answered_at > own_answer).reduce(Report::and)
    }

    /// What the row of `server` at `upstream` shows. `None` when there is none that can only be its own.
    pub(super) fn report_of_row(&self, upstream: &Name, server: &Server) -> Option<Report> {
        let of_upstream = self.servers.get(upstream)?;
        let polled = of_upstream.senders.polled?;
        let replay_lsn = self.only_row(upstream, of_upstream, server)?.replay_lsn?;
        let Polled { asked_at, answered_at } = polled;
        Some(Report { replay_lsn, timeline: of_upstream.timeline, asked_at, answered_at })
    }

    /// The one row that can only be `server`'s.
    fn only_row<'a>(&'a self, upstream_name: &Name, upstream: &'a Server, server: &'a Server) -> Option<&'a Row> {
        if let Some(sender) = &server.sender {
            return upstream.senders.of_pid(sender.pid).filter(|_| sender.upstream == *upstream_name);
        }
        let name = server.application_name()?;
        if self.shared_names.contains(name) || self.standbys_named(name) != 1 {
            return None;
        }
        let mut rows = upstream.senders.named(name);
        rows.next().filter(|_| rows.next().is_none())
    }

    fn standbys_named(&self, name: &str) -> usize {
        self.servers
            .values()
            .filter(|server| server.standing().is_some() && server.application_name() == Some(name))
            .count()
    }
}

/// The last message of a stream from the primary.
#[derive(Clone, Copy)]
struct Message {
    /// Seconds of the monitor's clock.
    sent: f64,
    streaming: bool,
}
