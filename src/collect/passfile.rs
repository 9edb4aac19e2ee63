//! Passwords kept in libpq's password file (`~/.pgpass`): `host:port:dbname:user:password`, one a line.
//!
//! It is read anew at each connection, so that a rotated password is found without a restart.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tls::why;

/// A password. Never shown: its `Debug` is a row of dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(...)")
    }
}

/// What a line of the file must match. `host` is `localhost` for a connection over the default socket directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// Why a password file that exists is not used. libpq goes on without it, and so do we; it is told only when a
/// password turns out to be needed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PassfileProblem {
    #[error("the password file {} is not a plain file and was ignored", .0.display())]
    NotAFile(PathBuf),
    #[error("the password file {} was ignored because others may read it: chmod 600 it", .0.display())]
    Exposed(PathBuf),
    #[error("cannot read the password file {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
}

/// The password of the first line that matches. `None` when no line does, or there is no file.
///
/// # Errors
/// The file exists but may not be used.
pub(super) fn password_from(path: &Path, wanted: Wanted<'_>) -> Result<Option<Password>, PassfileProblem> {
    let unreadable = |error: &io::Error| PassfileProblem::Unreadable { path: path.to_owned(), reason: why(error) };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(&error)),
    };
    if !metadata.is_file() {
        return Err(PassfileProblem::NotAFile(path.to_owned()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(PassfileProblem::Exposed(path.to_owned()));
    }
    let content = fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    Ok(content.lines().find_map(|line| password_in(line, wanted)))
}

/// The password of one line, if its four fields match. Empty lines and those that begin with `#` match nothing.
fn password_in(line: &str, wanted: Wanted<'_>) -> Option<Password> {
    if line.starts_with('#') {
        return None;
    }
    let port = wanted.port.to_string();
    let mut rest = line;
    for value in [wanted.host, &port, wanted.dbname, wanted.user] {
        let (field, after) = split_field(rest)?;
        if field != "*" && unescaped(field) != value {
            return None;
        }
        rest = after;
    }
    Some(Password(unescaped(rest)))
}

/// The text up to the next colon that no backslash escapes, still escaped, and what follows it.
fn split_field(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    let colon = text.bytes().position(|byte| {
        let is_end = byte == b':' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })?;
    Some((&text[..colon], &text[colon + 1..]))
}

fn unescaped(field: &str) -> String {
    let mut chars = field.chars();
    let mut text = String::with_capacity(field.len());
    while let Some(c) = chars.next() {
        // A backslash at the very end stands for itself.
        text.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted { host: "db.example", port: 5432, dbname: "app", user: "mon" };

    #[test]
    fn a_line_matches_as_in_libpq() {
        for (line, expected) in [
            ("db.example:5432:app:mon:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("db.example:*:app:mon:with:colons", Some("with:colons")),
            (r"db.example:*:app:mon:a\:b\\c", Some(r"a:b\c")),
            ("db.example:5432:app:mon:", Some("")),
            ("db.example:5433:app:mon:secret", None),
            ("other:5432:app:mon:secret", None),
            ("db.example:5432:other:mon:secret", None),
            ("db.example:5432:app:other:secret", None),
            ("db.exampl*:5432:app:mon:secret", None),
            ("# db.example:5432:app:mon:secret", None),
            ("#*:*:*:*:secret", None),
            ("", None),
            ("db.example:5432:app:mon", None),
        ] {
            assert_eq!(password_in(line, WANTED), expected.map(Password::new), "{line}");
        }
        let escaped = Wanted { host: "::1", user: r"a\b", ..WANTED };
        assert_eq!(password_in(r"\:\:1:*:*:a\\b:x", escaped), Some(Password::new("x")));
        assert_eq!(password_in(r"\*:*:*:*:x", WANTED), None, "an escaped star is a star");
    }

    #[test]
    fn the_first_matching_line_wins_and_the_file_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        assert_eq!(password_from(&path, WANTED), Ok(None), "no file");
        fs::write(&path, "# comment\r\nother:*:*:*:no\r\n*:*:app:mon:first\r\n*:*:*:*:second\r\n").unwrap();
        for (mode, expected) in [
            (0o600, Ok(Some(Password::new("first")))),
            (0o400, Ok(Some(Password::new("first")))),
            (0o640, Err(PassfileProblem::Exposed(path.clone()))),
            (0o604, Err(PassfileProblem::Exposed(path.clone()))),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(password_from(&path, WANTED), expected, "{mode:o}");
        }
        assert_eq!(password_from(dir.path(), WANTED), Err(PassfileProblem::NotAFile(dir.path().to_owned())));
    }
}
