//! Reads the configuration again: when it is told to (SIGHUP), and when one of its files has changed.
//!
//! It is read and checked as a whole before anything changes. One with a fault changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Order;
use crate::config::Source;
use crate::self_metrics::SelfMetrics;

/// How often the files are looked at. By their content: a volume of Kubernetes is exchanged as a whole, which is seen by
/// no watch on a file.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Runs until cancelled.
pub(super) async fn run(
    source: Source,
    files: Vec<PathBuf>,
    mut hangup: Signal,
    orders: mpsc::Sender<Order>,
    metrics: Arc<SelfMetrics>,
    cancel: CancellationToken,
) {
    let mut files = files;
    let mut seen = contents(&files).await;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(()) = hangup.recv() => info!("SIGHUP: reading the configuration again"),
            _ = look.tick() => {
                if contents(&files).await == seen {
                    continue;
                }
                info!("a file of the configuration has changed: reading it again");
            }
        }
        // What changes while it is read is read again.
        seen = contents(&files).await;
        match source.load() {
            Ok(loaded) => {
                if files != loaded.files {
                    files = loaded.files;
                    seen = contents(&files).await;
                }
                if orders.send(Order::Configuration(Box::new(loaded.config))).await.is_err() {
                    return;
                }
            }
            Err(reason) => {
                metrics.configured(Err(()));
                error!(error = %reason, "the configuration is refused, and the one before stays in force: {reason}");
            }
        }
    }
}

/// A digest of what each file holds; `None` for one that cannot be read now.
async fn contents(files: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        contents.push(tokio::fs::read(file).await.ok().map(|content| Sha256::digest(content).to_vec()));
    }
    contents
}
