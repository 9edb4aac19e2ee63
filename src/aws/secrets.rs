//! AWS Secrets Manager: users and passwords, each pair of one version.
//!
//! A secret that several targets name is read once for all of them. What was read is kept and used until a server refuses
//! it or an hour has passed: AWS that is away keeps nobody from logging in. When a server refuses, the secret is read anew
//! in all its stages, since a rotation may stand before, between or behind its steps. Nothing here shows a value.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, join_all};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Aws, Fault, Kind, Place, lock};
use crate::clock;
use crate::core::time::MonoTime;

/// How often each secret is read without being asked for, so that a rotation is known before it is needed.
pub const REFRESH: Duration = Duration::from_secs(3600);
/// After a refusal that a secret's new reading did not explain, it is not read again before this; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

const ACTION: &str = "secretsmanager:GetSecretValue";

/// Which secret: its name or ARN, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    pub id: String,
    pub place: Place,
}

impl SecretRef {
    /// An ARN says itself in which region it is.
    pub fn new(id: &str, region: Option<&str>, role_arn: Option<&str>) -> Self {
        let of_arn =
            id.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(2)).filter(|region| !region.is_empty());
        let place = Place { region: of_arn.or(region).map(str::to_owned), role_arn: role_arn.map(str::to_owned) };
        Self { id: id.to_owned(), place }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// What one version of a secret says.
#[derive(Clone, PartialEq, Eq)]
pub struct Version {
    pub id: String,
    pub user: String,
    password: String,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub dbname: Option<String>,
}

impl Version {
    pub fn expose_password(&self) -> &str {
        &self.password
    }

    /// Of the JSON that AWS' own rotation and its guides write. An error names the key, and shows nothing of the value.
    fn parse(id: &str, text: &str) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|_| "is no JSON".to_owned())?;
        let object = value.as_object().ok_or("is no JSON object")?;
        let text = |key: &str| match object.get(key) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(format!("has a key {key:?} that is no text")),
        };
        let required = |key: &str| text(key)?.ok_or_else(|| format!("lacks the key {key:?}"));
        if let Some(engine) = text("engine")?
            && !["postgres", "postgresql", "aurora-postgresql"].contains(&engine.as_str())
        {
            return Err("is for another engine than postgres".to_owned());
        }
        let port = match object.get("port") {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(text)) if text.is_empty() => None,
            Some(port) => {
                let number = port.as_u64().or_else(|| port.as_str()?.trim().parse().ok());
                let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
                Some(number.ok_or("has a key \"port\" that is no number from 1 to 65535")?)
            }
        };
        Ok(Self {
            id: id.to_owned(),
            user: required("username")?,
            password: required("password")?,
            host: text("host")?,
            port,
            dbname: text("dbname")?,
        })
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Version").field("id", &self.id).finish_non_exhaustive()
    }
}

type Versions = Vec<Arc<Version>>;
type Reading = Shared<BoxFuture<'static, Result<Versions, Fault>>>;

/// The secrets that were read.
#[derive(Clone, Debug)]
pub struct Secrets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    aws: Aws,
    known: Mutex<BTreeMap<SecretRef, Known>>,
    /// What is wanted.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// The current one first. Empty: it was never read.
    versions: Versions,
    /// Whoever waits for it moves it on; nobody who gives up stops it.
    reading: Option<Reading>,
    is_failing: bool,
    /// Not to be read anew for a refusal before this.
    paused_until: Option<MonoTime>,
    pause: Duration,
}

/// The stages of a version, in the order in which they are tried.
const CURRENT: &[&str] = &["AWSCURRENT"];
const ALL: &[&str] = &["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"];

impl Secrets {
    pub fn new(aws: Aws) -> Self {
        Self(Arc::new(Inner { aws, known: Mutex::default(), changed: Notify::new() }))
    }

    pub fn aws(&self) -> &Aws {
        &self.0.aws
    }

    /// The versions that are known, the current one first. Reads the secret if none is.
    ///
    /// # Errors
    /// It was never read, and cannot be now.
    pub async fn versions(&self, secret: &SecretRef) -> Result<Versions, Fault> {
        let reading = {
            let mut all = lock(&self.0.known);
            let known = all.entry(secret.clone()).or_default();
            if !known.versions.is_empty() {
                return Ok(known.versions.clone());
            }
            self.join(known, secret, CURRENT)
        };
        reading.await
    }

    /// Reads the secret anew, in all its stages, since a server refused what was known. `None`: that was done of late.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn after_refusal(&self, secret: &SecretRef) -> Result<Option<Versions>, Fault> {
        let now = clock::now();
        let reading = {
            let mut all = lock(&self.0.known);
            let known = all.entry(secret.clone()).or_default();
            if known.reading.is_none() && known.paused_until.is_some_and(|until| now < until) {
                return Ok(None);
            }
            known.pause = known.pause.saturating_mul(2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            known.paused_until = Some(now.plus(known.pause.mul_f64(0.5 + fastrand::f64() / 2.0)));
            self.join(known, secret, ALL)
        };
        reading.await.map(Some)
    }

    /// From now on these are kept, and no others.
    pub fn want(&self, secrets: &[SecretRef]) {
        let mut all = lock(&self.0.known);
        all.retain(|secret, _| secrets.contains(secret));
        for secret in secrets {
            all.entry(secret.clone()).or_default();
        }
        self.0.changed.notify_one();
    }

    /// Reads those that are wanted at once and again every hour or so, until cancelled.
    pub async fn keep(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.keeping()).await;
    }

    async fn keeping(&self) {
        let mut due: BTreeMap<SecretRef, MonoTime> = BTreeMap::new();
        loop {
            let (wanted, now) = (lock(&self.0.known).keys().cloned().collect::<Vec<_>>(), clock::now());
            due.retain(|secret, _| wanted.contains(secret));
            let read = async |secret: SecretRef| {
                let reading = self.join(lock(&self.0.known).entry(secret.clone()).or_default(), &secret, CURRENT);
                let wait = if reading.await.is_ok() { REFRESH } else { REFRESH / 60 };
                (secret, clock::now().plus(wait.mul_f64(0.75 + fastrand::f64() / 2.0)))
            };
            let ripe = wanted.into_iter().filter(|secret| due.get(secret).is_none_or(|at| now >= *at));
            due.extend(join_all(ripe.map(read)).await);
            let next = due.values().min().map_or(REFRESH, |at| at.duration_since(clock::now()));
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn join(&self, known: &mut Known, secret: &SecretRef, stages: &'static [&'static str]) -> Reading {
        if let Some(reading) = &known.reading {
            return reading.clone();
        }
        let (secrets, secret) = (self.clone(), secret.clone());
        let reading = async move {
            let outcome = read(&secrets.0.aws, &secret, stages).await;
            secrets.learn(&secret, outcome.as_ref());
            outcome
        };
        let reading = reading.boxed().shared();
        known.reading = Some(reading.clone());
        reading
    }

    fn learn(&self, secret: &SecretRef, outcome: Result<&Versions, &Fault>) {
        let mut all = lock(&self.0.known);
        // Nobody wants it any more.
        let Some(known) = all.get_mut(secret) else { return };
        known.reading = None;
        match outcome {
            Ok(versions) => {
                let current = |versions: &Versions| versions.first().map(|version| version.id.clone());
                let (old, new) = (current(&known.versions), current(versions));
                if old.is_some() && old != new {
                    tracing::info!(%secret, "secret {secret} has a new version");
                    known.pause = Duration::ZERO;
                } else if known.is_failing {
                    tracing::info!(%secret, "secret {secret} can be read again");
                }
                known.is_failing = false;
                known.versions.clone_from(versions);
            }
            Err(fault) => {
                if !known.is_failing {
                    tracing::warn!(%secret, error = %fault, "cannot read secret {secret}: {fault}");
                }
                known.is_failing = true;
            }
        }
    }
}

async fn read(aws: &Aws, secret: &SecretRef, stages: &[&str]) -> Result<Versions, Fault> {
    let client = aws.secrets_manager(&secret.place).await;
    let mut versions: Versions = Vec::new();
    for stage in stages {
        let answer = client.get_secret_value().secret_id(&secret.id).version_stage(*stage).send().await;
        let version = match answer {
            Ok(answer) => {
                let id = answer.version_id().unwrap_or(*stage);
                let parsed = match answer.secret_string() {
                    Some(text) => Version::parse(id, text),
                    None => Err("is no text".to_owned()),
                };
                parsed.map_err(|reason| Fault { kind: Kind::Refused, reason: format!("its value {reason}") })
            }
            Err(error) => Err(Fault::of(ACTION, &error)),
        };
        match version {
            Ok(version) if versions.iter().any(|known| known.id == version.id) => {}
            Ok(version) => versions.push(Arc::new(version)),
            // The other stages are there during and after a rotation only.
            Err(_) if !versions.is_empty() => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{aws, requests, service};
    use super::*;

    /// User, host, port and database.
    type Said = (String, Option<String>, Option<u16>, Option<String>);

    fn parsed(text: &str) -> Result<Said, String> {
        Version::parse("1", text).map(|version| {
            assert_eq!(version.expose_password(), "hunter2");
            (version.user, version.host, version.port, version.dbname)
        })
    }

    #[test]
    fn the_json_of_all_guides_is_read() {
        let full = r#"{"username":"dbadmin","password":"hunter2","engine":"postgres","host":"x.rds.amazonaws.com","port":PORT,
            "dbname":"app","dbInstanceIdentifier":"x","masterarn":"arn:..."}"#;
        let expect = ("dbadmin".to_owned(), Some("x.rds.amazonaws.com".to_owned()), Some(5433), Some("app".to_owned()));
        for port in ["\"5433\"", "5433"] {
            assert_eq!(parsed(&full.replace("PORT", port)), Ok(expect.clone()), "{port}");
        }
        assert_eq!(parsed(&full.replace("PORT", "\"\"").replace("postgres", "postgresql")).unwrap().2, None);
        let managed = r#"{"username":"postgres","password":"hunter2"}"#;
        assert_eq!(parsed(managed), Ok(("postgres".to_owned(), None, None, None)));
    }

    #[test]
    fn a_value_that_cannot_be_used_names_the_key_and_never_the_value() {
        for (text, reason) in [
            ("hunter2", "is no JSON"),
            ("\"hunter2\"", "is no JSON object"),
            (r#"{"username":"u"}"#, "lacks the key \"password\""),
            (r#"{"username":"","password":"hunter2"}"#, "lacks the key \"username\""),
            (r#"{"username":"u","password":["hunter2"]}"#, "has a key \"password\" that is no text"),
            (r#"{"username":"u","password":"hunter2","engine":"mysql"}"#, "is for another engine than postgres"),
            (
                r#"{"username":"u","password":"hunter2","port":"hunter2"}"#,
                "has a key \"port\" that is no number from 1 to 65535",
            ),
            (
                r#"{"username":"u","password":"hunter2","port":70000}"#,
                "has a key \"port\" that is no number from 1 to 65535",
            ),
        ] {
            assert_eq!(parsed(text), Err(reason.to_owned()), "{text}");
        }
        let version = Version::parse("v1", r#"{"username":"u","password":"hunter2"}"#);
        assert_eq!(format!("{version:?}"), "Ok(Version { id: \"v1\", .. })");
    }

    #[test]
    fn an_arn_says_where_its_secret_is() {
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf";
        assert_eq!(SecretRef::new(arn, Some("us-east-1"), None).place, Place::region("eu-west-1"));
        assert_eq!(SecretRef::new("db", Some("us-east-1"), None).place, Place::region("us-east-1"));
        assert_eq!(SecretRef::new("db", None, None).place, Place::default());
    }

    fn version(id: &str) -> String {
        let value = r#"{\"username\":\"u\",\"password\":\"hunter2\"}"#;
        format!("{{\"ARN\":\"a\",\"Name\":\"db\",\"VersionId\":\"{id}\",\"SecretString\":\"{value}\"}}")
    }

    const NONE: (&str, &str) =
        ("400 Bad Request", r#"{"__type":"ResourceNotFoundException","Message":"no such stage"}"#);

    fn ids(versions: &Versions) -> Vec<&str> {
        versions.iter().map(|version| version.id.as_str()).collect()
    }

    #[tokio::test]
    async fn a_secret_of_many_targets_is_read_once() {
        let one = version("v1");
        let secrets = Secrets::new(aws(service(&[("200 OK", &one)]).await));
        let secret = SecretRef::new("db", Some("eu-west-1"), None);
        let all = join_all((0..50).map(|_| secrets.versions(&secret))).await;
        assert!(all.iter().all(|versions| ids(versions.as_ref().expect("it is read")) == ["v1"]));
        assert_eq!(requests(secrets.aws(), ACTION, "ok"), 1);
    }

    #[tokio::test]
    async fn after_a_refusal_it_is_read_in_all_its_stages_and_then_left_alone_for_a_while() {
        let (one, two, three) = (version("v1"), version("v2"), version("v3"));
        let answers = [("200 OK", one.as_str()), ("200 OK", &two), NONE, ("200 OK", &one), ("200 OK", &three)];
        let secrets = Secrets::new(aws(service(&answers).await));
        let secret = SecretRef::new("db", Some("eu-west-1"), None);
        assert_eq!(secrets.versions(&secret).await.map(|versions| ids(&versions).join(" ")), Ok("v1".to_owned()));
        let anew = secrets.after_refusal(&secret).await.expect("it is read");
        assert_eq!(ids(&anew.expect("for the first time")), ["v2", "v1"]);
        assert_eq!(secrets.after_refusal(&secret).await, Ok(None));
        assert_eq!(secrets.versions(&secret).await.map(|versions| versions.len()), Ok(2));
    }

    #[tokio::test]
    async fn what_is_wanted_is_kept_and_what_is_not_is_forgotten() {
        let one = version("v1");
        let secrets = Secrets::new(aws(service(&[("200 OK", one.as_str())]).await));
        let named = |name| SecretRef::new(name, Some("eu-west-1"), None);
        let cancel = CancellationToken::new();
        let keeping = tokio::spawn(secrets.clone().keep(cancel.clone()));
        let read = || requests(secrets.aws(), ACTION, "ok");
        let known = || lock(&secrets.0.known).iter().filter(|(_, known)| !known.versions.is_empty()).count();
        for (wanted, n_read) in [(vec![named("a"), named("b")], 2), (vec![named("b"), named("c")], 3)] {
            secrets.want(&wanted);
            while read() < n_read || known() < wanted.len() {
                tokio::task::yield_now().await;
            }
            assert_eq!(lock(&secrets.0.known).keys().cloned().collect::<Vec<_>>(), wanted);
        }
        cancel.cancel();
        keeping.await.expect("no panic");
        assert_eq!(read(), 3);
    }

    #[tokio::test]
    async fn what_was_read_outlives_aws_and_whoever_gave_up_waiting() {
        let one = version("v1");
        let denied = ("400 Bad Request", r#"{"__type":"AccessDeniedException","Message":"no"}"#);
        let secrets = Secrets::new(aws(service(&[("200 OK", one.as_str()), denied]).await));
        let secret = SecretRef::new("db", Some("eu-west-1"), None);
        // One that gives up at once, having begun the reading.
        assert!(secrets.versions(&secret).now_or_never().is_none());
        assert_eq!(secrets.versions(&secret).await.map(|versions| versions.len()), Ok(1));
        let fault = secrets.after_refusal(&secret).await.expect_err("denied");
        assert_eq!(fault.kind, Kind::Denied { action: ACTION.to_owned() });
        assert_eq!(secrets.versions(&secret).await.map(|versions| versions.len()), Ok(1));
        assert_eq!(requests(secrets.aws(), ACTION, "ok"), 1);
    }
}
