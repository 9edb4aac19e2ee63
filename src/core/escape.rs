//! The one way in which bytes of others are shown: names of roles, databases, slots and clients may be any bytes, and one
//! that cannot be shown as it is must neither be lost nor become another's.
//!
//! Each byte that cannot be shown is `\xHH`, with two upper-case digits: as in `caf\xE9`, which is `café` in Latin-1. So
//! is a backslash that stands before what looks like such an escape (`\x5C`), so that [`bytes`] gives back what was
//! there, and two names that differ are shown as two. All other text stays as it is.
//!
//! It has two steps. [`text`] makes UTF-8 of bytes, once, where they arrive. [`name`] shows a text in one line: it also
//! escapes what a terminal, a log or a page would not show as a character of its own.

use std::borrow::Cow;

/// Bytes as text. Bytes that are not part of a UTF-8 character are escaped.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.contains(&b'\\') => return Cow::Borrowed(text),
        Ok(text) if !(0..bytes.len()).any(|at| is_escape(&bytes[at..])) => return Cow::Borrowed(text),
        _ => {}
    }
    let mut shown = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find('\\') {
            let (before, from) = rest.split_at(at);
            shown.push_str(before);
            // An escape is all ASCII: one that looks like it lies within one chunk.
            if is_escape(from.as_bytes()) {
                push_escaped(&mut shown, b'\\');
            } else {
                shown.push('\\');
            }
            rest = &from[1..];
        }
        shown.push_str(rest);
        for byte in chunk.invalid() {
            push_escaped(&mut shown, *byte);
        }
    }
    Cow::Owned(shown)
}

/// A text in one line. Control characters, and those that are invisible or turn the direction of writing, are escaped
/// byte by byte. Doing it again changes nothing.
pub fn name(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hidden(character) {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                push_escaped(&mut shown, byte);
            }
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// The bytes that were escaped, by [`text`] and [`name`] in turn or by the first alone.
pub fn bytes(shown: &str) -> Cow<'_, [u8]> {
    let mut rest = shown.as_bytes();
    if !rest.contains(&b'\\') {
        return Cow::Borrowed(rest);
    }
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, others)) = rest.split_first() {
        if let Some(byte) = escaped_byte(rest) {
            bytes.push(byte);
            rest = &rest[ESCAPE..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    Cow::Owned(bytes)
}

/// The length of `\xHH`.
const ESCAPE: usize = 4;

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

fn push_escaped(shown: &mut String, byte: u8) {
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    shown.push_str("\\x");
    shown.push(digit(byte >> 4));
    shown.push(digit(byte & 15));
}

fn is_escape(bytes: &[u8]) -> bool {
    escaped_byte(bytes).is_some()
}

/// The byte whose escape `bytes` begin with.
fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = bytes else { return None };
    let digit = |digit: u8| DIGITS.iter().position(|known| *known == digit).and_then(|value| u8::try_from(value).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// Whether a character is not shown as one: controls, and Unicode's format characters and line separators.
const fn is_hidden(character: char) -> bool {
    matches!(character,
        '\0'..='\x1F' | '\x7F'..='\u{9F}' | '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}'..='\u{200F}'
        | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
        | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(bytes: &[u8]) -> String {
        name(&text(bytes)).into_owned()
    }

    #[test]
    fn what_cannot_be_shown_is_escaped_and_all_else_stays() {
        for (bytes, expect) in [
            (&b"app"[..], "app"),
            ("caf\u{e9} \u{1f418}".as_bytes(), "caf\u{e9} \u{1f418}"),
            (b"caf\xe9", r"caf\xE9"),
            (b"zo\xeb\xff", r"zo\xEB\xFF"),
            // The beginning of a character, and one that is longer than it must be.
            (b"\xc3", r"\xC3"),
            (b"\xc0\x80", r"\xC0\x80"),
            (b"a\nb\x1b[31m\x7f", r"a\x0Ab\x1B[31m\x7F"),
            ("a\u{202e}b\u{200b}\u{85}".as_bytes(), r"a\xE2\x80\xAEb\xE2\x80\x8B\xC2\x85"),
            // Backslashes are escaped only where they would be taken for an escape.
            (br"a\b\x\xe9\xG0\\", r"a\b\x\xe9\xG0\\"),
            (br"caf\xE9", r"caf\x5CxE9"),
            (br"\\xE9", r"\\x5CxE9"),
            (br"caf\x5CxE9", r"caf\x5Cx5CxE9"),
            (b"", ""),
        ] {
            assert_eq!(shown(bytes), expect);
            assert_eq!(super::bytes(expect), bytes);
        }
    }

    /// Bytes of which many are not text, or look like an escape.
    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|character| character.to_string().into_bytes()),
            Just(br"\".to_vec()),
            Just(br"\x".to_vec()),
            Just(br"\x5C".to_vec()),
            Just(br"xE9".to_vec()),
            Just(b"\xe9".to_vec()),
            Just("\u{202e}".as_bytes().to_vec()),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_shown_gives_back_the_bytes_and_steers_nothing(bytes in any_bytes()) {
            let text = text(&bytes);
            let back = super::bytes(&text);
            prop_assert_eq!(back.as_ref(), &bytes[..]);
            let once = name(&text);
            let back = super::bytes(&once);
            prop_assert_eq!(back.as_ref(), &bytes[..]);
            prop_assert!(!once.chars().any(is_hidden));
            let again = name(&once);
            prop_assert_eq!(&again, &once);
        }

        #[test]
        fn names_that_differ_are_shown_as_two(one in any_bytes(), other in any_bytes()) {
            prop_assert_eq!(shown(&one) == shown(&other), one == other);
        }
    }
}
