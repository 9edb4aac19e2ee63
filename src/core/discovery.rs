//! What an account has, and which of it is watched: instances become families, and a family a cluster of ours.
//!
//! A family is what replicates: an instance with all that read from it, in whichever region, or the instances of one DB
//! cluster. It is chosen as a whole when one of its members is meant. Everything is known by what AWS never changes
//! (`DbiResourceId`): an instance that is given another identifier stays who it is here, under the name by which it became
//! known.
//!
//! What must never happen: that a choice which matches nothing is taken for everything, or that an answer which did not
//! come removes what is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fleet::DiscoverySpec;
use super::time::MonoTime;
use super::topology::{Name, TargetId};

/// The names of PostgreSQL in RDS. Other engines are listed beside it.
const ENGINES: [&str; 2] = ["postgres", "aurora-postgresql"];

/// An instance as its region lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// `DbiResourceId`.
    pub resource_id: String,
    /// `DBInstanceIdentifier`, which can be changed.
    pub id: String,
    pub engine: String,
    /// Not there while it is being made.
    pub endpoint: Option<(String, u16)>,
    /// `DBClusterIdentifier`.
    pub db_cluster: Option<String>,
    /// The one that it reads from: an identifier, or the ARN of one elsewhere.
    pub source: Option<String>,
    /// Those that read from it, likewise.
    pub replicas: Vec<String>,
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub facts: InstanceFacts,
}

/// What AWS says of an instance that the server itself cannot say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceFacts {
    /// `available`, `rebooting`, `storage-full`, ...
    pub status: Option<String>,
    /// Of a read replica: whether AWS finds its replication normal, and its word for it.
    pub replication: Option<(bool, String)>,
    /// When its server certificate expires, in seconds since 1970.
    pub certificate_valid_till: Option<i64>,
    pub allocated_storage_bytes: Option<u64>,
    /// Up to which it grows by itself. `None`: it does not.
    pub max_storage_bytes: Option<u64>,
    pub multi_az: Option<bool>,
    pub backup_retention_days: Option<u32>,
    /// What maintenance is to change. `None`: AWS did not say.
    pub pending_maintenance: Option<Vec<String>>,
}

/// What a region has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub instances: Vec<Instance>,
    /// `DbClusterResourceId` by `DBClusterIdentifier`.
    pub db_clusters: BTreeMap<String, String>,
}

/// What is meant, in each of the regions that were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// One instance and its family.
    Instance(String),
    /// One DB cluster.
    DbCluster(String),
    /// Whatever has all these tags.
    Tags(BTreeMap<String, String>),
    /// Whatever PostgreSQL the account has.
    All,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => write!(f, "instance {id}"),
            Self::DbCluster(id) => write!(f, "DB cluster {id}"),
            Self::Tags(tags) => {
                let tags: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "tags {}", tags.join(", "))
            }
            Self::All => f.write_str("the whole account"),
        }
    }
}

/// Servers that replicate one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// What AWS never changes: of the DB cluster, or of the instance that all others read from.
    pub resource_id: String,
    /// What AWS calls that now.
    pub id: String,
    pub region: String,
    /// The one that all others read from first, then by region and identifier.
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub region: String,
    pub instance: Instance,
}

/// What was found for a choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub families: Vec<Family>,
    /// Regions in which members must be looked for, and that are not listed.
    pub elsewhere: BTreeSet<String>,
}

/// The chosen families, by the listings of regions. `regions` are those that were named; others were listed to follow
/// replicas there.
pub fn find(listings: &BTreeMap<String, Listing>, regions: &[String], choice: &Choice) -> Found {
    let all: Vec<(&str, &Instance)> = listings
        .iter()
        .flat_map(|(region, listing)| listing.instances.iter().map(move |instance| (region.as_str(), instance)))
        .filter(|(_, instance)| ENGINES.contains(&instance.engine.as_str()))
        .collect();
    let places: BTreeMap<(&str, &str), usize> =
        all.iter().enumerate().map(|(place, (region, instance))| ((*region, instance.id.as_str()), place)).collect();
    // Of each instance the first of its family: a chain that ends at itself.
    let mut heads: Vec<usize> = (0..all.len()).collect();
    let mut elsewhere: Vec<(usize, &str)> = Vec::new();
    let mut db_clusters: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (place, (region, instance)) in all.iter().enumerate() {
        for relative in instance.source.iter().chain(&instance.replicas) {
            let (of_region, id) = resolve(relative, region);
            match places.get(&(of_region, id)) {
                Some(other) => unite(&mut heads, place, *other),
                None if !listings.contains_key(of_region) => elsewhere.push((place, of_region)),
                None => {}
            }
        }
        if let Some(id) = &instance.db_cluster {
            let first = *db_clusters.entry((region, id)).or_insert(place);
            unite(&mut heads, place, first);
        }
    }
    let is_meant =
        |(region, instance): &(&str, &Instance)| regions.iter().any(|named| named == region) && choice.has(instance);
    let meant: BTreeSet<usize> =
        (0..all.len()).filter(|place| is_meant(&all[*place])).map(|place| head(&heads, place)).collect();
    let families = meant.iter().map(|first| {
        let members = (0..all.len()).filter(|place| head(&heads, *place) == *first).map(|place| all[place]);
        family(members.collect(), listings)
    });
    Found {
        families: families.collect(),
        elsewhere: elsewhere
            .into_iter()
            .filter(|(place, _)| meant.contains(&head(&heads, *place)))
            .map(|(_, region)| region.to_owned())
            .collect(),
    }
}

impl Choice {
    fn has(&self, instance: &Instance) -> bool {
        match self {
            Self::Instance(id) => instance.id == *id,
            Self::DbCluster(id) => instance.db_cluster.as_ref() == Some(id),
            Self::Tags(tags) => {
                !tags.is_empty() && tags.iter().all(|(key, value)| instance.tags.get(key) == Some(value))
            }
            Self::All => true,
        }
    }

    /// Why nothing matches, and what might be meant instead.
    pub fn matches_nothing(&self, listings: &BTreeMap<String, Listing>, regions: &[String]) -> String {
        let instances =
            || regions.iter().filter_map(|region| listings.get(region)).flat_map(|listing| &listing.instances);
        let regions = regions.join(", ");
        let hint = match self {
            Self::Instance(id) if instances().any(|it| it.db_cluster.as_ref() == Some(id)) => {
                format!("; {id} is a DB cluster: write cluster = {id:?}")
            }
            Self::DbCluster(id) if instances().any(|it| it.id == *id) => {
                format!("; {id} is an instance: write instance = {id:?}")
            }
            Self::Instance(id) => match instances().find(|it| it.id == *id) {
                Some(it) => format!("; {id} is of engine {}, not PostgreSQL", it.engine),
                None => String::new(),
            },
            _ => String::new(),
        };
        let n_instances = instances().count();
        format!("nothing in {regions} matches {self} ({n_instances} instances there){hint}")
    }
}

/// The region and the identifier that one instance names another by.
fn resolve<'a>(relative: &'a str, region: &'a str) -> (&'a str, &'a str) {
    // arn:aws:rds:eu-west-1:123456789012:db:orders-eu
    let mut parts = relative.split(':');
    match (parts.next(), parts.nth(2), parts.nth(2)) {
        (Some("arn"), Some(of_region), Some(id)) => (of_region, id),
        _ => (region, relative),
    }
}

fn head(heads: &[usize], mut place: usize) -> usize {
    while heads[place] != place {
        place = heads[place];
    }
    place
}

fn unite(heads: &mut [usize], one: usize, other: usize) {
    let (one, other) = (head(heads, one), head(heads, other));
    heads[one.max(other)] = one.min(other);
}

fn family(mut members: Vec<(&str, &Instance)>, listings: &BTreeMap<String, Listing>) -> Family {
    members.sort_by_key(|(region, instance)| (instance.source.is_some(), *region, &instance.id));
    let (region, first) = members[0];
    let db_cluster = first.db_cluster.as_ref();
    let resource_id = db_cluster.and_then(|id| listings.get(region)?.db_clusters.get(id)).unwrap_or(&first.resource_id);
    let member =
        |(region, instance): (&str, &Instance)| Member { region: region.to_owned(), instance: instance.clone() };
    Family {
        resource_id: resource_id.clone(),
        id: db_cluster.unwrap_or(&first.id).clone(),
        region: region.to_owned(),
        members: members.into_iter().map(member).collect(),
    }
}

/// Something that RDS reports: of an instance, or of a DB cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// The target, or what AWS calls the DB cluster.
    pub source: Name,
    /// Seconds since 1970, by AWS' clock.
    pub unix_seconds: i64,
    /// `failover`, `maintenance`, `low storage`, ...
    pub categories: Vec<String>,
    pub message: String,
}

/// The same with its instant on the monitor's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdsEvent {
    pub at: MonoTime,
    pub happening: Happening,
}

/// For so long an event is told as a signal, and beside alerts that begin after it.
pub const RECENT: Duration = Duration::from_secs(15 * 60);

/// As many events of one cluster are kept.
const MOST_EVENTS: usize = 50;

/// The events of a cluster with more of them, the latest last; each once, however often it is reported.
pub(super) fn with_events(known: &Arc<[RdsEvent]>, more: Vec<RdsEvent>) -> Arc<[RdsEvent]> {
    let mut events = known.to_vec();
    for event in more {
        if !events.iter().any(|known| known.happening == event.happening) {
            events.push(event);
        }
    }
    events.sort_by_key(|event| event.happening.unix_seconds);
    let too_many = events.len().saturating_sub(MOST_EVENTS);
    events.drain(..too_many);
    events.into()
}

/// The names that were given, by what AWS never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// The name of one that is to have none of `taken`: the one it has had, or its identifier, with its region where that
    /// is taken.
    pub fn give(&mut self, resource_id: &str, id: &str, region: &str, taken: &BTreeSet<String>) -> String {
        let candidates = [
            self.0.get(resource_id).cloned(),
            Some(id.to_owned()),
            Some(format!("{id}.{region}")),
            Some(format!("{id}.{}", resource_id.to_lowercase())),
        ];
        let is_free = |name: &String| !taken.contains(name);
        let name = candidates.into_iter().flatten().find(is_free).unwrap_or_else(|| resource_id.to_owned());
        self.0.insert(resource_id.to_owned(), name.clone());
        name
    }

    /// Forgets all but these.
    pub fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.0.retain(|resource_id, _| is_known(resource_id));
    }
}

/// What became of a discovery.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovered {
    /// The discovery's name.
    pub name: Name,
    pub at: MonoTime,
    /// How many servers it has found that are watched now, with or without this time's answer.
    pub n_targets: usize,
    pub n_clusters: usize,
    /// What was said of each of them this time. Without a fault: of all.
    pub facts: Vec<(TargetId, InstanceFacts)>,
    /// Why this time it was not answered in full.
    pub fault: Option<String>,
}

/// How it stands with a discovery.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveryView {
    pub name: Name,
    pub looks_for: String,
    /// `None`: AWS has not answered yet, and has not failed to.
    pub tried_at: Option<MonoTime>,
    /// The last time that it was answered in full.
    pub succeeded_at: Option<MonoTime>,
    pub n_targets: usize,
    pub n_clusters: usize,
    /// Since when it fails, and why.
    pub failing: Option<(MonoTime, String)>,
    /// What AWS said of an instance is unknown when older than this.
    pub stale_after: Duration,
}

impl DiscoveryView {
    /// One that has not asked yet.
    pub fn new(spec: &DiscoverySpec) -> Self {
        Self {
            name: spec.name.clone(),
            looks_for: spec.looks_for.clone(),
            tried_at: None,
            succeeded_at: None,
            n_targets: 0,
            n_clusters: 0,
            failing: None,
            stale_after: spec.stale_after,
        }
    }

    /// Takes in one more attempt.
    pub fn take(&mut self, discovered: &Discovered) {
        self.tried_at = Some(discovered.at);
        (self.n_targets, self.n_clusters) = (discovered.n_targets, discovered.n_clusters);
        self.failing = discovered.fault.as_ref().map(|fault| {
            let since = self.failing.as_ref().map_or(discovered.at, |(since, _)| *since);
            (since, fault.clone())
        });
        if self.failing.is_none() {
            self.succeeded_at = Some(discovered.at);
        }
    }
}

/// What AWS said of an instance.
#[derive(Clone, Debug)]
pub struct InstanceView {
    pub at: MonoTime,
    /// Older than this it is unknown.
    pub stale_after: Duration,
    /// Of its server certificate, in seconds from `at`.
    pub certificate_expires_in: Option<f64>,
    pub facts: Arc<InstanceFacts>,
}

/// An address of RDS that leads to a server which may be another one each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Proxy,
    Writer,
    Reader,
    Custom,
}

impl Endpoint {
    /// By its name. `None`: it leads to one instance, or is not of RDS.
    pub fn of(host: &str) -> Option<Self> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let own = host.strip_suffix(".rds.amazonaws.com").or_else(|| host.strip_suffix(".rds.amazonaws.com.cn"))?;
        // orders.cluster-ro-abc123.us-east-1
        own.split('.').skip(1).find_map(|label| match label {
            _ if label.starts_with("proxy-") => Some(Self::Proxy),
            _ if label.starts_with("cluster-ro-") => Some(Self::Reader),
            _ if label.starts_with("cluster-custom-") => Some(Self::Custom),
            _ if label.starts_with("cluster-") => Some(Self::Writer),
            _ => None,
        })
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "an RDS Proxy",
            Self::Writer => "the writer endpoint of a DB cluster",
            Self::Reader => "the reader endpoint of a DB cluster",
            Self::Custom => "a custom endpoint of a DB cluster",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str) -> Instance {
        Instance {
            resource_id: format!("db-{}", id.to_uppercase()),
            id: id.to_owned(),
            engine: "postgres".to_owned(),
            endpoint: Some((format!("{id}.abc.us-east-1.rds.amazonaws.com"), 5432)),
            ..Instance::default()
        }
    }

    fn replica(id: &str, source: &str) -> Instance {
        Instance { source: Some(source.to_owned()), ..instance(id) }
    }

    fn of_cluster(id: &str, db_cluster: &str) -> Instance {
        Instance { db_cluster: Some(db_cluster.to_owned()), engine: "aurora-postgresql".to_owned(), ..instance(id) }
    }

    fn tagged(mut instance: Instance, key: &str, value: &str) -> Instance {
        instance.tags.insert(key.to_owned(), value.to_owned());
        instance
    }

    fn listing(instances: Vec<Instance>) -> Listing {
        Listing { instances, db_clusters: BTreeMap::from([("aurora".to_owned(), "cluster-AURORA".to_owned())]) }
    }

    fn account() -> BTreeMap<String, Listing> {
        let mut orders = tagged(instance("orders"), "team", "orders");
        orders.replicas = vec!["orders-r1".to_owned(), "arn:aws:rds:eu-west-1:123456789012:db:orders-eu".to_owned()];
        BTreeMap::from([(
            "us-east-1".to_owned(),
            listing(vec![
                of_cluster("aurora-2", "aurora"),
                of_cluster("aurora-1", "aurora"),
                orders,
                replica("orders-r1", "orders"),
                replica("orders-r1-r1", "orders-r1"),
                instance("billing"),
                Instance { engine: "mysql".to_owned(), ..tagged(instance("old"), "team", "orders") },
                Instance { engine: "docdb".to_owned(), ..of_cluster("doc", "documents") },
            ]),
        )])
    }

    fn eu() -> Listing {
        listing(vec![replica("orders-eu", "arn:aws:rds:us-east-1:123456789012:db:orders"), instance("orders")])
    }

    /// `cluster: target, target`.
    fn found(listings: &BTreeMap<String, Listing>, choice: &Choice) -> (Vec<String>, Vec<String>) {
        let found = find(listings, &["us-east-1".to_owned()], choice);
        let members = |family: &Family| {
            let ids: Vec<&str> = family.members.iter().map(|member| member.instance.id.as_str()).collect();
            format!("{} {}: {}", family.resource_id, family.id, ids.join(", "))
        };
        (found.families.iter().map(members).collect(), found.elsewhere.into_iter().collect())
    }

    fn of(key: &str, value: &str) -> Choice {
        Choice::Tags(BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn a_family_is_chosen_as_a_whole_by_any_of_its_members() {
        let account = account();
        let orders = "db-ORDERS orders: orders, orders-r1, orders-r1-r1";
        let aurora = "cluster-AURORA aurora: aurora-1, aurora-2";
        let eu = vec!["eu-west-1".to_owned()];
        for choice in
            [Choice::Instance("orders".to_owned()), Choice::Instance("orders-r1-r1".to_owned()), of("team", "orders")]
        {
            assert_eq!(found(&account, &choice), (vec![orders.to_owned()], eu.clone()), "{choice}");
        }
        for choice in [Choice::DbCluster("aurora".to_owned()), Choice::Instance("aurora-2".to_owned())] {
            assert_eq!(found(&account, &choice), (vec![aurora.to_owned()], vec![]), "{choice}");
        }
        let all = [aurora, orders, "db-BILLING billing: billing"].map(str::to_owned).to_vec();
        assert_eq!(found(&account, &Choice::All), (all, eu));
    }

    #[test]
    fn replicas_in_other_regions_are_followed_and_namesakes_there_are_not() {
        let mut account = account();
        account.insert("eu-west-1".to_owned(), eu());
        let (families, elsewhere) = found(&account, &Choice::Instance("orders".to_owned()));
        assert_eq!(families, ["db-ORDERS orders: orders, orders-eu, orders-r1, orders-r1-r1"]);
        assert_eq!(elsewhere, Vec::<String>::new());
        // From the replica's side, too.
        let only_eu = BTreeMap::from([("eu-west-1".to_owned(), eu())]);
        let found = find(&only_eu, &["eu-west-1".to_owned()], &Choice::Instance("orders-eu".to_owned()));
        assert_eq!(found.elsewhere, BTreeSet::from(["us-east-1".to_owned()]));
    }

    #[test]
    fn what_matches_nothing_is_nothing_and_says_what_might_be_meant() {
        let account = account();
        let regions = ["us-east-1".to_owned()];
        for (choice, hint) in [
            (Choice::Instance("ordres".to_owned()), "instance ordres (8 instances there)"),
            (Choice::Instance("aurora".to_owned()), "write cluster = \"aurora\""),
            (Choice::DbCluster("orders".to_owned()), "write instance = \"orders\""),
            (Choice::Instance("old".to_owned()), "engine mysql, not PostgreSQL"),
            (of("team", "nobody"), "tags team=nobody"),
            (Choice::Tags(BTreeMap::new()), "matches tags"),
        ] {
            assert_eq!(found(&account, &choice).0, Vec::<String>::new(), "{choice}");
            let reason = choice.matches_nothing(&account, &regions);
            assert!(reason.starts_with("nothing in us-east-1 matches") && reason.contains(hint), "{reason}");
        }
    }

    #[test]
    fn an_event_is_kept_once_and_the_oldest_go_first() {
        let event = |second: i64, message: &str| RdsEvent {
            at: MonoTime::from_nanos(second),
            happening: Happening {
                source: Name::new("orders"),
                unix_seconds: second,
                categories: vec!["failover".to_owned()],
                message: message.to_owned(),
            },
        };
        let events = with_events(&Arc::default(), vec![event(2, "completed"), event(1, "started")]);
        // Reported again: the monitor's reading of the instant may differ a little.
        let again = RdsEvent { at: MonoTime::from_nanos(9), ..event(2, "completed") };
        let events = with_events(&events, vec![again, event(2, "other")]);
        let messages: Vec<&str> = events.iter().map(|event| event.happening.message.as_str()).collect();
        assert_eq!(messages, ["started", "completed", "other"]);
        let many = with_events(&events, (3..100).map(|second| event(second, "x")).collect());
        assert_eq!((many.len(), many[0].happening.unix_seconds), (50, 50));
    }

    #[test]
    fn an_address_that_leads_to_one_of_several_is_told_by_its_name() {
        for (host, expect) in [
            ("orders.abc123.us-east-1.rds.amazonaws.com", None),
            ("cluster-1.abc123.us-east-1.rds.amazonaws.com", None),
            ("orders.cluster-abc123.us-east-1.rds.amazonaws.com", Some(Endpoint::Writer)),
            ("Orders.Cluster-RO-abc123.us-east-1.rds.amazonaws.com.", Some(Endpoint::Reader)),
            ("x.cluster-custom-abc123.cn-north-1.rds.amazonaws.com.cn", Some(Endpoint::Custom)),
            ("p.proxy-abc123.us-east-1.rds.amazonaws.com", Some(Endpoint::Proxy)),
            ("ro.endpoint.proxy-abc123.us-east-1.rds.amazonaws.com", Some(Endpoint::Proxy)),
            ("orders.cluster-abc123.example.internal", None),
        ] {
            assert_eq!(Endpoint::of(host), expect, "{host}");
        }
    }

    #[test]
    fn a_promoted_replica_is_a_family_of_its_own() {
        let mut account = account();
        let listing = account.get_mut("us-east-1").expect("is there");
        listing.instances[2].replicas.clear();
        listing.instances[3].source = None;
        listing.instances[3].replicas = vec!["orders-r1-r1".to_owned()];
        let (families, _) = found(&account, &Choice::Instance("orders-r1".to_owned()));
        assert_eq!(families, ["db-ORDERS-R1 orders-r1: orders-r1, orders-r1-r1"]);
    }

    #[test]
    fn an_instance_keeps_its_name_whatever_it_is_called_later() {
        let mut names = Names::default();
        let nobody = BTreeSet::new();
        let taken = BTreeSet::from(["orders".to_owned()]);
        assert_eq!(names.give("db-1", "orders", "us-east-1", &nobody), "orders");
        assert_eq!(names.give("db-1", "orders-old1", "us-east-1", &nobody), "orders");
        assert_eq!(names.give("db-2", "orders", "us-east-1", &taken), "orders.us-east-1");
        assert_eq!(names.give("db-2", "orders", "us-east-1", &nobody), "orders.us-east-1");
        let both = BTreeSet::from(["orders".to_owned(), "orders.us-east-1".to_owned()]);
        assert_eq!(names.give("db-3", "orders", "us-east-1", &both), "orders.db-3");
        names.retain(|resource_id| resource_id != "db-1");
        assert_eq!(names.give("db-1", "orders-old1", "us-east-1", &nobody), "orders-old1");
    }
}
