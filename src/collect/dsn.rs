//! The text of a connection string, taken apart into parameters: libpq's two forms, and which parameter is whose.
//!
//! A piece of the text may be a password that was not escaped, so errors repeat nothing of it but the name of a
//! parameter, and that only where it cannot be one.

use super::conninfo::ConninfoError;

/// The parameters in the order written; a later one wins, as in libpq.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) pairs: Vec<(String, String)>,
    pub(super) is_url: bool,
    /// Unknown names may be pieces of a password and must not be repeated.
    pub(super) is_suspect: bool,
}

impl Parameters {
    pub(super) fn parse(text: &str) -> Result<Self, ConninfoError> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
            Some(rest) => parse_url(rest),
            None if text.contains("://") => {
                Err(ConninfoError::Syntax("a connection URL begins with postgresql:// or postgres://"))
            }
            None => parse_keywords(text),
        }
    }
}

const AT_SIGN: &str = "an @ stands where the host is expected: in a user name or password write @ as %40, / as %2F, \
                       : as %3A, ? as %3F, # as %23, % as %25";

/// `[user[:password]@][host[:port],...][/dbname][?key=value&...]`
fn parse_url(rest: &str) -> Result<Parameters, ConninfoError> {
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: &str| -> Result<(), ConninfoError> {
        pairs.push((key.to_owned(), percent_decoded(value)?));
        Ok(())
    };
    // libpq looks for the @ up to the first slash.
    let before_slash = rest.find('/').unwrap_or(rest.len());
    let (userinfo, rest) = match rest[..before_slash].find('@') {
        Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    };
    if let Some(userinfo) = userinfo {
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        if !user.is_empty() {
            add("user", user)?;
        }
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            add("password", password)?;
        }
    }
    let end_of_hosts = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end_of_hosts);
    // "user:pa/ss@host": what follows the slash holds the real host, and the port is a piece of the password.
    if authority.contains('@') || (userinfo.is_none() && authority.contains(':') && rest.contains('@')) {
        return Err(ConninfoError::Syntax(AT_SIGN));
    }
    let (hosts, ports) = split_hosts(authority)?;
    if !hosts.iter().all(|host| host.is_empty()) {
        add("host", &hosts.join(","))?;
    }
    if !ports.iter().all(|port| port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // "user:p@ss/word@host": the host and the database hold pieces of the password, and would be named in errors.
    if userinfo.is_some() && path.contains('@') {
        return Err(ConninfoError::Syntax("an @, / or : in a password is written %40, %2F, %3A"));
    }
    if let Some(dbname) = path.strip_prefix('/').filter(|dbname| !dbname.is_empty()) {
        add("dbname", dbname)?;
    }
    for parameter in query.unwrap_or("").split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter
            .split_once('=')
            .ok_or(ConninfoError::Syntax("a parameter after the ? has no value: write name=value, joined by &"))?;
        add(&percent_decoded(key)?, value)?;
    }
    let is_suspect = userinfo.is_some() && rest.contains('@');
    Ok(Parameters { pairs, is_url: true, is_suspect })
}

/// `h1:5432,[::1]:5433,h3` as the hosts and the ports, an absent port being empty.
fn split_hosts(authority: &str) -> Result<(Vec<&str>, Vec<&str>), ConninfoError> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for host in authority.split(',') {
        let (name, port) = if let Some(literal) = host.strip_prefix('[') {
            let (literal, after) =
                literal.split_once(']').ok_or(ConninfoError::Syntax("an IPv6 address lacks its closing bracket"))?;
            if literal.is_empty() {
                return Err(ConninfoError::Syntax("the brackets of an IPv6 address are empty"));
            }
            match after.strip_prefix(':') {
                Some(port) => (literal, port),
                None if after.is_empty() => (literal, ""),
                None => return Err(ConninfoError::Syntax("after an IPv6 address in brackets comes : and the port")),
            }
        } else {
            host.split_once(':').unwrap_or((host, ""))
        };
        hosts.push(name);
        ports.push(port);
    }
    Ok((hosts, ports))
}

fn percent_decoded(text: &str) -> Result<String, ConninfoError> {
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let byte = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match byte {
            Some(0) => return Err(ConninfoError::Syntax("%00 has no place in a connection URL")),
            Some(byte) => decoded.push(byte),
            None => return Err(ConninfoError::Syntax("a % without two hexadecimal digits: write a literal % as %25")),
        }
    }
    String::from_utf8(decoded).map_err(|_| ConninfoError::Syntax("percent-escapes do not make UTF-8"))
}

/// `host=... password='a b'`: spaces around `=` allowed, quotes around values with spaces, a backslash before any
/// character that is meant literally.
fn parse_keywords(text: &str) -> Result<Parameters, ConninfoError> {
    let mut pairs = Vec::new();
    let mut is_suspect = false;
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.peek().is_none() {
            break;
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_ascii_whitespace()) {
            key.push(c);
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.next_if_eq(&'=').is_none() {
            return Err(ConninfoError::Syntax(
                "a word is not followed by =: write name=value, and a value with spaces in single quotes",
            ));
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        let is_quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\'') if is_quoted => break,
                Some(c) if c.is_ascii_whitespace() && !is_quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) => value.push(c),
                None if is_quoted => return Err(ConninfoError::Syntax("a quoted value lacks its closing quote")),
                None => break,
            }
        }
        // What stands after an unquoted password may be the rest of it.
        is_suspect |= key == "password" && !is_quoted;
        pairs.push((key, value));
    }
    Ok(Parameters { pairs, is_url: false, is_suspect })
}

/// What becomes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    Honoured,
    /// Another tool's, or one that makes no difference to a monitor.
    Ignored,
    /// It would change what the connection may be, and cannot be obeyed: the text says what to write.
    Refused(&'static str),
}

const HONOURED: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcertmode",
    "sslsni",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "channel_binding",
    "options",
    "connect_timeout",
    "target_session_attrs",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

const REFUSED: &[(&str, &str)] = &[
    ("service", "write the service's own parameters out"),
    ("servicefile", "write the service's own parameters out"),
    ("require_auth", "channel_binding=require insists on SCRAM over TLS"),
    ("requirepeer", "use sslmode=verify-full over TCP instead"),
    ("sslcrl", "revocation lists are not supported"),
    ("sslcrldir", "revocation lists are not supported"),
    ("requiressl", "write sslmode=require"),
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

const IGNORED: &[&str] = &[
    // libpq: the application's name is ours, a target is one server, and GSSAPI and OAuth are not spoken.
    "application_name",
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "replication",
    "scram_client_key",
    "scram_server_key",
    "sslcompression",
    "sslkeylogfile",
    "sslpassword",
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
    "ssl",
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
    "sslinline",
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

/// What becomes of a parameter of this name; `None` when no known tool has it.
pub(super) fn treatment(key: &str) -> Option<Treatment> {
    if HONOURED.contains(&key) {
        return Some(Treatment::Honoured);
    }
    if let Some((_, hint)) = REFUSED.iter().find(|(refused, _)| *refused == key) {
        return Some(Treatment::Refused(hint));
    }
    (IGNORED.contains(&key) || is_prismas(key)).then_some(Treatment::Ignored)
}

pub(super) fn is_prismas(key: &str) -> bool {
    PRISMA.contains(&key)
}

/// The known parameter that is written most like `key`, if one is close enough to be meant.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase();
    HONOURED
        .iter()
        .chain(PRISMA)
        .chain(IGNORED)
        .map(|known| (strsim::damerau_levenshtein(&key, &known.to_ascii_lowercase()), *known))
        .filter(|(distance, known)| *distance <= 3.min(known.len() / 2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        Parameters::parse(text).expect(text).pairs
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn urls_come_apart_as_in_libpq() {
        for (url, expected) in [
            ("postgresql://", &[][..]),
            ("postgres://h", &[("host", "h")]),
            ("postgres://u@h/d", &[("user", "u"), ("host", "h"), ("dbname", "d")]),
            ("postgres://u:p%40%2f:x@h:1", &[("user", "u"), ("password", "p@/:x"), ("host", "h"), ("port", "1")]),
            ("postgres://u:p?q#r@h", &[("user", "u"), ("password", "p?q#r"), ("host", "h")]),
            ("postgres://h1:1,h2,h3:3/d", &[("host", "h1,h2,h3"), ("port", "1,,3"), ("dbname", "d")]),
            ("postgres://[::1]:5,[fe80::2%25eth0]", &[("host", "::1,fe80::2%eth0"), ("port", "5,")]),
            ("postgres://%2Fvar%2Frun/d", &[("host", "/var/run"), ("dbname", "d")]),
            ("postgres:///d?host=/tmp&port=6", &[("dbname", "d"), ("host", "/tmp"), ("port", "6")]),
            ("postgres://h?user=a%20b", &[("host", "h"), ("user", "a b")]),
            ("postgres://h/?options=-c%20a=b", &[("host", "h"), ("options", "-c a=b")]),
            (" postgres://h/d\n", &[("host", "h"), ("dbname", "d")]),
            ("postgres://u@h/d%40e?user=a@b", &[("user", "u"), ("host", "h"), ("dbname", "d@e"), ("user", "a@b")]),
            ("postgres://u:@h:/d", &[("user", "u"), ("host", "h"), ("dbname", "d")]),
        ] {
            assert_eq!(pairs(url), owned(expected), "{url}");
        }
    }

    #[test]
    fn keywords_come_apart_as_in_libpq() {
        for (text, expected) in [
            ("", &[][..]),
            ("host=h port=1", &[("host", "h"), ("port", "1")]),
            (" host = h\n\tport= 1 ", &[("host", "h"), ("port", "1")]),
            (r"password='a b' user=u", &[("password", "a b"), ("user", "u")]),
            (r"password='it\'s \\ ' user=u", &[("password", r"it's \ "), ("user", "u")]),
            (r"password=a\ b\'c user=u", &[("password", "a b'c"), ("user", "u")]),
            ("password='' user=u", &[("password", ""), ("user", "u")]),
            ("password='a'user=u", &[("password", "a"), ("user", "u")]),
            ("host=a host=b", &[("host", "a"), ("host", "b")]),
        ] {
            assert_eq!(pairs(text), owned(expected), "{text}");
        }
    }

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
    fn no_name_is_treated_two_ways() {
        let mut names: Vec<&str> =
            [HONOURED, PRISMA, IGNORED].concat().into_iter().chain(REFUSED.iter().map(|(key, _)| *key)).collect();
        names.sort_unstable();
        let n_names = names.len();
        names.dedup();
        assert_eq!(names.len(), n_names);
    }
}
