//! Where text of other people's comes in: whatever it is, it is read or refused, and nothing panics. The tests go through
//! these with chance, and `fuzz/` with coverage.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pgvigil::config::{self, Inputs, Overrides};
use pgvigil::core::alert::{AlertId, Severity};
use pgvigil::core::rule::{Rule, RuleConfig, Values};
use pgvigil::core::signal::{SIGNALS, Value};
use pgvigil::core::silence::selector::{Selector, SelectorConfig};
use pgvigil::core::silence::window::{Window, WindowConfig};
use pgvigil::core::topology::Name;

/// Lines, of which the first goes to the first key, and so on.
fn lines<'a>(text: &'a str, keys: &[&'a str]) -> serde_json::Map<String, serde_json::Value> {
    let lines = keys.iter().zip(text.lines()).filter(|(_, line)| !line.is_empty());
    lines.map(|(key, line)| ((*key).to_owned(), line.into())).collect()
}

/// A rule's condition, thresholds, selectors.
pub(crate) fn rule(text: &str) {
    let keys =
        ["when", "clear", "datapoints", "every", "signal", "warning", "critical", "for", "cluster", "target", "cause"];
    let mut table = lines(text, &keys);
    table.insert("name".to_owned(), "R".into());
    let Ok(config) = serde_json::from_value::<RuleConfig>(table.into()) else { return };
    match Rule::parse(&config, &SIGNALS) {
        Ok(rule) => {
            for value in [0.0, -1.0, 1e300, f64::NAN, f64::INFINITY] {
                let _ = rule.judge(Value { value, lower: 0.0, upper: f64::INFINITY }, None);
            }
            let _ = rule.selects_name(&Name::new(text));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A rule's texts with placeholders.
pub(crate) fn template(text: &str) {
    let mut table = lines(text, &["summary", "runbook"]);
    table.insert("name".to_owned(), "R".into());
    table.insert("when".to_owned(), "slot_retained_bytes > 1GiB".into());
    let Ok(config) = serde_json::from_value::<RuleConfig>(table.into()) else { return };
    let Ok(rule) = Rule::parse(&config, &SIGNALS) else { return };
    let labels = [("slot".to_owned(), text.to_owned())];
    let values = Values {
        rule: "R",
        cluster: "orders",
        target: Some("p"),
        labels: &labels,
        severity: "warning",
        reading: "2 GiB",
        threshold: "> 1GiB",
        cause: None,
    };
    if let Some(summary) = &rule.summary {
        let _ = summary.fill(&values);
    }
    if let Some(runbook) = &rule.runbook {
        let address = runbook.fill_address(&values);
        assert!(address.starts_with("http"), "{address}");
    }
}

/// Silences and maintenance windows.
pub(crate) fn silence(text: &str) {
    let id = AlertId {
        rule: Name::new("ReplicaLagging"),
        cluster: Name::new("orders"),
        target: Some(Name::new(text)),
        labels: vec![("slot".to_owned(), text.to_owned())],
    };
    let table = lines(text, &["cluster", "target", "rule", "severity"]);
    let config = serde_json::from_value::<SelectorConfig>(table.into());
    if let Some(selector) = config.ok().and_then(|config| Selector::parse(&config).ok()) {
        let _ = selector.matches(&id, Severity::Critical);
        let _ = selector.to_string();
    }
    let keys = ["cluster", "start", "end", "duration", "time_zone", "days", "from", "until"];
    let mut table = lines(text, &keys);
    table.insert("name".to_owned(), "w".into());
    let Ok(config) = serde_json::from_value::<WindowConfig>(table.into()) else { return };
    if let Ok(window) = Window::parse(&config) {
        for days in [0, 59, 20_500, 2_900_000] {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
            let _ = window.open_at(wall);
            if let Some(next) = window.next_after(wall) {
                assert!(next.from > wall && next.until >= next.from, "{config:?} {next:?}");
            }
        }
    }
}

/// A whole configuration: what variables say, which goes through all layers, and what a file says.
pub(crate) fn config(text: &str) {
    let mut environment = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, value)) = line.split_once('=') {
            environment.insert(format!("PGVIGIL_{}", name.trim()), value.to_owned());
        }
    }
    environment.insert("DATABASE_URL".to_owned(), text.to_owned());
    let overrides = Overrides::default();
    let told = |loaded: Result<config::Loaded, config::ConfigError>| match loaded {
        Ok(loaded) => assert!(!loaded.summary().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    };
    told(config::load(&Inputs { file: None, environment: &environment, overrides: &overrides }));
    let file =
        std::env::temp_dir().join(format!("pgvigil-fuzzed-{}-{:?}", std::process::id(), std::thread::current().id()));
    if std::fs::write(&file, text).is_ok() {
        told(config::load(&Inputs { file: Some(&file), environment: &BTreeMap::new(), overrides: &overrides }));
        let _ = std::fs::remove_file(&file);
    }
}
