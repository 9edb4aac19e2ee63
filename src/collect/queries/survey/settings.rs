//! Settings that can change without a restart.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, setting_seconds};
use crate::core::observation::PollFailure;
use crate::core::survey::SurveyFacts;

pub(super) const TOPIC: Topic = Topic { name: "settings", sql, decode };

fn sql(_: Context<'_>) -> Option<String> {
    Some("SELECT current_setting('recovery_min_apply_delay')".to_owned())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let row = statements.first().and_then(|rows| rows.first()).map(Vec::as_slice).unwrap_or_default();
    let mut row = Fields::new("pg_settings", row);
    facts.apply_delay_seconds = Some(row.required("recovery_min_apply_delay", setting_seconds)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::observation::Flavor;

    #[test]
    fn a_delay_reads_with_its_unit() {
        let about = about(Flavor::PostgreSql, "1.10");
        let facts = decoded(&TOPIC, context(&about), &[vec![vec![Some("3s")]]]);
        assert_eq!(facts, Ok(SurveyFacts { apply_delay_seconds: Some(3.0), ..SurveyFacts::default() }));
    }
}
