//! The rules of a preset for those who would rather have Prometheus judge: a file of rules, and a file of tests that shows what
//! each makes of readings. Both are in `dashboards/`, and are written from here.
//!
//! What Prometheus cannot say is left out, and the head of the file tells: a reading that is not known holds an alert here,
//! and resolves it there; what breaches only by an estimate, in a rule without `for`, waits for two polls here, and there too
//! when it is proven.

use std::fmt::Write;
use std::time::Duration;

use crate::core::alert::Severity;
use crate::core::datapoints::Datapoints;
use crate::core::rule::{Condition, Op, Preset, Rule, RuleConfig};
use crate::core::signal::{Read, SIGNALS, Says, Signal, Unit};

/// Rules are judged, and readings come, so often in the tests.
const STEP: Duration = Duration::from_secs(5);

/// What a rule without `for` waits for where a reading may be an estimate: two polls.
const TWO_POLLS: Duration = Duration::from_secs(2);

/// Readings that rules take less the delay that a replica was told to keep.
const BEYOND_DELAY: [&str; 2] = ["replay_lag_seconds", "replay_lag_upper_seconds"];

const HEAD: &str = "\
# The rules of the preset \"PRESET\", for those who would rather have Prometheus judge. pgvigil needs none of this to alert.
# Written from the code: UPDATE_DASHBOARDS=1 cargo test --test it dashboards::
#
# The same as pgvigil's own, but for what Prometheus cannot say. A reading that is not known has no series: here that resolves an
# alert, in pgvigil it holds it. A rule without `for` waits for two polls where its reading may be an estimate, also when the
# breach is proven. A rule with several severities is an alert for each: inhibit the milder in Alertmanager, with
#   inhibit_rules:
#     - { source_matchers: [severity=critical], target_matchers: [severity=~\"warning|info\"], equal: [alertname, cluster, target] }
";

/// One alert of a rule: a rule has one for each severity.
struct Alert<'a> {
    rule: &'a Rule,
    config: &'a RuleConfig,
    severity: Severity,
    condition: &'a Condition,
}

fn rules_of(preset: Preset) -> Vec<(RuleConfig, Rule)> {
    let parsed = preset.rules().into_iter().map(|config| match Rule::parse(&config, &SIGNALS) {
        Ok(rule) => (config, rule),
        Err(error) => unreachable!("a preset's rule: {error}"),
    });
    parsed.collect()
}

fn alerts(rules: &[(RuleConfig, Rule)]) -> impl Iterator<Item = Alert<'_>> {
    rules.iter().flat_map(|(config, rule)| {
        rule.levels().map(move |(severity, condition)| Alert { rule, config, severity, condition })
    })
}

/// The file of rules. `None` where a preset has none that Prometheus could judge.
pub fn rules_file(preset: Preset) -> Option<String> {
    let rules = rules_of(preset);
    if rules.is_empty() {
        return None;
    }
    let mut text = HEAD.replace("PRESET", preset.as_str());
    text.push_str(&format!("groups:\n  - name: pgvigil-{}\n    rules:\n", preset.as_str()));
    if preset.is_of_postgres() {
        for (record, expr) in recorded() {
            text.push_str(&format!("      - record: {record}\n        expr: {}\n", quoted(&expr)));
        }
    }
    for alert in alerts(&rules) {
        alert.write(&mut text);
    }
    if preset.is_of_postgres() {
        text.push_str(
            "      # Nothing above can fire then.\n      - alert: PgvigilSilent\n        \
             expr: absent(pgvigil_target_up)\n        for: 1m\n        labels:\n          severity: critical\n        \
             annotations:\n          summary: pgvigil is not scraped, or watches nothing\n",
        );
    }
    Some(text)
}

/// Names and expressions of what is recorded: what the rules read, and what a fleet is looked at by.
fn recorded() -> Vec<(String, String)> {
    let beyond = BEYOND_DELAY.map(|signal| {
        let lag = format!("pgvigil_{signal}");
        // The delay as it was last told: it is asked for more seldom, and not known at all times.
        let delay = "last_over_time(pgvigil_apply_delay_seconds[1h])";
        (beyond_delay(signal), format!("clamp_min({lag} - {delay}, 0) or {lag}"))
    });
    let fleet = [
        ("cluster:pgvigil_replay_lag_seconds:max", "max by (cluster) (pgvigil_replay_lag_seconds)"),
        ("cluster:pgvigil_targets_up:ratio", "pgvigil_cluster_targets_up / pgvigil_cluster_targets"),
        ("cluster:pgvigil_wal_write_bytes_per_second:sum", "sum by (cluster) (pgvigil_wal_write_bytes_per_second)"),
        ("cluster:pgvigil_connections_used_ratio:max", "max by (cluster) (pgvigil_connections_used_ratio)"),
        ("cluster:pgvigil_alerts_firing:count", "count by (cluster, severity) (pgvigil_alert{state=\"firing\"})"),
    ];
    beyond.into_iter().chain(fleet.map(|(record, expr)| (record.to_owned(), expr.to_owned()))).collect()
}

fn beyond_delay(signal: &str) -> String {
    format!("target:pgvigil_{signal}:beyond_delay")
}

impl Alert<'_> {
    fn write(&self, text: &mut String) {
        let name = self.rule.name.as_str();
        text.push_str(&format!("      - alert: {name}\n        expr: {}\n", quoted(&self.expr())));
        if let Some(hold) = self.hold() {
            text.push_str(&format!("        for: {}\n", duration(hold)));
        }
        if !self.rule.keep_firing_for.is_zero() {
            text.push_str(&format!("        keep_firing_for: {}\n", duration(self.rule.keep_firing_for)));
        }
        text.push_str(&format!("        labels:\n          severity: {}\n", self.severity.as_str()));
        let rule = format!("{name}: {}", self.condition.text);
        let (summary, description) = (quoted(&self.summary()), quoted(&rule));
        text.push_str(&format!(
            "        annotations:\n          summary: {summary}\n          description: {description}\n"
        ));
    }

    fn reading(&self) -> String {
        let signal = self.condition.signal;
        if BEYOND_DELAY.contains(&signal.name) { beyond_delay(signal.name) } else { signal.series() }
    }

    /// What has a value while the rule's condition holds, and no other time: the reading.
    fn expr(&self) -> String {
        let Condition { op, threshold, .. } = self.condition;
        let (reading, op) = (self.reading(), op.as_str());
        let mut expr = format!("{reading} {op} {threshold}");
        if let Some(role) = self.config.role {
            expr = format!("{expr} and on (cluster, target) pgvigil_target_info{{role=\"{}\"}}", role.as_str());
        }
        if !self.config.certainty.0.is_empty() {
            let certainties = self.config.certainty.0.join("|");
            expr = format!("{expr} and on (cluster, target) pgvigil_replay_lag_info{{certainty=~\"{certainties}\"}}");
        }
        match self.rule.datapoints {
            None => expr,
            Some(Datapoints { needed, of, every }) => {
                // Less a moment: else the window may have a point at either end.
                let window = (every * of as u32).saturating_sub(Duration::from_millis(1));
                let (window, every) = (duration(window), duration(every));
                format!("{reading} and count_over_time(({expr})[{window}:{every}]) >= {needed}")
            }
        }
    }

    fn hold(&self) -> Option<Duration> {
        if self.rule.datapoints.is_some() {
            return None;
        }
        let hold = self.config.hold_for.or_else(|| self.condition.is_replay_lag().then_some(TWO_POLLS));
        hold.filter(|hold| !hold.is_zero())
    }

    /// What it says of its subject, as pgvigil's own messages do.
    fn summary(&self) -> String {
        let signal = self.condition.signal;
        let words = match signal.says {
            Says::Number => format!("has {} at {}", signal.name, value(signal.unit)),
            Says::State { no, yes } => {
                let means_no = self.condition.op == Op::Eq && self.condition.threshold == 0.0;
                if means_no { no.to_owned() } else { yes.to_owned() }
            }
            Says::Words(words) => numbered(words).replace("{}", &value(signal.unit)),
        };
        let mut subject = match signal.read {
            Read::Cluster(_) => template("cluster"),
            Read::Target(_) | Read::Pooler(_) => format!("{}/{}", template("cluster"), template("target")),
        };
        let mut words = words;
        for label in signal.labels {
            let place = format!("{{{label}}}");
            if words.contains(&place) {
                words = words.replace(&place, &template(label));
            } else {
                subject.push_str(&format!(", {label} {}", template(label)));
            }
        }
        let comma = if signal.labels.is_empty() { "" } else { "," };
        format!("{subject}{comma} {words}")
    }
}

fn template(label: &str) -> String {
    format!("{{{{ $labels.{label} }}}}")
}

/// A reading as people read it.
fn value(unit: Unit) -> String {
    match unit {
        Unit::Seconds => "{{ $value | humanizeDuration }}",
        Unit::Bytes => "{{ $value | humanize1024 }}B",
        Unit::BytesPerSecond => "{{ $value | humanize1024 }}B/s",
        Unit::Ratio => "{{ $value | humanizePercentage }}",
        Unit::Count | Unit::Bool => "{{ $value }}",
    }
    .to_owned()
}

/// `[one|many]` as a template that chooses.
fn numbered(words: &str) -> String {
    let mut text = String::new();
    let mut rest = words;
    while let Some((before, (one, many), after)) = rest.split_once('[').and_then(|(before, after)| {
        let (choice, after) = after.split_once(']')?;
        Some((before, choice.split_once('|')?, after))
    }) {
        text.push_str(&format!("{before}{{{{ if eq $value 1.0 }}}}{one}{{{{ else }}}}{many}{{{{ end }}}}"));
        rest = after;
    }
    text + rest
}

/// As Prometheus writes it: `1m30s`.
fn duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// A YAML string in single quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The file of tests for `promtool test rules`: what each rule makes of readings that breach, that just do not, and that end.
pub fn tests_file(preset: Preset) -> Option<String> {
    let rules = rules_of(preset);
    if rules.is_empty() {
        return None;
    }
    let mut text = format!(
        "# What the rules of the preset \"{}\" make of readings. Written from the code, as the rules are.\n\
         rule_files:\n  - {}\nevaluation_interval: {}\ntests:\n",
        preset.as_str(),
        rules_name(preset),
        duration(STEP)
    );
    for alert in alerts(&rules) {
        alert.write_tests(&mut text);
    }
    if preset.is_of_postgres() {
        let silent = "ALERTS{alertname=\"PgvigilSilent\",alertstate=\"firing\",severity=\"critical\"}";
        write_test(&mut text, "PgvigilSilent: nothing is scraped", &[], &[(at(60), silent, true)]);
        let up = "pgvigil_target_up{cluster=\"c\",target=\"t\"}".to_owned();
        write_test(&mut text, "PgvigilSilent: something is", &[(up, "0x20".to_owned())], &[(at(60), silent, false)]);
    }
    Some(text)
}

/// The name of the file of rules.
pub fn rules_name(preset: Preset) -> String {
    match preset {
        Preset::Default => "prometheus-rules.yml".to_owned(),
        other => format!("prometheus-rules-{}.yml", other.as_str()),
    }
}

/// The name of the file of tests.
pub fn tests_name(preset: Preset) -> String {
    rules_name(preset).replace(".yml", ".test.yml")
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Alert<'_> {
    /// The labels of its subject, as they stand between braces.
    fn labels(&self) -> String {
        let Signal { read, labels, .. } = self.condition.signal;
        let scope = if matches!(read, Read::Cluster(_)) { &["cluster"][..] } else { &["cluster", "target"] };
        scope.iter().chain(*labels).map(|label| format!("{label}=\"x\"")).collect::<Vec<_>>().join(",")
    }

    /// A reading that breaches, and one that does not by a hair.
    fn readings(&self) -> (f64, f64) {
        let threshold = self.condition.threshold;
        let step = if threshold == 0.0 { 1.0 } else { threshold / 8.0 };
        match self.condition.op {
            Op::Gt => (threshold + step, threshold),
            Op::Ge => (threshold, threshold - step),
            Op::Lt => (threshold - step, threshold),
            Op::Le => (threshold, threshold + step),
            Op::Eq => (threshold, if threshold == 0.0 { 1.0 } else { 0.0 }),
            Op::Ne => (threshold + 1.0, threshold),
        }
    }

    /// When it fires that breaches from the start on.
    fn fires_at(&self) -> Duration {
        let wait = match (self.rule.datapoints, self.hold()) {
            // The first period has its point at its start.
            (Some(Datapoints { needed, every, .. }), _) => every * (needed as u32 - 1),
            (None, hold) => hold.unwrap_or_default(),
        };
        let steps = wait.as_secs().div_ceil(STEP.as_secs());
        at(steps * STEP.as_secs())
    }

    fn write_tests(&self, text: &mut String) {
        let name = format!("{} {}", self.rule.name, self.severity.as_str());
        let labels = self.labels();
        let series = format!("{}{{{labels}}}", self.condition.signal.series());
        let firing = format!(
            "ALERTS{{alertname=\"{}\",alertstate=\"firing\",{labels},severity=\"{}\"}}",
            self.rule.name,
            self.severity.as_str()
        );
        let (breach, clear) = self.readings();
        let fires_at = self.fires_at();
        let steps = fires_at.as_secs() / STEP.as_secs() + 20;
        let companions = |well: bool| -> Vec<(String, String)> {
            let role = self.config.role.map(|role| {
                let role = if well { role.as_str() } else { "none" };
                format!("pgvigil_target_info{{cluster=\"x\",target=\"x\",role=\"{role}\"}}")
            });
            let certainty = self.config.certainty.0.first().map(|certainty| {
                let certainty = if well { certainty } else { "none" };
                format!("pgvigil_replay_lag_info{{cluster=\"x\",target=\"x\",certainty=\"{certainty}\"}}")
            });
            role.into_iter().chain(certainty).map(|series| (series, format!("1x{steps}"))).collect()
        };
        let reading = |values: String| (series.clone(), values);
        let with = |well: bool, readings: &[(String, String)]| [readings.to_vec(), companions(well)].concat();

        let mut expected = vec![(fires_at, firing.as_str(), true)];
        if let Some(before) = fires_at.checked_sub(STEP) {
            expected.insert(0, (before, firing.as_str(), false));
        }
        // What breaches for long fires, after as long as it says; what is known no more does not.
        let gone_at = fires_at + STEP * 2;
        expected.push((gone_at, &firing, false));
        let values = format!("{breach}x{} stale", fires_at.as_secs() / STEP.as_secs());
        write_test(
            text,
            &format!("{name}: a breach, and then nothing is known"),
            &with(true, &[reading(values)]),
            &expected,
        );
        let never = [(fires_at, firing.as_str(), false), (fires_at + STEP * 10, firing.as_str(), false)];
        let values = format!("{clear}x{steps}");
        write_test(text, &format!("{name}: on the threshold"), &with(true, &[reading(values)]), &never);
        if !companions(true).is_empty() {
            let values = format!("{breach}x{steps}");
            write_test(text, &format!("{name}: of another kind"), &with(false, &[reading(values)]), &never);
        }
        if BEYOND_DELAY.contains(&self.condition.signal.name) {
            let delay = ("pgvigil_apply_delay_seconds{cluster=\"x\",target=\"x\"}".to_owned(), "1000 stale".to_owned());
            let within = with(true, &[reading(format!("{}x{steps}", 1000.0 + clear)), delay.clone()]);
            write_test(text, &format!("{name}: the delay that was asked for"), &within, &never);
            let beyond = with(true, &[reading(format!("{}x{steps}", 1000.0 + breach)), delay]);
            write_test(text, &format!("{name}: beyond that delay"), &beyond, &[(fires_at, &firing, true)]);
        }
        if let Some(datapoints) = self.rule.datapoints {
            // Breaches in every other period are too few.
            let n = datapoints.every.as_secs() / STEP.as_secs() - 1;
            let values = format!("{breach}x{n} {clear}x{n} {breach}x{n} {clear}x{n}");
            let half = datapoints.needed * 2 > datapoints.of && datapoints.of > 1;
            if half {
                let now_and_then = [1, 2, 3].map(|period| (datapoints.every * period, firing.as_str(), false));
                write_test(text, &format!("{name}: now and then"), &with(true, &[reading(values)]), &now_and_then);
            }
        }
    }
}

/// Series with their values in; at an instant, whether an alert is there.
fn write_test(text: &mut String, name: &str, series: &[(String, String)], expected: &[(Duration, &str, bool)]) {
    let put = |text: &mut String, line: String| writeln!(text, "{line}").expect("writing to a String cannot fail");
    put(text, format!("  - name: {}", quoted(name)));
    put(text, format!("    interval: {}", duration(STEP)));
    put(text, format!("    input_series:{}", if series.is_empty() { " []" } else { "" }));
    for (series, values) in series {
        put(text, format!("      - {{ series: {}, values: {} }}", quoted(series), quoted(values)));
    }
    put(text, "    promql_expr_test:".to_owned());
    for (at, alert, is_there) in expected {
        put(text, format!("      - expr: {}", quoted(alert)));
        put(text, format!("        eval_time: {}", duration(*at)));
        if *is_there {
            put(text, format!("        exp_samples: [{{ labels: {}, value: 1 }}]", quoted(alert)));
        }
    }
}
