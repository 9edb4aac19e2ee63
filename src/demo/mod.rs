//! Throw-away PostgreSQL servers from the installed binaries.

mod installation;
mod server;
mod servers;

use std::path::PathBuf;

pub use installation::Installation;
pub use server::{Row, Server};
pub use servers::{Plan, Servers};

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
