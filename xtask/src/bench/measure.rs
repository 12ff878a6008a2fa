//! Measures one run of one command.
//!
//! The kernel reports the peak memory of a process's largest child so far, not of the latest. So a
//! separate process, `xtask measure`, runs each command and reports on it.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

use crate::shell;

/// The measurements of a command.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    /// From its start until it has ended and its output is on stable storage.
    pub(super) wall: Duration,
    /// User and system time, of all its threads and children.
    pub(super) cpu: Duration,
    /// The most resident memory, in bytes; never below that of `xtask measure` itself.
    pub(super) peak: u64,
}

impl Sample {
    pub(super) fn json(self) -> Value {
        json!({
            "wall_us": micros(self.wall),
            "cpu_us": micros(self.cpu),
            "peak_bytes": self.peak,
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Runs `command`, whose output may be the file `output`, after all pending writes to disks have
/// ended.
pub(super) fn sample(command: &Command, output: Option<&Path>) -> Result<Sample> {
    rustix::fs::sync();
    let mut helper = Command::new(std::env::current_exe()?);
    helper.arg("measure");
    if let Some(output) = output {
        helper.arg("--output").arg(output);
    }
    helper
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    let report: Value = serde_json::from_str(&shell::output(&mut helper)?)?;
    let number = |key: &str| report[key].as_u64().context("xtask measure");
    Ok(Sample {
        wall: Duration::from_micros(number("wall_us")?),
        cpu: Duration::from_micros(number("cpu_us")?),
        peak: number("peak_bytes")?,
    })
}

/// `xtask measure`: runs a command, and then prints a [`Sample`] of it as JSON.
pub(crate) fn helper(command: &[OsString], output: Option<PathBuf>) -> Result<()> {
    let (program, args) = command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status().with_context(|| shell::line(&command))?;
    if let Some(output) = output.filter(|_| status.success()) {
        // Some programs do this themselves and some do not.
        store(&output).with_context(|| output.display().to_string())?;
    }
    let wall = start.elapsed();
    ensure!(status.success(), "{status}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    // Linux counts in KiB.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let sample = Sample {
        wall,
        cpu: Duration::from_micros(u64::try_from(cpu)?),
        peak: u64::try_from(usage.max_rss())? * unit,
    };
    println!("{}", sample.json());
    Ok(())
}

/// Syncs a file, or the whole file system of a folder, to stable storage.
fn store(output: &Path) -> std::io::Result<()> {
    let file = File::open(output)?;
    #[cfg(target_os = "linux")]
    if file.metadata()?.is_dir() {
        return Ok(rustix::fs::syncfs(&file)?);
    }
    file.sync_all()
}
