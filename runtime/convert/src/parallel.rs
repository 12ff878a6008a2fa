//! Runs the same work for several items, some at a time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Calls `work` for the numbers below `count`, up to `jobs` at a time, and returns the results in
/// order. After a failure no more work is started, and running work is stopped by the flag. The
/// error returned is the cause, not an [`Error::Stopped`] that it led to.
pub(crate) fn each<T: Send>(
    count: usize,
    jobs: NonZeroUsize,
    work: impl Fn(usize, &AtomicBool) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let results = Mutex::new(BTreeMap::new());
    let run = || {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let result = work(number, &stop);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            let mut results = results.lock().unwrap_or_else(|e| e.into_inner());
            results.insert(number, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.get().min(count) {
            scope.spawn(run);
        }
        run();
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    let failed = results
        .iter()
        .find(|(_, result)| matches!(result, Err(error) if !matches!(error, Error::Stopped)))
        .map(|(number, _)| *number);
    match failed.and_then(|number| results.remove(&number)) {
        Some(Err(error)) => Err(error),
        _ => results.into_values().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_the_error_is_the_cause_not_the_stop() {
        let jobs = NonZeroUsize::new(3).unwrap();
        let doubled = each(100, jobs, |number, _| Ok(number * 2)).unwrap();
        assert!(
            doubled
                .iter()
                .enumerate()
                .all(|(n, &double)| double == n * 2)
        );
        let error = each(100, jobs, |number, stop| {
            if number == 2 {
                return Err(Error::NoImage("reason".to_owned()));
            }
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Err::<(), _>(Error::Stopped)
        });
        assert!(matches!(error, Err(Error::NoImage(_))), "{error:?}");
        assert!(each(0, jobs, |_, _| Ok(())).unwrap().is_empty());
    }
}
