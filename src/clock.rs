//! The only place that reads the clock.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

use crate::core::time::MonoTime;

/// Now, on the monitor's own clock: `CLOCK_BOOTTIME`, which no NTP step moves and which counts suspended time.
pub fn now() -> MonoTime {
    let now = clock_gettime(ClockId::Boottime);
    MonoTime::from_nanos(now.tv_sec * 1_000_000_000 + now.tv_nsec)
}

/// Which boot of which machine [`now`] counts from. Empty where the system does not say.
pub fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The time of day, for people only: nothing is decided by it.
#[expect(clippy::disallowed_methods, reason = "this module is the one place that may")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
