//! The document against the router: every path, every method, and what is answered.

use std::collections::BTreeSet;

use boon::{Compiler, Schemas};

use super::*;
use crate::core::alert::{Phase, Severity};
use crate::core::fixture;
use crate::core::observation::PollFailure;
use crate::core::snapshot::Snapshot;
use crate::http::tests::{ask, state_of};
use crate::http::{AppState, PATHS, methods, routes};

const METHODS: [&str; 8] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"];

/// The paths of the document by the pattern of the route that answers them.
fn documented(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().expect("paths");
    let route = |path: &String| match path.strip_prefix("/patroni/{cluster}/{target}/") {
        Some("") | None => path.clone(),
        Some(_) => "/patroni/{cluster}/{target}/{*path}".to_owned(),
    };
    paths.keys().map(route).collect()
}

/// A path with what its parameters are for example: those in it, and of its query those that must be.
fn example_of(path: &str, operation: &Value) -> String {
    let mut example = path.to_owned();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().expect("a name");
        let value = parameter["example"].to_string();
        let value = value.trim_matches('"');
        if parameter["in"] == "path" {
            example = example.replace(&format!("{{{name}}}"), value);
        } else if parameter["required"] == true {
            example.push_str(&format!("?{name}={value}"));
        }
    }
    example
}

fn fleet(change: impl FnOnce(&mut Vec<crate::core::snapshot::TargetView>)) -> Snapshot {
    let mut targets = fixture::orders();
    change(&mut targets);
    let alerts = vec![
        fixture::alert("ReplicaLagging", Severity::Warning, Phase::Firing, &[]),
        fixture::alert("SlotRetainingWal", Severity::Critical, Phase::Pending, &[("slot", "debezium")]),
    ];
    fixture::snapshot(vec![fixture::cluster("orders", targets, alerts)])
}

fn states() -> [AppState; 2] {
    let ill = |targets: &mut Vec<_>| {
        fixture::fail(&mut targets[0], PollFailure::Refused);
        fixture::fail(&mut targets[1], PollFailure::Refused);
    };
    [state_of(fleet(|_| ())), state_of(fleet(ill))]
}

#[test]
fn each_path_of_the_router_is_in_the_document_and_the_other_way_round() {
    let routes: BTreeSet<String> = routes().into_iter().map(|(path, _)| path.to_owned()).collect();
    assert_eq!(documented(&document(Guard::AsConfigured)), routes);
    // What people are told of is among them.
    for (path, _) in PATHS {
        let is_there = routes.contains(path) || path == "/patroni/{cluster}/{target}/{path}";
        assert!(is_there, "{path} is listed and not answered");
    }
}

#[tokio::test]
async fn the_methods_are_those_of_the_document_and_allow_names_them() {
    let [state, _] = states();
    let document = document(Guard::AsConfigured);
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let operations = operations.as_object().expect("operations");
        let mut expect: BTreeSet<&str> = BTreeSet::new();
        for method in operations.keys() {
            match method.as_str() {
                "get" => expect.extend(["GET", "HEAD", "OPTIONS"]),
                "post" => expect.extend(["POST"]),
                "delete" => expect.extend(["DELETE"]),
                other => panic!("{other} {path}"),
            }
        }
        let path = example_of(path, operations.values().next().expect("an operation"));
        let allowed = methods(path.split('?').next().unwrap_or_default());
        assert_eq!(allowed.split(", ").collect::<BTreeSet<_>>(), expect, "{path}");
        for method in METHODS.into_iter().filter(|method| *method != "GET" || !path.starts_with("/live")) {
            let got = ask(&state, method, &path, "*/*").await;
            assert_eq!(got.status == 405, !expect.contains(method), "{method} {path}: {}", got.status);
            if got.status == 405 || (method == "OPTIONS" && got.status == 200) {
                assert_eq!(got.headers["allow"], allowed, "{method} {path}");
            }
        }
    }
}

/// Whether an answer is as the document says of its path: why not.
fn fault(document: &Value, operation: &Value, status: u16, kind: &str, body: &str) -> Result<(), String> {
    let response = &operation["responses"][status.to_string()];
    let response = match response["$ref"].as_str() {
        Some(reference) => &document["components"]["responses"][reference.rsplit('/').next().unwrap_or_default()],
        None => response,
    };
    let kind = kind.split(';').next().unwrap_or_default();
    let content = response["content"].as_object().ok_or_else(|| format!("{status} is not told of"))?;
    let (_, content) = content
        .iter()
        .find(|(told, _)| told.split(';').next() == Some(kind))
        .ok_or_else(|| format!("{kind} is not told of"))?;
    if kind != "application/json" {
        return Ok(());
    }
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": document["components"],
        "allOf": [content["schema"]],
    });
    let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
    compiler.add_resource("pgvigil:answer", schema).map_err(|error| error.to_string())?;
    let compiled = compiler.compile("pgvigil:answer", &mut schemas).map_err(|error| format!("{error:#}"))?;
    let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    schemas.validate(&body, compiled).map_err(|error| format!("{error:#}"))
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let document = document(Guard::AsConfigured);
    let mut n_answers = 0;
    for state in states() {
        for (path, operations) in document["paths"].as_object().expect("paths") {
            let Some(operation) = operations.get("get").filter(|_| path != "/live") else { continue };
            let example = example_of(path, operation);
            for asked in [example.clone(), example.replace("orders", "nothing"), format!("{example}?role=x")] {
                for accept in ["*/*", "text/plain"] {
                    let got = ask(&state, "GET", &asked, accept).await;
                    let kind = got.headers["content-type"].to_str().expect("text");
                    let fault = fault(&document, operation, got.status, kind, &got.body);
                    assert_eq!(fault, Ok(()), "{asked} {accept}: {} {}", got.status, got.body);
                    n_answers += 1;
                }
            }
        }
    }
    assert!(n_answers > 300, "{n_answers}");
}

#[test]
fn what_is_told_of_a_field_reaches_the_document() {
    let document = document(Guard::AsConfigured);
    let schemas = &document["components"]["schemas"];
    let lag = &schemas["TargetVerdict"]["properties"]["lag_seconds"];
    assert_eq!(lag["description"], "0 on the primary. `null` when not known.");
    assert_eq!(lag["type"], json!(["number", "null"]));
    assert_eq!(schemas["Role"]["anyOf"].as_array().or(schemas["Role"]["oneOf"].as_array()).map(Vec::len), Some(2));
    assert!(!document.to_string().contains("[`"), "links to code are of no use here");
}

#[test]
fn a_daemon_says_who_must_show_what() {
    let auth = |json: Value| serde_json::from_value::<AuthConfig>(json).expect("a section");
    let security =
        |guard: Guard<'_>, path: &str, method: &str| document(guard)["paths"][path][method]["security"].clone();
    let (password, token) = (json!({ "password": [] }), json!({ "token": [] }));
    let all =
        auth(json!({ "user": "ops", "password": "open sesame", "token": "the-token-of-readers", "health": true }));
    let guard = Guard::Of { auth: Some(&all), has_token: true };
    assert_eq!(security(guard, "/api/v1/clusters", "get"), json!([password, token]));
    assert_eq!(security(guard, "/healthz", "get"), json!([password, token]));
    assert_eq!(security(guard, "/metrics", "get"), json!([]));
    assert_eq!(security(guard, "/api/v1/silences", "post"), json!([{ "writing": [] }]));
    let some = auth(json!({ "user": "ops", "password": "open sesame" }));
    let guard = Guard::Of { auth: Some(&some), has_token: false };
    assert_eq!(security(guard, "/api/v1/clusters", "get"), json!([password]));
    assert_eq!(security(guard, "/healthz", "get"), json!([]));
    let open = Guard::Of { auth: None, has_token: true };
    assert_eq!(security(open, "/api/v1/clusters", "get"), json!([]));
    assert_eq!(document(open)["paths"]["/api/v1/clusters"]["get"]["responses"]["401"], Value::Null);
    assert_eq!(security(Guard::AsConfigured, "/api/v1/clusters", "get"), json!([{}, password, token]));
}

#[test]
fn examples_of_what_is_asked_are_as_the_document_says() {
    let document = document(Guard::AsConfigured);
    let check = |what: &str, schema: &Value, example: &Value| {
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        let mut schema = schema.clone();
        schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        compiler.add_resource("pgvigil:asked", schema).expect("a schema");
        let compiled = compiler.compile("pgvigil:asked", &mut schemas).expect("a schema");
        assert!(schemas.validate(example, compiled).is_ok(), "{what}: {example}");
    };
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for operation in operations.as_object().expect("operations").values() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                check(path, &parameter["schema"], &parameter["example"]);
            }
            if let Some(body) = operation.get("requestBody") {
                let content = &body["content"]["application/json"];
                check(path, &content["schema"], &content["example"]);
            }
        }
    }
}
