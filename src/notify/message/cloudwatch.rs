//! A notice as CloudWatch tells SNS of an alarm that changed its state. Pagers know it and take no other: they look at
//! `AlarmName` to tell one incident from another, at `NewStateValue`, and at the subject, which must agree with it.
//!
//! An alarm has nothing to say of several alerts at once, so a notice is of one.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Topic, alive, cut, life, subject_line, text};
use crate::core::alert::{AlertView, Phase};
use crate::core::ledger::{Entry, Notice, Purpose};
use crate::core::rule::{Op, compared_with};
use crate::core::signal::Unit;

/// CloudWatch's own limits of a name, a description and a reason.
const MAX_NAME: usize = 255;
const MAX_DESCRIPTION: usize = 1024;
const MAX_REASON: usize = 1023;
/// Seconds of a period. Readings are kept a minute apart.
const PERIOD: u64 = 60;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Alarm<'a> {
    alarm_name: &'a str,
    alarm_description: String,
    #[serde(rename = "AWSAccountId")]
    account: &'a str,
    alarm_configuration_updated_timestamp: String,
    new_state_value: &'static str,
    new_state_reason: String,
    state_change_time: String,
    region: &'a str,
    alarm_arn: String,
    old_state_value: &'static str,
    #[serde(rename = "OKActions")]
    ok_actions: [String; 1],
    alarm_actions: [String; 1],
    insufficient_data_actions: [String; 0],
    trigger: Trigger<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Trigger<'a> {
    metric_name: &'a str,
    namespace: &'static str,
    statistic_type: &'static str,
    statistic: &'static str,
    unit: Option<&'static str>,
    dimensions: Vec<Dimension<'a>>,
    period: u64,
    evaluation_periods: u64,
    datapoints_to_alarm: u64,
    comparison_operator: &'static str,
    threshold: f64,
    treat_missing_data: &'static str,
    evaluate_low_sample_count_percentile: &'static str,
}

/// These keys are in lower case there.
#[derive(Serialize)]
struct Dimension<'a> {
    value: &'a str,
    name: &'a str,
}

const ALARM: &str = "ALARM";
const OK: &str = "OK";

/// Subject and body.
pub(super) fn alarm(notice: &Notice, topic: &Topic) -> (String, String) {
    let Some(entry) = notice.alerts.first() else { return heartbeat(notice, topic) };
    let alert = &entry.alert;
    let name = name(entry);
    let fires = alert.phase == Phase::Firing;
    let changed_at = if fires { entry.fired_at } else { entry.resolved_at }.unwrap_or(entry.active_at);
    let body = Alarm {
        alarm_name: &name,
        alarm_description: cut(description(notice.purpose, entry), MAX_DESCRIPTION),
        account: &topic.account,
        alarm_configuration_updated_timestamp: timestamp(entry.active_at),
        new_state_value: if fires { ALARM } else { OK },
        new_state_reason: cut(reason(notice.purpose, entry), MAX_REASON),
        state_change_time: timestamp(changed_at),
        region: topic.region_name(),
        alarm_arn: arn(topic, &name),
        // It was told that it fires before, and is told so again.
        old_state_value: if fires && notice.purpose != Purpose::Repeat { OK } else { ALARM },
        ok_actions: [topic.to_string()],
        alarm_actions: [topic.to_string()],
        insufficient_data_actions: [],
        trigger: trigger(entry),
    };
    written(&body)
}

/// An alarm that is always well.
fn heartbeat(notice: &Notice, topic: &Topic) -> (String, String) {
    let says = match notice.purpose {
        Purpose::Heartbeat { every } => alive(every),
        _ => String::new(),
    };
    // Its key says when it is.
    let seconds = notice.dedup_key.rsplit('-').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    let at = timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let body = Alarm {
        alarm_name: "pgvigil heartbeat",
        alarm_description: says.clone(),
        account: &topic.account,
        alarm_configuration_updated_timestamp: at.clone(),
        new_state_value: OK,
        new_state_reason: says,
        state_change_time: at,
        region: topic.region_name(),
        alarm_arn: arn(topic, "pgvigil heartbeat"),
        old_state_value: OK,
        ok_actions: [topic.to_string()],
        alarm_actions: [topic.to_string()],
        insufficient_data_actions: [],
        trigger: Trigger {
            metric_name: "heartbeat",
            namespace: "pgvigil",
            statistic_type: "Statistic",
            statistic: "MAXIMUM",
            unit: None,
            dimensions: Vec::new(),
            period: PERIOD,
            evaluation_periods: 1,
            datapoints_to_alarm: 1,
            comparison_operator: "LessThanThreshold",
            threshold: 1.0,
            treat_missing_data: "breaching",
            evaluate_low_sample_count_percentile: "",
        },
    };
    written(&body)
}

fn written(body: &Alarm<'_>) -> (String, String) {
    let subject = format!("{}: \"{}\" in {}", body.new_state_value, body.alarm_name, body.region);
    let body = serde_json::to_string(body).expect("text and numbers always serialize");
    (subject_line(&subject), body)
}

/// The same for all that is told of one alert, on every daemon. One that is too long keeps what tells it from others.
fn name(entry: &Entry) -> String {
    let name = entry.alert.id.to_string();
    if name.chars().count() <= MAX_NAME {
        return name;
    }
    let (_, hash) = life(entry);
    let kept: String = name.chars().take(MAX_NAME - hash.len() - 1).collect();
    format!("{kept}-{hash}")
}

fn arn(topic: &Topic, name: &str) -> String {
    format!("arn:{}:cloudwatch:{}:{}:alarm:{name}", topic.partition, topic.region, topic.account)
}

fn description(purpose: Purpose, entry: &Entry) -> String {
    let alert = &entry.alert;
    let sentences = [
        Some(alert.summary.clone().unwrap_or_else(|| text::sentence(purpose, entry))),
        entry.told.diagnosis.as_ref().map(|found| found.sentence.clone()),
        alert.runbook.as_ref().map(|runbook| format!("Runbook: {runbook}")),
    ];
    sentences.into_iter().flatten().collect::<Vec<_>>().join(". ")
}

/// `Threshold Crossed: 2 datapoints [12.5 (15/01/27 08:00:00), 75.25 (15/01/27 08:01:00)] were greater than the threshold
/// (5.0): orders/orders-replica-1 is 1m 15s behind its primary`.
fn reason(purpose: Purpose, entry: &Entry) -> String {
    let alert = &entry.alert;
    let sentence = text::sentence(purpose, entry);
    let is_plain = alert.gone.is_none() && purpose != Purpose::Test;
    let points: Vec<String> =
        entry.recent.iter().map(|(at, value)| format!("{value:?} ({})", day_first(*at))).collect();
    let Some((op, threshold)) = compared_with(&alert.condition, alert.unit).filter(|_| is_plain) else {
        return sentence;
    };
    let not = if alert.phase == Phase::Firing { "" } else { "not " };
    let compared = format!("{not}{} the threshold ({threshold:?})", in_words(op));
    match points.len() {
        0 => sentence,
        1 => format!("Threshold Crossed: 1 datapoint [{}] was {compared}: {sentence}", points[0]),
        n_points if alert.phase == Phase::Firing => {
            format!("Threshold Crossed: {n_points} datapoints [{}] were {compared}: {sentence}", points.join(", "))
        }
        // The earlier ones were beyond it.
        n_points => format!("Threshold Crossed: 1 datapoint [{}] was {compared}: {sentence}", points[n_points - 1]),
    }
}

fn trigger(entry: &Entry) -> Trigger<'_> {
    let alert = &entry.alert;
    let target = alert.id.target.as_ref().map(|target| ("target", target.as_str()));
    let labels = alert.id.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let dimensions = [("cluster", alert.id.cluster.as_str())].into_iter().chain(target).chain(labels);
    let (comparison_operator, threshold) = comparison(alert);
    let held = entry.fired_at.and_then(|at| at.duration_since(entry.active_at).ok()).unwrap_or_default();
    let periods = held.as_secs().div_ceil(PERIOD).max(1);
    Trigger {
        metric_name: alert.signal(),
        namespace: "pgvigil",
        statistic_type: "Statistic",
        statistic: "MAXIMUM",
        unit: match alert.unit {
            Unit::Seconds => Some("Seconds"),
            Unit::Bytes => Some("Bytes"),
            Unit::BytesPerSecond => Some("Bytes/Second"),
            Unit::Count => Some("Count"),
            // A ratio is no percentage, and CloudWatch has no other unit for it.
            Unit::Ratio | Unit::Bool => None,
        },
        dimensions: dimensions.map(|(name, value)| Dimension { value, name }).collect(),
        period: PERIOD,
        evaluation_periods: periods,
        datapoints_to_alarm: periods,
        comparison_operator,
        threshold,
        treat_missing_data: "ignore",
        evaluate_low_sample_count_percentile: "",
    }
}

/// What CloudWatch has no word for becomes what comes to the same for counts and 0/1.
fn comparison(alert: &AlertView) -> (&'static str, f64) {
    let (op, threshold) = compared_with(&alert.condition, alert.unit).unwrap_or((Op::Gt, 0.0));
    let word = match op {
        Op::Gt => "GreaterThanThreshold",
        Op::Ge => "GreaterThanOrEqualToThreshold",
        Op::Lt => "LessThanThreshold",
        Op::Le => "LessThanOrEqualToThreshold",
        Op::Eq if threshold <= 0.0 => "LessThanOrEqualToThreshold",
        Op::Eq => "GreaterThanOrEqualToThreshold",
        Op::Ne if threshold <= 0.0 => "GreaterThanThreshold",
        Op::Ne => "LessThanThreshold",
    };
    (word, threshold)
}

const fn in_words(op: Op) -> &'static str {
    match op {
        Op::Gt => "greater than",
        Op::Ge => "greater than or equal to",
        Op::Lt => "less than",
        Op::Le => "less than or equal to",
        Op::Eq => "equal to",
        Op::Ne => "other than",
    }
}

/// `2027-01-15T08:01:00.000+0000`.
fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string().replace('Z', "+0000")
}

/// `15/01/27 08:01:00`.
fn day_first(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    match (text.get(2..4), text.get(5..7), text.get(8..10), text.get(11..19)) {
        (Some(year), Some(month), Some(day), Some(time)) => format!("{day}/{month}/{year} {time}"),
        _ => text,
    }
}
