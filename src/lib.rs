//! pgvigil: replication health for PostgreSQL.
pub mod clock;
pub mod collect;
pub mod core;
pub mod demo;
