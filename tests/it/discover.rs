//! Servers that are found in AWS: an API of RDS of the test's own, and real servers behind what it names.

use std::fmt::Write;
use std::process::Command;

use pgvigil::demo::{Server, Servers};
use serde_json::{Value, json};

use crate::credentials::asking as asking_for_a_password;
use crate::support::aws::Aws;
use crate::support::cloudwatch::{Asked, Cloud, Reply};
use crate::support::daemon::{Daemon, SOON, pgvigil};
use crate::support::pgbouncer::PgBouncer;
use crate::support::rds::{Instance, Rds};
use crate::support::receiver::Receiver;
use crate::support::tls::Certificates;
use crate::support::{pg, until};

const REGION: &str = "us-east-1";

fn instance(server: &Server) -> Instance {
    Instance::new(&server.name, "127.0.0.1", server.port)
}

/// The servers as one instance and its read replicas.
fn family(servers: &Servers) -> Vec<Instance> {
    let primary = servers.node("primary");
    let mut all = vec![instance(primary)];
    for node in servers.nodes.iter().filter(|node| node.name != "primary") {
        all[0].replicas.push(node.name.clone());
        all.push(Instance { source: Some("primary".to_owned()), replicates: Some(true), ..instance(node) });
    }
    all
}

fn discover(keys: &str) -> String {
    format!(
        "[[discover]]\nregion = \"{REGION}\"\nuser = \"mon\"\npassword = \"mon\"\nsslmode = \"disable\"\ninterval = \"1s\"\n{keys}\n"
    )
}

/// How to log in is said by `keys` alone.
fn discover_plainly(keys: &str) -> String {
    format!("[[discover]]\nregion = \"{REGION}\"\nsslmode = \"disable\"\ninterval = \"1s\"\n{keys}\n")
}

fn asking(rds: &Rds) -> impl FnOnce(&mut Command) {
    let environment = rds.environment();
    move |command: &mut Command| {
        command.envs(environment);
    }
}

async fn clusters(daemon: &Daemon) -> Vec<String> {
    let answer = daemon.get("/api/v1/clusters").await.unwrap().json();
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let clusters = answer["clusters"].as_array().unwrap().iter();
    clusters
        .map(|cluster| format!("{}: {}", cluster["name"].as_str().unwrap(), names(&cluster["targets"]).join(" ")))
        .collect()
}

async fn until_clusters(daemon: &Daemon, expect: &[&str]) {
    until(&format!("{expect:?}"), SOON, || async {
        let found = clusters(daemon).await;
        if found == expect { Ok(()) } else { Err(format!("{found:?}\n{}", daemon.log())) }
    })
    .await;
}

async fn discovery(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/aws").await.unwrap().json()["discoveries"][0].clone()
}

/// `None`: until there is none any more.
async fn until_fault(daemon: &Daemon, text: Option<&str>) {
    until(&format!("{text:?}"), SOON * 3, || async {
        let discovery = discovery(daemon).await;
        let is_so = match (discovery["fault"].as_str(), text) {
            (Some(fault), Some(text)) => fault.contains(text),
            (fault, text) => fault.is_none() && text.is_none(),
        };
        if is_so { Ok(()) } else { Err(daemon.log()) }
    })
    .await;
}

#[tokio::test]
async fn an_instance_is_found_with_its_replicas_which_come_and_go() {
    let servers = pg::cluster(2).await;
    let rds = Rds::start().await;
    let all = family(&servers);
    rds.with(|state| state.instances.insert(REGION.to_owned(), all[..2].to_vec()));
    let config =
        discover("instance = \"primary\"") + "[[rule]]\nname = \"Broken\"\nwhen = \"rds_replication_normal == 0\"\n";
    let daemon = Daemon::start_with(&config, asking(&rds)).await;
    until_clusters(&daemon, &["primary: primary r1"]).await;
    daemon.until_series("pgvigil_replay_lag_bytes", &[("target", "r1")], SOON, |lag| lag.is_some()).await;

    // One more; then what AWS says of one is told by the rule.
    rds.with(|state| state.instances.insert(REGION.to_owned(), all.clone()));
    daemon.until_series("pgvigil_replay_lag_bytes", &[("target", "r2")], SOON, |lag| lag.is_some()).await;
    for (name, value) in
        [("rds_available", 1.0), ("rds_multi_az", 1.0), ("rds_allocated_storage_bytes", 20.0 * 1_073_741_824.0)]
    {
        let series = format!("pgvigil_{name}");
        daemon.until_series(&series, &[("target", "r2")], SOON, |found| found == Some(value)).await;
    }
    rds.with(|state| state.instances.get_mut(REGION).unwrap()[2].replicates = Some(false));
    until("the alert", SOON, || async {
        if daemon.log().contains("Broken fires: primary/r2") { Ok(()) } else { Err(daemon.log()) }
    })
    .await;

    // Deleted: it is watched no more, and what was said of it has ended. The other keeps its place.
    rds.with(|state| state.instances.insert(REGION.to_owned(), all[..2].to_vec()));
    until_clusters(&daemon, &["primary: primary r1"]).await;
    daemon.until_series("pgvigil_target_up", &[("target", "r2")], SOON, |up| up.is_none()).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn no_failure_and_no_empty_answer_removes_what_is_watched() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    rds.with(|state| state.instances.insert(REGION.to_owned(), family(&servers)));
    let daemon = Daemon::start_with(&discover("instance = \"primary\""), asking(&rds)).await;
    until_clusters(&daemon, &["primary: primary r1"]).await;

    let up = [("discovery", "discover-1")];
    rds.with(|state| state.refuses = Some((403, "AccessDenied")));
    until_fault(&daemon, Some("rds:DescribeDBInstances")).await;
    daemon.until_series("pgvigil_discovery_up", &up, SOON, |up| up == Some(0.0)).await;
    assert_eq!(clusters(&daemon).await, ["primary: primary r1"]);
    let health = daemon.get("/healthz").await.unwrap();
    assert!(health.status == 200 && health.body.contains("discover-1"), "{health:?}");

    rds.with(|state| state.refuses = None);
    until_fault(&daemon, None).await;
    rds.with(|state| state.instances.clear());
    until_fault(&daemon, Some("nothing in us-east-1 matches instance primary (0 instances there)")).await;
    assert_eq!(clusters(&daemon).await, ["primary: primary r1"]);
    daemon.until_series("pgvigil_target_up", &[("target", "r1")], SOON, |up| up == Some(1.0)).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_restart_watches_what_was_known_while_aws_is_away() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    rds.with(|state| state.instances.insert(REGION.to_owned(), family(&servers)));
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state.db");
    let start = || {
        let (ask, store) = (asking(&rds), store.clone());
        async move {
            Daemon::start_with(&discover("all = true"), |command| {
                ask(command);
                command.env("PGVIGIL_STORE__PATH", store);
            })
            .await
        }
    };
    let daemon = start().await;
    until_clusters(&daemon, &["primary: primary r1"]).await;
    assert_eq!(daemon.stop().await, Some(0));
    rds.with(|state| {
        state.refuses = Some((503, "ServiceUnavailable"));
        // A new identifier is no new server.
        state.instances.get_mut(REGION).unwrap()[1].id = "r1-renamed".to_owned();
        state.instances.get_mut(REGION).unwrap()[0].replicas = vec!["r1-renamed".to_owned()];
    });
    let daemon = start().await;
    assert_eq!(clusters(&daemon).await, ["primary: primary r1"]);
    daemon.until_series("pgvigil_replay_lag_bytes", &[("target", "r1")], SOON, |lag| lag.is_some()).await;
    rds.with(|state| state.refuses = None);
    daemon.until_series("pgvigil_discovery_up", &[], SOON * 3, |up| up == Some(1.0)).await;
    assert_eq!(clusters(&daemon).await, ["primary: primary r1"]);
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn three_hundred_instances_come_page_by_page_and_replicas_elsewhere_are_followed() {
    let rds = Rds::start().await;
    let replica_elsewhere = "arn:aws:rds:eu-west-1:123456789012:db:i-000-eu";
    rds.with(|state| {
        let mut all: Vec<Instance> = (0..300).map(|n| Instance::new(&format!("i-{n:03}"), "127.0.0.1", 9)).collect();
        all[0].replicas.push(replica_elsewhere.to_owned());
        all[299].engine = "mysql".to_owned();
        for instance in &mut all[..250] {
            instance.tags.push(("team".to_owned(), "orders".to_owned()));
        }
        state.instances.insert(REGION.to_owned(), all);
        let source = Some("arn:aws:rds:us-east-1:123456789012:db:i-000".to_owned());
        let elsewhere = Instance { source, ..Instance::new("i-000-eu", "127.0.0.1", 9) };
        state.instances.insert("eu-west-1".to_owned(), vec![elsewhere, Instance::new("other", "127.0.0.1", 9)]);
    });
    let config = discover("tags = { team = \"orders\" }").replace("interval = \"1s\"", "interval = \"5m\"");
    let daemon = Daemon::start_with(&config, asking(&rds)).await;
    until("all of them", SOON, || async {
        let found = clusters(&daemon).await;
        if found.len() == 250 && found[0] == "i-000: i-000 i-000-eu" {
            Ok(())
        } else {
            Err(format!("{}: {found:?}", found.len()))
        }
    })
    .await;
    let asked: Vec<(String, String)> = rds.with(|state| state.asked.clone());
    let pages =
        |region: &str| asked.iter().filter(|(action, of)| action == "DescribeDBInstances" && of == region).count();
    assert_eq!((pages(REGION), pages("eu-west-1")), (3, 1), "{asked:?}");
    let discovery = discovery(&daemon).await;
    assert_eq!((&discovery["clusters"], &discovery["targets"]), (&250.into(), &251.into()), "{discovery}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_discovery_comes_and_goes_with_the_file() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    rds.with(|state| {
        let mut all = family(&servers);
        all.push(Instance {
            db_cluster: Some("aurora".to_owned()),
            engine: "aurora-postgresql".to_owned(),
            ..Instance::new("a-1", "127.0.0.1", 9)
        });
        state.instances.insert(REGION.to_owned(), all);
    });
    let daemon = Daemon::start_with(&discover("instance = \"primary\""), asking(&rds)).await;
    until_clusters(&daemon, &["primary: primary r1"]).await;
    let reload = |config: String| {
        std::fs::write(daemon.dir.path().join("pgvigil.toml"), config).unwrap();
        daemon.process.signal(rustix::process::Signal::HUP);
    };
    reload(discover("instance = \"primary\"") + &discover("cluster = \"aurora\""));
    until_clusters(&daemon, &["primary: primary r1", "aurora: a-1"]).await;
    reload(discover("cluster = \"aurora\""));
    until_clusters(&daemon, &["aurora: a-1"]).await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn check_tells_what_was_found_and_what_matches_nothing() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    rds.with(|state| state.instances.insert(REGION.to_owned(), family(&servers)));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    let proxied = "[[cluster]]\nname = \"p\"\n[[cluster.target]]\nname = \"p\"\n\
                   dsn = \"host=orders.proxy-abc.us-east-1.rds.amazonaws.com hostaddr=127.0.0.1 port=9 user=u\"\n";
    std::fs::write(&file, discover("all = true") + &discover("instance = \"primery\"") + proxied).unwrap();
    let mut command = pgvigil();
    command.arg("check").arg("--config").arg(&file);
    asking(&rds)(&mut command);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    write!(text, "{}", String::from_utf8_lossy(&output.stderr)).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expect in [
        "discover-1 found 2 of the whole account in us-east-1",
        "nothing in us-east-1 matches instance primery",
        "its host is an RDS Proxy",
        "primary/r1",
    ] {
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(expect) || (expect == "primary/r1" && flat.contains("r1")), "{expect}\nin\n{text}");
    }
}

#[tokio::test]
async fn what_rds_reports_is_shown_judged_and_told_beside_alerts() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    rds.with(|state| {
        state.instances.insert(REGION.to_owned(), family(&servers));
        state.events.push(("r1", "failover", "Multi-AZ instance failover started", 90));
        state.events.push(("stranger", "failure", "not ours", 60));
        state.events.push(("primary", "backup", "Backing up DB instance", 50 * 60));
    });
    let config = discover("all = true") + "[[rule]]\nname = \"FailedOver\"\nwhen = \"rds_event == 1\"\nfor = \"0s\"\n";
    let daemon = Daemon::start_with(&config, asking(&rds)).await;
    let labels = [("cluster", "primary"), ("source", "r1"), ("category", "failover")];
    daemon.until_series("pgvigil_rds_event", &labels, SOON, |event| event == Some(1.0)).await;
    assert_eq!(daemon.series("pgvigil_rds_event", &[("category", "backup")]).await, None);
    until("the alert", SOON, || async {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("FailedOver fires"));
        if line.is_some_and(|line| line.contains("failover")) { Ok(()) } else { Err(log) }
    })
    .await;
    let cluster = daemon.get("/api/v1/clusters/primary").await.unwrap().json();
    let messages: Vec<&str> =
        cluster["rds_events"].as_array().unwrap().iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["Multi-AZ instance failover started", "Backing up DB instance"]);
    assert_eq!(daemon.stop().await, Some(0));
}

/// Answers for each metric with one value.
fn everywhere(asked: &Asked, value: f64) -> Reply {
    let end = asked.time("EndTime");
    let of = |query: crate::support::cloudwatch::Query| (query.id, vec![(end - query.period, value)], "Complete");
    Reply::Page { results: asked.queries().into_iter().map(of).collect(), next: None }
}

/// The instances that CloudWatch was asked about last in whole.
fn dimensions(cloud: &Cloud) -> Vec<String> {
    let asked = cloud.asked("GetMetricData");
    let last = asked.iter().rev().find(|asked| asked.queries().iter().any(|query| query.name == "CPUUtilization"));
    let mut names: Vec<String> =
        last.map(Asked::queries).unwrap_or_default().into_iter().map(|query| query.dimension).collect();
    names.sort();
    names.dedup();
    names
}

#[tokio::test]
async fn cloudwatch_is_read_of_what_is_found_as_it_comes_and_goes() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    let all = family(&servers);
    let mut first = all[..1].to_vec();
    first[0].replicas.clear();
    rds.with(|state| state.instances.insert(REGION.to_owned(), first.clone()));
    // Half of the 20 GiB that each has.
    let cloud = Cloud::start(|asked| everywhere(asked, 10.0 * 1_073_741_824.0)).await;
    let config = "preset = \"rds-strict\"\n".to_owned()
        + &discover("instance = \"primary\"")
        // An hour: what comes later is read at once, or not within this test.
        + "[cloudwatch]\nenabled = true\ninterval = \"1h\"\nmetrics = [\"CPUUtilization\", \"FreeStorageSpace\"]\n\
           [[rule]]\nname = \"FreeStorage\"\nwarning = \"< 60%\"\ndatapoints = \"1 of 1\"\nevery = \"1s\"\n";
    let daemon = Daemon::start_with(&config, |command| {
        asking(&rds)(command);
        command.env("AWS_ENDPOINT_URL_CLOUDWATCH", &cloud.url);
    })
    .await;
    let free = |target: &'static str| [("cluster", "primary"), ("target", target)];
    daemon.until_series("pgvigil_storage_free_ratio", &free("primary"), SOON, |ratio| ratio == Some(0.5)).await;
    assert_eq!(dimensions(&cloud), ["primary"]);
    daemon.until_log("FreeStorage fires: primary/primary").await;

    rds.with(|state| state.instances.insert(REGION.to_owned(), all.clone()));
    daemon.until_series("pgvigil_storage_free_ratio", &free("r1"), SOON, |ratio| ratio == Some(0.5)).await;
    assert_eq!(dimensions(&cloud), ["primary", "r1"]);
    rds.with(|state| state.instances.insert(REGION.to_owned(), first));
    until("nobody asks about what is no more", SOON, || async {
        let names = dimensions(&cloud);
        if names == ["primary"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    let credential = cloud.asked("GetMetricData")[0].credential.clone();
    assert!(credential.starts_with("test/") && credential.contains(&format!("/{REGION}/")), "{credential}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn what_is_found_late_is_not_left_to_the_next_long_period() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    let all = family(&servers);
    let mut first = all[..1].to_vec();
    first[0].replicas.clear();
    rds.with(|state| state.instances.insert(REGION.to_owned(), first));
    let cloud = Cloud::start(|asked| everywhere(asked, 7.0)).await;
    // CPU credits are told every five minutes, and asked for as often.
    let config = discover("instance = \"primary\"")
        + "[cloudwatch]\nenabled = true\ninterval = \"1s\"\nmetrics = [\"CPUCreditBalance\"]\n";
    let daemon = Daemon::start_with(&config, |command| {
        asking(&rds)(command);
        command.env("AWS_ENDPOINT_URL_CLOUDWATCH", &cloud.url);
    })
    .await;
    let of = |target: &'static str| [("cluster", "primary"), ("target", target)];
    daemon.until_series("pgvigil_cpu_credit_balance", &of("primary"), SOON, |credits| credits == Some(7.0)).await;
    rds.with(|state| state.instances.insert(REGION.to_owned(), all));
    daemon.until_series("pgvigil_cpu_credit_balance", &of("r1"), SOON, |credits| credits == Some(7.0)).await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// What STS answers: credentials that last.
fn role_of(action: &str, key: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>of-the-role</SecretAccessKey><SessionToken>session</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser><AssumedRoleId>R:pgvigil</AssumedRoleId>\
         <Arn>arn:aws:sts::210987654321:assumed-role/watch/pgvigil</Arn></AssumedRoleUser></{action}Result>\
         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
    )
}

#[tokio::test]
async fn the_role_of_a_discovery_asks_for_all_that_it_finds() {
    let servers = pg::cluster(0).await;
    let rds = Rds::start().await;
    rds.with(|state| state.instances.insert(REGION.to_owned(), family(&servers)));
    let cloud = Cloud::start(|asked| everywhere(asked, 50.0)).await;
    let (sts, secrets) = (Receiver::start().await, Receiver::start().await);
    sts.tell(role_of("AssumeRole", "ASIAROLE"));
    let secret = json!({"username": "mon", "password": "mon"}).to_string();
    let arn = "arn:aws:secretsmanager:us-east-1:210987654321:secret:db";
    secrets.tell(json!({"ARN": arn, "Name": "db", "VersionId": "v1", "SecretString": secret}).to_string());
    let config = discover_plainly(
        "instance = \"primary\"\nsecret = \"db\"\nrole_arn = \"arn:aws:iam::210987654321:role/watch\"",
    ) + "[cloudwatch]\nenabled = true\nmetrics = [\"CPUUtilization\"]\n";
    let daemon = Daemon::start_with(&config, |command| {
        asking(&rds)(command);
        command.env("AWS_ENDPOINT_URL_CLOUDWATCH", &cloud.url);
        command.env("AWS_ENDPOINT_URL_STS", format!("http://127.0.0.1:{}", sts.port));
        command.env("AWS_ENDPOINT_URL_SECRETS_MANAGER", format!("http://127.0.0.1:{}", secrets.port));
    })
    .await;
    daemon.until_series("pgvigil_target_up", &[("target", "primary")], SOON, |up| up == Some(1.0)).await;
    daemon.until_series("pgvigil_cpu_utilization_ratio", &[("target", "primary")], SOON, |cpu| cpu == Some(0.5)).await;
    let asked = sts.requests();
    let role = "RoleArn=arn%3Aaws%3Aiam%3A%3A210987654321%3Arole%2Fwatch";
    assert!(asked[0].body.contains("Action=AssumeRole") && asked[0].body.contains(role), "{asked:?}");
    assert!(asked[0].header("authorization").contains("Credential=test/"), "{asked:?}");
    assert_eq!(rds.with(|state| state.keys.iter().cloned().collect::<Vec<_>>()), ["ASIAROLE"]);
    assert!(cloud.asked("GetMetricData").iter().all(|asked| asked.credential.starts_with("ASIAROLE/")));
    let asked = secrets.requests();
    assert!(asked.iter().all(|asked| asked.header("authorization").contains("Credential=ASIAROLE/")), "{asked:?}");
    let log = daemon.log();
    assert!(!log.contains("of-the-role") && !log.contains("Password"), "{log}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn what_is_found_is_logged_in_to_with_a_secret() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    rds.with(|state| state.instances.insert(REGION.to_owned(), family(&servers)));
    let secret = json!({"username": "mon", "password": "mon"}).to_string();
    aws.secrets("CreateSecret", json!({"Name": "orders/db", "SecretString": secret})).await;
    let config = discover_plainly("all = true\nsecret = \"orders/db\"");
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(aws.environment()).env("AWS_ENDPOINT_URL_RDS", &rds.url);
    })
    .await;
    for target in ["primary", "r1"] {
        daemon.until_series("pgvigil_target_up", &[("target", target)], SOON, |up| up == Some(1.0)).await;
    }
    // One secret, read for both.
    let api = [("api", "secretsmanager:GetSecretValue"), ("outcome", "ok")];
    let read = daemon.series("pgvigil_aws_requests_total", &api).await;
    assert!(read.is_some_and(|read| read <= 3.0), "{read:?}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn what_is_found_is_logged_in_to_with_a_token_of_its_region() {
    let certificates = Certificates::make();
    let (port, passwords) = asking_for_a_password(&certificates);
    let rds = Rds::start().await;
    rds.with(|state| state.instances.insert("eu-west-1".to_owned(), vec![Instance::new("orders", "localhost", port)]));
    let ca = certificates.path("ca.crt").display().to_string();
    let config = format!(
        "[aws]\nregion = \"us-east-1\"\n[[discover]]\nregion = \"eu-west-1\"\ninstance = \"orders\"\nauth = \"iam\"\n\
         user = \"vigil\"\nsslrootcert = \"{ca}\"\n"
    );
    let daemon = Daemon::start_with(&config, asking(&rds)).await;
    let token = tokio::task::spawn_blocking(move || passwords.recv_timeout(SOON).unwrap()).await.unwrap();
    assert!(token.starts_with(&format!("localhost:{port}/?Action=connect&DBUser=vigil&")), "{token}");
    assert!(token.contains("%2Feu-west-1%2Frds-db%2Faws4_request"), "{token}");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test]
async fn a_region_that_asks_for_patience_keeps_what_is_watched() {
    let servers = pg::cluster(1).await;
    let rds = Rds::start().await;
    rds.with(|state| state.instances.insert(REGION.to_owned(), family(&servers)));
    let daemon = Daemon::start_with(&discover("all = true"), asking(&rds)).await;
    until_clusters(&daemon, &["primary: primary r1"]).await;
    rds.with(|state| state.refuses = Some((400, "Throttling")));
    until_fault(&daemon, Some("Throttling")).await;
    // After three refusals it is left alone, with the reason; what is known is polled on.
    until("a circuit that is open", SOON * 3, || async {
        let services = daemon.get("/api/v1/aws").await?.json();
        let rds = services["services"].as_array().unwrap().iter().find(|service| service["service"] == "rds").cloned();
        match rds {
            Some(rds) if rds["circuit"] == "open" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let throttled = [("api", "rds:DescribeDBInstances"), ("outcome", "throttled")];
    assert!(daemon.series("pgvigil_aws_requests_total", &throttled).await.is_some_and(|count| count >= 3.0));
    assert_eq!(clusters(&daemon).await, ["primary: primary r1"]);
    let polls = daemon.series("pgvigil_polls_total", &[("outcome", "ok")]).await;
    daemon.until_series("pgvigil_polls_total", &[("outcome", "ok")], SOON, |now| now > polls).await;
    rds.with(|state| state.refuses = None);
    until_fault(&daemon, None).await;
    assert_eq!(daemon.stop().await, Some(0));
}

/// The keys that RDS was asked with, by a daemon that has only this to find some.
async fn keys_with(rds: &Rds, environment: Vec<(&'static str, String)>) -> Vec<String> {
    rds.with(|state| state.instances.insert(REGION.to_owned(), vec![Instance::new("orders", "127.0.0.1", 9)]));
    let daemon = Daemon::start_with(&discover("all = true"), |command| {
        command.env("AWS_ENDPOINT_URL_RDS", &rds.url).env("AWS_EC2_METADATA_DISABLED", "true").envs(environment);
    })
    .await;
    until_clusters(&daemon, &["orders: orders"]).await;
    let log = daemon.log();
    assert!(!log.contains("of-the-role") && !log.contains("of-the-task"), "{log}");
    assert_eq!(daemon.stop().await, Some(0));
    rds.with(|state| state.keys.iter().cloned().collect())
}

#[tokio::test]
async fn a_pod_s_web_identity_is_a_way_in() {
    let (rds, sts) = (Rds::start().await, Receiver::start().await);
    sts.tell(role_of("AssumeRoleWithWebIdentity", "ASIAWEB"));
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "header.claims.signature").unwrap();
    let environment = vec![
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pgvigil".to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ENDPOINT_URL_STS", format!("http://127.0.0.1:{}", sts.port)),
    ];
    assert_eq!(keys_with(&rds, environment).await, ["ASIAWEB"]);
    let asked = sts.requests();
    assert!(asked[0].body.contains("WebIdentityToken=header.claims.signature"), "{asked:?}");
}

#[tokio::test]
async fn a_task_s_credentials_are_a_way_in() {
    let (rds, agent) = (Rds::start().await, Receiver::start().await);
    let told = json!({"AccessKeyId": "ASIATASK", "SecretAccessKey": "of-the-task", "Token": "session",
                      "Expiration": "2099-01-01T00:00:00Z", "RoleArn": "arn:aws:iam::123456789012:role/pgvigil"});
    agent.tell(told.to_string());
    let environment = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://127.0.0.1:{}/v2/credentials", agent.port)),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic b2Yg".to_owned()),
    ];
    assert_eq!(keys_with(&rds, environment).await, ["ASIATASK"]);
    let asked = agent.requests();
    assert!(asked[0].line.starts_with("GET /v2/credentials "), "{asked:?}");
    assert_eq!(asked[0].header("authorization"), "Basic b2Yg");
}

#[tokio::test]
async fn where_aws_is_asked_follows_fips_and_dual_stack_and_a_proxy_is_used() {
    let config = discover_plainly("all = true\nsecret = \"db\"\nrole_arn = \"arn:aws:iam::210987654321:role/watch\"")
        + "[[cluster]]\nname = \"c\"\n[[cluster.target]]\nname = \"t\"\nsecret = \"db\"\n\
           cloudwatch = { instance = \"t\", region = \"us-east-1\" }\nregion = \"us-east-1\"\n\
           [[discover]]\nregion = \"us-east-1\"\ninstance = \"other\"\nuser = \"u\"\n\
           [[redis]]\nname = \"sessions\"\nreplication_group = \"sessions\"\n\
           [cloudwatch]\nenabled = true\n[cloudwatch.publish]\ninterval = \"1s\"\n[aws]\nregion = \"us-east-1\"\n\
           [[notify]]\ntype = \"sns\"\ntopic_arn = \"arn:aws:sns:us-east-1:123456789012:alerts\"\n";
    let services = ["elasticache", "monitoring", "rds", "secretsmanager", "sns", "sts"];
    for (variables, expect) in [
        (&[] as &[&str], services.map(|service| format!("{service}.us-east-1.amazonaws.com"))),
        (&["AWS_USE_FIPS_ENDPOINT"], services.map(|service| format!("{service}-fips.us-east-1.amazonaws.com"))),
        (&["AWS_USE_DUALSTACK_ENDPOINT"], {
            services.map(|service| match service {
                // It has both under its old name.
                "secretsmanager" => "secretsmanager.us-east-1.amazonaws.com".to_owned(),
                _ => format!("{service}.us-east-1.api.aws"),
            })
        }),
    ] {
        let environment = variables.iter().map(|name| (*name, "true"));
        // A proxy that lets nobody through hears where all want to go.
        let proxy = Receiver::start().await;
        proxy.answer("403 Forbidden");
        let daemon = Daemon::start_with(&config, |command| {
            command.env("HTTPS_PROXY", format!("http://127.0.0.1:{}", proxy.port)).envs(environment);
            command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
            command.env("AWS_EC2_METADATA_DISABLED", "true").env_remove("NO_PROXY").env_remove("no_proxy");
        })
        .await;
        until(&format!("{expect:?}"), SOON * 2, || async {
            let hosts: std::collections::BTreeSet<String> =
                proxy.requests().into_iter().map(|request| request.line).collect();
            let has = |host: &String| hosts.contains(&format!("CONNECT {host}:443 HTTP/1.1"));
            if expect.iter().all(has) { Ok(()) } else { Err(format!("{hosts:?}")) }
        })
        .await;
        assert_eq!(daemon.stop().await, Some(0));
    }
}

/// What a command says on its standard output, and how it ends.
async fn said(command: &str, config: &str, adjust: impl FnOnce(&mut Command)) -> (String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgvigil.toml");
    std::fs::write(&file, config).unwrap();
    let mut process = pgvigil();
    process.arg(command).arg("--config").arg(&file);
    adjust(&mut process);
    let output = tokio::task::spawn_blocking(move || process.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text.split_whitespace().collect::<Vec<_>>().join(" "), output.status.code())
}

#[tokio::test]
async fn a_plan_counts_what_is_found_and_names_what_is_not() {
    let rds = Rds::start().await;
    let all = ["a", "b", "c"].map(|id| Instance::new(id, "127.0.0.1", 9)).to_vec();
    rds.with(|state| state.instances.insert(REGION.to_owned(), all));
    let config = discover("all = true") + "[cloudwatch]\nenabled = true\nmetrics = [\"CPUUtilization\"]\n";
    let (text, status) = said("plan", &config, asking(&rds)).await;
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("metrics: 3 of 3 instances, every 1m 131,490 1.31"), "{text}");
    let counted = "With the 3 targets that discover-1 finds now (the whole account in us-east-1).";
    assert!(text.contains(counted), "{text}");
    rds.with(|state| state.refuses = Some((403, "AccessDenied")));
    let (text, status) = said("plan", &config, asking(&rds)).await;
    let left_out = "Not counted is what discover-1 finds (the whole account in us-east-1): us-east-1: AWS denies rds:DescribeDBInstances";
    assert!(status == Some(0) && text.contains(left_out), "{text}");
}

#[tokio::test]
async fn check_asks_aws_once_for_all_that_it_will_be_asked_and_names_what_a_policy_lacks() {
    let (rds, sns) = (Rds::start().await, Receiver::start().await);
    rds.with(|state| {
        state.instances.insert(REGION.to_owned(), vec![Instance::new("orders", "127.0.0.1", 9)]);
        state.denies = Some("DescribeEvents");
    });
    let cloud = Cloud::start(|_| Reply::Refusal("AccessDenied", 403)).await;
    sns.answer("404 Not Found");
    sns.tell(
        "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Sender</Type><Code>NotFound</Code>\
         <Message>Topic does not exist</Message></Error><RequestId>1</RequestId></ErrorResponse>"
            .to_owned(),
    );
    let topic = "arn:aws:sns:us-east-1:123456789012:alerts";
    let config = discover("all = true")
        + "[cloudwatch]\nenabled = true\n[cloudwatch.publish]\nregion = \"us-east-1\"\n\
           [[pooler]]\nname = \"pgb\"\ncluster = \"elsewhere\"\ndsn = \"host=127.0.0.1 port=9 dbname=pgbouncer\"\n"
        + &format!(
            "[[notify]]\ntype = \"sns\"\ntopic_arn = \"{topic}\"\nendpoint_url = \"http://127.0.0.1:{}\"\n",
            sns.port
        );
    let (text, status) = said("check", &config, |command| {
        asking(&rds)(command);
        command.env("AWS_ENDPOINT_URL_CLOUDWATCH", &cloud.url);
    })
    .await;
    assert_eq!(status, Some(1), "{text}");
    for expect in [
        "error in us-east-1: AWS denies cloudwatch:GetMetricData",
        "error in us-east-1: AWS denies rds:DescribeEvents to arn:aws:iam::123456789012:user/pgvigil",
        &format!("error in {topic}: sns:GetTopicAttributes: NotFound (404): Topic does not exist"),
        "error pooler elsewhere/pgb is not watched: no [[discover]] has found its cluster",
        "AWS allows rds:DescribePendingMaintenanceActions",
        "not tried: cloudwatch:PutMetricData, sns:Publish; `pgvigil notify test` tries sns:Publish",
    ] {
        assert!(text.contains(expect), "{expect}\nin\n{text}");
    }
    assert!(cloud.asked("PutMetricData").is_empty());
    // Who may not ask about the topic need not.
    sns.answer("403 Forbidden");
    sns.tell(
        "<ErrorResponse><Error><Type>Sender</Type><Code>AuthorizationError</Code><Message>User: arn:aws:iam::123456789012:user/\
         pgvigil is not authorized to perform: SNS:GetTopicAttributes on resource: x</Message></Error></ErrorResponse>"
            .to_owned(),
    );
    let (text, _) = said("check", &config, asking(&rds)).await;
    assert!(text.contains("sns:Publish") && !text.contains("sns:GetTopicAttributes"), "{text}");
}

#[tokio::test]
async fn a_pooler_before_what_is_found_is_watched_and_logged_in_to_with_its_secret() {
    let Some(aws) = Aws::start().await else { return };
    let servers = pg::cluster(0).await;
    let Some(pooler) = PgBouncer::start(servers.primary().port).await else { return };
    let rds = Rds::start().await;
    // What the secret says of a host is of its database, and the console is where the dsn says.
    let secret =
        json!({"username": "stats", "password": "stats", "host": "nowhere.invalid", "port": 9, "dbname": "app"});
    aws.secrets("CreateSecret", json!({"Name": "pgb", "SecretString": secret.to_string()})).await;
    let config = discover("all = true")
        + &format!(
            "[poll]\npooler_interval = \"200ms\"\n[[pooler]]\nname = \"pgb\"\ncluster = \"primary\"\nsecret = \"pgb\"\n\
             region = \"{REGION}\"\ndsn = \"host=127.0.0.1 port={} dbname=pgbouncer sslmode=disable\"\n",
            pooler.port
        );
    let daemon = Daemon::start_with(&config, |command| {
        command.envs(aws.environment()).env("AWS_ENDPOINT_URL_RDS", &rds.url);
    })
    .await;
    let pgb = [("cluster", "primary"), ("target", "pgb")];
    assert_eq!(daemon.series("pgvigil_pooler_up", &pgb).await, None);
    rds.with(|state| state.instances.insert(REGION.to_owned(), family(&servers)));
    daemon.until_series("pgvigil_pooler_up", &pgb, SOON * 3, |up| up == Some(1.0)).await;
    assert_eq!(daemon.stop().await, Some(0));
}
