//! What RDS has in a region, as [`crate::core::discovery`] wants it.

use std::collections::BTreeMap;

use aws_sdk_rds::Client;
use aws_sdk_rds::primitives::DateTime;
use aws_sdk_rds::types::DbInstance;

use super::{Aws, Fault, Place};
use crate::core::discovery::{Instance, InstanceFacts, Listing};

/// As many as one answer may have.
const PAGE: i32 = 100;

const GIB: u64 = 1 << 30;

impl Aws {
    /// All that there is in a place, page by page.
    ///
    /// # Errors
    /// Some page did not come: half a list is none.
    pub async fn instances(&self, place: &Place) -> Result<Listing, Fault> {
        let rds = self.rds(place).await;
        let mut listing = Listing::default();
        let mut pages = rds.describe_db_instances().max_records(PAGE).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| Fault::of("rds:DescribeDBInstances", &error))?;
            listing.instances.extend(page.db_instances.unwrap_or_default().iter().filter_map(instance));
        }
        if listing.instances.iter().any(|instance| instance.db_cluster.is_some()) {
            let mut pages = rds.describe_db_clusters().max_records(PAGE).into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| Fault::of("rds:DescribeDBClusters", &error))?;
                let clusters = page.db_clusters.unwrap_or_default().into_iter();
                listing.db_clusters.extend(
                    clusters
                        .filter_map(|cluster| Some((cluster.db_cluster_identifier?, cluster.db_cluster_resource_id?))),
                );
            }
        }
        // Without it, all else is known.
        if let Ok(pending) = pending_maintenance(&rds).await {
            for instance in &mut listing.instances {
                instance.facts.pending_maintenance = Some(waiting_for(instance, &pending));
            }
        }
        Ok(listing)
    }
}

/// What RDS reports of one instance or DB cluster, by its identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    pub source_id: String,
    pub unix_seconds: i64,
    pub categories: Vec<String>,
    pub message: String,
}

impl Aws {
    /// What a place reports since `since`, in seconds since 1970.
    ///
    /// # Errors
    /// Some page did not come.
    pub async fn events(&self, place: &Place, since: i64) -> Result<Vec<Reported>, Fault> {
        let rds = self.rds(place).await;
        let question = rds.describe_events().start_time(DateTime::from_secs(since)).max_records(PAGE);
        let mut pages = question.into_paginator().send();
        let mut reported = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| Fault::of("rds:DescribeEvents", &error))?;
            reported.extend(page.events.unwrap_or_default().into_iter().filter_map(|event| {
                Some(Reported {
                    source_id: event.source_identifier?,
                    unix_seconds: event.date?.secs(),
                    categories: event.event_categories.unwrap_or_default(),
                    message: event.message.unwrap_or_default(),
                })
            }));
        }
        Ok(reported)
    }
}

/// By the kind of thing, `db` or `cluster`, and its identifier: what waits for it.
type Pending = BTreeMap<(String, String), Vec<String>>;

/// What waits for an instance, and for the DB cluster that it is one of.
fn waiting_for(instance: &Instance, pending: &Pending) -> Vec<String> {
    let of_cluster = instance.db_cluster.iter().map(|id| ("cluster", id));
    let subjects = [("db", &instance.id)].into_iter().chain(of_cluster);
    subjects.filter_map(|(kind, id)| pending.get(&(kind.to_owned(), id.clone()))).flatten().cloned().collect()
}

async fn pending_maintenance(rds: &Client) -> Result<Pending, Fault> {
    let mut found = Pending::new();
    let mut pages = rds.describe_pending_maintenance_actions().max_records(PAGE).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| Fault::of("rds:DescribePendingMaintenanceActions", &error))?;
        for resource in page.pending_maintenance_actions.unwrap_or_default() {
            // arn:aws:rds:us-east-1:123456789012:db:orders
            let arn = resource.resource_identifier.unwrap_or_default();
            let mut parts = arn.rsplitn(3, ':');
            let (Some(id), Some(kind)) = (parts.next(), parts.next()) else { continue };
            let actions = resource.pending_maintenance_action_details.unwrap_or_default();
            found
                .entry((kind.to_owned(), id.to_owned()))
                .or_default()
                .extend(actions.into_iter().filter_map(|action| action.action));
        }
    }
    Ok(found)
}

/// `None` for what has no identity, which nothing has.
fn instance(from: &DbInstance) -> Option<Instance> {
    let endpoint = from
        .endpoint
        .as_ref()
        .and_then(|endpoint| Some((endpoint.address.clone()?, u16::try_from(endpoint.port?).ok()?)));
    let tags = from.tag_list.iter().flatten();
    let tags = tags.filter_map(|tag| Some((tag.key.clone()?, tag.value.clone().unwrap_or_default()))).collect();
    Some(Instance {
        resource_id: from.dbi_resource_id.clone()?,
        id: from.db_instance_identifier.clone()?,
        engine: from.engine.clone().unwrap_or_default(),
        endpoint,
        db_cluster: from.db_cluster_identifier.clone(),
        source: from.read_replica_source_db_instance_identifier.clone().filter(|source| !source.is_empty()),
        replicas: from.read_replica_db_instance_identifiers.clone().unwrap_or_default(),
        tags,
        facts: facts(from),
    })
}

fn facts(from: &DbInstance) -> InstanceFacts {
    let gibibytes = |size: Option<i32>| size.and_then(|size| u64::try_from(size).ok()).map(|size| size * GIB);
    let replication =
        from.status_infos.iter().flatten().find(|info| info.status_type.as_deref() == Some("read replication"));
    InstanceFacts {
        status: from.db_instance_status.clone(),
        replication: replication.and_then(|info| Some((info.normal?, info.status.clone().unwrap_or_default()))),
        certificate_valid_till: from
            .certificate_details
            .as_ref()
            .and_then(|details| details.valid_till)
            .map(|time| time.secs()),
        // Aurora has one volume for all, whose size it tells as 1.
        allocated_storage_bytes: gibibytes(from.allocated_storage).filter(|size| *size > GIB),
        max_storage_bytes: gibibytes(from.max_allocated_storage),
        multi_az: from.multi_az,
        backup_retention_days: from.backup_retention_period.and_then(|days| u32::try_from(days).ok()),
        pending_maintenance: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_cluster_waits_for_its_instances() {
        let of = |kind: &str, id: &str, action: &str| ((kind.to_owned(), id.to_owned()), vec![action.to_owned()]);
        let pending = Pending::from([
            of("cluster", "billing", "system-update"),
            of("cluster", "orders", "db-upgrade"),
            of("db", "orders", "ca-certificate-rotation"),
        ]);
        let instance = |id: &str, db_cluster: Option<&str>| {
            let from = DbInstance::builder().dbi_resource_id("db-1").db_instance_identifier(id);
            super::instance(&from.set_db_cluster_identifier(db_cluster.map(str::to_owned)).build())
                .expect("has an identity")
        };
        assert_eq!(waiting_for(&instance("billing-1", Some("billing")), &pending), ["system-update"]);
        assert_eq!(waiting_for(&instance("orders", None), &pending), ["ca-certificate-rotation"]);
        assert_eq!(waiting_for(&instance("other", None), &pending), [""; 0]);
    }
}
