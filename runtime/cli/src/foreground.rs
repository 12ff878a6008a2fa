//! Booting a sandbox and running its main command in the foreground.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use blockbox::guest::GuestError;
use blockbox::{Boot, Booted, Ended, Error, Sandbox};

use super::EXIT_RUN_FAILED;
use super::signals::Watcher;
use super::streams::{Connected, Left, connect};
use super::terminal::window_size;

/// How long a step takes before a message names it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for the cleanup of a cancelled boot.
const CLEARING: Duration = Duration::from_secs(15);

/// How a boot ended.
pub(super) enum Boots {
    /// The guest accepts commands.
    Up(Booted),
    /// A signal cancelled the boot; the sandbox is as before.
    GivenUp(ExitCode),
}

/// Waits for the guest; a signal cancels the boot.
pub(super) fn wait(sandbox: &Sandbox, boot: Boot, watcher: &Watcher) -> anyhow::Result<Boots> {
    watcher.boot(boot.canceller());
    let shown = Notices::new();
    let booted = boot.wait(&mut |text| shown.set(text));
    drop(shown);
    if let Some(signal) = watcher.interrupted() {
        drop(booted);
        // The next command must not find a machine that is still being cleaned up.
        let started = Instant::now();
        while started.elapsed() < CLEARING
            && sandbox
                .info()
                .is_ok_and(|info| info.state.status.is_active())
        {
            thread::sleep(Duration::from_millis(10));
        }
        return Ok(Boots::GivenUp(exit_signal(signal)));
    }
    let booted = booted?;
    warn(&booted);
    Ok(Boots::Up(booted))
}

/// Prints warnings about options that could not be met.
pub(super) fn warn(booted: &Booted) {
    if let Some(warning) = booted.warning() {
        eprintln!("blockbox: {warning}");
    }
}

fn exit_signal(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(signal).unwrap_or(0).saturating_add(128))
}

/// Runs the main command with this process's streams, and returns its exit code.
pub(super) fn run(
    booted: Booted,
    stdin: bool,
    options: Connected,
    watcher: &Watcher,
) -> anyhow::Result<ExitCode> {
    let size = options.tty.then(window_size).flatten();
    let (child, completion) = match booted.attach(stdin, size) {
        Err(Error::Guest(GuestError::SpawnFailed { code, message })) => {
            watcher.over();
            eprintln!("blockbox: {message}");
            return Ok(ExitCode::from(code));
        }
        attached => attached?,
    };
    let newline = if options.tty { "\r\n" } else { "\n" };
    let completion = thread::spawn(move || completion.wait_with(&mut |text| say(text, newline)));
    let left = connect(child, options, watcher);
    match left {
        Ok(Left::Detached) => Ok(ExitCode::SUCCESS),
        Ok(Left::Ended(status)) => ended(completion, Some(status.code())),
        // If the machine was lost, the monitor knows why.
        Err(error) => match ended(completion, None) {
            Ok(_) => Err(error),
            Err(reason) => Err(reason),
        },
    }
}

/// Prints a message about the sandbox while its command runs. Standard error is locked by the
/// thread that copies the command's output.
fn say(text: &str, newline: &str) {
    let line = format!("blockbox: {text}{newline}");
    // An error here cannot be reported either.
    let _ = rustix::io::write(std::io::stderr(), line.as_bytes());
}

/// Waits until the sandbox is down, so that the next command can use it at once.
fn ended(
    completion: JoinHandle<blockbox::Result<Ended>>,
    code: Option<u8>,
) -> anyhow::Result<ExitCode> {
    let ended = completion
        .join()
        .map_err(|_| anyhow::anyhow!("the wait for the sandbox's end failed"))??;
    if let Some(error) = ended.error {
        anyhow::bail!(error);
    }
    let code = code.or(ended.exit_code).unwrap_or(EXIT_RUN_FAILED);
    Ok(ExitCode::from(code))
}

/// Prints what is being waited for, on a terminal, if it takes long.
struct Notices(Arc<(Mutex<Notice>, Condvar)>);

#[derive(Default)]
struct Notice {
    text: Option<String>,
    over: bool,
}

impl Notices {
    fn new() -> Self {
        let shared = Arc::<(Mutex<Notice>, Condvar)>::default();
        if std::io::stderr().is_terminal() {
            let shown = Arc::clone(&shared);
            thread::spawn(move || show(&shown));
        }
        Self(shared)
    }

    fn set(&self, text: &str) {
        let (notice, changed) = &*self.0;
        notice.lock().unwrap_or_else(PoisonError::into_inner).text = Some(text.to_owned());
        changed.notify_all();
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        let (notice, changed) = &*self.0;
        notice.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        changed.notify_all();
    }
}

fn show(shared: &(Mutex<Notice>, Condvar)) {
    let (notice, changed) = shared;
    let started = Instant::now();
    let mut notice = notice.lock().unwrap_or_else(PoisonError::into_inner);
    while !notice.over {
        let left = PATIENCE.saturating_sub(started.elapsed());
        if left.is_zero()
            && let Some(text) = notice.text.take()
        {
            eprintln!("blockbox: {text} …");
        }
        let wait = if left.is_zero() {
            Duration::from_secs(60)
        } else {
            left
        };
        notice = changed
            .wait_timeout(notice, wait)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}
