//! Whether this daemon, and not what it watches, is cut off.
//!
//! When its own network fails, everything falls silent at once. To page for each target then is a storm, and none of it
//! may be true. To keep quiet is worse: it may be true. So there is one alert, `MonitorIsolated`, which is critical and
//! says what was lost; all else is held as unknown until it is over.
//!
//! It takes a lot to believe it, since a cluster that is wholly down must page as that:
//!
//! - Only silence counts. A server that answers, refuses, or says that it is starting up is heard, so the network is there.
//! - At least three targets, and three quarters of all that were heard of late, fell silent within [`ONE_BEAT`].
//! - They are all the targets of at least two clusters; or of one, and a notifier cannot be reached either.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::core::alert::{AlertId, AlertView, DAEMON, Phase, Recent, SHOWN_AFTER_RESOLVED, Severity};
use crate::core::ledger::Episode;
use crate::core::observation::PollFailure;
use crate::core::signal::Unit;
use crate::core::snapshot::{ClusterView, TargetView};
use crate::core::time::MonoTime;
use crate::core::topology::Name;

/// The rule's name.
pub const RULE: &str = "MonitorIsolated";

/// What fails together is found out within a time-out of the poll and some.
const ONE_BEAT: Duration = Duration::from_secs(15);

/// It is over when it has not been so for this long: targets come back one after another.
const SETTLES_IN: Duration = Duration::from_secs(15);

const LEAST_TARGETS: usize = 3;
const LEAST_SHARE: f64 = 0.75;

/// What has fallen silent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Silence {
    pub(super) targets: usize,
    pub(super) of_targets: usize,
    /// All of whose targets are silent.
    pub(super) clusters: usize,
    pub(super) of_clusters: usize,
    /// The first of it.
    since: Option<MonoTime>,
}

/// The one alert.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    /// Since when, and its episode.
    isolated: Option<(MonoTime, Episode)>,
    clear_since: Option<MonoTime>,
    pub(super) silence: Silence,
    resolved: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Ended {
    since: MonoTime,
    at: MonoTime,
    episode: Episode,
}

impl Isolation {
    pub(super) const fn is_on(&self) -> bool {
        self.isolated.is_some()
    }

    /// Looks at what is silent. Answers with the alert when it begins or is over.
    pub(super) fn observe(
        &mut self,
        clusters: &[Arc<ClusterView>],
        cannot_notify: bool,
        now: MonoTime,
        wall: SystemTime,
    ) -> Option<(AlertView, Episode)> {
        let began = self.isolated.map(|(since, _)| since);
        let silence = Silence::of(clusters, began);
        let is_so = silence.is_isolation(cannot_notify);
        match self.isolated {
            None if is_so => {
                let episode = Episode::begin(wall, self.resolved.map(|ended| ended.episode));
                let since = silence.since.unwrap_or(now);
                (self.isolated, self.clear_since, self.silence) = (Some((since, episode)), None, silence);
                Some((self.view()?, episode))
            }
            None => None,
            Some(_) if is_so => {
                (self.clear_since, self.silence) = (None, silence);
                None
            }
            Some((since, episode)) => {
                let clear_since = *self.clear_since.get_or_insert(now);
                if now.duration_since(clear_since) < SETTLES_IN {
                    return None;
                }
                (self.isolated, self.clear_since, self.silence) = (None, None, silence);
                self.resolved = Some(Ended { since, at: now, episode });
                Some((self.view()?, episode))
            }
        }
    }

    /// Takes up the alert where it was left.
    pub(super) fn restore(&mut self, since: MonoTime, episode: Episode) {
        self.isolated = Some((since, episode));
    }

    pub(super) fn id() -> AlertId {
        AlertId { rule: Name::new(RULE), cluster: Name::new(DAEMON), target: None, labels: vec![] }
    }

    /// The alert, if there is one or was of late.
    pub(super) fn shown(&self, now: MonoTime) -> Option<AlertView> {
        let is_recent = |ended: Ended| now.duration_since(ended.at) < SHOWN_AFTER_RESOLVED;
        (self.is_on() || self.resolved.is_some_and(is_recent)).then(|| self.view())?
    }

    pub(super) fn view(&self) -> Option<AlertView> {
        let (phase, since, resolved_at) = match (self.isolated, self.resolved) {
            (Some((since, _)), _) => (Phase::Firing, since, None),
            (None, Some(Ended { since, at, .. })) => (Phase::Resolved, since, Some(at)),
            (None, None) => return None,
        };
        Some(AlertView {
            id: Self::id(),
            severity: Severity::Critical,
            phase,
            active_at: since,
            fired_at: Some(since),
            resolved_at,
            reading: Some(self.silence.share()),
            is_unknown: false,
            condition: format!("silent_targets_ratio >= {:.0}%", LEAST_SHARE * 100.0),
            unit: Unit::Ratio,
            gone: None,
            recent: Recent::default(),
            rule_labels: Vec::new(),
            summary: None,
            runbook: None,
            muted: Vec::new(),
        })
    }

    /// What helps to judge it.
    pub(super) fn details(&self) -> Vec<(String, String)> {
        let Silence { targets, of_targets, clusters, of_clusters, .. } = self.silence;
        let meaning = "Most of what is watched fell silent at once, and nothing there says that it is down: this daemon or its \
                       network is cut off, or all of it is. Until it is over nothing is known of anything else.";
        vec![
            ("meaning".to_owned(), meaning.to_owned()),
            ("silent_targets".to_owned(), format!("{targets} of {of_targets}")),
            ("silent_clusters".to_owned(), format!("{clusters} of {of_clusters}")),
        ]
    }
}

impl Silence {
    /// `began`: only what has fallen silent since about then counts, else what did so last.
    fn of(clusters: &[Arc<ClusterView>], began: Option<MonoTime>) -> Self {
        let silent_since = |target: &TargetView| {
            let failing = target.failing.as_ref()?;
            is_silence(&failing.failure).then_some(failing.since)
        };
        let targets = || clusters.iter().flat_map(|cluster| &cluster.targets);
        let Some(last) = began.or_else(|| targets().filter_map(|target| silent_since(target)).max()) else {
            return Self::default();
        };
        let is_old = |since: MonoTime| last.duration_since(since) > ONE_BEAT;
        let mut silence = Self::default();
        for cluster in clusters {
            let mut n_heard = 0;
            let mut n_silent = 0;
            for target in &cluster.targets {
                match (silent_since(target), &target.failing) {
                    (Some(since), _) if !is_old(since) => {
                        n_silent += 1;
                        silence.since = Some(silence.since.map_or(since, |first| first.min(since)));
                    }
                    // It was away before, and says nothing about the network.
                    (Some(_), _) => {}
                    (None, Some(_)) => n_heard += 1,
                    (None, None) if target.answer.is_some() => n_heard += 1,
                    // Not yet asked.
                    (None, None) => {}
                }
            }
            silence.targets += n_silent;
            silence.of_targets += n_silent + n_heard;
            silence.clusters += usize::from(n_silent > 0 && n_heard == 0);
            silence.of_clusters += usize::from(n_silent + n_heard > 0);
        }
        silence
    }

    fn is_isolation(&self, cannot_notify: bool) -> bool {
        self.targets >= LEAST_TARGETS
            && self.share() >= LEAST_SHARE
            && (self.clusters >= 2 || (self.clusters == 1 && self.of_clusters == 1 && cannot_notify))
    }

    fn share(&self) -> f64 {
        if self.of_targets == 0 { 0.0 } else { self.targets as f64 / self.of_targets as f64 }
    }
}

/// Whether a failure is what a network that is away looks like from here.
const fn is_silence(failure: &PollFailure) -> bool {
    matches!(failure, PollFailure::Timeout { .. } | PollFailure::Lookup { .. } | PollFailure::Connect { .. })
}
