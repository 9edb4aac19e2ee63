//! `pgvigil demo`: a throw-away primary and two replicas from the installed binaries, the daemon on them, an incident.
//!
//! The servers are of use beyond it: the project's own tests start theirs here. Whatever is started is gone when its
//! owner is dropped; what a killed process left behind, the next one removes.

mod daemon;
mod installation;
mod screen;
mod server;
mod servers;
mod walk;

use std::path::PathBuf;

pub use installation::Installation;
pub use server::{Row, Server};
pub use servers::{Plan, Servers};
pub use walk::run;

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Servers(#[from] ServersError),
    #[error("cannot {what} {path}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("the daemon's answer cannot be read")]
    Answer(#[source] serde_json::Error),
    #[error("the daemon has ended; the end of its log:\n{log}")]
    DaemonEnded { log: String },
    #[error("waited in vain for {what}; the end of the daemon's log:\n{log}")]
    Stuck { what: &'static str, log: String },
}

/// Why throw-away servers could not be had, or did not do what was asked of them.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    #[error(
        "no PostgreSQL server is installed here (looked on the PATH and in /usr/lib/postgresql/*/bin); on Debian: apt-get install postgresql"
    )]
    NotInstalled,
    #[error("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as")]
    NoUnprivilegedUser,
    #[error("cannot {what} {path}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{name} says: {said}")]
    Command { name: &'static str, said: String },
    #[error("server {name} ended by itself; the end of its log:\n{log}")]
    Ended { name: String, log: String },
    #[error("server {name} takes too long; the end of its log:\n{log}")]
    TooSlow { name: String, log: String },
    #[error("server {name} cannot do it")]
    Sql { name: String, source: tokio_postgres::Error },
    #[error("server {name}: `{statement}` never gave {expected}; last: {last}")]
    Never { name: String, statement: String, expected: String, last: String },
}
