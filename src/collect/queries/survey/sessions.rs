//! Client sessions.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, number};
use crate::core::observation::PollFailure;
use crate::core::survey::{Sessions, SurveyFacts};

pub(super) const TOPIC: Topic = Topic { name: "sessions", sql, decode };

/// Sessions, from the function below `pg_stat_activity`: the view's joins cost five times as much. Without the grant, of
/// other users' sessions only the database is shown: those with one are counted, state unknown (so are then the few
/// background processes that belong to a database).
const SESSIONS: &str = "SELECT state, count(*) FROM pg_stat_get_activity(NULL) \
                        WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL GROUP BY state";

fn sql(_: Context<'_>) -> Option<String> {
    Some(SESSIONS.to_owned())
}

fn decode(context: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let rows = statements.first().map(Vec::as_slice).unwrap_or_default();
    let mut by_state = Vec::with_capacity(rows.len());
    for row in rows {
        let mut row = Fields::new("pg_stat_activity", row);
        let state = row.text("state")?.unwrap_or("unknown").to_owned();
        by_state.push((state, row.required("count", number::<u64>)?));
    }
    by_state.sort();
    facts.sessions = Some(Sessions {
        total: by_state.iter().fold(0, |total, (_, count)| total.saturating_add(*count)),
        by_state,
        max_connections: context.about.max_connections,
        reserved_connections: context.about.reserved_connections,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::observation::Flavor;

    #[test]
    fn sessions_without_a_state_are_counted() {
        let about = about(Flavor::PostgreSql, "1.10");
        let answer = [vec![vec![Some("idle"), Some("4")], vec![None, Some("2")], vec![Some("active"), Some("1")]]];
        let sessions = Sessions {
            by_state: vec![("active".to_owned(), 1), ("idle".to_owned(), 4), ("unknown".to_owned(), 2)],
            total: 7,
            max_connections: 100,
            reserved_connections: 3,
        };
        let expect = SurveyFacts { sessions: Some(sessions), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, context(&about), &answer), Ok(expect));
    }
}
