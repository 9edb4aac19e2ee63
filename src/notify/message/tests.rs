use std::sync::LazyLock;

use boon::{Compiler, SchemaIndex, Schemas};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::core::alert::{AlertId, AlertView, Recent, Severity};
use crate::core::cause::Cause;
use crate::core::explain::Explanation;
use crate::core::ledger::Finding;
use crate::core::time::MonoTime;
use crate::core::topology::{Name, Role};

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

pub(crate) fn firing() -> Notice {
    of(firing_entry())
}

pub(crate) fn resolved() -> Notice {
    of(resolved_entry())
}

fn of(entry: Entry) -> Notice {
    Notice {
        notifier: Name::new("sns-1"),
        group: Group::Alert(entry.alert.id.clone()),
        purpose: Purpose::Alerts,
        dedup_key: entry.dedup_key.clone(),
        alerts: vec![entry],
        also_firing: vec![],
        attempt: 1,
    }
}

fn firing_entry() -> Entry {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Entry {
        alert: AlertView {
            id: AlertId {
                rule: Name::new("ReplicaLagging"),
                cluster: Name::new("orders"),
                target: Some(Name::new("orders-replica-1")),
                labels: vec![],
            },
            severity: Severity::Warning,
            phase: Phase::Firing,
            active_at: MonoTime::from_nanos(0),
            fired_at: Some(MonoTime::from_nanos(60_000_000_000)),
            resolved_at: None,
            reading: Some(75.25),
            is_unknown: false,
            condition: "replay_lag_seconds > 5s".to_owned(),
            unit: Unit::Seconds,
            gone: None,
            recent: Recent::default(),
            rule_labels: vec![],
            summary: None,
            runbook: None,
            muted: vec![],
        },
        dedup_key: "ReplicaLagging-firing-30000000.0-26e06d21722064a4390fd9f59861d1a0".to_owned(),
        active_at: wall(0),
        fired_at: Some(wall(60)),
        resolved_at: None,
        recent: vec![(wall(0), 12.5), (wall(60), 75.25)],
        told: Explanation {
            state: "orders/orders-replica-1 is 1m 15s behind its primary".to_owned(),
            role: Some(Role::Replica),
            diagnosis: None,
            details: vec![
                pair("certainty", "exact"),
                pair("method", "lsn+ts"),
                pair("server", "15.18"),
                pair("meaning", "Age of the oldest WAL that the replica has not replayed."),
            ],
            sensitive: vec![pair("clients", "10.0.0.5 (40)")],
        },
    }
}

fn resolved_entry() -> Entry {
    let notice = firing_entry();
    let alert = AlertView {
        phase: Phase::Resolved,
        resolved_at: Some(MonoTime::from_nanos(200_000_000_000)),
        reading: Some(0.25),
        ..notice.alert
    };
    let dedup_key = notice.dedup_key.replace("firing", "resolved");
    let state = "orders/orders-replica-1 is 0.25s behind its primary".to_owned();
    let told = Explanation { state, ..notice.told };
    Entry { alert, dedup_key, resolved_at: Some(wall(200)), told, ..notice }
}

fn unknown_slot() -> Notice {
    let notice = firing_entry();
    let id = AlertId {
        rule: Name::new("InactiveSlotRetainsWal"),
        labels: vec![("slot".to_owned(), "debezium".to_owned())],
        ..notice.alert.id
    };
    let alert = AlertView {
        id,
        severity: Severity::Critical,
        reading: Some(5e9),
        is_unknown: true,
        condition: "slot_inactive_retained_bytes > 1GiB".to_owned(),
        unit: Unit::Bytes,
        ..notice.alert
    };
    let told = Explanation {
        state: "slot debezium of orders/orders-replica-1 keeps 4.7 GiB of WAL, and nothing reads it".to_owned(),
        details: vec![("failing_for".to_owned(), "35s".to_owned())],
        ..Explanation::default()
    };
    of(Entry { alert, told, ..notice })
}

static SCHEMA: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let schema = include_str!("../../../config/alert.schema.json");
    let mut schema: Value = serde_json::from_str(schema).expect("it is JSON");
    // Readers ignore what they do not know; here it would be something that nobody has described.
    close(&mut schema);
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("http://pgvigil/alert.schema.json", schema).expect("a good place");
    let index = compiler.compile("http://pgvigil/alert.schema.json", &mut schemas).expect("a good schema");
    (schemas, index)
});

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") && object.contains_key("type") {
                object.entry("additionalProperties").or_insert(false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The JSON body, which is as its schema says.
fn body(notice: &Notice) -> Value {
    let body = Message::new(notice, Shape::Json).body;
    let body: Value = serde_json::from_str(&body).expect("it is JSON");
    let (schemas, index) = &*SCHEMA;
    if let Err(error) = schemas.validate(&body, *index) {
        panic!("{error:#}\n{body:#}");
    }
    body
}

fn topic() -> Topic {
    Topic::parse("arn:aws:sns:eu-west-1:123456789012:alerts").expect("a topic")
}

fn alarm(notice: &Notice) -> (Message, Value) {
    let message = Message::new(notice, Shape::Cloudwatch(&topic()));
    let alarm = serde_json::from_str(&message.body).expect("it is JSON");
    (message, alarm)
}

fn heartbeat() -> Notice {
    Notice {
        group: Group::All,
        purpose: Purpose::Heartbeat { every: Duration::from_secs(60) },
        alerts: vec![],
        dedup_key: "heartbeat-1800000000".to_owned(),
        ..firing()
    }
}

fn all_kinds() -> Vec<Notice> {
    let purposes = [Purpose::Alerts, Purpose::Repeat, Purpose::Flapping, Purpose::Calm, Purpose::Held, Purpose::Test];
    let of = |purpose| {
        let several = vec![diagnosed().alerts.remove(0), unknown_slot().alerts.remove(0), resolved_entry()];
        [vec![firing_entry()], vec![resolved_entry()], several].map(|alerts| Notice { purpose, alerts, ..firing() })
    };
    purposes.into_iter().flat_map(of).chain([heartbeat(), diagnosed(), unknown_slot(), gone()]).collect()
}

fn gone() -> Notice {
    let entry = unknown_slot().alerts.remove(0);
    let alert = AlertView { phase: Phase::Resolved, gone: Some(Gone::Subject), is_unknown: false, ..entry.alert };
    let told = Explanation { state: "slot debezium of orders/orders-replica-1 is gone".to_owned(), ..entry.told };
    of(Entry { alert, told, resolved_at: Some(wall(200)), ..entry })
}

fn diagnosed() -> Notice {
    let sentence = "orders-replica-1 is 1m 15s behind and falling further: replay is paused; also WAL arrives slower \
                    than it is made; at this rate it will not catch up";
    let causes = vec![Cause::ReplayPaused, Cause::SlowNetwork];
    let entry = firing_entry();
    let diagnosis = Some(Finding { causes, sentence: sentence.to_owned() });
    let alert = AlertView { runbook: Some("https://runbooks.example/lag".to_owned()), ..entry.alert };
    let other = AlertId { rule: Name::new("TargetDown"), labels: vec![], ..alert.id.clone() };
    Notice {
        also_firing: vec![(Severity::Critical, other)],
        ..of(Entry { alert, told: Explanation { diagnosis, ..entry.told }, ..entry })
    }
}

#[test]
fn a_text_tells_someone_who_was_asleep() {
    let text = |notice: &Notice| Message::new(notice, Shape::Text).body;
    insta::assert_snapshot!("text_firing", text(&firing()));
    insta::assert_snapshot!("text_resolved", text(&resolved()));
    insta::assert_snapshot!("text_unknown", text(&unknown_slot()));
    insta::assert_snapshot!("text_gone", text(&gone()));
    insta::assert_snapshot!("text_diagnosed", text(&diagnosed()));
    let several = vec![diagnosed().alerts.remove(0), resolved_entry()];
    insta::assert_snapshot!("text_of_several", text(&Notice { alerts: several, ..firing() }));
}

#[test]
fn what_a_notice_is_for_is_said_in_its_subject_and_in_its_first_line() {
    let told: Vec<String> = all_kinds()
        .iter()
        .map(|notice| {
            let message = Message::new(notice, Shape::Text);
            format!("{}\n    {}", message.subject, message.body.lines().next().unwrap_or_default())
        })
        .collect();
    insta::assert_snapshot!("first_lines", told.join("\n"));
}

#[test]
fn a_storm_is_told_as_a_list_and_only_its_head_at_length() {
    let notice = Notice { alerts: vec![firing_entry(); 25], ..firing() };
    let text = Message::new(&notice, Shape::Text).body;
    assert!(text.starts_with("orders: 25 alerts fire (25 warning):\n- warning: ReplicaLagging fires: "), "{text}");
    assert_eq!((text.matches("- warning: ").count(), text.matches("Since: ").count()), (25, 10));
    assert!(text.contains("\nThe first 10 at length:\n"), "{text}");
}

#[test]
fn a_json_body_tells_programs_all_of_it() {
    insta::assert_snapshot!("json_diagnosed", format!("{:#}", body(&diagnosed())));
    for notice in all_kinds() {
        let body = body(&notice);
        assert_eq!(body["alerts"].as_array().map(Vec::len), Some(notice.alerts.len()));
    }
    let several = body(&Notice { alerts: vec![resolved_entry(), firing_entry()], ..firing() });
    assert_eq!((&several["state"], &several["severity"]), (&"firing".into(), &"warning".into()));
    assert_eq!(several["summary"], "orders: 1 alert fires (1 warning), 1 is resolved");
}

#[test]
fn a_reading_that_is_infinite_or_never_known_is_null_in_json() {
    for reading in [Some(f64::INFINITY), None] {
        let entry = firing_entry();
        let notice = of(Entry { alert: AlertView { reading, ..entry.alert }, ..entry });
        assert_eq!(body(&notice)["alerts"][0]["reading"], Value::Null);
    }
}

#[test]
fn a_pager_is_told_as_by_cloudwatch() {
    let (message, alarm) = alarm(&firing());
    insta::assert_snapshot!("cloudwatch_firing", format!("{}\n{alarm:#}", message.subject));
    let email = message.email.expect("people get words");
    assert_eq!(email, Message::new(&firing(), Shape::Text).body);
}

#[test]
fn an_alarm_keeps_its_name_and_its_subject_agrees_with_its_state() {
    for notice in all_kinds() {
        let (message, alarm) = alarm(&notice);
        let state = alarm["NewStateValue"].as_str().expect("a text");
        assert!(message.subject.starts_with(&format!("{state}: \"")), "{}", message.subject);
        let fires = notice.alerts.first().is_some_and(|entry| entry.alert.phase == Phase::Firing);
        assert_eq!(state, if fires { "ALARM" } else { "OK" });
        for time in ["StateChangeTime", "AlarmConfigurationUpdatedTimestamp"] {
            let time = alarm[time].as_str().expect("a text");
            assert!(time.len() == 28 && time.ends_with("+0000"), "{time}");
        }
    }
    let states = |notice: &Notice| {
        let alarm = alarm(notice).1;
        [&alarm["OldStateValue"], &alarm["NewStateValue"]].map(|state| state.as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(states(&firing()), ["OK", "ALARM"]);
    assert_eq!(states(&resolved()), ["ALARM", "OK"]);
    assert_eq!(states(&Notice { purpose: Purpose::Repeat, ..firing() }), ["ALARM", "ALARM"]);
    let name = |notice: &Notice| alarm(notice).1["AlarmName"].clone();
    assert_eq!(name(&firing()), "ReplicaLagging orders/orders-replica-1");
    assert_eq!(name(&firing()), name(&resolved()));
    // What is too long for CloudWatch is still told apart.
    let long = |hash: &str| {
        let mut notice = named("R", &"t".repeat(300));
        notice.alerts[0].dedup_key = format!("R-firing-1.0-{hash}");
        name(&notice)
    };
    assert_eq!(long("ab").as_str().map(str::len), Some(255));
    assert_ne!(long("ab"), long("cd"));
}

#[test]
fn a_chat_is_told_in_its_own_schema() {
    let text = json!({ "type": "string", "minLength": 1 });
    let texts = json!({ "type": "array", "items": text, "minItems": 1 });
    // As its documentation has it.
    let schema = json!({
        "type": "object", "required": ["version", "source", "content"], "additionalProperties": false,
        "properties": {
            "version": { "const": "1.0" }, "source": { "const": "custom" }, "id": text,
            "content": {
                "type": "object", "required": ["description"], "additionalProperties": false,
                "properties": {
                    "textType": { "const": "client-markdown" }, "title": text, "description": text,
                    "nextSteps": texts, "keywords": texts,
                },
            },
            "metadata": {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "threadId": text, "summary": text, "eventType": text, "relatedResources": texts,
                    "additionalContext": { "type": "object", "additionalProperties": { "type": "string" } },
                },
            },
        },
    });
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("http://chat/schema.json", schema).expect("a good place");
    let index = compiler.compile("http://chat/schema.json", &mut schemas).expect("a good schema");
    let told = |notice: &Notice| {
        let told: Value = serde_json::from_str(&Message::new(notice, Shape::AmazonQ).body).expect("it is JSON");
        if let Err(error) = schemas.validate(&told, index) {
            panic!("{error:#}\n{told:#}");
        }
        told
    };
    for notice in all_kinds() {
        told(&notice);
    }
    insta::assert_snapshot!("amazon_q_diagnosed", format!("{:#}", told(&diagnosed())));
    // One thread from the begin to the end.
    assert_eq!(told(&firing())["metadata"]["threadId"], told(&resolved())["metadata"]["threadId"]);
    // Nobody is called by a name that somebody has chosen.
    let sly = told(&named("R", "<!channel> @here"));
    assert!(!sly.to_string().contains("<!channel>") && !sly.to_string().contains("@here"), "{sly}");
}

#[test]
fn attributes_have_no_empty_value_and_all_values_of_a_group() {
    let (notice, entry) = (firing(), firing_entry());
    let told = |notice: &Notice| {
        let attributes = Message::new(notice, Shape::Text).attributes;
        attributes.iter().map(|(name, values)| (*name, typed(values))).collect::<Vec<_>>()
    };
    let one = |name, value: &str| (name, ("String", value.to_owned()));
    let common =
        [one("severity", "warning"), one("state", "firing"), one("rule", "ReplicaLagging"), one("cluster", "orders")];
    assert_eq!(told(&notice), [&common[..], &[one("target", "orders-replica-1")]].concat());
    let whole = AlertView { id: AlertId { target: None, ..entry.alert.id.clone() }, ..entry.alert.clone() };
    assert_eq!(told(&of(Entry { alert: whole, ..entry })), common);
    let several = Notice { alerts: vec![unknown_slot().alerts.remove(0), resolved_entry(), firing_entry()], ..notice };
    let many = |name, values: &str| (name, ("String.Array", values.to_owned()));
    let expect = [
        many("severity", r#"["critical","warning"]"#),
        many("state", r#"["firing","resolved"]"#),
        many("rule", r#"["InactiveSlotRetainsWal","ReplicaLagging"]"#),
        one("cluster", "orders"),
        one("target", "orders-replica-1"),
    ];
    assert_eq!(told(&several), expect);
    assert_eq!(told(&heartbeat()), [one("state", "heartbeat")]);
}

#[test]
fn telephones_get_a_line_people_a_text_and_programs_the_body() {
    let bodies = |shape: Shape<'_>| -> Value {
        let bodies = Message::new(&firing(), shape).by_protocol().expect("they fit");
        serde_json::from_str(&bodies).expect("it is JSON")
    };
    let (text, json) = (bodies(Shape::Text), bodies(Shape::Json));
    assert_eq!(text["sms"], "FIRING warning: ReplicaLagging on orders/orders-replica-1: 1m 15s");
    assert_eq!(text["default"], Message::new(&firing(), Shape::Text).body);
    assert_eq!(text.get("email"), None);
    assert_eq!((&json["sms"], &json["email"]), (&text["sms"], &text["default"]));
    assert_eq!(json["default"], Message::new(&firing(), Shape::Json).body);
    // What has no place for all of them has it for one.
    let mut large = firing();
    large.alerts[0].told.details = (0..300).map(|index| (format!("d{index}"), "\"".repeat(800))).collect();
    assert_eq!(Message::new(&large, Shape::Text).by_protocol(), None);
}

fn named(rule: &str, target: &str) -> Notice {
    let entry = firing_entry();
    let id = AlertId { rule: Name::new(rule), target: Some(Name::new(target)), ..entry.alert.id };
    of(Entry { alert: AlertView { id, ..entry.alert }, ..entry })
}

#[test]
fn a_subject_is_short_printable_and_says_when_it_was_cut() {
    for (notice, expect) in [
        (firing(), "FIRING warning: ReplicaLagging on orders/orders-replica-1: 1m 15s"),
        (diagnosed(), "FIRING warning: ReplicaLagging on orders/orders-replica-1: 1m 15s (replay paused)"),
        (resolved(), "RESOLVED warning: ReplicaLagging on orders/orders-replica-1"),
        (unknown_slot(), "FIRING critical: InactiveSlotRetainsWal on orders/orders-replica-1 slot=debezium: 4.7 GiB"),
        (gone(), "RESOLVED critical: InactiveSlotRetainsWal on orders/orders-replica-1 slot=debezium: it is gone"),
        (named("Lücke\n\t\u{7f}\u{202e}", "数据"), "FIRING warning: L?cke ? on orders/??: 1m 15s"),
        (
            named(&"x".repeat(90), &"y".repeat(90)),
            "FIRING warning: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
        ),
    ] {
        let subject = Message::new(&notice, Shape::Text).subject;
        assert_eq!(subject, expect);
        is_subject(&subject);
    }
}

fn is_subject(subject: &str) {
    assert!((1..=99).contains(&subject.len()) && subject.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{subject}");
    assert!(subject.starts_with(|first: char| first.is_ascii_alphanumeric()), "{subject}");
}

#[test]
fn a_zero_and_a_one_are_told_in_words() {
    let entry = firing_entry();
    let alert =
        AlertView { unit: Unit::Bool, reading: Some(0.0), condition: "target_up == 0".to_owned(), ..entry.alert };
    let told = Explanation { state: "orders/orders-replica-1 does not answer".to_owned(), ..entry.told };
    let message = Message::new(&of(Entry { alert, told, ..entry }), Shape::Text);
    assert_eq!(message.subject, "FIRING warning: ReplicaLagging on orders/orders-replica-1: does not answer");
    assert!(!message.body.contains("Reading"), "{}", message.body);
}

#[test]
fn a_body_fits_with_its_attributes_and_says_that_it_was_cut() {
    for (shape, expect) in [(Shape::Text, "ü [cut]"), (Shape::Json, "\"cut\": \"the details are too long")] {
        let details = (0..300).map(|index| (format!("detail_{index}"), "ü".repeat(2000))).collect();
        let entry = named(&"規".repeat(100), &"r".repeat(1000)).alerts.remove(0);
        let notice = of(Entry { told: Explanation { details, ..entry.told }, ..entry });
        let message = Message::new(&notice, shape);
        assert!(message.body.contains(expect), "{shape:?}");
        assert!(message.body.len() + size(&message.attributes) <= 262_144, "{shape:?}: {}", message.body.len());
    }
    let many = Notice { alerts: vec![firing_entry(); 2000], ..firing() };
    let told = body(&many);
    let n_told = told["alerts"].as_array().map_or(0, Vec::len);
    assert!(n_told > 100 && told["n_left_out"] == 2000 - n_told, "{n_told}");
    assert_eq!(cut("€€€".to_owned(), 9), "€€€");
    assert_eq!(cut("€€€€€".to_owned(), 11), "€ [cut]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_things_are_called_all_forms_are_good(
        rule in "\\PC{1,80}", target in ".{0,300}", label in ".{0,300}", state in ".{0,3000}",
        reading in proptest::option::of(proptest::num::f64::ANY), n_alerts in 1..40_usize,
    ) {
        let entry = named(&rule, &target).alerts.remove(0);
        let id = AlertId { labels: vec![("slot".to_owned(), label)], ..entry.alert.id };
        let told = Explanation { state: state.clone(), details: vec![("a".to_owned(), state)], ..entry.told };
        let entry = Entry { alert: AlertView { id, reading, ..entry.alert }, told, ..entry };
        let notice = Notice { alerts: vec![entry; n_alerts], ..firing() };
        body(&notice);
        let topic = topic();
        for shape in [Shape::Text, Shape::Json, Shape::Cloudwatch(&topic), Shape::AmazonQ] {
            let message = Message::new(&notice, shape);
            is_subject(&message.subject);
            prop_assert!(message.body.len() + size(&message.attributes) <= MAX_BYTES);
            prop_assert!(message.attributes.iter().all(|(_, values)| values.iter().all(|value| !value.is_empty())));
            if let Some(bodies) = message.by_protocol() {
                prop_assert!(bodies.len() + size(&message.attributes) <= MAX_BYTES);
            }
        }
        let group = group_id(&Notice { group: Group::Alert(notice.alerts[0].alert.id.clone()), ..notice });
        prop_assert!((1..=128).contains(&group.len()) && group.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

#[test]
fn addresses_of_clients_are_told_to_those_who_may_see_them() {
    let address = "10.0.0.5";
    let mut entry = firing_entry();
    entry.alert.id.labels = vec![("client_addr".to_owned(), address.to_owned())];
    entry.alert.summary = Some(format!("{address} holds many"));
    entry.told.state = format!("client_addr {address} of orders/p holds 40 connections");
    let mut notice = of(entry);
    notice.also_firing = vec![(Severity::Info, notice.alerts[0].alert.id.clone())];
    let topic = topic();
    for shape in [Shape::Text, Shape::Json, Shape::Cloudwatch(&topic), Shape::AmazonQ] {
        let whole = |notice: &Notice| format!("{:?}", Message::new(notice, shape));
        assert!(whole(&revealed(&notice)).contains("10.0.0.5"), "{shape:?}");
        let kept = whole(&withheld(&notice));
        assert!(!kept.contains("10.0.0.5") && kept.contains("withheld-"), "{kept}");
    }
    assert!(Message::new(&revealed(&firing()), Shape::Text).body.contains("Clients: 10.0.0.5 (40)"));
    assert!(!Message::new(&withheld(&firing()), Shape::Text).body.contains("10.0.0.5"));
    assert_ne!(stand_in("10.0.0.5"), stand_in("10.0.0.6"));
}

#[test]
fn a_group_is_a_target_in_what_sns_takes() {
    assert_eq!(group_id(&firing()), "orders/orders-replica-1");
    let long = group_id(&named("R", &"ü b".repeat(100)));
    assert!(long.len() == 128 && long.bytes().all(|byte| byte.is_ascii_graphic()), "{long}");
    let entry = firing_entry();
    let id = AlertId { target: None, ..entry.alert.id };
    assert_eq!(group_id(&of(Entry { alert: AlertView { id, ..entry.alert }, ..entry })), "orders/");
    assert_eq!(group_id(&Notice { group: Group::Cluster(Name::new("orders")), ..firing() }), "orders/");
}
