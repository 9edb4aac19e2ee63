//! Quantities as people read them: one form for each kind, the same in messages, on pages and in the log.

use super::signal::Unit;

/// A reading in its largest fitting unit: `1m 15s`, `4.7 GiB`, `83.4 %`.
pub fn reading(unit: Unit, value: f64) -> String {
    match unit {
        _ if value.is_nan() => "unknown".to_owned(),
        _ if value.is_infinite() => "unbounded".to_owned(),
        Unit::Seconds => duration(value),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => format!("{}/s", bytes(value).replace(" bytes", " B")),
        Unit::Ratio => format!("{} %", rounded(value * 100.0, 1)),
        Unit::Count | Unit::Bool => format!("{value}"),
    }
}

/// Seconds as they are written in a rule: `0.25s`, `12.4s`, `3m 5s`, `2h 10m`, `4d 3h`.
pub fn duration(seconds: f64) -> String {
    let size = seconds.abs();
    if size < 59.95 {
        let digits = match size {
            size if size < 1.0 => 3,
            size if size < 10.0 => 2,
            _ => 1,
        };
        return format!("{}s", rounded(seconds, digits));
    }
    let whole = size.round();
    let sign = if seconds < 0.0 { "-" } else { "" };
    let (large, large_name, small, small_name) = match whole {
        _ if whole >= 86_400.0 => (86_400.0, "d", 3_600.0, "h"),
        _ if whole >= 3_600.0 => (3_600.0, "h", 60.0, "m"),
        _ => (60.0, "m", 1.0, "s"),
    };
    match (whole % large / small).floor() {
        0.0 => format!("{sign}{:.0}{large_name}", (whole / large).floor()),
        rest => format!("{sign}{:.0}{large_name} {rest:.0}{small_name}", (whole / large).floor()),
    }
}

/// `512 bytes`, `64 MiB`, `4.7 GiB`.
pub fn bytes(bytes: f64) -> String {
    let units = [(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")];
    match units.into_iter().find(|(size, _)| bytes.abs() >= *size) {
        Some((size, name)) => format!("{} {name}", rounded(bytes / size, 1)),
        None => format!("{bytes:.0} bytes"),
    }
}

/// Without zeros that say nothing.
fn rounded(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_told_in_units_that_people_use() {
        for (unit, value, expect) in [
            (Unit::Seconds, 0.0, "0s"),
            (Unit::Seconds, -0.0001, "0s"),
            (Unit::Seconds, 0.25, "0.25s"),
            (Unit::Seconds, 5.004, "5s"),
            (Unit::Seconds, 5.12, "5.12s"),
            (Unit::Seconds, 12.43, "12.4s"),
            (Unit::Seconds, 59.97, "1m"),
            (Unit::Seconds, 75.25, "1m 15s"),
            (Unit::Seconds, -75.25, "-1m 15s"),
            (Unit::Seconds, 7_800.0, "2h 10m"),
            (Unit::Seconds, 356_400.0, "4d 3h"),
            (Unit::Seconds, f64::INFINITY, "unbounded"),
            (Unit::Seconds, f64::NAN, "unknown"),
            (Unit::Bytes, 512.0, "512 bytes"),
            (Unit::Bytes, 67_108_864.0, "64 MiB"),
            (Unit::Bytes, 5e9, "4.7 GiB"),
            (Unit::BytesPerSecond, 512.0, "512 B/s"),
            (Unit::BytesPerSecond, 5e6, "4.8 MiB/s"),
            (Unit::Ratio, 0.834, "83.4 %"),
            (Unit::Ratio, 0.9, "90 %"),
            (Unit::Count, 2.0, "2"),
            (Unit::Bool, 0.0, "0"),
        ] {
            assert_eq!(reading(unit, value), expect, "{value}");
        }
    }
}
