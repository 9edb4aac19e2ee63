//! Aurora in place of WAL positions: its instances share one volume, and each knows how far every reader is. What
//! PostgreSQL would be asked is refused there and leaves an error in the server's log each time, so none of it is.

use super::identity::{AuroraFunctions, Introduction};
use super::{Optional, Refused};
use crate::collect::decode::{Fields, Rows, boolean, number, shared_name, timestamp};
use crate::core::observation::{AuroraInstance, AuroraState, PollFailure};
use crate::core::time::ServerTime;
use crate::core::topology::Role;

/// What one fast poll asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) refused: Refused,
    /// `pg_postmaster_start_time()`, by which another server behind the same pooler is told.
    pub(crate) started_at: bool,
}

/// What it says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) clock: ServerTime,
    pub(crate) started_at: Option<ServerTime>,
    pub(crate) state: AuroraState,
}

/// Columns of `aurora_replica_status()`, in the order in which they are read.
const STATUS: [&str; 4] = ["durable_lsn", "highest_lsn_rcvd", "current_read_lsn", "replica_lag_in_msec"];

impl Question {
    fn instance(self, functions: &AuroraFunctions) -> bool {
        functions.has_instance && !self.refused.contains(Optional::AuroraInstance)
    }

    fn status(self, functions: &AuroraFunctions) -> bool {
        functions.has_replica_status && !self.refused.contains(Optional::AuroraStatus)
    }

    pub(crate) fn sql(self, about: &Introduction) -> String {
        let functions = &about.aurora;
        let mut sql = "SELECT pg_is_in_recovery(), clock_timestamp()".to_owned();
        if self.started_at {
            sql.push_str(", pg_postmaster_start_time()");
        }
        if self.instance(functions) {
            sql.push_str(", aurora_db_instance_identifier()");
        }
        if self.status(functions) {
            sql.push_str(";SELECT server_id, session_id::text = 'MASTER_SESSION_ID'");
            for column in STATUS {
                sql.push_str(", ");
                sql.push_str(column);
            }
            sql.push_str(
                ", extract(epoch FROM clock_timestamp() - last_update_timestamp) FROM aurora_replica_status()",
            );
        }
        sql
    }

    pub(crate) fn decode(self, about: &Introduction, statements: &[Rows<'_>]) -> Result<Reading, PollFailure> {
        let row = statements.first().and_then(|rows| rows.first()).map(Vec::as_slice).unwrap_or_default();
        let mut row = Fields::new("positions", row);
        let in_recovery = row.required("pg_is_in_recovery", boolean)?;
        let clock = row.required("clock_timestamp", timestamp)?;
        let started_at =
            if self.started_at { Some(row.required("pg_postmaster_start_time", timestamp)?) } else { None };
        let instance = if self.instance(&about.aurora) {
            row.optional("aurora_db_instance_identifier", shared_name)?
        } else {
            None
        };
        let rows = statements.get(1).map(Vec::as_slice).unwrap_or_default();
        let instances = rows.iter().map(|row| status(row)).collect::<Result<_, _>>()?;
        let role = if in_recovery { Role::Replica } else { Role::Primary };
        Ok(Reading { clock, started_at, state: AuroraState { role, instance, instances } })
    }
}

fn status(row: &[Option<&str>]) -> Result<AuroraInstance, PollFailure> {
    let mut row = Fields::new("aurora_replica_status", row);
    let id = row.required("server_id", shared_name)?;
    let is_writer = row.optional("session_id", boolean)?.unwrap_or(false);
    // Below zero is no position, and no lag.
    let position = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let [durable_lsn, highest_lsn_rcvd, current_read_lsn, replica_lag] = STATUS;
    Ok(AuroraInstance {
        id,
        is_writer,
        durable_lsn: position(row.optional(durable_lsn, number)?),
        highest_lsn_received: position(row.optional(highest_lsn_rcvd, number)?),
        current_read_lsn: position(row.optional(current_read_lsn, number)?),
        replica_lag: row.optional(replica_lag, number::<f64>)?.filter(|ms| *ms >= 0.0).map(|ms| ms / 1e3),
        age: row.optional("last_update_timestamp", number::<f64>)?.map(|age| age.max(0.0)),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::collect::queries::survey::tests::about;
    use crate::core::observation::Flavor;

    fn aurora() -> Introduction {
        let aurora = AuroraFunctions { has_instance: true, has_replica_status: true, ..AuroraFunctions::default() };
        Introduction { aurora, ..about(Flavor::Aurora, "1.10") }
    }

    const EACH: Question = Question { refused: Refused(0), started_at: false };

    #[test]
    fn only_what_aurora_answers_is_asked() {
        let full = EACH.sql(&aurora());
        assert_eq!(
            full,
            "SELECT pg_is_in_recovery(), clock_timestamp(), aurora_db_instance_identifier();\
             SELECT server_id, session_id::text = 'MASTER_SESSION_ID', durable_lsn, highest_lsn_rcvd, \
             current_read_lsn, replica_lag_in_msec, extract(epoch FROM clock_timestamp() - last_update_timestamp) \
             FROM aurora_replica_status()"
        );
        let bare = "SELECT pg_is_in_recovery(), clock_timestamp()";
        assert_eq!(EACH.sql(&about(Flavor::Aurora, "1.10")), bare);
        let mut refused = Refused::default();
        refused.insert(Optional::AuroraInstance);
        refused.insert(Optional::AuroraStatus);
        assert_eq!(Question { refused, ..EACH }.sql(&aurora()), bare);
    }

    #[test]
    fn the_status_of_each_instance_is_read_and_a_negative_number_is_none() {
        let answer = [
            vec![vec![Some("t"), Some("2026-11-20 10:00:00+00"), Some("r1")]],
            vec![
                vec![Some("w"), Some("t"), Some("900"), None, None, None, Some("0.25")],
                vec![Some("r1"), Some("f"), Some("900"), Some("890"), Some("880"), Some("12.5"), None],
                vec![Some("r2"), Some("f"), Some("-1"), None, None, Some("-1"), Some("-0.5")],
            ],
        ];
        let instance = |id: &str| AuroraInstance {
            id: Arc::from(id),
            is_writer: false,
            durable_lsn: Some(900),
            highest_lsn_received: None,
            current_read_lsn: None,
            replica_lag: None,
            age: None,
        };
        let state = AuroraState {
            role: Role::Replica,
            instance: Some(Arc::from("r1")),
            instances: vec![
                AuroraInstance { is_writer: true, age: Some(0.25), ..instance("w") },
                AuroraInstance {
                    highest_lsn_received: Some(890),
                    current_read_lsn: Some(880),
                    replica_lag: Some(0.0125),
                    ..instance("r1")
                },
                AuroraInstance { durable_lsn: None, age: Some(0.0), ..instance("r2") },
            ],
        };
        assert_eq!(EACH.decode(&aurora(), &answer).map(|reading| reading.state), Ok(state));
    }
}
