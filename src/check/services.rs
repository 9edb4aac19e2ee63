//! Whether AWS allows what the daemon will ask of it, each action asked once.

use std::collections::BTreeSet;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use serde::Serialize;

use super::{Paper, Report};
use crate::aws::{Aws, COMMANDS_WAIT, Fault, Kind, Place};
use crate::config::Config;
use crate::notify::{NotifierConfig, sns};
use crate::table::{Tone, painted};

/// Who may not ask this may publish all the same, and pgvigil needs it for nothing else.
const TOPIC: &str = "sns:GetTopicAttributes";

/// What became of one action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AwsReport {
    pub action: &'static str,
    /// The region, and as whom; or the topic.
    pub place: String,
    /// Not tried is what cannot be without doing it.
    pub is_tried: bool,
    pub fault: Option<String>,
}

impl AwsReport {
    fn untried(action: &'static str, place: String) -> Self {
        Self { action, place, is_tried: false, fault: None }
    }
}

/// What it says of an action. Nothing, where nobody needs to be allowed it.
async fn tried(
    action: &'static str,
    place: String,
    asked: impl Future<Output = Result<(), Fault>>,
) -> Option<AwsReport> {
    let fault = match tokio::time::timeout(COMMANDS_WAIT, asked).await {
        Ok(Ok(())) => None,
        Ok(Err(Fault { kind: Kind::Denied { action }, .. })) if action.eq_ignore_ascii_case(TOPIC) => return None,
        Ok(Err(fault)) => Some(fault.reason),
        Err(_) => Some(format!("no answer to {action} within {}", humantime::format_duration(COMMANDS_WAIT))),
    };
    Some(AwsReport { action, place, is_tried: true, fault })
}

/// Asks all at once. What was looked for with `DescribeDBInstances`, and read with `GetSecretValue`, is reported elsewhere.
pub(super) async fn ask(config: &Config, aws: &Aws) -> Vec<AwsReport> {
    let regions = config.discover.iter().map(|discover| discover.region.0.iter().map(|region| discover.place(region)));
    let searched: BTreeSet<Place> = regions.flatten().collect();
    let mut asking: Vec<BoxFuture<'_, Option<AwsReport>>> = Vec::new();
    let mut untried = Vec::new();
    if let Some(wanted) = &config.wanted {
        let instances = config.instances.iter().map(|instance| &instance.place);
        let others = wanted.groups.iter().map(|group| &group.place).chain(wanted.lone.iter().map(|lone| &lone.place));
        let places: BTreeSet<&Place> = instances.chain(others).collect();
        for place in places {
            let asked = aws.may_read_metrics(place);
            asking.push(tried("cloudwatch:GetMetricData", place.to_string(), asked).boxed());
        }
        for group in &wanted.groups {
            let place = format!("{} ({})", group.place, group.group);
            asking.push(tried("elasticache:DescribeReplicationGroups", place, aws.may_read_group(group)).boxed());
        }
    }
    for place in &searched {
        asking.push(tried("rds:DescribeEvents", place.to_string(), aws.may_read_events(place)).boxed());
        let asked = aws.may_read_maintenance(place);
        asking.push(tried("rds:DescribePendingMaintenanceActions", place.to_string(), asked).boxed());
    }
    if let Some(publish) = &config.cloudwatch.publish {
        let place = Place { region: publish.region.clone(), role_arn: None };
        untried.push(AwsReport::untried("cloudwatch:PutMetricData", place.to_string()));
    }
    for notifier in &config.notifiers {
        let NotifierConfig::Sns(topic) = notifier else { continue };
        asking.push(tried(TOPIC, topic.topic_arn.clone(), has_topic(aws, topic)).boxed());
        untried.push(AwsReport::untried("sns:Publish", topic.topic_arn.clone()));
    }
    join_all(asking).await.into_iter().flatten().chain(untried).collect()
}

async fn has_topic(aws: &Aws, topic: &sns::Config) -> Result<(), Fault> {
    aws.has_topic(&topic.place(), topic.endpoint_url.as_deref(), &topic.topic_arn).await
}

impl Report {
    /// Each place with its faults. Without credentials all questions end alike, which is one fault.
    pub(super) fn aws_faults(&self) -> BTreeSet<(&str, &str)> {
        self.aws.iter().filter_map(|report| Some((&*report.place, report.fault.as_deref()?))).collect()
    }

    /// What AWS does not allow, what it does, and what was not tried.
    pub(super) fn of_aws(&self, paper: Paper) -> String {
        let mut text = String::new();
        let error = painted("error", Tone::Bad, paper.has_colour);
        for (place, fault) in self.aws_faults() {
            text.push_str(&format!("\n{error} in {place}: {fault}\n"));
        }
        let actions = |is_meant: fn(&AwsReport) -> bool| -> BTreeSet<&str> {
            self.aws.iter().filter(|report| is_meant(report)).map(|report| report.action).collect()
        };
        let refused = actions(|report| report.fault.is_some());
        let allowed: Vec<&str> = actions(|report| report.is_tried).difference(&refused).copied().collect();
        if !allowed.is_empty() {
            text.push_str(&format!("\nAWS allows {}\n", allowed.join(", ")));
        }
        let untried = actions(|report| !report.is_tried);
        if !untried.is_empty() {
            let hint = if untried.contains("sns:Publish") { "; `pgvigil notify test` tries sns:Publish" } else { "" };
            let untried: Vec<&str> = untried.into_iter().collect();
            text.push_str(&format!("\nnot tried: {}{hint}\n", untried.join(", ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_long_for_an_aws_that_does_not_answer() {
        // It takes connections, and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = config::tests::of_text(&format!(
            "[aws]\nendpoint_url = \"http://{}\"\n[[discover]]\nregion = \"us-east-1\"\nall = true\nuser = \"monitor\"\n\
             password = \"monitor\"\nsslmode = \"disable\"\n[cloudwatch]\nenabled = true\n[cloudwatch.publish]\nregion = \"us-east-1\"\n\
             [[notify]]\ntype = \"sns\"\ntopic_arn = \"arn:aws:sns:us-east-1:123456789012:alerts\"\n",
            silent.local_addr().unwrap()
        ));
        let start = tokio::time::Instant::now();
        let (config, sought) = crate::discovery::once(config).await;
        assert!(sought[0].fault.as_ref().unwrap().contains("no answer"), "{sought:?}");
        let reports = ask(&config, &Aws::new(config.aws.clone())).await;
        assert!(start.elapsed() < 2 * COMMANDS_WAIT + COMMANDS_WAIT / 10, "{:?}", start.elapsed());
        let has_no_answer = |report: &AwsReport| report.fault.as_ref().is_some_and(|it| it.contains("no answer to"));
        let told: Vec<(&str, bool)> = reports.iter().map(|report| (report.action, has_no_answer(report))).collect();
        assert_eq!(
            told,
            [
                ("rds:DescribeEvents", true),
                ("rds:DescribePendingMaintenanceActions", true),
                (TOPIC, true),
                ("cloudwatch:PutMetricData", false),
                ("sns:Publish", false),
            ]
        );
    }
}
