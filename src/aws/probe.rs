//! Whether AWS allows what the daemon will ask of it: each question once, for as little as it can be about. What cannot be
//! asked without doing it (`cloudwatch:PutMetricData`, `sns:Publish`) is not tried.

use std::time::SystemTime;

use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Metric, MetricDataQuery, MetricStat};

use super::cloudwatch::{Group, nodes_of};
use super::fault::{Fault, Kind};
use super::{Aws, COMMANDS_WAIT, Place};
use crate::clock;

/// As few as RDS hands out at a time.
const FEW: i32 = 20;

impl Aws {
    /// Asks for a minute of one metric.
    ///
    /// # Errors
    /// CloudWatch cannot be read.
    pub async fn may_read_metrics(&self, place: &Place) -> Result<(), Fault> {
        let now = clock::wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let metric = Metric::builder().namespace("AWS/RDS").metric_name("CPUUtilization").build();
        let stat = MetricStat::builder().metric(metric).period(60).stat("Average").build();
        let query = MetricDataQuery::builder().id("q").metric_stat(stat).return_data(true).build();
        let end = now - now % 60;
        let client = self.cloudwatch(place).await;
        let asked = client
            .get_metric_data()
            .metric_data_queries(query)
            .start_time(DateTime::from_secs(end - 60))
            .end_time(DateTime::from_secs(end))
            .send()
            .await;
        asked.map(drop).map_err(|error| Fault::of("cloudwatch:GetMetricData", &error))
    }

    /// # Errors
    /// What RDS reports cannot be read.
    pub async fn may_read_events(&self, place: &Place) -> Result<(), Fault> {
        let asked = self.rds(place).await.describe_events().max_records(FEW).send().await;
        asked.map(drop).map_err(|error| Fault::of("rds:DescribeEvents", &error))
    }

    /// # Errors
    /// Maintenance that waits cannot be read.
    pub async fn may_read_maintenance(&self, place: &Place) -> Result<(), Fault> {
        let asked = self.rds(place).await.describe_pending_maintenance_actions().max_records(FEW).send().await;
        asked.map(drop).map_err(|error| Fault::of("rds:DescribePendingMaintenanceActions", &error))
    }

    /// # Errors
    /// A replication group's nodes cannot be read.
    pub async fn may_read_group(&self, group: &Group) -> Result<(), Fault> {
        let nodes = nodes_of(self, group).await?;
        if nodes.is_empty() {
            let reason = format!("elasticache:DescribeReplicationGroups: {} has no nodes", group.group);
            return Err(Fault { kind: Kind::Refused, reason });
        }
        Ok(())
    }

    /// # Errors
    /// There is no such topic, or SNS cannot be asked about it.
    pub async fn has_topic(&self, place: &Place, endpoint_url: Option<&str>, topic_arn: &str) -> Result<(), Fault> {
        let client = self.sns(place, endpoint_url, COMMANDS_WAIT).await;
        let asked = client.get_topic_attributes().topic_arn(topic_arn).send().await;
        asked.map(drop).map_err(|error| Fault::of("sns:GetTopicAttributes", &error))
    }
}
