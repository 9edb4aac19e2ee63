//! The tests that need more than the library alone: real servers, the real binary, the real tools. One binary, so
//! that the AWS crates link once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failed test printed is shown with it")]

mod abuse;
mod alertmanager;
mod aurora;
mod bytes;
mod cause;
mod check;
mod clients;
mod cloudwatch;
mod commands;
mod config;
mod connect;
mod credentials;
mod dashboards;
mod demo;
mod discover;
mod distance;
mod docs;
mod drain;
mod failover;
mod faults;
mod fuzzed;
mod haproxy;
mod health_check;
mod heartbeat;
mod hostile;
mod https;
mod kills;
mod layers;
mod libpq;
mod life;
mod logical;
mod openapi;
mod packages;
mod page;
mod patroni;
mod poll;
mod pooler;
mod postgres;
mod postgres_exporter;
mod prometheus;
mod promises;
mod readme;
mod reference;
mod reload;
mod remedies;
mod restart;
mod rig;
mod route;
mod rules;
mod scenarios;
mod series;
mod sessions;
mod settings;
mod slots;

mod silence;
mod sns;
mod storm;
mod support;
mod tls;
mod topology;
mod truth;
mod watch;
mod webhook;
