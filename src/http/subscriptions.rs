//! A target's subscriptions as the API shows them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::core::lag::Certainty;
use crate::core::snapshot::TargetView;
use crate::core::subscription::SubscriptionLag;
use crate::core::survey::{Subscription, TABLE_STATES};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Subscription")]
pub(super) struct SubscriptionState<'a> {
    datname: &'a str,
    name: &'a str,
    enabled: bool,
    slot_name: Option<&'a str>,
    /// The apply worker runs.
    running: Option<bool>,
    parallel_apply_workers: Option<u64>,
    table_sync_workers: Option<u64>,
    received_lsn: Option<String>,
    latest_end_lsn: Option<String>,
    message_age_seconds: Option<f64>,
    /// By the state of their copy.
    tables: Option<BTreeMap<&'static str, u64>>,
    /// `null` unless the publisher is watched too, and known.
    lag: Option<Lag<'a>>,
    errors: BTreeMap<&'a str, u64>,
    conflicts: BTreeMap<&'a str, u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SubscriptionLag")]
struct Lag<'a> {
    publisher: Publisher<'a>,
    seconds: Option<f64>,
    lower_seconds: Option<f64>,
    /// `null` also when there is no upper bound.
    upper_seconds: Option<f64>,
    #[schemars(with = "Certainty")]
    certainty: &'static str,
    method: String,
    unconfirmed_bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Publisher<'a> {
    cluster: &'a str,
    target: &'a str,
}

impl<'a> SubscriptionState<'a> {
    pub(super) fn new(target: &'a TargetView, subscription: &'a Subscription) -> Self {
        let workers = subscription.workers.as_ref();
        let apply = workers.and_then(|workers| workers.apply.as_ref());
        let counts = |counts: &'a [(std::sync::Arc<str>, u64)]| {
            counts.iter().map(|(what, count)| (&**what, *count)).collect::<BTreeMap<_, _>>()
        };
        Self {
            datname: &subscription.datname,
            name: &subscription.name,
            enabled: subscription.enabled,
            slot_name: subscription.slot_name.as_deref(),
            running: workers.map(|workers| workers.apply.is_some()),
            parallel_apply_workers: workers.map(|workers| workers.parallel_apply),
            table_sync_workers: workers.map(|workers| workers.table_sync),
            received_lsn: apply.and_then(|apply| apply.received_lsn).map(|lsn| lsn.to_string()),
            latest_end_lsn: apply.and_then(|apply| apply.latest_end_lsn).map(|lsn| lsn.to_string()),
            message_age_seconds: apply.and_then(|apply| apply.message_age),
            tables: subscription
                .tables
                .map(|counts| TABLE_STATES.iter().map(|(_, state)| *state).zip(counts).collect()),
            lag: target.subscription_lag(subscription).map(Lag::new),
            errors: counts(&subscription.errors),
            conflicts: counts(&subscription.conflicts),
        }
    }
}

impl<'a> Lag<'a> {
    fn new(found: &'a SubscriptionLag) -> Self {
        let SubscriptionLag { publisher, lag, unconfirmed, .. } = found;
        let bound = |bound: f64| (lag.value.is_some() && bound.is_finite()).then_some(bound);
        Self {
            publisher: Publisher { cluster: publisher.cluster.as_str(), target: publisher.target.as_str() },
            seconds: lag.value,
            lower_seconds: bound(lag.lower),
            upper_seconds: bound(lag.upper),
            certainty: lag.certainty.as_str(),
            method: lag.method.to_string(),
            unconfirmed_bytes: unconfirmed.map(|bytes| bytes.0),
        }
    }
}
