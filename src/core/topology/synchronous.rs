//! `synchronous_standby_names`: how many standbys a commit waits for, and which may be among them.

use std::iter::Peekable;
use std::str::CharIndices;

/// What the setting asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncStandbys {
    pub method: SyncMethod,
    /// How many standbys must have confirmed before a commit returns. 0 when the setting is empty.
    pub required: u32,
    /// Their `application_name`s; `*` is any.
    pub names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// Those that come first in the list: also what a plain list means.
    First,
    /// Any of the list: a quorum.
    Any,
}

impl SyncMethod {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Any => "any",
        }
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    /// An identifier in double quotes, or `*`: never a keyword.
    Name(String),
    /// An identifier or a number, which may also be a keyword or a count.
    Word(String),
    Comma,
    Open,
    Close,
}

impl SyncStandbys {
    /// Reads the setting by the server's own grammar: `a, b`, `n (a, b)`, `FIRST n (a, b)`, `ANY n (a, b)`, where names may be
    /// in double quotes. `None` for what no server would have taken.
    pub fn parse(setting: &str) -> Option<Self> {
        let tokens = tokens(setting)?;
        let (method, required, list) = match tokens.as_slice() {
            [] => return Some(Self { method: SyncMethod::First, required: 0, names: Vec::new() }),
            [Token::Word(count), Token::Open, list @ .., Token::Close] => (SyncMethod::First, count.as_str(), list),
            [Token::Word(method), Token::Word(count), Token::Open, list @ .., Token::Close] => {
                (keyword(method)?, count.as_str(), list)
            }
            list => (SyncMethod::First, "1", list),
        };
        let required = required.bytes().all(|byte| byte.is_ascii_digit()).then(|| required.parse().ok()).flatten()?;
        let names = names(list)?;
        (required > 0).then_some(Self { method, required, names })
    }
}

fn keyword(word: &str) -> Option<SyncMethod> {
    if word.eq_ignore_ascii_case("first") {
        Some(SyncMethod::First)
    } else if word.eq_ignore_ascii_case("any") {
        Some(SyncMethod::Any)
    } else {
        None
    }
}

/// Names with commas between. An unquoted keyword is no name.
fn names(list: &[Token]) -> Option<Vec<String>> {
    list.split(|token| *token == Token::Comma)
        .map(|part| match part {
            [Token::Name(name)] => Some(name.clone()),
            [Token::Word(word)] if keyword(word).is_none() => Some(word.clone()),
            _ => None,
        })
        .collect()
}

fn tokens(setting: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = setting.char_indices().peekable();
    while let Some((start, first)) = chars.next() {
        tokens.push(match first {
            ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' => continue,
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            '*' => Token::Name("*".to_owned()),
            '"' => Token::Name(quoted(&mut chars)?),
            '0'..='9' => Token::Word(word(setting, start, &mut chars, |c| c.is_ascii_digit())),
            'A'..='Z' | 'a'..='z' | '_' | '\u{80}'.. => Token::Word(word(setting, start, &mut chars, |c| {
                c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii()
            })),
            _ => return None,
        });
    }
    Some(tokens)
}

fn word(setting: &str, start: usize, chars: &mut Peekable<CharIndices<'_>>, goes_on: fn(char) -> bool) -> String {
    while chars.next_if(|(_, c)| goes_on(*c)).is_some() {}
    let end = chars.peek().map_or(setting.len(), |(at, _)| *at);
    setting[start..end].to_owned()
}

/// The rest of a name in double quotes, where two of them are one. `None` when it does not end.
fn quoted(chars: &mut Peekable<CharIndices<'_>>) -> Option<String> {
    let mut name = String::new();
    loop {
        match chars.next()?.1 {
            '"' if chars.next_if(|(_, c)| *c == '"').is_some() => name.push('"'),
            '"' => return Some(name),
            other => name.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_read_as_the_server_reads_it() {
        use SyncMethod::{Any, First};
        for (setting, method, required, names) in [
            ("", First, 0, &[][..]),
            (" \t\n", First, 0, &[]),
            ("*", First, 1, &["*"]),
            ("r1", First, 1, &["r1"]),
            ("r1,r2 , r3", First, 1, &["r1", "r2", "r3"]),
            ("2(r1, r2)", First, 2, &["r1", "r2"]),
            ("FIRST 2 (r1, r2, *)", First, 2, &["r1", "r2", "*"]),
            ("first 1 (\"FIRST\")", First, 1, &["FIRST"]),
            ("ANY 2 (s1, s2, s3)", Any, 2, &["s1", "s2", "s3"]),
            ("aNy\n1\n(*)", Any, 1, &["*"]),
            // A number is a name where no parenthesis follows.
            ("2", First, 1, &["2"]),
            ("2, 3", First, 1, &["2", "3"]),
            ("FIRST 1 (4)", First, 1, &["4"]),
            ("\"a, b\", \"say \"\"no\"\"\"", First, 1, &["a, b", "say \"no\""]),
            ("\"\"", First, 1, &[""]),
            ("größe$1", First, 1, &["größe$1"]),
            ("ANY 00002 (a)", Any, 2, &["a"]),
            ("first_2", First, 1, &["first_2"]),
        ] {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(SyncStandbys::parse(setting), Some(SyncStandbys { method, required, names }), "{setting:?}");
        }
    }

    #[test]
    fn what_no_server_takes_is_not_read() {
        for setting in [
            ",",
            "a,",
            ",a",
            "a b",
            "a;b",
            "-1 (a)",
            "0 (a)",
            "FIRST 0 (a)",
            "FIRST (a)",
            "FIRST 2 a",
            "FIRST 2 (a",
            "FIRST 2 a)",
            "FIRST 2 ()",
            "FIRST 2 (a))",
            "((a))",
            "()",
            "(",
            "\"a",
            "\"a\"\"",
            "any",
            "a, first",
            "ANY x (a)",
            "SOME 1 (a)",
            "\"ANY\" 1 (a)",
            "ANY 99999999999999999999 (a)",
            "2.5 (a)",
            "$a",
            "a'b",
            "\0",
            "1 (a) (b)",
            "ANY 1 (a), b",
            "* *",
            "'",
            "2x (a)",
        ] {
            assert_eq!(SyncStandbys::parse(setting), None, "{setting:?}");
        }
        // Long nonsense costs no more than its length, and no stack.
        assert_eq!(SyncStandbys::parse(&"(".repeat(100_000)), None);
        assert_eq!(SyncStandbys::parse(&"\"\"".repeat(100_001)).map(|read| read.names[0].len()), Some(100_000));
    }
}
