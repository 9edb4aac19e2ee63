//! Signals of Aurora global databases, stated once a cluster, as the target tells them that was surveyed last.

use super::row::per_cluster;
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::observation::Flavor;
use crate::core::snapshot::ClusterView;
use crate::core::survey::{AuroraGlobal, AuroraReaderLag, AuroraRegion};
use crate::core::time::MonoTime;

/// A lag that was calculated longer ago than this says nothing about the present. Seconds.
const OLD: f64 = 300.0;

const LAG: &str = "For the region that writes, in no global database, and when not calculated within 5 minutes.";

pub(super) const ROWS: &[Signal] = &[
    per_cluster("aurora_global_durability_lag_seconds", Unit::Seconds, durability_lag)
        .labels(&["region"])
        .help("How far the storage of a region of the Aurora global database is behind the region that writes.")
        .absent(LAG)
        .from("aurora_global_db_status()"),
    per_cluster("aurora_global_rpo_lag_seconds", Unit::Seconds, rpo_lag)
        .labels(&["region"])
        .help("How much of the latest commits would be lost, were the region to take over now.")
        .absent(LAG)
        .from("aurora_global_db_status()"),
    per_cluster("aurora_global_visibility_lag_seconds", Unit::Seconds, visibility_lag)
        .labels(&["region", "instance"])
        .help("How far what an instance of another region shows is behind the instance that writes.")
        .absent("For the instance that writes, in no global database, and when not known.")
        .from("aurora_global_db_instance_status()"),
];

/// What the target says that was surveyed last. `Err`: nothing is known, or nothing is to be said.
fn global(cluster: &ClusterView, now: MonoTime) -> Result<&AuroraGlobal, Coverage> {
    let is_aurora = |flavor: Flavor| flavor == Flavor::Aurora;
    let has_aurora = cluster
        .targets
        .iter()
        .any(|target| target.answer.as_ref().is_none_or(|answer| is_aurora(answer.positions.identity.flavor)));
    let surveys = cluster.targets.iter().filter_map(|target| {
        let global = target.fresh_survey(now)?.aurora_global.as_deref()?;
        Some((target.survey.as_ref()?.answered_at, global))
    });
    surveys.max_by_key(|(answered_at, _)| *answered_at).map(|(_, global)| global).ok_or(if has_aurora {
        Coverage::Unknown
    } else {
        Coverage::Complete
    })
}

fn of_regions(
    cluster: &ClusterView,
    now: MonoTime,
    emit: Emit<'_>,
    lag: impl Fn(&AuroraRegion) -> Option<f64>,
) -> Coverage {
    let global = match global(cluster, now) {
        Ok(global) => global,
        Err(coverage) => return coverage,
    };
    let mut coverage = Coverage::Complete;
    for (place, region) in global.regions.iter().enumerate() {
        let is_repeated = global.regions[..place].iter().any(|earlier| earlier.region == region.region);
        match lag(region) {
            Some(_) if is_repeated => {}
            None => {}
            Some(lag) if region.age.is_some_and(|age| age <= OLD) => emit(&[&region.region], Value::exact(lag)),
            Some(_) => coverage = Coverage::Unknown,
        }
    }
    coverage
}

fn durability_lag(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_regions(cluster, now, emit, |region| region.durability_lag)
}

fn rpo_lag(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_regions(cluster, now, emit, |region| region.rpo_lag)
}

fn visibility_lag(cluster: &ClusterView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let global = match global(cluster, now) {
        Ok(global) => global,
        Err(coverage) => return coverage,
    };
    for (place, reader) in global.readers.iter().enumerate() {
        let is_same = |other: &AuroraReaderLag| other.region == reader.region && other.instance == reader.instance;
        if let Some(lag) = reader.visibility_lag
            && !global.readers[..place].iter().any(is_same)
        {
            emit(&[&reader.region, &reader.instance], Value::exact(lag));
        }
    }
    Coverage::Complete
}
