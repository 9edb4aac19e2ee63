//! A terminal with a program in it: what stands on its screen, and keys that are pressed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::until;

/// Dropping it kills the program.
pub(crate) struct Terminal {
    child: Child,
    keyboard: File,
    /// The program's end, kept open so that nothing written last is lost.
    line: OwnedFd,
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    screen: vt100::Parser,
    all: Vec<u8>,
}

impl Terminal {
    /// Starts a program in a terminal of that many rows and columns.
    pub(crate) fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, size(rows, columns)).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let line = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        // Keys such as Ctrl-C reach those whose controlling terminal it is.
        let mut within = Command::new("setsid");
        within.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        for (name, value) in [("TERM", "xterm"), ("NO_COLOR", "")] {
            if !command.get_envs().any(|(given, _)| given == name) {
                within.env(name, value);
            }
        }
        let end = || line.try_clone().unwrap();
        let child = within.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let seen = Arc::new(Mutex::new(Seen { screen: vt100::Parser::new(rows, columns, 0), all: Vec::new() }));
        let (into, mut from) = (Arc::clone(&seen), File::from(master.try_clone().unwrap()));
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut some) {
                let mut seen = into.lock().unwrap();
                seen.screen.process(&some[..length]);
                seen.all.extend_from_slice(&some[..length]);
            }
        });
        Self { child, keyboard: File::from(master), line, seen }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.seen.lock().unwrap().screen.screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.keyboard, size(rows, columns)).unwrap();
    }

    /// What stands on the screen now.
    pub(crate) fn screen(&self) -> String {
        self.seen.lock().unwrap().screen.screen().contents()
    }

    /// All that was ever written.
    pub(crate) fn written(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().all).into_owned()
    }

    /// Whether it is as a shell wants it: its own page, with a cursor, keys that are shown and taken line by line.
    pub(crate) fn is_as_before(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        let screen = seen.screen.screen();
        !screen.alternate_screen() && !screen.hide_cursor() && modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits until what stands on the screen is as `accept` wants it.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut accept: impl FnMut(&str) -> Option<T>,
    ) -> T {
        until(what, patience, || {
            let screen = self.screen();
            let answer = accept(&screen).ok_or(screen);
            async move { answer }
        })
        .await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) async fn ends(&mut self, patience: Duration) -> ExitStatus {
        let child = &mut self.child;
        until("the program in the terminal ends", patience, || {
            let ended = child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned());
            async move { ended }
        })
        .await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
