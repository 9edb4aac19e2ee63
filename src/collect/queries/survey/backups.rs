//! Base backups in progress.

use super::{Context, Topic};
use crate::collect::decode::{Fields, Rows, number};
use crate::core::observation::PollFailure;
use crate::core::survey::{BaseBackup, SurveyFacts};

pub(super) const TOPIC: Topic = Topic { name: "backups", sql, decode };

const PHASES: [&str; 6] = [
    "initializing",
    "waiting for checkpoint to finish",
    "estimating backup size",
    "streaming database files",
    "waiting for wal archiving to finish",
    "transferring wal files",
];

#[expect(clippy::unnecessary_wraps, reason = "a topic may have nothing to ask")]
fn sql(_: Context<'_>) -> Option<String> {
    Some("SELECT phase, backup_streamed, backup_total FROM pg_stat_progress_basebackup".to_owned())
}

fn decode(_: Context<'_>, statements: &[Rows<'_>], facts: &mut SurveyFacts) -> Result<(), PollFailure> {
    let rows = statements.first().into_iter().flatten();
    let backup = |row: &Vec<Option<&str>>| {
        let mut row = Fields::new("pg_stat_progress_basebackup", row);
        let phase = row.text("phase")?.map(|phase| PHASES.into_iter().find(|known| *known == phase).unwrap_or("other"));
        let streamed_bytes = row.optional("backup_streamed", number)?;
        Ok(BaseBackup { phase, streamed_bytes, total_bytes: row.optional("backup_total", number)? })
    };
    facts.backups = Some(rows.map(backup).collect::<Result<_, _>>()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{about, context, decoded};
    use super::*;
    use crate::core::observation::Flavor;

    #[test]
    fn backups_read_with_and_without_grants() {
        let about = about(Flavor::PostgreSql, "1.10");
        let rows = vec![
            vec![Some("streaming database files"), Some("1024"), Some("4096")],
            vec![Some("resting"), Some("0"), None],
            vec![None, None, None],
        ];
        let backup = |phase, streamed_bytes, total_bytes| BaseBackup { phase, streamed_bytes, total_bytes };
        let expect = vec![
            backup(Some("streaming database files"), Some(1024), Some(4096)),
            backup(Some("other"), Some(0), None),
            BaseBackup::default(),
        ];
        let expect = SurveyFacts { backups: Some(expect), ..SurveyFacts::default() };
        assert_eq!(decoded(&TOPIC, context(&about), &[rows]), Ok(expect));
    }
}
