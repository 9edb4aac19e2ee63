use super::selector::SelectorConfig;
use super::*;
use crate::core::rule::OneOrMany;
use crate::core::topology::Name;

fn at(seconds: u64) -> MonoTime {
    MonoTime::from_nanos(0).plus(Duration::from_secs(seconds))
}

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn lag() -> AlertId {
    AlertId { rule: Name::new("Lag"), cluster: Name::new("orders"), target: Some(Name::new("r1")), labels: vec![] }
}

fn of(rule: &str, length: Length) -> NewSilence {
    let selector = SelectorConfig { rule: OneOrMany(vec![rule.to_owned()]), ..SelectorConfig::default() };
    NewSilence {
        selector: Selector::parse(&selector).expect("a selector"),
        all: false,
        author: "ada".to_owned(),
        reason: "vacuum of orders".to_owned(),
        length,
    }
}

fn add(silences: &mut Silences, new: NewSilence, second: u64) -> Result<u64, Refusal> {
    silences.change(Change::Add(new), at(second), wall(second)).map(|silence| silence.id)
}

fn holds(silences: &Silences, now: MonoTime, wall: SystemTime) -> Vec<u64> {
    let mutes = silences.at(now, wall).mutes(&lag(), Severity::Warning);
    mutes
        .into_iter()
        .map(|mute| match mute {
            Mute::Silence { id, .. } => id.parse().expect("a number"),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_silence_holds_until_its_end_and_what_it_means_alone() {
    let mut silences = Silences::new(Vec::new());
    assert_eq!(add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 0), Ok(1));
    assert_eq!(add(&mut silences, of("L*", Length::Until(wall(90))), 0), Ok(2));
    assert_eq!(add(&mut silences, of("TargetDown", Length::Until(wall(90))), 0), Ok(3));
    for (second, expect) in [(0, &[1, 2][..]), (59, &[1, 2]), (60, &[2]), (89, &[2]), (90, &[])] {
        assert_eq!(holds(&silences, at(second), wall(second)), expect, "at {second} s");
    }
    let [first, ..] = silences.all() else { panic!("none") };
    assert_eq!((first.until(at(10), wall(10)), first.until(at(100), wall(100))), (wall(60), wall(60)));
}

#[test]
fn a_clock_that_steps_ends_none_that_was_made_for_a_time_and_loses_none() {
    let mut silences = Silences::new(Vec::new());
    add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 0).unwrap();
    add(&mut silences, of("Lag", Length::Until(wall(60))), 0).unwrap();
    // The time of day jumps a day ahead, and back.
    assert_eq!(holds(&silences, at(10), wall(86400)), [1]);
    assert_eq!(silences.all()[0].until(at(10), wall(86400)), wall(86450));
    add(&mut silences, of("TargetDown", Length::For(Duration::from_secs(60))), 10).unwrap();
    assert_eq!(holds(&silences, at(11), wall(11)), [1, 2]);
    // It jumps a day back.
    assert_eq!(holds(&silences, at(61), wall(0) - Duration::from_secs(86400)), [2]);
}

#[test]
fn a_silence_can_be_ended_once() {
    let mut silences = Silences::new(Vec::new());
    add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 0).unwrap();
    let expire = |silences: &mut Silences, id, second| silences.change(Change::Expire { id }, at(second), wall(second));
    let ended = expire(&mut silences, 1, 10).unwrap();
    assert_eq!((ended.until(at(30), wall(30)), ended.was_expired()), (wall(10), true));
    assert_eq!(holds(&silences, at(10), wall(10)), [0; 0]);
    assert_eq!(expire(&mut silences, 1, 11), Err(Refusal::Ended(1)));
    assert_eq!(expire(&mut silences, 2, 11), Err(Refusal::NoSuch(2)));
    // A number is used once.
    assert_eq!(add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 12), Ok(2));
    assert_eq!(expire(&mut silences, 2, 72), Err(Refusal::Ended(2)));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut silences = Silences::new(Vec::new());
    // It ends long after the others.
    add(&mut silences, of("Lag", Length::For(Duration::from_secs(5000))), 0).unwrap();
    for second in 0..300 {
        add(&mut silences, of("Lag", Length::For(Duration::from_secs(1))), second).unwrap();
    }
    assert_eq!(silences.all().len(), 1 + MOST_ENDED + 1);
    assert_eq!(holds(&silences, at(300), wall(300)), [1]);
    let last: Vec<u64> = silences.all().iter().map(|silence| silence.id).skip(1).collect();
    assert_eq!(last, (201..=301).collect::<Vec<_>>());
    for _ in 1..MOST_ACTIVE {
        add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 400).unwrap();
    }
    assert_eq!(add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 400), Err(Refusal::TooMany));
    assert_eq!(add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 460), Ok(801));
}

#[test]
fn what_cannot_be_is_refused_by_its_key() {
    let hour = Length::For(Duration::from_secs(3600));
    let long = "x".repeat(501);
    let nothing = NewSilence { selector: Selector::default(), ..of("Lag", hour) };
    for (new, key, reason) in [
        (nothing.clone(), "all", "it would silence everything; say what, or that all is meant"),
        (NewSilence { all: true, ..of("Lag", hour) }, "all", "all is meant, and rule=Lag; say one of the two"),
        (NewSilence { author: " ".to_owned(), ..of("Lag", hour) }, "author", "must be one line of 1 to 100 characters"),
        (NewSilence { reason: String::new(), ..of("Lag", hour) }, "reason", "must be one line of 1 to 500 characters"),
        (
            NewSilence { reason: "a\nb".to_owned(), ..of("Lag", hour) },
            "reason",
            "must be one line of 1 to 500 characters",
        ),
        (NewSilence { reason: long, ..of("Lag", hour) }, "reason", "must be one line of 1 to 500 characters"),
        (of("Lag", Length::For(Duration::ZERO)), "for", "a silence must last"),
        (
            of("Lag", Length::For(LONGEST + Duration::from_secs(1))),
            "for",
            "1year 18h 1s is longer than a year; \"m\" is a minute, \"M\" a month",
        ),
        (of("Lag", Length::Until(wall(0))), "until", "2027-01-15T08:00:00Z is past"),
        (of("Lag", Length::Until(wall(0) + LONGEST * 2)), "until", "2029-01-16T08:00:00Z is more than a year ahead"),
    ] {
        let mut silences = Silences::new(Vec::new());
        assert_eq!(add(&mut silences, new, 0), Err(Refusal::Bad { key, reason: reason.to_owned() }));
        assert_eq!(silences.all(), []);
    }
    assert_eq!(add(&mut Silences::new(Vec::new()), NewSilence { all: true, ..nothing }, 0), Ok(1));
}

#[test]
fn after_a_boot_it_lasts_as_long_as_it_would_have() {
    let mut before = Silences::new(Vec::new());
    add(&mut before, of("Lag", Length::For(Duration::from_secs(60))), 1000).unwrap();
    add(&mut before, of("Lag", Length::Until(wall(1030))), 1000).unwrap();
    let text = serde_json::to_string(&before.saved()).unwrap();
    let mut saved: SavedSilences = serde_json::from_str(&text).unwrap();
    assert_eq!(saved, before.saved());
    // The clock that showed 1,020 shows 5 now.
    saved.move_times((5 - 1020) * 1_000_000_000);
    let mut after = Silences::new(Vec::new());
    after.restore(saved);
    assert_eq!(holds(&after, at(5), wall(1020)), [1, 2]);
    assert_eq!(holds(&after, at(44), wall(1059)), [1]);
    assert_eq!(holds(&after, at(45), wall(1060)), [0; 0]);
    assert_eq!(add(&mut after, of("Lag", Length::Until(wall(2000))), 50), Ok(3));
}

#[test]
fn an_alert_says_all_that_holds_it_back() {
    let window = window::WindowConfig {
        name: "backup".to_owned(),
        cluster: OneOrMany(vec!["ord*".to_owned()]),
        start: Some("07:30".to_owned()),
        duration: Some("1h".to_owned()),
        time_zone: Some("UTC".to_owned()),
        ..window::WindowConfig::default()
    };
    let mut silences = Silences::new(vec![Window::parse(&window).expect("a window")]);
    add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 0).unwrap();
    let silence = Mute::Silence {
        id: "1".to_owned(),
        author: "ada".to_owned(),
        reason: "vacuum of orders".to_owned(),
        until: wall(60),
    };
    let open = Mute::Maintenance { name: "backup".to_owned(), until: wall(30 * 60) };
    // 08:00 UTC, and a bit: how far apart the clocks were read is not seen.
    let bit = Duration::from_millis(7);
    let mutes = |now: MonoTime, wall: SystemTime| silences.at(now, wall).mutes(&lag(), Severity::Warning);
    assert_eq!(mutes(at(1), wall(1) + bit), [silence.clone(), open.clone()]);
    assert_eq!(mutes(at(2), wall(2)), [silence, open.clone()]);
    assert_eq!(mutes(at(60), wall(60)), [open]);
    assert_eq!(mutes(at(1800), wall(1800)), []);
    let elsewhere = AlertId { cluster: Name::new("billing"), rule: Name::new("Lag2"), ..lag() };
    assert_eq!(silences.at(at(1), wall(1)).mutes(&elsewhere, Severity::Warning), []);
}

#[test]
fn silences_that_are_taken_up_late_join_those_made_meanwhile() {
    let kept = {
        let mut silences = Silences::new(Vec::new());
        add(&mut silences, of("Lag", Length::For(Duration::from_secs(600))), 0).unwrap();
        add(&mut silences, of("Down", Length::For(Duration::from_secs(600))), 0).unwrap();
        silences.saved()
    };
    let mut silences = Silences::new(Vec::new());
    add(&mut silences, of("L*", Length::For(Duration::from_secs(600))), 5).unwrap();
    silences.restore(kept);
    let rules: Vec<(u64, String)> =
        silences.all().iter().map(|silence| (silence.id, silence.selector.to_string())).collect();
    assert_eq!(rules.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3], "{rules:?}");
    assert!(rules[0].1.contains("Lag") && rules[2].1.contains("L*"), "{rules:?}");
    assert_eq!(add(&mut silences, of("Lag", Length::For(Duration::from_secs(60))), 6), Ok(4));
}
