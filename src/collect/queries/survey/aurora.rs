//! The other regions of an Aurora global database.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, name, number};
use crate::core::observation::{Flavor, PollFailure};
use crate::core::survey::{AuroraGlobal, AuroraReaderLag, AuroraRegion, SurveyFacts};

pub(super) const TOPIC: Topic = Topic { name: "aurora_global", sql, decode };

/// The primary region tells the beginning of 1970 as the time at which its lag was calculated.
const REGIONS: &str = "SELECT aws_region, durability_lag_in_msec, rpo_lag_in_msec, \
                       CASE WHEN last_lag_calculation_time > '1971-01-01' \
                       THEN extract(epoch FROM clock_timestamp() - last_lag_calculation_time) END \
                       FROM aurora_global_db_status()";

const READERS: &str = "SELECT server_id, aws_region, visibility_lag_in_msec FROM aurora_global_db_instance_status()";

fn sql(context: Context<'_>) -> Option<String> {
    let functions = &context.about.aurora;
    if context.about.identity.flavor != Flavor::Aurora || !functions.has_global_status {
        return None;
    }
    Some(if functions.has_global_instances { format!("{REGIONS};{READERS}") } else { REGIONS.to_owned() })
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let rows = |statement: usize| statements.get(statement).map(Vec::as_slice).unwrap_or_default();
    facts.aurora_global = Some(Box::new(AuroraGlobal {
        regions: rows(0).iter().map(|row| region(row)).collect::<Result<_, _>>()?,
        readers: rows(1).iter().map(|row| reader(row)).collect::<Result<_, _>>()?,
    }));
    Ok(())
}

fn region(row: &[Option<&str>]) -> Result<AuroraRegion, PollFailure> {
    let mut row = Fields::new("aurora_global_db_status", row);
    Ok(AuroraRegion {
        region: row.required("aws_region", name)?,
        durability_lag: lag(row.optional("durability_lag_in_msec", number)?),
        rpo_lag: lag(row.optional("rpo_lag_in_msec", number)?),
        age: row.optional("last_lag_calculation_time", number::<f64>)?.map(|age| age.max(0.0)),
    })
}

fn reader(row: &[Option<&str>]) -> Result<AuroraReaderLag, PollFailure> {
    let mut row = Fields::new("aurora_global_db_instance_status", row);
    Ok(AuroraReaderLag {
        instance: row.required("server_id", name)?,
        region: row.required("aws_region", name)?,
        visibility_lag: lag(row.optional("visibility_lag_in_msec", number)?),
    })
}

/// Milliseconds as seconds. -1 stands for none.
fn lag(milliseconds: Option<f64>) -> Option<f64> {
    milliseconds.filter(|milliseconds| *milliseconds >= 0.0).map(|milliseconds| milliseconds / 1e3)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::collect::queries::identity::{AuroraFunctions, Introduction};

    #[test]
    fn only_aurora_is_asked_and_only_with_the_functions_it_has() {
        let asked = |flavor, has_global_status, has_global_instances| {
            let aurora = AuroraFunctions { has_global_status, has_global_instances, ..AuroraFunctions::default() };
            sql(context(&Introduction { aurora, ..about(flavor, "1.10") }))
        };
        assert_eq!(asked(Flavor::PostgreSql, true, true), None);
        assert_eq!(asked(Flavor::Aurora, false, true), None);
        assert_eq!(asked(Flavor::Aurora, true, false).as_deref(), Some(REGIONS));
        assert_eq!(asked(Flavor::Aurora, true, true), Some(format!("{REGIONS};{READERS}")));
    }

    #[test]
    fn a_sentinel_is_no_lag() {
        let about = about(Flavor::Aurora, "1.10");
        let answer = [
            vec![
                vec![Some("eu-west-1"), Some("-1"), Some("-1"), None],
                vec![Some("us-east-1"), Some("83"), Some("0"), Some("0.5")],
            ],
            vec![
                vec![Some("w"), Some("eu-west-1"), None],
                vec![Some("r"), Some("us-east-1"), Some("1500")],
                vec![Some("s"), Some("us-east-1"), Some("-1")],
            ],
        ];
        let region = |region: &str, durability_lag, rpo_lag, age| AuroraRegion {
            region: region.to_owned(),
            durability_lag,
            rpo_lag,
            age,
        };
        let reader = |instance: &str, region: &str, visibility_lag| AuroraReaderLag {
            instance: instance.to_owned(),
            region: region.to_owned(),
            visibility_lag,
        };
        let global = AuroraGlobal {
            regions: vec![
                region("eu-west-1", None, None, None),
                region("us-east-1", Some(0.083), Some(0.0), Some(0.5)),
            ],
            readers: vec![
                reader("w", "eu-west-1", None),
                reader("r", "us-east-1", Some(1.5)),
                reader("s", "us-east-1", None),
            ],
        };
        let expect = SurveyFacts { aurora_global: Some(Box::new(global)), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, context(&about), &answer), Ok(expect));
    }
}
