//! `pgvigil notify test`: a notice through each notifier as it is configured, marked as a test. It touches no alert, no
//! daemon and no store: only what receives it can tell whether it arrived.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use super::message::Format;
use super::{NotifierConfig, NotifierError, Worker};
use crate::aws::Aws;
use crate::core::alert::{AlertId, AlertView, DAEMON, Phase, Recent, Severity};
use crate::core::explain::Explanation;
use crate::core::ledger::{Entry, Group, Notice, Purpose, SendFailure};
use crate::core::signal::Unit;
use crate::core::time::MonoTime;
use crate::core::topology::Name;

const RULE: &str = "NotifyTest";

/// How it went.
#[derive(Debug)]
pub struct Trial {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    notifier: Name,
    kind: &'static str,
    place: String,
    outcome: Result<&'static str, SendFailure>,
}

/// No notifier has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no notifier {name:?}; there {}", are(.known))]
pub struct Unknown {
    name: String,
    known: Vec<Name>,
}

fn are(known: &[Name]) -> String {
    let names: Vec<&str> = known.iter().map(Name::as_str).collect();
    format!("{} {}", if names.len() == 1 { "is" } else { "are" }, names.join(", "))
}

/// Those of the notifiers that are meant; no name: all.
///
/// # Errors
/// A name that none has.
pub fn chosen(notifiers: Vec<NotifierConfig>, names: &[String]) -> Result<Vec<(usize, NotifierConfig)>, Unknown> {
    let own: Vec<Name> = notifiers.iter().enumerate().map(|(place, notifier)| notifier.name(place)).collect();
    if let Some(name) = names.iter().find(|name| !own.iter().any(|own| own.as_str() == name.as_str())) {
        return Err(Unknown { name: name.clone(), known: own });
    }
    let is_meant = |place: usize| names.is_empty() || names.iter().any(|name| own[place].as_str() == name);
    Ok(notifiers.into_iter().enumerate().filter(|(place, _)| is_meant(*place)).collect())
}

/// Sends to all of them at once.
///
/// # Errors
/// A notifier that cannot work as configured.
pub async fn run(notifiers: Vec<(usize, NotifierConfig)>, aws: &Aws, now: SystemTime) -> Result<Trial, NotifierError> {
    let mut attempts = Vec::new();
    for (place, notifier) in notifiers {
        let (kind, told, opens) = (notifier.kind(), notifier.told_of(), opens(&notifier));
        let places = notifier.places();
        for (worker, place) in notifier.workers(place, aws)?.into_iter().zip(places) {
            attempts.push(attempt(worker, kind, place, told.clone(), opens, now));
        }
    }
    Ok(Trial { rows: join_all(attempts).await })
}

/// What a receiver makes of a test that fires.
#[derive(Clone, Copy, Debug)]
enum Opens {
    /// Somebody reads it.
    Nothing,
    /// Something that must be closed again.
    Incident,
    /// Something that ends by itself.
    Alert,
}

fn opens(notifier: &NotifierConfig) -> Opens {
    match notifier {
        NotifierConfig::Log(_) => Opens::Nothing,
        NotifierConfig::Alertmanager(_) => Opens::Alert,
        NotifierConfig::Webhook(_) => Opens::Incident,
        NotifierConfig::Sns(config) => match config.format {
            Format::Text | Format::AmazonQ => Opens::Nothing,
            Format::Json | Format::Cloudwatch => Opens::Incident,
        },
    }
}

async fn attempt(
    worker: Worker,
    kind: &'static str,
    place: String,
    told: String,
    opens: Opens,
    now: SystemTime,
) -> Row {
    let notifier = worker.name().clone();
    let mut outcome = worker.attempt(&notice(&notifier, &told, Phase::Firing, now)).await;
    if outcome.is_ok() && matches!(opens, Opens::Incident) {
        outcome = worker.attempt(&notice(&notifier, &told, Phase::Resolved, now)).await;
    }
    let said = match opens {
        Opens::Nothing => "delivered",
        Opens::Incident => "delivered: firing, then resolved",
        Opens::Alert => "delivered: it ends by itself after 10m",
    };
    Row { notifier, kind, place, outcome: outcome.map(|()| said) }
}

fn notice(notifier: &Name, told: &str, phase: Phase, now: SystemTime) -> Notice {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Unlike any other, so that a FIFO topic lets each through.
    let dedup_key = format!("{RULE}-{}-{}.0-{:032x}", phase.as_str(), since.as_secs() / 60, since.as_nanos());
    let is_over = phase == Phase::Resolved;
    let over = if is_over { "The test is over" } else { "This is a test" };
    let state = format!(
        "{over}: nothing is wrong. Somebody tries whether pgvigil's notifier {notifier} works; it tells of {told}."
    );
    let id = AlertId { rule: Name::new(RULE), cluster: Name::new(DAEMON), target: None, labels: Vec::new() };
    let alert = AlertView {
        id: id.clone(),
        severity: Severity::Info,
        phase,
        active_at: MonoTime::from_nanos(0),
        fired_at: Some(MonoTime::from_nanos(0)),
        resolved_at: is_over.then(|| MonoTime::from_nanos(0)),
        reading: None,
        is_unknown: false,
        condition: "notify_test".to_owned(),
        unit: Unit::Count,
        gone: None,
        recent: Recent::default(),
        rule_labels: Vec::new(),
        summary: Some(state.clone()),
        runbook: None,
        muted: Vec::new(),
    };
    let entry = Entry {
        alert,
        dedup_key: dedup_key.clone(),
        active_at: now,
        fired_at: Some(now),
        resolved_at: is_over.then(|| now + Duration::from_secs(1)),
        recent: Vec::new(),
        told: Explanation { state, ..Explanation::default() },
    };
    Notice {
        notifier: notifier.clone(),
        group: Group::Alert(id),
        purpose: Purpose::Test,
        alerts: vec![entry],
        also_firing: Vec::new(),
        dedup_key,
        attempt: 1,
    }
}

impl Trial {
    /// All was delivered.
    pub fn is_well(&self) -> bool {
        self.rows.iter().all(|row| row.outcome.is_ok())
    }

    /// A row for each notifier.
    pub fn table(&self) -> String {
        let heading = ["NOTIFIER", "TYPE", "WHERE", "OUTCOME"].map(str::to_owned);
        let cells = self.rows.iter().map(|row| {
            let outcome = match &row.outcome {
                Ok(said) => (*said).to_owned(),
                Err(failure) => format!("not delivered: {failure}"),
            };
            [row.notifier.to_string(), row.kind.to_owned(), row.place.clone(), outcome]
        });
        let rows: Vec<[String; 4]> = std::iter::once(heading).chain(cells).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2].map(width);
        let line = |row: &[String; 4]| {
            let [notifier, kind, place, outcome] = row;
            let [a, b, c] = widths;
            format!("{notifier:a$}  {kind:b$}  {place:c$}  {outcome}\n")
        };
        rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::log;

    fn configs() -> Vec<NotifierConfig> {
        let read = |text: &str| serde_json::from_str(text).expect("a good configuration");
        let named = log::Config { name: Some("journal".to_owned()), ..log::Config::default() };
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        vec![
            NotifierConfig::Log(named),
            read(&format!(r#"{{"type": "webhook", "url": "http://127.0.0.1:{port}/s3cr3t", "severity": "critical"}}"#)),
            read(&format!(
                r#"{{"type": "alertmanager", "urls": ["http://127.0.0.1:{port}/a", "http://127.0.0.1:{port}/b"]}}"#
            )),
        ]
    }

    #[test]
    fn one_is_chosen_by_its_name_and_an_unknown_one_is_an_error() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            chosen(configs(), &names).map(|chosen| chosen.iter().map(|(place, _)| *place).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]), Ok(vec![0, 1, 2]));
        assert_eq!(names(&["webhook-2"]), Ok(vec![1]));
        let error = names(&["journal", "webhook-1"]).expect_err("there is none").to_string();
        assert_eq!(error, "there is no notifier \"webhook-1\"; there are journal, webhook-2, alertmanager-3");
    }

    #[tokio::test]
    async fn each_has_a_row_that_says_whether_it_was_delivered_and_shows_no_secret() {
        let configs = configs().into_iter().enumerate().collect();
        let trial = run(configs, &Aws::new(crate::aws::Config::default()), SystemTime::UNIX_EPOCH)
            .await
            .expect("they can work");
        let table = trial.table();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
        let expect = [
            ["NOTIFIER", "TYPE"],
            ["journal", "log"],
            ["webhook-2", "webhook"],
            ["alertmanager-3/1", "alertmanager"],
            ["alertmanager-3/2", "alertmanager"],
        ];
        assert_eq!(rows, expect);
        assert!(table.lines().nth(1).is_some_and(|row| row.ends_with("delivered")), "{table}");
        assert_eq!(table.matches("not delivered: ").count(), 3, "{table}");
        assert!(!trial.is_well() && !table.contains("s3cr3t"), "{table}");
    }

    #[test]
    fn a_test_is_marked_and_says_what_its_notifier_tells_of() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let notice = notice(&Name::new("pager"), "severity=critical", Phase::Firing, now);
        let message = super::super::message::Message::new(&notice, super::super::message::Shape::Text);
        assert_eq!(message.subject, "TEST of pgvigil, nothing is wrong: notifier pager");
        let expect = "This is a test: nothing is wrong. Somebody tries whether pgvigil's notifier pager works; it tells of \
                      severity=critical.\n";
        assert_eq!(message.body, expect);
        assert!(notice.dedup_key.len() <= 128);
    }
}
