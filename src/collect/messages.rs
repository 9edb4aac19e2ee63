//! A server's messages with their texts as UTF-8, whatever bytes they are made of.
//!
//! The client library takes text that is UTF-8 and nothing else: one name that is not would cost the whole row, and one
//! such word in a server's error the session. So each message that carries text is looked at as it arrives, and texts
//! that are not UTF-8 are escaped as [`escape::text`] has it. Nearly all are UTF-8, and pass as they are, unmoved.
//!
//! Never more than one message is held back, and no more of it than has arrived. What does not read as a message passes
//! as it is: the library finds better words for it.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::wire::Allowance;
use crate::core::escape;

/// A tag and a length, which counts itself and not the tag.
const HEADER: usize = 5;

/// A message that says it is longer than this is none.
const LONGEST: usize = 1 << 30;

/// Read at once while a message is incomplete.
const PIECE: usize = 8 << 10;

/// Where in the stream of messages we are.
#[derive(Debug)]
pub(super) struct Messages {
    /// What has arrived of a message that is not complete.
    held: Vec<u8>,
    /// Complete messages that wait to be taken, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
    /// Bytes to come of a message that carries no text.
    skipped: usize,
    /// What arrives is no message: all passes as it is.
    is_foreign: bool,
    /// An escape takes more room than what it stands for.
    allowance: Allowance,
}

impl Messages {
    pub(super) fn new(allowance: Allowance) -> Self {
        Self { held: Vec::new(), ready: Vec::new(), taken: 0, skipped: 0, is_foreign: false, allowance }
    }

    /// Reads from `stream`, as [`AsyncRead::poll_read`] does.
    pub(super) fn poll_read(
        &mut self,
        mut stream: Pin<&mut (impl AsyncRead + ?Sized)>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.taken < self.ready.len() {
                self.take(buf);
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let before = buf.filled().len();
                ready!(stream.as_mut().poll_read(cx, buf))?;
                let arrived = &buf.filled()[before..];
                if arrived.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let passing = self.passing(arrived);
                self.held = arrived[passing..].to_vec();
                buf.set_filled(before + passing);
                if passing > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else if !self.release()? {
                let start = self.held.len();
                self.held.resize(start + PIECE, 0);
                let mut piece = ReadBuf::new(&mut self.held[start..]);
                let outcome = stream.as_mut().poll_read(cx, &mut piece);
                let arrived = piece.filled().len();
                self.held.truncate(start + arrived);
                ready!(outcome)?;
                if arrived == 0 {
                    // The end, amid a message.
                    self.is_foreign = true;
                }
            }
        }
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let left = &self.ready[self.taken..];
        let now = left.len().min(buf.remaining());
        buf.put_slice(&left[..now]);
        self.taken += now;
        if self.taken == self.ready.len() {
            // Its room is not kept: most targets never need it again.
            (self.ready, self.taken) = (Vec::new(), 0);
        }
    }

    /// How many of the bytes that arrived may pass as they are: complete messages that need no change, and all that is
    /// not text.
    fn passing(&mut self, arrived: &[u8]) -> usize {
        let mut at = 0;
        while at < arrived.len() {
            if self.is_foreign {
                return arrived.len();
            }
            if self.skipped > 0 {
                let now = self.skipped.min(arrived.len() - at);
                self.skipped -= now;
                at += now;
                continue;
            }
            match self.next(&arrived[at..]) {
                Next::Complete(message) if escaped(message).is_none() => at += message.len(),
                Next::Complete(_) | Next::Incomplete => break,
                Next::Passing => {}
            }
        }
        at
    }

    /// Moves the complete messages at the beginning of `held` to `ready`, escaped; false where there are none.
    fn release(&mut self) -> io::Result<bool> {
        let held = std::mem::take(&mut self.held);
        let mut at = 0;
        while at < held.len() {
            if self.is_foreign {
                self.ready.extend_from_slice(&held[at..]);
                at = held.len();
            } else if self.skipped > 0 {
                let now = self.skipped.min(held.len() - at);
                self.ready.extend_from_slice(&held[at..at + now]);
                self.skipped -= now;
                at += now;
            } else {
                match self.next(&held[at..]) {
                    Next::Complete(message) => {
                        at += message.len();
                        match escaped(message) {
                            Some(longer) => {
                                self.allowance.spend(longer.len().saturating_sub(message.len()))?;
                                self.ready.extend_from_slice(&longer);
                            }
                            None => self.ready.extend_from_slice(message),
                        }
                    }
                    Next::Incomplete => break,
                    Next::Passing => {}
                }
            }
        }
        self.held = if at == 0 { held } else { held[at..].to_vec() };
        Ok(at > 0)
    }

    /// What `bytes`, which begin where a message does, begin with.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Next<'a> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else { return Next::Incomplete };
        let [tag, length @ ..] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if !(HEADER - 1..=LONGEST).contains(&length) {
            self.is_foreign = true;
            return Next::Passing;
        }
        if !TEXTUAL.contains(&tag) {
            self.skipped = length + 1;
            return Next::Passing;
        }
        bytes.get(..=length).map_or(Next::Incomplete, Next::Complete)
    }
}

/// The beginning of what has arrived.
enum Next<'a> {
    /// A message that carries text.
    Complete(&'a [u8]),
    Incomplete,
    /// It passes as it is, which `skipped` or `is_foreign` now says.
    Passing,
}

const DATA_ROW: u8 = b'D';
const ROW_DESCRIPTION: u8 = b'T';
const NOTIFICATION: u8 = b'A';

/// Messages that carry text: rows, errors, notices, parameters, the names of columns and commands, notifications.
const TEXTUAL: &[u8] = &[DATA_ROW, b'E', b'N', b'S', ROW_DESCRIPTION, b'C', NOTIFICATION];

/// Of a column's description what follows its name: the table, the type, the format.
const DESCRIPTION: usize = 18;

/// A complete message with its texts as UTF-8. `None`: they are, or it is not made as its kind is.
fn escaped(message: &[u8]) -> Option<Vec<u8>> {
    let (tag, body) = (message[0], &message[HEADER..]);
    // Most are so, whatever their lengths are.
    if body.is_ascii() && !body.contains(&b'\\') {
        return None;
    }
    let body = match tag {
        DATA_ROW => escaped_row(body)?,
        ROW_DESCRIPTION => escaped_description(body)?,
        NOTIFICATION => {
            let (pid, texts) = body.split_at_checked(4)?;
            let Cow::Owned(texts) = escape::text(texts) else { return None };
            [pid, texts.as_bytes()].concat()
        }
        // All of it is text, each ended by a 0, which is a character like another.
        _ => match escape::text(body) {
            Cow::Owned(body) => body.into_bytes(),
            Cow::Borrowed(_) => return None,
        },
    };
    let length = u32::try_from(body.len() + HEADER - 1).ok()?;
    Some([&[tag], &length.to_be_bytes()[..], &body].concat())
}

/// Columns, each after its length; that of NULL is -1.
fn escaped_row(body: &[u8]) -> Option<Vec<u8>> {
    let mut rest = body.get(2..)?;
    // Made when the first column has to change.
    let mut row: Option<Vec<u8>> = None;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (value, after) = match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => after.split_at_checked(length)?,
            Err(_) => (&after[..0], after),
        };
        let text = escape::text(value);
        if row.is_none() && matches!(text, Cow::Owned(_)) {
            row = Some(body[..body.len() - rest.len()].to_vec());
        }
        if let Some(row) = &mut row {
            if let Cow::Owned(text) = text {
                row.extend_from_slice(&i32::try_from(text.len()).ok()?.to_be_bytes());
                row.extend_from_slice(text.as_bytes());
            } else {
                row.extend_from_slice(length);
                row.extend_from_slice(value);
            }
        }
        rest = after;
    }
    row
}

fn escaped_description(body: &[u8]) -> Option<Vec<u8>> {
    let (n_columns, mut rest) = body.split_at_checked(2)?;
    let mut description = n_columns.to_vec();
    let mut is_changed = false;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (name, after) = rest.split_at(end);
        let (others, after) = after.split_at_checked(1 + DESCRIPTION)?;
        let name = escape::text(name);
        is_changed |= matches!(name, Cow::Owned(_));
        description.extend_from_slice(name.as_bytes());
        description.extend_from_slice(others);
        rest = after;
    }
    is_changed.then_some(description)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A stream that gives its pieces one by one, and is not ready before each.
    struct Pieces {
        left: VecDeque<Vec<u8>>,
        is_ready: bool,
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.is_ready = !self.is_ready;
            if self.is_ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(mut piece) = self.left.pop_front() {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.left.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    /// What comes out when `bytes` arrive in pieces cut at `cuts` and are taken `room` at a time.
    fn passed(bytes: &[u8], cuts: &[usize], room: usize) -> io::Result<Vec<u8>> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let left = cuts.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect();
        let mut stream = Pieces { left, is_ready: true };
        let allowance = Allowance::default();
        allowance.renew();
        let mut messages = Messages::new(allowance);
        let mut passed = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut n_pending = 0;
        loop {
            let mut buffer = vec![0; room];
            let mut buf = ReadBuf::new(&mut buffer);
            match messages.poll_read(Pin::new(&mut stream), &mut cx, &mut buf) {
                Poll::Pending => n_pending += 1,
                Poll::Ready(outcome) => {
                    outcome?;
                    if buf.filled().is_empty() {
                        break;
                    }
                    passed.extend_from_slice(buf.filled());
                }
            }
            assert!(n_pending <= 2 * bytes.len() + 10, "it waits for ever");
        }
        assert!(messages.held.capacity() == 0 && messages.ready.capacity() == 0, "it keeps no room");
        Ok(passed)
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag], &u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
    }

    fn row(columns: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for column in columns {
            let length = column.map_or(-1, |value| i32::try_from(value.len()).unwrap());
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(column.unwrap_or_default());
        }
        message(DATA_ROW, &body)
    }

    fn description(names: &[&[u8]]) -> Vec<u8> {
        let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
        for name in names {
            body.extend_from_slice(name);
            body.push(0);
            body.extend_from_slice(&[0xff; DESCRIPTION]);
        }
        message(ROW_DESCRIPTION, &body)
    }

    /// Bytes that arrive, and those that are expected.
    fn conversation() -> (Vec<u8>, Vec<u8>) {
        let long = vec![b'\xe9'; 300];
        let long_shown = r"\xE9".repeat(300);
        let wide = "\u{e9}".repeat(6000);
        let pairs = [
            (message(b'R', &[0, 0, 0, 5, 0xff, 0xfe, 0xfd, 0xfc]), None),
            (message(b'S', b"server_encoding\0SQL_ASCII\0"), None),
            (message(b'S', b"x\0zo\xeb\0"), Some(message(b'S', b"x\0zo\\xEB\0"))),
            (message(b'K', &[0xff; 8]), None),
            (message(b'Z', b"I"), None),
            (description(&[b"name", b"zo\xeb"]), Some(description(&[b"name", br"zo\xEB"]))),
            (row(&[Some(b"zo\xeb"), None, Some(b"")]), Some(row(&[Some(br"zo\xEB"), None, Some(b"")]))),
            (row(&[Some(wide.as_bytes()), None]), None),
            (row(&[Some(&long), Some(br"a\b")]), Some(row(&[Some(long_shown.as_bytes()), Some(br"a\b")]))),
            (row(&[Some(br"zo\xEB")]), Some(row(&[Some(br"zo\x5CxEB")]))),
            (row(&[]), None),
            (message(b'C', b"SELECT 3\0"), None),
            (
                message(b'E', b"SFATAL\0C28000\0Mle r\xf4le \xab x \xbb n'existe pas\0\0"),
                Some(message(b'E', b"SFATAL\0C28000\0Mle r\\xF4le \\xAB x \\xBB n'existe pas\0\0")),
            ),
            (message(b'N', b"SNOTICE\0M\xe9\0\0"), Some(message(b'N', b"SNOTICE\0M\\xE9\0\0"))),
            (message(b'A', b"\xff\xff\xff\xffch\0\xe9\0"), Some(message(b'A', b"\xff\xff\xff\xffch\0\\xE9\0"))),
            // Not made as a row is.
            (message(DATA_ROW, b"\x00\x01\x00\x00\x00\x09zo\xeb"), None),
            (message(DATA_ROW, b"\xff"), None),
            (message(ROW_DESCRIPTION, b"\x00\x01zo\xeb"), None),
            (message(b'd', &vec![0xe9; 20_000]), None),
            (message(b'Z', b"I"), None),
        ];
        let mut arrives = Vec::new();
        let mut expected = Vec::new();
        for (message, escaped) in pairs {
            arrives.extend_from_slice(&message);
            expected.extend_from_slice(&escaped.unwrap_or(message));
        }
        (arrives, expected)
    }

    #[test]
    fn texts_are_escaped_and_all_else_passes_as_it_is() {
        let (arrives, expected) = conversation();
        for room in [1, 7, 8192, 1 << 20] {
            assert_eq!(passed(&arrives, &[], room).unwrap(), expected, "{room}");
        }
        let every: Vec<usize> = (0..arrives.len()).collect();
        assert_eq!(passed(&arrives, &every, 8192).unwrap(), expected);
    }

    #[test]
    fn what_is_no_message_passes_at_once() {
        for foreign in [&b"HTTP/1.1 400 Bad Request\r\n\r\n\xe9"[..], b"EFATAL: caf\xe9\n\0", b"D\0\0\0\x03", b"D\0"] {
            assert_eq!(passed(foreign, &[], 4096).unwrap(), foreign);
            assert_eq!(passed(foreign, &[1, 3, 9], 5).unwrap(), foreign);
        }
        // The end comes amid a message.
        let (mut arrives, mut expected) = conversation();
        let start = row(&[Some(b"zo\xeb")]);
        for bytes in [&mut arrives, &mut expected] {
            bytes.extend_from_slice(&start[..start.len() - 1]);
        }
        assert_eq!(passed(&arrives, &[], 4096).unwrap(), expected);
    }

    #[test]
    fn escapes_are_bounded_as_what_arrives_is() {
        let row = row(&[Some(&vec![0xe9; 16 << 20])]);
        let outcome = passed(&row, &[], 1 << 20).map(|passed| passed.len()).map_err(|error| error.to_string());
        assert_eq!(outcome, Err(super::super::wire::TooMuch.to_string()));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_reads_are_cut(
            cuts in prop::collection::vec(any::<usize>(), 0..40), room in 1_usize..20_000,
        ) {
            let (arrives, expected) = conversation();
            prop_assert_eq!(passed(&arrives, &cuts, room).unwrap(), expected);
        }

        #[test]
        fn a_value_of_any_bytes_reads_back(value in prop::collection::vec(any::<u8>(), 0..400), cut in any::<usize>()) {
            let passed = passed(&row(&[None, Some(&value)]), &[cut], 64).unwrap();
            let text = std::str::from_utf8(&passed[HEADER + 2 + 4 + 4..]).unwrap();
            let bytes = escape::bytes(text);
            prop_assert_eq!(bytes.as_ref(), &value[..]);
        }
    }
}
