//! Starting an existing sandbox.

use blockbox_store::spec::Spec;
use blockbox_store::state::Status;

use crate::boot;
use crate::error::Result;
use crate::launched::Boot;
use crate::root::Root;
use crate::sandbox::Sandbox;
use crate::secrets::{self, Value};

/// Options of starting an existing sandbox.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StartOptions {
    /// The specification for this run, if it differs from the sandbox's own.
    pub spec: Option<Spec>,
    secrets: Vec<Value>,
}

impl StartOptions {
    /// Sets the value of a secret, instead of reading the source in the specification.
    pub fn secret(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.secrets.push(Value::new(name, value.into()));
        self
    }

    /// Sets another specification for this run: another command, another machine.
    pub fn spec(mut self, spec: Spec) -> Self {
        self.spec = Some(spec);
        self
    }
}

impl Sandbox {
    /// Starts the sandbox and returns when its main command runs, which then runs independently of
    /// this process.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxRunning`](crate::Error::SandboxRunning); the error that keeps the machine
    /// from booting or the command from starting.
    pub fn start(&self) -> Result<()> {
        let booted = self.boot(StartOptions::default())?.wait(&mut |_| ())?;
        booted.start().map(drop)
    }

    /// Starts to boot the sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxRunning`](crate::Error::SandboxRunning); an error that is known to keep the
    /// machine from booting.
    pub fn boot(&self, options: StartOptions) -> Result<Boot> {
        if self.info()?.state.status == Status::Stopping {
            // If the sandbox is about to be down, wait for that instead of failing.
            self.wait()?;
        }
        let (lock, info) = self.take()?;
        let spec = options.spec.as_ref().unwrap_or(&info.spec);
        // Here, and not only in the monitor, for an error of its own kind.
        Root::of(self.store(), spec)?.check(&spec.image.asked)?;
        boot::check(self.store(), &spec.machine)?;
        let secrets = secrets::read(&spec.secrets, &options.secrets)?;
        Boot::launch(self, lock, options.spec, secrets, None)
    }
}
