//! Servers that are found in AWS: an API of RDS of the test's own, and real servers behind what it names.

use std::fmt::Write;
use std::process::Command;

use pgvigil::demo::{Server, Servers};
use serde_json::Value;

use crate::support::daemon::{Daemon, SOON, pgvigil};
use crate::support::rds::{Instance, Rds};
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
