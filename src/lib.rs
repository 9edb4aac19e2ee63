//! pgvigil: replication health for PostgreSQL.
pub mod app;
pub mod check;
pub mod clock;
pub mod collect;
pub mod config;
pub mod core;
pub mod demo;
pub mod engine;
pub mod http;
pub mod notify;
pub mod poll;
pub mod self_metrics;
pub mod table;
