//! libpq's service files: named groups of connection parameters, kept outside of connection strings.
//!
//! A file is read as bytes and only as far as the group that is asked for, so that nothing else in it costs anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::dsn::is_space;
use super::parameters::{Parameter, of_libpq};
use super::tls::why;

/// Where the packages of Debian and those of PostgreSQL for Red Hat keep the file for all users.
const FOR_ALL_USERS: [&str; 2] = ["/etc/postgresql-common/pg_service.conf", "/etc/sysconfig/pgsql/pg_service.conf"];

/// libpq takes no line of so many bytes, its newline included.
const TOO_LONG: usize = 1023;

/// Where a service may be defined, in the order in which the files are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// `servicefile` or `PGSERVICEFILE`: this one must exist.
    pub(super) named: Option<PathBuf>,
    pub(super) home: Option<PathBuf>,
    /// `PGSYSCONFDIR`.
    pub(super) sysconfdir: Option<PathBuf>,
}

type Pairs = Vec<(&'static Parameter, Vec<u8>)>;

/// A service's parameters, and the file that has them. Each parameter is there once.
pub(super) struct Service {
    pub(super) path: PathBuf,
    pub(super) pairs: Pairs,
}

/// Why a service's parameters cannot be had. Repeats nothing of the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceProblem {
    #[error("no such service in {}", one_of(.0))]
    NotFound(Vec<PathBuf>),
    #[error("cannot read the service file {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("service file {}, line {line}: {reason}", path.display())]
    Line { path: PathBuf, line: usize, reason: &'static str },
}

fn one_of(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

/// The parameters of the service `name`: from the file that was named, else the user's, and if that has no such service
/// from the one for all users.
///
/// # Errors
/// No file defines it, or the one that does cannot be used.
pub(super) fn service(name: &[u8], places: &Places) -> Result<Service, ServiceProblem> {
    let users = places.home.as_ref().map(|home| home.join(".pg_service.conf")).filter(|path| path.exists());
    let for_all: Vec<PathBuf> = match &places.sysconfdir {
        Some(directory) => vec![directory.join("pg_service.conf")],
        None => FOR_ALL_USERS.iter().map(PathBuf::from).collect(),
    };
    let there = for_all.iter().find(|path| path.exists());
    let mut missed = Vec::new();
    for path in places.named.iter().chain(users.iter().filter(|_| places.named.is_none())).chain(there) {
        let content = fs::read(path)
            .map_err(|error: io::Error| ServiceProblem::Unreadable { path: path.clone(), reason: why(&error) })?;
        match group(&content, name, path)? {
            Some(pairs) => return Ok(Service { path: path.clone(), pairs }),
            None => missed.push(path.clone()),
        }
    }
    if missed.is_empty() {
        missed.extend(places.home.as_ref().map(|home| home.join(".pg_service.conf")));
        missed.extend(for_all);
    }
    Err(ServiceProblem::NotFound(missed))
}

/// What stands below `[name]`. `None` when the file has no such group.
fn group(content: &[u8], name: &[u8], path: &Path) -> Result<Option<Pairs>, ServiceProblem> {
    let mut found: Option<Pairs> = None;
    for (i, whole) in content.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let fault = |reason| Err(ServiceProblem::Line { path: path.to_owned(), line: i + 1, reason });
        if whole.len() >= TOO_LONG {
            return fault("it is longer than 1022 bytes");
        }
        let line = trimmed(whole);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if let Some(header) = line.strip_prefix(b"[") {
            if found.is_some() {
                break;
            }
            let is_wanted = header.strip_prefix(name).is_some_and(|rest| rest.starts_with(b"]"));
            found = is_wanted.then(Vec::new);
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        if line.starts_with(b"ldap") {
            return fault("a service is not looked up in LDAP; write its parameters here");
        }
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
            return fault("write name=value, without spaces around the =");
        };
        let (key, value) = (&line[..equals], &line[equals + 1..]);
        let Some(parameter) = std::str::from_utf8(key).ok().and_then(of_libpq) else {
            return fault("what stands before the = is no parameter of libpq");
        };
        if matches!(parameter.name, "service" | "servicefile") {
            return fault("a service cannot refer to another one");
        }
        if pairs.iter().all(|(known, _)| known.name != parameter.name) {
            pairs.push((parameter, value.to_vec()));
        }
    }
    Ok(found)
}

fn trimmed(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| !is_space(*byte)).unwrap_or(line.len());
    let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(start, |last| last + 1);
    &line[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(content: &[u8], name: &str) -> Result<Option<Vec<(String, String)>>, String> {
        let found = group(content, name.as_bytes(), Path::new("f"));
        let shown = |(parameter, value): (&Parameter, Vec<u8>)| {
            (parameter.name.to_owned(), String::from_utf8_lossy(&value).into_owned())
        };
        found
            .map(|pairs| pairs.map(|pairs| pairs.into_iter().map(shown).collect()))
            .map_err(|problem| problem.to_string())
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_group_is_read_as_in_libpq() {
        for (content, expected) in [
            (&b"[s]\nhost=h\nport=1\n"[..], Some(&[("host", "h"), ("port", "1")][..])),
            (b"# caf\xe9\n[zo\xeb]\nno=1\n[s]\r\n  host=h \t\r\n\n#port=1\n", Some(&[("host", "h")])),
            (b"[s] # a note\nhost=h", Some(&[("host", "h")])),
            (b"nonsense\n[s]\nhost= h ' x\n", Some(&[("host", " h ' x")])),
            (b"[s]\nhost=a\nhost=b\n[s]\nport=1\n[t]\nnonsense\n", Some(&[("host", "a")])),
            (b"[s]\noptions=-c a=b\n", Some(&[("options", "-c a=b")])),
            (b"[s]\nhost=\n", Some(&[("host", "")])),
            (b"[ s]\nhost=h\n[st]\nhost=h\n", None),
            (b"", None),
        ] {
            assert_eq!(values(content, "s"), Ok(expected.map(owned)), "{}", content.escape_ascii());
        }
    }

    #[test]
    fn what_cannot_be_obeyed_is_named_by_its_line_and_not_repeated() {
        let long = format!("[s]\npassword={}\n", "x".repeat(1022));
        for (content, expected) in [
            ("[s]\nhost\n", "line 2: write name=value, without spaces around the ="),
            ("[s]\nhost = h\n", "line 2: what stands before the = is no parameter of libpq"),
            ("\n[s]\nschema=h\n", "line 3: what stands before the = is no parameter of libpq"),
            ("[s]\nservice=t\n", "line 2: a service cannot refer to another one"),
            ("[s]\nldap://h/dn?d?one?f\n", "line 2: a service is not looked up in LDAP; write its parameters here"),
            (&long, "line 2: it is longer than 1022 bytes"),
        ] {
            assert_eq!(values(content.as_bytes(), "s"), Err(format!("service file f, {expected}")), "{content}");
        }
    }

    #[test]
    fn the_users_file_comes_before_the_one_for_all_users_and_a_named_one_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("named"), "[s]\nport=1\n").unwrap();
        fs::write(path(".pg_service.conf"), "[s]\nport=2\n[user]\nport=3\n").unwrap();
        fs::write(path("pg_service.conf"), "[s]\nport=4\n[all]\nport=5\n").unwrap();
        let home = Some(dir.path().to_owned());
        let usual = Places { named: None, home: home.clone(), sysconfdir: home.clone() };
        let named = |name: &str| Places { named: Some(path(name)), ..usual.clone() };
        let port = |name: &str, places: &Places| {
            service(name.as_bytes(), places)
                .map(|found| String::from_utf8_lossy(&found.pairs[0].1).into_owned())
                .map_err(|problem| problem.to_string().replace(&dir.path().display().to_string(), "DIR"))
        };
        for (name, places, expected) in [
            ("s", &usual, Ok("2")),
            ("user", &usual, Ok("3")),
            ("all", &usual, Ok("5")),
            ("none", &usual, Err("no such service in DIR/.pg_service.conf or DIR/pg_service.conf")),
            ("s", &named("named"), Ok("1")),
            ("user", &named("named"), Err("no such service in DIR/named or DIR/pg_service.conf")),
            ("all", &named("named"), Ok("5")),
            ("s", &named("absent"), Err("cannot read the service file DIR/absent: no such file")),
        ] {
            assert_eq!(port(name, places), expected.map(str::to_owned).map_err(str::to_owned), "{name} {places:?}");
        }
    }
}
