//! Opening a session, the way libpq goes about it: hosts in order, addresses of each in order, TLS as `sslmode` has it.
//!
//! Nothing here outlives its limit, and a failure says how far it came.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::config::{self, Config, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::either::Either;

use super::certificate::Seen;
use super::conninfo::{ChannelBinding, Conninfo, Endpoint, Host, TargetSessionAttrs, TcpSettings};
use super::failure;
use super::login::Login;
use super::passfile::Password;
use super::require_auth::Gate;
use super::resolved::passwd_entry_of;
use super::session::{Encrypted, Limits, Session, SettingsBy, Tls};
use super::settings;
use super::tls::{SslMode, Trust};
use super::wire::Wire;
use crate::aws::{Fault, Place, SecretRef, region_of};
use crate::clock;
use crate::core::observation::PollFailure;
use crate::core::topology::Role;

/// Opens a session. `settings` is what [`Session::settings`] said of the last session with this target, so that a
/// pooler's refusal is met once and not at every connection.
///
/// As in libpq, the next host is tried when one cannot be reached, does not answer in time, hangs up, is not accepting,
/// or is not what `target_session_attrs` asks for; a failure of TLS or of authentication is final. With several places
/// to try each gets an equal share of the time that is left.
///
/// # Errors
/// No session; of several failures, the one that says most.
pub async fn connect(
    conninfo: &Conninfo,
    limits: &Limits,
    settings: SettingsBy,
    trust: &Trust,
) -> Result<Session, PollFailure> {
    connect_in_sight(conninfo, limits, settings, trust, &Progress::default()).await
}

/// The same, and `progress` shows meanwhile how far it has come.
///
/// # Errors
/// As for [`connect`].
pub(super) async fn connect_in_sight(
    conninfo: &Conninfo,
    limits: &Limits,
    settings: SettingsBy,
    trust: &Trust,
    progress: &Progress,
) -> Result<Session, PollFailure> {
    // Boxed: a poller keeps this future's place for as long as it lives, and needs it rarely.
    if let Login::Secret(secret) = conninfo.login() {
        return Box::pin(connect_by_secret(conninfo, secret, limits, settings, trust, progress)).await;
    }
    let mut dialer = Dialer { conninfo, limits, trust, settings, progress };
    Box::pin(dialer.connect()).await
}

/// With what is known of a secret; and if the server takes none of it, with what the secret says now.
async fn connect_by_secret(
    conninfo: &Conninfo,
    secret: &SecretRef,
    limits: &Limits,
    settings: SettingsBy,
    trust: &Trust,
    progress: &Progress,
) -> Result<Session, PollFailure> {
    let began = clock::now();
    let left = || limits.connect.saturating_sub(clock::now().duration_since(began));
    let unread = |fault: Fault| PollFailure::Authentication { reason: format!("cannot read secret {secret}: {fault}") };
    let late = |_| PollFailure::Timeout {
        doing: format!("reading secret {secret}"),
        limit_ms: u64::try_from(limits.connect.as_millis()).unwrap_or(u64::MAX),
    };
    let mut versions = timeout(left(), trust.secrets().versions(secret)).await.map_err(late)?.map_err(unread)?;
    let mut tried: Vec<String> = Vec::new();
    let mut refusal = None;
    for is_anew in [false, true] {
        if is_anew {
            match timeout(left(), trust.secrets().after_refusal(secret)).await {
                Ok(Ok(Some(anew))) => versions = anew,
                // What the server said is then all that there is to say.
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        for version in &versions {
            if tried.contains(&version.id) {
                continue;
            }
            let reason = |reason: &str| PollFailure::Connect { reason: format!("secret {secret}: {reason}") };
            let whole = conninfo.with_version(version).map_err(reason)?;
            let limits = Limits { connect: left(), ..*limits };
            let mut dialer = Dialer { conninfo: &whole, limits: &limits, trust, settings, progress };
            match dialer.connect().await {
                Err(failure @ PollFailure::Authentication { .. }) => refusal = refusal.or(Some(failure)),
                outcome => return outcome,
            }
            tried.push(version.id.clone());
        }
    }
    Err(refusal.unwrap_or_else(|| PollFailure::Authentication { reason: format!("secret {secret} has no version") }))
}

struct Dialer<'a> {
    conninfo: &'a Conninfo,
    limits: &'a Limits,
    trust: &'a Trust,
    settings: SettingsBy,
    progress: &'a Progress,
}

/// How far the present attempt came.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Lookup,
    Connecting,
    /// The question whether the server speaks TLS is out; when it does not, all the rest of the start-up.
    Greeting,
    Handshake,
    /// The session is started, in clear text or encrypted.
    Starting,
    StartingEncrypted,
}

impl Progress {
    fn reach(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    fn is(&self, phase: Phase) -> bool {
        self.0.load(Ordering::Relaxed) == phase as u8
    }

    /// Whether somebody has accepted the connection.
    pub(super) fn is_accepted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > Phase::Connecting as u8
    }

    pub(super) fn doing(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            0 => "looking up its name",
            1 => "connecting",
            2 => "waiting for its first answer",
            3 => "negotiating TLS",
            _ => "starting the session",
        }
    }
}

enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An attempt that failed, and what may be tried instead.
struct Refusal {
    failure: PollFailure,
    /// `pg_hba.conf` has no line for such a session; it may have one with, or without, TLS.
    is_barred: bool,
    /// The server does not speak TLS, or not as it should; a file of ours that is wrong is not this.
    failed_handshake: bool,
    /// Settings at start-up are refused, and may be made in this way.
    settings: Option<SettingsBy>,
}

impl From<PollFailure> for Refusal {
    fn from(failure: PollFailure) -> Self {
        Self { failure, is_barred: false, failed_handshake: false, settings: None }
    }
}

impl Dialer<'_> {
    async fn connect(&mut self) -> Result<Session, PollFailure> {
        let began = clock::now();
        let conninfo = self.conninfo;
        let passes: &[Option<Role>] = match conninfo.target_session_attrs() {
            // A pooler is neither.
            _ if self.settings == SettingsBy::Console => &[None],
            TargetSessionAttrs::Any => &[None],
            TargetSessionAttrs::Primary => &[Some(Role::Primary)],
            TargetSessionAttrs::Standby => &[Some(Role::Replica)],
            TargetSessionAttrs::PreferStandby => &[Some(Role::Replica), None],
        };
        let mut n_left = u32::try_from(passes.len() * conninfo.hosts().len()).unwrap_or(u32::MAX);
        let mut failures = Vec::new();
        for wanted in passes {
            for host in conninfo.hosts() {
                let left = self.limits.connect.saturating_sub(clock::now().duration_since(began));
                let share = left / n_left.max(1);
                n_left -= 1;
                // The connection string's own is for each host, as in libpq, and it wins.
                let share = conninfo.connect_timeout().unwrap_or(share);
                match self.dial(host, *wanted, share).await {
                    Ok(session) => return Ok(session),
                    Err(failure) if is_worth_another_host(&failure) => failures.push(failure),
                    Err(failure) => return Err(failure),
                }
            }
        }
        Err(most_telling(failures))
    }

    /// One host, at all its addresses.
    async fn dial(&mut self, host: &Host, wanted: Option<Role>, limit: Duration) -> Result<Session, PollFailure> {
        let began = clock::now();
        self.progress.reach(Phase::Lookup);
        let addresses = match timeout(limit, addresses_of(host)).await {
            Ok(addresses) => addresses?,
            Err(_) => return Err(self.timed_out(limit)),
        };
        let n_addresses = addresses.len();
        let mut failures = Vec::new();
        for (i, address) in addresses.into_iter().enumerate() {
            let left = limit.saturating_sub(clock::now().duration_since(began));
            let share = left / u32::try_from(n_addresses - i).unwrap_or(u32::MAX);
            self.progress.reach(Phase::Connecting);
            let outcome = timeout(share, self.open(&address, host, wanted)).await;
            match outcome.unwrap_or_else(|_| Err(self.timed_out(if n_addresses == 1 { limit } else { share }))) {
                Ok(session) => return Ok(session),
                Err(failure) if is_worth_another_host(&failure) => failures.push(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(most_telling(failures))
    }

    fn timed_out(&self, limit: Duration) -> PollFailure {
        // Rounded: what is left of 3 s after a microsecond is still "3000 ms" to people.
        let limit_ms = (limit.as_micros() + 500) / 1000;
        PollFailure::Timeout {
            doing: self.progress.doing().to_owned(),
            limit_ms: u64::try_from(limit_ms).unwrap_or(u64::MAX),
        }
    }

    /// One address, encrypted or not as `sslmode` has it.
    async fn open(&mut self, address: &Address, host: &Host, wanted: Option<Role>) -> Result<Session, PollFailure> {
        use config::SslMode as Ask;
        let (first, second) = match (address, self.conninfo.tls().mode) {
            // libpq never encrypts what does not leave the machine.
            (Address::Unix(_), _) | (_, SslMode::Disable) => (Ask::Disable, None),
            (_, SslMode::Allow) => (Ask::Disable, Some(Ask::Require)),
            (_, SslMode::Prefer) => (Ask::Prefer, Some(Ask::Disable)),
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => (Ask::Require, None),
        };
        let session = match (self.log_in(address, host, first).await, second) {
            (Ok(session), _) => session,
            // A wrong password is not tried again the other way, as libpq would: least of all in clear text.
            (Err(refusal), Some(second)) if refusal.is_barred || (first == Ask::Prefer && refusal.failed_handshake) => {
                self.progress.reach(Phase::Connecting);
                match self.log_in(address, host, second).await {
                    Ok(session) => session,
                    Err(again) if again.is_barred || again.failed_handshake => {
                        return Err(refusal.failure);
                    }
                    Err(again) => return Err(again.failure),
                }
            }
            (Err(refusal), _) => return Err(refusal.failure),
        };
        if let Some(wanted) = wanted {
            let role = role_of(&session).await?;
            if role != wanted {
                let reason = format!("the server is a {role}, and target_session_attrs asks for another");
                return Err(PollFailure::Connect { reason });
            }
        }
        Ok(session)
    }

    /// One way of encryption, with settings as the server, or the pooler before it, takes them.
    async fn log_in(&mut self, address: &Address, host: &Host, ask: config::SslMode) -> Result<Session, Refusal> {
        let mut outcome = self.start(address, host, ask).await;
        if self.settings == SettingsBy::Session
            && let Err(Refusal { settings: Some(instead), .. }) = &outcome
        {
            self.settings = *instead;
            self.progress.reach(Phase::Connecting);
            outcome = self.start(address, host, ask).await;
        }
        let mut session = outcome?;
        if self.settings == SettingsBy::Session {
            session.make_settings_hold().await?;
            self.settings = session.settings();
        }
        Ok(session)
    }

    async fn start(&self, address: &Address, host: &Host, ask: config::SslMode) -> Result<Session, Refusal> {
        let conninfo = self.conninfo;
        let (password, passfile_problem) = match conninfo.login() {
            Login::Iam(place) => (Some(Box::pin(self.token(place, host, ask)).await?), None),
            Login::Password | Login::Secret(_) => conninfo.password_for(host),
        };
        let mut config = Config::new();
        config.user(conninfo.user()).dbname(conninfo.dbname()).application_name("pgvigil").ssl_mode(ask);
        if let Some(password) = &password {
            config.password(password.expose());
        }
        if self.settings == SettingsBy::Session {
            config.options(settings::startup_options(self.limits, conninfo.options()));
        }
        config.channel_binding(match conninfo.channel_binding() {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
        let is_direct = conninfo.tls().direct && ask == config::SslMode::Require;
        if is_direct {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        let seen = Seen::default();
        let tls = if ask == config::SslMode::Disable { None } else { Some(self.make_tls(host, &seen)?) };
        let mut wire = Wire::new(socket(address, conninfo).await?, tls.is_some());
        let gate = || conninfo.require_auth().map(Gate::new);
        if let Some(gate) = gate().filter(|_| !is_direct) {
            wire.watch(gate, tls.is_some());
        }
        let allowance = wire.allowance();
        self.progress.reach(if tls.is_none() { Phase::Starting } else { Phase::Greeting });
        let handshake = Handshake { tls, gate: gate(), progress: self.progress };
        match config.connect_raw(wire, handshake).await {
            Ok(opened) => {
                let tls = self.progress.is(Phase::StartingEncrypted);
                let certificate = seen.certificate().filter(|_| tls);
                let limits = *self.limits;
                Ok(Session::new(opened, allowance, Tls { is_on: tls, certificate }, self.settings, limits, password))
            }
            Err(error) => {
                let failure = failure::of_start(&error, conninfo.tls());
                let mut failure = failure::without(failure, password.as_ref());
                if let (PollFailure::Authentication { reason }, None) = (&mut failure, &password)
                    && reason == "password missing"
                {
                    *reason = match passfile_problem {
                        Some(problem) => format!("the server asks for a password and there is none; {problem}"),
                        None => "the server asks for a password and there is none: not in the connection string, in \
                                 PGPASSWORD, or in a password file"
                            .to_owned(),
                    };
                }
                Err(Refusal {
                    failed_handshake: matches!(failure, PollFailure::Tls { .. }),
                    failure,
                    is_barred: failure::is_barred(&error),
                    settings: failure::settings_instead(&error),
                })
            }
        }
    }

    /// A token for this session. The configuration saw to it that the server is verified before it is sent.
    async fn token(&self, place: &Place, host: &Host, ask: config::SslMode) -> Result<Password, PollFailure> {
        let Endpoint::Tcp { name, .. } = &host.endpoint else {
            return Err(PollFailure::Tls { reason: "a token is not sent over a socket".to_owned() });
        };
        if ask != config::SslMode::Require || self.conninfo.tls().mode != SslMode::VerifyFull {
            return Err(PollFailure::Tls { reason: "a token is not sent without sslmode=verify-full".to_owned() });
        }
        let no_token = |reason: String| PollFailure::Authentication { reason: format!("no IAM token: {reason}") };
        let region = region_of(name).or(place.region.as_deref());
        let region = region.ok_or_else(|| no_token("the region is not known".to_owned()))?;
        let token = self.trust.secrets().aws().rds_token(place, region, name, host.port, self.conninfo.user()).await;
        token.map(|token| Password::new(token.expose())).map_err(|fault| no_token(fault.to_string()))
    }

    fn make_tls(&self, host: &Host, seen: &Seen) -> Result<Connector, PollFailure> {
        let config = self
            .trust
            .client_config(self.conninfo.tls(), seen)
            .map_err(|problem| PollFailure::Tls { reason: problem.to_string() })?;
        let name = match &host.endpoint {
            Endpoint::Tcp { name, .. } => name.as_str(),
            Endpoint::Unix(_) => "",
        };
        let made = MakeTlsConnect::<Wire>::make_tls_connect(&mut MakeRustlsConnect::new(config), name);
        made.map_err(|never| match never {})
    }
}

/// `target_session_attrs` and several addresses go on to the next place after these.
const fn is_worth_another_host(failure: &PollFailure) -> bool {
    matches!(
        failure,
        PollFailure::Timeout { .. }
            | PollFailure::Lookup { .. }
            | PollFailure::Refused
            | PollFailure::Connect { .. }
            | PollFailure::NotAccepting { .. }
            // During start-up: a load balancer without a server behind it.
            | PollFailure::Lost { .. }
    )
}

/// Of several failures the last of the most telling kind. That all refuse proves a server down; that one address of
/// two cannot be reached from here (no IPv6) says least.
fn most_telling(failures: Vec<PollFailure>) -> PollFailure {
    let weight = |failure: &PollFailure| match failure {
        PollFailure::Connect { reason } if UNREACHABLE.iter().any(|kind| kind.to_string() == *reason) => 0,
        PollFailure::Refused => 1,
        PollFailure::NotAccepting { .. } => 2,
        _ => 3,
    };
    let no_address = PollFailure::Lookup { reason: "the name has no address".to_owned() };
    failures.into_iter().max_by_key(weight).unwrap_or(no_address)
}

const UNREACHABLE: &[io::ErrorKind] =
    &[io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable, io::ErrorKind::AddrNotAvailable];

async fn addresses_of(host: &Host) -> Result<Vec<Address>, PollFailure> {
    match &host.endpoint {
        Endpoint::Unix(directory) => Ok(vec![Address::Unix(directory.join(format!(".s.PGSQL.{}", host.port)))]),
        Endpoint::Tcp { address: Some(address), .. } => Ok(vec![Address::Tcp(SocketAddr::new(*address, host.port))]),
        Endpoint::Tcp { name, address: None } => {
            let found = lookup_host((name.as_str(), host.port)).await;
            // The resolver's own text: "failed to lookup address information: Name or service not known".
            let told = |error: io::Error| {
                let text = error.to_string();
                let text = text.rsplit(": ").next().unwrap_or(&text);
                PollFailure::Lookup { reason: format!("{name}: {text}") }
            };
            Ok(found.map_err(told)?.map(Address::Tcp).collect())
        }
    }
}

async fn socket(address: &Address, conninfo: &Conninfo) -> Result<Either<TcpStream, UnixStream>, PollFailure> {
    match address {
        Address::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => {
                if let Some(user) = conninfo.requirepeer() {
                    check_peer(&stream, user)?;
                }
                Ok(Either::Right(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(PollFailure::Connect { reason: format!("there is no socket {}", path.display()) })
            }
            Err(error) => Err(failure::of_socket(&error)),
        },
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|error| failure::of_socket(&error))?;
            watch_over(&stream, conninfo.tcp()).map_err(|error| failure::of_socket(&error))?;
            Ok(Either::Left(stream))
        }
    }
}

/// `requirepeer`: who runs the server at the other end of the socket.
fn check_peer(stream: &UnixStream, user: &str) -> Result<(), PollFailure> {
    let uid = stream.peer_cred().map_err(|error| failure::of_socket(&error))?.uid();
    let peer = passwd_entry_of(uid).map(|entry| entry.name);
    if peer.as_deref() == Some(user) {
        return Ok(());
    }
    let peer = peer.unwrap_or_else(|| format!("the user of number {uid}"));
    let reason = format!("the server at the socket is run by {peer}, and requirepeer asks for {user}");
    Err(PollFailure::Authentication { reason })
}

fn watch_over(stream: &TcpStream, tcp: &TcpSettings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if tcp.keepalives {
        sockopt::set_socket_keepalive(stream, true)?;
        if let Some(idle) = tcp.idle {
            sockopt::set_tcp_keepidle(stream, idle)?;
        }
        if let Some(interval) = tcp.interval {
            sockopt::set_tcp_keepintvl(stream, interval)?;
        }
        if let Some(count) = tcp.count {
            sockopt::set_tcp_keepcnt(stream, count)?;
        }
    }
    if let Some(user_timeout) = tcp.user_timeout {
        sockopt::set_tcp_user_timeout(stream, u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

async fn role_of(session: &Session) -> Result<Role, PollFailure> {
    let in_recovery = match session.parameter("in_hot_standby") {
        Some(word) => word == "on",
        // Before 14 it is not reported.
        None => single_value(session, "SELECT pg_is_in_recovery()").await? == "t",
    };
    Ok(if in_recovery { Role::Replica } else { Role::Primary })
}

async fn single_value(session: &Session, sql: &str) -> Result<String, PollFailure> {
    let messages = session.simple_query(sql).await?;
    let value = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten(),
        _ => None,
    });
    Ok(value.unwrap_or_default().to_owned())
}

type Connector = <MakeRustlsConnect as MakeTlsConnect<Wire>>::TlsConnect;

/// The TLS handshake, told apart from what comes before and after it.
struct Handshake<'a> {
    tls: Option<Connector>,
    gate: Option<Gate>,
    progress: &'a Progress,
}

impl<'a> TlsConnect<Wire> for Handshake<'a> {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send + 'a>>;

    fn connect(self, wire: Wire) -> Self::Future {
        Box::pin(async move {
            let tls = self.tls.ok_or_else(|| io::Error::other("no TLS was asked for"))?;
            self.progress.reach(Phase::Handshake);
            let allowance = wire.allowance();
            let stream = tls.connect(wire).await?;
            self.progress.reach(Phase::StartingEncrypted);
            Ok(Encrypted::new(stream, allowance, self.gate))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_failures_the_most_telling_is_told_and_down_is_said_only_when_all_say_so() {
        let unreachable = || PollFailure::Connect { reason: io::ErrorKind::NetworkUnreachable.to_string() };
        let starting = || PollFailure::NotAccepting { reason: "the database system is starting up".to_owned() };
        let silent = || PollFailure::Timeout { doing: "connecting".to_owned(), limit_ms: 1 };
        for (failures, expected) in [
            (vec![PollFailure::Refused, PollFailure::Refused], PollFailure::Refused),
            (vec![PollFailure::Refused, unreachable()], PollFailure::Refused),
            (vec![starting(), PollFailure::Refused], starting()),
            (vec![silent(), PollFailure::Refused], silent()),
            (vec![unreachable()], unreachable()),
            (vec![], PollFailure::Lookup { reason: "the name has no address".to_owned() }),
        ] {
            assert_eq!(most_telling(failures), expected);
        }
    }
}
