//! The kernel's trace of executed programs, in a separate instance, which shows when programs
//! started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

/// The folder of the kernel's traces.
const TRACING: &str = "/sys/kernel/tracing";

/// A started program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exec {
    /// The time, in the monotonic clock.
    pub(super) at: Duration,
    pub(super) process: u32,
    /// The processor time that all threads of the process have used until now, if it still exists.
    pub(super) used: Duration,
    pub(super) path: PathBuf,
}

/// Traces this process and its descendants until it is dropped.
pub(super) struct Trace(PathBuf);

impl Trace {
    /// Starts the trace.
    ///
    /// # Errors
    ///
    /// If the kernel has no traces, or this user may not use them.
    pub(super) fn start() -> Result<Self> {
        let instances = Path::new(TRACING).join("instances");
        if !instances.is_dir() {
            let mut mount = Command::new("mount");
            shell::output(mount.args(["-t", "tracefs", "tracefs", TRACING]))?;
        }
        let process = std::process::id();
        let folder = instances.join(format!("blockbox-{process}"));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let trace = Self(folder);
        trace.set("trace_clock", "mono")?;
        trace.set("options/event-fork", "1")?;
        trace.set("set_event_pid", &process.to_string())?;
        trace.set("events/sched/sched_process_exec/enable", "1")?;
        Ok(trace)
    }

    /// Clears the trace.
    pub(super) fn clear(&self) -> Result<()> {
        self.set("trace", "")
    }

    /// Returns a function that reads the programs that have started, in order, with the processor
    /// time of their processes.
    pub(super) fn reader(&self) -> impl FnOnce() -> Result<Vec<Exec>> + Send + use<> {
        let path = self.0.join("trace");
        move || {
            let text = fs::read_to_string(&path).context("the kernel's trace")?;
            Ok(text.lines().filter_map(exec).collect())
        }
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, value).with_context(|| path.display().to_string())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Parses `… 41993.013599: sched_process_exec: filename=/bin/sh pid=23634 old_pid=23634`.
fn exec(line: &str) -> Option<Exec> {
    let (before, after) = line.split_once(": sched_process_exec: filename=")?;
    let seconds: f64 = before.rsplit(' ').next()?.parse().ok()?;
    let (after, _) = after.rsplit_once(" old_pid=")?;
    let (path, process) = after.rsplit_once(" pid=")?;
    let process = process.parse().ok()?;
    Some(Exec {
        at: Duration::try_from_secs_f64(seconds).ok()?,
        process,
        used: shell::processor_time(process).unwrap_or_default(),
        path: path.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_read_from_its_line() {
        let line = "   blockbox-23634   [000] .N... 41993.052762: sched_process_exec: filename=/a b/blockbox pid=23635 old_pid=23634";
        let found = exec(line).expect("a program");
        assert_eq!(found.at.as_micros(), 41_993_052_762);
        assert_eq!(
            (found.process, found.path.to_str()),
            (23635, Some("/a b/blockbox"))
        );
        assert_eq!(exec("# tracer: nop"), None);
    }
}
