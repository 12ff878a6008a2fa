//! A client's connection to a command in a sandbox.

use std::io::Write;
use std::sync::Arc;

use blockbox_vmm::guest::{Connection, Event, Exec, ExecControl, ExitStatus, GuestError, Stdin};

use crate::error::Result;

/// A command that runs in a sandbox, with its streams and signals. Dropping it closes its streams,
/// as closing a terminal window would.
#[derive(Debug)]
pub struct Child {
    // Dropped before the connection.
    exec: Exec,
    connection: Arc<Connection>,
}

impl Child {
    pub(crate) fn new(exec: Exec, connection: Arc<Connection>) -> Self {
        Self { exec, connection }
    }

    /// Returns the command's process id in the guest.
    pub fn pid(&self) -> u32 {
        self.exec.pid()
    }

    /// Takes the command's standard input, if it has one. Dropping that ends the input.
    pub fn take_stdin(&mut self) -> Option<Stdin> {
        self.exec.take_stdin()
    }

    /// Returns a handle to signal and resize the command while another thread reads its output.
    pub fn control(&self) -> ExecControl {
        self.exec.control()
    }

    /// Returns a handle to close the connection from another thread, leaving the command running.
    pub fn detacher(&self) -> Detacher {
        Detacher(Arc::clone(&self.connection))
    }

    /// Waits for the next event. After [`Event::Exited`] it returns the same event again.
    ///
    /// # Errors
    ///
    /// If the sandbox is gone.
    pub fn next_event(&mut self) -> Result<Event, GuestError> {
        self.exec.next_event()
    }

    /// Copies the outputs to `stdout` and `stderr` until the command ends. If one cannot be
    /// written, it is closed for the command as well, and its error is returned after the command
    /// has ended.
    ///
    /// # Errors
    ///
    /// If the sandbox is gone, or an output cannot be written; a closed pipe is not an error, as in
    /// a shell.
    pub fn stream(
        self,
        stdout: &mut dyn Write,
        stderr: &mut dyn Write,
    ) -> Result<ExitStatus, GuestError> {
        self.exec.stream(stdout, stderr)
    }

    /// Waits for the command's end, discarding its output.
    ///
    /// # Errors
    ///
    /// If the sandbox is gone.
    pub fn wait(self) -> Result<ExitStatus, GuestError> {
        self.exec.wait()
    }

    /// Disconnects from the command, which continues: its output is read and discarded (or logged,
    /// for a main command).
    pub fn detach(self) {
        self.connection.close();
    }
}

/// Closes the connection to a command and leaves the command running.
#[derive(Clone, Debug)]
pub struct Detacher(Arc<Connection>);

impl Detacher {
    /// Detaches: a thread that reads the command's output gets [`GuestError::MonitorLost`].
    pub fn detach(&self) {
        self.0.close();
    }
}
