//! What the demo shows: lines that stay, and below them a picture that is drawn anew several times a second. Where
//! there is no terminal, only lines that stay.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How a piece of text is to stand out. Nothing is said by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Title,
    Good,
    Doubtful,
    Bad,
    Faint,
}

/// The terminal, or what stands in its place.
#[derive(Debug)]
pub(super) struct Screen {
    is_terminal: bool,
    has_colour: bool,
    width: usize,
    /// Lines of the picture that is on the terminal now.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        let out = std::io::stdout();
        let is_terminal = out.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let has_colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let columns = rustix::termios::tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
        Self { is_terminal, has_colour, width: if columns == 0 { 100 } else { columns }, drawn: 0 }
    }

    /// Whether somebody may be watching, who can end the demo when it is enough.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Text in a tone, where there are colours.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        let sgr = match tone {
            Tone::Title => "1",
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31;1",
            Tone::Faint => "2",
        };
        if self.has_colour && !text.is_empty() { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes lines that stay, above the picture.
    pub(super) fn say(&mut self, text: &str) {
        let erased = self.erase();
        self.put(&format!("{erased}{text}\n"));
    }

    /// Writes a line that stays, with the time since the start.
    pub(super) fn event(&mut self, at: Duration, text: &str) {
        let time = self.paint(Tone::Faint, &format!("{:>4}:{:02}", at.as_secs() / 60, at.as_secs() % 60));
        self.say(&format!("{time}  {text}"));
    }

    /// Draws the picture in place of the last one; nothing where there is no terminal.
    pub(super) fn draw(&mut self, lines: &[String]) {
        if !self.is_terminal {
            return;
        }
        let mut text = self.erase();
        for line in lines {
            // A line that wraps would be two, and the next picture would not find its place.
            text.push_str(&fit(line, self.width.saturating_sub(1)));
            text.push('\n');
        }
        self.drawn = lines.len();
        self.put(&text);
    }

    /// What removes the picture from the terminal.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn put(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Whoever read us has gone: the servers must be stopped in good order all the same.
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
    }
}

/// The beginning of `line` that is at most `width` columns wide; colours take no room.
fn fit(line: &str, width: usize) -> String {
    let (mut fitted, mut columns, mut in_colour) = (String::new(), 0, false);
    for c in line.chars() {
        if c == '\x1b' {
            in_colour = true;
        }
        if in_colour {
            fitted.push(c);
            in_colour = c != 'm';
        } else if columns < width {
            fitted.push(c);
            columns += 1;
        }
    }
    fitted
}

/// Pads to a width in columns; colours take no room.
pub(super) fn pad(text: &str, width: usize) -> String {
    let mut in_colour = false;
    let columns = text
        .chars()
        .filter(|c| {
            in_colour |= *c == '\x1b';
            let counts = !in_colour;
            in_colour &= *c != 'm';
            counts
        })
        .count();
    format!("{text}{}", " ".repeat(width.saturating_sub(columns)))
}

/// Seconds as people say them: `12 ms`, `4.2 s`, `1 min 05 s`.
pub(super) fn seconds(seconds: f64) -> String {
    let millis = (seconds * 1e3).round();
    if millis < 1.0 {
        "0 s".to_owned()
    } else if millis < 1000.0 {
        format!("{millis:.0} ms")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", seconds as u64 / 60, seconds as u64 % 60)
    }
}

/// An amount of WAL as people say it.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// A curve of readings in one line; a gap where nothing was known. `full` is the least that fills a column.
pub(super) fn curve(readings: &VecDeque<Option<f64>>, full: f64) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = readings.iter().flatten().fold(full, |top, reading| top.max(*reading));
    let step = |reading: f64| STEPS[((reading / top * 7.0).round() as usize).min(7)];
    readings.iter().map(|reading| reading.map_or(' ', step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_its_width_and_colours_take_no_room() {
        assert_eq!(fit("abc\x1b[32mdef\x1b[0m", 4), "abc\x1b[32md\x1b[0m");
        assert_eq!(pad("\x1b[32mab\x1b[0m", 4), "\x1b[32mab\x1b[0m  ");
    }

    #[test]
    fn amounts_read_as_people_say_them() {
        for (value, text) in
            [(0.0, "0 s"), (0.0123, "12 ms"), (4.24, "4.2 s"), (59.96, "0 min 59 s"), (65.2, "1 min 05 s")]
        {
            assert_eq!(seconds(value), text);
        }
        for (value, text) in [(0, "0 B"), (1234, "1 kB"), (1_250_000, "1.2 MB")] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn what_was_not_known_is_a_gap_in_the_curve() {
        assert_eq!(curve(&VecDeque::from([Some(0.0), None, Some(5.0), Some(10.0)]), 3.0), "▁ ▅█");
    }
}
