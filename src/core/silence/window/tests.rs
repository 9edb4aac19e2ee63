use super::*;

const BASE: &str = "cluster = \"orders\"\n";

fn config(text: &str) -> WindowConfig {
    let mut config = WindowConfig { name: "w".to_owned(), ..WindowConfig::default() };
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once(" = ").expect("key = value");
        let list = || OneOrMany(value.split(' ').map(|item| item.trim_matches('"').to_owned()).collect());
        let text = || Some(value.trim_matches('"').to_owned());
        match key {
            "days" => config.days = list(),
            "start" => config.start = text(),
            "end" => config.end = text(),
            "duration" => config.duration = text(),
            "time_zone" => config.time_zone = text(),
            "from" => config.from = text(),
            "until" => config.until = text(),
            "cluster" => config.cluster = list(),
            "severity" => config.severity = list(),
            "reason" => config.reason = text(),
            other => panic!("{other}"),
        }
    }
    config
}

fn window(text: &str) -> Window {
    Window::parse(&config(&format!("{BASE}{text}"))).unwrap_or_else(|fault| panic!("{text}: {fault:?}"))
}

fn at(text: &str) -> SystemTime {
    parse_instant(text).unwrap_or_else(|error| panic!("{error}"))
}

/// In UTC, to the minute.
fn told(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()[..16].to_owned()
}

fn weekly(days: &str, start: &str, end: &str, zone: &str) -> Window {
    let days = if days.is_empty() { String::new() } else { format!("days = {days}\n") };
    let end = if end.contains(':') { format!("end = {end}") } else { format!("duration = {end}") };
    window(&format!("{days}start = {start}\n{end}\ntime_zone = {zone}"))
}

/// The window is open from the one to the other, to the second, and at no time within a day before and after that
/// (unless it opens again then): told by the answer at each of these times.
fn check(window: &Window, around: &str, expect: Option<(&str, &str)>) {
    let found = window.open_at(at(around)).map(|open| (told(open.from), told(open.until)));
    let expect = expect.map(|(from, until)| (from.to_owned(), until.to_owned()));
    assert_eq!(found, expect, "at {around}");
    if let Some(open) = window.open_at(at(around)) {
        let second = Duration::from_secs(1);
        assert_eq!(window.open_at(open.from), Some(open));
        assert_eq!(window.open_at(open.until - second), Some(open));
        assert_ne!(window.open_at(open.from - second), Some(open));
        assert_ne!(window.open_at(open.until), Some(open));
    }
}

#[test]
fn a_window_is_open_from_its_start_to_its_end() {
    let evening = weekly("sat", "20:00", "22:30", "UTC");
    // 2026-12-05 is a Saturday.
    check(&evening, "2026-12-05T21:00:00Z", Some(("2026-12-05T20:00", "2026-12-05T22:30")));
    check(&evening, "2026-12-05T22:30:00Z", None);
    check(&evening, "2026-12-04T21:00:00Z", None);
    check(&evening, "2026-12-06T21:00:00Z", None);
    let daily = weekly("", "04:00", "30m", "UTC");
    check(&daily, "2026-12-02T04:29:59Z", Some(("2026-12-02T04:00", "2026-12-02T04:30")));
    check(&daily, "2026-12-02T04:30:00Z", None);
}

#[test]
fn a_window_past_midnight_belongs_to_the_day_it_begins_on() {
    let night = weekly("fri sunday", "22:00", "06:00", "Europe/Berlin");
    check(&night, "2026-12-05T05:59:59+01:00", Some(("2026-12-04T21:00", "2026-12-05T05:00")));
    check(&night, "2026-12-05T06:00:00+01:00", None);
    check(&night, "2026-12-05T22:30:00+01:00", None);
    // From Sunday to Monday: the week begins anew meanwhile.
    check(&night, "2026-12-07T03:00:00+01:00", Some(("2026-12-06T21:00", "2026-12-07T05:00")));
    check(&night, "2026-12-08T03:00:00+01:00", None);
    // It is another day elsewhere: the zone's own counts.
    let tokyo = weekly("mon", "02:00", "03:00", "Asia/Tokyo");
    check(&tokyo, "2026-12-06T17:30:00Z", Some(("2026-12-06T17:00", "2026-12-06T18:00")));
    let midnight = weekly("mon", "23:00", "24:00", "UTC");
    check(&midnight, "2026-12-07T23:59:59Z", Some(("2026-12-07T23:00", "2026-12-08T00:00")));
    let whole_day = weekly("sun", "00:00", "24:00", "UTC");
    check(&whole_day, "2026-12-06T12:00:00Z", Some(("2026-12-06T00:00", "2026-12-07T00:00")));
}

#[test]
fn a_window_may_last_for_days() {
    let weekend = weekly("fri", "18:00", "62h", "UTC");
    check(&weekend, "2026-12-07T07:59:59Z", Some(("2026-12-04T18:00", "2026-12-07T08:00")));
    check(&weekend, "2026-12-07T08:00:00Z", None);
    // All week: it goes over into the next.
    let always = weekly("wed", "12:00", "7days", "UTC");
    check(&always, "2026-12-09T11:59:59Z", Some(("2026-12-02T12:00", "2026-12-09T12:00")));
    check(&always, "2026-12-09T12:00:00Z", Some(("2026-12-09T12:00", "2026-12-16T12:00")));
}

/// Clocks are put forward on 2026-03-29 from 02:00 to 03:00 (01:00 UTC), and back on 2026-10-25 from 03:00 to 02:00.
#[test]
fn in_berlin_it_follows_the_clocks() {
    let at_two = |start: &str, end: &str| weekly("sun", start, end, "Europe/Berlin");
    for (window, around, expect) in [
        // By the clock the same, an hour apart in winter and in summer.
        (at_two("20:00", "21:00"), "2026-03-22T19:30:00Z", Some(("2026-03-22T19:00", "2026-03-22T20:00"))),
        (at_two("20:00", "21:00"), "2026-03-29T18:30:00Z", Some(("2026-03-29T18:00", "2026-03-29T19:00"))),
        // Over the hour left out: an hour shorter; by duration as long as ever.
        (at_two("01:00", "04:00"), "2026-03-29T00:30:00Z", Some(("2026-03-29T00:00", "2026-03-29T02:00"))),
        (at_two("01:00", "3h"), "2026-03-29T00:30:00Z", Some(("2026-03-29T00:00", "2026-03-29T03:00"))),
        // It begins, or ends, at a time left out.
        (at_two("02:30", "04:00"), "2026-03-29T01:30:00Z", Some(("2026-03-29T01:00", "2026-03-29T02:00"))),
        (at_two("02:00", "04:00"), "2026-03-29T01:30:00Z", Some(("2026-03-29T01:00", "2026-03-29T02:00"))),
        (at_two("01:30", "02:30"), "2026-03-29T00:45:00Z", Some(("2026-03-29T00:30", "2026-03-29T01:00"))),
        (at_two("02:30", "1h"), "2026-03-29T01:30:00Z", Some(("2026-03-29T01:00", "2026-03-29T02:00"))),
        // It is left out as a whole.
        (at_two("02:15", "02:45"), "2026-03-29T01:00:00Z", None),
        (at_two("02:15", "02:45"), "2026-03-29T00:30:00Z", None),
        // The week before it was there.
        (at_two("02:15", "02:45"), "2026-03-22T01:30:00Z", Some(("2026-03-22T01:15", "2026-03-22T01:45"))),
        // Over the hour that comes twice: an hour longer; by duration as long as ever.
        (at_two("01:00", "04:00"), "2026-10-25T01:30:00Z", Some(("2026-10-24T23:00", "2026-10-25T03:00"))),
        (at_two("01:00", "3h"), "2026-10-25T01:30:00Z", Some(("2026-10-24T23:00", "2026-10-25T02:00"))),
        // It begins with the first, and ends with the second; it is not interrupted between.
        (at_two("02:30", "04:00"), "2026-10-25T01:10:00Z", Some(("2026-10-25T00:30", "2026-10-25T03:00"))),
        (at_two("01:00", "02:30"), "2026-10-25T00:45:00Z", Some(("2026-10-24T23:00", "2026-10-25T01:30"))),
        (at_two("02:15", "02:45"), "2026-10-25T01:00:00Z", Some(("2026-10-25T00:15", "2026-10-25T01:45"))),
        (at_two("02:30", "1h"), "2026-10-25T01:00:00Z", Some(("2026-10-25T00:30", "2026-10-25T01:30"))),
    ] {
        check(&window, around, expect);
    }
    // Saturday's night holds the change.
    let night = weekly("sat", "22:00", "06:00", "Europe/Berlin");
    check(&night, "2026-03-29T03:59:00Z", Some(("2026-03-28T21:00", "2026-03-29T04:00")));
    check(&night, "2026-10-25T04:59:00Z", Some(("2026-10-24T20:00", "2026-10-25T05:00")));
}

/// Clocks are put forward on 2026-03-08 from 02:00 to 03:00 (07:00 UTC), and back on 2026-11-01 from 02:00 to 01:00.
#[test]
fn in_new_york_it_follows_the_clocks() {
    let sunday = |start: &str, end: &str| weekly("sun", start, end, "America/New_York");
    for (window, around, expect) in [
        (sunday("01:00", "04:00"), "2026-03-08T06:30:00Z", Some(("2026-03-08T06:00", "2026-03-08T08:00"))),
        (sunday("02:30", "04:00"), "2026-03-08T07:30:00Z", Some(("2026-03-08T07:00", "2026-03-08T08:00"))),
        (sunday("02:00", "03:00"), "2026-03-08T07:00:00Z", None),
        (sunday("01:15", "01:45"), "2026-11-01T06:00:00Z", Some(("2026-11-01T05:15", "2026-11-01T06:45"))),
        (sunday("00:30", "03:00"), "2026-11-01T06:00:00Z", Some(("2026-11-01T04:30", "2026-11-01T08:00"))),
        (sunday("00:30", "2h"), "2026-11-01T06:00:00Z", Some(("2026-11-01T04:30", "2026-11-01T06:30"))),
    ] {
        check(&window, around, expect);
    }
}

/// Times all over a year: what is open is open by the clock, except where the clocks themselves are ambiguous.
#[test]
fn all_year_it_is_what_the_clock_on_the_wall_says() {
    for (zone, start, end) in [
        ("Europe/Berlin", 22 * 60, 6 * 60),
        ("America/New_York", 13 * 60, 14 * 60 + 30),
        ("Asia/Kathmandu", 5, 10),
        ("Australia/Lord_Howe", 23 * 60, 60),
    ] {
        let clock = |minutes: i32| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        let night = weekly("tue sat", &clock(start), &clock(end), zone);
        let zone = time_zone(zone).expect("known");
        for minute in (0..366 * 24 * 60).step_by(37) {
            let wall = at("2026-01-01T00:00:00Z") + Duration::from_secs(minute * 60);
            let shown = zone.to_datetime(Timestamp::try_from(wall).expect("in range"));
            let minutes = i32::from(shown.hour()) * 60 + i32::from(shown.minute());
            let is_on = |day: Weekday| day == Weekday::Tuesday || day == Weekday::Saturday;
            let (today, yesterday) = (shown.weekday(), shown.weekday().previous());
            let expect = if start < end {
                is_on(today) && (start..end).contains(&minutes)
            } else {
                is_on(today) && minutes >= start || is_on(yesterday) && minutes < end
            };
            assert_eq!(night.open_at(wall).is_some(), expect, "{wall:?}: {shown}");
        }
    }
}

#[test]
fn the_next_one_is_foreseen() {
    let next =
        |window: &Window, after: &str| window.next_after(at(after)).map(|next| (told(next.from), told(next.until)));
    let some = |from: &str, until: &str| Some((from.to_owned(), until.to_owned()));
    let saturday = weekly("sat", "20:00", "22:00", "UTC");
    assert_eq!(next(&saturday, "2026-12-05T19:59:00Z"), some("2026-12-05T20:00", "2026-12-05T22:00"));
    assert_eq!(next(&saturday, "2026-12-05T20:00:00Z"), some("2026-12-12T20:00", "2026-12-12T22:00"));
    // The next is left out, by the clocks being put forward.
    let left_out = weekly("sun", "02:15", "02:45", "Europe/Berlin");
    assert_eq!(next(&left_out, "2026-03-23T00:00:00Z"), some("2026-04-05T00:15", "2026-04-05T00:45"));
    let once = window("from = 2026-12-05T22:00:00+01:00\nuntil = 2026-12-06T02:00:00+01:00");
    assert_eq!(next(&once, "2026-12-01T00:00:00Z"), some("2026-12-05T21:00", "2026-12-06T01:00"));
    assert_eq!(next(&once, "2026-12-05T21:00:00Z"), None);
    check(&once, "2026-12-05T21:00:00Z", Some(("2026-12-05T21:00", "2026-12-06T01:00")));
    check(&once, "2026-12-06T01:00:00Z", None);
}

#[test]
fn zones_are_known_without_any_file() {
    for name in
        ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Etc/GMT+5", "America/Argentina/Buenos_Aires"]
    {
        assert!(time_zone(name).is_ok(), "{name}");
    }
}

#[test]
fn each_mistake_has_one_error_with_the_way_out() {
    const TIMES: &str = "start = 22:00\nend = 06:00\n";
    const ZONE: &str = "time_zone = Europe/Berlin\n";
    for (text, key, expect) in [
        (
            format!("{TIMES}{ZONE}"),
            "",
            "it would silence everything; say what with cluster, target, rule or severity, or write cluster = \"*\"",
        ),
        (
            format!("severity = critcal\n{TIMES}{ZONE}"),
            "severity",
            "\"critcal\" is not one of \"info\", \"warning\", \"critical\"",
        ),
        (format!("{BASE}reason = \n{TIMES}{ZONE}"), "reason", "must be one line of 1 to 500 characters"),
        (BASE.to_owned(), "", "it has no time; write start, end and time_zone, or from and until for a single window"),
        (format!("{BASE}start = 22:00\n{ZONE}"), "", "it does not end; write end = \"06:00\" or duration = \"2h\""),
        (format!("{BASE}{TIMES}"), "", "whose clocks? write for example time_zone = \"Europe/Berlin\", or \"UTC\""),
        (
            format!("{BASE}start = 10pm\nend = 06:00\n{ZONE}"),
            "start",
            "\"10pm\" is not a time of day; write for example \"22:00\"",
        ),
        (
            format!("{BASE}start = 24:00\nend = 06:00\n{ZONE}"),
            "start",
            "\"24:00\" is not a time of day; write for example \"22:00\"",
        ),
        (
            format!("{BASE}start = 22:60\nend = 06:00\n{ZONE}"),
            "start",
            "\"22:60\" is not a time of day; write for example \"22:00\"",
        ),
        (
            format!("{BASE}start = 22:00\nend = 25:00\n{ZONE}"),
            "end",
            "\"25:00\" is not a time of day; write for example \"06:00\"",
        ),
        (
            format!("{BASE}start = 22:00\nend = 6:0\n{ZONE}"),
            "end",
            "\"6:0\" is not a time of day; write for example \"06:00\"",
        ),
        (
            format!("{BASE}start = 06:00\nend = 06:00\n{ZONE}"),
            "end",
            "\"06:00\" is when it starts; for a whole day write duration = \"24h\"",
        ),
        (format!("{BASE}{TIMES}duration = 2h\n{ZONE}"), "duration", "end says it already; write one of the two"),
        (
            format!("{BASE}start = 22:00\nduration = long\n{ZONE}"),
            "duration",
            "\"long\" is not a duration; write for example \"2h\" or \"1h 30m\"",
        ),
        (
            format!("{BASE}start = 22:00\nduration = 2M\n{ZONE}"),
            "duration",
            "\"2M\" cannot be within a week; write more than 0 and at most \"7days\"; \"m\" is a minute, \"M\" a month",
        ),
        (
            format!("{BASE}start = 22:00\nduration = 0s\n{ZONE}"),
            "duration",
            "\"0s\" cannot be within a week; write more than 0 and at most \"7days\"; \"m\" is a minute, \"M\" a month",
        ),
        (
            format!("{BASE}{TIMES}time_zone = Berlin\n"),
            "time_zone",
            "there is no time zone \"Berlin\"; did you mean \"Europe/Berlin\"?",
        ),
        (
            format!("{BASE}{TIMES}time_zone = Europe/Berln\n"),
            "time_zone",
            "there is no time zone \"Europe/Berln\"; did you mean \"Europe/Berlin\"?",
        ),
        (
            format!("{BASE}{TIMES}time_zone = here\n"),
            "time_zone",
            "there is no time zone \"here\"; write a name such as \"Europe/Berlin\", \"America/New_York\" or \"UTC\"",
        ),
        (
            format!("{BASE}days = mon freitag\n{TIMES}{ZONE}"),
            "days",
            "\"freitag\" is no day of the week; write mon, tue, wed, thu, fri, sat or sun",
        ),
        (format!("{BASE}from = 2026-12-05T22:00:00Z"), "", "a single window takes both from and until"),
        (
            format!("{BASE}from = 2026-12-05T22:00:00Z\nuntil = 2026-12-06T22:00:00Z\n{ZONE}"),
            "time_zone",
            "is for weekly windows; a single one has from and until alone",
        ),
        (
            format!("{BASE}from = 2026-12-05T22:00:00\nuntil = 2026-12-06T22:00:00Z"),
            "from",
            "\"2026-12-05T22:00:00\" has no offset from UTC; write for example \"2026-12-05T22:00:00+01:00\" or \
             \"2026-12-05T21:00:00Z\"",
        ),
        (
            format!("{BASE}from = 2026-12-05T22:00:00Z\nuntil = tomorrow"),
            "until",
            "\"tomorrow\" is not a time in RFC 3339; write for example \"2026-12-05T22:00:00+01:00\" or \
             \"2026-12-05T21:00:00Z\"",
        ),
        (
            format!("{BASE}from = 2026-12-05T22:00:00Z\nuntil = 2026-12-05T22:00:00Z"),
            "until",
            "\"2026-12-05T22:00:00Z\" is not after from, \"2026-12-05T22:00:00Z\"",
        ),
    ] {
        let fault = Window::parse(&config(&text)).expect_err(&text);
        assert_eq!((fault.key, fault.reason.as_str()), (key, expect), "{text}");
    }
}
