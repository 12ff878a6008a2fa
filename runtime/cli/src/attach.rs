//! Connects this process's streams, terminal and signals to a command in a guest.

use std::io::{self, IsTerminal};
use std::thread;

use anyhow::Context;
use blockbox::guest::{Exec, ExecSpec, ExitStatus, GuestError, WindowSize};
use blockbox::sandbox::Running;
use rustix::termios::{self, OptionalActions, Termios};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

/// The signals that are passed on, by this system's numbers, with Linux's.
const FORWARDED: [(i32, u32); 6] = [
    (SIGHUP, 1),
    (SIGINT, 2),
    (SIGQUIT, 3),
    (SIGUSR1, 10),
    (SIGUSR2, 12),
    (SIGTERM, 15),
];

/// Runs a command with this process's streams and gives the exit code that a shell would.
pub(super) fn run(running: &Running, spec: &ExecSpec) -> anyhow::Result<u8> {
    // Before the command starts, so that no signal in between ends this process and leaves the guest to itself.
    let signals = Signals::new(
        FORWARDED
            .map(|(ours, _)| ours)
            .into_iter()
            .chain([SIGWINCH]),
    )
    .context("cannot watch for signals")?;
    let exec = match running.exec(spec) {
        Err(blockbox::Error::Guest(GuestError::SpawnFailed { code, message })) => {
            eprintln!("blockbox: {message}");
            return Ok(code);
        }
        exec => exec?,
    };
    let raw = spec
        .tty
        .map(|_| RawTerminal::enter())
        .transpose()?
        .flatten();
    let status = stream(exec, signals);
    // Before any message.
    drop(raw);
    Ok(status?.code())
}

fn stream(mut exec: Exec, mut signals: Signals) -> Result<ExitStatus, GuestError> {
    if let Some(mut stdin) = exec.take_stdin() {
        // Ends with the input, with the command or with this process, whichever is first.
        thread::spawn(move || io::copy(&mut io::stdin().lock(), &mut stdin));
    }
    let control = exec.control();
    let watch = signals.handle();
    let watcher = thread::spawn(move || {
        for signal in &mut signals {
            let sent = if signal == SIGWINCH {
                window_size().map_or(Ok(()), |size| control.resize(size))
            } else {
                let linux = FORWARDED.iter().find(|(ours, _)| *ours == signal);
                linux.map_or(Ok(()), |&(_, linux)| control.signal(linux))
            };
            if sent.is_err() {
                break;
            }
        }
    });
    let status = exec.stream(&mut io::stdout().lock(), &mut io::stderr().lock());
    watch.close();
    // It cannot panic, and has nothing to say.
    let _ = watcher.join();
    status
}

/// The size of the terminal this process is in.
pub(super) fn window_size() -> Option<WindowSize> {
    let size = termios::tcgetwinsize(io::stdout()).or_else(|_| termios::tcgetwinsize(io::stdin()));
    size.ok().map(|size| WindowSize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// The terminal on standard input in raw mode, until dropped: every key reaches the guest, whose own terminal acts on it.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(io::stdin()).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Drain, &raw)
            .context("cannot put the terminal into raw mode")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
