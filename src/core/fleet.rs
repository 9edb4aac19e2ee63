//! All the state there is, and the one function that changes it.

use super::ledger::Delivery;
use super::observation::{Observation, Survey};

/// All that can happen to the fleet.
#[derive(Clone, Debug)]
pub enum Event {
    /// A fast poll ended.
    Polled(Observation),
    /// A slow poll ended.
    Surveyed(Survey),
    /// An attempt to tell a notifier ended.
    Delivered(Delivery),
    /// Time has passed.
    Tick,
}
