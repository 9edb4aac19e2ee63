//! What helps: every statement and every setting that a cause, a finding of `check`, a runbook or a message advises.
//!
//! One closed table, so that advice has one source, says where it must not be followed, and is proven: by a test that makes
//! the state on real servers, runs what is printed, and sees the state healed and the standbys still streaming; or, where
//! that cannot be done, by the reason why not.
//!
//! # What this must never do
//!
//! - Advise a statement that ends more than what it is to heal: a standby, a needed slot, a setting that somebody else made.
//! - Have a name of the server's in a statement unquoted.

mod table;

pub use self::table::REMEDIES;

/// One thing that helps.
#[derive(Clone, Copy, Debug)]
pub struct Remedy {
    pub id: RemedyId,
    /// In the order in which they are to be taken.
    pub steps: &'static [Step],
    pub run_on: RunOn,
    /// Completes "when ...".
    pub applies_when: &'static str,
    /// Completes "never for ...". Empty where it can do no harm.
    pub never_for: &'static str,
    pub proof: Proof,
}

/// A part of a [`Remedy`]. A name in braces stands for a value, which is filled in quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A statement, without a semicolon at its end.
    Sql(&'static str),
    /// A command of the server's operating system, as the owner of its files.
    Command(&'static str),
    /// What neither does.
    Do(&'static str),
}

/// Where a remedy is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOn {
    /// The server that the finding or the alert is about.
    Itself,
    Standby,
    /// What is granted and created comes to a standby from its primary, and cannot be changed on the standby.
    Primary,
    /// The server whose slots and WAL senders they are.
    Upstream,
    Subscriber,
    /// PgBouncer's admin console.
    Pooler,
}

impl RunOn {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Itself => "the server",
            Self::Standby => "the standby",
            Self::Primary => "the primary",
            Self::Upstream => "the upstream",
            Self::Subscriber => "the subscriber",
            Self::Pooler => "PgBouncer's admin console",
        }
    }
}

/// How a remedy is known to help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// This test of `tests/it/remedies.rs` runs it on real servers.
    Test(&'static str),
    /// The reason why it cannot be run there.
    NotRun(&'static str),
}

/// Names of the rows of [`REMEDIES`], in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RemedyId {
    ResumeReplay,
    RaiseStandbySetting,
    ClearRecoveryTarget,
    EndSession,
    CancelQuery,
    RollBackPrepared,
    EndIdleSessions,
    Rewind,
    MakeSlotAnew,
    DropSlot,
    ListUnusedSlots,
    CreateSlot,
    UseSlot,
    PointAtUpstream,
    NameStandby,
    GrantMonitor,
    GrantFunction,
    GrantRelation,
    GrantSchema,
    CreateMonitoringRole,
    ExtendPassword,
    AllowConnections,
    LimitRole,
    RevokeReplication,
    PreloadStatements,
    CreateStatements,
    UpdateStatements,
    ReloadConfiguration,
    ResumeDatabase,
    EnableDatabase,
    SkipTransaction,
    StreamInParallel,
    DropSubscription,
    EndIdleAfter,
    EndIdleTransactionsAfter,
    LimitLockWait,
    SetStandbyDelay,
    SetStandbyFeedback,
    SetStatusInterval,
    SetSlotLimit,
    SetWalKept,
    SetSyncStandbys,
    SetWalLevel,
    SetTrackActivities,
    SetTrackCounts,
    SetTrackIoTiming,
    SetTrackStatements,
    SetWalCompression,
    SetMaxWalSize,
    SetWorkMem,
    SetMaxConnections,
    SetLogicalWorkers,
    SetTargetTimeline,
    SetPoolSize,
    SetLogicalReplicationOnRds,
    ShowUpstream,
    ShowLibraries,
    ListSlots,
    ListStandbys,
    ListConnectedStandbys,
    ListIdleTransactions,
    ListLockWaits,
    ListPrepared,
    ShowStatement,
    ExplainStatement,
}

impl RemedyId {
    /// The row of this name.
    pub fn remedy(self) -> &'static Remedy {
        &REMEDIES[self as usize]
    }
}

impl Remedy {
    /// Its steps with the values in their places, as `check` prints them: statements with a semicolon, the others as
    /// comments. Values are quoted already ([`identifier`], [`literal`]).
    pub fn fill(&self, values: &[(&str, &str)]) -> Vec<String> {
        let lines = self.steps.iter().map(|step| match step {
            Step::Sql(sql) => format!("{};", filled(sql, values)),
            Step::Command(command) => format!("-- run: {}", filled(command, values)),
            Step::Do(what) => format!("-- then {}", filled(what, values)),
        });
        lines.collect()
    }

    /// Its first statement alone, without a semicolon, for a place where there is room for one. Empty where it has none.
    pub fn statement(&self, values: &[(&str, &str)]) -> String {
        let sql = self.steps.iter().find_map(|step| match step {
            Step::Sql(sql) => Some(*sql),
            Step::Command(_) | Step::Do(_) => None,
        });
        filled(sql.unwrap_or_default(), values)
    }

    /// As [`Remedy::fill`] for what somebody must decide about first: `condition` stands before each statement, and nothing
    /// is run by pasting it.
    pub fn fill_only(&self, condition: &str, values: &[(&str, &str)]) -> Vec<String> {
        let lines = self.fill(values).into_iter();
        lines.map(|line| if line.starts_with("--") { line } else { format!("-- {condition}: {line}") }).collect()
    }

    /// Its steps as the book has them, with values in capital letters.
    pub fn shown(&self) -> impl Iterator<Item = String> {
        self.steps.iter().map(|step| match step {
            Step::Sql(text) | Step::Command(text) => format!("`{}`", in_capitals(text)),
            Step::Do(what) => in_capitals(what),
        })
    }

    /// A line of the book: where it is run, when, and when never.
    fn line(&self) -> String {
        let steps: Vec<String> = self.shown().collect();
        let proof = match self.proof {
            Proof::Test(_) => String::new(),
            Proof::NotRun(why) => format!(" Not tried by our tests: {why}."),
        };
        let never = match self.never_for {
            "" => String::new(),
            never => format!(" Never for {never}."),
        };
        let (place, when) = (self.run_on.as_str(), self.applies_when);
        format!("- On {place}, when {when}: {}.{never}{proof}\n", steps.join(", then "))
    }
}

fn filled(template: &str, values: &[(&str, &str)]) -> String {
    // Each place is filled once, so that a value with braces in it is no place.
    let mut rest = template;
    let mut text = String::with_capacity(template.len());
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else { break };
        text.push_str(before);
        match values.iter().find(|(other, _)| *other == name) {
            Some((_, value)) => text.push_str(value),
            None => text.push_str(&format!("{{{name}}}")),
        }
        rest = behind;
    }
    text + rest
}

fn in_capitals(template: &str) -> String {
    let mut is_value = false;
    let capitals = template.chars().filter_map(|c| match c {
        '{' | '}' => {
            is_value = c == '{';
            None
        }
        _ if is_value => Some(c.to_ascii_uppercase()),
        _ => Some(c),
    });
    capitals.collect()
}

/// A name of any spelling, as SQL wants an identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text of any spelling, as SQL wants a string. Backslashes are no escapes, whatever the session's settings.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// Which remedies a built-in rule's runbook has.
pub fn of_rule(rule: &str) -> &'static [RemedyId] {
    table::OF_RULES.iter().find(|(name, _)| *name == rule).map_or(&[], |(_, remedies)| remedies)
}

/// Names of the rules that have remedies.
pub fn rules() -> impl Iterator<Item = &'static str> {
    table::OF_RULES.iter().map(|(name, _)| *name)
}

/// The generated part of a rule's runbook.
pub fn section(rule: &str) -> String {
    of_rule(rule).iter().map(|id| id.remedy().line()).collect()
}

/// The book's table of all of them.
pub fn table() -> String {
    REMEDIES.iter().map(Remedy::line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Changes that are right wherever they are advised.
    const HARMLESS: [RemedyId; 3] =
        [RemedyId::SetStatusInterval, RemedyId::SetTrackActivities, RemedyId::SetTrackCounts];

    #[test]
    fn the_table_is_in_the_order_of_its_names_and_complete() {
        let mut seen = BTreeSet::new();
        for (place, remedy) in REMEDIES.iter().enumerate() {
            assert_eq!(remedy.id as usize, place, "{:?} is not in its place", remedy.id);
            assert!(!remedy.steps.is_empty() && !remedy.applies_when.is_empty(), "{:?}", remedy.id);
            let only_reads =
                |step: &Step| matches!(step, Step::Sql(sql) if sql.starts_with("SHOW") || sql.contains(" FROM pg_"));
            assert!(
                !remedy.never_for.is_empty() || remedy.steps.iter().all(only_reads) || HARMLESS.contains(&remedy.id),
                "{:?} does not say what it must not be used for",
                remedy.id
            );
            for step in remedy.steps {
                let (Step::Sql(text) | Step::Command(text) | Step::Do(text)) = step;
                assert!(!text.ends_with([';', '.']) && !text.contains('|'), "{text}");
            }
            seen.insert(remedy.id);
        }
        assert_eq!(seen.len(), REMEDIES.len());
        assert_eq!(RemedyId::ExplainStatement as usize + 1, REMEDIES.len());
    }

    #[test]
    fn values_are_put_in_their_places_alone() {
        let remedy = RemedyId::GrantRelation.remedy();
        let values = [("relation", "pg_settings"), ("role", "\"{relation}\"")];
        assert_eq!(remedy.fill(&values), ["GRANT SELECT ON pg_settings TO \"{relation}\";"]);
        let remedy = RemedyId::ClearRecoveryTarget.remedy();
        assert_eq!(
            remedy.fill(&[("name", "recovery_target_time")]),
            ["ALTER SYSTEM SET recovery_target_time = '';", "-- then restart it"]
        );
        assert_eq!(RemedyId::EndSession.remedy().statement(&[("pid", "7")]), "SELECT pg_terminate_backend(7)");
        let only = RemedyId::DropSlot.remedy().fill_only("if it is not needed any more", &[("name", "'s'")]);
        assert_eq!(only, ["-- if it is not needed any more: SELECT pg_drop_replication_slot('s');"]);
        assert_eq!(
            RemedyId::DropSlot.remedy().shown().collect::<Vec<_>>(),
            ["`SELECT pg_drop_replication_slot(NAME)`"]
        );
    }

    #[test]
    fn names_and_texts_are_quoted_whatever_they_have_in_them() {
        assert_eq!(identifier("we\"ird ROLE"), "\"we\"\"ird ROLE\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
    }
}
