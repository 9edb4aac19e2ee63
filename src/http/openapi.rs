//! `/api/v1/openapi.json`: every path as `OpenAPI` 3.1, for who generates clients and tests. Shapes of answers come from the types
//! that are written, with what is said of their fields; what is asked (parameters, bodies) is said here, and is refused where
//! it is not met.

mod operation;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use serde_json::{Map, Value, json};

use self::operation::{Content, Operation};
use super::auth::{AuthConfig, reader_of};
use super::metrics::CONTENT_TYPE;
use super::reply::{Refusal, Reply};
use super::{Ask, YesOrNo, api, assets, aws, drains, live, overall, page, patroni, probe, route, silences};
use crate::core::health;

/// Where clusters, targets and rules are named: see the configuration.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";

/// Seconds as a number, or with units from the largest to the smallest. All that it lets through is shorter than 30 days.
const DURATION: &str = "^([0-9]{1,6}(\\.[0-9]{1,9})?|[0-9]d([0-9]{1,2}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?|\
                        [0-9]{1,2}h([0-9]{1,4}m)?([0-9]{1,5}s)?|[0-9]{1,4}m([0-9]{1,5}s)?|[0-9]{1,5}s|[0-9]{1,6}ms)$";

/// How long somebody may wait: 30 s at most.
const WAIT: &str = "^(([0-9]|[12][0-9])(\\.[0-9]{1,9})?|30|([0-9]|[12][0-9]|30)s|([0-9]{1,4}|[12][0-9]{4}|30000)ms)$";

/// How long a silence or a drain may last, with a unit.
const LENGTH: &str = "^([1-9][0-9]{0,4}s|[1-9][0-9]{0,3}m|[1-9][0-9]?h|([1-9]|[12][0-9])d)( ?[1-9][0-9]{0,2}[sm])?$";

/// Bytes, or with a unit: kB, MB, GB and TB are of 1000 each, KiB, MiB and GiB of 1024.
const SIZE: &str = "^([0-9]{1,18}( ?B)?|[0-9]{1,6}(\\.[0-9]{1,9})? ?(kB|KB|MB|GB|TB|KiB|MiB|GiB))$";

/// Bytes, or with a unit of 1024 each.
const PATRONI_SIZE: &str = "^([0-9]{1,18}|[0-9]{1,6} ?(B|kB|MB|GB|TB))$";

const LSN: &str = "^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$";

/// One line with something in it.
const LINE: &str = "^[^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*$";

const ABOUT: &str = "\
Replication health of PostgreSQL. Every answer comes from memory: no request touches a database.

A number that is not known is `null`, or its field is left out where its description says so; it is never 0 instead. Units stand in \
the names: `_seconds`, `_bytes`, `_ms`. Times are RFC 3339 in UTC. Identifiers of 64 bits are strings.

HEAD and OPTIONS give the status of GET without a body, wherever there is a GET. `Accept: text/plain` gets one line instead of JSON \
from the health paths and from every refusal. A parameter that is not known or cannot be read is refused with 400, never ignored: so \
is a name that is given twice. What is no HTTP at all is answered 400, and a head of more than 16 KiB 431, without a body. A body is \
read up to 8 KiB, wherever it is sent.";

/// Who is asked who they are.
#[derive(Clone, Copy, Debug)]
pub enum Guard<'a> {
    /// Whoever `[server.auth]` may name: the document of no one daemon.
    AsConfigured,
    /// Those that this section names; nobody without one. Who knows `server.token` reads as well.
    Of { auth: Option<&'a AuthConfig>, has_token: bool },
}

impl Guard<'_> {
    /// What must be shown to read a path: one of these. Empty: nothing.
    fn reading(self, path: &str) -> Vec<Value> {
        let (password, token) = (json!({ "password": [] }), json!({ "token": [] }));
        match self {
            Self::AsConfigured => vec![json!({}), password, token],
            Self::Of { auth: Some(auth), has_token } if auth.asks(reader_of(path)) => {
                let password = auth.password.is_some().then_some(password);
                let token = (auth.token.is_some() || has_token).then_some(token);
                password.into_iter().chain(token).collect()
            }
            Self::Of { .. } => Vec::new(),
        }
    }
}

/// `/api/v1/openapi.json`: of this daemon, as it is configured.
pub(super) fn served(ask: &Ask<'_>) -> Reply {
    let guard = Guard::Of { auth: ask.state.auth.as_ref(), has_token: ask.state.token.is_some() };
    ask.without_parameters(|| Reply::json(axum::http::StatusCode::OK, &document(guard)))
}

/// The whole document.
pub fn document(guard: Guard<'_>) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.meta_schema = None;
        settings.definitions_path = "/components/schemas".into();
    });
    let mut schemas = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations(&mut schemas) {
        let security = if operation.writes() { vec![json!({ "writing": [] })] } else { guard.reading(&operation.path) };
        let (path, method) = (operation.path.clone(), operation.method);
        paths.entry(path).or_insert_with(|| json!({}))[method] = operation.into_value(security);
    }
    let refusal = schemas.subschema_for::<Refusal>().to_value();
    let mut schemas = schemas.take_definitions(true);
    for schema in schemas.values_mut() {
        tidy(schema);
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "pgvigil",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "How far each replica lags, why, and since when",
            "description": ABOUT,
            "license": { "name": "Apache License 2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "health", "description": "For load balancers, supervisors and uptime checks." },
            { "name": "api", "description": "What is known, for people's own tools." },
            { "name": "changes", "description": "Silences and drains. They are made and ended with the token of `server.token`." },
            { "name": "prometheus", "description": "What Prometheus reads." },
            { "name": "patroni", "description": "As Patroni's REST API answers, for those who come from there." },
            { "name": "page", "description": "The status page, for people." },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": operation::responses(&refusal),
            "securitySchemes": {
                "password": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "`user` and `password` of `[server.auth]`, where they are set. `/metrics` and the health paths \
                                    ask only where that is set too.",
                },
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`token` of `[server.auth]`, or `server.token`.",
                },
                "writing": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`server.token`: without one nothing can be changed over HTTP.",
                },
            },
        },
    })
}

/// Takes out what is said for those who read the code: links to other code.
fn tidy(schema: &mut Value) {
    let mut plain = RecursiveTransform(|schema: &mut schemars::Schema| {
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = text.replace("[`", "`").replace("`]", "`").replace("`None`", "`null`");
        }
    });
    if let Ok(schema) = <&mut schemars::Schema>::try_from(schema) {
        plain.transform(schema);
    }
}

fn text(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn cluster() -> Value {
    operation::in_path("cluster", "A cluster of the configuration.", text(NAME), json!("orders"))
}

fn target() -> Value {
    operation::in_path("target", "A target of the cluster.", text(NAME), json!("replica-1"))
}

fn query(name: &str, description: &str, schema: Value, example: Value) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": schema, "example": example })
}

fn of_cluster() -> Value {
    query("cluster", "That cluster alone. Without it: all.", text(NAME), json!("orders"))
}

fn limits() -> [Value; 4] {
    [
        query(
            "max_lag",
            "A replica that lags for longer, by what is known, is out. In seconds, or with units (`ms`, `s`, `m`, `h`, `d`); 30 days \
             at most. Without it and `max_lag_bytes` any lag will do.",
            text(DURATION),
            json!("5s"),
        ),
        query(
            "max_lag_bytes",
            "A replica with more WAL than that to replay is out. In bytes, or with a unit.",
            text(SIZE),
            json!("16MB"),
        ),
        query(
            "role",
            "A server of another role is out.",
            json!({ "type": "string", "enum": ["replica", "primary", "any"] }),
            json!("replica"),
        ),
        query(
            "max_age",
            "A server whose last sample is older is out. It can only be stricter than `poll.stale_after`. As `max_lag`.",
            text(DURATION),
            json!("10s"),
        ),
    ]
}

fn operations(schemas: &mut SchemaGenerator) -> Vec<Operation> {
    let yes_or_no = schemas.subschema_for::<YesOrNo>().to_value();
    let overall = schemas.subschema_for::<overall::Verdict>().to_value();
    let fitness = schemas.subschema_for::<health::Verdict>().to_value();
    let member = schemas.subschema_for::<patroni::View>().to_value();
    let silence = schemas.subschema_for::<silences::Done<'_>>().to_value();
    let drain = schemas.subschema_for::<drains::Done<'_>>().to_value();
    let route = schemas.subschema_for::<route::View<'_>>().to_value();
    let verdict = |path, summary, schema: &Value, yes, no| {
        Operation::get(path, "health", summary).answers(200, yes, Content::JsonOrLine(schema.clone())).answers(
            503,
            no,
            Content::JsonOrLine(schema.clone()),
        )
    };
    let api = |path, summary, schema: Value| {
        Operation::get(path, "api", summary)
            .answers(200, "What is known at this instant.", Content::Json(schema))
            .refuses(&[400])
    };
    let metrics = || Content::Text(CONTENT_TYPE);
    let mut all = vec![
        Operation::get("/metrics", "prometheus", "Everything known, in the format of Prometheus")
            .with([of_cluster()])
            .answers(200, "The series. One whose value is not known is absent.", metrics())
            .refuses(&[400, 404]),
        Operation::get("/probe", "prometheus", "One target or pooler alone, in the format of Prometheus")
            .with([operation::required(query(
                "target",
                "Its cluster and its name.",
                text("^[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"),
                json!("orders/replica-1"),
            ))])
            .answers(200, "Its series. Nothing is polled for it.", metrics())
            .refuses(&[400, 404]),
        Operation::get("/api/v1/sd", "prometheus", "The targets of `/probe`, for HTTP service discovery")
            .with([of_cluster()])
            .answers(
                200,
                "Each with the address under which this was asked.",
                Content::Json(schemas.subschema_for::<Vec<probe::TargetGroup>>().to_value()),
            )
            .refuses(&[400, 404]),
        verdict("/livez", "Whether the daemon's own loops make progress", &yes_or_no, "They do.", "They do not: restart it."),
        verdict(
            "/readyz",
            "Whether every target has been tried once",
            &yes_or_no,
            "Each was, whatever came of it.",
            "Not yet.",
        ),
        verdict(
            "/healthz",
            "The verdict over everything watched",
            &overall,
            "`ok` or `degraded`.",
            "`critical` or `stale`.",
        )
        .refuses(&[400]),
        verdict(
            "/healthz/{cluster}",
            "The verdict over one cluster",
            &overall,
            "`ok` or `degraded`.",
            "`critical` or `stale`.",
        )
        .with([cluster()])
        .refuses(&[400, 404]),
        verdict(
            "/healthz/{cluster}/{target}",
            "May reads be sent there?",
            &fitness,
            "They may.",
            "They may not: for whatever reason but a name that is not configured.",
        )
        .with([cluster(), target()])
        .with(limits())
        .refuses(&[400, 404]),
        api("/api/v1/clusters", "Topology, lags and alerts", schemas.subschema_for::<api::Clusters<'_>>().to_value()),
        api(
            "/api/v1/clusters/{cluster}",
            "One cluster in detail",
            schemas.subschema_for::<api::Cluster<'_>>().to_value(),
        )
        .with([cluster()])
        .refuses(&[400, 404]),
        api(
            "/api/v1/clusters/{cluster}/lag",
            "How far its replicas lagged in the last six hours, and when alerts fired",
            schemas.subschema_for::<page::Lags<'_>>().to_value(),
        )
        .with([cluster()])
        .refuses(&[400, 404]),
        Operation::get("/api/v1/clusters/{cluster}/route", "api", "Which server to read from")
            .with([cluster()])
            .with(limits())
            .with([
                query(
                    "lsn",
                    "Only a server that is proven to have replayed (the primary: flushed) the WAL up to there: so it has a write \
                     that ended before.",
                    text(LSN),
                    json!("0/16B3748"),
                ),
                query(
                    "timeline",
                    "Only a server on that timeline: the one on which `lsn` was written.",
                    json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
                    json!(1),
                ),
                query(
                    "wait",
                    "How long to wait for such a server, in seconds or with a unit; 30 s at most. Without it: not at all.",
                    text(WAIT),
                    json!("500ms"),
                ),
                query(
                    "fallback",
                    "What is answered when there is none: the primary, or nothing, which is the default.",
                    json!({ "type": "string", "enum": ["primary", "none"] }),
                    json!("primary"),
                ),
                query(
                    "pick",
                    "How one of several is picked: by chance, those that lag less more often (the default), or always the best.",
                    json!({ "type": "string", "enum": ["weighted", "best"] }),
                    json!("best"),
                ),
            ])
            .answers(200, "One that meets it all, or the fallback.", Content::JsonOrLine(route.clone()))
            .answers(503, "There is none now.", Content::JsonOrLine(route))
            .refuses(&[400, 404])
            .described("`role` is `replica` where it is not given. As text: `HOST:PORT`, or the target's name where no one host is configured."),
        api(
            "/api/v1/alerts",
            "Alerts that are pending, firing or resolved of late",
            schemas.subschema_for::<api::Alerts<'_>>().to_value(),
        ),
        api("/api/v1/aws", "Services of AWS that are asked", schemas.subschema_for::<aws::Services>().to_value()),
        Operation::get("/api/v1/openapi.json", "api", "This document")
            .answers(200, "As this daemon is configured.", Content::Json(json!({ "type": "object" })))
            .refuses(&[400]),
        Operation::get("/api/v1/silences", "changes", "Silences and maintenance")
            .answers(
                200,
                "Those at work, and of those that have ended the latest.",
                Content::Json(schemas.subschema_for::<silences::Silences<'_>>().to_value()),
            )
            .refuses(&[400]),
        Operation::post("/api/v1/silences", "changes", "Make a silence")
            .takes(silences::wanted_schema(&text(LENGTH), &text(LINE)), silences::wanted_example())
            .answers(201, "It is made, and kept.", Content::Json(silence.clone()))
            .refuses(&[400, 401, 403, 409, 415, 503]),
        Operation::get("/api/v1/silences/{id}", "changes", "One silence")
            .with([id()])
            .answers(
                200,
                "It, whether or not it has ended.",
                Content::Json(schemas.subschema_for::<silences::SilenceView<'_>>().to_value()),
            )
            .refuses(&[400, 404]),
        Operation::delete("/api/v1/silences/{id}", "changes", "End a silence")
            .with([id()])
            .answers(200, "It has ended. It is still shown, as `expired`.", Content::Json(silence))
            .refuses(&[401, 403, 404, 409, 503]),
        Operation::get("/api/v1/drains", "changes", "Targets that somebody keeps reads from")
            .answers(
                200,
                "Those at work.",
                Content::Json(schemas.subschema_for::<drains::Drains<'_>>().to_value()),
            )
            .refuses(&[400]),
        Operation::post("/api/v1/drains", "changes", "Keep reads from a target")
            .takes(drains::wanted_schema(&text(NAME), &text(LENGTH), &text(LINE)), drains::wanted_example())
            .answers(201, "No reads are sent there until it ends.", Content::Json(drain.clone()))
            .refuses(&[400, 401, 403, 404, 415, 503]),
        Operation::delete("/api/v1/drains/{cluster}/{target}", "changes", "Let reads be sent there again")
            .with([cluster(), target()])
            .answers(200, "It is drained no more.", Content::Json(drain.clone()))
            .refuses(&[400, 401, 403, 404, 503]),
        Operation::delete("/api/v1/drains/{target}", "changes", "The same, of a name that only one cluster has")
            .with([target()])
            .answers(200, "It is drained no more.", Content::Json(drain))
            .refuses(&[400, 401, 403, 404, 503]),
        Operation::get("/", "page", "The status page").answers(200, "For people.", Content::Text("text/html; charset=utf-8")),
        Operation::get("/clusters/{cluster}", "page", "The status page of one cluster")
            .with([cluster()])
            .answers(200, "For people.", Content::Text("text/html; charset=utf-8"))
            .refuses(&[404]),
        Operation::get("/live", "page", "What changes on the status page, as server-sent events")
            .with([of_cluster()])
            .answers(
                200,
                "Each event, one a second at most. The stream ends after some minutes: ask again.",
                Content::Events(schemas.subschema_for::<live::Event<'_>>().to_value()),
            )
            .refuses(&[400, 404, 503]),
        Operation::get("/assets/{name}", "page", "Its style and scripts")
            .with([
                operation::in_path("name", "", json!({ "type": "string", "enum": assets::names() }), json!("page.css")),
                query("v", "The version that the page asks for: that one may be kept.", json!({ "type": "string" }), json!("0")),
            ])
            .answers(200, "As it is in the binary.", Content::OneOf(assets::content_types()))
            .refuses(&[404]),
    ];
    let member_path = "/patroni/{cluster}/{target}";
    for (word, question) in &patroni::WORDS {
        all.push(of_patroni(format!("{member_path}/{word}"), *question, &yes_or_no, &member));
    }
    all.push(of_patroni(member_path.to_owned(), patroni::Question::Primary, &yes_or_no, &member));
    all
}

fn id() -> Value {
    operation::in_path(
        "id",
        "The silence's number.",
        json!({ "type": "integer", "minimum": 1, "maximum": u64::MAX }),
        json!(1),
    )
}

fn of_patroni(path: String, question: patroni::Question, yes_or_no: &Value, member: &Value) -> Operation {
    let schema = if question == patroni::Question::Liveness { yes_or_no } else { member };
    let parameter = |name: &&str| match *name {
        "lag" => query(
            "lag",
            "A replica with more WAL than that to replay is out. In bytes, or with a unit of 1024 each.",
            text(PATRONI_SIZE),
            json!("16MB"),
        ),
        "mode" => query(
            "mode",
            "Whether `lag` (1 MB where it is not given) is what is not replayed yet, or what is not received yet.",
            json!({ "type": "string", "enum": ["apply", "write"] }),
            json!("apply"),
        ),
        name => query(
            name,
            "A replica in another state is out.",
            json!({ "type": "string", "enum": ["streaming"] }),
            json!("streaming"),
        ),
    };
    Operation::get(&path, "patroni", question.purpose())
        .with([cluster(), target()])
        .with(question.parameters().iter().map(parameter))
        .answers(200, "Yes.", Content::JsonOrLine(schema.clone()))
        .answers(503, "No, or it is not known.", Content::JsonOrLine(schema.clone()))
        .refuses(&[400, 404])
}

#[cfg(test)]
mod tests;
