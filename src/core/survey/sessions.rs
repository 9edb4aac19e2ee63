//! Client sessions.

use std::sync::Arc;

/// Client sessions (`pg_stat_activity`, `backend_type = 'client backend'`), counted by the server. Of other roles'
/// sessions a role without `pg_monitor` sees database, user and application alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sessions {
    /// Count per state (`active`, `idle`, `idle in transaction`, ...). A session whose state is NULL counts as `unknown`:
    /// it is there, and without `pg_monitor` no more can be said.
    pub by_state: Vec<(String, u64)>,
    /// All client sessions, with known state or not.
    pub total: u64,
    /// Those of them of which all but database, user and application is hidden.
    pub hidden: u64,
    /// `max_connections`.
    pub max_connections: u64,
    /// `superuser_reserved_connections` plus `reserved_connections` (16+).
    pub reserved_connections: u64,
    /// `superuser_reserved_connections`.
    pub superuser_reserved_connections: u64,
    pub by_user: Tally,
    pub by_application: Tally,
    /// By client address: `local` for a Unix socket, `unknown` where it is hidden.
    pub by_client: Tally,
    /// `None` where the names of databases could not be read.
    pub by_database: Option<Tally>,
    /// By database and state at once; none where the names of databases could not be read, and those without a database
    /// are left out.
    pub by_database_and_state: Vec<Alike>,
    /// What is said of all sessions together. `None` while any is hidden: what holds of the others is not the answer.
    pub activity: Option<Box<Activity>>,
}

/// The sessions of one database in one state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alike {
    pub database: String,
    /// As in [`Sessions::by_state`].
    pub state: String,
    pub count: u64,
    /// Age of the oldest transaction among them. `None` where none is open, or that is hidden.
    pub oldest_transaction_seconds: Option<f64>,
}

/// Sessions counted by one thing: the names with the most of them, and all others in one number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Most sessions first; no name twice.
    pub named: Vec<(String, u64)>,
    /// Sessions under other names.
    pub others: u64,
    /// How many names those are.
    pub n_others: u64,
}

/// What client sessions do, and for how long by the server's clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// In an open transaction, aborted ones included, and not executing.
    pub idle_in_transaction: u64,
    /// Idle outside of a transaction for longer than `poll.idle_limit`.
    pub idle_long: u64,
    /// Waiting for a heavyweight lock.
    pub waiting_on_locks: u64,
    /// How long the longest of those waits (`pg_locks.waitstart`, 14+), in seconds. `None` when nobody does.
    pub longest_lock_wait: Option<f64>,
    /// Whom that session waits for, if it is a client session (14+), and since when its transaction is open.
    pub lock_holder: Option<Holder>,
    /// The transaction that is open for longest. `None` when none is.
    pub oldest_transaction: Option<Holder>,
    /// The one that is idle in its transaction for longest. `None` when none is.
    pub idle_transaction: Option<Holder>,
}

/// Who holds a transaction, and for how long. Never what it executes.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    pub pid: Option<i32>,
    pub seconds: f64,
    pub user: String,
    pub application: String,
    pub state: String,
    /// `None` for a database that is no more, or where the names of databases could not be read.
    pub database: Option<String>,
}

impl Sessions {
    /// Puts the names of databases in the place of their OIDs, which is what the server counts by.
    pub fn name_databases(&mut self, names: Option<&[(u32, Arc<str>)]>) {
        let name_of = |oid: &str| {
            let oid: u32 = oid.parse().ok()?;
            names?.iter().find(|(known, _)| *known == oid).map(|(_, name)| name.to_string())
        };
        match &mut self.by_database {
            Some(tally) if names.is_some() => {
                // One that was made a moment ago, or is no more, is among the others.
                tally.keep(|oid| name_of(oid).is_some());
                tally.named.iter_mut().for_each(|(name, _)| *name = name_of(name).unwrap_or_default());
            }
            by_database => *by_database = None,
        }
        self.by_database_and_state.retain_mut(|alike| {
            let name = name_of(&alike.database);
            name.is_some_and(|name| {
                alike.database = name;
                true
            })
        });
        let holders = self.activity.iter_mut().flat_map(|activity| {
            let Activity { lock_holder, oldest_transaction, idle_transaction, .. } = &mut **activity;
            [lock_holder, oldest_transaction, idle_transaction].into_iter().flatten()
        });
        for holder in holders {
            holder.database = holder.database.as_deref().and_then(name_of);
        }
    }
}

impl Tally {
    /// Keeps the names that `is_kept` wants; the sessions of others join the others.
    pub fn keep(&mut self, is_kept: impl Fn(&str) -> bool) {
        let Self { named, others, n_others } = self;
        named.retain(|(name, count)| {
            let kept = is_kept(name);
            if !kept {
                *others = others.saturating_add(*count);
                *n_others = n_others.saturating_add(1);
            }
            kept
        });
        named.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_go_by_name_where_names_are_known() {
        let counted = |named: &[(&str, u64)], others| Tally {
            named: named.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            others,
            n_others: others,
        };
        let held = |database: Option<&str>| {
            let (seconds, user, application, state) = (1.0, String::new(), String::new(), String::new());
            Some(Holder { pid: None, seconds, user, application, state, database: database.map(str::to_owned) })
        };
        let sessions = |by_database, database, other| Sessions {
            by_database,
            by_database_and_state: [database, other]
                .into_iter()
                .flatten()
                .map(|name: &str| Alike { database: name.to_owned(), ..Alike::default() })
                .collect(),
            activity: Some(Box::new(Activity {
                oldest_transaction: held(database),
                idle_transaction: held(other),
                ..Activity::default()
            })),
            ..Sessions::default()
        };
        let asked = || sessions(Some(counted(&[("5", 4), ("9", 1)], 2)), Some("5"), Some("9"));
        let mut named = asked();
        named.name_databases(Some(&[(1, Arc::from("template1")), (5, Arc::from("app"))]));
        assert_eq!(named, sessions(Some(counted(&[("app", 4)], 3)), Some("app"), None));
        let mut unknown = asked();
        unknown.name_databases(None);
        assert_eq!(unknown, sessions(None, None, None));
    }
}
