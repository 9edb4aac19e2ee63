//! Processes that are measured: on a CPU of their own, with the kernel's count of what they use.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Outcome;

/// Nanoseconds on a CPU, as the scheduler counts them.
pub(crate) type CpuTime = Duration;

/// The first CPU for this process and all that it starts, but what is measured.
pub(crate) fn pin_self() -> Outcome<()> {
    let pid = std::process::id().to_string();
    let output = Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", "0", &pid]).output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

/// The last CPU, for what is measured.
fn measured_cpu() -> io::Result<String> {
    // For example `0-1`.
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(online.trim().rsplit([',', '-']).next().unwrap_or("0").to_owned())
}

/// A running process that is measured. Dropping it kills it.
pub(crate) struct Measured {
    child: Child,
    /// What each thread had used when it was last looked at, by its id: those that ended since still count.
    threads: RefCell<HashMap<OsString, CpuTime>>,
}

impl Measured {
    /// Starts `program` on the last CPU. `prepare` adds its arguments and environment.
    pub(crate) fn start(program: &Path, prepare: impl FnOnce(&mut Command)) -> Outcome<Self> {
        // taskset becomes the program: the process is the same.
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(measured_cpu()?).arg(program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        prepare(&mut command);
        Ok(Self { child: command.spawn()?, threads: RefCell::default() })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Fails when it has ended.
    pub(crate) fn check(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("a measured process ended by itself: {status}").into()),
        }
    }

    /// CPU time of all its threads so far, less what one that ended used since it was last looked at.
    pub(crate) fn cpu(&self) -> io::Result<CpuTime> {
        let mut threads = self.threads.borrow_mut();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?;
            match on_cpu(&task.path().join("schedstat")) {
                Ok(used) => drop(threads.insert(task.file_name(), used)),
                // It ended just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(threads.values().sum())
    }

    /// Resident memory: all of it, and with shared pages divided among those who share them. In bytes.
    pub(crate) fn memory(&self) -> Outcome<Memory> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let kib = |name: &str| -> Outcome<u64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line in smaps_rollup")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Memory { rss: kib("Rss:")? * 1024, pss: kib("Pss:")? * 1024 })
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
}

/// The first field of a `schedstat` file.
pub(crate) fn on_cpu(schedstat: &Path) -> io::Result<CpuTime> {
    let text = fs::read_to_string(schedstat)?;
    let nanoseconds = text.split_whitespace().next().and_then(|field| field.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.ok_or(io::ErrorKind::InvalidData)?))
}

/// CPU time of the children of `pid` that have ended, to a hundredth of a second (`cutime` and `cstime`).
pub(crate) fn of_ended_children(pid: u32) -> Outcome<CpuTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses, which may have anything in it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Outcome<u64> { Ok(fields.get(at).ok_or("a short line")?.parse()?) };
    Ok(Duration::from_millis((ticks(13)? + ticks(14)?) * 10))
}
