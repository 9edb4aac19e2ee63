//! Tests of the whole.

mod connect;
