//! RDS as its API answers, on loopback: pages, many instances, refusals and changes, which no emulator has.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::http::decode;

/// An instance as it is listed.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub id: String,
    pub resource_id: String,
    pub engine: String,
    pub status: String,
    pub endpoint: Option<(String, u16)>,
    pub db_cluster: Option<String>,
    pub source: Option<String>,
    pub replicas: Vec<String>,
    pub tags: Vec<(String, String)>,
    /// Whether AWS finds its replication normal.
    pub replicates: Option<bool>,
}

impl Instance {
    pub(crate) fn new(id: &str, host: &str, port: u16) -> Self {
        Self {
            id: id.to_owned(),
            resource_id: format!("db-{}", id.to_uppercase()),
            engine: "postgres".to_owned(),
            status: "available".to_owned(),
            endpoint: Some((host.to_owned(), port)),
            db_cluster: None,
            source: None,
            replicas: Vec::new(),
            tags: Vec::new(),
            replicates: None,
        }
    }

    fn xml(&self) -> String {
        let mut xml = format!(
            "<DBInstance><DBInstanceIdentifier>{}</DBInstanceIdentifier><DbiResourceId>{}</DbiResourceId>\
             <Engine>{}</Engine><DBInstanceStatus>{}</DBInstanceStatus><AllocatedStorage>20</AllocatedStorage>\
             <MaxAllocatedStorage>100</MaxAllocatedStorage><MultiAZ>true</MultiAZ>\
             <BackupRetentionPeriod>7</BackupRetentionPeriod>\
             <CertificateDetails><CAIdentifier>rds-ca-rsa2048-g1</CAIdentifier><ValidTill>2099-01-01T00:00:00Z</ValidTill></CertificateDetails>",
            self.id, self.resource_id, self.engine, self.status
        );
        if let Some((host, port)) = &self.endpoint {
            write!(xml, "<Endpoint><Address>{host}</Address><Port>{port}</Port></Endpoint>").unwrap();
        }
        if let Some(cluster) = &self.db_cluster {
            write!(xml, "<DBClusterIdentifier>{cluster}</DBClusterIdentifier>").unwrap();
        }
        if let Some(source) = &self.source {
            write!(xml, "<ReadReplicaSourceDBInstanceIdentifier>{source}</ReadReplicaSourceDBInstanceIdentifier>")
                .unwrap();
        }
        xml.push_str("<ReadReplicaDBInstanceIdentifiers>");
        for replica in &self.replicas {
            write!(xml, "<ReadReplicaDBInstanceIdentifier>{replica}</ReadReplicaDBInstanceIdentifier>").unwrap();
        }
        xml.push_str("</ReadReplicaDBInstanceIdentifiers><TagList>");
        for (key, value) in &self.tags {
            write!(xml, "<Tag><Key>{key}</Key><Value>{value}</Value></Tag>").unwrap();
        }
        xml.push_str("</TagList>");
        if let Some(is_normal) = self.replicates {
            let status = if is_normal { "replicating" } else { "error" };
            write!(
                xml,
                "<StatusInfos><DBInstanceStatusInfo><StatusType>read replication</StatusType><Normal>{is_normal}</Normal>\
                 <Status>{status}</Status></DBInstanceStatusInfo></StatusInfos>"
            )
            .unwrap();
        }
        xml + "</DBInstance>"
    }
}

/// What it is like now.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// By region.
    pub instances: BTreeMap<String, Vec<Instance>>,
    /// Status and code with which each question is refused.
    pub refuses: Option<(u16, &'static str)>,
    /// The action that nobody may.
    pub denies: Option<&'static str>,
    /// Of every region: source, category, message, and how many seconds ago.
    pub events: Vec<(&'static str, &'static str, &'static str, i64)>,
    /// Questions that came: action and region.
    pub asked: Vec<(String, String)>,
    /// The keys that they were signed with.
    pub keys: std::collections::BTreeSet<String>,
}

/// Stops when it is dropped.
pub(crate) struct Rds {
    pub url: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Rds {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rds {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Some((head, body)) = read(&mut stream).await else { return };
                    let (status, xml) = answer(&mut state.lock().unwrap(), &head, &body);
                    let head = format!(
                        "HTTP/1.1 {status} X\r\ncontent-type: text/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        xml.len()
                    );
                    let _ = stream.write_all((head + &xml).as_bytes()).await;
                });
            }
        });
        Self { url, state, task }
    }

    /// Looks at what it is like, or changes it.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// What a process needs in its environment to ask this one.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL_RDS", self.url.clone()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }
}

async fn read(stream: &mut tokio::net::TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        let n = stream.read(&mut buffer).await.ok()?;
        if n == 0 {
            return None;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}

fn answer(state: &mut State, head: &str, body: &str) -> (u16, String) {
    let field = |name: &str| body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(decode);
    let action = field("Action").unwrap_or_default();
    // Credential=test/20260101/us-east-1/rds/aws4_request
    let region =
        head.split("Credential=").nth(1).and_then(|scope| scope.split('/').nth(2)).unwrap_or_default().to_owned();
    state.asked.push((action.clone(), region.clone()));
    state.keys.extend(head.split("Credential=").nth(1).and_then(|scope| scope.split('/').next()).map(str::to_owned));
    let denied = state.denies.filter(|denied| *denied == action).map(|_| (403, "AccessDenied"));
    if let Some((status, code)) = state.refuses.or(denied) {
        let who = "User: arn:aws:iam::123456789012:user/pgvigil is not authorized to perform";
        let message = if code == "Throttling" { "Rate exceeded".to_owned() } else { format!("{who}: rds:{action}") };
        let xml = format!(
            "<ErrorResponse xmlns=\"http://rds.amazonaws.com/doc/2014-10-31/\"><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{message}</Message></Error>\
             <RequestId>1</RequestId></ErrorResponse>"
        );
        return (status, xml);
    }
    let of_region = state.instances.get(&region).cloned().unwrap_or_default();
    let result = match action.as_str() {
        "DescribeDBInstances" => {
            let size: usize = field("MaxRecords").map_or(100, |size| size.parse().unwrap());
            let from: usize = field("Marker").map_or(0, |marker| marker.parse().unwrap());
            let page: String = of_region.iter().skip(from).take(size).map(Instance::xml).collect();
            let marker = (from + size < of_region.len()).then(|| format!("<Marker>{}</Marker>", from + size));
            format!("<DBInstances>{page}</DBInstances>{}", marker.unwrap_or_default())
        }
        "DescribeDBClusters" => {
            let mut ids: Vec<String> = of_region.iter().filter_map(|instance| instance.db_cluster.clone()).collect();
            ids.dedup();
            let cluster = |id: &String| {
                format!(
                    "<DBCluster><DBClusterIdentifier>{id}</DBClusterIdentifier>\
                     <DbClusterResourceId>cluster-{}</DbClusterResourceId></DBCluster>",
                    id.to_uppercase()
                )
            };
            format!("<DBClusters>{}</DBClusters>", ids.iter().map(cluster).collect::<String>())
        }
        "DescribePendingMaintenanceActions" => "<PendingMaintenanceActions/>".to_owned(),
        "DescribeEvents" => {
            let now = pgvigil::clock::wall();
            let event = |(source, category, message, ago): &(&str, &str, &str, i64)| {
                let at = humantime::format_rfc3339_seconds(now - std::time::Duration::from_secs(*ago as u64));
                format!(
                    "<Event><SourceIdentifier>{source}</SourceIdentifier><SourceType>db-instance</SourceType>\
                     <Message>{message}</Message><EventCategories><EventCategory>{category}</EventCategory></EventCategories>\
                     <Date>{at}</Date></Event>"
                )
            };
            format!("<Events>{}</Events>", state.events.iter().map(event).collect::<String>())
        }
        other => panic!("asked for {other}"),
    };
    let xml = format!(
        "<{action}Response xmlns=\"http://rds.amazonaws.com/doc/2014-10-31/\"><{action}Result>{result}</{action}Result>\
         <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
    );
    (200, xml)
}
