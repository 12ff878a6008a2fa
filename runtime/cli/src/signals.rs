//! How this process handles signals while it runs a sandbox.
//!
//! While the guest boots, a signal that asks for an end cancels the boot: the machine is switched
//! off. SIGUSR1 and SIGUSR2, which are the command's own, are kept until it runs. While it runs,
//! signals are passed on to it, as docker does. If the command does not end after two SIGINT or
//! SIGTERM, the third kills it.

use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use anyhow::Context;
use blockbox::Canceller;
use blockbox::guest::ExecControl;
use blockbox::store::atomic;
use signal_hook::consts::signal::{
    SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::terminal::{RawTerminal, window_size};

/// The signals to pass on: this system's number and Linux's.
const FORWARDED: [(i32, u32); 6] = [
    (SIGHUP, 1),
    (SIGINT, 2),
    (SIGQUIT, 3),
    (SIGUSR1, 10),
    (SIGUSR2, 12),
    (SIGTERM, 15),
];

/// How many SIGINT and SIGTERM a command gets before it is killed.
const PATIENCE: u32 = 2;

/// Linux's SIGKILL.
const KILL: u32 = 9;

/// Watches this process's signals from its creation until it is dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    target: Target,
    /// The signal that cancelled the boot.
    interrupted: Option<i32>,
    /// Signals for the command that came during the boot, each once, as for a process.
    pending: Vec<i32>,
    asked: u32,
}

/// The target of signals.
#[derive(Debug, Default)]
enum Target {
    /// This process.
    #[default]
    Here,
    /// This process, except for signals of a command that is about to be started.
    Launch,
    Boot(Canceller),
    Command {
        control: ExecControl,
        terminal: Option<RawTerminal>,
        forward: bool,
    },
    /// None: this process ends soon.
    Nobody,
}

impl Watcher {
    /// Starts watching. Until there is a target to pass them to, signals have their default effect.
    pub(super) fn new() -> anyhow::Result<Self> {
        let watched = FORWARDED
            .map(|(ours, _)| ours)
            .into_iter()
            .filter(|signal| *signal != SIGHUP || !is_ignored(SIGHUP))
            .chain([SIGWINCH, SIGCONT]);
        let mut signals = Signals::new(watched).context("cannot watch for signals")?;
        let shared = Arc::<Mutex<State>>::default();
        let watched = Arc::clone(&shared);
        thread::spawn(move || {
            for signal in &mut signals {
                received(&watched, signal);
            }
        });
        Ok(Self { shared })
    }

    /// From now on signals that are the command's own are kept until it runs.
    pub(super) fn launch(&self) {
        lock(&self.shared).target = Target::Launch;
    }

    /// From now on a signal cancels the boot.
    pub(super) fn boot(&self, canceller: Canceller) {
        lock(&self.shared).target = Target::Boot(canceller);
    }

    /// Returns the signal that cancelled the boot.
    pub(super) fn interrupted(&self) -> Option<i32> {
        lock(&self.shared).interrupted
    }

    /// From now on signals are passed on to a command, also those that came during the boot, and
    /// its terminal's size follows this process's. Without `forward` signals have their effect on
    /// this process.
    pub(super) fn command(
        &self,
        control: ExecControl,
        terminal: Option<RawTerminal>,
        forward: bool,
    ) {
        let pending = {
            let mut state = lock(&self.shared);
            state.target = Target::Command {
                control,
                terminal,
                forward,
            };
            std::mem::take(&mut state.pending)
        };
        for signal in pending {
            received(&self.shared, signal);
        }
    }

    /// From now on signals are ignored: the remaining work is short and must be done.
    pub(super) fn over(&self) {
        lock(&self.shared).target = Target::Nobody;
    }
}

fn received(shared: &Mutex<State>, signal: i32) {
    let mut state = lock(shared);
    match &state.target {
        Target::Launch | Target::Boot(_) if matches!(signal, SIGUSR1 | SIGUSR2) => {
            if !state.pending.contains(&signal) {
                state.pending.push(signal);
            }
        }
        Target::Here | Target::Launch => {
            drop(state);
            if signal != SIGWINCH && signal != SIGCONT {
                atomic::remove_unfinished();
                // Ends this process, unless the signal cannot be raised again.
                let _ = emulate_default_handler(signal);
            }
        }
        Target::Boot(canceller) => {
            if signal != SIGWINCH && signal != SIGCONT {
                canceller.cancel();
                state.interrupted = Some(signal);
            }
        }
        Target::Command {
            control,
            terminal,
            forward,
        } => {
            // A command that has ended accepts no signals.
            if signal == SIGWINCH || signal == SIGCONT {
                if let Some(terminal) = terminal {
                    if signal == SIGCONT {
                        let _ = terminal.apply();
                    }
                    if let Some(size) = window_size() {
                        let _ = control.resize(size);
                    }
                }
                return;
            }
            if !forward {
                let terminal = terminal.clone();
                drop(state);
                if let Some(terminal) = terminal {
                    terminal.restore();
                }
                let _ = emulate_default_handler(signal);
                return;
            }
            let linux = FORWARDED.iter().find(|(ours, _)| *ours == signal);
            let Some(&(_, linux)) = linux else { return };
            let ends = signal == SIGINT || signal == SIGTERM;
            let linux = if ends && state.asked >= PATIENCE {
                KILL
            } else {
                linux
            };
            let _ = control.signal(linux);
            state.asked += u32::from(ends);
        }
        Target::Nobody => {}
    }
}

/// From now on, a signal that ends this process also removes partial files and folders. For
/// commands that write any and have no [`Watcher`].
pub(super) fn clean_up() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let ending = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];
        let watched = ending.into_iter().filter(|signal| !is_ignored(*signal));
        // If signals cannot be watched, they have their default effect.
        let Ok(mut signals) = Signals::new(watched) else {
            return;
        };
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                atomic::remove_unfinished();
                let _ = emulate_default_handler(signal);
            }
        });
    });
}

/// Returns whether this process was started with a signal ignored, as by `nohup`, or by a shell for
/// a background command.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
