//! The first minute: servers start, one replica stops replaying, its lag grows, an alert fires, it recovers.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::daemon::{Alert, Daemon, THRESHOLD_S, View, health_path};
use super::screen::{Screen, Tone, bytes, curve, pad, seconds};
use super::servers::{Plan, Servers};
use super::{DemoError, Installation, Server, ServersError};
use crate::clock;
use crate::core::time::MonoTime;

const REPLICAS: [&str; 2] = ["replica-1", "replica-2"];
/// The one that has the incident.
const VICTIM: &str = REPLICAS[1];
/// How often the daemon is asked and the picture drawn.
const BEAT: Duration = Duration::from_millis(250);
/// What should happen within seconds has failed after this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two incidents, for those who stay to look around.
const INTERLUDE: Duration = Duration::from_secs(30);
/// Readings in the curve, one a second.
const CURVE: usize = 40;

/// A little writing for ever: 200 rows some 20 times a second, each time its own transaction. The table is emptied now
/// and then, so that a demo left running does not fill the machine's memory.
const LOAD: &str = "DO $$ DECLARE turn int := 0; BEGIN LOOP
    turn := turn + 1;
    IF turn % 1200 = 0 THEN TRUNCATE load; END IF;
    INSERT INTO load SELECT turn, md5(n::text) FROM generate_series(1, 200) AS n;
    COMMIT;
    PERFORM pg_sleep(0.05);
END LOOP; END $$";

/// Runs the demo until the incident is over or, on a terminal, until it is interrupted. Then everything is gone.
///
/// # Errors
/// PostgreSQL is not installed, servers or daemon cannot be started, or the incident does not go as it must.
pub async fn run() -> Result<(), DemoError> {
    // Listened for before anything is started, so that nothing is left behind however soon it comes.
    let interrupted = interruption()?;
    let mut screen = Screen::new();
    let outcome = tokio::select! {
        outcome = show(&mut screen) => outcome,
        () = interrupted => Ok(()),
    };
    // By now the servers and the daemon are stopped: `show` has ended or was dropped, and they with it.
    screen.draw(&[]);
    if outcome.is_ok() {
        screen.say(
            &screen.paint(Tone::Faint, "\n  The demo has ended; its servers are stopped and their files are gone."),
        );
    }
    outcome
}

/// Listens for Ctrl-C, SIGTERM and the terminal's end from now on; what it gives waits for the first of them.
fn interruption() -> Result<impl Future<Output = ()>, DemoError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DemoError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn show(screen: &mut Screen) -> Result<(), DemoError> {
    let installation = Installation::newest().ok_or(ServersError::NotInstalled)?;
    let version = installation.version.clone();
    screen.say(&format!("\n  {}\n", screen.paint(Tone::Title, "pgvigil demo")));
    screen.say(&format!("  PostgreSQL {version}: starting a primary and two replicas on this machine ..."));
    let started = clock::now();
    let plan = REPLICAS.iter().fold(Plan::new(installation), |plan, name| plan.standby(name, "primary"));
    let servers = Servers::start(&plan).await?;
    servers.primary().sql("CREATE TABLE load(turn int, payload text)").await?;
    let daemon = Daemon::start(&servers)?;
    let took = clock::now().duration_since(started).as_secs_f64();
    screen.say(&format!(
        "  {} in {took:.1} s; pgvigil asks each of them once a second.\n",
        screen.paint(Tone::Good, "ready")
    ));

    let mut walk = Walk {
        screen,
        daemon,
        started: clock::now(),
        view: View::default(),
        curves: HashMap::new(),
        next_reading: clock::now(),
        told: 0,
    };
    tokio::select! {
        outcome = walk.all(servers.node(VICTIM)) => outcome,
        // It never ends by itself.
        load = servers.primary().sql(LOAD) => load.map(|_| ()).map_err(DemoError::from),
    }
}

/// The demo while it runs.
struct Walk<'a> {
    screen: &'a mut Screen,
    daemon: Daemon,
    started: MonoTime,
    /// The daemon's last answer.
    view: View,
    curves: HashMap<String, VecDeque<Option<f64>>>,
    /// When the curves get their next reading.
    next_reading: MonoTime,
    /// Readings since they were last told in words.
    told: u32,
}

impl Walk<'_> {
    async fn all(&mut self, victim: &Server) -> Result<(), DemoError> {
        self.wait("pgvigil to know the lag of both replicas", |view| {
            REPLICAS.iter().all(|replica| view.lag(replica).is_some_and(|lag| lag < 1.0))
        })
        .await?;
        self.show_urls().await;
        self.event("A small load writes to the primary, and both replicas keep up.");
        self.look_for(Duration::from_secs(5)).await?;
        loop {
            self.incident(victim).await?;
            if !self.screen.is_terminal() {
                return Ok(());
            }
            self.event("All is well again. The incident is repeated in 30 s; Ctrl-C ends the demo.");
            self.look_for(INTERLUDE).await?;
        }
    }

    async fn show_urls(&mut self) {
        let mut urls = Vec::new();
        if self.daemon.has("/").await {
            urls.push(("/".to_owned(), "status page"));
        }
        urls.push((health_path(VICTIM), "may reads go there? for load balancers"));
        urls.push(("/metrics".to_owned(), "for Prometheus"));
        urls.push(("/api/v1/clusters/demo".to_owned(), "for your own tools"));
        let address = self.daemon.address;
        for (path, what) in urls {
            let url = pad(&format!("http://{address}{path}"), 64);
            self.screen.say(&format!("    {url} {}", self.screen.paint(Tone::Faint, what)));
        }
        self.screen.say("");
    }

    async fn incident(&mut self, victim: &Server) -> Result<(), DemoError> {
        victim.sql("SELECT pg_wal_replay_pause()").await?;
        self.event(&format!("Replay is paused on {VICTIM}: SELECT pg_wal_replay_pause(). It still receives WAL."));

        self.wait("the alert to be pending", |view| state(view).is_some_and(|state| state != "resolved")).await?;
        let pending = self.screen.paint(Tone::Doubtful, "pending");
        self.event(&format!("{VICTIM} is more than {THRESHOLD_S} s behind: alert ReplicaLagging is {pending}."));

        self.wait("the health check to fail", |view| {
            view.target(VICTIM).is_some_and(|target| target.may_be_read == Some(false))
        })
        .await?;
        let out = self.screen.paint(Tone::Bad, "503");
        self.event(&format!("/healthz/demo/{VICTIM} says {out}: a load balancer sends no more reads there."));

        self.wait("the alert to fire", |view| state(view) == Some("firing")).await?;
        let firing = self.screen.paint(Tone::Bad, "firing");
        self.event(&format!("It has been so for 3 s: ReplicaLagging is {firing}, and whoever is on call is told."));
        self.look_for(Duration::from_secs(6)).await?;

        victim.sql("SELECT pg_wal_replay_resume()").await?;
        self.event(&format!("Replay is resumed on {VICTIM}: SELECT pg_wal_replay_resume()."));
        self.wait("the replica to catch up", |view| {
            let is_read = view.target(VICTIM).is_some_and(|target| target.may_be_read == Some(true));
            is_read && view.lag(VICTIM).is_some_and(|lag| lag < 1.0)
        })
        .await?;
        self.wait("the alert to resolve", |view| state(view).is_none_or(|state| state == "resolved")).await?;
        let (resolved, back) = (self.screen.paint(Tone::Good, "resolved"), self.screen.paint(Tone::Good, "200"));
        self.event(&format!("{VICTIM} has caught up: ReplicaLagging is {resolved}, /healthz says {back}."));
        self.look_for(Duration::from_secs(3)).await
    }

    fn event(&mut self, text: &str) {
        self.screen.event(clock::now().duration_since(self.started), text);
        let picture = self.picture();
        self.screen.draw(&picture);
    }

    /// Shows what goes on, for a time.
    async fn look_for(&mut self, time: Duration) -> Result<(), DemoError> {
        let end = clock::now().plus(time);
        while clock::now() < end {
            self.beat().await?;
        }
        Ok(())
    }

    /// Shows what goes on until something has happened.
    async fn wait(&mut self, what: &'static str, has_happened: impl Fn(&View) -> bool) -> Result<(), DemoError> {
        let begun = clock::now();
        loop {
            self.beat().await?;
            if has_happened(&self.view) {
                return Ok(());
            }
            if clock::now().duration_since(begun) > PATIENCE {
                return Err(DemoError::Stuck { what, log: self.daemon.log() });
            }
        }
    }

    async fn beat(&mut self) -> Result<(), DemoError> {
        if let Some(view) = self.daemon.view().await? {
            self.view = view;
            let now = clock::now();
            if now >= self.next_reading {
                self.next_reading = now.plus(Duration::from_secs(1));
                self.keep_readings();
                self.tell_readings();
            }
            let picture = self.picture();
            self.screen.draw(&picture);
        }
        tokio::time::sleep(BEAT).await;
        Ok(())
    }

    fn keep_readings(&mut self) {
        for replica in REPLICAS {
            let curve = self.curves.entry(replica.to_owned()).or_default();
            curve.push_back(self.view.lag(replica));
            if curve.len() > CURVE {
                curve.pop_front();
            }
        }
    }

    /// Where no picture is drawn, the lag of the replicas in words, every three seconds.
    fn tell_readings(&mut self) {
        self.told = (self.told + 1) % 3;
        if self.screen.is_terminal() || self.told != 0 {
            return;
        }
        let lags = REPLICAS.map(|replica| {
            format!("{replica} lags {}", self.view.lag(replica).map_or_else(|| "unknown".to_owned(), seconds))
        });
        self.event(&format!("  {}", lags.join(", ")));
    }

    /// The table that is drawn anew: a line a server, and the alert.
    fn picture(&self) -> Vec<String> {
        let screen = &*self.screen;
        let columns = [13, 10, 18, 12, 8];
        let row = |cells: [String; 5], last: String| {
            let cells: String = cells.iter().zip(columns).map(|(cell, width)| pad(cell, width)).collect();
            format!("  {cells}{last}")
        };
        let head = ["server", "role", "replay lag", "to replay", "reads"].map(str::to_owned);
        let mut lines = vec![String::new(), screen.paint(Tone::Faint, &row(head, "the last 40 s".to_owned()))];
        for target in &self.view.targets {
            let lag = target.lag.as_ref();
            let value = lag.and_then(|lag| lag.seconds);
            let behind = value.is_some_and(|value| value > THRESHOLD_S);
            let tone = if behind { Tone::Bad } else { Tone::Good };
            let told = match (lag, value) {
                (Some(lag), Some(value)) if lag.certainty == "exact" => screen.paint(tone, &seconds(value)),
                (Some(lag), Some(value)) => {
                    let certainty = lag.certainty.replace('_', " ");
                    screen.paint(tone, &format!("{certainty} {}", seconds(value)))
                }
                (Some(_), None) => "unknown".to_owned(),
                (None, _) => String::new(),
            };
            let reads = match target.may_be_read {
                Some(true) => screen.paint(Tone::Good, "yes"),
                Some(false) => screen.paint(Tone::Bad, "no"),
                None => String::new(),
            };
            let unreplayed = lag.and_then(|lag| lag.unreplayed_bytes).map(bytes).unwrap_or_default();
            let past = self.curves.get(&target.name).map(|past| curve(past, THRESHOLD_S)).unwrap_or_default();
            let role = target.role.clone().unwrap_or_else(|| "?".to_owned());
            lines.push(row([target.name.clone(), role, told, unreplayed, reads], screen.paint(tone, &past)));
        }
        lines.push(String::new());
        lines.push(match self.view.alert(VICTIM) {
            Some(alert) => format!("  alert  {}", self.alert_line(alert)),
            None => screen.paint(Tone::Faint, "  no alert"),
        });
        lines.push(screen.paint(Tone::Faint, "  Ctrl-C ends the demo and removes everything."));
        lines
    }

    fn alert_line(&self, alert: &Alert) -> String {
        let tone = match alert.state.as_str() {
            "firing" => Tone::Bad,
            "pending" => Tone::Doubtful,
            _ => Tone::Good,
        };
        let state = self.screen.paint(tone, &alert.state.to_uppercase());
        let reading = alert.reading.map(|reading| format!(": {}", seconds(reading))).unwrap_or_default();
        format!("{} {VICTIM}  {state}  {}{reading}", alert.rule, alert.condition)
    }
}

/// The state of the alert that the incident is about.
fn state(view: &View) -> Option<&str> {
    view.alert(VICTIM).map(|alert| alert.state.as_str())
}
