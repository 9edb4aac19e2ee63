//! Aligned columns for a terminal, and how amounts read in them.

/// What a cell's colour says. Without colours nothing is lost: the text says it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Doubtful,
    Bad,
    Faint,
}

impl Tone {
    /// The SGR parameters of ECMA-48, in the eight colours that every terminal has.
    const fn sgr(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Doubtful => "33",
            Self::Bad => "31;1",
            Self::Faint => "2",
        }
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Control characters become spaces: a server's words must not steer the terminal.
    pub fn new(text: &str, tone: Tone) -> Self {
        Self { text: text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(&text, Tone::Plain)
    }
}

/// Rows under a heading. Columns named in `right` are aligned to the right.
#[derive(Debug)]
pub struct Table {
    heading: Vec<Cell>,
    right: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(heading: &[&str], right: &'static [&'static str]) -> Self {
        Self { heading: heading.iter().map(|name| Cell::new(name, Tone::Faint)).collect(), right, rows: Vec::new() }
    }

    pub fn row(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// The table as lines, each with its newline and without trailing spaces. Columns without any text are left out.
    pub fn render(&self, has_colour: bool) -> String {
        self.render_within(has_colour, None)
    }

    /// The same in lines of at most `width` characters: columns that find no room are told below each row, by name.
    pub fn render_within(&self, has_colour: bool, width: Option<usize>) -> String {
        let mut widths: Vec<usize> = (0..self.heading.len())
            .map(|column| {
                let widest = self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0);
                if widest == 0 { 0 } else { widest.max(self.heading[column].width()) }
            })
            .collect();
        let n_fit = fitting(&widths, width);
        widths.truncate(n_fit);
        let mut text = String::new();
        for (index, row) in std::iter::once(&self.heading).chain(&self.rows).enumerate() {
            let mut padding = 0;
            for ((cell, width), heading) in row.iter().zip(&widths).zip(&self.heading) {
                if *width == 0 {
                    continue;
                }
                let spare = width - cell.width();
                let is_right = self.right.contains(&heading.text.as_str());
                if cell.text.is_empty() {
                    padding += width + 2;
                    continue;
                }
                text.extend(std::iter::repeat_n(' ', padding + if is_right { spare } else { 0 }));
                text.push_str(&painted(&cell.text, cell.tone, has_colour));
                padding = 2 + if is_right { 0 } else { spare };
            }
            text.push('\n');
            let below =
                row.iter().zip(&self.heading).skip(n_fit).filter(|(cell, _)| index > 0 && !cell.text.is_empty());
            let below: Vec<String> =
                below.map(|(cell, heading)| format!("{} {}", heading.text.to_lowercase(), cell.text)).collect();
            if !below.is_empty() {
                text.push_str(&wrapped(&format!("    {}", below.join(", ")), width, 4));
                text.push('\n');
            }
        }
        text
    }
}

/// How many of the columns fit beside each other: the first at least.
fn fitting(widths: &[usize], width: Option<usize>) -> usize {
    let Some(width) = width else { return widths.len() };
    let mut end = 0;
    let fits = |own: &usize| {
        end += if *own == 0 { 0 } else { own + 2 };
        end <= width + 2
    };
    widths.iter().map(fits).take_while(|fits| *fits).count().max(1)
}

/// The text in its colour.
pub fn painted(text: &str, tone: Tone, has_colour: bool) -> String {
    if has_colour && tone != Tone::Plain { format!("\x1b[{}m{text}\x1b[0m", tone.sgr()) } else { text.to_owned() }
}

/// Prose in lines of at most `width` characters, as far as its words allow; all lines but the first are indented.
/// Without a width it stays one line.
pub fn wrapped(text: &str, width: Option<usize>, indent: usize) -> String {
    let Some(width) = width else { return text.to_owned() };
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column + length > width && column > indent {
            lines.truncate(lines.trim_end().len());
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        }
        lines.push_str(word);
        column += word.chars().count();
    }
    lines
}

/// A version without what its packager added: `15.18 (Debian 15.18-1)` is `15.18`.
pub fn short(version: &str) -> &str {
    version.split_once(' ').map_or(version, |(number, _)| number)
}

/// Seconds as people read them: `0 s`, `12 ms`, `1.24 s`, `2m 05s`, `3h 04m`, `2d 03h`.
pub fn seconds(value: f64) -> String {
    if value.is_infinite() {
        return "∞".to_owned();
    }
    let whole = value.max(0.0).round() as u64;
    match value {
        v if v <= 0.0 => "0 s".to_owned(),
        v if v < 0.001 => "<1 ms".to_owned(),
        v if v < 0.9995 => format!("{:.0} ms", v * 1e3),
        v if v < 9.995 => format!("{v:.2} s"),
        v if v < 59.95 => format!("{v:.1} s"),
        v if v < 3_600.0 => format!("{}m {:02}s", whole / 60, whole % 60),
        v if v < 86_400.0 => format!("{}h {:02}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// Bytes as people read them: `0 B`, `512 B`, `1.5 KiB`, `64.0 MiB`.
pub fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        // Rounds to 1024.0 of the smaller unit otherwise.
        if scaled < 1023.95 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{value} B") } else { format!("{scaled:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_heading() {
        let mut table = Table::new(&["NAME", "LAG", "NEVER", "NOTE"], &["LAG"]);
        table.row(vec!["a".into(), "≥ 12 s".into(), "".into(), "x\ny".into()]);
        table.row(vec!["größer".into(), "0 s".into(), "".into(), "".into()]);
        table.row(vec!["b".into(), "".into(), "".into(), "z".into()]);
        let expected = "NAME       LAG  NOTE\na       ≥ 12 s  x y\ngrößer     0 s\nb               z\n";
        assert_eq!(table.render(false), expected);
    }

    #[test]
    fn columns_without_room_are_told_below_their_row() {
        let mut table = Table::new(&["NAME", "LAG", "NEVER", "NOTE"], &["LAG"]);
        table.row(vec!["a".into(), "12 s".into(), "".into(), "one two three".into()]);
        table.row(vec!["b".into(), "0 s".into(), "".into(), "".into()]);
        let wide = "NAME   LAG  NOTE\na     12 s  one two three\nb      0 s\n";
        for width in [None, Some(80), Some(25)] {
            assert_eq!(table.render_within(false, width), wide, "{width:?}");
        }
        let narrow = "NAME   LAG\na     12 s\n    note one two three\nb      0 s\n";
        assert_eq!(table.render_within(false, Some(24)), narrow);
        let narrower = "NAME\na\n    lag\n    12 s,\n    note\n    one\n    two\n    three\nb\n    lag 0\n    s\n";
        assert_eq!(table.render_within(false, Some(9)), narrower);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(&["A", "B"], &[]);
        table.row(vec![Cell::new("down", Tone::Bad), "x".into()]);
        assert_eq!(table.render(true), "\x1b[2mA\x1b[0m     \x1b[2mB\x1b[0m\n\x1b[31;1mdown\x1b[0m  x\n");
    }

    #[test]
    fn prose_is_broken_between_words_and_not_within_them() {
        let check = |width, expect: &str| assert_eq!(wrapped("  one two threefour five", width, 2), expect);
        check(None, "  one two threefour five");
        check(Some(80), "  one two threefour five");
        check(Some(11), "  one two\n  threefour\n  five");
        check(Some(4), "  one\n  two\n  threefour\n  five");
    }

    #[test]
    fn amounts_read_as_people_say_them() {
        let told =
            [0.0, 0.0002, 0.012, 0.9999, 1.239, 12.34, 59.96, 125.0, 11_050.0, 183_600.0, f64::INFINITY].map(seconds);
        assert_eq!(
            told,
            ["0 s", "<1 ms", "12 ms", "1.00 s", "1.24 s", "12.3 s", "1m 00s", "2m 05s", "3h 04m", "2d 03h", "∞"]
        );
        let told = [0, 512, 1023, 1024, 1536, 64 << 20, (1 << 30) - 1, u64::MAX].map(bytes);
        assert_eq!(told, ["0 B", "512 B", "1023 B", "1.0 KiB", "1.5 KiB", "64.0 MiB", "1.0 GiB", "16384.0 PiB"]);
    }
}
