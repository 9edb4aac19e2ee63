//! `/api/v1/aws`: services of AWS that were asked, and how it stands with them.

use axum::http::StatusCode;
use serde::Serialize;

use super::Ask;
use super::api::time_of_day;
use super::reply::Reply;
use crate::core::circuit::State;
use crate::core::time::MonoTime;

#[derive(Serialize)]
struct Services {
    services: Vec<Service>,
}

#[derive(Serialize)]
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
    Reply::json(StatusCode::OK, &Services { services: services.collect() })
}
