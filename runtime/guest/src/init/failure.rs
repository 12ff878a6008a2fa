//! What stood in init's way.

use std::fmt;

use rustix::io::Errno;

/// A step that failed, and why.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    step: String,
    reason: String,
}

impl Failure {
    pub(crate) fn new(step: impl Into<String>, reason: impl Into<String>) -> Self {
        Failure {
            step: step.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.reason)
    }
}

/// Names the step an error came from.
pub(crate) trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, std::io::Error::from(errno).to_string()))
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, error.to_string()))
    }
}

/// What failed and the guest can do without. The console shows it, and the host hears it.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Vec<String>);

impl Warnings {
    pub(crate) fn tolerate(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            eprintln!("blockbox-init: {failure}");
            self.0.push(failure.to_string());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }
}

/// The `errno` of an error, as the host hears it.
pub(crate) fn errno_of(error: &std::io::Error) -> u32 {
    error
        .raw_os_error()
        .and_then(|errno| u32::try_from(errno).ok())
        .unwrap_or(Errno::IO.raw_os_error() as u32)
}
