//! Connects this process's streams, terminal and signals to a command in a sandbox.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use blockbox::guest::{ExitStatus, GuestError, Stdin};
use blockbox::{Child, Detacher};

use super::signals::Watcher;
use super::terminal::{DetachKeys, KeyWatch, RawTerminal};

/// How the connection to a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The command ended.
    Ended(ExitStatus),
    /// The user typed the detach keys.
    Detached,
}

/// How this process is connected to a command.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    /// Whether the command has a terminal.
    pub(super) tty: bool,
    /// The keys that detach.
    pub(super) detach_keys: DetachKeys,
    /// Whether signals are passed on to the command.
    pub(super) signals: bool,
}

/// Copies streams and passes signals on until the command ends, or the user detaches.
pub(super) fn connect(
    mut child: Child,
    options: Connected,
    watcher: &Watcher,
) -> anyhow::Result<Left> {
    let raw = options.tty.then(RawTerminal::enter).transpose()?;
    watcher.command(child.control(), raw.clone(), options.signals);
    let detached = Arc::new(AtomicBool::new(false));
    if let Some(stdin) = child.take_stdin() {
        let input = Input {
            to: stdin,
            keys: options.tty.then(|| options.detach_keys.watch()),
            detacher: child.detacher(),
            detached: Arc::clone(&detached),
        };
        // Ends when the input, the command or this process ends.
        thread::spawn(move || input.copy());
    }
    let status = child.stream(&mut io::stdout().lock(), &mut io::stderr().lock());
    watcher.over();
    // Restore the terminal before any message is printed.
    if let Some(raw) = raw {
        raw.restore();
    }
    match status {
        Err(GuestError::MonitorLost) if detached.load(Ordering::SeqCst) => Ok(Left::Detached),
        status => Ok(Left::Ended(status?)),
    }
}

/// Copies this process's input to the command.
struct Input {
    to: Stdin,
    keys: Option<KeyWatch>,
    detacher: Detacher,
    detached: Arc<AtomicBool>,
}

impl Input {
    fn copy(mut self) {
        let mut stdin = io::stdin().lock();
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let count = match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let input = chunk.get(..count).unwrap_or_default();
            let sent = match &mut self.keys {
                None => self.to.write_all(input),
                Some(keys) => {
                    let (input, detach) = keys.pass(input);
                    let sent = self.to.write_all(&input);
                    if detach {
                        self.detached.store(true, Ordering::SeqCst);
                        self.detacher.detach();
                        return;
                    }
                    sent
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }
}
