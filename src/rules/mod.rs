//! `pgvigil rules`: what rules make of readings, without any server. [`test`](mod@test) takes invented readings and says whether
//! alerts came as expected; [`replay`] takes those that a daemon kept and says what would have fired; [`prometheus`] says rules in Prometheus' words.

pub mod prometheus;
pub mod replay;
pub mod test;
