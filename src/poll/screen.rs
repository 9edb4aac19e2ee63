//! The terminal while it is watched: another page of it, without a cursor, that takes keys as they are pressed. However the
//! watch ends, the terminal is as before.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::AsyncReadExt;

/// The other page; no cursor; no line longer than the terminal is wide.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Of terminals that do not say how high they are.
const HEIGHT: usize = 24;

/// The terminal, taken over.
#[derive(Debug)]
pub(super) struct Screen {
    /// How the keyboard was set. `None`: standard input is no terminal.
    keyboard: Option<Termios>,
    is_entered: bool,
}

impl Screen {
    pub(super) fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        let keyboard = if stdin.is_terminal() { tcgetattr(stdin).ok() } else { None };
        let mut screen = Self { keyboard, is_entered: false };
        screen.enter()?;
        Ok(screen)
    }

    /// Takes it over, for the first time or again.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        self.is_entered = true;
        if let Some(before) = &self.keyboard {
            let mut now = before.clone();
            now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            now.special_codes[SpecialCodeIndex::VMIN] = 1;
            now.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(io::stdin(), OptionalActions::Now, &now)?;
        }
        put(ENTER)
    }

    /// Gives it back.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.is_entered) {
            // Where it has gone, nothing is left to be restored.
            let _ = put(LEAVE);
            if let Some(before) = &self.keyboard {
                let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
            }
        }
    }

    pub(super) fn keys(&self) -> Keys {
        let keyboard = self.keyboard.is_some().then(|| io::stdin().as_fd().try_clone_to_owned().ok()).flatten();
        Keys(keyboard.map(|fd| tokio::fs::File::from_std(fd.into())))
    }

    /// Shows these lines in place of those before.
    pub(super) fn show(&self, text: &str) -> io::Result<()> {
        let rows = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        put(&frame(text, if rows == 0 { HEIGHT } else { rows }))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What is pressed.
pub(super) struct Keys(Option<tokio::fs::File>);

impl Keys {
    /// Waits for a key. Where there is no keyboard, for ever.
    pub(super) async fn pressed(&mut self) -> u8 {
        let mut key = [0];
        if let Some(keyboard) = &mut self.0
            && let Ok(1..) = keyboard.read(&mut key).await
        {
            return key[0];
        }
        self.0 = None;
        std::future::pending().await
    }
}

/// Writes it all at once.
pub(super) fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What draws these lines over those before: each is cleared behind its end, and so is what is below the last.
fn frame(text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = if lines.len() > rows { rows.saturating_sub(1) } else { lines.len() };
    let mut drawn = String::from("\x1b[H");
    for (place, line) in lines[..shown].iter().enumerate() {
        // A line break behind the last row would scroll.
        drawn.push_str(if place > 0 { "\r\n" } else { "" });
        drawn.push_str(line);
        drawn.push_str("\x1b[K");
    }
    let hidden = lines.len() - shown;
    if hidden > 0 {
        drawn.push_str(&format!("\r\n({hidden} more lines: a higher window shows them)\x1b[K"));
    } else {
        drawn.push_str("\x1b[J");
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_covers_the_one_before_and_never_scrolls() {
        assert_eq!(frame("a\nb\n", 2), "\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J");
        assert_eq!(
            frame("a\nb\nc\nd\n", 3),
            "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n(2 more lines: a higher window shows them)\x1b[K"
        );
        assert_eq!(frame("", 3), "\x1b[H\x1b[J");
    }
}
