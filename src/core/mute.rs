//! Why nobody is told of an alert that fires. A mute never changes the alert: it is judged, shown and resolved as ever, and it
//! is told as soon as nothing mutes it any more, should it still fire.

use std::fmt;
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

impl fmt::Display for Mute {
    /// In words that follow "Lag orders/r1 fires, ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence { author, reason, until, .. } => {
                write!(f, "silenced by {author} until {}: {reason}", minute(*until))
            }
            Self::Maintenance { name, until } => write!(f, "silenced by maintenance {name} until {}", minute(*until)),
            Self::DependsOn { alert } => write!(f, "following from {alert}"),
            Self::Flapping { changes } => write!(f, "flapping: {changes} changes within an hour"),
            Self::Isolated => f.write_str("held while nothing can be reached"),
        }
    }
}

fn minute(time: SystemTime) -> String {
    // Later than the year 9999 it could not be written.
    let last = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799);
    let text = humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, last)).to_string();
    format!("{} {} UTC", &text[..10], &text[11..16])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_mute_says_who_and_until_when() {
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let silence =
            Mute::Silence { id: "1".to_owned(), author: "ada".to_owned(), reason: "switchover".to_owned(), until };
        assert_eq!(silence.to_string(), "silenced by ada until 2027-01-15 08:00 UTC: switchover");
        let window = Mute::Maintenance { name: "nightly".to_owned(), until };
        assert_eq!(window.to_string(), "silenced by maintenance nightly until 2027-01-15 08:00 UTC");
        let far = Mute::Maintenance { name: "n".to_owned(), until: until + Duration::from_secs(1 << 40) };
        assert_eq!(far.to_string(), "silenced by maintenance n until 9999-12-31 23:59 UTC");
    }
}
