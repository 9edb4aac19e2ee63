//! Servers that never were, each described by what it says, and what follows from it.

use super::*;
use crate::core::fixture::{change_identity, change_positions, change_standby, fail, primary, replica, sender};
use crate::core::observation::{PollFailure, SenderSlot};
use crate::core::time::ServerTime;

/// What a sender's server knows of its other end.
fn client(address: &str, slot: Option<&str>) -> Option<Arc<SenderClient>> {
    let slot = slot.map(|name| SenderSlot { name: name.to_owned(), is_logical: false });
    Some(Arc::new(SenderClient { address: address.parse().ok(), slot, ..SenderClient::default() }))
}

fn row(pid: i32, name: &str, address: &str, slot: Option<&str>) -> WalSender {
    WalSender { pid, client: client(address, slot), ..sender(name, Some(SenderState::Streaming)) }
}

/// A server at `host:5432` with these senders.
fn at(mut view: TargetView, host: &str, rows: Vec<WalSender>) -> TargetView {
    // Servers start each at a time of its own.
    let name = view.id.target.as_str().bytes().fold(0, |sum, byte| sum * 256 + i64::from(byte));
    change_identity(&mut view, |identity| {
        identity.started_at = ServerTime::from_unix_micros(name);
        identity.address = ServerAddress {
            configured: Some((format!("{}.example", view_name(host)), 5432)),
            own: host.parse().ok(),
            port: Some(5432),
        };
    });
    change_positions(&mut view, |positions| positions.senders = rows);
    view
}

fn view_name(host: &str) -> String {
    format!("db-{}", host.rsplit('.').next().unwrap_or_default())
}

fn p(rows: Vec<WalSender>) -> TargetView {
    at(primary("orders", "p"), "10.0.0.1", rows)
}

/// A standby at `10.0.0.N`, called `name` by itself, that receives from `from` through `slot`.
fn s(target: &str, host: &str, name: &str, from: &str, slot: Option<&str>) -> TargetView {
    let mut view = at(replica("orders", target), host, Vec::new());
    change_identity(&mut view, |identity| identity.cluster_name = name.to_owned());
    change_standby(&mut view, |standby| {
        if let Receiver::Running(receiver) = &mut standby.receiver {
            receiver.sender_host = Some(from.to_owned());
            receiver.slot_name = slot.map(str::to_owned);
        }
    });
    view
}

fn receiver(mut view: TargetView, receiver: Receiver) -> TargetView {
    change_standby(&mut view, |standby| standby.receiver = receiver);
    view
}

fn serving(mut view: TargetView, rows: Vec<WalSender>) -> TargetView {
    change_positions(&mut view, |positions| positions.senders = rows);
    view
}

fn blind(mut view: TargetView) -> TargetView {
    change_positions(&mut view, |positions| {
        positions.sees_senders = false;
        for sender in &mut positions.senders {
            *sender = WalSender { state: None, replay_lsn: None, client: client("", None), ..sender.clone() };
        }
    });
    view
}

fn failing(mut view: TargetView, failure: PollFailure) -> TargetView {
    fail(&mut view, failure);
    view
}

fn silent(view: TargetView) -> TargetView {
    failing(view, PollFailure::Timeout { doing: "polling".to_owned(), limit_ms: 3000 })
}

fn foreign(mut view: TargetView) -> TargetView {
    change_identity(&mut view, |identity| identity.system_identifier = Some(1));
    view
}

fn found(targets: &[TargetView]) -> Vec<Links> {
    find(&targets.iter().cloned().map(Arc::new).collect::<Vec<_>>())
}

/// `target: upstream pid missing, undeclared`, a line for each target.
fn told(targets: &[TargetView]) -> Vec<String> {
    let line = |(target, links): (&TargetView, Links)| {
        let upstream = match &links.upstream {
            None => "-".to_owned(),
            Some(Upstream::Target(name)) => name.to_string(),
            Some(Upstream::Elsewhere(host)) => format!("elsewhere {host}"),
            Some(Upstream::Nobody) => "nobody".to_owned(),
            Some(Upstream::Unknown) => "?".to_owned(),
        };
        let pid = links.sender.map_or(String::new(), |sender| format!(" pid {}", sender.pid));
        let missing = match links.is_missing {
            Some(true) => " missing",
            Some(false) => "",
            None if links.upstream.is_some() => " missing?",
            None => "",
        };
        let strangers = match links.undeclared {
            None => " strangers?".to_owned(),
            Some(Undeclared { at_most: 0, .. }) => String::new(),
            Some(Undeclared { at_least, at_most, .. }) => format!(" strangers {at_least}..{at_most}"),
        };
        format!("{}: {upstream}{pid}{missing}{strangers}", target.id.target)
    };
    targets.iter().zip(found(targets)).map(line).collect()
}

#[track_caller]
fn check(targets: &[TargetView], expect: &[&str]) {
    assert_eq!(told(targets), expect);
}

const R: &str = "walreceiver";

#[test]
fn each_evidence_gives_a_sender_to_the_standby_that_alone_it_fits() {
    // The slot: all else is shared.
    let rows = || vec![row(1, R, "127.0.0.1", Some("a")), row(2, R, "127.0.0.1", Some("b"))];
    let shared = |target, slot| s(target, "127.0.0.1", "", "proxy", Some(slot));
    check(&[p(rows()), shared("x", "b"), shared("y", "a")], &["p: -", "x: p pid 2", "y: p pid 1"]);
    // Address and name: two standbys on one machine.
    let rows = || vec![row(1, "a", "10.0.0.2", None), row(2, "b", "10.0.0.2", None)];
    let one = |target, name| s(target, "10.0.0.2", name, "proxy", None);
    check(&[p(rows()), one("x", "b"), one("y", "a")], &["p: -", "x: p pid 2", "y: p pid 1"]);
    // The address: all present themselves by one name.
    let rows = || vec![row(1, "app", "10.0.0.2", None), row(2, "app", "10.0.0.3", None)];
    let one = |target, host| s(target, host, "", "proxy", None);
    check(&[p(rows()), one("x", "10.0.0.3"), one("y", "10.0.0.2")], &["p: -", "x: p pid 2", "y: p pid 1"]);
    // The name: seen through an address that is none's own.
    let rows = || vec![row(1, "a", "172.16.0.1", None), row(2, "b", "172.16.0.1", None)];
    let one = |target, name| s(target, "10.0.0.2", name, "proxy", None);
    check(&[p(rows()), one("x", "b"), one("y", "a")], &["p: -", "x: p pid 2", "y: p pid 1"]);
    // IPv4 in IPv6 is the same address.
    let rows = vec![row(1, "app", "::ffff:10.0.0.2", None), row(2, "app", "10.0.0.3", None)];
    let one = |target, host| s(target, host, "", "proxy", None);
    check(&[p(rows), one("x", "10.0.0.3"), one("y", "10.0.0.2")], &["p: -", "x: p pid 2", "y: p pid 1"]);
}

#[test]
fn what_fits_several_is_unknown() {
    let same = |target| s(target, "127.0.0.1", "", "proxy", None);
    let rows = || vec![row(1, R, "127.0.0.1", None), row(2, R, "127.0.0.1", None)];
    check(&[p(rows()), same("x"), same("y")], &["p: - strangers 0..2", "x: ? missing?", "y: ? missing?"]);
    // One of two standbys of one name is connected: nobody can say which.
    let one = || vec![row(1, R, "127.0.0.1", None)];
    check(&[p(one()), same("x"), same("y")], &["p: - strangers 0..1", "x: ? missing?", "y: ? missing?"]);
    // Unless the other says that it is not.
    let detached = receiver(same("y"), Receiver::Absent);
    check(&[p(one()), same("x"), detached], &["p: -", "x: p pid 1", "y: nobody missing"]);
    // A third connection under that name cannot be any target's.
    let three = [rows(), vec![row(3, R, "127.0.0.1", None)]].concat();
    check(&[p(three), same("x"), same("y")], &["p: - strangers 1..3", "x: ? missing?", "y: ? missing?"]);
    // Both say that they receive from p, which has as many connections: none is missing, whoever has which.
    let of_p = |target| s(target, "127.0.0.1", "", "10.0.0.1", None);
    check(&[p(rows()), of_p("x"), of_p("y")], &["p: - strangers 0..2", "x: p", "y: p"]);
    // Unless p has none.
    check(&[p(Vec::new()), of_p("x")], &["p: -", "x: p missing"]);
    // The same server declared twice has each sender once.
    let slot = || vec![row(1, "a", "127.0.0.1", Some("a"))];
    let twice = TargetView { id: crate::core::topology::TargetId::new("orders", "q"), ..p(slot()) };
    let told = told(&[p(slot()), twice, s("x", "127.0.0.1", "a", "proxy", Some("a"))]);
    assert_eq!(told[2], "x: p pid 1");
}

#[test]
fn a_standby_with_a_slot_takes_no_row_without_and_the_reverse() {
    let rows = || vec![row(1, "a", "127.0.0.1", None)];
    let targets = [p(rows()), s("x", "127.0.0.1", "a", "10.0.0.1", Some("a"))];
    check(&targets, &["p: - strangers 1..1", "x: p missing"]);
    let rows = vec![row(1, "a", "127.0.0.1", Some("other"))];
    check(&[p(rows), s("x", "127.0.0.1", "a", "10.0.0.1", None)], &["p: - strangers 1..1", "x: p missing"]);
    // A receiver that may not be seen could have any slot.
    let rows = vec![row(1, "a", "127.0.0.1", Some("other"))];
    let hidden = receiver(s("x", "127.0.0.1", "a", "", None), Receiver::Hidden);
    check(&[p(rows), hidden], &["p: -", "x: p pid 1"]);
}

#[test]
fn a_standbys_own_word_names_its_upstream_where_no_sender_can_be_seen() {
    for host in ["10.0.0.1", "db-1.example", "DB-1.Example"] {
        check(&[blind(p(vec![])), s("x", "10.0.0.2", "x", host, None)], &["p: - strangers?", "x: p missing?"]);
    }
    // Another port, another name: nobody can say who that is.
    for host in ["10.0.0.9", "elsewhere.example"] {
        check(&[blind(p(vec![])), s("x", "10.0.0.2", "x", host, None)], &["p: - strangers?", "x: ? missing?"]);
    }
    // Seen senders, and none for it: its connection is half open.
    check(&[p(vec![]), s("x", "10.0.0.2", "x", "10.0.0.1", None)], &["p: -", "x: p missing"]);
    // A loopback address is another machine on each machine.
    let local = at(primary("orders", "p"), "127.0.0.1", vec![]);
    check(&[local, s("x", "10.0.0.2", "x", "127.0.0.1", None)], &["p: -", "x: ? missing"]);
}

#[test]
fn a_cascade_is_seen_from_both_sides() {
    let targets = [
        p(vec![row(1, "a", "10.0.0.2", None), row(2, "b", "10.0.0.3", None)]),
        serving(s("a", "10.0.0.2", "a", "10.0.0.1", None), vec![row(7, "c", "10.0.0.4", Some("c"))]),
        s("b", "10.0.0.3", "b", "10.0.0.1", None),
        s("c", "10.0.0.4", "c", "10.0.0.2", Some("c")),
    ];
    check(&targets, &["p: -", "a: p pid 1", "b: p pid 2", "c: a pid 7"]);
    // A row at the wrong upstream is not believed against the standby's own word.
    let targets = [
        p(vec![row(1, "a", "10.0.0.2", None), row(9, "c", "10.0.0.4", None)]),
        serving(s("a", "10.0.0.2", "a", "10.0.0.1", None), vec![]),
        s("c", "10.0.0.4", "c", "10.0.0.2", None),
    ];
    check(&targets, &["p: - strangers 1..1", "a: p pid 1", "c: a missing"]);
}

#[test]
fn a_standby_that_no_target_serves_follows_another_server() {
    let away = || s("x", "10.0.0.2", "x", "10.0.0.99", None);
    check(&[p(vec![]), away()], &["p: -", "x: elsewhere 10.0.0.99:5432"]);
    let ipv6 = s("x", "10.0.0.2", "x", "fe80::1", None);
    check(&[p(vec![]), ipv6], &["p: -", "x: elsewhere [fe80::1]:5432"]);
    // Not while someone who might serve it does not say.
    check(&[silent(p(vec![])), away()], &["p: - strangers?", "x: ? missing?"]);
    check(&[blind(p(vec![])), away()], &["p: - strangers?", "x: ? missing?"]);
    let other = s("y", "10.0.0.3", "y", "10.0.0.1", None);
    let mine = || vec![row(1, "y", "10.0.0.3", None)];
    check(&[p(mine()), away(), silent(other.clone())], &["p: -", "x: ? missing?", "y: p pid 1 strangers?"]);
    // One that refuses connections serves nobody.
    let down = failing(other, PollFailure::Refused);
    check(&[p(mine()), away(), down], &["p: -", "x: elsewhere 10.0.0.99:5432", "y: p pid 1 strangers?"]);
    // Through a proxy, but served by a target.
    check(&[p(vec![row(3, "x", "10.0.0.50", None)]), away()], &["p: -", "x: p pid 3"]);
    // A cluster of one target has nobody else to be sure of.
    check(&[away()], &["x: ? missing?"]);
}

#[test]
fn a_server_of_another_cluster_is_nobodys_standby() {
    let rows = || vec![row(1, "x", "10.0.0.2", None)];
    let stranger = foreign(s("x", "10.0.0.2", "x", "10.0.0.1", None));
    check(&[p(rows()), stranger], &["p: - strangers 1..1", "x: ? missing?"]);
    let mut untold = s("x", "10.0.0.2", "x", "10.0.0.1", None);
    change_identity(&mut untold, |identity| identity.system_identifier = None);
    check(&[p(rows()), untold], &["p: -", "x: p pid 1"]);
}

#[test]
fn a_silent_standby_is_missing_when_no_sender_can_be_its_own() {
    let mine = || s("x", "10.0.0.2", "x", "10.0.0.1", Some("x"));
    check(&[p(vec![row(1, "x", "10.0.0.2", Some("x"))]), silent(mine())], &["p: -", "x: p pid 1 strangers?"]);
    check(&[p(vec![]), silent(mine())], &["p: -", "x: ? missing strangers?"]);
    check(&[silent(p(vec![])), silent(mine())], &["p: - strangers?", "x: ? missing? strangers?"]);
    // It may have come back under another name.
    let other = || vec![row(1, "new", "10.0.0.7", None)];
    check(&[p(other()), silent(mine())], &["p: - strangers 0..1", "x: ? missing? strangers?"]);
    // A target that was never heard of may be anyone.
    let unheard = TargetView::new(crate::core::topology::TargetId::new("orders", "x"), std::time::Duration::ZERO);
    check(&[p(other()), silent(unheard)], &["p: - strangers 0..1", "x: - strangers?"]);
}

#[test]
fn only_standbys_count_as_strangers() {
    let mut logical = row(1, "subscription", "10.0.0.8", Some("sub"));
    logical.client = Some(Arc::new(SenderClient {
        slot: Some(SenderSlot { name: "sub".to_owned(), is_logical: true }),
        ..SenderClient::default()
    }));
    let backup = WalSender { state: Some(SenderState::Backup), replay_lsn: None, ..row(2, "b", "10.0.0.8", None) };
    let archiver = WalSender { replay_lsn: None, ..row(3, "pg_receivewal", "10.0.0.8", Some("wal")) };
    let starting = WalSender { state: Some(SenderState::Startup), ..row(4, "new", "10.0.0.8", None) };
    let unlearned = WalSender { client: None, application_name: None, ..row(5, "", "", None) };
    let mut rows = vec![logical, backup, archiver, starting, unlearned];
    check(&[p(rows.clone())], &["p: -"]);
    rows.push(row(6, "standby", "10.0.0.8", None));
    rows.push(row(7, "", "", Some("q")));
    check(&[p(rows.clone())], &["p: - strangers 2..2"]);
    let undeclared = found(&[p(rows)])[0].undeclared.clone().expect("is seen");
    assert_eq!(undeclared.who, ["standby at 10.0.0.8", "(no name)"]);
}

#[test]
fn links_are_looked_for_anew_only_when_what_they_rest_on_changes() {
    let view = || s("x", "10.0.0.2", "x", "10.0.0.1", Some("x"));
    let same = |change: fn(&mut TargetView)| {
        let (before, mut after) = (serving(view(), vec![row(1, "c", "10.0.0.4", None)]), view());
        after = serving(after, vec![row(1, "c", "10.0.0.4", None)]);
        change(&mut after);
        let positions = |view: &TargetView| Positions::clone(&view.answer.as_ref().expect("has answered").positions);
        is_same(&positions(&before), &positions(&after))
    };
    assert!(same(|_| {}));
    assert!(same(|view| change_standby(view, |standby| standby.replay_lsn = None)));
    assert!(same(|view| change_positions(view, |positions| positions.senders[0].replay_lag = None)));
    assert!(!same(|view| change_positions(view, |positions| positions.senders[0].pid = 2)));
    assert!(!same(|view| change_positions(view, |positions| positions.senders[0].replay_lsn = None)));
    assert!(!same(|view| change_positions(view, |positions| positions.senders.clear())));
    assert!(!same(|view| change_positions(view, |positions| positions.senders[0].client = None)));
    assert!(!same(|view| change_positions(view, |positions| positions.sees_senders = false)));
    assert!(!same(|view| change_identity(view, |identity| identity.cluster_name = "y".to_owned())));
    assert!(!same(|view| change_standby(view, |standby| standby.receiver = Receiver::Hidden)));
    assert!(!same(|view| change_standby(view, |standby| {
        if let Receiver::Running(receiver) = &mut standby.receiver {
            receiver.sender_host = Some("10.0.0.3".to_owned());
        }
    })));
}

#[test]
fn a_server_with_two_names_has_one_place() {
    let rows = || vec![row(1, R, "10.0.0.2", Some("a")), row(2, "stranger", "10.0.0.9", None)];
    let named = |view: &TargetView, name: &str| {
        let mut view = view.clone();
        view.id.target = Name::new(name);
        view
    };
    let (p, a) = (p(rows()), s("a", "10.0.0.2", "", "10.0.0.1", Some("a")));
    let (q, b) = (named(&p, "q"), named(&a, "b"));
    let targets = [p.clone(), q.clone(), a.clone(), b.clone()];
    check(&targets, &["p: - strangers 1..1", "q: - strangers 1..1", "a: p pid 1", "b: p pid 1"]);
    let same_as: Vec<_> = found(&targets).into_iter().map(|links| links.same_as).collect();
    assert_eq!(same_as, [None, Some(Name::new("p")), None, Some(Name::new("a"))]);
    // Its other name answers for one that does not.
    check(&[silent(p), q, a], &["p: - strangers 1..1", "q: - strangers 1..1", "a: q pid 1"]);
}
