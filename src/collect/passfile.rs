//! Passwords kept in libpq's password file (`~/.pgpass`): `host:port:dbname:user:password`, one a line.
//!
//! It is read anew at each connection, so that a rotated password is found without a restart, and as bytes, as libpq
//! reads it: a line in another encoding costs no other line anything.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tls::why;

/// A password: any bytes, as the server takes them. Never shown: its `Debug` is a row of dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    pub fn new(password: impl Into<Vec<u8>>) -> Self {
        Self(password.into())
    }

    pub(super) fn expose(&self) -> &[u8] {
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
    pub(super) host: &'a [u8],
    pub(super) port: u16,
    pub(super) dbname: &'a [u8],
    pub(super) user: &'a [u8],
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

/// The password of the first line that matches. `None` when no line does, when that line's password is empty, or when
/// there is no file.
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
    let content = fs::read(path).map_err(|error| unreadable(&error))?;
    let found = content.split(|byte| *byte == b'\n').find_map(|line| password_in(line, wanted));
    Ok(found.filter(|password| !password.expose().is_empty()))
}

/// The password of one line, if its four fields match. Empty lines and those that begin with `#` match nothing. What
/// stands behind a colon after the password is a note.
fn password_in(line: &[u8], wanted: Wanted<'_>) -> Option<Password> {
    if line.starts_with(b"#") {
        return None;
    }
    let n_trailing = line.iter().rev().take_while(|byte| **byte == b'\r').count();
    let port = wanted.port.to_string();
    let mut rest = &line[..line.len() - n_trailing];
    for value in [wanted.host, port.as_bytes(), wanted.dbname, wanted.user] {
        rest = after_field(rest, value)?;
    }
    let mut password = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next().filter(|byte| **byte != b':') {
        // A backslash at the very end stands for itself.
        password.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    Some(Password(password))
}

/// What follows a field of this value, or a `*`, and its colon. As in libpq a colon within the value may stand there
/// without a backslash.
fn after_field<'a>(text: &'a [u8], value: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = text.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut rest = text;
    for byte in value {
        rest = rest.strip_prefix(b"\\").unwrap_or(rest);
        rest = rest.strip_prefix(&[*byte])?;
    }
    rest.strip_prefix(b":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted { host: b"db.example", port: 5432, dbname: b"app", user: b"mon" };

    #[test]
    fn a_line_matches_as_in_libpq() {
        for (line, expected) in [
            ("db.example:5432:app:mon:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("*:*:app:mon:secret:a note", Some("secret")),
            (r"*:*:app:mon:se\:cret\\:a note", Some(r"se:cret\")),
            ("*:*:app:mon::a note", Some("")),
            (r"*:*:app:mon:secret\", Some(r"secret\")),
            ("*:*:app:mon:secret \r\r", Some("secret ")),
            (" *:*:app:mon:secret", None),
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
            assert_eq!(password_in(line.as_bytes(), WANTED), expected.map(Password::new), "{line}");
        }
        let escaped = Wanted { host: b"::1", user: br"a\b", ..WANTED };
        assert_eq!(password_in(br"\:\:1:*:*:a\\b:x", escaped), Some(Password::new("x")));
        assert_eq!(password_in(br"::1:*:*:a\\b:x", escaped), Some(Password::new("x")));
        assert_eq!(password_in(br"\*:*:*:*:x", WANTED), None, "an escaped star is a star");
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

    #[test]
    fn a_line_is_bytes_and_costs_no_other_line_anything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        let long = "x".repeat(100_000);
        for (content, expected) in [
            (b"# caf\xe9\n*:*:*:mon:secret\n".to_vec(), Some(b"secret".to_vec())),
            (b"*:*:*:zo\xeb:other\n\n\r\n*:*:*:mon:s\xe9cret".to_vec(), Some(b"s\xe9cret".to_vec())),
            (format!("#{long}\n{long}\n*:*:*:mon:{long}").into_bytes(), Some(long.into_bytes())),
            // The first line that matches is the one: an empty password is none.
            (b"*:*:*:*:\n*:*:*:mon:secret\n".to_vec(), None),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(password_from(&path, WANTED), Ok(expected.map(Password::new)));
        }
    }
}
