//! Signals of connection poolers. The label `target` has the pooler's name; pools and databases beyond the busiest are
//! told together as `other`.

use super::row::{bool_value, per_pooler, state};
use super::{Coverage, Emit, Signal, Unit, Value};
use crate::core::pooler::{Pool, PoolDatabase, PoolTotals};
use crate::core::snapshot::PoolerView;
use crate::core::time::MonoTime;

const ANSWER: &str = "The pooler's last answer is stale, or there is none.";
const POOL: &[&str] = &["database", "user"];
const POOL_STATE: &[&str] = &["database", "user", "state"];
const DATABASE: &[&str] = &["database"];

pub(super) const ROWS: &[Signal] = &[
    per_pooler("pooler_up", Unit::Bool, up)
        .states("does not answer", "answers")
        .help("1 when the last poll of the connection pooler succeeded.")
        .absent("Before the first poll ended.")
        .from("pgvigil"),
    per_pooler("pooler_failure", Unit::Bool, failure)
        .labels(&["reason"])
        .says("fails to answer ({reason})")
        .none("does not fail in this way any more")
        .help("1 for the kind of failure that the last poll of the connection pooler ended with, or left rows out for.")
        .absent("The last poll succeeded, and all rows could be read.")
        .from("pgvigil"),
    per_pooler("pooler_info", Unit::Bool, info)
        .labels(&["version", "tls"])
        .help("What the connection pooler is by its own word; always 1.")
        .absent(ANSWER)
        .from("SHOW VERSION"),
    per_pooler("pooler_observation_age_seconds", Unit::Seconds, observation_age)
        .says("answered last {} ago")
        .help("Age of the connection pooler's last answer, that is, of what is shown of it.")
        .absent("Before the first answer.")
        .from("pgvigil"),
    per_pooler("pooler_clients", Unit::Count, clients)
        .labels(POOL_STATE)
        .help("Clients of a pool: waiting for a server connection, or active, that is, served or silent.")
        .absent(ANSWER)
        .from("SHOW POOLS"),
    per_pooler("pooler_longest_wait_seconds", Unit::Seconds, longest_wait)
        .labels(POOL)
        .says("has a client that has waited {} for a server connection")
        .help("How long the first client in a pool's queue has waited for a server connection; 0 when nobody waits.")
        .absent(ANSWER)
        .from("SHOW POOLS: maxwait, maxwait_us"),
    per_pooler("pooler_servers", Unit::Count, servers)
        .labels(POOL_STATE)
        .help("Server connections of a pool by PgBouncer's words: active, idle, used (idle for long), tested, login.")
        .absent(ANSWER)
        .from("SHOW POOLS"),
    per_pooler("pooler_pool_used_ratio", Unit::Ratio, used_ratio)
        .labels(POOL)
        .says("uses {} of its server connections")
        .help("Server connections of a pool that are linked to a client, as a share of its size.")
        .absent("As above, and for `other` and a pool whose size is not listed.")
        .from("SHOW POOLS, SHOW DATABASES"),
    per_pooler("pooler_pool_size", Unit::Count, pool_size)
        .labels(DATABASE)
        .help("Most server connections that a pool of the database may have.")
        .absent(ANSWER)
        .from("SHOW DATABASES"),
    per_pooler("pooler_database_connections", Unit::Count, connections)
        .labels(DATABASE)
        .help("Server connections of all pools of the database.")
        .absent(ANSWER)
        .from("SHOW DATABASES"),
    per_pooler("pooler_database_connections_max", Unit::Count, connections_max)
        .labels(DATABASE)
        .help("Most server connections that all pools of the database together may have.")
        .absent("There is no such limit; and as above.")
        .from("SHOW DATABASES"),
    per_pooler("pooler_database_paused", Unit::Bool, paused)
        .labels(DATABASE)
        .states("serves its clients", "is paused: its clients wait")
        .help("1 while the database is paused in the pooler: its clients wait.")
        .absent(ANSWER)
        .from("SHOW DATABASES"),
    per_pooler("pooler_database_disabled", Unit::Bool, disabled)
        .labels(DATABASE)
        .states("takes clients", "takes no new clients")
        .help("1 while the pooler takes no new clients for the database.")
        .absent(ANSWER)
        .from("SHOW DATABASES"),
    per_pooler("pooler_transactions_total", Unit::Count, transactions)
        .counter()
        .labels(DATABASE)
        .help("Transactions that the pooler has passed on, since pgvigil first saw it.")
        .absent(ANSWER)
        .from("SHOW STATS"),
    per_pooler("pooler_queries_total", Unit::Count, queries)
        .counter()
        .labels(DATABASE)
        .help("Queries that the pooler has passed on, since pgvigil first saw it.")
        .absent(ANSWER)
        .from("SHOW STATS"),
    per_pooler("pooler_received_bytes_total", Unit::Bytes, received)
        .counter()
        .labels(DATABASE)
        .help("Bytes that the pooler has received from clients, since pgvigil first saw it.")
        .absent(ANSWER)
        .from("SHOW STATS"),
    per_pooler("pooler_sent_bytes_total", Unit::Bytes, sent)
        .counter()
        .labels(DATABASE)
        .help("Bytes that the pooler has sent to clients, since pgvigil first saw it.")
        .absent(ANSWER)
        .from("SHOW STATS"),
    per_pooler("pooler_client_wait_seconds_total", Unit::Seconds, client_wait)
        .counter()
        .labels(DATABASE)
        .help("Time that clients have waited for a server connection, since pgvigil first saw the pooler.")
        .absent(ANSWER)
        .from("SHOW STATS: total_wait_time"),
    per_pooler("pooler_query_seconds_total", Unit::Seconds, query_time)
        .counter()
        .labels(DATABASE)
        .help("Time that server connections were busy with queries, since pgvigil first saw the pooler.")
        .absent(ANSWER)
        .from("SHOW STATS: total_query_time"),
];

fn up(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, pooler.tried().then(|| bool_value(pooler.is_up(now))))
}

fn failure(pooler: &PoolerView, _: MonoTime, emit: Emit<'_>) -> Coverage {
    let unread = || pooler.answer.as_ref().and_then(|answer| answer.facts.unread.as_deref());
    if let Some(failure) = pooler.failing.as_ref().map(|failing| &failing.failure).or_else(unread) {
        emit(&[failure.kind()], Value::exact(1.0));
    }
    if pooler.tried() { Coverage::Complete } else { Coverage::Unknown }
}

fn info(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    let Some(answer) = pooler.fresh(now) else { return Coverage::Unknown };
    let version = answer.facts.version.as_deref().unwrap_or("unknown");
    emit(&[version, if answer.facts.tls { "true" } else { "false" }], Value::exact(1.0));
    Coverage::Complete
}

fn observation_age(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    state(emit, pooler.answer.as_ref().map(|answer| now.duration_since(answer.answered_at).as_secs_f64()))
}

fn of_pools(pooler: &PoolerView, now: MonoTime, mut each: impl FnMut(&Pool)) -> Coverage {
    let Some(answer) = pooler.fresh(now) else { return Coverage::Unknown };
    answer.facts.pools.iter().for_each(&mut each);
    Coverage::Complete
}

fn clients(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_pools(pooler, now, |pool| {
        for (state, count) in [("active", pool.clients_active), ("waiting", pool.clients_waiting)] {
            emit(&[&pool.database, &pool.user, state], Value::exact(count as f64));
        }
    })
}

fn longest_wait(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_pools(pooler, now, |pool| emit(&[&pool.database, &pool.user], Value::exact(pool.longest_wait)))
}

fn servers(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_pools(pooler, now, |pool| {
        for (state, count) in [
            ("active", pool.servers_active),
            ("idle", pool.servers_idle),
            ("used", pool.servers_used),
            ("tested", pool.servers_tested),
            ("login", pool.servers_login),
        ] {
            emit(&[&pool.database, &pool.user, state], Value::exact(count as f64));
        }
    })
}

fn used_ratio(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_pools(pooler, now, |pool| {
        if let Some(size) = pool.size.filter(|size| *size > 0) {
            emit(&[&pool.database, &pool.user], Value::exact(pool.servers_active as f64 / size as f64));
        }
    })
}

fn of_databases(
    pooler: &PoolerView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&PoolDatabase) -> Option<f64>,
) -> Coverage {
    let Some(answer) = pooler.fresh(now) else { return Coverage::Unknown };
    for database in &answer.facts.databases {
        if let Some(value) = value(database) {
            emit(&[&database.name], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn pool_size(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_databases(pooler, now, emit, |database| database.pool_size.map(|size| size as f64))
}

fn connections(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_databases(pooler, now, emit, |database| database.current_connections.map(|count| count as f64))
}

fn connections_max(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_databases(pooler, now, emit, |database| database.max_connections.map(|count| count as f64))
}

fn paused(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_databases(pooler, now, emit, |database| Some(bool_value(database.paused)))
}

fn disabled(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_databases(pooler, now, emit, |database| Some(bool_value(database.disabled)))
}

fn of_counters(
    pooler: &PoolerView,
    now: MonoTime,
    emit: Emit<'_>,
    value: impl Fn(&PoolTotals) -> Option<f64>,
) -> Coverage {
    let Some(answer) = pooler.fresh(now) else { return Coverage::Unknown };
    for (database, totals) in answer.counters.iter() {
        if let Some(value) = value(totals) {
            emit(&[database], Value::exact(value));
        }
    }
    Coverage::Complete
}

fn transactions(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_counters(pooler, now, emit, |totals| totals.transactions.map(|count| count as f64))
}

fn queries(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_counters(pooler, now, emit, |totals| totals.queries.map(|count| count as f64))
}

fn received(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_counters(pooler, now, emit, |totals| totals.received_bytes.map(|bytes| bytes as f64))
}

fn sent(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_counters(pooler, now, emit, |totals| totals.sent_bytes.map(|bytes| bytes as f64))
}

fn client_wait(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_counters(pooler, now, emit, |totals| totals.wait_us.map(|micros| micros as f64 / 1e6))
}

fn query_time(pooler: &PoolerView, now: MonoTime, emit: Emit<'_>) -> Coverage {
    of_counters(pooler, now, emit, |totals| totals.query_us.map(|micros| micros as f64 / 1e6))
}
