//! pgvigil: replication health for PostgreSQL.
pub mod clock;
pub mod core;
pub mod http;
pub mod self_metrics;
