//! Threads that take jobs from a short queue.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::Error;

/// Jobs that wait for each thread, to keep it busy, and for all of them: each may hold a file open,
/// of which a process may usually have 1024.
const WAITING: usize = 4;
const WAITING_TOGETHER: usize = 32;

/// The queue of jobs, and the results of finished ones.
pub(super) struct Queue<'a, J, T> {
    sender: SyncSender<(u64, J)>,
    outcome: &'a Mutex<Outcome<T>>,
    sent: Cell<u64>,
}

struct Outcome<T> {
    kept: Vec<T>,
    /// The error of the first job that failed, in the order they were sent in, and its number. No
    /// later job is begun.
    error: Option<(u64, Error)>,
}

impl<T> Outcome<T> {
    fn failed_before(&self, job: u64) -> bool {
        matches!(self.error, Some((failed, _)) if failed < job)
    }
}

impl<J, T> Queue<'_, J, T> {
    /// Waits for room and gives the job to a thread; false where a job has failed, and this one
    /// will not be done.
    pub(super) fn send(&self, job: J) -> bool {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.error.is_some() {
            return false;
        }
        drop(outcome);
        self.sent.set(self.sent.get().saturating_add(1));
        self.sender.send((self.sent.get(), job)).is_ok()
    }
}

/// Runs `produce`, and `work` on all jobs that it sends, on `threads` threads, each with a state
/// made by `start`. Returns the result of `produce` and the results of the jobs, in any order. If
/// jobs fail, the error is that of the first of them in order of sending; otherwise that of
/// `produce`.
pub(super) fn with<J: Send, T: Send, S, O>(
    threads: usize,
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> Result<Vec<T>, Error> + Sync,
    produce: impl FnOnce(&Queue<'_, J, T>) -> Result<O, Error>,
) -> Result<(O, Vec<T>), Error> {
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
        // Dropping it ends the threads.
        let queue = Queue {
            sender,
            outcome: &outcome,
            sent: Cell::new(0),
        };
        produce(&queue)
    });
    let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    match outcome.error {
        Some((_, error)) => Err(error),
        None => Ok((produced?, outcome.kept)),
    }
}

fn run<J, T, S>(
    mut state: S,
    work: &impl Fn(&mut S, J) -> Result<Vec<T>, Error>,
    jobs: &Mutex<Receiver<(u64, J)>>,
    outcome: &Mutex<Outcome<T>>,
) {
    let lock = || outcome.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, job)) = next else {
            return;
        };
        // The remaining jobs are received too, so that the sender does not block forever.
        if lock().failed_before(number) {
            continue;
        }
        let done = work(&mut state, job);
        let mut outcome = lock();
        match done {
            Ok(more) => outcome.kept.extend(more),
            Err(error) if !outcome.failed_before(number) => outcome.error = Some((number, error)),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once() {
        for threads in [1, 2, 7] {
            let (sent, mut kept) = with(
                threads,
                || (),
                |(), job: u32| Ok(Vec::from_iter(job.is_multiple_of(2).then_some(job))),
                |queue| Ok((0..1000).filter(|&job| queue.send(job)).count()),
            )
            .unwrap();
            kept.sort_unstable();
            assert_eq!(sent, 1000);
            assert_eq!(kept, (0..1000).step_by(2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_error_of_the_first_job_that_fails_ends_the_work() {
        for threads in [1, 2, 7] {
            let result = with(
                threads,
                || (),
                |(), job: u64| match job {
                    // Later jobs fail sooner.
                    7.. => {
                        thread::sleep(std::time::Duration::from_millis(10_u64.saturating_sub(job)));
                        Err(Error::Limit { limit: job })
                    }
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
}
