//! What the README and the book show is what there is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgvigil::core::alert::Severity;
use pgvigil::core::rule::{Preset, Rule, RuleConfig, preset};
use pgvigil::core::signal::SIGNALS;
use pgvigil::http::metrics::metrics_table;

pub(crate) fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `text` with `content` between the two comments called `name`.
pub(crate) fn with_section(text: &str, name: &str, content: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("there is no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("there is no {end}"));
    format!("{before}{begin}{content}{end}{after}")
}

/// The built-in rules as Markdown.
fn rules_table() -> String {
    let mut table = "| built-in rule | fires when | for | severity |\n| --- | --- | --- | --- |\n".to_owned();
    for rule in preset() {
        let severity = rule.severity.map_or("warning", Severity::as_str);
        table.push_str(&format!("| `{}` | {} | {} | {severity} |\n", rule.name, condition(&rule), held(&rule)));
    }
    table
}

/// What the other presets have in the place of built-in rules, or beside them.
fn presets_table() -> String {
    let presets = [Preset::Rds, Preset::RdsStrict, Preset::SelfManaged, Preset::Redis];
    let rules = presets.map(Preset::rules);
    let own = |rule: &&RuleConfig| preset().iter().all(|other| other.name != rule.name);
    let mut names: Vec<&str> = Vec::new();
    for rule in rules.iter().flatten().filter(own) {
        if !names.contains(&rule.name.as_str()) {
            names.push(&rule.name);
        }
    }
    let mut table = "| rule | reads | for | `rds` | `rds-strict` | `self-managed` | `redis` |\n\
                     | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for name in names {
        let of = |rules: &[RuleConfig]| rules.iter().find(|rule| rule.name == name).cloned();
        let found = rules.iter().map(|rules| of(rules)).collect::<Vec<_>>();
        let thresholds: Vec<String> =
            found.iter().map(|rule| rule.as_ref().map_or_else(|| "-".to_owned(), thresholds)).collect();
        let mut signals: Vec<String> = Vec::new();
        for rule in found.iter().flatten() {
            let awaits = Rule::parse(rule, &SIGNALS).unwrap().condition.signal.is_of_cloudwatch();
            let signal = format!("`{}`{}", rule.signal.as_deref().unwrap_or_default(), if awaits { " *" } else { "" });
            if !signals.contains(&signal) {
                signals.push(signal);
            }
        }
        let for_how_long = found.iter().flatten().map(held).next().unwrap_or_default();
        table.push_str(&format!(
            "| `{name}` | {} | {for_how_long} | {} |\n",
            signals.join(", "),
            thresholds.join(" | ")
        ));
    }
    table
}

pub(crate) fn condition(rule: &RuleConfig) -> String {
    let mut when = format!("`{}`", rule.when.as_deref().unwrap_or_default());
    if let Some(role) = rule.role {
        when.push_str(&format!(", role `{}`", role.as_str()));
    }
    if !rule.certainty.0.is_empty() {
        when.push_str(&format!(", certainty `{}`", rule.certainty.0.join("`, `")));
    }
    when
}

pub(crate) fn held(rule: &RuleConfig) -> String {
    match (&rule.datapoints, rule.every, rule.hold_for) {
        (Some(datapoints), Some(every), _) => format!("{datapoints} x {}", humantime::format_duration(every)),
        (_, _, None) => "two polls, at once when proven".to_owned(),
        (_, _, Some(Duration::ZERO)) => "at once".to_owned(),
        (_, _, Some(held)) => humantime::format_duration(held).to_string(),
    }
}

pub(crate) fn thresholds(rule: &RuleConfig) -> String {
    let levels = [("info", &rule.info), ("warning", &rule.warning), ("critical", &rule.critical)];
    let levels = levels.iter().filter_map(|(severity, text)| Some(format!("{severity} `{}`", text.as_ref()?)));
    levels.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_readme_and_the_book_show_what_there_is() {
    let minimal = std::fs::read_to_string(root("config/minimal.toml")).unwrap();
    let postgres_exporter = pgvigil::http::metrics::postgres_exporter::table();
    for (page, sections) in [
        ("README.md", vec![("minimal.toml", format!("```toml\n{minimal}```\n"))]),
        ("docs/src/signals.md", vec![("metrics", metrics_table())]),
        ("docs/src/prometheus.md", vec![("postgres_exporter", postgres_exporter)]),
        (
            "docs/src/causes.md",
            vec![("causes", pgvigil::core::cause::table()), ("remedies", pgvigil::core::remedy::table())],
        ),
        ("docs/src/alerts.md", vec![("rules", rules_table()), ("presets", presets_table())]),
    ] {
        let have = std::fs::read_to_string(root(page)).unwrap();
        let expect = sections.iter().fold(have.clone(), |text, (name, content)| with_section(&text, name, content));
        if std::env::var_os("UPDATE_README").is_some() {
            std::fs::write(root(page), &expect).unwrap();
            continue;
        }
        let differs = have.lines().zip(expect.lines()).find(|(have, expect)| have != expect);
        assert!(
            have == expect,
            "{page} is behind the code, first at {differs:#?}\n\
             to bring it up to date: UPDATE_README=1 cargo test --test it readme::"
        );
    }
}
