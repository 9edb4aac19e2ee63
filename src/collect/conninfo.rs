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
//! What would make a connection safer than it is without it, and cannot be done, is an error too: it is never ignored.
//!
//! `application_name` is always `pgvigil`: whoever looks at `pg_stat_activity` should see who asks.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::dsn::is_space;
use super::login::Login;
use super::passfile::{PassfileProblem, Password, Wanted, password_from};
use super::require_auth::RequireAuth;
use super::resolved::{Resolved, passwd_entry};
use super::service_file::ServiceProblem;
use super::tls::{ClientFiles, RevocationLists, Roots, SslMode, TlsSettings};
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
    require_auth: Option<RequireAuth>,
    requirepeer: Option<String>,
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
    #[error("{place} is not supported: {hint}")]
    Refused { place: String, hint: &'static str },
    #[error("{place}: {expected}")]
    Value { place: String, expected: &'static str },
    #[error("connection string: service: {0}")]
    Service(ServiceProblem),
    #[error("connection string: no user: write one, or set PGUSER")]
    NoUser,
}

/// What is wrong with the value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadValue(pub(super) &'static str);

impl Conninfo {
    /// Reads a connection string of either form, with libpq's defaults from this process' environment. An empty string
    /// is all defaults.
    ///
    /// # Errors
    /// The text cannot be read, or asks for what cannot be done.
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        Self::parse_with(text, &|name| std::env::var_os(name))
    }

    /// The same with an environment of one's own.
    ///
    /// # Errors
    /// As [`Conninfo::parse`].
    pub fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConninfoError> {
        let os_user = || env("USER").filter(|user| !user.is_empty()).and_then(|user| user.into_string().ok());
        Self::of(Resolved::read(text, env)?, os_user)
    }

    /// `os_user` is who runs this process, if the password database does not say it.
    fn of(settings: Resolved, os_user: impl FnOnce() -> Option<String>) -> Result<Self, ConninfoError> {
        let values = Values(&settings);
        values.check_what_is_not_spoken()?;
        let user = settings.get("user")?.map(str::to_owned);
        let said = Said {
            user: user.is_some(),
            host: settings.has("host") || settings.has("hostaddr"),
            port: settings.has("port"),
            sslmode: settings.has("sslmode"),
            sslrootcert: settings.has("sslrootcert"),
        };
        let user = user.or_else(|| Some(passwd_entry()?.name)).or_else(os_user).ok_or(ConninfoError::NoUser)?;
        let password = settings.bytes("password").filter(|password| !password.is_empty());
        let require_auth = settings.get("require_auth")?.map(RequireAuth::parse).transpose();
        Ok(Self {
            hosts: values.hosts()?,
            user,
            dbname: settings.get("dbname")?.map(str::to_owned),
            password: password.map(Password::new),
            passfile: settings.path_or("passfile", ".pgpass"),
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
            require_auth: require_auth.map_err(|bad| settings.fault("require_auth", bad))?,
            requirepeer: settings.get("requirepeer")?.map(str::to_owned),
            options: settings.get("options")?.map(str::to_owned),
            // As in libpq, no limit is 0 or less, and one second is too little.
            connect_timeout: values
                .integer("connect_timeout")?
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.max(2))),
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
            said,
            login: Login::Password,
            ignored: settings.into_ignored(),
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

    pub(super) const fn require_auth(&self) -> Option<RequireAuth> {
        self.require_auth
    }

    /// The user that the server must run as, at the other end of a socket of this machine.
    pub(super) fn requirepeer(&self) -> Option<&str> {
        self.requirepeer.as_deref()
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
            Endpoint::Tcp { name, .. } => name.as_bytes(),
            Endpoint::Unix(directory) => directory.as_os_str().as_bytes(),
        };
        // As libpq has it, the default directory is looked up as localhost.
        let name = if name == DEFAULT_SOCKET_DIRECTORY.as_bytes() { b"localhost" } else { name };
        let (dbname, user) = (self.dbname().as_bytes(), self.user.as_bytes());
        let wanted = Wanted { host: name, port: host.port, dbname, user };
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

/// What the settings mean.
struct Values<'a>(&'a Resolved);

impl Values<'_> {
    /// C's idea of a number, in 32 bits.
    fn integer(&self, key: &'static str) -> Result<Option<i32>, ConninfoError> {
        let Some(text) = self.0.written(key)? else { return Ok(None) };
        let number = text.trim_matches(|c: char| u8::try_from(c).is_ok_and(is_space)).parse();
        number.map(Some).map_err(|_| self.0.fault(key, BadValue("expected a whole number")))
    }

    /// The first of `choices` is the default.
    fn one_of<T: Copy>(
        &self,
        key: &'static str,
        expected: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, ConninfoError> {
        let text = self.0.written(key)?;
        let chosen = match text {
            None => choices.first(),
            Some(text) => choices.iter().find(|(word, _)| *word == text),
        };
        chosen.map(|(_, choice)| *choice).ok_or_else(|| self.0.fault(key, BadValue(expected)))
    }

    /// Parameters of which some values are as good as none, and others cannot be obeyed.
    fn check_what_is_not_spoken(&self) -> Result<(), ConninfoError> {
        let choices = [("disable", false), ("prefer", false), ("require", true)];
        if self.one_of("gssencmode", "expected disable or prefer", &choices)? {
            return Err(self.0.refused("gssencmode", "GSSAPI is not spoken here; use TLS"));
        }
        self.one_of("load_balance_hosts", "expected disable or random", &[("disable", ()), ("random", ())])?;
        let versions = [("3.0", false), ("3.2", true), ("latest", true)];
        if self.one_of("min_protocol_version", "expected 3.0", &versions)? {
            return Err(self.0.refused("min_protocol_version", "version 3.0 is spoken, and no later one"));
        }
        self.one_of("max_protocol_version", "expected 3.0, 3.2 or latest", &versions)?;
        if let Some("true" | "on" | "yes" | "1" | "database") = self.0.get("replication")? {
            return Err(self.0.refused("replication", "pgvigil asks by SQL"));
        }
        Ok(())
    }

    fn hosts(&self) -> Result<Vec<Host>, ConninfoError> {
        let list = |key| -> Result<Option<Vec<&str>>, ConninfoError> {
            Ok(self.0.get(key)?.map(|text| text.split(',').collect()))
        };
        let names = list("host")?;
        let addresses = list("hostaddr")?;
        let ports = list("port")?.unwrap_or_default();
        let n_hosts = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
        if names.as_ref().is_some_and(|names| names.len() != n_hosts) {
            return Err(self.0.fault("hostaddr", BadValue("expected as many addresses as hosts")));
        }
        if ports.len() > 1 && ports.len() != n_hosts {
            return Err(self.0.fault("port", BadValue("expected one port, or as many as hosts")));
        }
        let nth = |list: &Option<Vec<&str>>, i: usize| {
            list.as_ref().and_then(|list| list.get(i)).filter(|text| !text.is_empty()).map(|text| (*text).to_owned())
        };
        (0..n_hosts)
            .map(|i| {
                let name = nth(&names, i);
                if name.as_ref().is_some_and(|name| name.contains(['@', ' ', '\t', '\n'])) {
                    return Err(self.0.fault(
                        "host",
                        BadValue(
                            "holds what no host name can; if a password's @ or space slipped in, write %40 or quote",
                        ),
                    ));
                }
                let written = nth(&addresses, i);
                let address = written
                    .as_deref()
                    .map(str::parse::<IpAddr>)
                    .transpose()
                    .map_err(|_| self.0.fault("hostaddr", BadValue("expected an IP address")))?;
                let endpoint = match (name.or(written), address) {
                    // Also with a name that looks like a socket's directory.
                    (Some(name), Some(address)) => Endpoint::Tcp { name, address: Some(address) },
                    (Some(name), None) => Endpoint::of(&name, None),
                    (None, _) => Endpoint::Unix(PathBuf::from(DEFAULT_SOCKET_DIRECTORY)),
                };
                let port =
                    match ports.get(i).or_else(|| ports.first()) {
                        None | Some(&"") => DEFAULT_PORT,
                        Some(port) => {
                            let port = port.trim_matches(|c: char| u8::try_from(c).is_ok_and(is_space));
                            port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                                self.0.fault("port", BadValue(
                            "expected a number from 1 to 65535 (in a URL, a password's : / ? # @ % are written \
                             %3A %2F %3F %23 %40 %25)",
                        ))
                            })?
                        }
                    };
                Ok(Host { endpoint, port })
            })
            .collect()
    }

    fn tls(&self) -> Result<TlsSettings, ConninfoError> {
        let fault = |key, expected| Err(self.0.fault(key, BadValue(expected)));
        let roots = match self.0.bytes("sslrootcert") {
            Some(b"system") => Roots::System,
            Some(b"rds") => Roots::Rds,
            _ => Roots::File(self.0.path_or("sslrootcert", ".postgresql/root.crt")),
        };
        let mode = match self.0.written("sslmode")? {
            None if roots == Roots::System => SslMode::VerifyFull,
            None => SslMode::Prefer,
            Some(text) => SslMode::parse(text).ok_or_else(|| {
                let expected = "expected disable, allow, prefer, require, verify-ca or verify-full";
                self.0.fault("sslmode", BadValue(expected))
            })?,
        };
        if roots == Roots::System && mode < SslMode::VerifyFull {
            let expected = "sslrootcert=system needs sslmode=verify-full: anyone can have a certificate for some name";
            return fault("sslmode", expected);
        }
        let direct =
            self.one_of("sslnegotiation", "expected postgres or direct", &[("postgres", false), ("direct", true)])?;
        if direct && mode < SslMode::Require {
            return fault("sslmode", "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full");
        }
        let version = |key, default| -> Result<u8, ConninfoError> {
            let versions = [("TLSv1", 10), ("TLSv1.1", 11), ("TLSv1.2", 12), ("TLSv1.3", 13)];
            let Some(text) = self.0.get(key)? else { return Ok(default) };
            let found = versions.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, version)| *version);
            let expected = "expected TLSv1.2 or TLSv1.3 (older ones are never spoken)";
            found.ok_or_else(|| self.0.fault(key, BadValue(expected)))
        };
        let (oldest, newest) = (version("ssl_min_protocol_version", 12)?, version("ssl_max_protocol_version", 13)?);
        if newest < 12 || newest < oldest {
            let expected = "leaves no version of TLS that can be spoken: 1.2 and 1.3 are";
            return fault("ssl_max_protocol_version", expected);
        }
        let choices = [("allow", Some(true)), ("disable", Some(false)), ("require", None)];
        let Some(sends_certificate) = self.one_of("sslcertmode", "expected allow or disable", &choices)? else {
            let hint = "a server is not made to ask for a certificate; sslcertmode=allow shows it to one that does";
            return Err(self.0.refused("sslcertmode", hint));
        };
        for key in ["sslcert", "sslkey", "sslrootcert", "sslcrl"] {
            if self.0.bytes(key).is_some_and(|value| value.trim_ascii_start().starts_with(b"-----BEGIN")) {
                return fault(key, "expected the name of a file, not what is in it");
            }
        }
        let identity = self
            .0
            .path_or("sslcert", ".postgresql/postgresql.crt")
            .zip(self.0.path_or("sslkey", ".postgresql/postgresql.key"))
            .filter(|_| sends_certificate)
            .map(|(certificate, key)| ClientFiles { certificate, key });
        let (file, directory) = (self.0.path("sslcrl"), self.0.path("sslcrldir"));
        let usual = (file.is_none() && directory.is_none()).then(|| self.0.path_or("sslcrl", ".postgresql/root.crl"));
        Ok(TlsSettings {
            mode,
            roots,
            revocation: RevocationLists { file, directory, usual: usual.flatten() },
            identity,
            direct,
            // As in libpq: whatever does not begin with a 1 turns it off.
            sni: self.0.bytes("sslsni").is_none_or(|value| value.starts_with(b"1")),
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
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECRET: &str = "S3cr3tMarker";

    fn parsed(text: &str, env: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
        let of = |wanted: &str| env.iter().find(|(name, _)| *name == wanted).map(|(_, value)| OsString::from(*value));
        Conninfo::parse_with(text, &of)
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
            ("PGREQUIREAUTH", "scram-sha-256"),
            ("PGREQUIREPEER", "postgres"),
            ("PGSSLCRL", "/e/root.crl"),
        ];
        let conninfo = parsed("", &env).unwrap();
        assert_eq!(conninfo.to_string(), "eu@eh:6543/ed sslmode=verify-ca");
        assert_eq!(conninfo.password, Some(Password::new(SECRET)));
        assert_eq!(conninfo.passfile, Some(PathBuf::from("/e/pgpass")));
        assert_eq!(conninfo.tls.roots, Roots::File(Some(PathBuf::from("/e/root.crt"))));
        let files = ClientFiles { certificate: PathBuf::from("/e/c.crt"), key: PathBuf::from("/e/c.key") };
        assert_eq!(conninfo.tls.identity, Some(files));
        assert_eq!(conninfo.require_auth, RequireAuth::parse("scram-sha-256").ok());
        assert_eq!(conninfo.requirepeer.as_deref(), Some("postgres"));
        assert_eq!(conninfo.tls.revocation.file, Some(PathBuf::from("/e/root.crl")));
        assert_eq!(summary("postgres://u@h:1/d?sslmode=allow", &env), "u@h:1/d sslmode=allow");

        let conninfo = parsed("user=u", &[("HOME", "/home/u")]).unwrap();
        assert_eq!(conninfo.passfile, Some(PathBuf::from("/home/u/.pgpass")));
        assert_eq!(conninfo.tls.roots, Roots::File(Some(PathBuf::from("/home/u/.postgresql/root.crt"))));
    }

    #[test]
    fn what_a_variable_asks_for_and_cannot_have_is_an_error_that_names_it() {
        for (variable, value, expected) in [
            ("PGSSLMODE", "on", "PGSSLMODE: expected disable, allow, prefer, require, verify-ca or verify-full"),
            ("PGSSLMODE", "", "PGSSLMODE: expected disable, allow, prefer, require, verify-ca or verify-full"),
            ("PGGSSENCMODE", "require", "PGGSSENCMODE is not supported: GSSAPI is not spoken here; use TLS"),
            (
                "PGMINPROTOCOLVERSION",
                "latest",
                "PGMINPROTOCOLVERSION is not supported: version 3.0 is spoken, and no later one",
            ),
            (
                "PGREQUIREAUTH",
                "!",
                "PGREQUIREAUTH: expected methods, joined by commas: password, md5, scram-sha-256, gss, sspi, oauth, none",
            ),
            (
                "PGPORT",
                "0",
                "PGPORT: expected a number from 1 to 65535 (in a URL, a password's : / ? # @ % are written %3A %2F %3F %23 %40 %25)",
            ),
        ] {
            assert_eq!(summary("", &[(variable, value)]), format!("environment variable {expected}"));
        }
    }

    #[test]
    fn a_password_is_bytes_and_a_name_is_text() {
        let latin =
            |wanted: &'static str| move |name: &str| (name == wanted).then(|| OsString::from_vec(b"caf\xe9".to_vec()));
        let conninfo = Conninfo::parse_with("user=u", &latin("PGPASSWORD")).unwrap();
        assert_eq!(conninfo.password, Some(Password::new(b"caf\xe9")));
        let error = Conninfo::parse_with("", &latin("PGUSER")).unwrap_err().to_string();
        assert_eq!(error, "environment variable PGUSER: is not UTF-8");
        assert_eq!(parsed("postgres://u:%E9@h", &[]).unwrap().password, Some(Password::new(b"\xe9")));
    }

    #[test]
    fn a_service_comes_after_the_string_and_before_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(
            path("named"),
            format!("[s]\nhost=sh\nport=1\nuser=su\npassword={SECRET}\n[bad]\nsslmode={SECRET}\n"),
        )
        .unwrap();
        let env = [("PGSERVICEFILE", path("named")), ("PGPORT", "2".to_owned()), ("PGDATABASE", "ed".to_owned())];
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let conninfo = parsed("service=s host=h", &env).unwrap();
        assert_eq!(conninfo.to_string(), "su@h:1/ed sslmode=prefer");
        assert_eq!(conninfo.password, Some(Password::new(SECRET)));
        assert_eq!(summary("", &[&env[..], &[("PGSERVICE", "s")]].concat()), "su@sh:1/ed sslmode=prefer");
        assert_eq!(summary(&format!("servicefile={} service=s", path("named")), &[]), "su@sh:1/su sslmode=prefer");
        for (text, env, expected) in [
            (
                "service=bad",
                &env[..],
                "service file DIR/named: sslmode: expected disable, allow, prefer, require, verify-ca or verify-full",
            ),
            (
                "service=s",
                &[("PGSERVICEFILE", "/nonexistent")],
                "connection string: service: cannot read the service file /nonexistent: no such file",
            ),
            (
                "service=s",
                &[("HOME", "/nonexistent"), ("PGSYSCONFDIR", "/nonexistent")],
                "connection string: service: no such service in /nonexistent/.pg_service.conf or /nonexistent/pg_service.conf",
            ),
        ] {
            assert_eq!(summary(text, env).replace(&dir.path().display().to_string(), "DIR"), expected);
        }
    }

    #[test]
    fn tls_is_never_less_than_what_any_word_for_it_asks() {
        for (text, expected) in [
            ("postgres://u@h/u?ssl=true", "require"),
            ("postgres://u@h/u?sslmode=disable&ssl=true", "require"),
            ("postgres://u@h/u?ssl=true&sslmode=disable", "disable"),
            ("postgres://u@h/u?sslmode=verify-full&ssl=true", "verify-full"),
            ("postgres://u@h/u?ssl=verify-full", "verify-full"),
            ("user=u host=h ssl=1", "require"),
            ("user=u host=h requiressl=1", "require"),
            ("user=u host=h ssl=false", "prefer"),
            ("user=u host=h sslmode=require ssl=prefer", "require"),
        ] {
            assert_eq!(summary(text, &[]), format!("u@h:5432/u sslmode={expected}"), "{text}");
        }
        assert_eq!(summary("user=u host=h", &[("PGREQUIRESSL", "1")]), "u@h:5432/u sslmode=require");
        assert_eq!(
            summary("user=u host=h", &[("PGREQUIRESSL", "1"), ("PGSSLMODE", "allow")]),
            "u@h:5432/u sslmode=allow"
        );
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
            ("host=h user=u gssencmode=require", "gssencmode is not supported: GSSAPI is not spoken here; use TLS"),
            (
                "host=h user=u min_protocol_version=3.2",
                "min_protocol_version is not supported: version 3.0 is spoken, and no later one",
            ),
            ("host=h user=u load_balance_hosts=", "load_balance_hosts: expected disable or random"),
            ("host=h user=u sslmode=", "sslmode: expected disable, allow, prefer, require, verify-ca or verify-full"),
            (
                "host=h user=u sslcertmode=require",
                "sslcertmode is not supported: a server is not made to ask for a certificate; sslcertmode=allow shows \
                 it to one that does",
            ),
            (
                "host=h user=u require_auth=scram",
                "require_auth: expected methods, joined by commas: password, md5, scram-sha-256, gss, sspi, oauth, none",
            ),
            ("postgres://u@h/d?ssl=maybe", "ssl: expected true or false; write sslmode= for anything else"),
            ("host=h user=u replication=database", "replication is not supported: pgvigil asks by SQL"),
            ("host=h user=u port='1\0'", "a NUL character has no place in it"),
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
            format!("host=h user=u sslkey='-----BEGIN PRIVATE KEY-----{SECRET}'"),
            format!("host=h user=u require_auth={SECRET}"),
            format!("postgres://u@h/d?sslinline=true&sslkey={SECRET}"),
            format!("user=u servicefile=/nonexistent service={SECRET}"),
            format!("user=u ssl={SECRET}"),
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
