//! `pgvigil plan`: what a configuration will ask of AWS in a month, and its price by a table that can be changed.

use serde::Deserialize;

use crate::aws::SECRETS_REFRESH;
use crate::aws::cloudwatch::{Instance, Wanted};
use crate::config::{Config, toml_fault};
use crate::core::cloudwatch::REDIS;
use crate::core::publish::{DATUMS, Published};
use crate::discovery::Sought;
use crate::table::{Cell, Table, Tone};

/// A twelfth of a year, in seconds.
const MONTH: f64 = 365.25 * 86_400.0 / 12.0;

/// Nodes that a replication group is taken to have, as long as nobody is asked.
const NODES: usize = 2;

/// The table that comes with pgvigil.
const PRICES: &str = include_str!("../config/aws-prices.toml");

/// What AWS asks for what, in USD.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    cloudwatch: CloudWatchPrices,
    secretsmanager: SecretsPrices,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloudWatchPrices {
    metrics_requested_per_1000: f64,
    put_requests_per_1000: f64,
    own_metrics: Vec<Tier>,
    own_metric_beyond: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tier {
    first: f64,
    each: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretsPrices {
    calls_per_10000: f64,
}

impl Prices {
    /// The built-in table.
    ///
    /// # Errors
    /// Never: a test reads it.
    pub fn built_in() -> Result<Self, String> {
        Self::parse(PRICES)
    }

    /// # Errors
    /// What is wrong with the table.
    pub fn parse(text: &str) -> Result<Self, String> {
        let prices: Self = toml::from_str(text).map_err(|error| toml_fault(text, &error))?;
        let CloudWatchPrices { metrics_requested_per_1000, put_requests_per_1000, own_metrics, own_metric_beyond } =
            &prices.cloudwatch;
        let tiers = own_metrics.iter().flat_map(|tier| [tier.first, tier.each]);
        let all = [*metrics_requested_per_1000, *put_requests_per_1000, *own_metric_beyond];
        let all = all.into_iter().chain([prices.secretsmanager.calls_per_10000]).chain(tiers);
        match all.into_iter().find(|price| !price.is_finite() || *price < 0.0) {
            Some(price) => Err(format!("{price} is no price")),
            None => Ok(prices),
        }
    }

    fn own_metrics(&self, count: f64) -> f64 {
        let mut left = count;
        let mut price = 0.0;
        for tier in &self.cloudwatch.own_metrics {
            let these = left.min(tier.first);
            price += these * tier.each;
            left -= these;
        }
        price + left * self.cloudwatch.own_metric_beyond
    }
}

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    api: &'static str,
    what: String,
    /// In a month.
    count: f64,
    /// USD.
    price: f64,
}

/// What is asked in a month, as lines for people.
pub fn run(config: &Config, prices: &Prices, sought: &[Sought]) -> String {
    let items = items(config, prices);
    let discovered = discovered(sought);
    if items.is_empty() {
        let nothing = if sought.iter().all(|sought| sought.fault.is_none()) {
            "This configuration asks nothing of AWS that is billed by use: CloudWatch is neither read nor told, and no \
             secret is read.\n"
        } else {
            "Of what is known here nothing is billed by use.\n"
        };
        return format!("{nothing}{discovered}");
    }
    let mut table = Table::new(&["API", "WHAT", "A MONTH", "USD"], &["A MONTH", "USD"]);
    for Item { api, what, count, price } in &items {
        let (count, price) = (grouped(*count), format!("{price:.2}"));
        table.row([*api, what, &count, &price].map(|text| Cell::new(text, Tone::Plain)).to_vec());
    }
    let total = format!("{:.2}", items.iter().map(|item| item.price).sum::<f64>());
    table.row(["", "in all", "", &total].map(|text| Cell::new(text, Tone::Plain)).to_vec());
    let mut text = table.render(false);
    text.push_str("\nOf one daemon; a second one asks as much again. At the list prices of config/aws-prices.toml, which --prices replaces.\n");
    if config.wanted.as_ref().is_some_and(|wanted| !wanted.groups.is_empty()) {
        text.push_str(&format!("A replication group is taken to have {NODES} nodes.\n"));
    }
    text.push_str(&discovered);
    text.push_str("pgvigil_aws_requests_total and pgvigil_aws_metrics_requested_total count what is really asked.\n");
    text
}

/// Whether what discoveries find is among it.
fn discovered(sought: &[Sought]) -> String {
    let line = |Sought { name, looks_for, targets, fault }: &Sought| {
        let found = counted(*targets, "target");
        match fault.as_deref().map(|fault| fault.trim_end_matches('.')) {
            None => format!("With the {found} that {name} finds now ({looks_for}).\n"),
            Some(fault) if *targets == 0 => format!("Not counted is what {name} finds ({looks_for}): {fault}.\n"),
            Some(fault) => format!("With {found} of what {name} finds ({looks_for}), and not the rest: {fault}.\n"),
        }
    };
    sought.iter().map(line).collect()
}

fn items(config: &Config, prices: &Prices) -> Vec<Item> {
    let mut items = Vec::new();
    if let Some(wanted) = &config.wanted {
        let count = (wanted.metrics_per_second(&config.instances, NODES) * MONTH).round();
        // Without an instance there is nothing to ask for.
        if count > 0.0 {
            items.push(Item {
                api: "cloudwatch:GetMetricData",
                what: asked_for(wanted, &config.instances),
                count,
                price: count / 1000.0 * prices.cloudwatch.metrics_requested_per_1000,
            });
        }
    }
    if let Some(publish) = &config.cloudwatch.publish {
        let n_of = |published: &Published| published.count(config.clusters.len(), config.n_targets());
        let n_metrics: usize = publish.published().iter().map(n_of).sum();
        let minutes = if publish.high_resolution { publish.interval.as_secs().max(1) as usize } else { 1 };
        let n_requests = (n_metrics * minutes).div_ceil(DATUMS);
        let requests = (n_requests as f64 * MONTH / publish.interval.as_secs_f64()).round();
        items.push(Item {
            api: "cloudwatch:PutMetricData",
            what: format!("requests, one every {}", humantime::format_duration(publish.interval)),
            count: requests,
            price: requests / 1000.0 * prices.cloudwatch.put_requests_per_1000,
        });
        items.push(Item {
            api: "",
            what: format!("metrics in the namespace {}", publish.namespace),
            count: n_metrics as f64,
            price: prices.own_metrics(n_metrics as f64),
        });
    }
    let secrets = config.secrets();
    if !secrets.is_empty() {
        let every = SECRETS_REFRESH;
        let count = (secrets.len() as f64 * MONTH / every.as_secs_f64()).round();
        items.push(Item {
            api: "secretsmanager:GetSecretValue",
            what: format!(
                "{}, every {}, and after a refusal",
                counted(secrets.len(), "secret"),
                humantime::format_duration(every)
            ),
            count,
            price: count / 10_000.0 * prices.secretsmanager.calls_per_10000,
        });
    }
    items
}

/// What CloudWatch is asked for, in words.
fn asked_for(wanted: &Wanted, instances: &[Instance]) -> String {
    let mut parts = Vec::new();
    let n_own = |instance: &Instance| {
        let is_of = |cluster: &Option<String>| cluster.as_ref().is_none_or(|own| *own == *instance.id.cluster.as_str());
        wanted.metrics.len() + wanted.configured.iter().filter(|metric| is_of(&metric.cluster)).count()
    };
    if !instances.is_empty() {
        let n_metrics: usize = instances.iter().map(n_own).sum();
        parts.push(format!("{n_metrics} of {}", counted(instances.len(), "instance")));
    }
    if !wanted.groups.is_empty() {
        let n_nodes = wanted.groups.len() * NODES;
        parts.push(format!("{} of {}", n_nodes * REDIS.len(), counted(n_nodes, "Redis node")));
    }
    if !wanted.lone.is_empty() {
        parts.push(format!("{} of clusters", wanted.lone.len()));
    }
    format!("metrics: {}, every {}", parts.join(", "), humantime::format_duration(wanted.interval))
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `1,971,000`.
fn grouped(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::of_text;

    fn config(text: &str) -> Config {
        let fleet = "[[cluster]]\nname = \"orders\"\ntarget = [\n\
             { name = \"a\", dsn = \"host=a.c9akciq32.us-east-1.rds.amazonaws.com\" },\n\
             { name = \"b\", dsn = \"host=b.c9akciq32.us-east-1.rds.amazonaws.com\" },\n]\n";
        of_text(&format!("{fleet}{text}"))
    }

    #[test]
    fn what_is_asked_is_counted_and_priced() {
        let prices = Prices::built_in().unwrap();
        let told = |text: &str| {
            let items = items(&config(text), &prices).into_iter();
            items.map(|item| format!("{} {} {} {:.2}", item.api, item.what, item.count, item.price)).collect::<Vec<_>>()
        };
        assert_eq!(told(""), [""; 0]);
        // A minute has a metric, and a month 43,830 minutes.
        assert_eq!(
            told("[cloudwatch]\nenabled = true\nmetrics = [\"CPUUtilization\", \"ReplicaLag\"]"),
            ["cloudwatch:GetMetricData metrics: 4 of 2 instances, every 1m 175320 1.75"]
        );
        // Five minutes for what is counted every five, and for all when they are asked for no more often.
        assert_eq!(
            told("[cloudwatch]\nenabled = true\nmetrics = [\"CPUCreditBalance\"]"),
            ["cloudwatch:GetMetricData metrics: 2 of 2 instances, every 1m 17532 0.18"]
        );
        assert_eq!(
            told("[cloudwatch]\nenabled = true\ninterval = \"5m\"\n[[redis]]\nname = \"r\"\nreplication_group = \"r\""),
            ["cloudwatch:GetMetricData metrics: 30 of 2 instances, 14 of 2 Redis nodes, every 5m 385704 3.86"]
        );
        assert_eq!(
            told("[cloudwatch.publish]\nmetrics = [\"replay_lag_seconds\", \"primaries\", \"Heartbeat\"]"),
            ["cloudwatch:PutMetricData requests, one every 1m 43830 0.44", " metrics in the namespace pgvigil 4 1.20",]
        );
    }

    #[test]
    fn a_secret_is_read_once_an_hour_whoever_uses_it() {
        let target = |name: &str| {
            format!("{{ name = \"{name}\", dsn = \"postgresql://{name}.example/app\", secret = \"orders/db\" }},")
        };
        let text = format!("[[cluster]]\nname = \"billing\"\ntarget = [{}{}]\n", target("c"), target("d"));
        let items = items(&config(&text), &Prices::built_in().unwrap());
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].api, items[0].count), ("secretsmanager:GetSecretValue", 731.0));
        assert!(items[0].what.starts_with("1 secret, every 1h"), "{}", items[0].what);
    }

    #[test]
    fn the_whole_is_a_table_with_its_sum() {
        let prices = Prices::built_in().unwrap();
        let text = run(&config("[cloudwatch]\nenabled = true\n[cloudwatch.publish]"), &prices, &[]);
        assert!(
            text.contains("cloudwatch:GetMetricData") && text.contains("1,244,772") && text.contains("in all"),
            "{text}"
        );
        assert!(run(&config(""), &prices, &[]).contains("asks nothing of AWS that is billed"));
    }

    /// Of a file that lists no server.
    fn none(text: &str) -> Config {
        let discover = "[[discover]]\nregion = \"us-east-1\"\nall = true\nuser = \"monitor\"\npassword = \"x\"\n";
        of_text(&format!("{discover}{text}"))
    }

    #[test]
    fn what_is_found_is_counted_and_what_is_not_is_named() {
        let prices = Prices::built_in().unwrap();
        let sought = |targets: usize, fault: Option<&str>| Sought {
            name: crate::discovery::name(0),
            looks_for: "the whole account in us-east-1".to_owned(),
            targets,
            fault: fault.map(str::to_owned),
        };
        let text = run(&config("[cloudwatch]\nenabled = true"), &prices, &[sought(1, None)]);
        assert!(
            text.contains("\nWith the 1 target that discover-1 finds now (the whole account in us-east-1).\n"),
            "{text}"
        );
        let text = run(&config("[cloudwatch]\nenabled = true"), &prices, &[sought(2, Some("eu-west-1: it is denied"))]);
        assert!(
            text.contains(
                "\nWith 2 targets of what discover-1 finds (the whole account in us-east-1), and not the rest: eu-west-1: it is denied.\n"
            ),
            "{text}"
        );
        let text = run(&none("[cloudwatch]\nenabled = true"), &prices, &[sought(0, Some("no answer within 10s."))]);
        assert!(text.starts_with("Of what is known here nothing is billed by use.\n"), "{text}");
        assert!(
            text.contains(
                "Not counted is what discover-1 finds (the whole account in us-east-1): no answer within 10s.\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn prices_can_be_changed_and_are_checked() {
        let prices = Prices::built_in().unwrap();
        assert!((prices.own_metrics(10_010.0) - 3001.0).abs() < 1e-6);
        assert!(Prices::parse(&PRICES.replace("0.30", "-1")).unwrap_err().contains("-1 is no price"));
        assert!(Prices::parse(&PRICES.replace("own_metric_beyond", "beyond")).unwrap_err().contains("unknown field"));
        assert_eq!(Prices::parse(&PRICES.replace("0.30", "0.50")).unwrap().cloudwatch.own_metrics[0].each, 0.5);
    }
}
