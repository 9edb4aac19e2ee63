//! What comes in: sessions with PostgreSQL servers.

pub mod conninfo;
mod dsn;
mod failure;
pub mod passfile;
pub mod postgres;
pub mod session;
pub mod tls;
