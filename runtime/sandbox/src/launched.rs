//! A sandbox that this process starts: its boot, its main command and its end.

use std::sync::Arc;

use blockbox_store::Lock;
use blockbox_store::spec::Spec;
use blockbox_vmm::guest::{Connection, WindowSize};

use crate::child::Child;
use crate::error::Result;
use crate::monitor::message::{Answer, Ask, Attach, Resume};
use crate::monitor::{Ended, launch};
use crate::question::{FOR_EVER, answer, ask, encode, unexpected};
use crate::sandbox::Sandbox;
use crate::secrets::Value;

/// A sandbox that is booting. Dropping it, or the end of this process, switches the machine off.
#[derive(Debug)]
pub struct Boot {
    connection: Arc<Connection>,
    booted: u32,
    sandbox: Sandbox,
    warning: Option<String>,
}

/// Cancels a [`Boot`] from another thread.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<Connection>);

impl Canceller {
    /// Switches the machine off. [`Boot::wait`] then returns
    /// [`GuestError::MonitorLost`](blockbox_vmm::guest::GuestError::MonitorLost).
    pub fn cancel(&self) {
        self.0.close();
    }
}

impl Boot {
    pub(crate) fn launch(
        sandbox: &Sandbox,
        lock: Lock,
        spec: Option<Spec>,
        secrets: Vec<Value>,
        resume: Option<Resume>,
    ) -> Result<Self> {
        let connection = Arc::new(launch::launch(sandbox.store(), sandbox.name(), lock)?);
        let spec = spec.map(Box::new);
        let ask = Ask::Boot {
            spec,
            secrets,
            resume,
        };
        let booted = connection.ask(encode(&ask))?;
        Ok(Self {
            connection,
            booted,
            sandbox: sandbox.clone(),
            warning: None,
        })
    }

    /// Adds a warning about an option that could not be met.
    pub(crate) fn warn(mut self, warning: Option<String>) -> Self {
        self.warning = warning;
        self
    }

    /// Returns a handle to cancel the boot.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.connection))
    }

    /// Waits until the guest accepts commands. `notice` is called with a message about what is
    /// being waited for.
    ///
    /// # Errors
    ///
    /// The error that kept the machine from booting;
    /// [`Error::Interrupted`](crate::Error::Interrupted) if another process stopped the sandbox.
    pub fn wait(self, notice: &mut dyn FnMut(&str)) -> Result<Booted> {
        let warning = match answer(&self.connection, self.booted, FOR_EVER, notice)? {
            Answer::Done => self.warning,
            Answer::Booted { warning } => Some(warning),
            other => return Err(unexpected(&other)),
        };
        Ok(Booted {
            connection: self.connection,
            sandbox: self.sandbox,
            warning,
        })
    }
}

/// A sandbox whose guest accepts commands and whose main command has not started. Dropping it
/// switches the machine off.
#[derive(Debug)]
pub struct Booted {
    pub(crate) connection: Arc<Connection>,
    pub(crate) sandbox: Sandbox,
    warning: Option<String>,
}

impl Booted {
    /// Returns a warning if the guest booted although it should have resumed from a copy of another
    /// one.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Starts the main command, which runs independently of this process.
    ///
    /// # Errors
    ///
    /// [`GuestError::SpawnFailed`](blockbox_vmm::guest::GuestError::SpawnFailed) if the command
    /// cannot be started.
    pub fn start(self) -> Result<Completion> {
        let ended = self.connection.ask(encode(&Ask::Wait))?;
        let started = ask(&self.connection, &Ask::Start { attach: None }, FOR_EVER);
        let completion = Completion {
            connection: self.connection,
            ended,
        };
        match started {
            Ok(Answer::Done) => Ok(completion),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => {
                // The sandbox is down for the next caller. The wait fails if the monitor is lost.
                let _ = completion.wait();
                Err(error)
            }
        }
    }

    /// Starts the main command with this client's streams. If it has a terminal, `size` is its
    /// size.
    ///
    /// # Errors
    ///
    /// [`GuestError::SpawnFailed`](blockbox_vmm::guest::GuestError::SpawnFailed) if the command
    /// cannot be started.
    pub fn attach(self, stdin: bool, size: Option<WindowSize>) -> Result<(Child, Completion)> {
        let ended = self.connection.ask(encode(&Ask::Wait))?;
        let attach = Attach {
            stdin,
            size: size.map(|size| (size.rows, size.cols)),
        };
        let ask = Ask::Start {
            attach: Some(attach),
        };
        let exec = self.connection.open(stdin, encode(&ask));
        let completion = Completion {
            connection: Arc::clone(&self.connection),
            ended,
        };
        match exec {
            Ok(exec) => Ok((Child::new(exec, self.connection), completion)),
            Err(error) => {
                // The sandbox is down for the next caller. The wait fails if the monitor is lost.
                let _ = completion.wait();
                Err(error.into())
            }
        }
    }
}

/// Waits for the end of the sandbox that this process started. Dropping it leaves the sandbox
/// running.
#[derive(Debug)]
pub struct Completion {
    connection: Arc<Connection>,
    ended: u32,
}

impl Completion {
    /// Waits until the main command has ended, its machine is off, and the sandbox is down,
    /// removed, or about to be restarted.
    ///
    /// # Errors
    ///
    /// [`GuestError::MonitorLost`](blockbox_vmm::guest::GuestError::MonitorLost) if the monitor was
    /// killed.
    pub fn wait(self) -> Result<Ended> {
        self.wait_with(&mut |_| ())
    }

    /// As [`wait`](Self::wait). `notice` is called with messages about the sandbox, for instance
    /// that it is paused because the host's disk is full.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_with(self, notice: &mut dyn FnMut(&str)) -> Result<Ended> {
        match answer(&self.connection, self.ended, FOR_EVER, notice)? {
            Answer::Ended(ended) => Ok(ended),
            other => Err(unexpected(&other)),
        }
    }
}
