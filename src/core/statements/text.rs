//! What may be shown of a statement's text: its first line, without a literal.
//!
//! The server replaces constants by `$1`, `$2` in what it keeps, but not in utility statements (`ALTER ROLE ... PASSWORD
//! '...'`), and not where an entry was evicted while its statement ran. So nothing is relied upon: of a utility statement
//! only the command's name is shown, and of others all literals are taken out. Where it cannot be told where a literal
//! ends, the text ends before it.

/// Characters shown at most.
const MAX_LENGTH: usize = 200;

/// Stands for a literal.
const LITERAL: char = '?';

/// Stands for what was cut off.
const CUT: char = '…';

/// The first words of statements that have a plan: their literals are where literals may be.
const PLANNED: [&str; 8] = ["select", "insert", "update", "delete", "merge", "with", "values", "table"];

/// Utility commands whose second word is part of the command's name.
const TWO_WORDS: [&str; 4] = ["create", "alter", "drop", "refresh"];

/// The first line of `sql` without literals and comments. Of a utility statement the command alone.
pub fn shown(sql: &str) -> String {
    let mut line = Line { rest: sql, shown: String::new() };
    let is_whole = line.read();
    let text = line.shown.trim_end();
    let mut words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let is = |words: &[&str]| words.iter().any(|word| first.eq_ignore_ascii_case(word));
    if !is(&PLANNED) {
        let mut command = first.to_owned();
        if let Some(second) = words.next().filter(|_| is(&TWO_WORDS)) {
            command.push(' ');
            command.push_str(second);
        }
        command.push(CUT);
        return command;
    }
    match text.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => format!("{}{CUT}", &text[..end]),
        None if is_whole => text.to_owned(),
        None => format!("{text} {CUT}"),
    }
}

struct Line<'a> {
    rest: &'a str,
    shown: String,
}

impl Line<'_> {
    /// Whether nothing was cut off.
    fn read(&mut self) -> bool {
        let mut previous = ' ';
        while let Some(character) = self.rest.chars().next() {
            // Enough: what follows is cut off in any case.
            if self.shown.len() > 8 * MAX_LENGTH {
                return false;
            }
            let in_word = previous.is_alphanumeric() || matches!(previous, '_' | '$');
            let literal = match character {
                '\'' => Some(string_end(self.rest)),
                '$' if !in_word => match parameter_end(self.rest) {
                    Some(end) => {
                        self.shown.push_str(&self.rest[..end]);
                        self.rest = &self.rest[end..];
                        previous = '0';
                        continue;
                    }
                    None => Some(dollar_end(self.rest)),
                },
                '0'..='9' if !in_word => Some(Some(number_end(self.rest))),
                _ => None,
            };
            let skipped = match (literal, character) {
                (Some(end), _) => {
                    self.shown.push(LITERAL);
                    previous = LITERAL;
                    end
                }
                (None, '-') if self.rest.starts_with("--") => self.rest.find('\n'),
                (None, '/') if self.rest.starts_with("/*") => comment_end(self.rest),
                (None, '"') => match self.rest[1..].find(['"', '\n']) {
                    Some(end) => {
                        self.shown.push_str(&self.rest[..end + 2]);
                        previous = '"';
                        Some(end + 2)
                    }
                    None => None,
                },
                (None, '\n' | '\r') if !self.shown.is_empty() => return self.rest.trim().is_empty(),
                (None, other) => {
                    let other_or_space = if other.is_control() || other.is_whitespace() { ' ' } else { other };
                    if other_or_space != ' ' || !(self.shown.is_empty() || self.shown.ends_with(' ')) {
                        self.shown.push(other_or_space);
                    }
                    previous = other;
                    Some(other.len_utf8())
                }
            };
            let Some(rest) = skipped.and_then(|end| self.rest.get(end..)) else { return false };
            self.rest = rest;
        }
        true
    }
}

/// Where the string that `text` begins with ends. `None` when it has no end, or a backslash: whether that escapes a
/// quote depends on a prefix and on a setting.
fn string_end(text: &str) -> Option<usize> {
    let mut end = 1;
    loop {
        end += text.get(end..)?.find(['\'', '\\'])?;
        match text.as_bytes().get(end..end + 2) {
            Some(b"''") => end += 2,
            _ if text.as_bytes().get(end) == Some(&b'\\') => return None,
            _ => return Some(end + 1),
        }
    }
}

/// Where `$1` ends.
fn parameter_end(text: &str) -> Option<usize> {
    let digits = text[1..].bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then_some(digits + 1)
}

/// Where `$tag$ ... $tag$` ends.
fn dollar_end(text: &str) -> Option<usize> {
    let tag_end = text[1..].find('$')? + 2;
    let (tag, body) = text.split_at(tag_end);
    tag[1..tag_end - 1].chars().all(|c| c.is_alphanumeric() || c == '_').then_some(())?;
    Some(tag_end + body.find(tag)? + tag_end)
}

/// Where a number ends, whatever its base: letters and digits, and the sign of an exponent.
fn number_end(text: &str) -> usize {
    let mut previous = '0';
    for (end, character) in text.char_indices() {
        let is_sign = matches!(character, '+' | '-') && matches!(previous, 'e' | 'E');
        if !(character.is_alphanumeric() || matches!(character, '.' | '_') || is_sign) {
            return end;
        }
        previous = character;
    }
    text.len()
}

/// Where a comment ends: comments may hold comments.
fn comment_end(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next()?.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_shown_without_literals() {
        for (sql, expect) in [
            ("SELECT $1 FROM t WHERE a = $22", "SELECT $1 FROM t WHERE a = $22"),
            ("\n  -- who: 'x'\n /* 'a' /* b */ c */ SELECT a\nFROM t", "SELECT a …"),
            ("select 'a''b', \"it's\", x1, t2.c3 from t4", "select ?, \"it's\", x1, t2.c3 from t4"),
            ("SELECT 1, 1.5e-10, .5, 0x1F, 1_000 LIMIT 3;", "SELECT ?, ?, .?, ?, ? LIMIT ?;"),
            ("SELECT $$it's$$, $a$ $$ $a$, $1::int", "SELECT ?, ?, $1::int"),
            ("SELECT E'a\\'secret' FROM t", "SELECT E? …"),
            ("SELECT 'C:\\' || 'secret'", "SELECT ? …"),
            ("SELECT 'no end", "SELECT ? …"),
            ("SELECT $tag$ no end", "SELECT ? …"),
            ("SELECT a /* no end secret", "SELECT a …"),
            ("SELECT X'1F', N'é', U&'\\0041' AS \"q\"", "SELECT X?, N?, U&? …"),
            ("SELECT a$1b, $1", "SELECT a$1b, $1"),
            ("SELECT\ta\u{7}b", "SELECT a b"),
            ("(SELECT 1) UNION SELECT 'x'", "(SELECT ?) UNION SELECT ?"),
            ("", "…"),
        ] {
            assert_eq!(shown(sql), expect, "{sql}");
        }
        assert_eq!(shown(&format!("SELECT {}", "é".repeat(300))).chars().count(), MAX_LENGTH + 1);
    }

    #[test]
    fn of_a_utility_statement_only_the_command_is_shown() {
        for (sql, expect) in [
            ("ALTER ROLE app PASSWORD 'secret'", "ALTER ROLE…"),
            ("create user secret password $$secret$$", "create user…"),
            ("/* ' */ CREATE SUBSCRIPTION s CONNECTION 'password=secret'", "CREATE SUBSCRIPTION…"),
            ("SET app.token = 'secret'", "SET…"),
            ("EXECUTE secret(1)", "EXECUTE…"),
            ("COPY t FROM PROGRAM 'secret'", "COPY…"),
            ("ALTER\nROLE app PASSWORD 'secret'", "ALTER…"),
        ] {
            assert_eq!(shown(sql), expect, "{sql}");
        }
    }

    #[test]
    fn no_literal_survives_however_it_is_written() {
        let literals =
            ["'S3CRET'", "'it''S3CRET'", "E'\\'S3CRET'", "$$S3CRET$$", "$x$S3CRET$x$", "U&'S3CRET'", "'\\S3CRET'"];
        let before = [
            "SELECT ",
            "SELECT a, ",
            "SELECT 'x\\', ",
            "SELECT E'\\'', ",
            "SELECT /* ' */ ",
            "SELECT \"'\", ",
            "SELECT $1, ",
        ];
        for before in before {
            for literal in literals {
                for after in ["", ", 'b'", " -- '", "\nFROM t"] {
                    let sql = format!("{before}{literal}{after}");
                    assert!(!shown(&sql).contains("S3CRET"), "{sql}: {}", shown(&sql));
                }
            }
        }
    }
}
