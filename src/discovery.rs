//! `[[discover]]`: what to look for in AWS, and how what is found becomes clusters of the configuration.
//!
//! AWS is asked for whole regions and what is meant is chosen here ([`crate::core::discovery`]). What was once found is
//! watched until AWS says, in full, that it is no more: no failure, and no answer in which nothing matches, removes it.
//! What was found last is kept beside the store, so that a restart watches it at once, whether AWS answers or not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use crate::aws::cloudwatch;
use crate::aws::{Aws, COMMANDS_WAIT, Kind, Place, Reported};
use crate::collect::conninfo::Conninfo;
use crate::collect::login::{Auth, LoginConfig};
use crate::config::{self, Cluster, Target};
use crate::core::discovery::{Choice, Family, Happening, InstanceFacts, Listing, Names, find};
use crate::core::rule::OneOrMany;
use crate::core::topology::{Name, TargetId};

/// One `[[discover]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to look: one region or several.
    pub region: OneOrMany,
    /// An instance, and all that replicates with it.
    pub instance: Option<String>,
    /// A DB cluster.
    pub cluster: Option<String>,
    /// All instances with these tags.
    pub tags: BTreeMap<String, String>,
    /// All PostgreSQL instances of the account.
    pub all: bool,
    /// A role of another account.
    pub role_arn: Option<String>,
    /// A secret of AWS Secrets Manager, in the region of the instance: user and password.
    pub secret: Option<String>,
    pub auth: Option<Auth>,
    pub user: Option<String>,
    pub password: Option<Password>,
    pub dbname: String,
    pub sslmode: String,
    pub sslrootcert: Option<String>,
    #[serde(deserialize_with = "interval")]
    pub interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: OneOrMany::default(),
            instance: None,
            cluster: None,
            tags: BTreeMap::new(),
            all: false,
            role_arn: None,
            secret: None,
            auth: None,
            user: None,
            password: None,
            dbname: "postgres".to_owned(),
            sslmode: "verify-full".to_owned(),
            sslrootcert: Some("rds".to_owned()),
            interval: Duration::from_secs(5 * 60),
        }
    }
}

/// It is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let interval = humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom(format!("{text:?} is no duration; write for example \"5m\"")))?;
    if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(D::Error::custom(format!("{text:?} is not between 1s and 1d")))
    }
}

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);

impl Config {
    /// What is wrong with it, and at which key.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.region.0.is_empty() || self.region.0.iter().any(String::is_empty) {
            return Err(("region", "where? Write for example region = \"us-east-1\"".to_owned()));
        }
        let chosen = [
            ("instance", self.instance.is_some()),
            ("cluster", self.cluster.is_some()),
            ("tags", !self.tags.is_empty()),
            ("all", self.all),
        ];
        let chosen: Vec<&str> = chosen.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key).collect();
        match chosen[..] {
            [] => {
                let reason = "what? Write instance = \"...\", cluster = \"...\", tags = { key = \"value\" }, or all = true for the whole account";
                return Err(("", reason.to_owned()));
            }
            [_] => {}
            [_, second, ..] => {
                return Err((
                    second,
                    format!("{} exclude one another; write a [[discover]] for each", chosen.join(" and ")),
                ));
            }
        }
        let empty = [("instance", &self.instance), ("cluster", &self.cluster)];
        if let Some((key, _)) = empty.into_iter().find(|(_, text)| text.as_deref().is_some_and(str::is_empty)) {
            return Err((key, "is empty, and matches nothing".to_owned()));
        }
        // Whatever host: the rest must hold together.
        self.conninfo("db.example.internal", 5432, &self.region.0[0]).map(|_| ())
    }

    pub fn choice(&self) -> Choice {
        match (&self.instance, &self.cluster) {
            (Some(id), _) => Choice::Instance(id.clone()),
            (None, Some(id)) => Choice::DbCluster(id.clone()),
            (None, None) if self.all => Choice::All,
            (None, None) => Choice::Tags(self.tags.clone()),
        }
    }

    /// In words: what, and where.
    pub fn looks_for(&self) -> String {
        let role = self.role_arn.as_ref().map(|role| format!(" as {role}")).unwrap_or_default();
        format!("{} in {}{role}", self.choice(), self.region.0.join(", "))
    }

    /// What AWS said of an instance is unknown when older than this.
    pub fn stale_after(&self) -> Duration {
        3 * self.interval
    }

    pub fn place(&self, region: &str) -> Place {
        Place { region: Some(region.to_owned()), role_arn: self.role_arn.clone() }
    }

    fn conninfo(&self, host: &str, port: u16, region: &str) -> Result<Conninfo, (&'static str, String)> {
        let port = port.to_string();
        let is_aws = self.secret.is_some() || self.auth == Some(Auth::Iam);
        if self.password.is_some() && is_aws {
            return Err(("password", "goes with neither secret nor auth = \"iam\"; leave it out".to_owned()));
        }
        let password = self.password.as_ref().map(|password| password.0.as_str());
        let settings = [
            ("host", Some(host)),
            ("port", Some(port.as_str())),
            ("dbname", Some(self.dbname.as_str())),
            ("user", self.user.as_deref().filter(|_| !is_aws)),
            ("password", password),
            ("sslmode", Some(self.sslmode.as_str())),
            ("sslrootcert", self.sslrootcert.as_deref()),
        ];
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let settings = settings.iter().filter_map(|(key, text)| Some(format!("{key}='{}'", quoted((*text)?))));
        let conninfo = Conninfo::parse(&settings.collect::<Vec<_>>().join(" "));
        let conninfo = conninfo.map_err(|error| ("", error.to_string()))?;
        let login = LoginConfig {
            secret: self.secret.clone(),
            auth: self.auth,
            user: self.user.clone().filter(|_| is_aws),
            region: is_aws.then(|| region.to_owned()),
            role_arn: self.role_arn.clone().filter(|_| is_aws),
        };
        login.applied_to(Some(conninfo), None).map_err(|fault| (fault.key, fault.reason))
    }
}

/// The name of the discovery at a place among all.
pub fn name(place: usize) -> Name {
    Name::new(&format!("discover-{}", place + 1))
}

/// One `[[discover]]` at work.
#[derive(Debug)]
pub struct Discovery {
    config: Config,
    listings: BTreeMap<String, Listing>,
    families: Vec<Family>,
    /// Why a region did not answer when it was asked last.
    faults: BTreeMap<String, String>,
    /// Until when events of a region were read, in seconds since 1970.
    events_until: BTreeMap<String, i64>,
    events_fault: Option<String>,
}

/// What one look has brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// All that is to be watched, by this answer or an earlier one.
    pub families: Vec<Family>,
    /// The regions that answered.
    pub answered: BTreeSet<String>,
    pub fault: Option<String>,
}

/// How far replicas of replicas are followed from region to region.
const REGIONS_AWAY: usize = 4;

impl Discovery {
    /// `families` are those that were found before a restart.
    pub fn new(config: Config, families: Vec<Family>) -> Self {
        let (listings, faults, events_until) = Default::default();
        Self { config, listings, families, faults, events_until, events_fault: None }
    }

    /// Asks AWS once.
    pub async fn look(&mut self, aws: &Aws) -> Look {
        let named = &self.config.region.0;
        let mut answered = BTreeSet::new();
        let mut faults: BTreeMap<String, String> = BTreeMap::new();
        let mut wanted: BTreeSet<String> = named.iter().chain(self.listings.keys()).cloned().collect();
        for _ in 0..=REGIONS_AWAY {
            let asked = join_all(wanted.iter().map(|region| {
                let place = self.config.place(region);
                async move { (region.clone(), aws.instances(&place).await) }
            }));
            for (region, listing) in asked.await {
                match listing {
                    Ok(listing) => {
                        self.faults.remove(&region);
                        let before = self.listings.remove(&region);
                        self.listings.insert(region.clone(), with_endpoints(listing, before.as_ref()));
                        answered.insert(region);
                    }
                    Err(fault) => {
                        // While it is left alone, what was wrong goes on to be so.
                        let known = self.faults.get(&region).filter(|_| fault.kind == Kind::Paused).cloned();
                        let reason = known.unwrap_or_else(|| format!("{region}: {}", fault.reason));
                        self.faults.insert(region.clone(), reason.clone());
                        faults.insert(region, reason);
                    }
                }
            }
            let elsewhere = find(&self.listings, named, &self.config.choice()).elsewhere;
            wanted = elsewhere.into_iter().filter(|region| !faults.contains_key(region)).collect();
            if wanted.is_empty() {
                break;
            }
        }
        let found = find(&self.listings, named, &self.config.choice()).families;
        if faults.is_empty() {
            if found.is_empty() {
                let regions = named.join(", ");
                faults.insert(regions, self.config.choice().matches_nothing(&self.listings, named));
            } else {
                // A region that was followed and has nothing any more is left alone.
                let has_some = |region: &String| {
                    found.iter().flat_map(|family| &family.members).any(|member| member.region == *region)
                };
                self.listings.retain(|region, _| named.contains(region) || has_some(region));
                self.families = found;
            }
        } else {
            self.families = with_known(found, &self.families, &self.listings);
        }
        let fault = (!faults.is_empty()).then(|| faults.into_values().collect::<Vec<_>>().join("; "));
        Look { families: self.families.clone(), answered, fault }
    }
}

/// The first question is about this time before the start.
const EVENTS_BEFORE: i64 = 60 * 60;

/// Events are reported late, so that the next question goes back behind the last.
const EVENTS_OVERLAP: i64 = 5 * 60;

impl Discovery {
    /// What RDS reports of what was found, by region. `now` is in seconds since 1970. A region that does not answer is
    /// asked about the same time again.
    pub async fn events(&mut self, aws: &Aws, now: i64) -> Vec<(String, Reported)> {
        let members = self.families.iter().flat_map(|family| &family.members);
        let regions: BTreeSet<String> = members.map(|member| member.region.clone()).collect();
        let asked = join_all(regions.iter().map(|region| {
            let since = self.events_until.get(region).map_or(now - EVENTS_BEFORE, |until| until - EVENTS_OVERLAP);
            let place = self.config.place(region);
            async move { (region.clone(), aws.events(&place, since).await) }
        }));
        let mut reported = Vec::new();
        for (region, events) in asked.await {
            match events {
                Ok(events) => {
                    self.events_fault = None;
                    self.events_until.insert(region.clone(), now);
                    reported.extend(events.into_iter().map(|event| (region.clone(), event)));
                }
                Err(fault) if fault.kind == Kind::Paused => {}
                Err(fault) => {
                    if self.events_fault.as_ref() != Some(&fault.reason) {
                        tracing::warn!(
                            region,
                            error = fault.reason,
                            "what RDS reports of {region} cannot be read: {}",
                            fault.reason
                        );
                        self.events_fault = Some(fault.reason);
                    }
                }
            }
        }
        reported
    }
}

/// What was reported, as of clusters that are watched: those of families that members, or the DB cluster itself, are of.
pub fn happenings(families: &[Family], found: &Clusters, reported: Vec<(String, Reported)>) -> Vec<(Name, Happening)> {
    let mut happenings = Vec::new();
    for (region, reported) in reported {
        let of_target =
            found.targets.iter().find(|(_, of_region, id)| *of_region == region && *id == reported.source_id);
        let of_family = || {
            let family = families.iter().find(|family| family.region == region && family.id == reported.source_id)?;
            let member = family.members.first()?;
            found.targets.iter().find(|(_, of_region, id)| *of_region == member.region && *id == member.instance.id)
        };
        let (cluster, source) = match (of_target, of_family()) {
            (Some((target, ..)), _) => (target.cluster.clone(), target.target.clone()),
            (None, Some((target, ..))) => (target.cluster.clone(), Name::new(&reported.source_id)),
            (None, None) => continue,
        };
        let Reported { unix_seconds, categories, message, .. } = reported;
        happenings.push((cluster, Happening { source, unix_seconds, categories, message }));
    }
    happenings
}

/// One that is being changed may have no endpoint for a while, and will have the one it had.
fn with_endpoints(mut listing: Listing, before: Option<&Listing>) -> Listing {
    for instance in listing.instances.iter_mut().filter(|instance| instance.endpoint.is_none()) {
        let known = before.iter().flat_map(|listing| &listing.instances);
        instance.endpoint = known
            .into_iter()
            .find(|known| known.resource_id == instance.resource_id)
            .and_then(|known| known.endpoint.clone());
    }
    listing
}

/// What was found while some region did not answer, and what was known of such regions.
fn with_known(found: Vec<Family>, known: &[Family], listings: &BTreeMap<String, Listing>) -> Vec<Family> {
    let mut families = found;
    for family in known {
        match families.iter_mut().find(|found| found.resource_id == family.resource_id) {
            Some(found) => {
                let has = |found: &Family, id: &str| found.members.iter().any(|it| it.instance.resource_id == id);
                for member in family.members.iter().filter(|member| !listings.contains_key(&member.region)) {
                    if !has(found, &member.instance.resource_id) {
                        found.members.push(member.clone());
                    }
                }
            }
            None => families.push(family.clone()),
        }
    }
    families
}

/// What was found for one `[[discover]]`, as it is watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clusters {
    pub clusters: Vec<Cluster>,
    /// Of each target, the region that says what is so of it.
    pub facts: Vec<(TargetId, String, InstanceFacts)>,
    /// ... with its identifier there.
    pub targets: Vec<(TargetId, String, String)>,
    /// As CloudWatch knows them, and as whom it is asked.
    pub instances: Vec<cloudwatch::Instance>,
}

/// The clusters of a configuration that families become. `taken` are the names of clusters that there are already, and
/// `seen` what is watched already, by what AWS never changes; both grow.
pub fn clusters(
    config: &Config,
    families: &[Family],
    names: &mut Names,
    taken: &mut BTreeSet<String>,
    seen: &mut BTreeSet<String>,
) -> Clusters {
    let mut found = Clusters::default();
    for family in families {
        // A DB cluster's and an instance's identities are told apart by AWS itself.
        if !seen.insert(format!("family {}", family.resource_id)) {
            continue;
        }
        let name = names.give(&format!("family {}", family.resource_id), &family.id, &family.region, taken);
        let mut targets = Vec::new();
        let mut of_cluster = BTreeSet::new();
        for member in &family.members {
            let instance = &member.instance;
            let Some((host, port)) = &instance.endpoint else { continue };
            let Ok(conninfo) = config.conninfo(host, *port, &member.region) else { continue };
            if !seen.insert(instance.resource_id.clone()) {
                continue;
            }
            let target = names.give(&instance.resource_id, &instance.id, &member.region, &of_cluster);
            let id = TargetId::new(&name, &target);
            found.facts.push((id.clone(), member.region.clone(), instance.facts.clone()));
            found.targets.push((id.clone(), member.region.clone(), instance.id.clone()));
            let place = config.place(&member.region);
            found.instances.push(cloudwatch::Instance { id: id.clone(), instance: instance.id.clone(), place });
            targets.push(Target { id, conninfo: Arc::new(conninfo) });
            of_cluster.insert(target);
        }
        if !targets.is_empty() {
            taken.insert(name.clone());
            found.clusters.push(Cluster { name: Name::new(&name), targets, poolers: Vec::new(), redis: Vec::new() });
        }
    }
    found
}

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub names: Names,
    /// By what was looked for.
    pub families: BTreeMap<String, Vec<Family>>,
}

impl Kept {
    /// Beside the store.
    pub fn beside(store: &Path) -> PathBuf {
        let mut name = store.as_os_str().to_owned();
        name.push(".discovered");
        PathBuf::from(name)
    }

    /// What was kept. Nothing, when it cannot be read: AWS will say it again.
    pub fn read(file: &Path) -> Self {
        match std::fs::read(file).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                tracing::warn!(file = %file.display(), %error, "what was discovered before cannot be read, and is asked anew");
                Self::default()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "what was discovered before cannot be read, and is asked anew");
                Self::default()
            }
        }
    }

    /// In one step: either all of it is there afterwards, or what was before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut new = file.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(&new, file)
    }
}

/// What one look has found, for a command that looks once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sought {
    pub name: Name,
    pub looks_for: String,
    pub targets: usize,
    pub fault: Option<String>,
}

/// A configuration with what AWS has now, asked once. AWS that is away holds a command up for [`COMMANDS_WAIT`].
pub async fn once(mut config: config::Config) -> (config::Config, Vec<Sought>) {
    if config.discover.is_empty() {
        return (config, Vec::new());
    }
    let aws = Aws::new(config.aws.clone());
    let looks = join_all(config.discover.iter().map(|discover| {
        let (mut discovery, aws) = (Discovery::new(discover.clone(), Vec::new()), aws.clone());
        async move {
            let look = tokio::time::timeout(COMMANDS_WAIT, discovery.look(&aws)).await;
            look.unwrap_or_else(|_| Look {
                families: Vec::new(),
                answered: BTreeSet::new(),
                fault: Some(format!("no answer within {}", humantime::format_duration(COMMANDS_WAIT))),
            })
        }
    }));
    let looks = looks.await;
    let mut taken: BTreeSet<String> = config.clusters.iter().map(|cluster| cluster.name.to_string()).collect();
    let (mut names, mut seen) = (Names::default(), BTreeSet::new());
    let mut sought = Vec::new();
    for (place, look) in looks.into_iter().enumerate() {
        let discover = &config.discover[place];
        let found = clusters(discover, &look.families, &mut names, &mut taken, &mut seen);
        let (looks_for, targets) = (discover.looks_for(), found.facts.len());
        sought.push(Sought { name: name(place), looks_for, targets, fault: look.fault });
        config.add(&found);
    }
    (config, sought)
}
