//! Which standbys a primary's commits wait for. The setting can change without a restart.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows};
use crate::core::observation::PollFailure;
use crate::core::survey::SurveyFacts;
use crate::core::topology::Role;
use crate::core::topology::synchronous::SyncStandbys;

pub(super) const TOPIC: Topic = Topic { name: "synchronous", sql, decode };

fn sql(context: Context<'_>) -> Option<String> {
    (context.role == Some(Role::Primary)).then(|| "SELECT current_setting('synchronous_standby_names')".to_owned())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let row = statements.first().and_then(|rows| rows.first()).map(Vec::as_slice).unwrap_or_default();
    let mut row = Fields::new("pg_settings", row);
    facts.sync_standbys = Some(row.required("synchronous_standby_names", SyncStandbys::parse)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::observation::Flavor;

    #[test]
    fn only_a_primary_is_asked() {
        let about = about(Flavor::PostgreSql, "1.10");
        let primary = context(&about);
        assert!(TOPIC.sql(primary).is_some());
        assert_eq!(TOPIC.sql(Context { role: Some(Role::Replica), ..primary }), None);
        let facts = decoded(&TOPIC, primary, &[vec![vec![Some("ANY 2 (a, b, c)")]]]);
        assert_eq!(facts.map(|facts| facts.sync_standbys.map(|standbys| standbys.required)), Ok(Some(2)));
    }
}
