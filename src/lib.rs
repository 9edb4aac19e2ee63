//! pgvigil: replication health for PostgreSQL.
pub mod check;
pub mod clock;
pub mod config;
pub mod core;
pub mod poll;
pub mod table;
