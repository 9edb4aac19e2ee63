//! CloudWatch: what is read of it, what is told to it, and that nothing else depends on either.

use std::time::SystemTime;

use ciborium::Value;

use crate::support::aws::Aws;
use crate::support::cloudwatch::{self, Asked, Cloud, Reply, Told, environment, field, word};
use crate::support::daemon::{Daemon, SOON, series};
use crate::support::{free_port, until};

/// Two instances that nobody answers for: what CloudWatch says does not depend on it.
fn instances(cloudwatch: &str) -> String {
    let target = |name: &str| {
        let (port, instance) =
            (free_port(), format!("cloudwatch = {{ instance = \"rds-{name}\", region = \"us-east-1\" }}"));
        format!(
            "\n[[cluster.target]]\nname = \"{name}\"\n\
             dsn = \"postgresql://mon:s3cr3t@127.0.0.1:{port}/postgres?sslmode=disable\"\n{instance}\n"
        )
    };
    format!("[[cluster]]\nname = \"orders\"\n{}{}\n{cloudwatch}", target("a"), target("b"))
}

async fn daemon(url: &str, config: &str) -> Daemon {
    Daemon::start_with(config, |command| {
        command.envs(environment(url));
    })
    .await
}

/// Answers each query with points at these ends of periods before the end that is asked for, as `value` says of its name.
fn told(asked: &Asked, value: impl Fn(&str) -> Option<f64>) -> Vec<Told> {
    let end = asked.time("EndTime");
    let of = |query: &cloudwatch::Query| {
        let points =
            value(&query.name).map(|value| vec![(end - query.period, value), (end - 2 * query.period, value + 1.0)]);
        (query.id.clone(), points.unwrap_or_default(), "Complete")
    };
    asked.queries().iter().map(of).collect()
}

fn page(results: Vec<Told>) -> Reply {
    Reply::Page { results, next: None }
}

const READ: &str = "[cloudwatch]\nenabled = true\ninterval = \"1s\"\n";
const TARGET: [(&str, &str); 2] = [("cluster", "orders"), ("target", "a")];

#[tokio::test]
async fn all_metrics_are_asked_for_in_whole_periods_and_told_in_base_units() {
    let cloud = Cloud::start(|asked| {
        page(told(asked, |name| match name {
            "CPUUtilization" => Some(83.5),
            "AuroraReplicaLag" => Some(1500.0),
            "ReplicaLag" => Some(-1.0),
            "CPUCreditBalance" => Some(12.0),
            _ => None,
        }))
    })
    .await;
    let daemon = daemon(&cloud.url, &instances(READ)).await;
    let cpu = daemon.until_series("pgvigil_cpu_utilization_ratio", &TARGET, SOON, |value| value.is_some()).await;
    assert_eq!(cpu, Some(0.835));
    daemon.until_series("pgvigil_cpu_credit_balance", &TARGET, SOON, |value| value == Some(12.0)).await;
    let metrics = daemon.metrics().await;
    assert_eq!(series(&metrics, "pgvigil_aurora_reported_lag_seconds", &TARGET), Some(1.5));
    // -1 is no lag, and what it was before is not told in its place.
    assert_eq!(series(&metrics, "pgvigil_rds_replica_lag_seconds", &TARGET), None);
    assert_eq!(series(&metrics, "pgvigil_storage_free_bytes", &TARGET), None);
    let labels = [TARGET.as_slice(), &[("metric", "cpu_utilization_ratio")]].concat();
    let age = series(&metrics, "pgvigil_cloudwatch_datapoint_age_seconds", &labels);
    assert!(age.is_some_and(|age| (0.0..180.0).contains(&age)), "{age:?}");

    for asked in cloud.asked("GetMetricData") {
        let (start, end) = (asked.time("StartTime"), asked.time("EndTime"));
        let period = asked.queries()[0].period;
        assert!(asked.queries().iter().all(|query| query.period == period));
        assert_eq!((start % period, end % period, end - start), (0, 0, 5 * period));
    }
    let asked = cloud.asked("GetMetricData");
    let minutely = asked.iter().map(Asked::queries).find(|queries| queries[0].period == 60).unwrap();
    assert_eq!(minutely.iter().filter(|query| query.dimension == "rds-b").count(), 14);
    assert!(minutely.iter().all(|query| query.statistic == "Average"), "{minutely:?}");
    // The bill, counted: 14 metrics of two instances each time, and one of each once in five minutes.
    let requested = series(&metrics, "pgvigil_aws_metrics_requested_total", &[]).unwrap();
    assert!(requested >= 30.0 && requested % 2.0 == 0.0, "{requested}");
    let api = daemon.get("/api/v1/clusters/orders").await.unwrap().json();
    let cpu = &api["targets"][0]["cloudwatch"]["metrics"]["cpu_utilization_ratio"];
    assert!(cpu["value"] == 0.835 && cpu["at"].is_string(), "{cpu}");
}

#[tokio::test]
async fn pages_are_put_together_and_a_part_is_kept() {
    let cloud = Cloud::start(|asked| {
        let is_second = field(&asked.body, "NextToken").is_some();
        let results = told(asked, |name| match (name, is_second) {
            ("CPUUtilization", false) => Some(10.0),
            ("DatabaseConnections", true) => Some(7.0),
            _ => None,
        });
        if is_second {
            // The rest of one metric failed.
            let last = |(id, points, _): Told| (id, points, "InternalError");
            page(results.into_iter().map(last).collect())
        } else {
            let part = |(id, points, _): Told| (id, points, "PartialData");
            Reply::Page { results: results.into_iter().map(part).collect(), next: Some("more") }
        }
    })
    .await;
    let daemon = daemon(&cloud.url, &instances(READ)).await;
    daemon.until_series("pgvigil_database_connections", &TARGET, SOON, |value| value == Some(7.0)).await;
    assert_eq!(daemon.series("pgvigil_cpu_utilization_ratio", &TARGET).await, Some(0.1));
    assert!(daemon.log().contains("InternalError for CPUUtilization"), "{}", daemon.log());
}

#[tokio::test]
async fn what_is_corrected_takes_the_place_of_what_was_told() {
    let cloud = Cloud::start(|asked| page(told(asked, |name| (name == "CPUUtilization").then_some(70.0)))).await;
    let daemon = daemon(&cloud.url, &instances(READ)).await;
    daemon.until_series("pgvigil_cpu_utilization_ratio", &TARGET, SOON, |value| value == Some(0.7)).await;
    cloud.answer(|asked| page(told(asked, |name| (name == "CPUUtilization").then_some(120.0))));
    daemon.until_series("pgvigil_cpu_utilization_ratio", &TARGET, SOON, |value| value == Some(1.2)).await;
}

#[tokio::test]
async fn throttling_is_waited_out_and_polls_go_on_meanwhile() {
    let cloud = Cloud::start(|asked| match asked.nth {
        // Each question is tried three times before it is given up.
        0..7 => Reply::Refusal("ThrottlingException", 400),
        _ => page(told(asked, |name| (name == "CPUUtilization").then_some(50.0))),
    })
    .await;
    let daemon = daemon(&cloud.url, &instances(READ)).await;
    let polls = daemon.series("pgvigil_polls_total", &[("outcome", "refused")]).await.unwrap();
    daemon.until_series("pgvigil_cpu_utilization_ratio", &TARGET, 3 * SOON, |value| value == Some(0.5)).await;
    let metrics = daemon.metrics().await;
    let labels = [("api", "cloudwatch:GetMetricData"), ("outcome", "throttled")];
    assert!(series(&metrics, "pgvigil_aws_requests_total", &labels).is_some_and(|count| count >= 1.0), "{metrics}");
    assert!(series(&metrics, "pgvigil_polls_total", &[("outcome", "refused")]).unwrap() > polls);
    assert!(daemon.log().contains("CloudWatch did not tell all"), "{}", daemon.log());
}

#[tokio::test]
async fn an_aws_that_never_answers_holds_up_nothing() {
    let cloud = Cloud::start(|_| Reply::Nothing).await;
    let config = instances(&format!("{READ}[cloudwatch.publish]\ninterval = \"1s\"\n"));
    let daemon = daemon(&cloud.url, &config).await;
    let before = daemon.series("pgvigil_polls_total", &[("outcome", "refused")]).await.unwrap();
    let labels = [("outcome", "refused")];
    daemon.until_series("pgvigil_polls_total", &labels, SOON, |value| value > Some(before)).await;
    assert_eq!(daemon.series("pgvigil_cpu_utilization_ratio", &TARGET).await, None);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn no_request_asks_for_more_than_five_hundred_metrics() {
    let cloud = Cloud::start(|asked| page(told(asked, |_| None))).await;
    let targets: String = (0..40)
        .map(|n| {
            format!(
                "\n[[cluster.target]]\nname = \"t{n}\"\n\
                 dsn = \"postgresql://mon:s3cr3t@127.0.0.1:9/postgres?sslmode=disable\"\n\
                 cloudwatch = {{ instance = \"i{n}\", region = \"us-east-1\" }}\n"
            )
        })
        .collect();
    let config = format!("[[cluster]]\nname = \"orders\"\n{targets}\n[cloudwatch]\nenabled = true\n");
    let _daemon = daemon(&cloud.url, &config).await;
    let sizes = until("three requests", SOON, || async {
        let mut sizes: Vec<usize> = cloud.asked("GetMetricData").iter().map(|asked| asked.queries().len()).collect();
        sizes.sort_unstable();
        if sizes.len() >= 3 { Ok(sizes) } else { Err(format!("{sizes:?}")) }
    })
    .await;
    assert_eq!(sizes, [40, 60, 500]);
}

#[tokio::test]
async fn a_rule_may_be_about_any_metric_by_its_own_name() {
    let cloud = Cloud::start(|asked| {
        page(told(asked, |name| match name {
            "SwapUsage" => Some(3e9),
            "VolumeBytesUsed" => Some(5e9),
            _ => None,
        }))
    })
    .await;
    let config = instances(&format!(
        "{READ}metrics = []\n\
         [[cloudwatch.metric]]\nsignal = \"swap\"\nnamespace = \"AWS/RDS\"\nname = \"SwapUsage\"\nunit = \"bytes\"\n\
         dimensions = {{ DBInstanceIdentifier = \"{{instance}}\" }}\n\
         [[cloudwatch.metric]]\nsignal = \"volume\"\nnamespace = \"AWS/RDS\"\nname = \"VolumeBytesUsed\"\nunit = \"bytes\"\n\
         dimensions = {{ DBClusterIdentifier = \"orders\" }}\n\
         [[rule]]\nname = \"Swapping\"\nwhen = \"swap > 1GB\"\n[[rule]]\nname = \"Volume\"\nsignal = \"volume\"\ninfo = \"> 4GB\"\n"
    ));
    let daemon = daemon(&cloud.url, &config).await;
    let alert = |rule: &'static str| [("cluster", "orders"), ("rule", rule), ("state", "firing")];
    let swapping = [alert("Swapping").as_slice(), &[("target", "b")]].concat();
    daemon.until_series("pgvigil_alert", &swapping, SOON, |value| value == Some(1.0)).await;
    daemon.until_series("pgvigil_alert", &alert("Volume"), SOON, |value| value == Some(1.0)).await;
    let metrics = daemon.metrics().await;
    assert_eq!(series(&metrics, "pgvigil_cloudwatch_bytes", &[("target", "a"), ("metric", "swap")]), Some(3e9));
    assert_eq!(series(&metrics, "pgvigil_cluster_cloudwatch_bytes", &[("metric", "volume")]), Some(5e9));
}

/// Of each datum that was told: name, dimensions, values.
fn published(asked: &[Asked]) -> Vec<(String, Vec<String>, Vec<f64>)> {
    let datums = asked.iter().flat_map(|asked| field(&asked.body, "MetricData").and_then(Value::as_array).unwrap());
    datums
        .map(|datum| {
            let dimensions = field(datum, "Dimensions").and_then(Value::as_array).cloned().unwrap_or_default();
            let dimension = |dimension: &Value| format!("{}={}", word(dimension, "Name"), word(dimension, "Value"));
            let values = field(datum, "Values").and_then(Value::as_array).unwrap();
            let values = values.iter().map(|value| value.as_float().unwrap()).collect();
            (word(datum, "MetricName"), dimensions.iter().map(dimension).collect(), values)
        })
        .collect()
}

#[tokio::test]
async fn what_is_not_known_is_not_published_and_a_refusal_changes_nothing() {
    let cloud = Cloud::start(|_| Reply::Refusal("AccessDenied", 403)).await;
    let daemon = daemon(&cloud.url, &instances("[cloudwatch.publish]\ninterval = \"1s\"\n")).await;
    let asked = until("two attempts", SOON, || async {
        let asked = cloud.asked("PutMetricData");
        if asked.len() >= 2 { Ok(asked) } else { Err(format!("{}", asked.len())) }
    })
    .await;
    // Nobody answers: there is no lag to tell, and no heart beats.
    for (name, dimensions, values) in published(&asked) {
        let [cluster, instance] = &dimensions[..] else { panic!("{name}: {dimensions:?}") };
        assert_eq!((name.as_str(), cluster.as_str()), ("healthy", "cluster=orders"));
        assert!(["instance=a", "instance=b"].contains(&instance.as_str()));
        assert_eq!(values, [0.0]);
    }
    assert_eq!(word(&asked[0].body, "Namespace"), "pgvigil");
    let before = daemon.series("pgvigil_polls_total", &[("outcome", "refused")]).await.unwrap();
    daemon.until_series("pgvigil_polls_total", &[("outcome", "refused")], SOON, |value| value > Some(before)).await;
    let log = daemon.log();
    assert!(log.contains("does not take our numbers") && log.contains("cloudwatch:PutMetricData"), "{log}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn much_is_told_packed() {
    let cloud = Cloud::start(|_| page(Vec::new())).await;
    let target = |n: usize| {
        format!(
            "\n[[cluster.target]]\nname = \"t{n}\"\ndsn = \"postgresql://mon:s3cr3t@127.0.0.1:9/postgres?sslmode=disable\"\n"
        )
    };
    let targets: String = (0..150).map(target).collect();
    let config = format!("[[cluster]]\nname = \"orders\"\n{targets}\n[cloudwatch.publish]\ninterval = \"1s\"\n");
    let daemon = daemon(&cloud.url, &config).await;
    let asked = until("what was told of all", SOON, || async {
        let asked = cloud.asked("PutMetricData");
        let whole = asked.iter().find(|asked| published(std::slice::from_ref(asked)).len() >= 150).cloned();
        whole.ok_or_else(|| format!("{}", asked.len()))
    })
    .await;
    assert!(asked.is_packed, "{} datums", published(&[asked]).len());
    assert_eq!(daemon.stop().await, Some(0));
}

/// An AWS that keeps what it is told: what is published can be read back, and what is there is read.
#[tokio::test]
async fn numbers_go_to_an_emulated_cloudwatch_and_come_from_it() {
    let Some(aws) = Aws::start().await else { return };
    let text = |text: &str| Value::Text(text.to_owned());
    let time = |seconds: i64| Value::Tag(1, Box::new(Value::Integer(seconds.into())));
    let map =
        |fields: &[(&str, Value)]| Value::Map(fields.iter().map(|(name, value)| (text(name), value.clone())).collect());
    let seconds = || pgvigil::clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let dimension = |name: &str, value: &str| map(&[("Name", text(name)), ("Value", text(value))]);
    let end = seconds() / 60 * 60;
    let datum = map(&[
        ("MetricName", text("CPUUtilization")),
        ("Dimensions", Value::Array(vec![dimension("DBInstanceIdentifier", "rds-a")])),
        ("Timestamp", time(end - 60)),
        ("Value", Value::Float(42.0)),
    ]);
    let body = map(&[("Namespace", text("AWS/RDS")), ("MetricData", Value::Array(vec![datum]))]);
    cloudwatch::ask(aws.port, "PutMetricData", &body).await;

    let config = instances(&format!("{READ}[cloudwatch.publish]\ninterval = \"1s\"\n"));
    let daemon = daemon(&aws.url, &config).await;
    daemon.until_series("pgvigil_cpu_utilization_ratio", &TARGET, SOON, |value| value == Some(0.42)).await;
    let metric = map(&[
        ("Namespace", text("pgvigil")),
        ("MetricName", text("healthy")),
        ("Dimensions", Value::Array(vec![dimension("cluster", "orders"), dimension("instance", "a")])),
    ]);
    let stat = map(&[("Metric", metric), ("Period", Value::Integer(60.into())), ("Stat", text("Maximum"))]);
    let query = map(&[("Id", text("q")), ("MetricStat", stat), ("ReturnData", Value::Bool(true))]);
    until("what was published", 2 * SOON, || async {
        let asked = map(&[
            ("MetricDataQueries", Value::Array(vec![query.clone()])),
            ("StartTime", time(seconds() / 60 * 60 - 300)),
            ("EndTime", time(seconds() / 60 * 60 + 60)),
        ]);
        let answer = cloudwatch::ask(aws.port, "GetMetricData", &asked).await;
        let results = field(&answer, "MetricDataResults").and_then(Value::as_array).cloned().unwrap_or_default();
        let values =
            results.first().and_then(|result| field(result, "Values")?.as_array().cloned()).unwrap_or_default();
        if values.first().and_then(Value::as_float) == Some(0.0) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(daemon.stop().await, Some(0));
}
