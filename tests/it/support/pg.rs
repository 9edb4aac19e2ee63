//! PostgreSQL for the tests: which majors are installed, and clusters of them.

use std::path::{Path, PathBuf};

use pgvigil::demo::{Installation, Plan, Server, Servers};

/// Majors that must be installed in CI.
const RELEASED: [u32; 6] = [13, 14, 15, 16, 17, 18];

/// One whose tests are left out where `scripts/install-postgres` finds it no more.
const UNRELEASED: u32 = 19;

/// The installations to test against, oldest first, one a major: those that `PGVIGIL_TEST_PG_BINS` lists (separated
/// by colons), else the distribution's and those that `scripts/install-postgres` has put below `target/pg`.
pub(crate) fn installations() -> Vec<Installation> {
    let bins: Vec<PathBuf> = if let Some(list) = std::env::var_os("PGVIGIL_TEST_PG_BINS") {
        std::env::split_paths(&list).collect()
    } else {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pg");
        [Path::new("/usr/lib/postgresql"), &fetched]
            .iter()
            .flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten().flatten())
            .map(|entry| entry.path().join("bin"))
            .collect()
    };
    let mut found: Vec<Installation> = bins.iter().filter_map(|bin| Installation::at(bin)).collect();
    found.sort_by_key(|installation| installation.major);
    found.dedup_by_key(|installation| installation.major);
    let majors: Vec<u32> = found.iter().map(|installation| installation.major).collect();
    if super::in_ci() {
        for major in RELEASED {
            assert!(majors.contains(&major), "PostgreSQL {major} is missing (have {majors:?})");
        }
    }
    if !majors.contains(&UNRELEASED) {
        eprintln!("left out: PostgreSQL {UNRELEASED}, which scripts/install-postgres did not find");
    }
    found
}

/// The installation most tests use: the distribution's own 15 if there, else the newest.
pub(crate) fn installation() -> Installation {
    let found = installations();
    let fifteen = found.iter().find(|installation| installation.major == 15);
    fifteen.or(found.last()).cloned().expect("PostgreSQL is not installed; scripts/test installs it")
}

/// The plan of a primary with replicas `r1`, `r2`, ...
pub(crate) fn plan(replicas: usize) -> Plan {
    (1..=replicas).fold(Plan::new(installation()), |plan, n| plan.standby(&format!("r{n}"), "primary"))
}

/// A running primary with replicas `r1`, `r2`, ...
pub(crate) async fn cluster(replicas: usize) -> Servers {
    Servers::start(&plan(replicas)).await.unwrap()
}

/// How a client reaches a server as `user`, whose password is its name.
pub(crate) fn dsn(server: &Server, user: &str) -> String {
    dsn_at(server.port, user)
}

/// Servers as targets of a cluster: the name of each, and how `user` reaches it.
pub(crate) fn targets<'a>(servers: impl IntoIterator<Item = &'a Server>, user: &str) -> Vec<(&'a str, String)> {
    servers.into_iter().map(|server| (server.name.as_str(), dsn(server, user))).collect()
}

pub(crate) fn dsn_at(port: u16, user: &str) -> String {
    format!("postgresql://{user}:{user}@127.0.0.1:{port}/postgres")
}

/// Lines in the server's log that report an error to the daemon: there must be none, ever.
pub(crate) fn errors_caused_by_us(server: &Server) -> Vec<String> {
    let log = server.log();
    log.lines()
        .filter(|line| line.contains("/pgvigil "))
        // What every session is told when the test stops the server is not of our doing.
        .filter(|line| !line.contains("terminating connection") && !line.contains("the database system is"))
        // From 19 on the server warns whoever logs in of it: a role whose password ends soon is a test's own.
        .filter(|line| !line.contains("role password will expire soon"))
        .filter(|line| ["ERROR:", "FATAL:", "PANIC:", "WARNING:"].iter().any(|level| line.contains(level)))
        .map(str::to_owned)
        .collect()
}

/// Writes something on a primary that its replicas must replay, and gives the LSN behind it.
pub(crate) async fn write(primary: &Server) -> String {
    primary
        .sql("CREATE TABLE IF NOT EXISTS load(n int); INSERT INTO load SELECT generate_series(1, 100)")
        .await
        .unwrap();
    primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap()
}
