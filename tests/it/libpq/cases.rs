//! Connection strings, environments, service files and password files by chance: most of them good, or nearly.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::support::random::Random;

/// What is read: a connection string, in an environment.
#[derive(Debug, Default)]
pub(super) struct Case {
    pub(super) text: String,
    pub(super) variables: BTreeMap<String, Vec<u8>>,
    /// A service file that was written for it.
    file: Option<Vec<u8>>,
}

impl Case {
    pub(super) fn of_text(text: String, home: &Path) -> Self {
        let variables = BTreeMap::from([("HOME".to_owned(), home.as_os_str().as_bytes().to_vec())]);
        Self { text, variables, file: None }
    }

    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).map(|value| OsString::from_vec(value.clone()))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)?;
        for (name, value) in &self.variables {
            write!(f, " {name}={}", value.escape_ascii())?;
        }
        match &self.file {
            Some(file) => write!(f, "\n    file: {}", file.escape_ascii()),
            None => Ok(()),
        }
    }
}

/// Parameters of libpq that make no difference to us.
pub(super) const IGNORED: &[&str] = &[
    "application_name",
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "sslcompression",
    "sslkeylogfile",
    "sslpassword",
];

const HOSTS: &[&str] = &[
    "h",
    "db.example",
    "h1,h2",
    "a,,b",
    ",",
    "/sockets",
    "/sockets,h",
    "::1",
    "127.0.0.1",
    "localhost",
    "@abstract",
    "h h",
    "bücher.example",
];
const ADDRESSES: &[&str] = &[
    "127.0.0.1",
    "10.0.0.1,::1",
    ",127.0.0.1",
    "10.0.0.1,10.0.0.2,10.0.0.3",
    "h",
    "fe80::1%lo",
    "127.1",
    "::ffff:1.2.3.4",
    "1.2.3.4:5",
];
const PORTS: &[&str] = &[
    "5432",
    "1",
    "1,2",
    "1,",
    ",",
    "1,2,3",
    "0",
    "65535",
    "65536",
    "-1",
    "+7",
    " 5432 ",
    "05432",
    "x",
    "5432x",
    "99999999999",
    "5 4",
    "0x10",
];
const NUMBERS: &[&str] =
    &["0", "1", "-1", "10", " 7 ", "+3", "x", "1.5", "99999999999", "2147483647", "2147483648", "007", "1s"];
const AUTHS: &[&str] = &[
    "scram-sha-256",
    "password,md5",
    "none",
    "!password",
    "!password,!md5",
    "!none",
    "password,!md5",
    "!md5,password",
    "md5,md5",
    "gss,sspi",
    "oauth",
    "SCRAM-SHA-256",
    "scram-sha-256,",
    "!",
    "creds",
];
const TLS_VERSIONS: &[&str] = &["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", "tlsv1.2", "TLSv1.4", "1.2", "SSLv3"];
const WORDS: &[&str] = &[
    "u",
    "app",
    "a b",
    "it's",
    r"back\slash",
    "ü",
    "%",
    "100%",
    "%41",
    "a=b",
    "a&b",
    "x:y",
    "x@y",
    "x/y",
    "x?y",
    "x#y",
    "true",
    "false",
    "-c a=b",
    "https://x",
    "postgres://x",
    "'q'",
    " ",
    "[x]",
    "\u{b}",
    "1",
];

/// The parameters that cases are made of, and what their values may be.
const NAMES: &[(&str, &[&str])] = &[
    ("host", HOSTS),
    ("hostaddr", ADDRESSES),
    ("port", PORTS),
    ("user", WORDS),
    ("password", WORDS),
    ("dbname", WORDS),
    ("passfile", &["/nonexistent", "pass file", "~/x"]),
    (
        "sslmode",
        &[
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
            "REQUIRE",
            "on",
            "no-verify",
            "require ",
        ],
    ),
    ("sslnegotiation", &["postgres", "direct", "Direct"]),
    ("sslrootcert", &["system", "/ca.pem", "System", "rds"]),
    ("sslcrl", &["/crl.pem"]),
    ("sslcrldir", &["/crls"]),
    ("sslcert", &["/c.pem", "-----BEGIN CERTIFICATE-----"]),
    ("sslkey", &["/k.pem"]),
    ("sslcertmode", &["disable", "allow", "require", "x"]),
    ("sslpassword", WORDS),
    ("sslsni", &["0", "1", "2", "x", "true"]),
    ("sslcompression", &["0", "1"]),
    ("ssl_min_protocol_version", TLS_VERSIONS),
    ("ssl_max_protocol_version", TLS_VERSIONS),
    ("min_protocol_version", &["3.0", "3.2", "latest", "3.1", "4"]),
    ("max_protocol_version", &["3.0", "3.2", "latest", "3.1", "4"]),
    ("channel_binding", &["disable", "prefer", "require", "Prefer"]),
    ("require_auth", AUTHS),
    ("requirepeer", &["postgres", "root"]),
    ("gssencmode", &["disable", "prefer", "require", "x"]),
    ("krbsrvname", WORDS),
    ("gssdelegation", &["0", "1"]),
    ("options", WORDS),
    ("application_name", WORDS),
    ("fallback_application_name", WORDS),
    ("client_encoding", &["auto", "UTF8", "x"]),
    ("connect_timeout", NUMBERS),
    ("keepalives", NUMBERS),
    ("keepalives_idle", NUMBERS),
    ("keepalives_interval", NUMBERS),
    ("keepalives_count", NUMBERS),
    ("tcp_user_timeout", NUMBERS),
    ("target_session_attrs", &["any", "read-write", "read-only", "primary", "standby", "prefer-standby", "master"]),
    ("load_balance_hosts", &["disable", "random", "x"]),
    ("replication", &["false", "true", "database", "x"]),
    ("scram_client_key", &["x", "AAAA"]),
    ("oauth_issuer", &["https://x"]),
    ("sslkeylogfile", &["/nonexistent/log"]),
    ("requiressl", &["0", "1", "x"]),
    ("service", &["s", "absent"]),
    // Of other tools, and of nobody.
    ("ssl", &["true", "false", "1", "require", "no-verify", "x"]),
    ("schema", &["public"]),
    ("connection_limit", &["5"]),
    ("sslaccept", &["strict"]),
    ("currentSchema", &["public"]),
    ("pgbouncer", &["true"]),
    ("sslinline", &["true", "false"]),
    ("Host", &["h"]),
    ("slmode", &["require"]),
    ("", &["x"]),
    ("tty", &["x"]),
];

fn one_of<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.below(choices.len() as u64) as usize]
}

/// A parameter and its value. Good ones come more often than their number.
fn pair(random: &mut Random) -> (&'static str, &'static str) {
    let (name, values) = if random.one_in(2) { NAMES[random.below(6) as usize] } else { one_of(random, NAMES) };
    let value = match random.below(12) {
        0 => "",
        1 => one_of(random, WORDS),
        2..6 => values[0],
        _ => one_of(random, values),
    };
    (name, value)
}

fn pairs(random: &mut Random) -> Vec<(&'static str, &'static str)> {
    (0..random.below(6)).map(|_| pair(random)).collect()
}

/// One time in three, some damage.
fn damaged(random: &mut Random, text: String) -> String {
    const PIECES: &[&str] = &[
        "'", "\\", "=", " ", "%", "&", "?", "@", "/", ":", "[", "]", ",", "\t", "\n", "\u{b}", "é", "\u{a0}", "%zz",
        "%00", "%2", "#", "\u{1}",
    ];
    if !random.one_in(3) {
        return text;
    }
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(2) {
        let at = random.below(chars.len() as u64 + 1) as usize;
        match random.below(4) {
            0 if at < chars.len() => {
                chars.remove(at);
            }
            1 if at < chars.len() => chars[at] = one_of(random, PIECES).chars().next().unwrap_or(' '),
            2 => chars.truncate(at.max(12)),
            _ => {
                let piece: Vec<char> = one_of(random, PIECES).chars().collect();
                chars.splice(at..at, piece);
            }
        }
    }
    chars.into_iter().collect()
}

/// `host=h port='5432' ...`
pub(super) fn keywords(random: &mut Random) -> String {
    let mut text = String::new();
    for (name, value) in pairs(random) {
        let equals = one_of(random, &["=", "=", "=", " =", "= ", " = "]);
        let value = match random.below(5) {
            0 => value.to_owned(),
            1 => {
                let escape =
                    |c: char| if c.is_whitespace() || "'\\".contains(c) { format!("\\{c}") } else { c.to_string() };
                value.chars().map(escape).collect()
            }
            _ => format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'")),
        };
        let gap = one_of(random, &[" ", " ", "  ", "\t", "\n", "\r\n"]);
        text += &format!("{name}{equals}{value}{gap}");
    }
    damaged(random, text)
}

fn escaped(random: &mut Random, text: &str) -> String {
    if random.one_in(8) {
        return text.to_owned();
    }
    let escape =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// `postgres://user:password@h1:1,h2/dbname?name=value`
pub(super) fn url(random: &mut Random) -> String {
    let mut text = one_of(random, &["postgres://", "postgresql://"]).to_owned();
    if random.one_in(2) {
        let user = one_of(random, WORDS);
        text += &escaped(random, user);
        if random.one_in(2) {
            let password = one_of(random, WORDS);
            text += ":";
            text += &escaped(random, password);
        }
        text += "@";
    }
    let hosts: Vec<String> = (0..random.below(3))
        .map(|_| {
            let host = one_of(
                random,
                &["h", "db.example", "[::1]", "[fe80::1%25lo]", "127.0.0.1", "%2Fsockets", "", "[]", "[::1", "[::1]x"],
            );
            let port = one_of(random, &["", "", ":5432", ":1", ":", ":x", ":65536", ":%35"]);
            format!("{host}{port}")
        })
        .collect();
    text += &hosts.join(",");
    if random.one_in(2) {
        let dbname = one_of(random, WORDS);
        text += "/";
        text += &escaped(random, dbname);
    }
    let mut separator = "?";
    for (name, value) in pairs(random) {
        text += &format!("{separator}{name}={}", escaped(random, value));
        separator = "&";
    }
    damaged(random, text)
}

/// Variables of libpq, and a string of few parameters.
pub(super) fn environment(random: &mut Random, home: &Path) -> Case {
    let text = if random.one_in(2) { String::new() } else { keywords(random) };
    let mut case = Case::of_text(text, home);
    for _ in 0..random.below(6) {
        let (name, value) = pair(random);
        let name = match name {
            "dbname" => "PGDATABASE".to_owned(),
            "connect_timeout" => "PGCONNECT_TIMEOUT".to_owned(),
            "application_name" => "PGAPPNAME".to_owned(),
            "requiressl" => "PGREQUIRESSL".to_owned(),
            name => format!("PG{}", name.replace('_', "").to_ascii_uppercase()),
        };
        let mut value = damaged(random, value.to_owned()).into_bytes();
        if random.one_in(30) {
            value.push(0xe9);
        }
        case.variables.insert(name, value);
    }
    case
}

/// A service file, and a string or a variable that names a service.
pub(super) fn service(random: &mut Random, home: &Path) -> Case {
    let file = service_file(random);
    let mut case = Case::of_text(if random.one_in(2) { String::new() } else { keywords(random) }, home);
    let service = one_of(random, &["s", "s", "s", "t", "s ", "absent", "[s]", ""]);
    if random.one_in(2) {
        case.text = format!("service='{service}' {}", case.text);
    } else {
        case.variables.insert("PGSERVICE".to_owned(), service.into());
    }
    // In one of the three places, or in the first with another in the last.
    let place = random.below(4);
    let other: &[u8] = b"[s]\nport=7\n[t]\nport=8\n[absent]\nport=9\n";
    for (path, content) in [
        (home.join(".pg_service.conf"), (place == 0 || place == 3).then_some(&file[..])),
        (home.join("named.conf"), (place == 1).then_some(&file[..])),
        (home.join("pg_service.conf"), if place == 2 { Some(&file[..]) } else { (place == 3).then_some(other) }),
    ] {
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => drop(fs::remove_file(path)),
        }
    }
    if place == 1 {
        case.variables.insert("PGSERVICEFILE".to_owned(), home.join("named.conf").as_os_str().as_bytes().to_vec());
    }
    case.variables.insert("PGSYSCONFDIR".to_owned(), home.as_os_str().as_bytes().to_vec());
    if random.one_in(3) {
        case.variables.insert("PGPORT".to_owned(), b"6".to_vec());
    }
    case.file = Some(file);
    case
}

fn service_file(random: &mut Random) -> Vec<u8> {
    let mut file = Vec::new();
    for _ in 0..random.below(12) {
        let end = one_of(random, &["\n", "\n", "\n", "\r\n", " \t\n"]);
        let line = match random.below(16) {
            0..3 => "[s]".to_owned(),
            3 => "[t]".to_owned(),
            4 => one_of(random, &["[s] # note", "[ s]", "[s", " [s]", "[]", "[s ]"]).to_owned(),
            5 => one_of(random, &["", "  ", "# note", " # note", "#port=1"]).to_owned(),
            6 => one_of(
                random,
                &["nonsense", "host = h", "=x", "service=t", "ldap://h/d?u?one?f", "schema=x", "Host=h", "'host'=h"],
            )
            .to_owned(),
            7 if random.one_in(4) => format!("dbname={}", "x".repeat(1000 + random.below(30) as usize)),
            _ => {
                let (name, value) = pair(random);
                format!("{name}={value}")
            }
        };
        file.extend_from_slice(line.as_bytes());
        if random.one_in(30) {
            file.push(0xe9);
        }
        file.extend_from_slice(end.as_bytes());
    }
    if random.one_in(3) {
        file.pop();
    }
    file
}

/// A password file, and a string by which one of its lines may be meant.
pub(super) fn password_file(random: &mut Random, port: u16, file: &Path) -> (Vec<u8>, Case) {
    const HOSTS: &[&str] = &["h", "db.example", "::1", r"a\b", "a:b", "*", "localhost", "/sockets", "x*"];
    const USERS: &[&str] = &["u", "a:b", r"a\b", "*", "#u", "zoë", r"\"];
    const PASSWORDS: &[&[u8]] = &[
        b"secret",
        b"se:cret",
        br"se\cret",
        br"\:",
        br"\\",
        br"a\",
        b"",
        b" ",
        b"caf\xe9",
        b"secret:a note",
        b"x\r",
        b"#",
        br"\\:note",
        br"a\:b:c",
    ];
    let (host, user, dbname) = (one_of(random, HOSTS), one_of(random, USERS), one_of(random, USERS));
    let mut content = Vec::new();
    for _ in 0..random.below(8) {
        let escaped = |random: &mut Random, text: &str| match random.below(6) {
            0 => "*".to_owned(),
            1 => text.to_owned(),
            _ => text.replace('\\', r"\\").replace(':', r"\:"),
        };
        match random.below(10) {
            0 => content.extend_from_slice(b"# caf\xe9"),
            1 => {}
            2 => content.extend_from_slice(one_of(
                random,
                &[&b"\r"[..], b"*:*:*", b"*:*:*:*", b"nonsense", b" *:*:*:*:x", b"**:*:*:*:x"],
            )),
            3 => content.extend(std::iter::repeat_n(b'x', random.below(2000) as usize)),
            _ => {
                let host = if random.one_in(3) { one_of(random, HOSTS) } else { host };
                let user = if random.one_in(3) { one_of(random, USERS) } else { user };
                let dbname = if random.one_in(3) { one_of(random, USERS) } else { dbname };
                let port = if random.one_in(8) { port.wrapping_add(1) } else { port }.to_string();
                let fields = [host, &port, dbname, user].map(|field| escaped(random, field));
                content.extend_from_slice(fields.join(":").as_bytes());
                content.push(b':');
                content.extend_from_slice(one_of(random, PASSWORDS));
            }
        }
        content.extend_from_slice(one_of(random, &[&b"\n"[..], b"\n", b"\r\n", b"\r\r\n"]));
    }
    if random.one_in(3) {
        content.pop();
    }
    let quoted = |text: &str| text.replace('\\', r"\\").replace('\'', r"\'");
    let mut text =
        format!("hostaddr=127.0.0.1 port={port} sslmode=disable user='{}' dbname='{}'", quoted(user), quoted(dbname));
    if !random.one_in(6) {
        text += &format!(" host='{}'", quoted(host));
    }
    let mut case = Case { text, ..Case::default() };
    case.variables.insert("HOME".to_owned(), b"/nonexistent".to_vec());
    if random.one_in(2) {
        case.variables.insert("PGPASSFILE".to_owned(), file.as_os_str().as_bytes().to_vec());
    } else {
        case.text += &format!(" passfile='{}'", file.display());
    }
    (content, case)
}
