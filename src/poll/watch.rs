//! `pgvigil poll --watch`: the table again and again, until somebody has seen enough. On a terminal each takes the place of
//! the one before; anywhere else they follow each other as plain text, as those of `top -b` do.
//!
//! Servers are asked all the while, so that more is known than from a single look: what is proven of a lag, which way it
//! goes, why, and which rule has fired.

use std::io::{self, ErrorKind};
use std::time::Duration;

use rustix::process::{Signal as Number, getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::screen::{Keys, Screen, put};
use super::{Round, patience, table};
use crate::clock;
use crate::config::Config;
use crate::core::snapshot::Snapshot;
use crate::table::wrapped;

/// Nobody reads faster.
const MOST_OFTEN: Duration = Duration::from_millis(250);

/// How it is printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Each table takes the place of the one before.
    pub in_place: bool,
    pub has_colour: bool,
    /// How wide the terminal is by now.
    pub width: fn() -> Option<usize>,
}

/// Asks and prints until it is told to end: by `q`, by a signal, or because nobody reads any more. `remarks` are told with
/// each table.
///
/// # Errors
/// The terminal cannot be used, or nothing can be written.
pub async fn watch(config: &Config, remarks: &[String], output: Output) -> io::Result<()> {
    let every = config.poll.interval.max(MOST_OFTEN);
    let mut signals = Signals::new()?;
    let mut screen = if output.in_place { Some(Screen::new()?) } else { None };
    let mut keys = screen.as_ref().map(Screen::keys);
    let mut round = Round::start(config);
    let mut draws = tokio::time::interval(every);
    draws.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = clock::now();
    let told = loop {
        let is_due = tokio::select! {
            event = round.event() => {
                round.apply(event);
                false
            }
            _ = draws.tick() => true,
            key = pressed(keys.as_mut()) => if matches!(key, b'q' | b'Q') { break Ok(()) } else { true },
            asked = signals.next() => match asked {
                Asked::End => break Ok(()),
                Asked::Draw => true,
                // A shell's job control; without a terminal that is ours to restore, it is done at once.
                Asked::Pause => {
                    if let Err(error) = pause(screen.as_mut()) {
                        break Err(error);
                    }
                    true
                }
            },
        };
        if !is_due {
            continue;
        }
        let snapshot = round.snapshot();
        let written = if let Some(screen) = &screen {
            screen.show(&page(&snapshot, every, remarks, output))
        } else if is_tried(&snapshot) || clock::now().duration_since(started) > patience(&config.poll) {
            put(&format!("{}\n", sheet(&snapshot, remarks, output)))
        } else {
            Ok(())
        };
        if let Err(error) = written {
            break Err(error);
        }
    };
    let last = round.snapshot();
    if let Some(mut screen) = screen.take() {
        screen.leave();
    }
    // What was seen last stays, where it was a page of its own.
    let told = told.and_then(|()| if output.in_place { put(&sheet(&last, remarks, output)) } else { Ok(()) });
    round.end().await;
    match told {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

async fn pressed(keys: Option<&mut Keys>) -> u8 {
    match keys {
        Some(keys) => keys.pressed().await,
        None => std::future::pending().await,
    }
}

/// Gives the terminal back while the process is stopped.
fn pause(mut screen: Option<&mut Screen>) -> io::Result<()> {
    if let Some(screen) = &mut screen {
        screen.leave();
    }
    kill_process(getpid(), Number::STOP)?;
    screen.map_or(Ok(()), Screen::enter)
}

/// Whether everything was asked once.
fn is_tried(snapshot: &Snapshot) -> bool {
    snapshot.clusters.iter().all(|cluster| {
        cluster.targets.iter().all(|target| target.answer.is_some() || target.failing.is_some())
            && cluster.poolers.iter().all(|pooler| pooler.answer.is_some() || pooler.failing.is_some())
    })
}

/// The table below the time.
fn sheet(snapshot: &Snapshot, remarks: &[String], output: Output) -> String {
    below(&format!("pgvigil {}", time()), snapshot, remarks, output)
}

/// The same on a terminal, with what one can do.
fn page(snapshot: &Snapshot, every: Duration, remarks: &[String], output: Output) -> String {
    let every = humantime::format_duration(every);
    below(&format!("pgvigil {}   every {every}   q: quit", time()), snapshot, remarks, output)
}

fn below(head: &str, snapshot: &Snapshot, remarks: &[String], output: Output) -> String {
    let width = (output.width)();
    let remarks = remarks.iter().map(|remark| wrapped(remark, width, 2) + "\n").collect::<String>();
    format!("{head}\n\n{remarks}{}", table(snapshot, output.has_colour, width))
}

fn time() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(clock::wall())
}

/// What a signal asks for.
enum Asked {
    End,
    Draw,
    Pause,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    resized: Signal,
    pause: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            resized: signal(SignalKind::window_change())?,
            pause: signal(SignalKind::from_raw(Number::TSTP.as_raw()))?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
            _ = self.hang_up.recv() => Asked::End,
            _ = self.resized.recv() => Asked::Draw,
            _ = self.pause.recv() => Asked::Pause,
        }
    }
}
