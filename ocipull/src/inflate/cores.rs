//! Cores that layers share.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of cores for inflating, shared by all that has a clone of it. A large gzip layer is
/// inflated on those that no other layer uses just then.
///
/// Each layer that is read counts as two: while one inflates it, others hash and read what comes
/// of it.
#[derive(Clone, Debug)]
pub struct Cores {
    total: usize,
    used: Arc<AtomicUsize>,
}

impl Default for Cores {
    /// One: each layer is inflated on one thread.
    fn default() -> Self {
        Self::new(NonZeroUsize::MIN)
    }
}

impl Cores {
    /// Returns a set of `total` cores of which none is used.
    pub fn new(total: NonZeroUsize) -> Self {
        Self {
            total: total.get(),
            used: Arc::default(),
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Uses the two cores that each stream has whether they are free or not.
    pub(crate) fn occupy(&self) -> InUse {
        self.used.fetch_add(2, Ordering::Relaxed);
        InUse {
            count: 2,
            used: self.used.clone(),
        }
    }

    /// Uses a core if one is free.
    pub(crate) fn spare(&self) -> Option<InUse> {
        let free = |used| (used < self.total).then_some(used + 1);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, free);
        taken.ok().map(|_| InUse {
            count: 1,
            used: self.used.clone(),
        })
    }
}

/// Cores that are used until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    count: usize,
    used: Arc<AtomicUsize>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_spare_while_nobody_uses_it() {
        let cores = Cores::new(NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN));
        let first = cores.occupy();
        let spare = [cores.spare(), cores.spare()];
        assert!(spare.iter().all(Option::is_some));
        assert!(cores.spare().is_none());
        let second = cores.occupy();
        drop(spare);
        assert!(cores.spare().is_none());
        drop(first);
        assert!(cores.clone().spare().is_some());
        drop(second);
        assert_eq!(cores.used.load(Ordering::Relaxed), 0);
    }
}
