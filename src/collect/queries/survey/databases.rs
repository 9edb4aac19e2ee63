//! Names of databases, by which other matters are told. `pg_database` is the one catalog that some of those who manage
//! servers lock: it is asked for once, and what needs it comes after.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, each, number, shared_name};
use crate::core::observation::PollFailure;
use crate::core::survey::SurveyFacts;

pub(super) const TOPIC: Topic = Topic { name: "databases", sql, decode };

fn sql(_: Context<'_>) -> Option<String> {
    Some("SELECT oid, datname FROM pg_database".to_owned())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let rows = statements.first().map(Vec::as_slice).unwrap_or_default();
    let (databases, failure) = each(rows, |row| {
        let mut row = Fields::new("pg_database", row);
        Ok((row.required("oid", number)?, row.required("datname", shared_name)?))
    });
    facts.databases = Some(databases);
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
