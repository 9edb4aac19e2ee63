//! Why nobody is told of an alert that fires. A mute never changes the alert: it is judged, shown and resolved as ever, and it
//! is told as soon as nothing mutes it any more, should it still fire.

use std::time::SystemTime;

use super::alert::AlertId;

/// A reason not to tell of an alert now, shown wherever the alert is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mute {
    /// Somebody asked for quiet.
    Silence { id: String, author: String, reason: String, until: SystemTime },
    /// A window of the configuration is open.
    Maintenance { name: String, until: SystemTime },
    /// It follows from another alert, of which people are told.
    DependsOn { alert: AlertId },
    /// It came and went this often within an hour: people were told so once, and will be when it is calm.
    Flapping { changes: u32 },
    /// Most of what is watched fell silent at once: the fault is near this daemon, and nothing is known of anything else.
    Isolated,
}

impl Mute {
    /// A word for a metric label.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Silence { .. } => "silence",
            Self::Maintenance { .. } => "maintenance",
            Self::DependsOn { .. } => "depends_on",
            Self::Flapping { .. } => "flapping",
            Self::Isolated => "isolated",
        }
    }
}
