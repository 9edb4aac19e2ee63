//! What each notifier has been told, against what is true: the difference is due.
//!
//! The ledger is level-triggered. There is no queue to lose or to replay: a full channel, a failed send, an SNS that is
//! away for an hour are all "not told yet", and whatever is still true then is told then. Hence:
//!
//! - Told once when nothing fails; at least once when something does.
//! - An attempt that fails is made again, later and later, and never given up. A new fact (it resolved, it fires anew)
//!   is attempted at once.
//! - "Resolved" goes only to those who heard "firing", or may have heard it: after an attempt of which no answer came, a
//!   "resolved" too many is better than an incident that stays open. An alert that resolves before anyone was told is never told.
//! - One attempt at a time for each notifier and alert, so that "resolved" never overtakes "firing".
//! - An alert that fires anew while its "resolved" is still undelivered is told as firing, with its new beginning: someone
//!   who heard the first and saw it pass must hear of the second. The stale "resolved" is dropped, for it is no longer true.
//!
//! [`Told`] is what must outlive a restart.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::alert::{AlertId, AlertView, Phase};
use super::cause::Cause;
use super::time::MonoTime;
use super::topology::{Name, Role};

/// How many notices one notifier is handed before it has answered. Its channel must hold as many.
pub const IN_FLIGHT: usize = 32;

/// A notice handed out this long ago, and not answered, is taken for lost. Well beyond [`IN_FLIGHT`] slow attempts.
const LOST_AFTER: Duration = Duration::from_secs(180);

/// Something that a notifier must be told: handed to its worker, which makes one attempt and reports back. It tells of
/// the alerts of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub notifier: Name,
    pub group: Group,
    pub purpose: Purpose,
    /// The one to act on first, first: firing before resolved, the severest and oldest first. Never empty.
    pub alerts: Vec<Entry>,
    /// The same for every attempt, and on every daemon that watches the same thing. Of a notice with one alert: the alert's own.
    pub dedup_key: String,
    /// 1 for the first.
    pub attempt: u32,
}

/// What the alerts of one notice have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Nothing: they are of several groups.
    All,
    Cluster(Name),
    /// It is about one alert alone, and so are all others of this group.
    Alert(AlertId),
}

/// Why a notice is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Its alerts began to fire, became more severe, or resolved.
    Alerts,
    /// Its alerts still fire, and people were told so some time ago.
    Repeat,
    /// Its alerts come and go all the time. There is nothing more about them until they are calm.
    Flapping,
    /// Its alerts came and went all the time, and do so no more: it says how they are now.
    Calm,
    /// All that its notifier was told and that still fires, and what resolved of late: for one that must hear it again and
    /// again. It settles nothing.
    Standing,
    /// More was due than the notifier is sent in a minute. Its alerts are told later, each in its turn.
    Held,
}

/// One alert of a notice.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `phase` is `Firing` or `Resolved`.
    pub alert: AlertView,
    /// The same on every daemon that watches the same thing, whatever else the notice tells of.
    pub dedup_key: String,
    /// Wall times of the alert's `active_at`, `fired_at`, `resolved_at`.
    pub active_at: SystemTime,
    pub fired_at: Option<SystemTime>,
    pub resolved_at: Option<SystemTime>,
    /// The target's role by its own last word.
    pub role: Option<Role>,
    /// What is wrong with the replica that it is about. `None` when nothing is, and for anything else.
    pub diagnosis: Option<Finding>,
    /// What helps to judge the reading, in order of use: `("certainty", "at_least")`, `("method", "lsn")`, `("server", "15.18")`.
    pub details: Vec<(String, String)>,
}

/// Why a replica lags, or is about to, in the words of a notice.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The one to act on first, first. Never empty.
    pub causes: Vec<Cause>,
    /// One sentence that has it all.
    pub sentence: String,
}

/// How an attempt to tell ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub notifier: Name,
    pub group: Group,
    /// Of the notice that was attempted. All lines that it was to settle are found by it.
    pub dedup_key: String,
    pub outcome: Result<(), SendFailure>,
}

impl Notice {
    /// What its worker reports.
    pub fn ended(&self, outcome: Result<(), SendFailure>) -> Delivery {
        let (notifier, group, dedup_key) = (self.notifier.clone(), self.group.clone(), self.dedup_key.clone());
        Delivery { notifier, group, dedup_key, outcome }
    }
}

impl Group {
    fn of(alert: &AlertId) -> Self {
        Self::Alert(alert.clone())
    }

    fn has(&self, alert: &AlertId) -> bool {
        match self {
            Self::All => true,
            Self::Cluster(cluster) => alert.cluster == *cluster,
            Self::Alert(id) => alert == id,
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Cluster(name) => name.fmt(f),
            Self::Alert(id) => id.fmt(f),
        }
    }
}

/// Why a notice was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// Not taken; worth another attempt, after a while.
    #[error("{0}")]
    Transient(String),
    /// As before, and it said after how long.
    #[error("{reason}")]
    Later { reason: String, after: Duration },
    /// It left and no answer came: it may have been taken or not. Tried again as if not.
    #[error("{0}")]
    Unclear(String),
    /// Will be refused again until someone acts; tried again all the same, rarely.
    #[error("{0}")]
    Permanent(String),
}

impl SendFailure {
    /// A word for a metric label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Transient(_) | Self::Later { .. } => "transient",
            Self::Unclear(_) => "unclear",
            Self::Permanent(_) => "permanent",
        }
    }

    /// How long to wait after this many attempts that failed.
    fn back_off(&self, attempts: u32) -> Duration {
        let (first, most) = match self {
            Self::Transient(_) | Self::Later { .. } | Self::Unclear(_) => (2, 5 * 60),
            Self::Permanent(_) => (60, 60 * 60),
        };
        let own = Duration::from_secs((first << attempts.saturating_sub(1).min(16)).min(most));
        match self {
            // However long it asks for, an hour later it is tried again.
            Self::Later { after, .. } => own.max((*after).min(Duration::from_secs(60 * 60))),
            _ => own,
        }
    }
}

/// One life of an alert, from breach to resolution. Equal on daemons that saw it begin within the same minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// Minutes since 1970 when the condition began to hold.
    began_minute: u64,
    /// Counts the lives of one alert that began within one minute: a second one is news, not a duplicate.
    nth: u32,
}

impl Episode {
    /// The episode of an alert that begins at `wall`, after `previous`.
    pub fn begin(wall: SystemTime, previous: Option<Self>) -> Self {
        let began_minute = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60);
        let nth = match previous {
            Some(previous) if previous.began_minute == began_minute => previous.nth + 1,
            _ => 0,
        };
        Self { began_minute, nth }
    }

    /// What makes two attempts, or two daemons, tell the same thing: at most 128 of `A-Z a-z 0-9 - . _`, as SNS FIFO topics take.
    fn dedup_key(self, alert: &AlertId, phase: Phase) -> String {
        let mut key: String =
            alert.rule.as_str().chars().take(48).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let (minute, nth, alert) = (self.began_minute, self.nth, fingerprint(alert));
        let written = write!(key, "-{}-{minute}.{nth}-{alert:032x}", phase.as_str());
        written.expect("writing to a String cannot fail");
        key
    }
}

/// FNV-1a in 128 bits: the same for ever, which the standard library's hashers do not promise.
fn fingerprint(alert: &AlertId) -> u128 {
    let target = alert.target.as_ref().map_or("", Name::as_str);
    let labels = alert.labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let parts = [alert.rule.as_str(), alert.cluster.as_str(), target].into_iter().chain(labels);
    // No UTF-8 text contains the byte 0xFF, so no two lists of parts run together alike.
    let bytes = parts.flat_map(|part| part.bytes().chain([0xFF]));
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
    })
}

/// The last that a notifier heard of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub episode: Episode,
    /// `Firing` or `Resolved`.
    pub phase: Phase,
    /// Whether it is sure to have heard.
    pub is_sure: bool,
}

/// What notifiers were told of one alert, to be kept over a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedAccount {
    /// As of its last transition.
    pub alert: AlertView,
    pub episode: Episode,
    /// By notifier. An attempt under way counts as one that may have been heard.
    pub told: BTreeMap<Name, Told>,
}

/// What is owed to all notifiers.
#[derive(Debug)]
pub struct Ledger {
    notifiers: Vec<Name>,
    accounts: BTreeMap<AlertId, Account>,
}

/// One alert: what is true of it, and a line for each notifier.
#[derive(Debug)]
struct Account {
    /// Firing or resolved, as of that transition.
    alert: AlertView,
    episode: Episode,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    told: Option<Told>,
    /// Attempts made to tell what is true now.
    attempts: u32,
    /// No attempt before.
    next_at: MonoTime,
    /// The last notice handed out, kept until it is known to have arrived.
    handed: Option<Handed>,
}

#[derive(Clone, Debug)]
struct Handed {
    dedup_key: String,
    told: Told,
    at: MonoTime,
    /// No answer yet.
    is_open: bool,
}

/// A notice that is due, before it is dressed for the reader.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    pub notifier: Name,
    pub group: Group,
    pub purpose: Purpose,
    /// Each alert with its key.
    pub alerts: Vec<(AlertView, String)>,
    pub dedup_key: String,
    /// 1 for the first.
    pub attempt: u32,
}

impl Ledger {
    pub const fn new(notifiers: Vec<Name>) -> Self {
        Self { notifiers, accounts: BTreeMap::new() }
    }

    /// The alert fires, or is resolved, from now on.
    pub fn set(&mut self, alert: AlertView, episode: Episode, now: MonoTime) {
        let line = Line { told: None, attempts: 0, next_at: now, handed: None };
        let n_notifiers = self.notifiers.len();
        let account = self.accounts.entry(alert.id.clone()).or_insert_with(|| Account {
            alert: alert.clone(),
            episode,
            lines: vec![line; n_notifiers],
        });
        account.alert = alert;
        account.episode = episode;
        for line in &mut account.lines {
            line.attempts = 0;
            line.next_at = now;
        }
    }

    /// What is to be kept over a restart. Asked after [`Ledger::due`] and before its notices leave, it knows of them.
    pub fn saved(&self) -> impl Iterator<Item = (&AlertId, SavedAccount)> {
        self.accounts.iter().map(|(id, account)| {
            let told = self.notifiers.iter().zip(&account.lines);
            let told = told.filter_map(|(notifier, line)| Some((notifier.clone(), line.may_have_heard()?))).collect();
            (id, SavedAccount { alert: account.alert.clone(), episode: account.episode, told })
        })
    }

    /// Takes up what was kept. A notifier that is new has heard nothing.
    pub fn restore(&mut self, id: AlertId, saved: SavedAccount, now: MonoTime) {
        let line = |notifier| Line { told: saved.told.get(notifier).copied(), attempts: 0, next_at: now, handed: None };
        let lines = self.notifiers.iter().map(line).collect();
        self.accounts.insert(id, Account { alert: saved.alert, episode: saved.episode, lines });
        self.drop_settled();
    }

    /// Hands out what is to be told now: the severest first, firing before resolved, the oldest first.
    pub fn due(&mut self, now: MonoTime) -> Vec<Due> {
        if self.accounts.is_empty() {
            return Vec::new();
        }
        let mut free = vec![IN_FLIGHT; self.notifiers.len()];
        let mut waiting = Vec::new();
        for (id, account) in &mut self.accounts {
            for (index, line) in account.lines.iter_mut().enumerate() {
                line.take_for_lost(now);
                if line.is_open() {
                    free[index] = free[index].saturating_sub(1);
                } else if is_due(line.told, account.alert.phase, account.episode) && line.next_at <= now {
                    let alert = &account.alert;
                    waiting.push((std::cmp::Reverse(alert.severity), alert.phase, alert.active_at, id.clone(), index));
                }
            }
        }
        waiting.sort_unstable();
        let mut due = Vec::new();
        for (.., id, index) in waiting {
            if free[index] == 0 {
                continue;
            }
            let Some(account) = self.accounts.get_mut(&id) else { continue };
            free[index] -= 1;
            let (episode, phase) = (account.episode, account.alert.phase);
            let dedup_key = episode.dedup_key(&id, phase);
            let line = &mut account.lines[index];
            line.attempts += 1;
            let told = Told { episode, phase, is_sure: true };
            line.handed = Some(Handed { dedup_key: dedup_key.clone(), told, at: now, is_open: true });
            due.push(Due {
                notifier: self.notifiers[index].clone(),
                group: Group::of(&id),
                purpose: Purpose::Alerts,
                alerts: vec![(account.alert.clone(), dedup_key.clone())],
                dedup_key,
                attempt: line.attempts,
            });
        }
        self.drop_settled();
        due
    }

    /// Whether a notifier takes the alert for firing, or may do so.
    pub(super) fn has_heard(&self, notifier: &Name, alert: &AlertId) -> bool {
        let Some(index) = self.notifiers.iter().position(|name| name == notifier) else { return false };
        let line = self.accounts.get(alert).map(|account| &account.lines[index]);
        line.and_then(Line::may_have_heard).is_some_and(|told| told.phase == Phase::Firing)
    }

    /// Enters how an attempt ended.
    pub fn record(&mut self, delivery: &Delivery, now: MonoTime) {
        let Some(index) = self.notifiers.iter().position(|name| *name == delivery.notifier) else { return };
        for (id, account) in &mut self.accounts {
            if delivery.group.has(id) {
                account.lines[index].record(delivery, now);
            }
        }
        self.drop_settled();
    }

    fn drop_settled(&mut self) {
        self.accounts.retain(|_, account| {
            account.alert.phase == Phase::Firing
                || account
                    .lines
                    .iter()
                    .any(|line| line.is_open() || is_due(line.told, account.alert.phase, account.episode))
        });
    }
}

/// Whether a notifier that was told `told` must hear that the alert is in `phase`.
fn is_due(told: Option<Told>, phase: Phase, episode: Episode) -> bool {
    match (phase, told) {
        (Phase::Firing, None) => true,
        (Phase::Firing, Some(told)) => told.phase != Phase::Firing || told.episode != episode || !told.is_sure,
        // Also when it heard of an earlier episode only: what it believes to fire does not.
        (Phase::Resolved, Some(told)) => told.phase == Phase::Firing,
        (Phase::Resolved, None) | (Phase::Pending, _) => false,
    }
}

impl Line {
    fn is_open(&self) -> bool {
        self.handed.as_ref().is_some_and(|handed| handed.is_open)
    }

    /// What it has heard, and what it may have heard if no answer ever comes.
    fn may_have_heard(&self) -> Option<Told> {
        match &self.handed {
            Some(handed) if handed.is_open && handed.told.phase == Phase::Firing => {
                Some(Told { is_sure: false, ..handed.told })
            }
            _ => self.told,
        }
    }

    fn take_for_lost(&mut self, now: MonoTime) {
        if let Some(handed) = &self.handed
            && handed.is_open
            && now.duration_since(handed.at) >= LOST_AFTER
        {
            self.fail(&SendFailure::Unclear(String::new()), now);
        }
    }

    fn record(&mut self, delivery: &Delivery, now: MonoTime) {
        let Some(handed) = self.handed.as_ref().filter(|handed| handed.dedup_key == delivery.dedup_key) else { return };
        match &delivery.outcome {
            Ok(()) => {
                self.told = Some(handed.told);
                self.handed = None;
                self.attempts = 0;
                self.next_at = now;
            }
            Err(failure) if handed.is_open => self.fail(failure, now),
            // The attempt was already taken for lost.
            Err(_) => {}
        }
    }

    fn fail(&mut self, failure: &SendFailure, now: MonoTime) {
        let Some(handed) = &mut self.handed else { return };
        handed.is_open = false;
        if matches!(failure, SendFailure::Unclear(_)) && handed.told.phase == Phase::Firing {
            self.told = Some(Told { is_sure: false, ..handed.told });
        }
        // No attempts: what was attempted is no longer true, and what is true now has not been tried.
        if self.attempts > 0 {
            self.next_at = now.plus(failure.back_off(self.attempts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::alert::Severity;
    use super::super::signal::Unit;
    use super::*;

    fn at(seconds: u64) -> MonoTime {
        MonoTime::from_nanos(0).plus(Duration::from_secs(seconds))
    }

    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn id(rule: &str) -> AlertId {
        AlertId { rule: Name::new(rule), cluster: Name::new("orders"), target: Some(Name::new("r1")), labels: vec![] }
    }

    fn view(rule: &str, phase: Phase, active_at: u64) -> AlertView {
        AlertView {
            id: id(rule),
            severity: Severity::Warning,
            phase,
            active_at: at(active_at),
            fired_at: None,
            resolved_at: None,
            reading: None,
            is_unknown: false,
            condition: String::new(),
            unit: Unit::Seconds,
            rule_labels: vec![],
            summary: None,
            runbook: None,
            muted: vec![],
        }
    }

    /// What happens to one alert and one notifier, second by second.
    #[derive(Debug)]
    enum Step {
        /// It fires; the number names the episode by the second it began.
        Fires(u64),
        Resolves(u64),
        /// The worker reports of the notice last handed out.
        Ok,
        Transient,
        Unclear,
        Permanent,
        /// What is handed out now: state, episode, attempt.
        Told(&'static str, u64, u32),
        Quiet,
    }
    use Step::{Fires, Ok, Permanent, Quiet, Resolves, Told, Transient, Unclear};

    fn check(steps: &[(u64, Step)]) {
        let name = Name::new("pager");
        let mut ledger = Ledger::new(vec![name.clone()]);
        let mut last_key = String::new();
        for (second, step) in steps {
            let now = at(*second);
            let mut report = |outcome| {
                let dedup_key = last_key.clone();
                let group = Group::of(&id("R"));
                ledger.record(&Delivery { notifier: name.clone(), group, dedup_key, outcome }, now);
            };
            match *step {
                Fires(began) => ledger.set(view("R", Phase::Firing, began), Episode::begin(wall(began), None), now),
                Resolves(began) => {
                    ledger.set(view("R", Phase::Resolved, began), Episode::begin(wall(began), None), now);
                }
                Ok => report(Result::Ok(())),
                Transient => report(Err(SendFailure::Transient("busy".into()))),
                Unclear => report(Err(SendFailure::Unclear("no answer".into()))),
                Permanent => report(Err(SendFailure::Permanent("forbidden".into()))),
                Told(state, began, attempt) => {
                    let due = ledger.due(now);
                    let told: Vec<_> = due
                        .iter()
                        .map(|due| (due.alerts[0].0.phase.as_str(), due.alerts[0].0.active_at, due.attempt))
                        .collect();
                    assert_eq!(told, [(state, at(began), attempt)], "at {second} s");
                    last_key.clone_from(&due[0].dedup_key);
                }
                Quiet => assert_eq!(ledger.due(now), [], "at {second} s"),
            }
        }
    }

    #[test]
    fn without_faults_each_transition_is_told_once() {
        check(&[
            (0, Quiet),
            (0, Fires(0)),
            (0, Told("firing", 0, 1)),
            (0, Quiet),
            (1, Ok),
            (1, Quiet),
            (5000, Quiet),
            (6000, Resolves(0)),
            (6000, Told("resolved", 0, 1)),
            (6001, Ok),
            (6001, Quiet),
            (7000, Fires(7000)),
            (7000, Told("firing", 7000, 1)),
            (7001, Ok),
            (9999, Quiet),
        ]);
    }

    #[test]
    fn an_alert_that_resolves_before_anyone_was_told_is_never_told() {
        check(&[(0, Fires(0)), (0, Resolves(0)), (0, Quiet), (1000, Quiet)]);
        check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (1, Resolves(0)), (2, Transient), (2, Quiet), (1000, Quiet)]);
        check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (1, Permanent), (2, Resolves(0)), (9999, Quiet)]);
    }

    #[test]
    fn resolved_waits_for_the_answer_about_firing() {
        check(&[
            (0, Fires(0)),
            (0, Told("firing", 0, 1)),
            (1, Resolves(0)),
            (1, Quiet),
            (2, Ok),
            (2, Told("resolved", 0, 1)),
            (3, Ok),
            (3, Quiet),
        ]);
    }

    #[test]
    fn a_failed_attempt_is_made_again_later_and_later() {
        let mut steps = vec![(0, Fires(0))];
        let mut second = 0;
        for (attempt, wait) in (1..).zip([2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]) {
            steps.extend([(second, Told("firing", 0, attempt)), (second, Transient), (second + wait - 1, Quiet)]);
            second += wait;
        }
        steps.extend([(second, Told("firing", 0, 12)), (second, Ok), (second, Quiet), (second + 9999, Quiet)]);
        check(&steps);
    }

    #[test]
    fn what_is_refused_for_good_is_tried_rarely_and_for_ever() {
        let mut steps = vec![(0, Fires(0))];
        let mut second = 0;
        for (attempt, wait) in (1..).zip([60, 120, 240, 480, 960, 1920, 3600, 3600]) {
            steps.extend([(second, Told("firing", 0, attempt)), (second, Permanent), (second + wait - 1, Quiet)]);
            second += wait;
        }
        check(&steps);
    }

    #[test]
    fn a_new_fact_is_attempted_at_once() {
        check(&[
            (0, Fires(0)),
            (0, Told("firing", 0, 1)),
            (0, Ok),
            (10, Resolves(0)),
            (10, Told("resolved", 0, 1)),
            (10, Permanent),
            (11, Quiet),
            (20, Fires(100)),
            (20, Told("firing", 100, 1)),
        ]);
    }

    #[test]
    fn an_alert_that_fires_anew_while_resolved_is_undelivered_is_told_as_firing() {
        check(&[
            (0, Fires(0)),
            (0, Told("firing", 0, 1)),
            (0, Ok),
            (100, Resolves(0)),
            (100, Told("resolved", 0, 1)),
            (101, Fires(101)),
            (101, Quiet),
            (102, Transient),
            (102, Told("firing", 101, 1)),
            (103, Ok),
            (103, Quiet),
            (200, Resolves(101)),
            (200, Told("resolved", 101, 1)),
        ]);
    }

    #[test]
    fn who_heard_only_an_earlier_firing_hears_that_it_is_over() {
        check(&[
            (0, Fires(0)),
            (0, Told("firing", 0, 1)),
            (0, Ok),
            (100, Resolves(0)),
            (100, Told("resolved", 0, 1)),
            (101, Transient),
            (102, Fires(102)),
            (102, Told("firing", 102, 1)),
            (102, Transient),
            (102, Resolves(102)),
            (102, Told("resolved", 102, 1)),
            (103, Ok),
            (103, Quiet),
        ]);
    }

    #[test]
    fn who_may_have_heard_firing_hears_resolved() {
        check(&[
            (0, Fires(0)),
            (0, Told("firing", 0, 1)),
            (10, Unclear),
            (11, Resolves(0)),
            (11, Told("resolved", 0, 1)),
            (12, Ok),
            (12, Quiet),
        ]);
        // And who may have heard it is told again while it fires.
        check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (10, Unclear), (11, Quiet), (12, Told("firing", 0, 2))]);
    }

    #[test]
    fn a_notice_whose_worker_never_reports_is_handed_out_again() {
        check(&[
            (0, Fires(0)),
            (0, Told("firing", 0, 1)),
            (179, Quiet),
            (180, Quiet),
            (182, Told("firing", 0, 2)),
            (183, Ok),
            (184, Ok),
            (9999, Quiet),
        ]);
        // A report that comes late counts.
        check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (180, Quiet), (181, Ok), (9999, Quiet)]);
        check(&[(0, Fires(0)), (0, Told("firing", 0, 1)), (180, Quiet), (181, Permanent), (182, Told("firing", 0, 2))]);
    }

    #[test]
    fn resolved_is_told_only_to_those_who_heard_firing() {
        let (heard, missed) = (Name::new("heard"), Name::new("missed"));
        let mut ledger = Ledger::new(vec![heard.clone(), missed.clone()]);
        let episode = Episode::begin(wall(0), None);
        ledger.set(view("R", Phase::Firing, 0), episode, at(0));
        for due in ledger.due(at(0)) {
            let outcome =
                if due.notifier == heard { Result::Ok(()) } else { Err(SendFailure::Transient("busy".into())) };
            let delivery = Delivery { notifier: due.notifier, group: due.group, dedup_key: due.dedup_key, outcome };
            ledger.record(&delivery, at(1));
        }
        ledger.set(view("R", Phase::Resolved, 0), episode, at(2));
        let told: Vec<_> = ledger.due(at(2)).into_iter().map(|due| (due.notifier, due.alerts[0].0.phase)).collect();
        assert_eq!(told, [(heard, Phase::Resolved)]);
        assert_eq!(ledger.due(at(100)), []);
    }

    #[test]
    fn a_storm_is_handed_out_in_portions_the_severest_first() {
        let mut ledger = Ledger::new(vec![Name::new("pager")]);
        let n_alerts = IN_FLIGHT + 10;
        for index in 0..n_alerts {
            let severity = if index == n_alerts - 1 { Severity::Critical } else { Severity::Warning };
            let alert = AlertView { severity, ..view(&format!("R{index:03}"), Phase::Firing, index as u64) };
            ledger.set(alert, Episode::begin(wall(0), None), at(100));
        }
        let mut order = Vec::new();
        for n_due in [IN_FLIGHT, 10, 0] {
            let due = ledger.due(at(100));
            assert_eq!(due.len(), n_due);
            assert_eq!(ledger.due(at(100)), []);
            for due in due {
                order.push(due.alerts[0].0.id.rule.to_string());
                let (group, dedup_key) = (due.group, due.dedup_key);
                let outcome = Result::Ok(());
                ledger.record(&Delivery { notifier: due.notifier, group, dedup_key, outcome }, at(100));
            }
        }
        let expect: Vec<_> =
            [n_alerts - 1].into_iter().chain(0..n_alerts - 1).map(|index| format!("R{index:03}")).collect();
        assert_eq!(order, expect);
    }

    #[test]
    fn what_is_settled_is_forgotten() {
        let mut ledger = Ledger::new(vec![Name::new("pager")]);
        let episode = Episode::begin(wall(0), None);
        ledger.set(view("R", Phase::Firing, 0), episode, at(0));
        for phase in [Phase::Firing, Phase::Resolved] {
            ledger.set(view("R", phase, 0), episode, at(0));
            let due = ledger.due(at(0)).remove(0);
            let delivery = Delivery {
                notifier: due.notifier,
                group: due.group,
                dedup_key: due.dedup_key,
                outcome: Result::Ok(()),
            };
            ledger.record(&delivery, at(0));
        }
        assert!(ledger.accounts.is_empty());
    }

    #[test]
    fn keys_tell_apart_what_is_news_and_unite_what_is_not() {
        let key = |alert: &AlertId, episode: Episode, phase| episode.dedup_key(alert, phase);
        let first = Episode::begin(wall(0), None);
        // Another daemon that saw it two seconds later.
        assert_eq!(key(&id("R"), first, Phase::Firing), key(&id("R"), Episode::begin(wall(2), None), Phase::Firing));
        let again = Episode::begin(wall(30), Some(first));
        let later = Episode::begin(wall(90), Some(again));
        let in_target = |target: &str| AlertId { target: Some(Name::new(target)), ..id("R") };
        let with_slot = |slot: &str| AlertId { labels: vec![("slot".into(), slot.into())], ..id("R") };
        let mut keys = vec![
            key(&id("R"), first, Phase::Firing),
            key(&id("R"), first, Phase::Resolved),
            key(&id("R"), again, Phase::Firing),
            key(&id("R"), later, Phase::Firing),
            key(&id("Q"), first, Phase::Firing),
            key(&in_target("r2"), first, Phase::Firing),
            key(&AlertId { target: None, ..id("R") }, first, Phase::Firing),
            key(&with_slot("a"), first, Phase::Firing),
            key(&with_slot("b"), first, Phase::Firing),
            key(&id(&"ü".repeat(128)), first, Phase::Firing),
        ];
        assert_eq!(keys[0], "R-firing-30000000.0-7289c1da92f8f82490e3280b1bbb9dc6");
        for key in &keys {
            let is_safe = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            assert!(key.len() <= 128 && key.chars().all(is_safe), "{key}");
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 10);
    }
}
