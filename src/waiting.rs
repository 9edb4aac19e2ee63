//! That somebody waits for a server to read from: what the HTTP side tells the beat of a cluster, which may then come sooner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::core::topology::Name;

/// One bell a cluster.
#[derive(Debug, Default)]
pub struct Waiting {
    bells: Mutex<HashMap<Name, Arc<Notify>>>,
}

impl Waiting {
    /// The bell of a cluster that is watched.
    pub fn bell(&self, cluster: &Name) -> Arc<Notify> {
        // Nothing panics while it is held.
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(bells.entry(cluster.clone()).or_default())
    }
}
