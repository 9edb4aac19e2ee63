//! Who the server is. Nothing asked here can leave an error in the log of any server, managed ones included, so it may
//! be asked before anything is known.

use std::sync::Arc;

use super::privileges::{self, Privileges};
use super::survey::SLOT_COLUMNS;
use super::{Optional, Refused};
use crate::collect::decode::{Fields, Rows, address, boolean, name, number, timestamp};
use crate::core::escape;
use crate::core::observation::{Flavor, Identity, PollFailure, ServerAddress, StatementsAccess};
use crate::core::standby_settings::{Capacity, RecoveryTarget, StandbySettings};

/// Four statements: the server and the role; settings; the extension; and the columns of functions that are read as
/// composites or differ by version, with what only Aurora has. Then those of [`privileges::SQL`], where that is permitted.
pub(crate) fn sql(refused: Refused) -> String {
    let settings = if refused.contains(Optional::Settings) { SETTINGS_ONE_BY_ONE } else { SETTINGS_BY_VIEW };
    let privileges = if refused.contains(Optional::Privileges) { "" } else { privileges::SQL };
    format!("{SERVER}{settings}{EXTENSION}{FUNCTIONS}{privileges}")
}

const SERVER: &str = "\
SELECT pg_postmaster_start_time(), current_user, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), \
host(inet_server_addr());";

/// The view shows only what the role may see. A library's setting is one only where the library is loaded: a line in the
/// configuration alone has no type.
const SETTINGS_BY_VIEW: &str = "\
SELECT name, setting FROM pg_settings WHERE name IN \
('server_version_num', 'server_version', 'cluster_name', 'port', \
'max_connections', 'superuser_reserved_connections', 'reserved_connections', 'rds.extensions', \
'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction', \
'recovery_target', 'recovery_target_lsn', 'recovery_target_name', 'recovery_target_time', 'recovery_target_xid', \
'recovery_target_action') \
OR name = 'pg_stat_statements.max' AND vartype = 'integer';";

/// The same where the view is refused. Whether a library is loaded it cannot tell.
const SETTINGS_ONE_BY_ONE: &str = "\
SELECT name, setting FROM (SELECT name, current_setting(name, true) AS setting FROM unnest(ARRAY[\
'server_version_num', 'server_version', 'cluster_name', 'port', \
'max_connections', 'superuser_reserved_connections', 'reserved_connections', 'rds.extensions', \
'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction', \
'recovery_target', 'recovery_target_lsn', 'recovery_target_name', 'recovery_target_time', 'recovery_target_xid', \
'recovery_target_action', 'pg_stat_statements.max']) AS name) AS one_by_one WHERE setting IS NOT NULL;";

const EXTENSION: &str = "\
SELECT n.nspname, e.extversion FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
WHERE e.extname = 'pg_stat_statements';";

const FUNCTIONS: &str = "\
SELECT proname, array_to_string(proargnames, ',') FROM pg_proc WHERE proname IN \
('pg_stat_get_wal_senders', 'pg_stat_get_wal_receiver', 'pg_stat_get_subscription', 'pg_stat_get_subscription_stats', \
'pg_get_replication_slots', 'pg_stat_get_recovery', 'aurora_version', 'aurora_db_instance_identifier', 'aurora_replica_status', 'aurora_global_db_status', \
'aurora_global_db_instance_status') AND pronamespace = 'pg_catalog'::regnamespace";

/// All that [`sql`] tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Introduction {
    /// `system_identifier`, `tls`, `pooled` and the configured address are not in it yet.
    pub(crate) identity: Identity,
    /// `max_connections`, and those of them kept for superusers and for `pg_use_reserved_connections`. Fixed from start to stop.
    pub(crate) max_connections: u64,
    pub(crate) reserved_connections: u64,
    /// Those of them kept for superusers.
    pub(crate) superuser_reserved_connections: u64,
    pub(crate) sender_layout: Option<Layout<12>>,
    pub(crate) receiver_layout: Option<Layout<11>>,
    /// Which of [`SLOT_COLUMNS`] there are.
    pub(crate) slot_columns: [bool; SLOT_COLUMNS.len()],
    /// Columns of `pg_stat_get_subscription()`, with commas between; empty where it is not known.
    pub(crate) subscription_columns: Box<str>,
    /// Columns of `pg_stat_get_subscription_stats()` (15+), with commas between; empty where there is none.
    pub(crate) subscription_stats_columns: Box<str>,
    /// The view `pg_stat_recovery` is there (19+).
    pub(crate) has_recovery_view: bool,
    pub(crate) aurora: AuroraFunctions,
    pub(crate) privileges: Privileges,
}

/// Functions of Aurora's own that the server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each stands for one function")]
pub(crate) struct AuroraFunctions {
    /// `aurora_db_instance_identifier()`.
    pub(crate) has_instance: bool,
    /// `aurora_replica_status()`.
    pub(crate) has_replica_status: bool,
    /// `aurora_global_db_status()`.
    pub(crate) has_global_status: bool,
    /// `aurora_global_db_instance_status()`.
    pub(crate) has_global_instances: bool,
}

/// Where each wanted column stands in a function's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout<const N: usize>([u8; N]);

impl<const N: usize> Layout<N> {
    /// `names`: the function's columns in order, with commas between.
    fn find(function: &'static str, names: &str, wanted: [&str; N]) -> Result<Self, PollFailure> {
        let mut places = [0; N];
        for (place, column) in places.iter_mut().zip(wanted) {
            let found = names.split(',').position(|name| name == column).and_then(|at| u8::try_from(at).ok());
            *place = found.ok_or_else(|| Fields::new(function, &[]).failure(column, "the column is missing"))?;
        }
        Ok(Self(places))
    }

    /// The wanted columns of `row`, in the order they are wanted in.
    pub(crate) fn pick<'a>(self, row: &[Option<&'a str>]) -> [Option<&'a str>; N] {
        self.0.map(|place| row.get(usize::from(place)).copied().flatten())
    }
}

pub(crate) const SENDER_COLUMNS: [&str; 12] = [
    "pid",
    "state",
    "sent_lsn",
    "write_lsn",
    "flush_lsn",
    "replay_lsn",
    "write_lag",
    "flush_lag",
    "replay_lag",
    "sync_priority",
    "sync_state",
    "reply_time",
];

pub(crate) const RECEIVER_COLUMNS: [&str; 11] = [
    "status",
    "written_lsn",
    "flushed_lsn",
    "received_tli",
    "last_msg_send_time",
    "last_msg_receipt_time",
    "latest_end_lsn",
    "latest_end_time",
    "slot_name",
    "sender_host",
    "sender_port",
];

/// The rows of the statements of [`sql`].
pub(crate) fn decode(statements: &[Rows<'_>]) -> Result<Introduction, PollFailure> {
    let (server, settings, extension, functions, privileges) = match statements {
        [server, settings, extension, functions] => (server, settings, extension, functions, Privileges::default()),
        [server, settings, extension, functions, loaded, denied] => {
            (server, settings, extension, functions, privileges::decode(loaded, denied)?)
        }
        _ => return Err(Fields::new("identity", &[]).failure("*", "not the results that were asked for")),
    };
    let read = |name: &str| -> Option<&str> {
        let row = settings.iter().find(|row| row.first().copied().flatten() == Some(name))?;
        row.get(1).copied().flatten()
    };
    let failure = |name: &'static str, reason| Fields::new("pg_settings", &[]).failure(name, reason);
    let must = |name| read(name).ok_or_else(|| failure(name, "the setting is missing"));
    let count = |name| number::<u64>(must(name)?).ok_or_else(|| failure(name, "not a number"));
    let reserved = |name| if read(name).is_some() { count(name) } else { Ok(0) };
    let superuser_reserved_connections = reserved("superuser_reserved_connections")?;
    let reserved_connections = superuser_reserved_connections.saturating_add(reserved("reserved_connections")?);

    let server = server.first().map(Vec::as_slice).unwrap_or_default();
    let mut server = Fields::new("server", server);
    let mut identity = Identity {
        version_num: number(must("server_version_num")?)
            .ok_or_else(|| failure("server_version_num", "not a number"))?,
        // Packagers add their own version behind a space.
        version: must("server_version")
            .map(|text| escape::name(text.split_once(' ').map_or(text, |(version, _)| version)).into_owned())?,
        started_at: server.required("pg_postmaster_start_time", timestamp)?,
        cluster_name: escape::name(must("cluster_name")?).into_owned(),
        user: server.required("current_user", name)?,
        reads_all_stats: server.required("pg_has_role", boolean)?,
        flavor: match read("rds.extensions") {
            None => Flavor::PostgreSql,
            Some(list) if list.contains("aurora_stat_utils") => Flavor::Aurora,
            Some(_) => Flavor::Rds,
        },
        system_identifier: None,
        statements: StatementsAccess::NotCreated,
        tls: false,
        pooled: false,
        address: ServerAddress {
            configured: None,
            own: server.optional("inet_server_addr", address)?,
            port: read("port").and_then(number),
        },
        standby_settings: StandbySettings {
            capacity: Capacity::new(|name| read(name).and_then(number)),
            recovery_target: RecoveryTarget::new(read),
        },
    };
    // Only a library loaded at the server's start defines it.
    let is_loaded = read("pg_stat_statements.max").is_some();

    if let Some(row) = extension.first() {
        let mut row = Fields::new("pg_extension", row);
        let schema = row.required("nspname", |text| Some(text.to_owned()))?;
        let version = row.required("extversion", |text| Some(text.to_owned()))?;
        identity.statements =
            if is_loaded { StatementsAccess::Readable { schema, version } } else { StatementsAccess::NotLoaded };
    }

    let (mut sender_layout, mut receiver_layout) = (None, None);
    let mut aurora = AuroraFunctions::default();
    let (mut subscription_columns, mut subscription_stats_columns) = (Box::default(), Box::default());
    let mut slot_columns = [false; SLOT_COLUMNS.len()];
    let mut has_recovery_view = false;
    for row in functions {
        let mut function = Fields::new("pg_proc", row);
        let function_name = function.required("proname", Some)?;
        let columns = function.text("proargnames")?.unwrap_or_default();
        match function_name {
            "pg_stat_get_wal_senders" => {
                sender_layout = Some(Layout::find("pg_stat_get_wal_senders", columns, SENDER_COLUMNS)?);
            }
            "pg_stat_get_wal_receiver" => {
                receiver_layout = Some(Layout::find("pg_stat_get_wal_receiver", columns, RECEIVER_COLUMNS)?);
            }
            "pg_stat_get_subscription" => subscription_columns = columns.into(),
            "pg_stat_get_subscription_stats" => subscription_stats_columns = columns.into(),
            "pg_stat_get_recovery" => has_recovery_view = true,
            "aurora_db_instance_identifier" => aurora.has_instance = true,
            "aurora_replica_status" => aurora.has_replica_status = true,
            "aurora_global_db_status" => aurora.has_global_status = true,
            "aurora_global_db_instance_status" => aurora.has_global_instances = true,
            "pg_get_replication_slots" => {
                slot_columns = SLOT_COLUMNS.map(|column| columns.split(',').any(|name| name == column));
            }
            "aurora_version" => identity.flavor = Flavor::Aurora,
            _ => {}
        }
    }
    Ok(Introduction {
        identity,
        max_connections: count("max_connections")?,
        reserved_connections,
        superuser_reserved_connections,
        sender_layout,
        receiver_layout,
        slot_columns,
        subscription_columns,
        subscription_stats_columns,
        has_recovery_view,
        aurora,
        privileges,
    })
}

/// Says how the session runs and where it leads, which the server's answer cannot tell, and who is behind it.
pub(crate) fn complete(
    mut identity: Identity,
    system_identifier: Option<u64>,
    configured: Option<(String, u16)>,
    tls: bool,
    pooled: bool,
) -> Arc<Identity> {
    identity.address.configured = configured;
    Arc::new(Identity { system_identifier, tls, pooled, ..identity })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::core::time::ServerTime;

    /// The columns as every major from 13 to 18 has them.
    pub(crate) const SENDERS: &str = "pid,state,sent_lsn,write_lsn,flush_lsn,replay_lsn,write_lag,flush_lag,replay_lag,\
                                      sync_priority,sync_state,reply_time";
    pub(crate) const RECEIVER: &str = "pid,status,receive_start_lsn,receive_start_tli,written_lsn,flushed_lsn,\
                                       received_tli,last_msg_send_time,last_msg_receipt_time,latest_end_lsn,\
                                       latest_end_time,slot_name,sender_host,sender_port,conninfo";

    fn server() -> Rows<'static> {
        vec![vec![Some("2026-11-20 10:11:12.123456+00"), Some("mon"), Some("t"), Some("10.0.0.7")]]
    }

    fn expected() -> Introduction {
        Introduction {
            identity: Identity {
                version_num: 160_014,
                version: "16.14".to_owned(),
                flavor: Flavor::PostgreSql,
                system_identifier: None,
                started_at: ServerTime::from_unix_micros(1_795_169_472_123_456),
                cluster_name: "r1".to_owned(),
                user: "mon".to_owned(),
                reads_all_stats: true,
                statements: StatementsAccess::NotCreated,
                tls: false,
                pooled: false,
                address: ServerAddress { configured: None, own: Some([10, 0, 0, 7].into()), port: Some(5432) },
                standby_settings: StandbySettings {
                    capacity: Capacity::new(|name| if name == "max_connections" { Some(100) } else { None }),
                    recovery_target: None,
                },
            },
            max_connections: 100,
            reserved_connections: 5,
            superuser_reserved_connections: 3,
            subscription_columns: "subid,subid,relid,pid".into(),
            subscription_stats_columns: Box::default(),
            has_recovery_view: false,
            aurora: AuroraFunctions::default(),
            privileges: Privileges::default(),
            sender_layout: Some(Layout([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])),
            receiver_layout: Some(Layout([1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13])),
            slot_columns: [true, true, false, false, false, false, false],
        }
    }

    fn settings() -> Rows<'static> {
        vec![
            vec![Some("server_version_num"), Some("160014")],
            vec![Some("server_version"), Some("16.14 (Debian 16.14-1.pgdg12+1)")],
            vec![Some("cluster_name"), Some("r1")],
            vec![Some("port"), Some("5432")],
            vec![Some("max_connections"), Some("100")],
            vec![Some("superuser_reserved_connections"), Some("3")],
            vec![Some("reserved_connections"), Some("2")],
        ]
    }

    fn functions() -> Rows<'static> {
        vec![
            vec![Some("pg_stat_get_wal_senders"), Some(SENDERS)],
            vec![Some("pg_stat_get_wal_receiver"), Some(RECEIVER)],
            vec![Some("pg_stat_get_subscription"), Some("subid,subid,relid,pid")],
            vec![Some("pg_get_replication_slots"), Some("slot_name,plugin,safe_wal_size,two_phase,conflicting")],
        ]
    }

    #[test]
    fn a_plain_server_introduces_itself() {
        assert_eq!(decode(&[server(), settings(), vec![], functions()]), Ok(expected()));
    }

    #[test]
    fn settings_are_asked_one_by_one_where_their_view_is_refused() {
        assert!(!sql(Refused::default()).contains("current_setting("));
        let mut refused = Refused::default();
        refused.insert(Optional::Settings);
        refused.insert(Optional::Privileges);
        assert!(!sql(refused).contains("pg_settings"));
        let mut settings = settings();
        settings.retain(|row| row[0] != Some("max_connections"));
        let failure = decode(&[server(), settings, vec![], functions()]).unwrap_err();
        assert_eq!(failure.to_string(), "cannot read max_connections of pg_settings: the setting is missing");
    }

    #[test]
    fn what_a_standby_needs_to_go_on_is_read_with_the_other_settings() {
        let mut settings = settings();
        for (name, value) in Capacity::NAMES[1..].iter().zip(["8", "10", "0", "64"]) {
            settings.push(vec![Some(*name), Some(value)]);
        }
        settings.push(vec![Some("recovery_target_lsn"), Some("0/3000000")]);
        settings.push(vec![Some("recovery_target_time"), Some("")]);
        let read = decode(&[server(), settings, vec![], functions()]).unwrap().identity.standby_settings;
        assert!(read.capacity.is_known());
        let target = read.recovery_target.expect("is set");
        assert_eq!((target.setting, target.value.as_str()), ("recovery_target_lsn", "0/3000000"));
        for name in Capacity::NAMES.iter().chain(&RecoveryTarget::NAMES) {
            for sql in [SETTINGS_BY_VIEW, SETTINGS_ONE_BY_ONE] {
                assert!(sql.contains(&format!("'{name}'")), "{name}");
            }
        }
    }

    #[test]
    fn an_extension_without_its_library_is_not_loaded() {
        let extension = vec![vec![Some("public"), Some("1.10")]];
        let mut expect = expected();
        expect.identity.statements = StatementsAccess::NotLoaded;
        assert_eq!(decode(&[server(), settings(), extension.clone(), functions()]), Ok(expect.clone()));

        let mut loaded = settings();
        loaded.push(vec![Some("pg_stat_statements.max"), Some("5000")]);
        expect.identity.statements =
            StatementsAccess::Readable { schema: "public".to_owned(), version: "1.10".to_owned() };
        assert_eq!(decode(&[server(), loaded, extension, functions()]), Ok(expect));
    }

    #[test]
    fn a_managed_server_is_known_by_what_it_alone_has() {
        let mut expect = expected();
        for (extensions, flavor) in
            [("address_standardizer, pg_cron", Flavor::Rds), ("apg_plan_mgmt, aurora_stat_utils", Flavor::Aurora)]
        {
            let mut settings = settings();
            settings.push(vec![Some("rds.extensions"), Some(extensions)]);
            expect.identity.flavor = flavor;
            assert_eq!(decode(&[server(), settings, vec![], functions()]), Ok(expect.clone()));
        }
        let mut functions = functions();
        functions.push(vec![Some("aurora_version"), None]);
        functions.push(vec![Some("aurora_replica_status"), Some("server_id,session_id")]);
        expect.aurora.has_replica_status = true;
        assert_eq!(decode(&[server(), settings(), vec![], functions]), Ok(expect));
    }

    #[test]
    fn a_column_that_is_no_more_is_named() {
        let functions = vec![vec![Some("pg_stat_get_wal_senders"), Some("pid,state")]];
        assert_eq!(
            decode(&[server(), settings(), vec![], functions]),
            Err(PollFailure::Decode {
                view: "pg_stat_get_wal_senders".to_owned(),
                column: "sent_lsn".to_owned(),
                reason: "the column is missing".to_owned(),
            })
        );
    }
}
