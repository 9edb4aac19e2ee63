//! Connections are opened in turns.
//!
//! To open one costs the server a process, and both sides a handshake and a password's hash: a thousand times what a poll
//! costs. All at once, each would take so long that all time out, and all would be tried again. So only so many are
//! opened at a time, and whoever waits for its turn has neither been tried nor failed: its time-out begins with the turn.
//!
//! A server that does not answer takes the turn of no other: see [`Turn::go_on`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that may be opened at a time. A start-up takes a few milliseconds of our CPU (the hash of a password, a TLS
/// handshake), so each of these is done within a fraction of a second, and polls go on beside them.
const AT_A_TIME: usize = 32;

/// ... to one server. More than it has CPUs, so that it always has work; so few that each waits a second at most.
const AT_ONE_SERVER: usize = 8;

/// Who has not finished by then waits for a server or a network, not for us, and gives way to others.
pub(super) const QUICK: Duration = Duration::from_secs(1);

/// Who may open a connection now.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// By address. Of servers to which a connection is being opened, or is to be.
    servers: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Until it is dropped, nobody else opens a connection in its place.
#[derive(Debug)]
pub(crate) struct Turn {
    all: Option<OwnedSemaphorePermit>,
    server: Option<OwnedSemaphorePermit>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_A_TIME)), servers: Mutex::default() }
    }
}

impl Turns {
    /// Waits for a turn to connect to `server`, in the order of those who asked.
    pub(crate) async fn take(&self, server: &str) -> Turn {
        let places = self.of(server);
        // The server's first: who waits for a busy one keeps nobody from another.
        let server = places.acquire_owned().await.ok();
        Turn { all: Arc::clone(&self.all).acquire_owned().await.ok(), server }
    }

    fn of(&self, server: &str) -> Arc<Semaphore> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = servers.get(server) {
            return Arc::clone(places);
        }
        servers.retain(|_, places| Arc::strong_count(places) > 1);
        let places = Arc::new(Semaphore::new(AT_ONE_SERVER));
        servers.insert(server.to_owned(), Arc::clone(&places));
        places
    }
}

impl Turn {
    /// [`QUICK`] is over: the attempt goes on, and others may connect to other servers. While the server has not accepted
    /// the connection (`is_accepted`), the attempt costs it nothing, so others may try the same one, too.
    pub(crate) fn go_on(&mut self, is_accepted: bool) {
        self.all = None;
        if !is_accepted {
            self.server = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// One attempt: how long it takes, and whether the server accepts it. When it ended, since the start.
    async fn attempt(turns: &Turns, server: &str, takes: Duration, is_accepted: bool) -> Duration {
        let start = Instant::now();
        let mut turn = turns.take(server).await;
        sleep(takes.min(QUICK)).await;
        if takes > QUICK {
            turn.go_on(is_accepted);
            sleep(takes.checked_sub(QUICK).unwrap()).await;
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn two_thousand_connections_to_one_server_are_opened_so_many_at_a_time() {
        let (turns, n_open, most) = (Turns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Instant::now();
        join_all((0..2000).map(|_| async {
            let _turn = turns.take("db:5432").await;
            most.fetch_max(n_open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            n_open.fetch_sub(1, Ordering::Relaxed);
        }))
        .await;
        assert_eq!(most.into_inner(), AT_ONE_SERVER);
        assert_eq!(start.elapsed().as_secs(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_dead_servers_hold_up_nobody_for_long() {
        let turns = Turns::default();
        let dead: Vec<String> = (0..100).map(|n| format!("dead-{n}:5432")).collect();
        let good: Vec<String> = (0..1900).map(|n| format!("good-{n}:5432")).collect();
        let time_out = Duration::from_secs(10);
        let dying = join_all(dead.iter().map(|server| attempt(&turns, server, time_out, false)));
        let living = join_all(good.iter().map(|server| attempt(&turns, server, Duration::from_millis(50), true)));
        let (_, living) = tokio::join!(dying, living);
        let slowest = living.into_iter().max().unwrap();
        assert!(slowest < Duration::from_secs(8), "{slowest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_does_not_answer_is_asked_by_few_at_a_time_and_costs_the_others_nothing() {
        let turns = Turns::default();
        let time_out = Duration::from_secs(10);
        let hung = join_all((0..100).map(|_| attempt(&turns, "hung:5432", time_out, true)));
        let gone = join_all((0..100).map(|_| attempt(&turns, "gone:5432", time_out, false)));
        let good = join_all((0..100).map(|_| attempt(&turns, "good:5432", Duration::from_millis(50), true)));
        let (hung, gone, good) = tokio::join!(hung, gone, good);
        let slowest = |times: Vec<Duration>| times.into_iter().max().unwrap();
        // Twelve times as many as it may be asked at a time, and a few more, ten seconds each.
        assert_eq!(slowest(hung).as_secs(), 130);
        let (gone, good) = (slowest(gone), slowest(good));
        assert!(gone < Duration::from_secs(24), "{gone:?}");
        assert!(good < Duration::from_secs(5), "{good:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_nobody_connects_to_are_forgotten() {
        let turns = Turns::default();
        for n in 0..1000 {
            drop(turns.take(&format!("db-{n}:5432")).await);
        }
        assert!(turns.servers.lock().unwrap().len() <= 2);
    }
}
