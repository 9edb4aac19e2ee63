//! Everything that is decided: lag, rules, alerts, what notifiers must still be told. Pure: no clock, no I/O, no async.

pub mod alert;
pub mod alerting;
pub mod cause;
pub mod checkup;
pub mod datapoints;
#[cfg(test)]
pub(crate) mod fixture;
pub mod fleet;
pub mod glob;
pub mod heartbeat;
pub mod lag;
pub mod ledger;
pub mod mute;
pub mod observation;
pub mod pooler;
pub mod replay;
pub mod rule;
pub mod saved;
pub mod senders;
pub mod sessions;
pub mod shown;
pub mod signal;
pub mod silence;
pub mod skew;
pub mod slots;
pub mod snapshot;
pub mod statements;
pub mod subscription;
pub mod survey;
pub mod time;
pub mod topology;
pub mod trend;
pub mod wal;
pub mod wal_clock;
