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
//! - Alerts of one group are told in one notice ([`pacing`]): what is new waits a little for what comes with it, and what
//!   changes later waits for more of its kind. One attempt at a time for each group.
//! - A muted alert is not told as firing. An alert that comes and goes all the time is told as that, and then not until it
//!   is calm. Beyond a notifier's limit for a minute a summary is told, and the rest later: the severest first.
//! - A notifier hears of the alerts that it takes ([`Recipient::takes`]), and of no other. Of one that grew into something it
//!   takes it hears then; who heard that an alert fires hears how it ends, whatever became of it.
//! - An alert that fires anew while its "resolved" is still undelivered is told as firing, with its new beginning: someone
//!   who heard the first and saw it pass must hear of the second. The stale "resolved" is dropped, for it is no longer true.
//!
//! [`Told`] is what must outlive a restart.

pub mod pacing;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use self::pacing::{AlertingConfig, Desk, GroupBy, Members};
use super::alert::{AlertId, AlertView, Phase, Severity};
use super::cause::Cause;
use super::explain::Explanation;
use super::saved::move_time;
use super::silence::selector::Selector;
use super::time::MonoTime;
use super::topology::Name;

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
    /// The one to act on first, first: firing before resolved, the severest and oldest first. Empty in a
    /// heartbeat alone.
    pub alerts: Vec<Entry>,
    /// What else fires in the clusters that they are of, the severest first.
    pub also_firing: Vec<(Severity, AlertId)>,
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
    /// It has no alerts: the daemon gets on with its work, and says so again after this time.
    Heartbeat { every: Duration },
    /// More was due than the notifier is sent in a minute. Its alerts are told later, each in its turn.
    Held,
    /// Nothing is wrong: somebody tries whether the notifier works.
    Test,
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
    /// Its readings of late, the oldest first.
    pub recent: Vec<(SystemTime, f64)>,
    /// What there is to say of it.
    pub told: Explanation,
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
    fn of(alert: &AlertId, by: GroupBy) -> Self {
        match by {
            GroupBy::Cluster => Self::Cluster(alert.cluster.clone()),
            GroupBy::Alert => Self::Alert(alert.clone()),
        }
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
        match previous {
            // Put back, the time of day may show a minute that an earlier life had.
            Some(previous) if previous.began_minute >= began_minute => {
                Self { nth: previous.nth.saturating_add(1), ..previous }
            }
            _ => Self { began_minute, nth: 0 },
        }
    }

    /// What makes two attempts, or two daemons, tell the same thing: at most 128 of `A-Z a-z 0-9 - . _`, as SNS FIFO topics take.
    fn dedup_key(self, alert: &AlertId, word: &str) -> String {
        let mut key: String =
            alert.rule.as_str().chars().take(48).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let (minute, nth, alert) = (self.began_minute, self.nth, fingerprint(alert));
        let written = write!(key, "-{word}-{minute}.{nth}-{alert:032x}");
        written.expect("writing to a String cannot fail");
        key
    }
}

fn fingerprint(alert: &AlertId) -> u128 {
    let target = alert.target.as_ref().map_or("", Name::as_str);
    let labels = alert.labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    hash([alert.rule.as_str(), alert.cluster.as_str(), target].into_iter().chain(labels))
}

/// FNV-1a in 128 bits: the same for ever, which the standard library's hashers do not promise.
fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> u128 {
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
    pub severity: Severity,
    /// It heard that the alert comes and goes all the time.
    pub is_flapping: bool,
    /// When the notice was handed out.
    pub at: MonoTime,
}

/// What notifiers were told of one alert, to be kept over a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedAccount {
    /// As of its last transition.
    pub alert: AlertView,
    pub episode: Episode,
    /// The lowest severity with which it fired in this episode.
    #[serde(alias = "first_severity")]
    pub least_severity: Severity,
    /// When it fired and resolved of late.
    pub changes: VecDeque<MonoTime>,
    pub is_flapping: bool,
    pub muted: Option<Muted>,
    /// By notifier. An attempt under way counts as one that may have been heard.
    pub told: BTreeMap<Name, Told>,
}

impl SavedAccount {
    /// Its instants on a clock that shows `nanos` more.
    pub(super) fn move_times(&mut self, nanos: i64) {
        self.alert.move_times(nanos);
        self.changes.iter_mut().for_each(|change| move_time(change, nanos));
        self.told.values_mut().for_each(|told| move_time(&mut told.at, nanos));
    }
}

/// Nobody is told that an alert fires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Muted {
    /// For how long the alert must fire on, once nothing mutes it any more, to be told.
    pub hold: Duration,
    /// The alert that it follows from.
    pub cause: Option<AlertId>,
}

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    pub name: Name,
    /// Tells where it leads from where others do, and holds no secret: by this it is known again under another name. `None`:
    /// by its name alone.
    pub address: Option<Name>,
    pub group_by: GroupBy,
    /// It groups, repeats and mutes by itself, and must hear of a firing alert again and again: it is told of every change
    /// at once.
    pub is_standing: bool,
    /// The alerts that it is told of.
    pub only: Selector,
    /// Whether it is told when they are over.
    pub hears_resolved: bool,
}

impl Recipient {
    pub fn new(name: &str) -> Self {
        Self {
            name: Name::new(name),
            address: None,
            group_by: GroupBy::default(),
            is_standing: false,
            only: Selector::default(),
            hears_resolved: true,
        }
    }

    /// What it is known by, however it is called.
    pub fn address_of<'a>(parts: impl Iterator<Item = &'a str>) -> Name {
        Name::new(&format!("@{:032x}", hash(parts)))
    }

    /// Its address, unless others in `among` lead there, too.
    fn own_address<'a>(&'a self, among: &[Self]) -> Option<&'a Name> {
        let address = self.address.as_ref()?;
        (among.iter().filter(|other| other.address.as_ref() == Some(address)).count() == 1).then_some(address)
    }

    /// Which of those there were it is: the one that led to its address, else the one of its name, if that did not move.
    fn place_in(&self, before: &[Self], now: &[Self]) -> Option<usize> {
        let address = self.own_address(now);
        let by_address = before.iter().position(|other| address.is_some() && other.own_address(before) == address);
        let has_moved = |other: &Self| now.iter().any(|one| one.address.is_some() && one.address == other.address);
        let is_it = |other: &Self| other.name == self.name && (other.address == self.address || !has_moved(other));
        by_address.or_else(|| before.iter().position(is_it))
    }

    /// Whether such an alert is told to it at all. What concerns the daemon itself is of no cluster that could be named.
    pub fn takes(&self, alert: &AlertId, severity: Severity) -> bool {
        if alert.is_of_daemon() && !self.only.cluster.is_empty() {
            return Selector { cluster: Vec::new(), ..self.only.clone() }.matches(alert, severity);
        }
        self.only.matches(alert, severity)
    }
}

/// What is owed to all notifiers.
#[derive(Debug)]
pub struct Ledger {
    recipients: Vec<Recipient>,
    config: AlertingConfig,
    /// One for each recipient.
    paces: Vec<AlertingConfig>,
    accounts: BTreeMap<AlertId, Account>,
    /// One for each recipient.
    desks: Vec<Desk>,
}

/// One alert: what is true of it, and a line for each notifier.
#[derive(Debug)]
struct Account {
    /// Firing or resolved, as of that transition.
    alert: AlertView,
    episode: Episode,
    least_severity: Severity,
    muted: Option<Muted>,
    /// What muted it is over, and it may yet pass by itself.
    held_until: Option<MonoTime>,
    /// When it fired and resolved within the last hour.
    changes: VecDeque<MonoTime>,
    is_flapping: bool,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    told: Option<Told>,
    /// Attempts made to tell what is true now.
    attempts: u32,
    /// No attempt before.
    next_at: MonoTime,
    /// What must be told now, and since when.
    news: Option<(Purpose, MonoTime)>,
    /// The last notice handed out, kept until it is known to have arrived.
    handed: Option<Handed>,
}

#[derive(Clone, Debug)]
struct Handed {
    /// The notice's.
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

/// A notice that waits for its turn.
struct Waiting {
    recipient: usize,
    group: Group,
    purpose: Purpose,
    members: Vec<AlertId>,
    severity: Severity,
    since: MonoTime,
}

impl Ledger {
    pub fn new(recipients: Vec<Recipient>, config: AlertingConfig) -> Self {
        let desks = recipients.iter().map(|_| Desk::default()).collect();
        let paces = paces(&recipients, &config);
        Self { paces, recipients, config, accounts: BTreeMap::new(), desks }
    }

    /// Who is told from now on, and how. One that stays keeps what it was told; one that is new has heard nothing.
    pub fn set_recipients(&mut self, recipients: Vec<Recipient>, config: AlertingConfig, now: MonoTime) {
        let place_of = |recipient: &Recipient| recipient.place_in(&self.recipients, &recipients);
        let places: Vec<Option<usize>> = recipients.iter().map(place_of).collect();
        for account in self.accounts.values_mut() {
            let line = |(recipient, place): (&Recipient, &Option<usize>)| {
                let Some(at) = *place else { return Line::new(None, now) };
                let mut line = account.lines[at].clone();
                // What it is in the middle of is reported under the name that it had.
                if line.is_open() && self.recipients[at].name != recipient.name {
                    line.fail(&SendFailure::Unclear(String::new()), now);
                }
                line
            };
            account.lines = recipients.iter().zip(&places).map(line).collect();
        }
        let mut desk = |place: &Option<usize>| place.map(|at| std::mem::take(&mut self.desks[at])).unwrap_or_default();
        self.desks = places.iter().map(&mut desk).collect();
        self.paces = paces(&recipients, &config);
        (self.recipients, self.config) = (recipients, config);
    }

    /// The alert fires, or is resolved, from now on. Or it fires on, with another severity.
    pub fn set(&mut self, mut alert: AlertView, episode: Episode, now: MonoTime) {
        // Why it is muted is decided anew all the time, and is not kept.
        alert.muted.clear();
        let n_lines = self.recipients.len();
        let account = self.accounts.entry(alert.id.clone()).or_insert_with(|| Account {
            alert: AlertView { phase: Phase::Resolved, ..alert.clone() },
            episode,
            least_severity: alert.severity,
            muted: None,
            held_until: None,
            changes: VecDeque::new(),
            is_flapping: false,
            lines: vec![Line::new(None, now); n_lines],
        });
        if account.alert.phase != alert.phase {
            account.changes.push_back(now);
        }
        if account.episode != episode || account.alert.phase != Phase::Firing {
            account.least_severity = alert.severity;
        } else if alert.phase == Phase::Firing {
            account.least_severity = account.least_severity.min(alert.severity);
        }
        if alert.phase == Phase::Firing && account.alert.phase != Phase::Firing {
            (account.muted, account.held_until) = (None, None);
        }
        account.alert = alert;
        account.episode = episode;
        for line in &mut account.lines {
            line.attempts = 0;
            line.next_at = now;
        }
    }

    /// Whether people are not told that the alert fires.
    pub fn mute(&mut self, id: &AlertId, muted: Option<Muted>, now: MonoTime) {
        let Some(account) = self.accounts.get_mut(id) else { return };
        if let (Some(before), None) = (&account.muted, &muted) {
            account.held_until = Some(now.plus(before.hold));
        }
        account.muted = muted;
    }

    /// Whether there is anything to tell, or was, of an alert.
    pub fn has(&self, id: &AlertId) -> bool {
        self.accounts.contains_key(id)
    }

    /// The alert that an alert was last seen to follow from.
    pub fn cause(&self, id: &AlertId) -> Option<&AlertId> {
        self.accounts.get(id)?.muted.as_ref()?.cause.as_ref()
    }

    /// How often an alert came and went within an hour, if that is too often.
    pub fn flapping(&self, id: &AlertId) -> Option<u32> {
        let account = self.accounts.get(id).filter(|account| account.is_flapping)?;
        Some(u32::try_from(account.changes.len()).unwrap_or(u32::MAX))
    }

    /// Whether some notifier cannot be reached.
    pub fn is_cut_off(&self) -> bool {
        self.desks.iter().any(|desk| desk.is_cut_off)
    }

    /// What is to be kept over a restart. Asked after [`Ledger::due`] and before its notices leave, it knows of them.
    pub fn saved(&self) -> impl Iterator<Item = (&AlertId, SavedAccount)> {
        self.accounts.iter().map(|(id, account)| {
            let told = self.recipients.iter().zip(&account.lines).flat_map(|(recipient, line)| {
                let names = [Some(&recipient.name), recipient.own_address(&self.recipients)];
                let told = line.may_have_heard();
                names.into_iter().flatten().filter_map(move |name| Some((name.clone(), told?)))
            });
            let saved = SavedAccount {
                alert: account.alert.clone(),
                episode: account.episode,
                least_severity: account.least_severity,
                changes: account.changes.clone(),
                is_flapping: account.is_flapping,
                muted: account.muted.clone(),
                told: told.collect(),
            };
            (id, saved)
        })
    }

    /// Takes up what was kept. A notifier that is new has heard nothing.
    pub fn restore(&mut self, id: AlertId, saved: SavedAccount, now: MonoTime) {
        let told = |recipient: &Recipient| {
            let by_address = recipient.own_address(&self.recipients).and_then(|address| saved.told.get(address));
            by_address.or_else(|| saved.told.get(&recipient.name)).copied()
        };
        if let Some(account) = self.accounts.get_mut(&id) {
            // Taken up late: what is true of the alert is known better here, and what others heard there as well counts.
            for (recipient, line) in self.recipients.iter().zip(&mut account.lines) {
                line.told = line.told.or_else(|| told(recipient));
            }
            return;
        }
        let turned_at = match saved.alert.phase {
            Phase::Firing => saved.alert.fired_at,
            Phase::Pending | Phase::Resolved => saved.alert.resolved_at,
        };
        let line = |recipient: &Recipient| Line::new(told(recipient), now);
        let mut account = Account {
            lines: self.recipients.iter().map(line).collect(),
            alert: saved.alert,
            episode: saved.episode,
            least_severity: saved.least_severity,
            muted: saved.muted,
            held_until: None,
            changes: saved.changes,
            is_flapping: saved.is_flapping,
        };
        // It has waited for what comes with it since then: one that is killed again and again while it waits tells, too.
        for (index, whose) in self.recipients.iter().zip(&self.paces).enumerate() {
            let purpose = account.news(&account.lines[index], whose, now);
            account.lines[index].news = purpose.map(|purpose| (purpose, turned_at.unwrap_or(now)));
        }
        self.accounts.insert(id, account);
        self.drop_settled(now);
    }

    /// Hands out what is to be told now: the severest first, firing before resolved, the oldest first.
    pub fn due(&mut self, now: MonoTime) -> Vec<Due> {
        if self.accounts.is_empty() {
            return Vec::new();
        }
        for account in self.accounts.values_mut() {
            account.review(&self.config, &self.recipients, &self.paces, now);
        }
        let mut due = Vec::new();
        for recipient in 0..self.recipients.len() {
            let (mut ready, n_open) = self.ready(recipient, now);
            ready.sort_by(|a, b| (b.severity, a.since, &a.group).cmp(&(a.severity, b.since, &b.group)));
            let max = self.paces[recipient].max_per_minute as usize;
            let left = self.desks[recipient].left(max, now);
            let mut held = Vec::new();
            if ready.len() > left {
                let tells_of_it = left > 0 && self.desks[recipient].tells_of_held(now);
                let rest = ready.split_off(if tells_of_it { left - 1 } else { left });
                if tells_of_it {
                    held = rest;
                }
            }
            ready.truncate(IN_FLIGHT.saturating_sub(n_open));
            self.desks[recipient].sent(ready.len() + usize::from(!held.is_empty()), now);
            due.extend(ready.into_iter().map(|waiting| self.hand_out(waiting, now)));
            due.extend(self.summary(recipient, &held, now));
        }
        self.drop_settled(now);
        due
    }

    /// Whether a notifier takes the alert for firing, or may do so.
    pub(super) fn has_heard(&self, notifier: &Name, alert: &AlertId) -> bool {
        let Some(index) = self.recipients.iter().position(|recipient| recipient.name == *notifier) else {
            return false;
        };
        let line = self.accounts.get(alert).map(|account| &account.lines[index]);
        line.and_then(Line::may_have_heard).is_some_and(|told| told.phase == Phase::Firing)
    }

    /// Whether a notifier is told of such an alert.
    pub(super) fn takes(&self, notifier: &Name, alert: &AlertView) -> bool {
        let recipient = self.recipients.iter().find(|recipient| recipient.name == *notifier);
        recipient.is_some_and(|recipient| recipient.takes(&alert.id, alert.severity))
    }

    /// The groups of which one notifier must hear now, and how many notices it has not answered.
    fn ready(&self, recipient: usize, now: MonoTime) -> (Vec<Waiting>, usize) {
        let by = self.recipients[recipient].group_by;
        let mut groups: BTreeMap<Group, Members<'_>> = BTreeMap::new();
        for (id, account) in &self.accounts {
            let line = &account.lines[recipient];
            if line.news.is_some() || line.told.is_some() || line.is_open() {
                groups.entry(Group::of(id, by)).or_default().push((id, account, line));
            }
        }
        let mut n_open = 0;
        let mut ready = Vec::new();
        for (group, members) in groups {
            if members.iter().any(|(_, _, line)| line.is_open()) {
                // So that nothing overtakes it.
                n_open += 1;
            } else if let Some(purpose) = pacing::due(&members, &self.paces[recipient], now) {
                let of_it = |line: &Line| line.news.filter(|news| news.0 == purpose);
                let news = || members.iter().filter(|(_, _, line)| of_it(line).is_some());
                ready.push(Waiting {
                    recipient,
                    purpose,
                    severity: news().map(|(_, account, _)| account.alert.severity).max().unwrap_or(Severity::Info),
                    since: news().filter_map(|(_, _, line)| Some(of_it(line)?.1)).min().unwrap_or(now),
                    members: news().map(|(id, _, _)| (*id).clone()).collect(),
                    group,
                });
            }
        }
        (ready, n_open)
    }

    fn hand_out(&mut self, waiting: Waiting, now: MonoTime) -> Due {
        let Waiting { recipient, group, purpose, members, .. } = waiting;
        let repeat_interval = self.config.repeat_interval;
        let key = |account: &Account| account.dedup_key(purpose, repeat_interval, now);
        let mut alerts: Vec<(AlertView, String)> = members
            .iter()
            .filter_map(|id| self.accounts.get(id))
            .map(|account| (account.alert.clone(), key(account)))
            .collect();
        let dedup_key = if let [(_, key)] = alerts.as_slice() {
            key.clone()
        } else {
            let mut keys: Vec<&str> = alerts.iter().map(|(_, key)| key.as_str()).collect();
            keys.sort_unstable();
            format!("{}-{:032x}", purpose.as_str(), hash(keys.into_iter()))
        };
        let by_use = |alert: &AlertView| (alert.phase, std::cmp::Reverse(alert.severity), alert.active_at);
        alerts.sort_by(|(a, _), (b, _)| (by_use(a), &a.id).cmp(&(by_use(b), &b.id)));
        let mut attempt = 0;
        for id in &members {
            let Some(account) = self.accounts.get_mut(id) else { continue };
            let told = Told {
                episode: account.episode,
                phase: account.alert.phase,
                is_sure: true,
                severity: account.alert.severity,
                is_flapping: account.is_flapping && purpose == Purpose::Flapping,
                at: now,
            };
            let line = &mut account.lines[recipient];
            line.attempts += 1;
            attempt = attempt.max(line.attempts);
            line.handed = Some(Handed { dedup_key: dedup_key.clone(), told, at: now, is_open: true });
        }
        Due { notifier: self.recipients[recipient].name.clone(), group, purpose, alerts, dedup_key, attempt }
    }

    /// What is said of notices that must wait. It settles nothing: each is told in its turn.
    fn summary(&self, recipient: usize, held: &[Waiting], now: MonoTime) -> Option<Due> {
        let accounts = held.iter().flat_map(|waiting| waiting.members.iter().filter_map(|id| self.accounts.get(id)));
        let alerts: Vec<_> = accounts
            .map(|account| (account.alert.clone(), account.dedup_key(Purpose::Held, self.config.repeat_interval, now)))
            .collect();
        if alerts.is_empty() {
            return None;
        }
        let keys = alerts.iter().map(|(_, key)| key.as_str());
        let minute = (now.as_nanos() / 60_000_000_000).to_string();
        let dedup_key = format!("held-{:032x}", hash(keys.chain([minute.as_str()])));
        let notifier = self.recipients[recipient].name.clone();
        Some(Due { notifier, group: Group::All, purpose: Purpose::Held, alerts, dedup_key, attempt: 1 })
    }

    /// Enters how an attempt ended.
    pub fn record(&mut self, delivery: &Delivery, now: MonoTime) {
        let Some(index) = self.recipients.iter().position(|recipient| recipient.name == delivery.notifier) else {
            return;
        };
        self.desks[index].record(&delivery.outcome);
        for (id, account) in &mut self.accounts {
            if delivery.group.has(id) {
                account.lines[index].record(delivery, now);
            }
        }
        self.drop_settled(now);
    }

    fn drop_settled(&mut self, now: MonoTime) {
        let (config, recipients, paces) = (&self.config, &self.recipients, &self.paces);
        self.accounts.retain(|_, account| {
            account.forget_changes(config, now);
            account.alert.phase == Phase::Firing
                || account.is_flapping
                || !account.changes.is_empty()
                || account
                    .lines
                    .iter()
                    .zip(recipients.iter().zip(paces))
                    .any(|(line, whose)| line.is_open() || account.news(line, whose, now).is_some())
        });
    }
}

fn paces(recipients: &[Recipient], config: &AlertingConfig) -> Vec<AlertingConfig> {
    let pace = |recipient: &Recipient| if recipient.is_standing { AlertingConfig::IMMEDIATE } else { config.clone() };
    recipients.iter().map(pace).collect()
}

impl Account {
    /// Brings up to date what time alone changes.
    fn review(&mut self, config: &AlertingConfig, recipients: &[Recipient], paces: &[AlertingConfig], now: MonoTime) {
        self.forget_changes(config, now);
        if self.is_flapping {
            let is_calm = self.changes.back().is_none_or(|last| now.duration_since(*last) >= pacing::CALM_AFTER);
            if is_calm {
                self.is_flapping = false;
                self.changes.clear();
            }
        } else {
            self.is_flapping = config.flapping > 0 && self.changes.len() > config.flapping as usize;
        }
        let is_over = self.alert.phase == Phase::Resolved && !self.is_flapping;
        for (index, whose) in recipients.iter().zip(paces).enumerate() {
            self.lines[index].take_for_lost(now);
            if is_over && !whose.0.hears_resolved {
                self.lines[index].settle();
            }
            let purpose = self.news(&self.lines[index], whose, now);
            let line = &mut self.lines[index];
            if purpose.is_none() {
                line.attempts = 0;
            }
            let before = line.news;
            line.news = purpose.map(|purpose| match before {
                Some((of, since)) if of == purpose => (purpose, since),
                _ => (purpose, now),
            });
        }
    }

    fn forget_changes(&mut self, config: &AlertingConfig, now: MonoTime) {
        let is_old = |change: &MonoTime| now.duration_since(*change) >= pacing::FLAPPING_WITHIN;
        // All that decides is whether there are more than so many.
        let most = if config.flapping == 0 { 0 } else { config.flapping as usize + 100 };
        while self.changes.len() > most || (!self.is_flapping && self.changes.front().is_some_and(is_old)) {
            self.changes.pop_front();
        }
    }

    /// What a notifier must be told of this alert now.
    fn news(&self, line: &Line, (recipient, config): (&Recipient, &AlertingConfig), now: MonoTime) -> Option<Purpose> {
        let told = line.told;
        if told.is_none() && !recipient.takes(&self.alert.id, self.alert.severity) {
            return None;
        }
        let fires = self.alert.phase == Phase::Firing;
        let is_quiet = self.muted.is_some() || self.held_until.is_some_and(|until| now < until);
        if self.is_flapping && config.flapping > 0 {
            let knows = told.is_some_and(|told| {
                let is_worse = fires && self.alert.severity > told.severity;
                told.is_flapping && told.is_sure && !is_worse
            });
            return (!knows && !is_quiet).then_some(Purpose::Flapping);
        }
        if told.is_some_and(|told| told.is_flapping) {
            return (!fires || !is_quiet).then_some(Purpose::Calm);
        }
        if !fires {
            // Also when it heard of an earlier episode only: what it believes to fire does not.
            return told.filter(|told| told.phase == Phase::Firing).map(|_| Purpose::Alerts);
        }
        if is_quiet {
            return None;
        }
        let known = told.filter(|told| {
            told.phase == Phase::Firing
                && told.episode == self.episode
                && told.is_sure
                && told.severity >= self.alert.severity
        });
        let Some(told) = known else { return Some(Purpose::Alerts) };
        let is_due = self.alert.severity == Severity::Critical
            && now.duration_since(told.at) >= config.repeat_interval
            && !config.repeat_interval.is_zero();
        is_due.then_some(Purpose::Repeat)
    }

    fn dedup_key(&self, purpose: Purpose, repeat_interval: Duration, now: MonoTime) -> String {
        let phase = self.alert.phase.as_str();
        let word = match purpose {
            Purpose::Alerts if self.alert.phase == Phase::Firing && self.alert.severity > self.least_severity => {
                format!("{phase}-{}", self.alert.severity.as_str())
            }
            Purpose::Alerts | Purpose::Held | Purpose::Standing | Purpose::Heartbeat { .. } | Purpose::Test => {
                phase.to_owned()
            }
            Purpose::Repeat => {
                // Counted from the beginning, for another daemon may have begun to tell later.
                let nth = now.duration_since(self.alert.active_at).as_secs() / repeat_interval.as_secs().max(1);
                format!("repeat{nth}")
            }
            Purpose::Flapping | Purpose::Calm => format!("{}-{phase}", purpose.as_str()),
        };
        self.episode.dedup_key(&self.alert.id, &word)
    }
}

impl Line {
    const fn new(told: Option<Told>, now: MonoTime) -> Self {
        Self { told, attempts: 0, next_at: now, news: None, handed: None }
    }

    fn is_open(&self) -> bool {
        self.handed.as_ref().is_some_and(|handed| handed.is_open)
    }

    /// What it has heard, and what it may have heard if no answer ever comes.
    fn may_have_heard(&self) -> Option<Told> {
        match &self.handed {
            Some(handed) if handed.is_open => handed.maybe(self.told),
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

    /// It need not hear that the alert is over, so it is as if it had.
    fn settle(&mut self) {
        if let Some(told) = self.told.as_mut().filter(|told| told.phase == Phase::Firing || told.is_flapping) {
            (told.phase, told.is_flapping, told.is_sure) = (Phase::Resolved, false, true);
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
        if matches!(failure, SendFailure::Unclear(_)) {
            self.told = handed.maybe(self.told);
        }
        // No attempts: what was attempted is no longer true, and what is true now has not been tried.
        if self.attempts > 0 {
            self.next_at = now.plus(failure.back_off(self.attempts));
        }
    }
}

impl Handed {
    /// What is known to one who has heard `told`, and may have heard this.
    fn maybe(&self, told: Option<Told>) -> Option<Told> {
        let is_known = |told: Told| Told { at: self.told.at, ..told } == self.told;
        if self.told.phase == Phase::Firing && !told.is_some_and(is_known) {
            Some(Told { is_sure: false, ..self.told })
        } else {
            told
        }
    }
}

impl Purpose {
    /// A word for keys and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alerts => "alerts",
            Self::Repeat => "repeat",
            Self::Flapping => "flapping",
            Self::Calm => "calm",
            Self::Standing => "standing",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Held => "held",
            Self::Test => "test",
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod storms;
#[cfg(test)]
mod tests;
