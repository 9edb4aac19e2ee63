//! What Prometheus is given to scrape target by target: `/probe`, in the style of exporters that stand before many servers, and
//! the list of targets as HTTP service discovery reads it. Nothing is polled for either: all is from memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::limits::{BadParameter, one};
use super::metrics::Part;
use super::reply::Reply;
use super::{Ask, metrics};
use crate::core::snapshot::{ClusterView, PoolerView, TargetView};
use crate::core::topology::{Name, TargetId};

/// `/metrics`, of all or of one cluster.
pub(super) fn metrics_page(ask: &Ask<'_>) -> Reply {
    match one(ask.query, "cluster") {
        Err(bad) => Reply::bad_parameter(&bad, ask.wants_text),
        Ok(None) => ask.page(Part::Whole),
        Ok(Some(name)) => match ask.snapshot.cluster(&name) {
            Some(cluster) => ask.page(Part::Cluster(cluster)),
            None => Reply::not_configured(&name.escape_default().to_string(), ask.wants_text),
        },
    }
}

/// `/probe?target=orders/replica-1`.
pub(super) fn probe(ask: &Ask<'_>) -> Reply {
    let bad = |reason: &str| {
        let bad = BadParameter { parameter: "target".to_owned(), reason: reason.to_owned() };
        Reply::bad_parameter(&bad, ask.wants_text)
    };
    let target = match one(ask.query, "target") {
        Err(bad) => return Reply::bad_parameter(&bad, ask.wants_text),
        Ok(None) => return bad("missing; write target=CLUSTER/TARGET"),
        Ok(Some(target)) => target,
    };
    let Some((cluster, name)) = target.split_once('/') else { return bad("write CLUSTER/TARGET") };
    let found = ask.snapshot.cluster(cluster).filter(|c| c.target(name).is_some() || c.pooler(name).is_some());
    match found {
        Some(cluster) => ask.page(Part::Target(cluster, &Name::new(name))),
        None => Reply::not_configured(&target.escape_default().to_string(), ask.wants_text),
    }
}

/// Targets with what they have in common, as Prometheus reads them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ScrapeTarget")]
pub(super) struct TargetGroup {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

impl TargetGroup {
    /// To be scraped here: `address` is where Prometheus found us.
    fn new(address: &str, id: &TargetId, kind: &str) -> Self {
        let name = format!("{}/{}", id.cluster, id.target);
        let labels = BTreeMap::from([
            ("__metrics_path__", "/probe".to_owned()),
            ("__param_target", name.clone()),
            ("__meta_pgvigil_cluster", id.cluster.to_string()),
            ("__meta_pgvigil_target", id.target.to_string()),
            ("__meta_pgvigil_kind", kind.to_owned()),
            // Not by the address, which is the same for all. What may change (a role) makes no series.
            ("instance", name),
        ]);
        Self { targets: [address.to_owned()], labels }
    }

    fn of_target(address: &str, target: &TargetView) -> Self {
        let mut group = Self::new(address, &target.id, "server");
        if let Some(answer) = &target.answer {
            let identity = &answer.positions.identity;
            let version = identity.version.split(' ').next().unwrap_or_default();
            group.labels.extend([
                ("__meta_pgvigil_role", answer.positions.role().as_str().to_owned()),
                ("__meta_pgvigil_flavor", identity.flavor.as_str().to_owned()),
                ("__meta_pgvigil_server_version", version.to_owned()),
            ]);
        }
        group
    }

    fn of_pooler(address: &str, pooler: &PoolerView) -> Self {
        Self::new(address, &pooler.id, "pooler")
    }
}

/// `/api/v1/sd`: every target and pooler, whether or not it answers.
pub(super) fn discovery(ask: &Ask<'_>) -> Reply {
    let cluster = match one(ask.query, "cluster") {
        Err(bad) => return Reply::bad_parameter(&bad, ask.wants_text),
        Ok(cluster) => cluster,
    };
    let clusters: Vec<&Arc<ClusterView>> = match &cluster {
        None => ask.snapshot.clusters.iter().collect(),
        Some(name) => match ask.snapshot.cluster(name) {
            Some(cluster) => vec![cluster],
            None => return Reply::not_configured(&name.escape_default().to_string(), ask.wants_text),
        },
    };
    let Some(address) = ask.host else {
        let reason = "the header Host is missing: it is the address that Prometheus is told to scrape".to_owned();
        return Reply::refusal(StatusCode::BAD_REQUEST, "bad_request", reason, ask.wants_text);
    };
    let groups = clusters.iter().flat_map(|cluster| {
        let targets = cluster.targets.iter().map(|target| TargetGroup::of_target(address, target));
        targets.chain(cluster.poolers.iter().map(|pooler| TargetGroup::of_pooler(address, pooler)))
    });
    Reply::json(StatusCode::OK, &groups.collect::<Vec<_>>())
}

impl Ask<'_> {
    fn page(&self, part: Part<'_>) -> Reply {
        let metrics = Arc::clone(&self.state.metrics);
        Reply::metrics(metrics::Page::new(Arc::clone(&self.snapshot), self.now, metrics, self.state.exposition, part))
    }
}
