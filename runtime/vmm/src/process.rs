//! A child process with a thread and a process group of its own.
//!
//! Signals to the process group of its parent, such as a terminal's interrupt, do not reach it.
//!
//! The thread starts the child and lives until the child has ended, because Linux delivers a
//! parent-death signal when the *thread* that started a child ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A child process. Dropping this value leaves the process running.
#[derive(Debug)]
pub struct Process {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
enum State {
    Running(Pid),
    Ended(ExitStatus),
    Lost(io::ErrorKind),
}

impl Process {
    /// Starts a process.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(mut command: Command) -> io::Result<Arc<Self>> {
        command.process_group(0);
        let (started, start) = mpsc::channel();
        thread::Builder::new()
            .name("child".to_owned())
            .spawn(move || {
                let mut child = match command.spawn() {
                    Ok(child) => child,
                    Err(error) => {
                        // The receiver waits for this message.
                        let _ = started.send(Err(error));
                        return;
                    }
                };
                // The command still holds the child's ends of its pipes, and readers would not see
                // the end of file.
                drop(command);
                let process = Arc::new(Process {
                    state: Mutex::new(State::Running(Pid::from_child(&child))),
                    changed: Condvar::new(),
                });
                let _ = started.send(Ok(Arc::clone(&process)));
                process.reap(&mut child);
            })?;
        start
            .recv()
            .map_err(|_| io::Error::other("the thread of the child process ended"))?
    }

    fn reap(&self, child: &mut std::process::Child) {
        // Waits without reaping first, so that the process id cannot be reused while `kill` may
        // still use it.
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let id = rustix::process::WaitId::Pid(Pid::from_child(child));
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(id.clone(), options) {}
        let mut state = self.lock();
        *state = match child.wait() {
            Ok(status) => State::Ended(status),
            Err(error) => State::Lost(error.kind()),
        };
        self.changed.notify_all();
    }

    /// Returns the process id; `None` once the process has ended.
    pub(super) fn pid(&self) -> Option<Pid> {
        match *self.lock() {
            State::Running(pid) => Some(pid),
            State::Ended(_) | State::Lost(_) => None,
        }
    }

    /// Kills the process.
    pub fn kill(&self) {
        let state = self.lock();
        if let State::Running(pid) = *state {
            // This only fails if the process has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    ///
    /// If the wait fails.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        let mut state = self.lock();
        loop {
            match *state {
                State::Ended(status) => return Ok(status),
                State::Lost(kind) => return Err(kind.into()),
                State::Running(_) => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Waits until the process has ended; `None` after the timeout.
    ///
    /// # Errors
    ///
    /// As [`Process::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match *state {
                State::Ended(status) => return Ok(Some(status)),
                State::Lost(kind) => return Err(kind.into()),
                State::Running(_) if left.is_zero() => return Ok(None),
                State::Running(_) => {
                    let waited = self.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
