//! When the primary's WAL reached each position. (To be written.)
