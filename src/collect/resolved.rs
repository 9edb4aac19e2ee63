//! Which value each of libpq's parameters has: the connection string's, else the service's, else the environment's.
//!
//! A value is bytes, as the environment and files have them; only a password may be other than UTF-8.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::conninfo::{BadValue, ConninfoError};
use super::dsn::Parameters;
use super::parameters::{self, LIBPQ, Treatment, of_libpq};
use super::service_file::{Places, service};
use super::tls::SslMode;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    ConnectionString,
    ServiceFile(PathBuf),
    Variable(&'static str),
}

impl Origin {
    /// How an error about the parameter begins.
    pub(super) fn of(&self, name: &str) -> String {
        match self {
            Self::ConnectionString => format!("connection string: {name}"),
            Self::ServiceFile(path) => format!("service file {}: {name}", path.display()),
            Self::Variable(variable) => format!("environment variable {variable}"),
        }
    }
}

/// libpq's parameters as they were written somewhere; what is nowhere is not here. `Debug` shows no value.
pub struct Resolved {
    values: BTreeMap<&'static str, (Vec<u8>, Origin)>,
    ignored: Vec<String>,
    home: Option<PathBuf>,
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved")
            .field("names", &self.values.keys())
            .field("ignored", &self.ignored)
            .finish_non_exhaustive()
    }
}

impl Resolved {
    /// Reads a connection string of either form, the service that it or the environment names, and the environment.
    ///
    /// # Errors
    /// One of them cannot be read, or asks for what cannot be done.
    pub fn read(text: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConninfoError> {
        let (given, ignored) = sorted_out(Parameters::parse(text)?)?;
        let mut values: BTreeMap<_, _> =
            given.into_iter().map(|(name, value)| (name, (value, Origin::ConnectionString))).collect();
        let of_env = |variable: &str| env(variable).map(OsString::into_vec);
        let path = |value: Vec<u8>| PathBuf::from(OsString::from_vec(value));
        let home = of_env("HOME").filter(|home| !home.is_empty()).map(path).or_else(|| passwd_entry()?.home);

        let written = |name: &str, variable| {
            let value = values.get(name).map(|(value, _): &(Vec<u8>, Origin)| value.clone());
            value.or_else(|| of_env(variable))
        };
        if let Some(name) = written("service", "PGSERVICE") {
            let places = Places {
                named: written("servicefile", "PGSERVICEFILE").map(path),
                home: home.clone(),
                sysconfdir: of_env("PGSYSCONFDIR").map(path),
            };
            let found = service(&name, &places).map_err(ConninfoError::Service)?;
            for (parameter, value) in found.pairs {
                let origin = Origin::ServiceFile(found.path.clone());
                match parameter.treatment {
                    Treatment::Used => {
                        values.entry(parameter.name).or_insert((value, origin));
                    }
                    Treatment::Ignored => {}
                    Treatment::Refused(hint) => {
                        return Err(ConninfoError::Refused { place: origin.of(parameter.name), hint });
                    }
                }
            }
        }
        for parameter in LIBPQ {
            if let Some(variable) = parameter.variable
                && !values.contains_key(parameter.name)
                && let Some(value) = of_env(variable)
            {
                values.insert(parameter.name, (value, Origin::Variable(variable)));
            }
        }
        if !values.contains_key("sslmode") && of_env("PGREQUIRESSL").is_some_and(|value| value.starts_with(b"1")) {
            values.insert("sslmode", (b"require".to_vec(), Origin::Variable("PGREQUIRESSL")));
        }
        Ok(Self { values, ignored, home })
    }

    /// The value as it was written, which may be empty.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(|(value, _)| value.as_slice())
    }

    /// The same as text.
    pub(super) fn written(&self, name: &'static str) -> Result<Option<&str>, ConninfoError> {
        let text = self.bytes(name).map(std::str::from_utf8).transpose();
        text.map_err(|_| self.fault(name, BadValue("is not UTF-8")))
    }

    /// The same where an empty value is as good as none.
    pub(super) fn get(&self, name: &'static str) -> Result<Option<&str>, ConninfoError> {
        Ok(self.written(name)?.filter(|text| !text.is_empty()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some_and(|value| !value.is_empty())
    }

    /// A file or a directory. An empty name is as good as none.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.bytes(name).filter(|value| !value.is_empty())?;
        Some(PathBuf::from(OsString::from_vec(value.to_vec())))
    }

    /// The same, or its usual place below the home directory.
    pub(super) fn path_or(&self, name: &str, usual: &str) -> Option<PathBuf> {
        self.path(name).or_else(|| self.home.as_ref().map(|home| home.join(usual)))
    }

    pub(super) fn fault(&self, name: &'static str, BadValue(expected): BadValue) -> ConninfoError {
        ConninfoError::Value { place: self.origin(name).of(name), expected }
    }

    pub(super) fn refused(&self, name: &'static str, hint: &'static str) -> ConninfoError {
        ConninfoError::Refused { place: self.origin(name).of(name), hint }
    }

    fn origin(&self, name: &str) -> &Origin {
        self.values.get(name).map_or(&Origin::ConnectionString, |(_, origin)| origin)
    }

    /// Parameters of the connection string that are not used, in the order written.
    pub(super) fn into_ignored(self) -> Vec<String> {
        self.ignored
    }
}

type Given = BTreeMap<&'static str, Vec<u8>>;

/// The parameters that are used, by name, and the names of those that are not.
fn sorted_out(parameters: Parameters) -> Result<(Given, Vec<String>), ConninfoError> {
    let Parameters { pairs, is_url, is_suspect } = parameters;
    let has = |wanted: &str| pairs.iter().any(|(key, _)| key == wanted);
    let is_prismas = is_url && pairs.iter().any(|(key, _)| parameters::is_prismas(key)) && !has("sslkey");
    let mut given = Given::new();
    let mut ignored = Vec::new();
    for (key, value) in pairs {
        let place = |name: &str| Origin::ConnectionString.of(name);
        if let Some(parameter) = of_libpq(&key) {
            match parameter.treatment {
                Treatment::Used if key == "sslcert" && is_prismas => ignored.push(key),
                Treatment::Used => {
                    given.insert(parameter.name, value);
                }
                Treatment::Ignored => ignored.push(key),
                Treatment::Refused(hint) => return Err(ConninfoError::Refused { place: place(&key), hint }),
            }
            continue;
        }
        match (key.as_str(), value.as_slice()) {
            ("requiressl", value) => {
                let mode = if value.starts_with(b"1") { SslMode::Require } else { SslMode::Prefer };
                given.insert("sslmode", mode.as_str().into());
            }
            ("ssl", value) => match mode_of_ssl(value) {
                Some(mode) => {
                    let known = given.get("sslmode").and_then(|known| SslMode::parse(std::str::from_utf8(known).ok()?));
                    if known.is_none_or(|known| known < mode) {
                        given.insert("sslmode", mode.as_str().into());
                    }
                }
                None if matches!(value, b"" | b"0" | b"false" | b"disable" | b"allow" | b"prefer") => ignored.push(key),
                None => {
                    let expected = "expected true or false; write sslmode= for anything else";
                    return Err(ConninfoError::Value { place: place("ssl"), expected });
                }
            },
            ("sslinline", b"" | b"0" | b"false") => ignored.push(key),
            ("sslinline", _) => {
                let hint = "put certificate and key into files, and name those";
                return Err(ConninfoError::Refused { place: place("sslinline"), hint });
            }
            _ if parameters::is_of_another_tool(&key) => ignored.push(key),
            _ if is_suspect || !is_word(&key) => {
                return Err(ConninfoError::Syntax(
                    "an unknown parameter follows the password: in a URL write @ as %40, / as %2F and & as %26; \
                     elsewhere put a password with spaces in single quotes",
                ));
            }
            _ => return Err(ConninfoError::UnknownKey { nearest: parameters::nearest(&key), key }),
        }
    }
    Ok((given, ignored))
}

/// `ssl` as JDBC (and libpq in a URL), node-postgres, postgres.js and asyncpg have it, when it asks for TLS. It never
/// weakens `sslmode`.
fn mode_of_ssl(value: &[u8]) -> Option<SslMode> {
    match value {
        b"true" | b"1" => Some(SslMode::Require),
        value => SslMode::parse(std::str::from_utf8(value).ok()?).filter(|mode| *mode >= SslMode::Require),
    }
}

fn is_word(key: &str) -> bool {
    (1..=40).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// What the password database says of this process' user.
pub(super) struct PasswdEntry {
    pub(super) name: String,
    pub(super) home: Option<PathBuf>,
}

/// `None` when it says nothing, as of a container's number without a name.
pub(super) fn passwd_entry() -> Option<PasswdEntry> {
    passwd_entry_of(geteuid().as_raw())
}

pub(super) fn passwd_entry_of(uid: u32) -> Option<PasswdEntry> {
    let passwd = std::fs::read("/etc/passwd").ok()?;
    let uid = uid.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [name, _, id, _, _, home, ..] = fields.as_slice() else { return None };
        let home = Some(*home).filter(|home| !home.is_empty());
        (*id == uid.as_bytes()).then(|| PasswdEntry {
            name: String::from_utf8_lossy(name).into_owned(),
            home: home.map(|home| Path::new(std::ffi::OsStr::from_bytes(home)).to_owned()),
        })
    })
}
