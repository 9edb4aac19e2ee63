//! Every parameter that a connection string may have, and which of them is whose.

/// What becomes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It is obeyed, or checked where only some of its values can be obeyed.
    Used,
    /// Another tool's, or one that makes no difference to a monitor.
    Ignored,
    /// It would change what the connection may be, and cannot be obeyed: the text says what to write.
    Refused(&'static str),
}

/// One of libpq's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The environment variable that stands in for it.
    pub(super) variable: Option<&'static str>,
    pub(super) treatment: Treatment,
}

const fn used(name: &'static str, variable: &'static str) -> Parameter {
    Parameter { name, variable: Some(variable), treatment: Treatment::Used }
}

const fn used_if_written(name: &'static str) -> Parameter {
    Parameter { name, variable: None, treatment: Treatment::Used }
}

/// Without a variable where libpq has one: what is ignored need not be looked up.
const fn ignored(name: &'static str) -> Parameter {
    Parameter { name, variable: None, treatment: Treatment::Ignored }
}

const NO_KEY: Treatment = Treatment::Refused("write a password, or name a password file by passfile=");

/// All of libpq 18's, and `servicefile` of 19.
pub(super) const LIBPQ: &[Parameter] = &[
    used("service", "PGSERVICE"),
    used("servicefile", "PGSERVICEFILE"),
    used("host", "PGHOST"),
    used("hostaddr", "PGHOSTADDR"),
    used("port", "PGPORT"),
    used("user", "PGUSER"),
    used("password", "PGPASSWORD"),
    used("dbname", "PGDATABASE"),
    used("passfile", "PGPASSFILE"),
    used("require_auth", "PGREQUIREAUTH"),
    used("requirepeer", "PGREQUIREPEER"),
    used("channel_binding", "PGCHANNELBINDING"),
    used("sslmode", "PGSSLMODE"),
    used("sslnegotiation", "PGSSLNEGOTIATION"),
    used("sslrootcert", "PGSSLROOTCERT"),
    used("sslcrl", "PGSSLCRL"),
    used("sslcrldir", "PGSSLCRLDIR"),
    used("sslcert", "PGSSLCERT"),
    used("sslkey", "PGSSLKEY"),
    used("sslcertmode", "PGSSLCERTMODE"),
    used("sslsni", "PGSSLSNI"),
    used("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    used("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    used("min_protocol_version", "PGMINPROTOCOLVERSION"),
    used("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    used("gssencmode", "PGGSSENCMODE"),
    used("options", "PGOPTIONS"),
    used("connect_timeout", "PGCONNECT_TIMEOUT"),
    used("target_session_attrs", "PGTARGETSESSIONATTRS"),
    used("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    used_if_written("replication"),
    used_if_written("keepalives"),
    used_if_written("keepalives_idle"),
    used_if_written("keepalives_interval"),
    used_if_written("keepalives_count"),
    used_if_written("tcp_user_timeout"),
    Parameter { name: "scram_client_key", variable: None, treatment: NO_KEY },
    Parameter { name: "scram_server_key", variable: None, treatment: NO_KEY },
    // The application's name and the encoding are ours, and neither GSSAPI nor OAuth is spoken.
    ignored("application_name"),
    ignored("fallback_application_name"),
    ignored("client_encoding"),
    ignored("gssdelegation"),
    ignored("gsslib"),
    ignored("krbsrvname"),
    ignored("oauth_client_id"),
    ignored("oauth_client_secret"),
    ignored("oauth_issuer"),
    ignored("oauth_scope"),
    ignored("sslcompression"),
    ignored("sslkeylogfile"),
    // Encrypted keys are not taken, which an error says.
    ignored("sslpassword"),
];

/// Only Prisma has these. In a URL with one of them `sslcert` is Prisma's, too.
const PRISMA: &[&str] = &[
    "connection_limit",
    "max_connection_lifetime",
    "max_idle_connection_lifetime",
    "pgbouncer",
    "pool_max",
    "pool_min",
    "pool_timeout",
    "schema",
    "single_use_connections",
    "socket_timeout",
    "sslaccept",
    "sslidentity",
    "statement_cache_size",
];

/// Of other tools.
const IGNORED: &[&str] = &[
    // node-postgres, postgres.js, Drizzle
    "allowExitOnIdle",
    "connectionTimeoutMillis",
    "encoding",
    "fetch_types",
    "idleTimeoutMillis",
    "idle_in_transaction_session_timeout",
    "idle_timeout",
    "keepAlive",
    "lock_timeout",
    "max",
    "max_lifetime",
    "prepare",
    "query_timeout",
    "statement_timeout",
    "uselibpqcompat",
    // pgx, lib/pq
    "binary_parameters",
    "default_query_exec_mode",
    "description_cache_capacity",
    "disable_prepared_binary_result",
    "krbspn",
    "pool_health_check_period",
    "pool_max_conn_idle_time",
    "pool_max_conn_lifetime",
    "pool_max_conn_lifetime_jitter",
    "pool_max_conns",
    "pool_min_conns",
    "pool_min_idle_conns",
    "search_path",
    "statement_cache_capacity",
    "timezone",
    // Rails, Django, SQLAlchemy, asyncpg, Doctrine, sqlx, poolers in the cloud
    "advisory_locks",
    "charset",
    "checkout_timeout",
    "command_timeout",
    "conn_health_checks",
    "conn_max_age",
    "min_messages",
    "pool",
    "pool_mode",
    "prepared_statement_cache_size",
    "prepared_statements",
    "reaping_frequency",
    "schema_search_path",
    "serverVersion",
    "server_version",
    "statement-cache-capacity",
    "supa",
    "workaround",
    // JDBC
    "ApplicationName",
    "connectTimeout",
    "currentSchema",
    "loginTimeout",
    "preferQueryMode",
    "prepareThreshold",
    "reWriteBatchedInserts",
    "socketTimeout",
    "sslfactory",
    "stringtype",
    "targetServerType",
    "tcpKeepAlive",
];

/// libpq's parameter of this name.
pub(super) fn of_libpq(name: &str) -> Option<&'static Parameter> {
    LIBPQ.iter().find(|parameter| parameter.name == name)
}

pub(super) fn is_of_another_tool(name: &str) -> bool {
    IGNORED.contains(&name) || is_prismas(name)
}

pub(super) fn is_prismas(name: &str) -> bool {
    PRISMA.contains(&name)
}

/// The known parameter that is written most like `name`, if one is close enough to be meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    LIBPQ
        .iter()
        .map(|parameter| parameter.name)
        .chain(PRISMA.iter().copied())
        .chain(IGNORED.iter().copied())
        .map(|known| (strsim::damerau_levenshtein(&name, &known.to_ascii_lowercase()), known))
        .filter(|(distance, known)| *distance <= 3.min(known.len() / 2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_proposed_only_when_it_is_near() {
        assert_eq!(nearest("slmode"), Some("sslmode"));
        assert_eq!(nearest("sslrootcrt"), Some("sslrootcert"));
        assert_eq!(nearest("SSLMODE"), Some("sslmode"));
        assert_eq!(nearest("conection_limit"), Some("connection_limit"));
        assert_eq!(nearest("frobnicate"), None);
        assert_eq!(nearest("x"), None);
    }

    #[test]
    fn no_name_is_there_twice() {
        let mut names: Vec<&str> = LIBPQ.iter().map(|parameter| parameter.name).collect();
        names.extend_from_slice(PRISMA);
        names.extend_from_slice(IGNORED);
        names.sort_unstable();
        let n_names = names.len();
        names.dedup();
        assert_eq!(names.len(), n_names);
    }

    #[test]
    fn the_book_lists_every_parameter_and_variable_of_libpq() {
        let book = include_str!("../../docs/src/connections.md");
        for parameter in LIBPQ {
            for word in [Some(parameter.name), parameter.variable].into_iter().flatten() {
                assert!(book.contains(&format!("`{word}`")), "{word}");
            }
        }
    }
}
