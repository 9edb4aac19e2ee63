//! `/api/v1/aws`: services of AWS that were asked, how it stands with them, and what was discovered.

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::Ask;
use super::api::time_of_day;
use super::reply::Reply;
use crate::core::circuit::State;
use crate::core::time::MonoTime;

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Aws")]
pub(super) struct Services {
    services: Vec<Service>,
    /// One for each `[[discover]]`.
    discoveries: Vec<Discovery>,
}

#[derive(Serialize, JsonSchema)]
struct Discovery {
    name: String,
    looks_for: String,
    clusters: usize,
    targets: usize,
    /// `null`: AWS has not been asked yet.
    asked_at: Option<String>,
    /// When AWS last said in full what there is. `null`: not since the start.
    answered_at: Option<String>,
    /// Why it did not the last time, and since when; what was known is watched on. `null` after an answer.
    fault: Option<String>,
    failing_since: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AwsService")]
struct Service {
    service: &'static str,
    /// `null`: the default one of AWS tools.
    region: Option<String>,
    /// As whom, where a role is assumed for it.
    role_arn: Option<String>,
    /// `closed`: it is asked as usual. `open`: not now. `half_open`: the next question decides.
    circuit: State,
    /// Why the last question failed, since when, and how many in a row. `null` after one that did not.
    reason: Option<String>,
    failing_since: Option<String>,
    failures: Option<u32>,
    /// When it is asked again. `null` where nothing holds that up.
    next_attempt_at: Option<String>,
}

pub(super) fn services(ask: &Ask<'_>) -> Reply {
    let at = |instant: MonoTime| time_of_day(ask.snapshot.wall_time(instant));
    let services = ask.state.aws.circuits(ask.now).into_iter().map(|view| {
        let failing = view.circuit.failing();
        Service {
            service: view.service.name(),
            region: view.place.region,
            role_arn: view.place.role_arn,
            circuit: view.state,
            reason: failing.map(|failing| failing.reason.clone()),
            failing_since: failing.and_then(|failing| at(failing.since)),
            failures: failing.map(|failing| failing.n_failures),
            next_attempt_at: failing.and_then(|failing| failing.next_at).and_then(at),
        }
    });
    let discoveries = ask.snapshot.discoveries.iter().map(|view| Discovery {
        name: view.name.to_string(),
        looks_for: view.looks_for.clone(),
        clusters: view.n_clusters,
        targets: view.n_targets,
        asked_at: view.tried_at.and_then(at),
        answered_at: view.succeeded_at.and_then(at),
        fault: view.failing.as_ref().map(|(_, fault)| fault.clone()),
        failing_since: view.failing.as_ref().and_then(|(since, _)| at(*since)),
    });
    ask.without_parameters(|| {
        Reply::json(StatusCode::OK, &Services { services: services.collect(), discoveries: discoveries.collect() })
    })
}
