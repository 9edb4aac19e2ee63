//! The HTTP side: every answer comes from the last published snapshot. No page waits for a database, the engine or a
//! lock held across work, so that load on the monitor never becomes load on what it watches. (Only who makes a silence
//! waits for it to be made: see [`silences`].)
//!
//! Pages are plain functions from an [`Ask`] to a [`Reply`]; what is common to all (HEAD, OPTIONS, lengths, headers) is done
//! once. Clients are held to limits: see [`serve`].

mod api;
mod assets;
mod auth;
mod aws;
mod changes;
pub mod drains;
pub mod health_check;
pub mod history;
pub mod limits;
mod live;
pub mod metrics;
pub mod openapi;
pub mod overall;
mod page;
mod patroni;
mod probe;
mod reply;
mod route;
mod secret;
mod serve;
pub mod silences;
mod subscriptions;
pub mod tls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

pub use self::auth::AuthConfig;
pub use self::live::Live;
pub use self::metrics::MetricsConfig;
pub use self::serve::{places, serve, waiters};
pub use crate::core::health::HealthConfig;

use self::drains::Draining;
use self::history::History;
use self::limits::{Limits, decode};
use self::page::For;
use self::reply::Reply;
use self::silences::{Silencing, Token};
use self::tls::TlsConfig;
use crate::aws::Aws;
use crate::clock;
use crate::core::health;
use crate::core::snapshot::Snapshot;
use crate::core::time::MonoTime;
use crate::self_metrics::SelfMetrics;
use crate::waiting::Waiting;

/// `[server]`: where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port. Without `auth` nobody who reads is asked who it is: listen on loopback or a trusted network.
    #[serde(deserialize_with = "listen")]
    pub listen: SocketAddr,
    /// By which silences and drains can be made over HTTP. Not set: they cannot.
    pub token: Option<Token>,
    /// Who may read. Not set: everybody.
    pub auth: Option<AuthConfig>,
    /// Not set: plain HTTP.
    pub tls: Option<TlsConfig>,
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an address and a port; write for example \"127.0.0.1:9732\" or \"[::]:9732\""
        ))
    })
}

impl ServerConfig {
    /// Where it is found from its own machine.
    pub fn beside(&self) -> SocketAddr {
        let ip = match self.listen.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        SocketAddr::new(ip, self.listen.port())
    }

    /// The same as a URL, without a path.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.beside())
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9732)), token: None, auth: None, tls: None }
    }
}

/// What pages are made from.
#[derive(Clone, Debug)]
pub struct AppState {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub metrics: Arc<SelfMetrics>,
    pub health: HealthConfig,
    /// What series there are.
    pub exposition: MetricsConfig,
    pub silencing: Silencing,
    pub draining: Draining,
    pub token: Option<Token>,
    pub auth: Option<AuthConfig>,
    pub history: History,
    pub live: Live,
    /// As many clients may wait for a server to read from.
    pub waiters: Arc<Semaphore>,
    pub waiting: Arc<Waiting>,
    pub aws: Aws,
}

/// The paths there are, and what each is for.
pub const PATHS: [(&str, &str); 25] = [
    ("/metrics", "everything known, for Prometheus: ?cluster=orders"),
    ("/probe", "one target alone, for Prometheus: ?target=orders/replica-1"),
    ("/api/v1/sd", "the targets of /probe, for HTTP service discovery: ?cluster=orders"),
    ("/livez", "200 while the daemon's own loops make progress"),
    ("/readyz", "200 once every target has been tried once"),
    ("/healthz", "the verdict over everything watched"),
    ("/healthz/{cluster}", "the verdict over one cluster"),
    ("/healthz/{cluster}/{target}", "may reads be sent there: ?max_lag=5s&max_lag_bytes=16MB&role=replica&max_age=10s"),
    ("/api/v1/clusters", "topology, lags and alerts as JSON"),
    ("/api/v1/clusters/{cluster}", "one cluster in detail"),
    ("/api/v1/clusters/{cluster}/lag", "how far its replicas lagged in the last six hours"),
    (
        "/api/v1/clusters/{cluster}/route",
        "which server to read from: ?max_lag=1s&lsn=0/16B3748&wait=500ms&fallback=primary",
    ),
    ("/api/v1/alerts", "alerts that are pending, firing or resolved of late"),
    ("/api/v1/silences", "silences and maintenance; POST makes a silence"),
    ("/api/v1/silences/{id}", "one silence; DELETE ends it"),
    ("/api/v1/aws", "services of AWS that are asked, and why one does not answer"),
    ("/api/v1/drains", "targets that somebody keeps reads from; POST drains one"),
    ("/api/v1/drains/{cluster}/{target}", "DELETE undoes it"),
    ("/api/v1/drains/{target}", "the same, of a name that only one cluster has"),
    ("/api/v1/openapi.json", "all of this as OpenAPI 3.1"),
    ("/patroni/{cluster}/{target}/{path}", "as Patroni answers: primary, replica?lag=16MB, read-only, health"),
    ("/", "the status page"),
    ("/clusters/{cluster}", "the status page of one cluster"),
    ("/live", "what changes on the status page, as server-sent events; ?cluster= for one cluster's"),
    ("/assets/{name}", "its style and scripts"),
];

/// One request, with all that an answer may depend on.
struct Ask<'a> {
    state: &'a AppState,
    snapshot: Arc<Snapshot>,
    now: MonoTime,
    path: &'a str,
    query: Option<&'a str>,
    /// The header: where the client found us.
    host: Option<&'a str>,
    wants_text: bool,
}

type Page = fn(&Ask<'_>) -> Reply;

/// The paths by their patterns, each with what answers it.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<AppState>>)> {
    vec![
        ("/metrics", page(probe::metrics_page)),
        ("/probe", page(probe::probe)),
        ("/api/v1/sd", page(probe::discovery)),
        ("/livez", page(livez)),
        ("/readyz", page(readyz)),
        ("/healthz", page(healthz)),
        ("/healthz/{cluster}", page(healthz_cluster)),
        ("/healthz/{cluster}/{target}", page(healthz_target)),
        ("/api/v1/clusters", page(api_clusters)),
        ("/api/v1/clusters/{cluster}", page(api_cluster)),
        ("/api/v1/clusters/{cluster}/lag", page(api_lag)),
        ("/api/v1/clusters/{cluster}/route", get(route::page).options(route::page).fallback(wrong_method)),
        ("/api/v1/alerts", page(api_alerts)),
        ("/api/v1/silences", page(silences::list).post(silences::change)),
        ("/api/v1/silences/{id}", page(silences::one).delete(silences::change)),
        ("/api/v1/aws", page(aws::services)),
        ("/api/v1/drains", page(drains::list).post(drains::change)),
        ("/api/v1/drains/{target}", delete(drains::change).fallback(wrong_method)),
        ("/api/v1/drains/{cluster}/{target}", delete(drains::change).fallback(wrong_method)),
        ("/api/v1/openapi.json", page(openapi::served)),
        ("/patroni/{cluster}/{target}", page(patroni::page)),
        ("/patroni/{cluster}/{target}/", page(patroni::page)),
        ("/patroni/{cluster}/{target}/{*path}", page(patroni::page)),
        ("/", page(|ask| Reply::html(page::fleet(ask, For::Document).document()))),
        ("/clusters/{cluster}", page(cluster_page)),
        ("/assets/{name}", page(asset)),
        ("/live", get(live::events).options(live::events).fallback(wrong_method)),
    ]
}

/// What answers requests.
pub fn router(state: AppState) -> Router {
    let state = Arc::new(state);
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, answers)| router.route(path, answers))
        .fallback(no_such_path)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), ask_who))
        .with_state(state)
}

/// Lets in who may read. Whoever changes something is asked for more than that: see [`silences`].
async fn ask_who(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    match refused(&state, request.method(), request.uri(), request.headers()) {
        Some(response) => response,
        None => next.run(request).await,
    }
}

fn refused(state: &AppState, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    let reply = auth::refusal(state, uri.path(), headers, wants_text(headers))?;
    Some(auth::challenging(state, reply.into_response_to(method)))
}

/// A page answers GET, and HEAD and OPTIONS with the same status and no body.
fn page(page: Page) -> MethodRouter<Arc<AppState>> {
    let run = move |State(state): State<Arc<AppState>>, request: Request| async move {
        answer(&state, request.method(), request.uri(), request.headers(), page)
    };
    get(run).options(run).fallback(wrong_method)
}

fn answer(state: &AppState, method: &Method, uri: &Uri, headers: &HeaderMap, page: Page) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    let ask = Ask { query: uri.query(), host, wants_text: wants_text(headers), ..Ask::of_path(state, uri.path()) };
    allowing(uri.path(), page(&ask).into_response_to(method))
}

/// Names the methods that there are for a path, where that is asked.
fn allowing(path: &str, mut response: Response) -> Response {
    if let Some(allowed) = response.headers_mut().get_mut(header::ALLOW) {
        *allowed = HeaderValue::from_static(methods(path));
    }
    response
}

fn methods(path: &str) -> &'static str {
    match (path.strip_prefix("/api/v1/silences"), path.strip_prefix("/api/v1/drains")) {
        (Some(""), _) | (_, Some("")) => "GET, HEAD, OPTIONS, POST",
        (Some(_), _) => "GET, HEAD, OPTIONS, DELETE",
        (_, Some(_)) => "DELETE",
        (None, None) => "GET, HEAD, OPTIONS",
    }
}

/// The path that load balancers ask many times a second, without the way through the router. Its answer is the router's.
fn answer_at_once<B>(state: &AppState, request: &axum::http::Request<B>) -> Option<Response> {
    let is_read = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    (is_read && two_names(request.uri().path()).is_some()).then(|| {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        refused(state, method, uri, headers).unwrap_or_else(|| answer(state, method, uri, headers, healthz_target))
    })
}

fn wants_text(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/plain") && !accept.contains("application/json"))
}

async fn no_such_path(request: Request) -> Response {
    Reply::no_such_path(wants_text(request.headers())).into_response_to(request.method())
}

async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    allowing(path, Reply::wrong_method(methods(path), wants_text(request.headers())).into_response_to(request.method()))
}

fn livez(ask: &Ask<'_>) -> Reply {
    ask.yes_or_no("ok", "stuck", overall::stuck(&ask.snapshot, ask.now))
}

fn readyz(ask: &Ask<'_>) -> Reply {
    ask.yes_or_no("ready", "starting", overall::starting(&ask.snapshot))
}

fn healthz(ask: &Ask<'_>) -> Reply {
    ask.without_parameters(|| {
        let mut verdict = overall::of_all(&ask.snapshot, ask.now);
        if ask.state.metrics.is_store_failing() {
            verdict.add(
                overall::Overall::Degraded,
                "the store cannot be written: a restart would forget what was told".to_owned(),
            );
        }
        ask.overall(&verdict)
    })
}

fn healthz_cluster(ask: &Ask<'_>) -> Reply {
    let Some(cluster) = name_after(ask.path, "/healthz/").and_then(|name| ask.snapshot.cluster(&name).cloned()) else {
        return Reply::not_configured(ask.path, ask.wants_text);
    };
    ask.without_parameters(|| ask.overall(&overall::of_cluster(&ask.snapshot, &cluster, ask.now)))
}

fn healthz_target(ask: &Ask<'_>) -> Reply {
    let limits = match Limits::parse(ask.query) {
        Ok(limits) => limits,
        Err(bad) => return Reply::bad_parameter(&bad, ask.wants_text),
    };
    let verdict = two_names(ask.path).and_then(|(cluster, target)| {
        health::fitness(&ask.snapshot, ask.now, &decode(cluster)?, &decode(target)?, &limits, ask.state.health)
    });
    match verdict {
        None => Reply::not_configured(ask.path, ask.wants_text),
        Some(verdict) => {
            let status = match verdict.status {
                health::Status::Ok => StatusCode::OK,
                health::Status::Unfit => StatusCode::SERVICE_UNAVAILABLE,
            };
            if ask.wants_text { Reply::text(status, verdict.line()) } else { Reply::json(status, &verdict) }
        }
    }
}

fn api_clusters(ask: &Ask<'_>) -> Reply {
    ask.without_parameters(|| Reply::json(StatusCode::OK, &api::clusters(&ask.snapshot, ask.now)))
}

fn api_alerts(ask: &Ask<'_>) -> Reply {
    ask.without_parameters(|| Reply::json(StatusCode::OK, &api::alerts(&ask.snapshot, ask.now)))
}

fn api_cluster(ask: &Ask<'_>) -> Reply {
    match name_after(ask.path, "/api/v1/clusters/").and_then(|name| ask.snapshot.cluster(&name).cloned()) {
        Some(cluster) => {
            ask.without_parameters(|| Reply::json(StatusCode::OK, &api::cluster(&ask.snapshot, &cluster, ask.now)))
        }
        None => Reply::not_configured(ask.path, ask.wants_text),
    }
}

fn api_lag(ask: &Ask<'_>) -> Reply {
    let name = ask.path.strip_suffix("/lag").and_then(|path| name_after(path, "/api/v1/clusters/"));
    match name.and_then(|name| ask.snapshot.cluster(&name).cloned()) {
        Some(cluster) => ask.without_parameters(|| Reply::json(StatusCode::OK, &page::lags(ask, &cluster))),
        None => Reply::not_configured(ask.path, ask.wants_text),
    }
}

fn cluster_page(ask: &Ask<'_>) -> Reply {
    match name_after(ask.path, "/clusters/").and_then(|name| ask.snapshot.cluster(&name).cloned()) {
        Some(cluster) => Reply::html(page::cluster(ask, &cluster, For::Document).document()),
        None => Reply::not_configured(ask.path, ask.wants_text),
    }
}

fn asset(ask: &Ask<'_>) -> Reply {
    assets::reply(ask.path, ask.query).unwrap_or_else(|| Reply::no_such_path(ask.wants_text))
}

/// Yes or no, and why not.
#[derive(Serialize, JsonSchema)]
struct YesOrNo {
    status: &'static str,
    reasons: Vec<String>,
}

impl<'a> Ask<'a> {
    fn of_path(state: &'a AppState, path: &'a str) -> Self {
        // One statement: the borrow holds a lock that the engine's next publication would wait for.
        let snapshot = Arc::clone(&state.snapshots.borrow());
        Self { state, snapshot, now: clock::now(), path, query: None, host: None, wants_text: false }
    }

    fn yes_or_no(&self, yes: &'static str, no: &'static str, trouble: Option<String>) -> Reply {
        let (code, status) =
            if trouble.is_none() { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) };
        if self.wants_text {
            let line = trouble.map_or_else(|| format!("{status}\n"), |trouble| format!("{status}: {trouble}\n"));
            return Reply::text(code, line);
        }
        let reasons: Vec<String> = trouble.into_iter().collect();
        Reply::json(code, &YesOrNo { status, reasons })
    }

    fn overall(&self, verdict: &overall::Verdict) -> Reply {
        let code = if verdict.status.passes() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if self.wants_text { Reply::text(code, verdict.line()) } else { Reply::json(code, verdict) }
    }

    /// A limit given where none is known must not be believed to apply.
    fn without_parameters(&self, reply: impl FnOnce() -> Reply) -> Reply {
        let first = self.query.unwrap_or_default().split('&').find(|pair| !pair.is_empty());
        match first {
            None => reply(),
            Some(pair) => Reply::bad_parameter(
                &limits::BadParameter {
                    parameter: pair.split('=').next().unwrap_or_default().escape_default().to_string(),
                    reason: "this path takes no parameters".to_owned(),
                },
                self.wants_text,
            ),
        }
    }
}

/// The one name after `prefix`, decoded. `None` when it cannot be.
fn name_after(path: &str, prefix: &str) -> Option<String> {
    decode(path.strip_prefix(prefix)?).map(std::borrow::Cow::into_owned)
}

/// Cluster and target of `/healthz/{cluster}/{target}`, not yet decoded.
fn two_names(path: &str) -> Option<(&str, &str)> {
    let (cluster, target) = path.strip_prefix("/healthz/")?.split_once('/')?;
    (!cluster.is_empty() && !target.is_empty() && !target.contains('/')).then_some((cluster, target))
}

#[cfg(test)]
mod tests;
