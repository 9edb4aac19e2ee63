//! What one slow poll of one server said, matter by matter: NULL stays `None`, and nothing is derived.
//!
//! Each matter is asked in a message of its own, so that what is refused, locked or cut off costs that matter alone:
//! it is then `None`, and [`SurveyFacts::failures`] says why.

mod aurora;
mod backups;
mod recovery;
mod sessions;
mod slots;
mod statements;
mod subscriptions;

pub use aurora::{AuroraGlobal, AuroraReaderLag, AuroraRegion};
pub use backups::BaseBackup;
pub use recovery::{Conflicts, RecoverySettings};
pub use sessions::{Activity, Alike, Holder, Sessions, Tally};
pub use slots::Slot;
pub use statements::{StatementKey, StatementRow, Statements, Told};
pub use subscriptions::{ApplyWorker, Subscription, SubscriptionWorkers, TABLE_STATES};

use std::sync::Arc;

use super::observation::PollFailure;
use super::statements::StatementCounters;
use super::time::MonoTime;
use super::topology::TargetId;
use super::topology::synchronous::SyncStandbys;

/// The answer of one target to one slow poll, or why there is none at all.
#[derive(Clone, Debug)]
pub struct Survey {
    pub target: TargetId,
    pub asked_at: MonoTime,
    pub answered_at: MonoTime,
    pub outcome: Result<SurveyFacts, PollFailure>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SurveyFacts {
    /// `recovery_min_apply_delay`, in seconds; 0 when none is configured.
    pub apply_delay_seconds: Option<f64>,
    /// `None` also on a primary.
    pub recovery: Option<RecoverySettings>,
    /// `None` also on a primary.
    pub conflicts: Option<Conflicts>,
    /// `synchronous_standby_names`. `None` on a standby, where it means nothing.
    pub sync_standbys: Option<SyncStandbys>,
    pub sessions: Option<Sessions>,
    /// Names of the databases by OID, while the other matters are read.
    pub databases: Option<Vec<(u32, Arc<str>)>>,
    /// `pg_replication_slots`; empty when there are none.
    pub slots: Option<Vec<Slot>>,
    /// `pg_subscription`, of all databases; empty when there are none, and on a standby, where none can run.
    pub subscriptions: Option<Vec<Subscription>>,
    /// Subscriptions beyond those.
    pub subscriptions_left_out: usize,
    /// An Aurora global database; without regions when the cluster belongs to none. `None` on any other server.
    pub aurora_global: Option<Box<AuroraGlobal>>,
    /// `pg_stat_progress_basebackup`; empty when there are none.
    pub backups: Option<Vec<BaseBackup>>,
    /// `None` also when `pg_stat_statements` cannot be read at all
    /// ([`super::observation::Identity::statements`] says why).
    pub statements: Option<Statements>,
    /// What they added up to, which the collector keeps so that not all of them need be asked for, nor sent on.
    pub statement_counters: Option<Arc<StatementCounters>>,
    /// The matters that were asked about in vain, by name, each with the reason.
    pub failures: Vec<(&'static str, PollFailure)>,
}
