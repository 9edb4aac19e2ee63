//! How we read connection strings, environments, service files and password files, held against libpq itself: a small C
//! program (`libpq/probe.c`) reads the same. Where we differ is written down in [`DIFFERENCES`], with the reason.
//!
//! What is read is made by chance. `PGVIGIL_TEST_SEED` says by which; a failure names the seed and shows the case.

mod cases;
mod probe;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pgvigil::collect::conninfo::Conninfo;
use pgvigil::collect::postgres::connect;
use pgvigil::collect::resolved::Resolved;
use pgvigil::collect::session::{Limits, SettingsBy};
use pgvigil::collect::tls::Trust;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::connect::{LIMIT, body, error, message};
use crate::support::random::Random;
use cases::Case;
use probe::{Answer, Place, Probe};

/// How often a kind of case is made.
const N_CASES: u64 = 4000;

fn seed() -> u64 {
    std::env::var("PGVIGIL_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Where we do not do what libpq does, on purpose.
struct Difference {
    reason: &'static str,
    /// A connection string on which we differ.
    example: &'static str,
    /// Of the case, and of what either said of it.
    is_it: fn(&Seen<'_>) -> bool,
}

/// A case on which we differ.
struct Seen<'a> {
    text: &'a str,
    /// libpq's error, or `None` if it would connect.
    theirs: Option<&'a str>,
    /// Our error, or `None` if we would.
    ours: Option<&'a str>,
    /// The parameter that has another value, if both would.
    name: Option<&'a str>,
}

impl Seen<'_> {
    fn is_url(&self) -> bool {
        let text = self.text.trim_start();
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// We refuse what libpq takes, in these words.
    fn refused(&self, words: &str) -> bool {
        self.theirs.is_none() && self.ours.is_some_and(|ours| ours.contains(words))
    }

    /// We take what libpq refuses in these words.
    fn taken(&self, words: &str) -> bool {
        self.ours.is_none() && self.theirs.is_some_and(|theirs| theirs.contains(words))
    }
}

/// Of Prisma, JDBC, node-postgres and lib/pq.
const OF_OTHER_TOOLS: &[&str] =
    &["schema", "connection_limit", "sslaccept", "currentSchema", "pgbouncer", "ssl", "sslinline"];

const DIFFERENCES: &[Difference] = &[
    Difference {
        reason: "connection strings of applications have parameters of other tools, and are taken as they are",
        example: "schema=public",
        is_it: |seen| {
            let unknown = |name: &&str| {
                seen.taken(&format!("invalid connection option \"{name}\""))
                    || seen.taken(&format!("invalid URI query parameter: \"{name}\""))
            };
            OF_OTHER_TOOLS.iter().any(unknown)
        },
    },
    Difference {
        reason: "node-postgres' word for sslmode=require",
        example: "sslmode=no-verify",
        is_it: |seen| seen.taken("invalid sslmode value: \"no-verify\""),
    },
    Difference {
        reason: "ssl=true, which libpq takes for sslmode=require wherever it stands, does not weaken an sslmode before it",
        example: "postgres://h?sslmode=verify-full&ssl=true",
        is_it: |seen| seen.name == Some("sslmode") && seen.is_url() && seen.text.contains("ssl="),
    },
    Difference {
        reason: "other clients, and libpq before 18, take a space within a URL, and another = within a value",
        example: "postgres://h/a b",
        is_it: |seen| {
            seen.is_url() && (seen.taken("unexpected spaces found in") || seen.taken("extra key/value separator \"=\""))
        },
    },
    Difference {
        reason: "nothing between two & of a URL says nothing",
        example: "postgres://h?user=u&&dbname=d",
        is_it: |seen| seen.is_url() && seen.taken("missing key/value separator \"=\" in URI query parameter: \"\""),
    },
    Difference {
        reason: "the line's end of a file does not turn a URL into something else",
        example: "postgres://h/d\n",
        is_it: |seen| seen.is_url() && seen.text.trim() != seen.text,
    },
    Difference {
        reason: "0 is the kernel's own value, as libpq's manual has it; libpq hands it to a kernel that refuses it",
        example: "host=h keepalives_idle=0",
        is_it: |seen| seen.taken("setsockopt(") || (seen.name == Some("places") && seen.text.contains("keepalives_")),
    },
    Difference {
        reason: "numbers are checked at the start, used or not",
        example: "host=/sockets keepalives=x",
        is_it: |seen| seen.refused("expected a whole number"),
    },
    Difference {
        reason: "each host's port is checked at the start, not when its turn comes",
        example: "host=h,i port=1,x",
        is_it: |seen| seen.refused("expected a number from 1 to 65535"),
    },
    Difference {
        reason: "each host's address is checked at the start, has no zone, and four numbers if it is one of IPv4",
        example: "hostaddr=127.1",
        is_it: |seen| seen.refused("expected an IP address"),
    },
    Difference {
        reason: "a password with an @ or a space that was not escaped must not be looked up as a name",
        example: "host=@abstract",
        is_it: |seen| seen.refused("holds what no host name can") || seen.refused("an @"),
    },
    Difference {
        reason: "the content of a key file that stands in its name's place must not be shown as a name",
        example: "sslcert='-----BEGIN CERTIFICATE-----'",
        is_it: |seen| seen.refused("expected the name of a file, not what is in it"),
    },
    Difference {
        reason: "a bracket is closed before the next host begins",
        example: "postgres://[::1,[::2]",
        is_it: |seen| seen.is_url() && seen.refused("an IPv6 address lacks its closing bracket"),
    },
    Difference {
        reason: "names are sent as text, which a password need not be",
        example: "postgres://%FF@h",
        is_it: |seen| seen.refused("is not UTF-8"),
    },
    Difference {
        reason: "TLS before 1.2 is not spoken",
        example: "ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=TLSv1.1",
        is_it: |seen| seen.refused("leaves no version of TLS that can be spoken"),
    },
    Difference {
        reason: "protocol 3.2 is not spoken, and no replication protocol",
        example: "min_protocol_version=3.2",
        is_it: |seen| seen.refused("version 3.0 is spoken, and no later one") || seen.refused("pgvigil asks by SQL"),
    },
    Difference {
        reason: "that a server asks for a certificate cannot be insisted on",
        example: "sslcertmode=require",
        is_it: |seen| seen.refused("a server is not made to ask for a certificate"),
    },
    Difference {
        reason: "keys in a password's place are not known",
        example: "scram_client_key=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        is_it: |seen| seen.refused("write a password, or name a password file"),
    },
];

/// A difference: the parameter whose value differs if both would connect, and what is shown of it.
type Found = (Option<String>, String);

/// What differs between them and us.
fn differences(case: &Case, theirs: &Answer, defaults: &BTreeMap<String, Option<Vec<u8>>>) -> Vec<Found> {
    let settings = Resolved::read(&case.text, &|name| case.variable(name));
    let ours = Conninfo::parse_with(&case.text, &|name| case.variable(name));
    let (settings, ours) = match (settings, ours, theirs.would_connect()) {
        (Ok(settings), Ok(ours), true) => (settings, ours),
        (_, Err(_), false) => return Vec::new(),
        (_, Err(ours), true) => return vec![(None, format!("we refuse what libpq takes: {ours}"))],
        (_, Ok(_), false) => return vec![(None, format!("we take what libpq refuses: {}", theirs.error))],
        (Err(error), Ok(_), true) => panic!("{case}: {error}"),
    };
    let mut found = Vec::new();
    for (name, theirs) in &theirs.options {
        let (theirs, ours) = match name.as_str() {
            "user" => (theirs.clone(), Some(ours.user().as_bytes().to_vec())),
            "dbname" => (theirs.clone(), Some(ours.dbname().as_bytes().to_vec())),
            "sslmode" => (theirs.clone(), Some(ours.tls().mode.as_str().as_bytes().to_vec())),
            // libpq fills in the file's usual place.
            "passfile" if settings.bytes(name).is_none_or(<[u8]>::is_empty) => continue,
            "sslcertmode" if settings.bytes(name).is_none() => continue,
            name if cases::IGNORED.contains(&name) => continue,
            name => {
                let default = defaults.get(name).cloned().flatten();
                (theirs.clone().or(default.clone()), settings.bytes(name).map(<[u8]>::to_vec).or(default))
            }
        };
        if ours != theirs {
            let shown = |value: &Option<Vec<u8>>| value.as_ref().map(|value| value.escape_ascii().to_string());
            found.push((Some(name.clone()), format!("{name}: ours {:?}, libpq's {:?}", shown(&ours), shown(&theirs))));
        }
    }
    let mut their_places: Vec<&Place> = theirs.places.iter().collect();
    // Each is tried twice then, by us too.
    if settings.bytes("target_session_attrs") == Some(b"prefer-standby") {
        their_places.truncate(ours.hosts().len());
    }
    // libpq shuffles them then; we keep to the order written.
    let is_any_order = settings.bytes("load_balance_hosts") == Some(b"random");
    let is_same = is_any_order
        || ours.hosts().len() == their_places.len()
            && ours.hosts().iter().zip(&their_places).all(|(ours, theirs)| theirs.is(ours));
    if !is_same {
        let shown = format!("places: ours {:?}, libpq's {their_places:?}", ours.hosts());
        found.push((Some("places".to_owned()), shown));
    }
    found
}

/// The entry of the list that a difference is, if it is in there.
fn listed(case: &Case, theirs: &Answer, (name, _): &Found) -> Option<&'static Difference> {
    let ours = Conninfo::parse_with(&case.text, &|name| case.variable(name)).map_err(|error| error.to_string());
    let seen = Seen {
        text: &case.text,
        theirs: (!theirs.would_connect()).then_some(theirs.error.as_str()),
        ours: ours.as_ref().err().map(String::as_str),
        name: name.as_deref(),
    };
    DIFFERENCES.iter().find(|difference| (difference.is_it)(&seen))
}

fn hold(kind: &str, make: impl Fn(&mut Random, &Path) -> Case) {
    let Some(mut probe) = Probe::start() else { return };
    let defaults = probe.ask(b'D', &Case::default()).options;
    let dir = tempfile::tempdir().unwrap();
    let mut n_connect = 0;
    let mut failures = Vec::new();
    for i in 0..N_CASES {
        let seed = seed().wrapping_mul(1_000_003).wrapping_add(i);
        let case = make(&mut Random::new(seed), dir.path());
        let answer = probe.ask(b'C', &case);
        n_connect += u64::from(answer.would_connect());
        for difference in differences(&case, &answer, &defaults) {
            if listed(&case, &answer, &difference).is_none() {
                failures.push(format!("{kind}, seed {seed}: {case}\n    {}", difference.1));
            }
        }
    }
    assert!(failures.is_empty(), "{} differences\n{}", failures.len(), failures[..failures.len().min(40)].join("\n"));
    assert!((N_CASES / 10..N_CASES * 9 / 10).contains(&n_connect), "libpq would connect in {n_connect} of {N_CASES}");
}

#[test]
fn every_difference_in_the_list_is_still_one() {
    let Some(mut probe) = Probe::start() else { return };
    let defaults = probe.ask(b'D', &Case::default()).options;
    let dir = tempfile::tempdir().unwrap();
    for difference in DIFFERENCES {
        let case = Case::of_text(difference.example.to_owned(), dir.path());
        let answer = probe.ask(b'C', &case);
        let found = differences(&case, &answer, &defaults);
        let is_it =
            |found: &Found| listed(&case, &answer, found).is_some_and(|known| known.reason == difference.reason);
        assert!(found.iter().any(is_it), "{}: {case}: {found:?}", difference.reason);
    }
}

#[test]
fn keyword_strings_are_read_as_libpq_reads_them() {
    hold("keywords", |random, dir| Case::of_text(cases::keywords(random), dir));
}

#[test]
fn urls_are_read_as_libpq_reads_them() {
    hold("url", |random, dir| Case::of_text(cases::url(random), dir));
}

#[test]
fn the_environment_is_read_as_libpq_reads_it() {
    hold("environment", cases::environment);
}

#[test]
fn service_files_are_read_as_libpq_reads_them() {
    hold("service", cases::service);
}

#[test]
fn every_parameter_and_variable_of_libpq_is_known_by_the_same_name() {
    let Some(mut probe) = Probe::start() else { return };
    let answer = probe.ask(b'D', &Case::default());
    assert_eq!(answer.options.len(), 50, "libpq 18 has these: {:?}", answer.options.keys());
    for (name, variable) in &answer.variables {
        let text = format!("user=u {name}=");
        let ours = Conninfo::parse_with(&text, &|_| None).map_err(|error| error.to_string());
        assert!(!ours.is_err_and(|error| error.contains("no known parameter")), "{name}");
        if variable.is_empty() || cases::IGNORED.contains(&name.as_str()) || name == "service" {
            continue;
        }
        let env = |asked: &str| (asked == variable).then(|| OsString::from("value"));
        let settings = Resolved::read("", &env).unwrap();
        assert_eq!(settings.bytes(name), Some(&b"value"[..]), "{variable}");
    }
}

/// All passwords that clients sent, each a client's, in order; `None` of one that sent none.
type Sent = Arc<Mutex<Vec<Vec<u8>>>>;

/// A server that asks for the password in clear text, and notes it.
async fn asking_server() -> (u16, Sent) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Sent::default();
    let noted = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(note_password(stream, Arc::clone(&noted)));
        }
    });
    (port, sent)
}

async fn note_password(mut stream: TcpStream, sent: Sent) -> Option<()> {
    body(&mut stream).await?;
    stream.write_all(&message(b'R', &3_u32.to_be_bytes())).await.ok()?;
    if stream.read_u8().await.ok()? == b'p' {
        let password = body(&mut stream).await?;
        sent.lock().unwrap().push(password);
    }
    stream.write_all(&error("28P01", "no")).await.ok()?;
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_files_are_read_as_libpq_reads_them() {
    let Some(mut probe) = Probe::start() else { return };
    let (port, sent) = asking_server().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pgpass");
    let mut n_sent = 0;
    let n_cases = N_CASES / 2;
    for i in 0..n_cases {
        let seed = seed().wrapping_mul(1_000_003).wrapping_add(i);
        let random = &mut Random::new(seed);
        let (content, case) = cases::password_file(random, port, &file);
        fs::write(&file, &content).unwrap();
        let mode = if random.one_in(20) { 0o640 } else { 0o600 };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();

        let answer = tokio::task::block_in_place(|| probe.ask(b'R', &case));
        let theirs = sent.lock().unwrap().pop();
        let conninfo = Conninfo::parse_with(&case.text, &|name| case.variable(name)).unwrap();
        let opened = connect(&conninfo, &Limits::within(LIMIT), SettingsBy::Session, &Trust::default()).await;
        let failure = opened.expect_err("nobody is let in");
        let ours = sent.lock().unwrap().pop();
        n_sent += u64::from(theirs.is_some());
        let shown = |password: &Option<Vec<u8>>| password.as_ref().map(|bytes| bytes.escape_ascii().to_string());
        assert_eq!(
            shown(&ours),
            shown(&theirs),
            "seed {seed}: {case}\n{}\nours: {failure}\nlibpq's: {}",
            content.escape_ascii(),
            answer.error
        );
    }
    assert!((n_cases / 10..n_cases * 9 / 10).contains(&n_sent), "{n_sent} of {n_cases} sent a password");
}
