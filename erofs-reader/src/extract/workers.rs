//! Threads that take jobs from a short queue.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::Error;

/// Jobs that wait for each thread, to keep it busy, and for all of them: each holds files open, of which a process may
/// usually have 1024.
const WAITING: usize = 4;
const WAITING_TOGETHER: usize = 32;

/// Where jobs wait, and what has come of those that are done.
pub(super) struct Queue<'a, J, T> {
    sender: SyncSender<J>,
    outcome: &'a Mutex<Outcome<T>>,
}

struct Outcome<T> {
    kept: Vec<T>,
    /// The first error, after which no more jobs are done.
    error: Option<Error>,
}

impl<J, T> Queue<'_, J, T> {
    /// Waits for room and gives the job to a thread; false where a job has failed, and this one will not be done.
    pub(super) fn send(&self, job: J) -> bool {
        !failed(self.outcome) && self.sender.send(job).is_ok()
    }

    /// Adds to what the jobs give.
    pub(super) fn keep(&self, more: Option<T>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.kept.extend(more);
    }
}

fn failed<T>(outcome: &Mutex<Outcome<T>>) -> bool {
    let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.error.is_some()
}

/// Runs `produce`, and `work` on all jobs that it sends, on as many threads as the machine runs at once; each has a state,
/// which begins as `start` makes it. Returns when all
/// are done what `produce` returned, and what jobs gave, in any order; or an error of either.
pub(super) fn with<J: Send, T: Send, S, O>(
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> Result<Vec<T>, Error> + Sync,
    produce: impl FnOnce(&Queue<'_, J, T>) -> Result<O, Error>,
) -> Result<(O, Vec<T>), Error> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (sender, receiver) = sync_channel(threads.saturating_mul(WAITING).min(WAITING_TOGETHER));
    let receiver = Mutex::new(receiver);
    let outcome = Mutex::new(Outcome {
        kept: Vec::new(),
        error: None,
    });
    let produced = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run(start(), &work, &receiver, &outcome));
        }
        // It goes when this is done, which ends the threads.
        let queue = Queue {
            sender,
            outcome: &outcome,
        };
        produce(&queue)
    });
    let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    match outcome.error {
        Some(error) => Err(error),
        None => Ok((produced?, outcome.kept)),
    }
}

fn run<J, T, S>(
    mut state: S,
    work: &impl Fn(&mut S, J) -> Result<Vec<T>, Error>,
    jobs: &Mutex<Receiver<J>>,
    outcome: &Mutex<Outcome<T>>,
) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else {
            return;
        };
        // What is left is taken all the same: whoever sends must not wait forever.
        if failed(outcome) {
            continue;
        }
        let done = work(&mut state, job);
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match done {
            Ok(more) => outcome.kept.extend(more),
            Err(error) => {
                outcome.error.get_or_insert(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once() {
        let (sent, mut kept) = with(
            || (),
            |(), job: u32| Ok(Vec::from_iter(job.is_multiple_of(2).then_some(job))),
            |queue| Ok((0..1000).filter(|&job| queue.send(job)).count()),
        )
        .unwrap();
        kept.sort_unstable();
        assert_eq!(sent, 1000);
        assert_eq!(kept, (0..1000).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_ends_the_work() {
        let result = with(
            || (),
            |(), job: u64| match job {
                7 => Err(Error::Limit { limit: job }),
                _ => Ok(vec![job]),
            },
            |queue| {
                let mut jobs = 0..;
                while jobs.next().is_some_and(|job| queue.send(job)) {}
                Ok(())
            },
        );
        assert!(matches!(result, Err(Error::Limit { limit: 7 })));
    }
}
