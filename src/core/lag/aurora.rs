//! The lag of Aurora's readers, which measure it themselves.
//!
//! All instances of a cluster share one volume; a reader lags only with its cache. There is no WAL position to hold
//! against a history. But each instance tells what it last heard of every other one (`aurora_replica_status()`), so that a
//! reader that is not watched, or does not answer, is known by its peers. Of all the rows about a reader the freshest
//! counts; how old it is bounds what may have become of the lag since.

use std::collections::HashMap;
use std::sync::Arc;

use super::estimate::{EXACT_INTERVALS, Position, Reading};
use super::{Evidence, LagEstimate, LagTracker, mono_seconds};
use crate::core::observation::{AuroraInstance, AuroraState, Observation};
use crate::core::time::MonoTime;
use crate::core::topology::{Name, Role};
use crate::core::wal::{Lsn, WalBytes};

/// The instances of one cluster, as their polls showed them.
#[derive(Debug, Default)]
pub(super) struct Aurora {
    nodes: HashMap<Name, Node>,
    /// `None` before one has answered, and after it became a reader.
    writer: Option<Name>,
}

#[derive(Debug)]
struct Node {
    state: AuroraState,
    asked_at: MonoTime,
    answered_at: MonoTime,
    is_silent: bool,
}

impl Node {
    /// Whether by its own table it is the writer.
    fn names_itself(&self) -> bool {
        self.state.instances.iter().any(|row| row.is_writer && Some(&row.id) == self.state.instance.as_ref())
    }

    fn claims(&self) -> bool {
        !self.is_silent && self.state.role == Role::Primary
    }
}

/// A row about a reader.
#[derive(Clone, Copy)]
struct Told<'a> {
    by: &'a Name,
    node: &'a Node,
    row: &'a AuroraInstance,
    /// When it was true, in seconds of the monitor's clock; `None` when it does not say.
    at: Option<f64>,
}

/// How far a reader is behind the volume, in the units of Aurora's log sequence numbers, which count as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuroraBytes {
    pub unreceived: Option<WalBytes>,
    pub unread: Option<WalBytes>,
}

impl Aurora {
    pub(super) fn writer(&self) -> Option<&Name> {
        self.writer.as_ref()
    }

    pub(super) fn has(&self, target: &Name) -> bool {
        self.nodes.contains_key(target)
    }

    pub(super) fn forget(&mut self, target: &Name) {
        self.nodes.remove(target);
        if self.writer.as_ref() == Some(target) {
            self.writer = None;
        }
    }

    pub(super) fn failed(&mut self, target: &Name) {
        if let Some(node) = self.nodes.get_mut(target) {
            node.is_silent = true;
        }
    }

    pub(super) fn observe(&mut self, observation: &Observation, state: &AuroraState) {
        let name = &observation.target.target;
        let node = Node {
            state: state.clone(),
            asked_at: observation.asked_at,
            answered_at: observation.answered_at,
            is_silent: false,
        };
        if node.claims() {
            if !self.writer_keeps(name, &node) {
                self.writer = Some(name.clone());
            }
        } else if self.writer.as_ref() == Some(name) {
            self.writer = None;
        }
        self.nodes.insert(name.clone(), node);
        if self.writer.is_none() {
            self.writer = self.nodes.iter().find(|(_, node)| node.claims()).map(|(name, _)| name.clone());
        }
    }

    /// Whether the writer stays the one although `claimant` says it is one: it may be the same instance by another
    /// address, or an old writer that does not know yet.
    fn writer_keeps(&self, name: &Name, claimant: &Node) -> bool {
        let Some(writer) = self.writer.as_ref().filter(|writer| *writer != name) else { return false };
        self.nodes.get(writer).is_some_and(|node| {
            let is_same = node.state.instance.is_some() && node.state.instance == claimant.state.instance;
            node.claims() && (is_same || node.names_itself() || !claimant.names_itself())
        })
    }

    /// The freshest row about the instance behind `target` that `is_wanted`.
    fn freshest(&self, target: &Name, is_wanted: impl Fn(&AuroraInstance) -> bool) -> Option<Told<'_>> {
        let instance: &Arc<str> = self.nodes.get(target)?.state.instance.as_ref()?;
        let told = self.nodes.iter().flat_map(|(by, node)| {
            let is_own = node.state.instance.as_ref() == Some(instance);
            let rows = node.state.instances.iter().filter(|row| row.id == *instance && is_wanted(row));
            rows.map(move |row| {
                let age = row.age.or(is_own.then_some(0.0));
                Told { by, node, row, at: age.map(|age| mono_seconds(node.answered_at) - age) }
            })
        });
        told.max_by(|a, b| {
            let at = |told: &Told<'_>| told.at.unwrap_or(f64::NEG_INFINITY);
            at(a).total_cmp(&at(b)).then_with(|| a.node.answered_at.cmp(&b.node.answered_at))
        })
    }
}

impl LagTracker {
    /// As [`LagTracker::estimate`], of an Aurora instance.
    pub(super) fn aurora_estimate(&self, target: &Name, now: MonoTime) -> Option<LagEstimate> {
        let node = self.aurora.nodes.get(target)?;
        let as_of = if node.is_silent { now } else { node.answered_at };
        let mut position = Position::at(Lsn::new(0), as_of, as_of);
        if node.state.role == Role::Primary {
            let is_writer = self.aurora.writer.as_ref() == Some(target);
            return (!is_writer).then(|| self.told(Reading::unknown(Evidence::OtherPrimary), position));
        }
        let Some(told) = self.aurora.freshest(target, |row| row.replica_lag.is_some()) else {
            return Some(self.told(Reading::unknown(Evidence::NoPosition), position));
        };
        let Some(lag) = told.row.replica_lag else {
            return Some(self.told(Reading::unknown(Evidence::NoPosition), position));
        };
        if node.is_silent {
            position.upstream = told.by != target && !told.node.is_silent;
            position.last_known = !position.upstream;
        }
        // It was true between the question and the answer, less the row's own age.
        let transit = told.node.answered_at.seconds_since(told.node.asked_at);
        let age = told.at.map_or(f64::INFINITY, |at| (mono_seconds(as_of) - at).max(0.0) + transit);
        let is_fresh = age <= EXACT_INTERVALS * self.poll_interval;
        let reading = Reading {
            evidence: Evidence::Aurora,
            value: Some(lag),
            // It may have caught up since.
            lower: if is_fresh { lag } else { 0.0 },
            upper: lag + age,
            is_floor: true,
            is_guess: false,
            primary_lost: false,
        };
        Some(self.told(reading, position))
    }

    /// How far an Aurora reader is behind the volume, by one table that tells of it and of the writer. `None` for any
    /// other server, and when no table tells of both.
    pub fn aurora_bytes(&self, target: &Name) -> Option<AuroraBytes> {
        if self.aurora.nodes.get(target)?.state.role == Role::Primary {
            return None;
        }
        let told = self.aurora.freshest(target, |row| row.current_read_lsn.is_some())?;
        let end = told.node.state.instances.iter().find(|row| row.is_writer)?.durable_lsn?;
        let behind = |lsn: Option<u64>| Some(WalBytes(end.saturating_sub(lsn?)));
        Some(AuroraBytes {
            unreceived: behind(told.row.highest_lsn_received),
            unread: behind(told.row.current_read_lsn),
        })
    }
}
