//! Names of databases, by which other matters are told. `pg_database` is the one catalog that some of those who manage
//! servers lock: it is asked for once, and what needs it comes after.

use std::sync::Arc;

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, number};
use crate::core::observation::PollFailure;
use crate::core::survey::SurveyFacts;

pub(super) const TOPIC: Topic = Topic { name: "databases", sql, decode };

fn sql(_: Context<'_>) -> Option<String> {
    Some("SELECT oid, datname FROM pg_database".to_owned())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let rows = statements.first().map(Vec::as_slice).unwrap_or_default();
    let databases = rows.iter().map(|row| {
        let mut row = Fields::new("pg_database", row);
        Ok((row.required("oid", number)?, row.required("datname", |text| Some(Arc::from(text)))?))
    });
    facts.databases = Some(databases.collect::<Result<_, _>>()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::observation::Flavor;

    #[test]
    fn databases_read_as_the_server_says_them() {
        let about = about(Flavor::PostgreSql, "1.10");
        let answer = [vec![vec![Some("5"), Some("postgres")]]];
        let expect = SurveyFacts { databases: Some(vec![(5, Arc::from("postgres"))]), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, context(&about), &answer), Ok(expect));
    }
}
