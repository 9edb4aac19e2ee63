//! pgvigil: replication health for PostgreSQL.
pub mod clock;
pub mod core;
pub mod config;
