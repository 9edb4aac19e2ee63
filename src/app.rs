//! Wiring and supervision: the only place that spawns the daemon's tasks.
//!
//! Every task has a name. One that ends before it was told to stops the daemon with that name: a half-dead monitor is worse
//! than a restarted one. On shutdown pollers stop and notifiers finish their attempt; when the last of them is gone the
//! engine has applied their last events and ends too.
//!
//! What is watched, and who is told, may change at any time ([`members`]): the configuration is read again when it is told
//! to, or has changed ([`reload`]), and AWS is asked what there is ([`discover`]).

mod discover;
mod members;
mod reload;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::discover::Finders;
use self::members::Members;
use crate::agent_check::{self, Agent};
use crate::aws::{Aws, Reported};
use crate::config::{Config, Source};
use crate::core::fleet::{Event, Fleet};
use crate::core::snapshot::Snapshot;
use crate::discovery::{self, Kept, Look};
use crate::engine::{Engine, Queues, Unwritten, tick_of};
use crate::http::Live;
use crate::http::history::{History, KEPT, STEP};
use crate::http::tls::{Tls, TlsProblem};
use crate::notify::NotifierError;
use crate::self_metrics::SelfMetrics;
use crate::store::{Clocks, Store, readings};
use crate::{clock, http};

/// Time that a stop may take; less than the ten seconds that supervisors give.
const GRACE: Duration = Duration::from_secs(8);

/// Events on their way to the engine. Full means that pollers wait: back-pressure on them is what we want.
const EVENT_QUEUE: usize = 1024;

/// Silences on their way to the engine, and drains. Who makes one waits for its turn.
const SILENCE_QUEUE: usize = 16;

/// Changes of what is watched that wait for the one before.
const ORDER_QUEUE: usize = 16;

/// What the daemon is to do from now on.
#[derive(Debug)]
enum Order {
    /// This configuration, checked, takes the place of the one in force.
    Configuration(Box<Config>),
    /// AWS was asked, for this `[[discover]]`.
    Found(Box<(discovery::Config, Look)>),
    /// RDS reports something of what was found for it, by region.
    Reported(Box<discovery::Config>, Vec<(String, Reported)>),
}

/// Why the daemon could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen on {address}: {source}{}", way_out(source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error("agent_check: cannot listen on {address}: {source}")]
    Agent { address: SocketAddr, source: io::Error },
    #[error("cannot listen: {0}")]
    Tls(#[from] TlsProblem),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("cannot start {0}")]
    Notifier(#[from] NotifierError),
    #[error("cannot start the heartbeat: {0}")]
    Heartbeat(String),
    #[error("task `{0}` ended by itself")]
    TaskEnded(String),
    #[error("task `{0}` panicked")]
    TaskPanicked(String),
}

/// What to do about it, where that is known.
fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; is pgvigil running already? --listen or server.listen names another port",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 take a privilege: --listen or server.listen names another"
        }
        _ => "",
    }
}

/// The daemon, running.
pub struct App {
    address: SocketAddr,
    tasks: JoinSet<()>,
    /// Of all tasks but those that were told to end.
    names: HashMap<Id, String>,
    cancel: CancellationToken,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<SelfMetrics>,
    polling: PollThread,
    readings: Option<ReadingsThread>,
    members: Members,
    orders: mpsc::Receiver<Order>,
    ordering: mpsc::Sender<Order>,
    /// `None`: the daemon stops, and the engine waits for the last who could send an event.
    events: Option<mpsc::Sender<Event>>,
}

/// Has the charts begin before the start, with what was kept.
fn recall(path: &Path, history: &History) {
    let (now, wall) = (clock::now(), clock::wall());
    let since = wall.checked_sub(STEP * KEPT as u32).unwrap_or(std::time::UNIX_EPOCH);
    let known = match readings::known_of(path, since, "replay_lag_seconds") {
        Ok(known) => known,
        Err(error) => return warn!(%error, "charts begin with this start: what was before cannot be read"),
    };
    // A minute that is yet to come by a time of day that was set back is none of the past.
    let at = |then: std::time::SystemTime| Some(now.plus_seconds(-wall.duration_since(then).ok()?.as_secs_f64()));
    let of = |known: Vec<(std::time::SystemTime, f64)>| {
        known.into_iter().filter_map(|(then, lag)| Some((at(then)?, lag))).collect()
    };
    history.restore(&known.into_iter().map(|(target, known)| (target, of(known))).collect::<Vec<_>>());
}

/// The thread that keeps what rules judge, minute by minute. Dropping it waits until the last minute is written.
struct ReadingsThread {
    end: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ReadingsThread {
    /// First of all it has `history` know of the hours before.
    fn start(path: PathBuf, snapshots: watch::Receiver<Arc<Snapshot>>, history: History) -> io::Result<Self> {
        let (end, ended) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("readings".to_owned()).spawn(move || {
            recall(&path, &history);
            readings::run(&path, &snapshots, &ended);
        })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for ReadingsThread {
    fn drop(&mut self) {
        self.end = None;
        // It has nothing to say when it has panicked.
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// The thread that polls, and that the engine runs on: a poll wakes no other thread, which would cost more than the poll,
/// and no large page holds up a poll. Dropping it ends the thread and what still runs on it.
struct PollThread {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl PollThread {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("polls".to_owned()).spawn(move || {
            // An error is the end: the other half was dropped.
            let _ = runtime.block_on(ended);
            // A name lookup that hangs in the system's resolver must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, _end: end })
    }
}

/// Runs the daemon until SIGTERM or SIGINT. A second signal ends the process at once. On SIGHUP, and when its files change,
/// the configuration is read from `source` again.
pub async fn run(config: Config, source: Source, files: Vec<PathBuf>) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    raise_open_files();
    let hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let mut app = App::start(config).await?;
    let reload = reload::run(source, files, hangup, app.ordering.clone(), Arc::clone(&app.metrics), app.cancel.clone());
    app.spawn("reload".to_owned(), reload);
    let (stop, told_to_stop) = oneshot::channel();
    let stopped = app.run_until(async {
        // An error would mean that nobody is left to say it, which is the same.
        let _ = told_to_stop.await;
    });
    tokio::select! {
        result = stopped => result,
        () = async {
            let name = either(&mut terminate, &mut interrupt).await;
            info!(signal = name, "stopping");
            let _ = stop.send(());
            either(&mut terminate, &mut interrupt).await;
        } => {
            warn!("second signal: ending at once");
            Ok(())
        }
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

impl App {
    /// Binds the listener and starts every task.
    pub async fn start(config: Config) -> Result<Self, RunError> {
        let listener = TcpListener::bind(config.server.listen)
            .await
            .map_err(|source| RunError::Listen { address: config.server.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| RunError::Listen { address: config.server.listen, source })?;

        // What was found before is watched at once, whether AWS answers or not.
        let kept = config.store.as_deref().filter(|_| !config.discover.is_empty()).map(Kept::beside);
        let mut finders = Finders::new(kept);
        let listed = config;
        let config = finders.with_found(&listed);
        let mut agent_listeners = Vec::new();
        for (address, target) in config.agent_check.addresses() {
            let listener = TcpListener::bind(address).await.map_err(|source| RunError::Agent { address, source })?;
            agent_listeners.push((listener, target));
        }

        let tls = config.server.tls.as_ref().map(Tls::load).transpose()?;
        let mut fleet = Fleet::new(config.fleet_spec());
        let store = open_store(&config, &mut fleet)?;
        let (store, has_file) = store.map_or((None, false), |(store, has_file)| (Some(store), has_file));
        let (events, received) = mpsc::channel(EVENT_QUEUE);
        let (silencing, silencing_received) = mpsc::channel(SILENCE_QUEUE);
        let (draining, draining_received) = mpsc::channel(SILENCE_QUEUE);
        let (snapshot_sender, snapshots) = watch::channel(Arc::new(fleet.snapshot(clock::now(), clock::wall())));
        let aws = Aws::new(config.aws.clone());
        let metrics = Arc::new(SelfMetrics::new(&[]).with_aws(aws.metrics()));
        metrics.configured(Ok(clock::wall()));
        let (ordering, orders) = mpsc::channel(ORDER_QUEUE);
        let mut app = Self {
            address,
            tasks: JoinSet::new(),
            names: HashMap::new(),
            cancel: CancellationToken::new(),
            snapshots,
            metrics: Arc::clone(&metrics),
            polling: PollThread::start().map_err(RunError::Thread)?,
            readings: None,
            members: Members::default(),
            orders,
            ordering,
            events: Some(events),
        };
        let history = History::default();
        // Beside a store that another daemon has, that one keeps readings as well.
        if let Some(path) = config.store.as_deref().filter(|_| has_file) {
            let thread = ReadingsThread::start(readings::beside(path), app.snapshots.clone(), history.clone());
            app.readings = Some(thread.map_err(RunError::Thread)?);
        }

        let queues = Queues::default();
        app.members = Members::new(queues.clone(), aws.clone(), finders);
        app.start_notifiers(&config)?;
        let engine = Engine {
            fleet,
            events: received,
            notifiers: queues,
            snapshots: snapshot_sender,
            metrics: Arc::clone(&metrics),
            tick: tick_of(config.poll.interval),
            cancel: app.cancel.clone(),
            store,
            boot: clock::boot(),
            kept: None,
            silencing: silencing_received,
            unwritten: Unwritten::default(),
            draining: draining_received,
        };
        app.spawn_polling("engine".to_owned(), engine.run());
        let secrets = app.members.secrets().clone();
        app.spawn("secrets".to_owned(), secrets.keep(app.cancel.clone()));
        app.start_pollers(&config);

        app.spawn("history".to_owned(), history.clone().record(app.snapshots.clone(), app.cancel.clone()));
        let (open_files, n_targets) = (open_files(), config.n_targets() + config.n_poolers());
        let places = http::places(open_files, n_targets);
        app.start_cloudwatch(&config);

        let state = http::AppState {
            snapshots: app.snapshots.clone(),
            metrics,
            health: config.health,
            exposition: config.metrics,
            silencing,
            draining,
            token: config.server.token.clone(),
            auth: config.server.auth.clone(),
            history,
            live: Live::new(app.cancel.clone()),
            waiters: Arc::new(http::waiters(places)),
            waiting: Arc::clone(&app.members.waiting),
            aws: aws.clone(),
        };
        let cancel = app.cancel.clone();
        app.members.listed = Some(listed);
        let agent = Arc::new(Agent {
            snapshots: app.snapshots.clone(),
            health: config.health,
            thresholds: config.agent_check.thresholds(),
            gates: Mutex::default(),
        });
        app.members.keep(config);
        app.start_finders();
        let scheme = if tls.is_some() { "https" } else { "http" };
        info!(%address, "listening on {scheme}://{address}");
        if let Some(tls) = tls.clone() {
            app.spawn("certificate".to_owned(), tls.watch(app.cancel.clone()));
        }
        app.spawn("http".to_owned(), async move {
            if let Err(error) = http::serve(listener, tls, state, places, cancel).await {
                error!(%error, "cannot serve HTTP");
            }
        });
        for (listener, target) in agent_listeners {
            let name = target.as_ref().map_or_else(|| "agent check".to_owned(), |name| format!("agent check {name}"));
            app.spawn(name, agent_check::serve(listener, target, Arc::clone(&agent), app.cancel.clone()));
        }
        if let Some(limit) = sd_notify::watchdog_enabled() {
            app.spawn("watchdog".to_owned(), pet_watchdog(limit, app.snapshots.clone(), app.cancel.clone()));
        }
        Ok(app)
    }

    /// Where it listens; the port that was chosen when the configuration asked for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What readers see, as it changes.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Runs until `shutdown` is ready, then stops within the grace time. An error names the task that ended early.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        tell_supervisor(&[NotifyState::Ready]);
        let mut shutdown = std::pin::pin!(shutdown);
        let failed = loop {
            tokio::select! {
                () = &mut shutdown => break None,
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Some(error) = self.explain(ended) {
                        break Some(error);
                    }
                }
                Some(order) = self.orders.recv() => {
                    let done = tokio::select! {
                        () = &mut shutdown => break None,
                        done = self.follow(order) => done,
                    };
                    if let Err(error) = done {
                        break Some(error);
                    }
                }
            }
        };
        tell_supervisor(&[NotifyState::Stopping]);
        self.cancel.cancel();
        self.events = None;
        let drained = tokio::time::timeout(GRACE, async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
                self.names.remove(&id);
            }
        })
        .await;
        if drained.is_err() {
            let mut left: Vec<&String> = self.names.values().collect();
            left.sort();
            warn!(grace_ms = GRACE.as_millis(), tasks = ?left, "stopped without waiting for these tasks any longer");
        }
        failed.map_or(Ok(()), Err)
    }

    /// Why a task ended that was not told to.
    fn explain(&mut self, ended: Result<(Id, ()), JoinError>) -> Option<RunError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let name = self.names.remove(&id);
        match (name, ended) {
            (None, Err(error)) if error.is_panic() => Some(RunError::TaskPanicked("unnamed".to_owned())),
            (None, _) => None,
            (Some(name), Err(error)) if error.is_panic() => Some(RunError::TaskPanicked(name)),
            (Some(name), _) => Some(RunError::TaskEnded(name)),
        }
    }

    fn spawn(&mut self, name: String, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
        handle
    }

    /// On the thread that polls.
    fn spawn_polling(&mut self, name: String, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let handle = self.tasks.spawn_on(task, &self.polling.runtime);
        self.names.insert(handle.id(), name);
        handle
    }
}

/// Opens the store, if there is to be one, and gives the fleet what it kept. Says whether it has its file.
fn open_store(config: &Config, fleet: &mut Fleet) -> Result<Option<(Store, bool)>, RunError> {
    let Some(path) = &config.store else {
        warn!("nothing is kept over a restart: store.path names a file for alerts and what was told of them");
        return Ok(None);
    };
    let clocks = Clocks { boot: clock::boot(), mono: clock::now(), wall: clock::wall() };
    let (store, writer, saved) = Store::open(path.clone(), &clocks);
    let has_file = writer.has_file();
    if has_file {
        info!(path = %path.display(), alerts = saved.alerts.len(), histories = saved.lags.len(), "alerts are kept in {}", path.display());
    }
    fleet.restore(saved, clocks.mono);
    std::thread::Builder::new().name("store".to_owned()).spawn(|| writer.run()).map_err(RunError::Thread)?;
    Ok(Some((store, has_file)))
}

/// How many files may be open at once.
fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lets as many files be open as the system allows. The usual limit of 1,024 is there for programs that use `select`;
/// each target and each client takes one.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        warn!(%error, "cannot raise the limit on open files");
    }
}

/// Tells systemd that the daemon lives, as long as its engine makes progress.
async fn pet_watchdog(limit: Duration, snapshots: watch::Receiver<Arc<Snapshot>>, cancel: CancellationToken) {
    let mut every = tokio::time::interval(limit / 3);
    let mut is_heard = true;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = every.tick() => {}
        }
        let published_at = snapshots.borrow().published_at;
        if clock::now().duration_since(published_at) < limit {
            let told = sd_notify::notify(&[NotifyState::Watchdog]);
            if let (Err(error), true) = (&told, is_heard) {
                warn!(%error, "cannot tell the service manager");
            }
            is_heard = told.is_ok();
        }
    }
}

fn tell_supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell the service manager");
    }
}
