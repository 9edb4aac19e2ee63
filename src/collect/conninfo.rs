//! Where a server is and how to log in to it, as libpq reads it from a connection string and the environment.
//!
//! A string that works with `psql` works here, and so does one with the parameters of Prisma and other tools in it:
//! what is not used is ignored and remembered ([`Conninfo::ignored_keys`]). A parameter that no known tool has is an
//! error. Neither `Debug`, `Display` nor an error shows a password.
//!
//! `sslcert` is libpq's client certificate, except in a URL that has a parameter only Prisma knows and no `sslkey`:
//! there it is Prisma's file of root certificates, given relative to a folder that is not known here, and is ignored
//! like `sslaccept` and `sslidentity`. To verify the server, say `sslmode=verify-full&sslrootcert=...`.
//!
//! `application_name` is always `pgvigil`: whoever looks at `pg_stat_activity` should see who asks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::getuid;

use super::dsn::{self, Parameters, Treatment};
use super::login::Login;
use super::passfile::{PassfileProblem, Password, Wanted, password_from};
use super::tls::{ClientFiles, Roots, SslMode, TlsSettings};
use crate::aws::Version;

/// One target's connection parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conninfo {
    hosts: Vec<Host>,
    user: String,
    dbname: Option<String>,
    password: Option<Password>,
    passfile: Option<PathBuf>,
    tls: TlsSettings,
    channel_binding: ChannelBinding,
    options: Option<String>,
    connect_timeout: Option<Duration>,
    target_session_attrs: TargetSessionAttrs,
    tcp: TcpSettings,
    ignored: Vec<String>,
    said: Said,
    login: Login,
}

/// What was said, by the connection string or the environment, and is no default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) user: bool,
    pub(super) host: bool,
    pub(super) port: bool,
    pub(super) sslmode: bool,
    pub(super) sslrootcert: bool,
}

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub endpoint: Endpoint,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `name` is what a certificate is checked against; with `address` (`hostaddr`) it is not looked up.
    Tcp { name: String, address: Option<IpAddr> },
    /// The directory of a Unix-domain socket.
    Unix(PathBuf),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Endpoint::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Endpoint::Unix(directory) => write!(f, "{}:{}", directory.display(), self.port),
        }
    }
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// `target_session_attrs`. `read-write` is taken as `primary` and `read-only` as `standby`: our own sessions are made
/// read-only, so that a server's default cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    Any,
    Primary,
    Standby,
    PreferStandby,
}

/// How a TCP connection notices that the other side is gone. `None` leaves it to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    pub keepalives: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

impl Default for TcpSettings {
    /// A dead peer is noticed within a minute, even between polls: the kernel's two hours help no monitor.
    fn default() -> Self {
        Self {
            keepalives: true,
            idle: Some(Duration::from_secs(30)),
            interval: Some(Duration::from_secs(10)),
            count: Some(3),
            user_timeout: Some(Duration::from_secs(30)),
        }
    }
}

/// Why a connection string cannot be used. Repeats no value, since any might hold a piece of a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    #[error("connection string: {0}")]
    Syntax(&'static str),
    #[error("connection string: no known parameter {key:?}{}", nearest.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
    UnknownKey { key: String, nearest: Option<&'static str> },
    #[error("connection string: {key} is not supported: {hint}")]
    Refused { key: String, hint: &'static str },
    #[error("connection string: {key}: {expected}")]
    Value { key: &'static str, expected: &'static str },
    #[error("connection string: no user: write one, or set PGUSER")]
    NoUser,
}

impl Conninfo {
    /// Reads a connection string of either form, with libpq's defaults from this process' environment. An empty string
    /// is all defaults.
    ///
    /// # Errors
    /// The text cannot be read, or asks for what cannot be done.
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        Self::parse_with(text, &|name| std::env::var(name).ok())
    }

    /// The same with an environment of one's own.
    ///
    /// # Errors
    /// As [`Conninfo::parse`].
    pub fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConninfoError> {
        let (given, ignored) = sorted_out(Parameters::parse(text)?)?;
        let values = Values { given, env, home: env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from) };
        let user = values.get("user").or_else(|| os_user(env)).ok_or(ConninfoError::NoUser)?;
        Ok(Self {
            hosts: values.hosts()?,
            user,
            dbname: values.get("dbname"),
            password: values.get("password").map(Password::new),
            passfile: values.file("passfile", ".pgpass"),
            tls: values.tls()?,
            channel_binding: values.one_of(
                "channel_binding",
                "expected disable, prefer or require",
                &[
                    ("prefer", ChannelBinding::Prefer),
                    ("disable", ChannelBinding::Disable),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            options: values.get("options"),
            connect_timeout: values
                .integer("connect_timeout")?
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            target_session_attrs: values.one_of(
                "target_session_attrs",
                "expected any, read-write, read-only, primary, standby or prefer-standby",
                &[
                    ("any", TargetSessionAttrs::Any),
                    ("read-write", TargetSessionAttrs::Primary),
                    ("read-only", TargetSessionAttrs::Standby),
                    ("primary", TargetSessionAttrs::Primary),
                    ("standby", TargetSessionAttrs::Standby),
                    ("prefer-standby", TargetSessionAttrs::PreferStandby),
                ],
            )?,
            tcp: values.tcp()?,
            ignored,
            said: Said {
                user: values.get("user").is_some(),
                host: values.get("host").or_else(|| values.get("hostaddr")).is_some(),
                port: values.get("port").is_some(),
                sslmode: values.get("sslmode").is_some(),
                sslrootcert: values.get("sslrootcert").is_some(),
            },
            login: Login::Password,
        })
    }

    /// The places to try, in order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The names of its hosts, less sockets of this machine.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter_map(|host| match &host.endpoint {
            Endpoint::Tcp { name, .. } => Some(name.as_str()),
            Endpoint::Unix(_) => None,
        })
    }

    /// Whether no way to any of its hosts leaves this machine.
    pub fn is_local(&self) -> bool {
        // A secret may say where it is.
        if matches!(self.login, Login::Secret(_)) && !self.said.host {
            return false;
        }
        self.hosts.iter().all(|host| match &host.endpoint {
            Endpoint::Unix(_) => true,
            Endpoint::Tcp { address: Some(address), .. } => address.is_loopback(),
            Endpoint::Tcp { name, address: None } => {
                name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
            }
        })
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database; by default it has the user's name.
    pub fn dbname(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.user)
    }

    pub const fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    pub const fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    pub const fn target_session_attrs(&self) -> TargetSessionAttrs {
        self.target_session_attrs
    }

    /// `options`, to which our own are added.
    pub(super) fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    /// `connect_timeout`: a bound for each place, within the bound for all.
    pub(super) const fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    pub(super) const fn tcp(&self) -> &TcpSettings {
        &self.tcp
    }

    /// Parameters that stood in the string and are not used, in the order written; worth one line at debug level.
    pub fn ignored_keys(&self) -> &[String] {
        &self.ignored
    }

    #[must_use]
    pub fn with_password(mut self, password: Password) -> Self {
        self.password = Some(password);
        self
    }

    #[must_use]
    pub fn with_user(mut self, user: &str) -> Self {
        self.said.user = true;
        user.clone_into(&mut self.user);
        self
    }

    pub const fn login(&self) -> &Login {
        &self.login
    }

    pub(super) const fn said(&self) -> Said {
        self.said
    }

    #[must_use]
    pub fn with_login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }

    /// With the server's name verified as well, against these certificates if any are given.
    #[must_use]
    pub(super) fn verified_in_full(mut self, roots: Option<Roots>) -> Self {
        self.tls.mode = SslMode::VerifyFull;
        self.tls.roots = roots.unwrap_or(self.tls.roots);
        self
    }

    /// With what a version of its secret says: always user and password, and what was not said.
    ///
    /// # Errors
    /// Neither says where the server is.
    pub(super) fn with_version(&self, version: &Version) -> Result<Self, &'static str> {
        let mut whole = self.clone().with_user(&version.user).with_password(Password::new(version.expose_password()));
        if self.dbname.is_none() {
            whole.dbname.clone_from(&version.dbname);
        }
        if !self.said.host {
            let host =
                version.host.as_deref().ok_or("neither the dsn nor the secret says the host; write it into the dsn")?;
            let own = self.hosts.first().map(|host| host.port).filter(|_| self.said.port);
            whole.hosts =
                vec![Host { endpoint: Endpoint::of(host, None), port: own.or(version.port).unwrap_or(DEFAULT_PORT) }];
        } else if let (false, Some(port), [host]) = (self.said.port, version.port, whole.hosts.as_mut_slice()) {
            host.port = port;
        }
        Ok(whole)
    }

    #[must_use]
    pub fn with_dbname(mut self, dbname: &str) -> Self {
        self.dbname = Some(dbname.to_owned());
        self
    }

    /// One host in place of all: a name, an address, or the directory of a socket.
    #[must_use]
    pub fn with_host(mut self, host: &str, port: u16) -> Self {
        self.hosts = vec![Host { endpoint: Endpoint::of(host, None), port }];
        (self.said.host, self.said.port) = (true, true);
        self
    }

    /// The password for one host: the one given, else the password file's, which is read anew each time. With the
    /// reason why a file that exists was not used.
    pub(super) fn password_for(&self, host: &Host) -> (Option<Password>, Option<PassfileProblem>) {
        if let Some(password) = &self.password {
            return (Some(password.clone()), None);
        }
        let Some(passfile) = &self.passfile else { return (None, None) };
        let name = match &host.endpoint {
            Endpoint::Tcp { name, .. } => name.clone(),
            // As libpq has it, the default directory is looked up as localhost.
            Endpoint::Unix(directory) if directory == Path::new(DEFAULT_SOCKET_DIRECTORY) => "localhost".to_owned(),
            Endpoint::Unix(directory) => directory.to_string_lossy().into_owned(),
        };
        let wanted = Wanted { host: &name, port: host.port, dbname: self.dbname(), user: &self.user };
        match password_from(passfile, wanted) {
            Ok(password) => (password, None),
            Err(problem) => (None, Some(problem)),
        }
    }
}

impl fmt::Display for Conninfo {
    /// For example `pgvigil@db1:5432,db2:5432/postgres sslmode=verify-full`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Login::Secret(secret), false) = (&self.login, self.said.host) {
            return write!(f, "secret {secret} sslmode={}", self.tls.mode.as_str());
        }
        write!(f, "{}@", self.user)?;
        for (i, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if i > 0 { "," } else { "" })?;
        }
        write!(f, "/{} sslmode={}", self.dbname(), self.tls.mode.as_str())
    }
}

impl Endpoint {
    fn of(host: &str, address: Option<IpAddr>) -> Self {
        if host.starts_with('/') {
            return Self::Unix(PathBuf::from(host));
        }
        Self::Tcp { name: host.to_owned(), address: address.or_else(|| host.parse().ok()) }
    }
}

/// Where the packages of Debian and Red Hat, and the official images, put the socket.
const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";
const DEFAULT_PORT: u16 = 5432;

/// The parameters that are used, by name, and the names of those that are not.
fn sorted_out(parameters: Parameters) -> Result<(BTreeMap<String, String>, Vec<String>), ConninfoError> {
    let Parameters { pairs, is_url, is_suspect } = parameters;
    let has = |wanted: &str| pairs.iter().any(|(key, _)| key == wanted);
    let is_prismas = is_url && pairs.iter().any(|(key, _)| dsn::is_prismas(key)) && !has("sslkey");
    // JDBC's word, which libpq takes in a URL, too.
    let demands_tls = is_url && !has("sslmode") && pairs.iter().any(|(key, value)| key == "ssl" && value == "true");
    let mut given = BTreeMap::new();
    let mut ignored = Vec::new();
    for (key, value) in pairs {
        match dsn::treatment(&key) {
            Some(Treatment::Honoured) if key == "sslcert" && is_prismas => ignored.push(key),
            Some(Treatment::Honoured) => {
                given.insert(key, value);
            }
            Some(Treatment::Ignored) => {
                let hint = match (key.as_str(), value.as_str()) {
                    ("gssencmode", "require") => "GSSAPI is not spoken here; use TLS",
                    ("replication", "true" | "on" | "yes" | "1" | "database") => "pgvigil asks by SQL",
                    _ => {
                        ignored.push(key);
                        continue;
                    }
                };
                return Err(ConninfoError::Refused { key, hint });
            }
            Some(Treatment::Refused(hint)) => return Err(ConninfoError::Refused { key, hint }),
            None if is_suspect || !is_word(&key) => {
                return Err(ConninfoError::Syntax(
                    "an unknown parameter follows the password: in a URL write @ as %40, / as %2F and & as %26; \
                     elsewhere put a password with spaces in single quotes",
                ));
            }
            None => return Err(ConninfoError::UnknownKey { nearest: dsn::nearest(&key), key }),
        }
    }
    if demands_tls {
        ignored.retain(|key| key != "ssl");
        given.insert("sslmode".to_owned(), SslMode::Require.as_str().to_owned());
    }
    Ok((given, ignored))
}

fn is_word(key: &str) -> bool {
    (1..=40).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// The name that the password database has for this process' user. `None` when it has none, as for a container's
/// number without a name.
fn os_user(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let uid = getuid().as_raw().to_string();
    // Full names in it may be of any encoding.
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.or_else(|| env("USER").filter(|user| !user.is_empty()))
}

/// What was given, then what the environment says.
struct Values<'a> {
    given: BTreeMap<String, String>,
    env: &'a dyn Fn(&str) -> Option<String>,
    home: Option<PathBuf>,
}

/// Whether an environment variable stands in for a parameter.
pub(crate) fn is_variable(name: &str) -> bool {
    VARIABLES.iter().any(|(_, variable)| *variable == name)
}

/// The environment variables of libpq that stand in for parameters.
const VARIABLES: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslsni", "PGSSLSNI"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("options", "PGOPTIONS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
];

impl Values<'_> {
    /// An empty value counts as none.
    fn get(&self, key: &str) -> Option<String> {
        let from_env =
            || VARIABLES.iter().find(|(name, _)| *name == key).and_then(|(_, variable)| (self.env)(variable));
        self.given.get(key).cloned().or_else(from_env).filter(|value| !value.is_empty())
    }

    /// A file named by a parameter, or its usual place below the home directory.
    fn file(&self, key: &str, usual: &str) -> Option<PathBuf> {
        self.get(key).map(PathBuf::from).or_else(|| self.home.as_ref().map(|home| home.join(usual)))
    }

    fn integer(&self, key: &'static str) -> Result<Option<i64>, ConninfoError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| ConninfoError::Value { key, expected: "expected a whole number" })
    }

    /// The first of `choices` is the default.
    fn one_of<T: Copy>(
        &self,
        key: &'static str,
        expected: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, ConninfoError> {
        let text = self.get(key);
        let chosen = match &text {
            None => choices.first(),
            Some(text) => choices.iter().find(|(word, _)| word == text),
        };
        chosen.map(|(_, choice)| *choice).ok_or(ConninfoError::Value { key, expected })
    }

    fn hosts(&self) -> Result<Vec<Host>, ConninfoError> {
        let list = |key| self.get(key).map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>());
        let names = list("host");
        let addresses = list("hostaddr");
        let ports = list("port").unwrap_or_default();
        let n_hosts = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
        if addresses.as_ref().is_some_and(|addresses| addresses.len() != n_hosts) {
            return Err(ConninfoError::Value { key: "hostaddr", expected: "expected as many addresses as hosts" });
        }
        if ports.len() > 1 && ports.len() != n_hosts {
            return Err(ConninfoError::Value { key: "port", expected: "expected one port, or as many as hosts" });
        }
        let nth = |list: &Option<Vec<String>>, i: usize| {
            list.as_ref().and_then(|list| list.get(i)).filter(|text| !text.is_empty()).cloned()
        };
        (0..n_hosts)
            .map(|i| {
                let name = nth(&names, i);
                if name.as_ref().is_some_and(|name| name.contains(['@', ' ', '\t', '\n'])) {
                    return Err(ConninfoError::Value {
                        key: "host",
                        expected: "holds what no host name can; if a password's @ or space slipped in, write %40 or quote",
                    });
                }
                let address = nth(&addresses, i)
                    .map(|text| text.parse::<IpAddr>())
                    .transpose()
                    .map_err(|_| ConninfoError::Value { key: "hostaddr", expected: "expected an IP address" })?;
                let endpoint = match (name, address) {
                    (Some(name), address) => Endpoint::of(&name, address),
                    (None, Some(address)) => Endpoint::Tcp { name: address.to_string(), address: Some(address) },
                    (None, None) => Endpoint::Unix(PathBuf::from(DEFAULT_SOCKET_DIRECTORY)),
                };
                let port = match ports.get(i).or_else(|| ports.first()).map(|port| port.trim()) {
                    None | Some("") => DEFAULT_PORT,
                    Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(ConninfoError::Value {
                        key: "port",
                        expected: "expected a number from 1 to 65535 (in a URL, a password's : / ? # @ % are written \
                                   %3A %2F %3F %23 %40 %25)",
                    })?,
                };
                Ok(Host { endpoint, port })
            })
            .collect()
    }

    fn tls(&self) -> Result<TlsSettings, ConninfoError> {
        let roots = match self.get("sslrootcert") {
            Some(text) if text == "system" => Roots::System,
            Some(text) if text == "rds" => Roots::Rds,
            _ => Roots::File(self.file("sslrootcert", ".postgresql/root.crt")),
        };
        let mode = match self.get("sslmode") {
            None if roots == Roots::System => SslMode::VerifyFull,
            None => SslMode::Prefer,
            Some(text) => SslMode::parse(&text).ok_or(ConninfoError::Value {
                key: "sslmode",
                expected: "expected disable, allow, prefer, require, verify-ca or verify-full",
            })?,
        };
        if roots == Roots::System && mode < SslMode::VerifyFull {
            let expected = "sslrootcert=system needs sslmode=verify-full: anyone can have a certificate for some name";
            return Err(ConninfoError::Value { key: "sslmode", expected });
        }
        let direct =
            self.one_of("sslnegotiation", "expected postgres or direct", &[("postgres", false), ("direct", true)])?;
        if direct && mode < SslMode::Require {
            let expected = "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full";
            return Err(ConninfoError::Value { key: "sslmode", expected });
        }
        let version = |key, default| {
            self.one_of(
                key,
                "expected TLSv1.2 or TLSv1.3 (older ones are never spoken)",
                &[("", default), ("TLSv1", 10), ("TLSv1.1", 11), ("TLSv1.2", 12), ("TLSv1.3", 13)],
            )
        };
        let (oldest, newest) = (version("ssl_min_protocol_version", 12)?, version("ssl_max_protocol_version", 13)?);
        if newest < 12 || newest < oldest {
            let expected = "leaves no version of TLS that can be spoken: 1.2 and 1.3 are";
            return Err(ConninfoError::Value { key: "ssl_max_protocol_version", expected });
        }
        let sends_certificate =
            self.one_of("sslcertmode", "expected allow or disable", &[("allow", true), ("disable", false)])?;
        let identity = self
            .file("sslcert", ".postgresql/postgresql.crt")
            .zip(self.file("sslkey", ".postgresql/postgresql.key"))
            .filter(|_| sends_certificate)
            .map(|(certificate, key)| ClientFiles { certificate, key });
        Ok(TlsSettings {
            mode,
            roots,
            identity,
            direct,
            sni: self.integer("sslsni")? != Some(0),
            tls12: oldest <= 12,
            tls13: newest >= 13,
        })
    }

    fn tcp(&self) -> Result<TcpSettings, ConninfoError> {
        let default = TcpSettings::default();
        // 0 is the kernel's own value, as in libpq.
        let positive = |key| -> Result<Option<Option<u32>>, ConninfoError> {
            Ok(self.integer(key)?.map(|value| u32::try_from(value).ok().filter(|value| *value > 0)))
        };
        let seconds = |key, default: Option<Duration>| -> Result<Option<Duration>, ConninfoError> {
            Ok(positive(key)?.map_or(default, |value| value.map(|seconds| Duration::from_secs(seconds.into()))))
        };
        Ok(TcpSettings {
            keepalives: self.integer("keepalives")? != Some(0),
            idle: seconds("keepalives_idle", default.idle)?,
            interval: seconds("keepalives_interval", default.interval)?,
            count: positive("keepalives_count")?.unwrap_or(default.count),
            user_timeout: positive("tcp_user_timeout")?
                .map_or(default.user_timeout, |value| value.map(|ms| Duration::from_millis(ms.into()))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECRET: &str = "S3cr3tMarker";

    fn parsed(text: &str, env: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
        let env: BTreeMap<&str, &str> = env.iter().copied().collect();
        Conninfo::parse_with(text, &|name| env.get(name).map(|value| (*value).to_owned()))
    }

    fn summary(text: &str, env: &[(&str, &str)]) -> String {
        parsed(text, env).map_or_else(|error| error.to_string(), |conninfo| conninfo.to_string())
    }

    #[test]
    fn a_connection_string_leads_where_libpq_would_go() {
        for (text, expected) in [
            ("postgresql://u@h", "u@h:5432/u sslmode=prefer"),
            ("postgres://u:p@h:6000/d?sslmode=verify-full", "u@h:6000/d sslmode=verify-full"),
            ("host=h user=u dbname=d sslmode=disable", "u@h:5432/d sslmode=disable"),
            ("postgres://u@h1:1,[::1]:2,h3/d", "u@h1:1,[::1]:2,h3:5432/d sslmode=prefer"),
            ("host=h1,h2 port=7 user=u", "u@h1:7,h2:7/u sslmode=prefer"),
            ("host=h1,h2 port=7,8 user=u", "u@h1:7,h2:8/u sslmode=prefer"),
            ("user=u", "u@/var/run/postgresql:5432/u sslmode=prefer"),
            ("postgres://u@%2Ftmp/d", "u@/tmp:5432/d sslmode=prefer"),
            ("postgres://u@localhost/d?host=/tmp", "u@/tmp:5432/d sslmode=prefer"),
            ("hostaddr=10.0.0.1 user=u", "u@10.0.0.1:5432/u sslmode=prefer"),
            ("host=h hostaddr=10.0.0.1 user=u", "u@h:5432/u sslmode=prefer"),
            ("host=h user=u sslrootcert=system", "u@h:5432/u sslmode=verify-full"),
            ("postgres://u@h/d?ssl=true", "u@h:5432/d sslmode=require"),
            ("postgres://u@h/d?ssl=true&sslmode=verify-ca", "u@h:5432/d sslmode=verify-ca"),
            ("postgres://u@h/d?sslmode=no-verify", "u@h:5432/d sslmode=require"),
            ("host=h user=u sslmode=require sslnegotiation=direct", "u@h:5432/u sslmode=require"),
        ] {
            assert_eq!(summary(text, &[]), expected, "{text}");
        }
    }

    #[test]
    fn urls_as_prisma_users_write_them_are_taken_as_they_are() {
        let url = "postgresql://user:password@tuition-primary.xxxxx.us-east-1.rds.amazonaws.com:5432/tuition_centre_db\
                   ?schema=public&connection_limit=100&pool_timeout=30";
        let conninfo = parsed(url, &[]).unwrap();
        assert_eq!(
            conninfo.to_string(),
            "user@tuition-primary.xxxxx.us-east-1.rds.amazonaws.com:5432/tuition_centre_db sslmode=prefer"
        );
        assert_eq!(conninfo.ignored_keys(), ["schema", "connection_limit", "pool_timeout"]);
        assert_eq!(conninfo.password, Some(Password::new("password")));

        let url = "postgresql://user:pass@host:5432/db?schema=public&sslmode=verify-full\
                   &sslrootcert=/path/to/rds-ca-bundle.pem";
        let conninfo = parsed(url, &[]).unwrap();
        assert_eq!(conninfo.to_string(), "user@host:5432/db sslmode=verify-full");
        assert_eq!(conninfo.tls().roots, Roots::File(Some(PathBuf::from("/path/to/rds-ca-bundle.pem"))));
        assert_eq!(conninfo.ignored_keys(), ["schema"]);

        let url = "postgres://u:p@h/d?pool_min=2&pool_max=9&pgbouncer=true&socket_timeout=5&statement_cache_size=0\
                   &sslaccept=strict&sslidentity=c.p12&sslpassword=x&single_use_connections=true\
                   &max_idle_connection_lifetime=60&connect_timeout=10";
        let conninfo = parsed(url, &[]).unwrap();
        assert_eq!(conninfo.ignored_keys().len(), 10);
        assert_eq!(conninfo.connect_timeout(), Some(Duration::from_secs(10)));
    }

    #[test]
    fn sslcert_is_prismas_only_in_a_url_of_prismas_without_sslkey() {
        for (text, is_ours) in [
            ("postgres://u@h/d?sslcert=c.pem", true),
            ("postgres://u@h/d?sslcert=c.pem&sslkey=k.pem&schema=public", true),
            ("postgres://u@h/d?sslcert=c.pem&schema=public", false),
            ("postgres://u@h/d?sslaccept=strict&sslcert=c.pem", false),
            ("user=u host=h sslcert=c.pem schema=public", true),
        ] {
            let conninfo = parsed(text, &[("HOME", "/home/u")]).unwrap();
            let expected = if is_ours { "c.pem" } else { "/home/u/.postgresql/postgresql.crt" };
            assert_eq!(conninfo.tls.identity.clone().unwrap().certificate, PathBuf::from(expected), "{text}");
            assert_eq!(conninfo.ignored_keys().contains(&"sslcert".to_owned()), !is_ours, "{text}");
        }
    }

    #[test]
    fn the_environment_stands_in_for_what_is_not_written() {
        let env = [
            ("PGHOST", "eh"),
            ("PGPORT", "6543"),
            ("PGUSER", "eu"),
            ("PGDATABASE", "ed"),
            ("PGPASSWORD", SECRET),
            ("PGSSLMODE", "verify-ca"),
            ("PGSSLROOTCERT", "/e/root.crt"),
            ("PGSSLCERT", "/e/c.crt"),
            ("PGSSLKEY", "/e/c.key"),
            ("PGPASSFILE", "/e/pgpass"),
            ("PGAPPNAME", "not ours"),
        ];
        let conninfo = parsed("", &env).unwrap();
        assert_eq!(conninfo.to_string(), "eu@eh:6543/ed sslmode=verify-ca");
        assert_eq!(conninfo.password, Some(Password::new(SECRET)));
        assert_eq!(conninfo.passfile, Some(PathBuf::from("/e/pgpass")));
        assert_eq!(conninfo.tls.roots, Roots::File(Some(PathBuf::from("/e/root.crt"))));
        let files = ClientFiles { certificate: PathBuf::from("/e/c.crt"), key: PathBuf::from("/e/c.key") };
        assert_eq!(conninfo.tls.identity, Some(files));
        assert_eq!(summary("postgres://u@h:1/d?sslmode=allow", &env), "u@h:1/d sslmode=allow");

        let conninfo = parsed("user=u", &[("HOME", "/home/u")]).unwrap();
        assert_eq!(conninfo.passfile, Some(PathBuf::from("/home/u/.pgpass")));
        assert_eq!(conninfo.tls.roots, Roots::File(Some(PathBuf::from("/home/u/.postgresql/root.crt"))));
    }

    #[test]
    fn parts_can_be_put_in_their_place() {
        let conninfo = parsed("", &[("PGUSER", "e")]).unwrap().with_host("db1", 6000).with_user("u");
        assert_eq!(conninfo.to_string(), "u@db1:6000/u sslmode=prefer");
        assert_eq!(conninfo.with_dbname("d").with_host("/tmp", 1).to_string(), "u@/tmp:1/d sslmode=prefer");
    }

    #[test]
    fn what_cannot_be_obeyed_is_an_error_that_names_it() {
        for (text, expected) in [
            ("postgres://u@h/d?slmode=require", "no known parameter \"slmode\"; did you mean sslmode?"),
            ("host=h user=u frobnicate=1", "no known parameter \"frobnicate\""),
            (
                "postgres://u@h/d?sslmode=on",
                "sslmode: expected disable, allow, prefer, require, verify-ca or verify-full",
            ),
            (
                "host=h user=u port=x",
                "port: expected a number from 1 to 65535 (in a URL, a password's : / ? # @ % are written %3A %2F %3F %23 %40 %25)",
            ),
            ("host=h,i user=u port=1,2,3", "port: expected one port, or as many as hosts"),
            ("host=h,i user=u hostaddr=10.0.0.1", "hostaddr: expected as many addresses as hosts"),
            ("host=h user=u hostaddr=h", "hostaddr: expected an IP address"),
            (
                "host=h user=u sslrootcert=system sslmode=require",
                "sslmode: sslrootcert=system needs sslmode=verify-full: anyone can have a certificate for some name",
            ),
            (
                "host=h user=u sslnegotiation=direct",
                "sslmode: sslnegotiation=direct needs sslmode=require, verify-ca or verify-full",
            ),
            (
                "host=h user=u ssl_max_protocol_version=TLSv1.1",
                "ssl_max_protocol_version: leaves no version of TLS that can be spoken: 1.2 and 1.3 are",
            ),
            ("host=h user=u service=s", "service is not supported: write the service's own parameters out"),
            ("host=h user=u gssencmode=require", "gssencmode is not supported: GSSAPI is not spoken here; use TLS"),
            ("host=h user=u connect_timeout=soon", "connect_timeout: expected a whole number"),
            ("mysql://u@h/d", "a connection URL begins with postgresql:// or postgres://"),
            ("postgres://u@[::1/d", "an IPv6 address lacks its closing bracket"),
            ("postgresql://u:p@ss/word@host/db", "an @, / or : in a password is written %40, %2F, %3A"),
            ("postgres://u@h/d?x", "a parameter after the ? has no value: write name=value, joined by &"),
            ("host", "a word is not followed by =: write name=value, and a value with spaces in single quotes"),
            ("host='h", "a quoted value lacks its closing quote"),
            ("postgres://u:%zz@h", "a % without two hexadecimal digits: write a literal % as %25"),
        ] {
            assert_eq!(summary(text, &[]), format!("connection string: {expected}"), "{text}");
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let text = format!("postgres://u:{SECRET}@h/d?schema=public");
        let conninfo = parsed(&text, &[("PGPASSWORD", SECRET)]).unwrap();
        assert_eq!(conninfo.password, Some(Password::new(SECRET)), "the marker is there to be leaked");
        let shown = format!("{conninfo} {conninfo:?} {conninfo:#?} {:?}", Password::new(SECRET));
        assert!(!shown.contains(SECRET), "{shown}");

        // Passwords that were not escaped, cut in every way that a reader of URLs might cut them.
        for text in [
            format!("postgres://u:a@{SECRET}@h/d"),
            format!("postgres://u:a@b/{SECRET}?{SECRET}=c@h/d"),
            format!("postgres://u:a@b?{SECRET}=c@h/d"),
            format!("postgres://u:a@{SECRET}/b@h/d"),
            format!("postgres://u:a@b/{SECRET}@h/d"),
            format!("postgres://u:a@b:{SECRET}/c@h/d"),
            format!("postgres://u:a@b:1/{SECRET}@h/d?sslmode=require"),
            format!("postgres://u:{SECRET}/b@h/d"),
            format!("postgres://u:1/{SECRET}?{SECRET}=1@h/d"),
            format!("postgres://u:1/b?{SECRET}=1@h/d"),
            format!("postgres://u:{SECRET}%zz@h/d"),
            format!("postgres://u:{SECRET}%@h/d"),
            format!("mysql://u:{SECRET}@h/d"),
            format!("host=h user=u password={SECRET} {SECRET}"),
            format!("host=h user=u password=a {SECRET}=b"),
            format!("host=h user=u password='{SECRET}"),
            SECRET.to_owned(),
            format!("u:{SECRET}@h/d"),
            format!("host=h@{SECRET} user=u"),
            format!("host=h user=u sslmode={SECRET} port={SECRET}"),
            format!("host=h user=u connect_timeout={SECRET}"),
        ] {
            let error = parsed(&text, &[]).expect_err(&text);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(SECRET), "{text}: {shown}");
        }
    }

    #[test]
    fn the_password_file_is_read_anew_for_each_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        let text = format!("host=h1,h2,/var/run/postgresql user=u passfile={}", path.display());
        let conninfo = parsed(&text, &[]).unwrap();
        let passwords =
            || -> Vec<Option<Password>> { conninfo.hosts().iter().map(|host| conninfo.password_for(host).0).collect() };
        assert_eq!(passwords(), [None, None, None]);
        let write = |content: &str| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("h1:*:*:*:one\nlocalhost:5432:u:u:three\n");
        assert_eq!(passwords(), [Some(Password::new("one")), None, Some(Password::new("three"))]);
        write("h2:*:*:*:two\n");
        assert_eq!(passwords(), [None, Some(Password::new("two")), None]);
        let conninfo = conninfo.clone().with_password(Password::new("given"));
        assert_eq!(conninfo.password_for(&conninfo.hosts()[0]), (Some(Password::new("given")), None));
    }
}
