//! Errors of init, and warnings.

use std::fmt;

use rustix::io::Errno;

/// A step that failed, and the reason.
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

/// Adds the step to an error.
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

/// Failures that the guest can run with. They are printed on the console and sent to the host.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Vec<String>);

impl Warnings {
    pub(crate) fn tolerate(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.add(&failure);
        }
    }

    pub(crate) fn add(&mut self, failure: &Failure) {
        eprintln!("blockbox-init: {failure}");
        self.0.push(failure.to_string());
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }
}

/// Returns the `errno` of an error, for the host.
pub(crate) fn errno_of(error: &std::io::Error) -> u32 {
    error
        .raw_os_error()
        .and_then(|errno| u32::try_from(errno).ok())
        .unwrap_or(Errno::IO.raw_os_error() as u32)
}
