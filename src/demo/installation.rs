//! Which PostgreSQL is installed here, and as whom its servers run.

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ServersError;

/// The server binaries of one PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Where `initdb` and `postgres` lie.
    pub bin: PathBuf,
    /// For example 15.
    pub major: u32,
    /// As `postgres --version` says it, for example `15.18`.
    pub version: String,
}

impl Installation {
    /// The installation whose binaries lie in `bin`, or `None` when there is none that runs.
    pub fn at(bin: &Path) -> Option<Self> {
        // Links are resolved: what they point to is what the user that the servers run as must be able to read, and its
        // libraries lie beside it.
        let bin = bin.join("postgres").canonicalize().ok()?.parent()?.to_owned();
        if !is_executable(&bin.join("initdb")) {
            return None;
        }
        let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", and for a pre-release "19beta1".
        let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?.to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { bin, major: digits.parse().ok()?, version })
    }

    /// The newest installation found on the `PATH` or where distributions put it.
    pub fn newest() -> Option<Self> {
        let mut bins: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        for (parent, below) in [
            ("/usr/lib/postgresql", "bin"),       // Debian, Ubuntu
            ("/usr", "bin"),                      // the PGDG's own packages for RHEL: /usr/pgsql-16
            ("/opt/homebrew/opt", "bin"),         // Homebrew: postgresql@16
            ("/usr/local/opt", "bin"),            // Homebrew on Intel
            ("/usr/local/pgsql", "../pgsql/bin"), // built from source
        ] {
            let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
            bins.extend(entries.map(|entry| entry.path().join(below)));
        }
        bins.iter().filter_map(|bin| Self::at(bin)).max_by_key(|found| found.major)
    }

    /// Whether the contributed module `pg_stat_statements` is installed beside the server.
    pub fn has_pg_stat_statements(&self) -> bool {
        let Some(root) = self.bin.parent() else { return false };
        ["lib", "lib/postgresql", "lib64/pgsql", "lib64"]
            .iter()
            .flat_map(|lib| ["so", "dylib"].map(|suffix| root.join(lib).join(format!("pg_stat_statements.{suffix}"))))
            .any(|file| file.exists())
    }

    /// A command of this installation, run as `user` with nothing of our environment that PostgreSQL would obey.
    pub(super) fn command(&self, program: &str, user: &Unprivileged) -> Command {
        let mut command = user.command(self.bin.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command
    }
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The user that the servers run as. PostgreSQL refuses to run as root, so for root it is another one.
#[derive(Clone, Debug)]
pub(super) struct Unprivileged {
    /// `None` when we are not root, and everything simply stays ours.
    ids: Option<(u32, u32)>,
}

impl Unprivileged {
    pub(super) fn find() -> Result<Self, ServersError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { ids: None });
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let ids = ["postgres", "nobody"].iter().find_map(|name| ids_of(&users, name));
        ids.map(|ids| Self { ids: Some(ids) }).ok_or(ServersError::NoUnprivilegedUser)
    }

    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        // A group of its own: Ctrl-C in the terminal is for us, and we stop the servers in our own order.
        command.process_group(0).stdin(std::process::Stdio::null());
        command
    }

    /// Hands a file or directory of ours to that user.
    pub(super) fn give(&self, path: &Path) -> std::io::Result<()> {
        self.ids.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
    }
}

/// The ids of a user in the text of `/etc/passwd`.
fn ids_of(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::ids_of;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:7::/:/bin/sh\npostgres:x:105:113:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(ids_of(users, "postgres"), Some((105, 113)));
        assert_eq!(ids_of(users, "nobody"), None);
    }
}
