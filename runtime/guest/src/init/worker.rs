//! Runs work that may take long, such as syncing a disk: each job in a process forked from init,
//! one at a time in order, while init serves commands.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::failure::errno_of;
use super::sys;

/// A job, and how to handle its outcome.
pub(crate) struct Job {
    /// The request that the outcome answers, if any.
    pub(crate) request: Option<u32>,
    pub(crate) kind: Kind,
    pub(crate) work: Box<dyn FnOnce() -> io::Result<()>>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("request", &self.request)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What the outcome of a job changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Freeze,
    Thaw,
    Other,
}

/// The outcome of a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) request: Option<u32>,
    pub(crate) kind: Kind,
    pub(crate) errno: u32,
}

/// The running job and those that wait.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    current: Option<Current>,
    waiting: VecDeque<Job>,
}

#[derive(Debug)]
struct Current {
    request: Option<u32>,
    kind: Kind,
    result: OwnedFd,
}

impl Worker {
    /// Returns whether no job is running.
    pub(crate) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Returns the descriptor that is readable once the running job has ended.
    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.current.as_ref().map(|current| &current.result)
    }

    /// Queues `job`. Returns the outcomes of jobs that could not be started.
    pub(crate) fn add(&mut self, job: Job) -> Vec<Outcome> {
        self.waiting.push_back(job);
        self.begin()
    }

    /// Returns the outcome of the job that has ended and starts the next one.
    pub(crate) fn finish(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if let Some(current) = self.current.take() {
            let mut bytes = [0; 4];
            let errno = match rustix::io::read(&current.result, &mut bytes) {
                Ok(4) => u32::from_le_bytes(bytes),
                // The job was killed.
                _ => Errno::IO.raw_os_error() as u32,
            };
            outcomes.push(Outcome {
                request: current.request,
                kind: current.kind,
                errno,
            });
        }
        outcomes.extend(self.begin());
        outcomes
    }

    fn begin(&mut self) -> Vec<Outcome> {
        let mut failed = Vec::new();
        while self.current.is_none()
            && let Some(Job {
                request,
                kind,
                work,
            }) = self.waiting.pop_front()
        {
            match start(work) {
                Ok(result) => {
                    self.current = Some(Current {
                        request,
                        kind,
                        result,
                    });
                }
                Err(error) => failed.push(Outcome {
                    request,
                    kind,
                    errno: errno_of(&error),
                }),
            }
        }
        failed
    }
}

/// Starts `work` in a process; returns the pipe that its `errno` is written to.
fn start(work: Box<dyn FnOnce() -> io::Result<()>>) -> io::Result<OwnedFd> {
    let (result, sender) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    sys::fork(move || {
        let errno = work().err().map_or(0, |error| errno_of(&error));
        // This only fails if init has closed the pipe.
        let _ = rustix::io::write(sender.as_fd(), &errno.to_le_bytes());
    })?;
    Ok(result)
}
