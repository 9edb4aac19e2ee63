//! `pgvigil silence` and `pgvigil drain`: asks a running daemon, over HTTP or HTTPS, to make and end silences and drains,
//! and lists them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::notify::client::{Client, Endpoint, Failure, Identity, Secret, TlsFiles};
use crate::table::{seconds, wrapped};

/// Longer than the daemon itself waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// For every terminal.
const WIDTH: usize = 80;

/// The daemon that is asked.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// For example `http://127.0.0.1:9732`.
    pub url: String,
    /// `None`: it can only be read.
    pub token: Option<String>,
    /// Whose certificates are believed; `None`: whom this system believes.
    pub ca_file: Option<PathBuf>,
}

/// What is asked of it.
#[derive(Clone, Debug)]
pub enum Wish {
    /// A body for `POST /api/v1/silences`.
    Add(Value),
    /// Also those that have ended?
    List {
        all: bool,
    },
    /// By their numbers.
    Expire(Vec<u64>),
    /// A body for `POST /api/v1/drains`.
    Drain(Value),
    /// A target that is drained no more: its name, or its cluster's and its own.
    Undrain(String),
    ListDrains,
}

/// What it said: for standard output, and for standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub text: String,
    pub warnings: Vec<String>,
    /// Of several wishes, why some were not done.
    pub failures: Vec<String>,
}

impl Daemon {
    /// Asks it, and waits until it has answered.
    ///
    /// # Errors
    /// Why it is not done, in one line for people.
    pub async fn ask(&self, wish: &Wish, as_json: bool) -> Result<Told, String> {
        let mut told = Told::default();
        match wish {
            Wish::Add(silence) => {
                let answer = self.send(Method::POST, "/api/v1/silences", Some(silence)).await?;
                told.text = if as_json { json(&answer) } else { added(&answer) };
                told.warnings = warnings(&answer);
            }
            Wish::Expire(ids) => {
                for id in ids {
                    let answer = match self.send(Method::DELETE, &format!("/api/v1/silences/{id}"), None).await {
                        Ok(answer) => answer,
                        Err(reason) => {
                            // The others are ended all the same.
                            told.failures.push(reason);
                            continue;
                        }
                    };
                    let silence = &answer["silence"];
                    told.text += &if as_json {
                        json(&answer)
                    } else {
                        format!("silence {id} is ended: {}\n", text(silence, "selects"))
                    };
                    told.warnings.extend(warnings(&answer));
                }
            }
            Wish::Drain(drain) => {
                let answer = self.send(Method::POST, "/api/v1/drains", Some(drain)).await?;
                let left = |drain: &Value| drain_line(drain, text(&answer, "at"));
                told.text = if as_json { json(&answer) } else { left(&answer["drain"]) };
                told.warnings = warnings(&answer);
            }
            Wish::Undrain(target) => {
                let answer = self.send(Method::DELETE, &format!("/api/v1/drains/{}", plain(target)), None).await?;
                let drain = &answer["drain"];
                let done = format!("{}/{} is drained no more\n", text(drain, "cluster"), text(drain, "target"));
                told.text = if as_json { json(&answer) } else { done };
                told.warnings = warnings(&answer);
            }
            Wish::ListDrains => {
                let answer = self.send(Method::GET, "/api/v1/drains", None).await?;
                told.text = if as_json { json(&answer) } else { drains(&answer) };
            }
            Wish::List { all } => {
                let answer = self.send(Method::GET, "/api/v1/silences", None).await?;
                told.text = if as_json { json(&answer) } else { list(&answer, *all) };
            }
        }
        Ok(told)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        // It is not repeated: there may be a password in it.
        let base = Endpoint::parse(&Secret::new(self.url.clone())).map_err(|reason| {
            let reason = reason.split(';').next().unwrap_or(reason);
            format!("--url: {reason}; write for example http://127.0.0.1:9732 or https://pgvigil.example.com:9732")
        })?;
        let token = self.token.clone().map(Secret::new);
        let identity = token.as_ref().map_or(Identity::Nobody, Identity::Bearer);
        let files = TlsFiles { ca: self.ca_file.clone(), ..TlsFiles::default() };
        // What is a key for a notifier is an option here.
        let client = Client::new(&BTreeMap::new(), identity, files, PATIENCE)
            .map_err(|reason| reason.replace("bearer_token", "the token").replace("ca_file", "--ca-file"))?;
        let answer = client.whole(method, &base.join(path), body.map(Value::to_string)).await;
        let (status, body) = answer.map_err(|failure| unreached(&failure))?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|_| format!("{base} answers {status}, and not as pgvigil does; is it another program?"))?;
        if status.is_success() {
            return Ok(answer);
        }
        let reason = answer["reasons"][0].as_str().unwrap_or("it does not say why").to_owned();
        Err(match status.as_u16() {
            401 if self.token.is_none() => {
                "this takes the token of server.token: give it with --token-file or PGVIGIL_TOKEN".to_owned()
            }
            401 => format!("{reason}; --token-file and PGVIGIL_TOKEN give another"),
            _ => reason,
        })
    }
}

/// Why it did not answer, and what to do about that.
fn unreached(failure: &Failure) -> String {
    let (Failure::NotSent(reason) | Failure::NoAnswer(reason)) = failure else {
        return "it does not answer".to_owned();
    };
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let way_out = if has(&["InvalidContentType"]) {
        "; it seems to speak plain HTTP: write http:// in --url"
    } else if has(&["invalid HTTP version", "connection closed before message completed"]) {
        "; does it speak HTTPS? then write https:// in --url"
    } else if has(&["ca_file names"]) {
        // Told below.
        ""
    } else if has(&["not valid for name"]) {
        "; --url must name it as its certificate does"
    } else {
        "; is pgvigil running there? --url names another address"
    };
    format!("{}{way_out}", reason.replace("ca_file", "--ca-file"))
}

fn json(answer: &Value) -> String {
    format!("{answer:#}\n")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// `2026-12-05T21:00:00.000Z` as `2026-12-05 21:00 UTC`.
fn when(time: &str) -> String {
    match (time.get(..10), time.get(11..16)) {
        (Some(day), Some(minute)) => format!("{day} {minute} UTC"),
        _ => "an unknown time".to_owned(),
    }
}

fn warnings(answer: &Value) -> Vec<String> {
    let remarks = answer["remarks"].as_array().into_iter().flatten().chain([&answer["warning"]]);
    remarks.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A name as part of a path. What could not be a name becomes one that nothing has.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

fn drains(answer: &Value) -> String {
    let drains = answer["drains"].as_array().into_iter().flatten();
    let lines: String = drains.map(|drain| drain_line(drain, text(answer, "at"))).collect();
    if lines.is_empty() { "nothing is drained\n".to_owned() } else { lines }
}

fn drain_line(drain: &Value, now: &str) -> String {
    let until = text(drain, "until");
    let mut lines = line(
        &format!(
            "{}/{} is drained until {}{}, by {}",
            text(drain, "cluster"),
            text(drain, "target"),
            when(until),
            left(now, until),
            text(drain, "author")
        ),
        2,
    );
    if let Some(reason) = drain["reason"].as_str() {
        lines += &line(&format!("  {reason}"), 4);
    }
    lines
}

fn added(answer: &Value) -> String {
    let silence = &answer["silence"];
    let head =
        format!("silence {} until {}: {}", silence["id"], when(text(silence, "until")), text(silence, "selects"));
    let mut lines = line(&head, 0);
    let alerts: Vec<&str> = answer["alerts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if alerts.is_empty() {
        lines += "no alert that is pending or firing now is meant by it\n";
    }
    for alert in &alerts {
        lines += &line(&format!("  holds back {alert}"), 4);
    }
    lines
}

fn list(answer: &Value, all: bool) -> String {
    let mut lines = String::new();
    let silences = answer["silences"].as_array().into_iter().flatten();
    for silence in silences.filter(|silence| all || text(silence, "state") == "active") {
        let state = match text(silence, "state") {
            "active" => {
                let until = text(silence, "until");
                format!("until {}{}", when(until), left(text(answer, "at"), until))
            }
            "expired" => format!("was ended {}", when(text(silence, "until"))),
            _ => format!("ended {}", when(text(silence, "until"))),
        };
        lines += &block(&format!("silence {}", silence["id"]), &state, silence);
    }
    for window in answer["maintenance"].as_array().into_iter().flatten() {
        let state = match text(window, "state") {
            "open" => format!("open until {}", when(text(window, "until"))),
            "closed" => format!("from {} to {}", when(text(window, "from")), when(text(window, "until"))),
            _ => "over".to_owned(),
        };
        lines += &block(&format!("maintenance {}", text(window, "name")), &state, window);
    }
    if lines.is_empty() {
        let way_out = if all { "" } else { " (--all shows those that have ended)" };
        lines = format!("nothing is silenced{way_out}\n");
    }
    lines
}

/// How long that is from now, in parentheses. Empty when it cannot be told.
fn left(now: &str, until: &str) -> String {
    let times = humantime::parse_rfc3339(until).ok().zip(humantime::parse_rfc3339(now).ok());
    let left = times.and_then(|(until, now)| until.duration_since(now).ok());
    left.map_or_else(String::new, |left| format!(" ({} left)", seconds(left.as_secs_f64())))
}

fn block(head: &str, state: &str, of: &Value) -> String {
    let mut lines = line(&format!("{head}: {}", text(of, "selects")), 2);
    let author = of["author"].as_str().map(|author| format!(", by {author}")).unwrap_or_default();
    lines += &line(&format!("  {state}{author}"), 4);
    if let Some(reason) = of["reason"].as_str() {
        lines += &line(&format!("  {reason}"), 4);
    }
    lines
}

/// A line, or several where it is long. Control characters must not steer the terminal.
fn line(text: &str, indent: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    wrapped(&plain, Some(WIDTH), indent) + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_reads_well_on_every_terminal() {
        let answer = json!({
            "at": "2026-12-05T19:00:00.000Z",
            "silences": [
                {
                    "id": 1, "state": "expired", "selects": "rule=Old", "author": "ada", "reason": "old",
                    "until": "2026-12-04T21:00:00.000Z",
                },
                {
                    "id": 2, "state": "active", "selects": "cluster=orders rule=Replica*|TargetDown slot=debezium",
                    "author": "grace", "until": "2026-12-05T21:00:00.000Z",
                    "reason": "switchover to the new hardware; the replicas are \u{1b}[31mrebuilt one by one and lag meanwhile",
                },
            ],
            "maintenance": [
                {
                    "name": "nightly", "state": "closed", "selects": "cluster=orders", "reason": null,
                    "from": "2026-12-05T21:00:00.000Z", "until": "2026-12-06T05:00:00.000Z",
                },
            ],
        });
        let expect = "\
silence 2: cluster=orders rule=Replica*|TargetDown slot=debezium
  until 2026-12-05 21:00 UTC (2h 00m left), by grace
  switchover to the new hardware; the replicas are  [31mrebuilt one by one and
    lag meanwhile
maintenance nightly: cluster=orders
  from 2026-12-05 21:00 UTC to 2026-12-06 05:00 UTC
";
        assert_eq!(list(&answer, false), expect);
        let all = list(&answer, true);
        assert!(all.starts_with("silence 1: rule=Old\n  was ended 2026-12-04 21:00 UTC, by ada\n  old\n"), "{all}");
        assert!(all.lines().all(|line| line.chars().count() <= 80), "{all}");
        let nothing = json!({ "silences": [], "maintenance": [] });
        assert_eq!(list(&nothing, false), "nothing is silenced (--all shows those that have ended)\n");
    }
}
