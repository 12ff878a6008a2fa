//! Runs programs, and returns standard paths.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Returns the root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository")
}

/// Returns a path under cargo's target folder, where everything is built: the repository may be
/// read-only.
pub(crate) fn target(path: &str) -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    repository().join(folder).join(path)
}

/// Makes `folder` if it does not exist. `make` gets another folder, which is renamed once it is
/// complete; what an interrupted run left there is removed before.
pub(crate) fn make_once(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    make(&partial)?;
    Ok(fs::rename(&partial, folder)?)
}

/// Returns `cargo` of the toolchain that runs this program.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository());
    cargo
}

/// Builds blockbox in release mode. Returns the program's path.
pub(crate) fn release_build() -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "blockbox-cli"]))?;
    Ok(built("release"))
}

/// Returns the path of the built blockbox; `profile` is `debug` or `release`.
pub(crate) fn built(profile: &str) -> PathBuf {
    target(profile).join("blockbox")
}

/// Returns the path of the program `name`, if it is installed. Besides `PATH` it searches the
/// folders of programs for root.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Runs a command whose output is shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| line(command))?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// Runs a command and returns its stdout; its stderr is shown only if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| line(command))?;
    if !output.status.success() {
        bail!(
            "{}: {}\n{}{}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The output and status of a program.
pub(crate) struct Watched {
    /// The lines on stdout.
    pub(crate) lines: Vec<String>,
    /// The exit status, if it ended by itself.
    pub(crate) status: Option<ExitStatus>,
}

/// How long a program may be inactive before it is killed.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// The time without a line on stdout.
    pub(crate) silent: Duration,
    /// The time without using the processor, if that is limited. A program that computes gets some
    /// processor time even on a busy host. Linux only.
    pub(crate) idle: Option<Duration>,
    /// The processor time without a line on stdout, if that is limited. Linux only.
    pub(crate) busy: Option<Duration>,
}

impl From<Duration> for Patience {
    fn from(silent: Duration) -> Self {
        Self {
            silent,
            idle: None,
            busy: None,
        }
    }
}

/// The processor time that an inactive program may use in each period, because it wakes up from
/// time to time.
const WAKING: Duration = Duration::from_millis(50);

/// Runs a program that may hang, and kills it when it has been inactive for `patience`.
pub(crate) fn watched(command: &mut Command, patience: impl Into<Patience>) -> Result<Watched> {
    watched_by(command, patience, |_| ())
}

/// As [`watched`], and calls `at_first` once the program has written its first line. Also returns
/// the result of that call.
pub(crate) fn watched_from_first<T: Send + 'static>(
    command: &mut Command,
    patience: impl Into<Patience>,
    at_first: impl FnOnce() -> T + Send + 'static,
) -> Result<(Watched, Option<T>)> {
    let (sender, first) = mpsc::channel();
    let mut at_first = Some(at_first);
    let watched = watched_by(command, patience, move |_| {
        if let Some(at_first) = at_first.take() {
            let _ = sender.send(at_first());
        }
    })?;
    Ok((watched, first.try_recv().ok()))
}

/// As [`watched`], and calls `on_line` with each line once the program has written it.
pub(crate) fn watched_by(
    command: &mut Command,
    patience: impl Into<Patience>,
    mut on_line: impl FnMut(&str) + Send + 'static,
) -> Result<Watched> {
    let patience = patience.into();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| line(command))?;
    let mut out = BufReader::new(child.stdout.take().context("piped")?);
    let start = Instant::now();
    // The time of the last line, in milliseconds.
    let heard = Arc::new(AtomicU64::new(0));
    let reader = thread::spawn({
        let heard = Arc::clone(&heard);
        move || {
            let (mut lines, mut line) = (Vec::new(), Vec::new());
            while out.read_until(b'\n', &mut line)? > 0 {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                on_line(&text);
                lines.push(text);
                line.clear();
                heard.store(start.elapsed().as_millis() as u64, Ordering::Relaxed);
            }
            Ok::<_, std::io::Error>(lines)
        }
    });
    let silent = || {
        start
            .elapsed()
            .saturating_sub(Duration::from_millis(heard.load(Ordering::Relaxed)))
    };
    let mut status = child.try_wait()?;
    let mut worked = (processor_time(child.id()), Instant::now());
    let idle = |since: Instant| patience.idle.is_some_and(|limit| since.elapsed() >= limit);
    // What was used at the last line.
    let mut used = (Duration::ZERO, 0);
    let mut busy = |now: Option<Duration>| {
        let (now, last) = (now.unwrap_or_default(), heard.load(Ordering::Relaxed));
        if used.1 != last {
            used = (now, last);
        }
        patience
            .busy
            .is_some_and(|limit| now.saturating_sub(used.0) >= limit)
    };
    while status.is_none() && silent() < patience.silent && !idle(worked.1) && !busy(worked.0) {
        thread::sleep(Duration::from_millis(20));
        let (now, before) = (processor_time(child.id()), worked.0);
        if now.is_none_or(|now| before.is_none_or(|before| now > before + WAKING)) {
            worked = (now, Instant::now());
        }
        status = child.try_wait()?;
    }
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let Ok(lines) = reader.join() else {
        bail!("the reader of {} panicked", line(command));
    };
    let lines = lines?;
    Ok(Watched { lines, status })
}

/// Returns the processor time that all threads of a process have used so far, if the system reports
/// it.
pub(crate) fn processor_time(process: u32) -> Option<Duration> {
    #[cfg(target_os = "linux")]
    {
        let process = nix::unistd::Pid::from_raw(i32::try_from(process).ok()?);
        let clock = nix::time::clock_getcpuclockid(process).ok()?;
        Some(clock.now().ok()?.into())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = process;
        None
    }
}

/// Formats the command for a shell.
pub(crate) fn line(command: &Command) -> String {
    let mut line = quoted(command.get_program());
    for arg in command.get_args() {
        let _ = write!(line, " {}", quoted(arg));
    }
    line
}

/// Quotes a word if a shell would interpret it.
pub(crate) fn quoted(word: &OsStr) -> String {
    if is_plain(word) {
        word.to_string_lossy().into_owned()
    } else {
        format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
    }
}

/// Returns whether a word needs no quotes.
pub(crate) fn is_plain(word: &OsStr) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&c);
    !word.is_empty() && word.as_encoded_bytes().iter().copied().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_and_its_output_is_kept() {
        let mut hangs = Command::new("sh");
        hangs.args(["-c", "echo one; echo two; exec sleep 600"]);
        let watched = watched(&mut hangs, Duration::from_millis(300)).expect("a shell");
        assert_eq!(watched.status, None);
        assert_eq!(watched.lines, ["one", "two"]);
    }

    #[test]
    fn a_program_that_keeps_writing_may_take_longer() {
        let mut slow = Command::new("sh");
        slow.args(["-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done"]);
        let watched = watched(&mut slow, Duration::from_secs(2)).expect("a shell");
        assert!(watched.status.is_some_and(|status| status.success()));
        assert_eq!(watched.lines.len(), 6);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_program_that_only_waits_is_killed_sooner_than_one_that_works() {
        let patience = Patience {
            silent: Duration::from_secs(600),
            idle: Some(Duration::from_secs(1)),
            busy: None,
        };
        let mut waits = Command::new("sleep");
        let watched = watched(waits.arg("600"), patience).expect("sleep");
        assert_eq!(watched.status, None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_program_that_spins_without_output_is_killed() {
        let patience = Patience {
            silent: Duration::from_secs(600),
            idle: None,
            busy: Some(Duration::from_millis(300)),
        };
        let mut spins = Command::new("sh");
        spins.args(["-c", "echo one; while :; do :; done"]);
        let watched = watched(&mut spins, patience).expect("a shell");
        assert_eq!(watched.status, None);
        assert_eq!(watched.lines, ["one"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn processor_time_goes_up_while_a_program_works() {
        let own = || processor_time(std::process::id()).expect("our own processor time");
        let (before, start) = (own(), Instant::now());
        while own() < before + WAKING {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn a_command_is_formatted_for_a_shell() {
        let mut command = Command::new("blockbox");
        command.args(["run", "a:b", "--", "echo", "it's", "", "a b"]);
        assert_eq!(
            line(&command),
            r"blockbox run a:b -- echo 'it'\''s' '' 'a b'"
        );
    }
}
