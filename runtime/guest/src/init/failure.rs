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

/// Says on the console what failed, where the guest can do without it.
pub(crate) fn tolerate(result: Result<(), Failure>) {
    if let Err(failure) = result {
        eprintln!("blockbox-init: {failure}");
    }
}
