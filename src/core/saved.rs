//! What must outlive a restart of the daemon, as values: alerts, what notifiers have been told of them, silences, and the
//! history of each cluster's WAL.
//!
//! Instants are the machine's boot clock, which goes on while the daemon does not run. After a boot, or on another
//! machine, alerts are moved to where they stood by the time of day ([`Saved::moved`]); a history of WAL is not worth the
//! doubt and is left behind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::alert::{AlertId, Recent, Severity, Track};
use super::alerting::Resolved;
use super::drain::SavedDrains;
use super::lag::SavedLag;
use super::ledger::{Episode, SavedAccount};
use super::silence::SavedSilences;
use super::time::MonoTime;
use super::topology::Name;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    pub alerts: BTreeMap<AlertId, SavedAlert>,
    /// By cluster.
    pub lags: BTreeMap<Name, SavedLag>,
    pub silences: SavedSilences,
    pub drains: SavedDrains,
    /// When it was written last: nothing is known since.
    pub at: Option<MonoTime>,
}

/// One alert that is not quiet, or was not of late, or of which somebody must still be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedAlert {
    #[serde(flatten)]
    pub track: Track,
    /// With the severer thresholds of its rule, by their severities.
    #[serde(default)]
    pub above: Vec<(Severity, Track)>,
    /// The highest severity with which it has fired in this life.
    #[serde(default)]
    pub worst: Option<Severity>,
    pub episode: Episode,
    pub resolved: Option<Resolved>,
    /// Readings of this life.
    #[serde(default)]
    pub recent: Recent,
    /// What notifiers have been told. `None` when there was nothing to tell.
    pub account: Option<SavedAccount>,
}

impl SavedAlert {
    fn tracks(&mut self) -> impl Iterator<Item = &mut Track> {
        std::iter::once(&mut self.track).chain(self.above.iter_mut().map(|(_, track)| track))
    }
}

impl Saved {
    /// The alerts, of which nothing is known since they were written.
    pub fn silent_alerts(mut self) -> BTreeMap<AlertId, SavedAlert> {
        if let Some(at) = self.at {
            self.alerts.values_mut().flat_map(SavedAlert::tracks).for_each(|track| track.hold(at));
        }
        self.alerts
    }

    /// The same on a clock that shows `nanos` more than the one it was saved by.
    #[must_use]
    pub fn moved(mut self, nanos: i64) -> Self {
        for alert in self.alerts.values_mut() {
            alert.tracks().for_each(|track| track.move_times(nanos));
            alert.recent.move_times(nanos);
            if let Some(resolved) = &mut alert.resolved {
                resolved.move_times(nanos);
            }
            if let Some(account) = &mut alert.account {
                account.move_times(nanos);
            }
        }
        self.silences.move_times(nanos);
        self.drains.move_times(nanos);
        if let Some(at) = &mut self.at {
            move_time(at, nanos);
        }
        self.lags.clear();
        self
    }
}

/// Moves an instant.
pub(super) fn move_time(time: &mut MonoTime, nanos: i64) {
    *time = MonoTime::from_nanos(time.as_nanos().saturating_add(nanos));
}
