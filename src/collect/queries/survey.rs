//! The slow facts, matter by matter. Asked each `poll.slow_interval`, all in one round trip.
//!
//! Each matter is a [`Topic`] in a file of its own and a message of its own: one that is refused, locked or cannot be
//! read costs no other. They are asked in the order of [`TOPICS`], those that may wait for a lock last.

mod aurora;
mod backups;
mod conflicts;
mod databases;
mod recovery;
mod sessions;
mod settings;
mod slots;
mod statements;
mod subscriptions;
mod synchronous;

pub(crate) use slots::NEWER_COLUMNS as SLOT_COLUMNS;

use std::time::Duration;

use super::Refused;
use super::identity::Introduction;
use crate::collect::decode::Rows;
use crate::core::observation::PollFailure;
use crate::core::survey::SurveyFacts;
use crate::core::topology::Role;
pub(crate) use statements::{Known, decode_texts, texts_sql};

/// One matter that a survey asks about.
#[derive(Debug)]
pub(crate) struct Topic {
    /// What failures and the log call it.
    pub(crate) name: &'static str,
    /// One or more statements. `None` where there is nothing to ask.
    sql: fn(Context<'_>) -> Option<String>,
    /// Takes the rows of the statements of `sql`.
    decode: fn(Context<'_>, &[Rows<'_>], &mut SurveyFacts) -> Result<(), PollFailure>,
}

/// The order matters: what is cheap and takes no lock comes first, and is answered should the time run out.
pub(crate) static TOPICS: &[Topic] = &[
    settings::TOPIC,
    recovery::TOPIC,
    synchronous::TOPIC,
    sessions::TOPIC,
    databases::TOPIC,
    slots::TOPIC,
    backups::TOPIC,
    subscriptions::TOPIC,
    aurora::TOPIC,
    conflicts::TOPIC,
    statements::TOPIC,
];

/// What a topic's question depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) about: &'a Introduction,
    /// By the last answer.
    pub(crate) role: Option<Role>,
    pub(crate) refused: Refused,
    pub(crate) wanted: Wanted<'a>,
}

/// What a survey is to ask about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Whether statements are.
    pub(crate) statements: bool,
    /// What is known of them, so that only others need be told.
    pub(crate) known: Option<&'a Known>,
    /// Whether they are to say since when they count, which is as dear as two other columns. Not at the first survey.
    pub(crate) since: bool,
    /// A session that is idle for longer is counted by itself.
    pub(crate) idle_limit: Duration,
}

impl Topic {
    pub(crate) fn sql(&self, context: Context<'_>) -> Option<String> {
        (self.sql)(context)
    }

    pub(crate) fn decode(
        &self,
        context: Context<'_>,
        statements: &[Rows<'_>],
        facts: &mut SurveyFacts,
    ) -> Result<(), PollFailure> {
        (self.decode)(context, statements, facts)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::collect::queries::identity::AuroraFunctions;
    use crate::collect::queries::privileges::Privileges;
    use crate::core::observation::{Flavor, Identity, ServerAddress, StatementsAccess};
    use crate::core::standby_settings::StandbySettings;
    use crate::core::time::ServerTime;

    pub(crate) fn about(flavor: Flavor, version: &str) -> Introduction {
        Introduction {
            identity: Identity {
                version_num: 150_018,
                version: "15.18".to_owned(),
                flavor,
                system_identifier: None,
                started_at: ServerTime::from_unix_micros(0),
                cluster_name: String::new(),
                user: "mon".to_owned(),
                reads_all_stats: true,
                statements: StatementsAccess::Readable { schema: "my \"own\"".to_owned(), version: version.to_owned() },
                tls: false,
                pooled: false,
                address: ServerAddress::default(),
                standby_settings: StandbySettings::default(),
            },
            max_connections: 100,
            reserved_connections: 3,
            superuser_reserved_connections: 3,
            sender_layout: None,
            receiver_layout: None,
            subscription_columns: Box::default(),
            subscription_stats_columns: Box::default(),
            has_recovery_view: false,
            aurora: AuroraFunctions::default(),
            privileges: Privileges::default(),
            slot_columns: [true; SLOT_COLUMNS.len()],
        }
    }

    pub(crate) fn context(about: &Introduction) -> Context<'_> {
        let wanted = Wanted { statements: true, known: None, since: true, idle_limit: Duration::from_secs(3600) };
        Context { about, role: Some(Role::Primary), refused: Refused::default(), wanted }
    }

    /// What a topic makes of an answer.
    pub(crate) fn decoded(
        topic: &Topic,
        context: Context<'_>,
        answer: &[Rows<'_>],
    ) -> Result<SurveyFacts, PollFailure> {
        let mut facts = SurveyFacts::default();
        topic.decode(context, answer, &mut facts).map(|()| facts)
    }

    #[test]
    fn topics_have_names_of_their_own() {
        let names: HashSet<&str> = TOPICS.iter().map(|topic| topic.name).collect();
        assert_eq!(names.len(), TOPICS.len());
    }
}
