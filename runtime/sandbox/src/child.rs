//! A command in a sandbox, as its client sees it.

use std::io::Write;
use std::sync::Arc;

use blockbox_vmm::guest::{Connection, Event, Exec, ExecControl, ExitStatus, GuestError, Stdin};

use crate::error::Result;

/// A command that runs in a sandbox: its streams, its signals, its end. Dropping it closes its
/// streams, as closing a terminal window would.
#[derive(Debug)]
pub struct Child {
    // Closed before the connection is.
    exec: Exec,
    connection: Arc<Connection>,
}

impl Child {
    pub(crate) fn new(exec: Exec, connection: Arc<Connection>) -> Self {
        Self { exec, connection }
    }

    /// The command's process id in the guest.
    pub fn pid(&self) -> u32 {
        self.exec.pid()
    }

    /// The command's standard input, once, if it has one. Dropping it is the end of the input.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        self.exec.take_stdin()
    }

    /// A handle to signal and resize the command with while another thread reads its output.
    pub fn control(&self) -> ExecControl {
        self.exec.control()
    }

    /// A handle that ends the conversation from another thread and leaves the command running.
    pub fn detacher(&self) -> Detacher {
        Detacher(Arc::clone(&self.connection))
    }

    /// Waits for the next thing that happens. After [`Event::Exited`] it repeats that.
    ///
    /// # Errors
    ///
    /// When the sandbox is gone.
    pub fn next_event(&mut self) -> Result<Event, GuestError> {
        self.exec.next_event()
    }

    /// Copies the outputs to `stdout` and `stderr` until the command ends. An output that cannot be
    /// written any more is closed for the command as well, and its error returned when the command
    /// has ended.
    ///
    /// # Errors
    ///
    /// When the sandbox is gone, or an output cannot be written; a closed pipe is no error, as in a
    /// shell.
    pub fn stream(
        self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<ExitStatus, GuestError> {
        self.exec.stream(stdout, stderr)
    }

    /// Waits for the command's end, throwing its output away.
    ///
    /// # Errors
    ///
    /// When the sandbox is gone.
    pub fn wait(self) -> Result<ExitStatus, GuestError> {
        self.exec.wait()
    }

    /// Leaves the command to itself: it goes on, and what it writes is read and dropped (or, for a
    /// main command, logged).
    pub fn detach(self) {
        self.connection.close();
    }
}

/// Ends the conversation with a command and leaves it running.
#[derive(Clone, Debug)]
pub struct Detacher(Arc<Connection>);

impl Detacher {
    /// Detaches: whoever reads the command's output gets [`GuestError::MonitorLost`].
    pub fn detach(&self) {
        self.0.close();
    }
}
