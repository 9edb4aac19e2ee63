//! pgvigil: how far each PostgreSQL replica lags, how sure that is, and since when.
//!
//! # The house
//!
//! ```text
//! main ─▶ app ─▶ { collect, engine, store, notify, http } ─▶ core ─▶ std
//! ```
//!
//! | room | what it is for |
//! |---|---|
//! | [`core`] | everything that is decided: lag, rules, alerts, what must still be told. Pure: no clock, no I/O, no async |
//! | [`collect`] | in: connects, asks on two beats, turns rows into [`core::observation`]s |
//! | [`engine`] | owns the [`core::fleet::Fleet`]: applies events, publishes snapshots, hands out notices |
//! | [`store`] | what outlives a restart: written behind the engine, and before a notice leaves |
//! | [`notify`] | out: one worker per notifier makes one attempt at a time and reports back |
//! | [`http`] | out: metrics, health, API; pure functions of a [`core::snapshot::Snapshot`] |
//! | [`discovery`] | what AWS has becomes clusters of the configuration |
//! | [`aws`] | the one way to AWS: clients, credentials, errors |
//! | [`agent_check`] | out: what load balancers ask for a target's share of the reads |
//! | [`waiting`] | tells [`collect`] that a client of [`http`] waits for the next sample |
//! | [`self_metrics`] | counters of the daemon's own doings |
//! | [`config`] | defaults < file < environment < options; checks across the parts; wording of errors |
//! | [`app`] | wiring and supervision; the only place that spawns the daemon's tasks |
//! | [`check`], [`plan`], [`poll`](mod@poll), [`rules`], [`demo`], [`silence`] | commands; [`table`] prints for them |
//! | [`clock`] | the only place that reads the clock |
//!
//! # Invariants
//!
//! 1. `core` cannot wait, cannot fail after construction, and cannot tell the time: `now` is an argument.
//! 2. State changes in one place, [`core::fleet::Fleet::apply`], owned by one task. Everyone else holds an `Arc<Snapshot>`.
//! 3. **Unknown is a value.** `None` never becomes 0, in SQL, in code, on a page or in a series: an unknown series is absent.
//! 4. A value carries its age. A reading older than `poll.stale_after` is unknown, and `/healthz` says so.
//! 5. No HTTP handler touches a database or a lock held across work. Load on the monitor never becomes load on the fleet.
//! 6. Every name of a number is a [`core::signal::Signal`]'s: series, rules, tables and dashboards.
//! 7. Only [`app`] spawns the daemon's tasks, each with a name; one that ends early stops the daemon with that name.
//!    (A connection of a client is [`http`]'s own; a process of the demo is [`demo`]'s.)
//!
//! # The path from a poll to an alert
//!
//! A target's task asks its server and sends an [`core::fleet::Event`]. The engine applies it: positions of the primary
//! go into its [`core::wal_clock::WalClock`], a replica's are held against that, and the estimate stands in the target's
//! view. Once a second rules read signals off the views and step the alerts; the ledger compares what is true with what
//! each notifier was told, and the difference is due. A notifier's worker makes one attempt and reports back as an event.

pub mod agent_check;
mod any_chain;
pub mod app;
pub mod aws;
pub mod check;
pub mod clock;
pub mod collect;
pub mod config;
pub mod core;
pub mod demo;
pub mod discovery;
pub mod engine;
pub mod http;
pub mod notify;
pub mod plan;
pub mod poll;
pub mod rules;
pub mod self_metrics;
pub mod silence;
pub mod store;
pub mod table;
pub mod waiting;
