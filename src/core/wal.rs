//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log (`pg_lsn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lsn(u64);

impl Lsn {
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// WAL between `behind` and this position; zero when `behind` is not behind it.
    pub const fn bytes_ahead_of(self, behind: Self) -> WalBytes {
        WalBytes(self.0.saturating_sub(behind.0))
    }

    /// Where the last record before this position ends. `pg_current_wal_insert_lsn()` steps over the header of a page (24
    /// bytes, 40 at the start of a segment) as soon as the page before is full, but replay stands before that header until
    /// there is a record after it. Nothing can end 40 bytes into a page that did not begin on the page before, so that who
    /// has reached the page's start has it.
    #[must_use]
    pub const fn end_of_record(self) -> Self {
        const PAGE: u64 = 8192;
        match self.0 % PAGE {
            header @ (24 | 40) => Self(self.0 - header),
            _ => self,
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not a WAL position.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position: write for example 0/16B3748")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let half = |digits: &str| {
            if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseLsnError);
            }
            u64::from_str_radix(digits, 16).map_err(|_| ParseLsnError)
        };
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

/// An amount of write-ahead log, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WalBytes(pub u64);

/// A timeline: the number that goes up by one at each promotion. LSNs of two timelines compare only up to the fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timeline(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_and_prints_as_postgresql_does() {
        for text in ["0/0", "0/16B3748", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().map(|lsn| lsn.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "/", "0/", "/0", "0/123456789", "0/G", "0/+1", " 0/1", "0/1/2"] {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError), "{text:?}");
        }
    }

    #[test]
    fn the_header_of_a_page_is_no_record() {
        for (position, end) in [
            (0x0300_0000, 0x0300_0000),
            (0x0300_0028, 0x0300_0000),
            (0x0300_2018, 0x0300_2000),
            (0x0300_2019, 0x0300_2019),
            (0x0300_2030, 0x0300_2030),
        ] {
            assert_eq!(Lsn::new(position).end_of_record(), Lsn::new(end), "{position:X}");
        }
    }

    #[test]
    fn a_replica_polled_later_than_its_primary_is_zero_bytes_behind() {
        assert_eq!(Lsn::new(100).bytes_ahead_of(Lsn::new(40)), WalBytes(60));
        assert_eq!(Lsn::new(40).bytes_ahead_of(Lsn::new(100)), WalBytes(0));
    }
}
