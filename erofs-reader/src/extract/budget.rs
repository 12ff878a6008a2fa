//! A limit on the bytes that an extraction writes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// Counts the bytes written by several threads.
#[derive(Debug)]
pub(super) struct Budget {
    limit: Option<u64>,
    spent: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            spent: AtomicU64::new(0),
        }
    }

    /// Counts `bytes` more bytes, which must happen before they are written.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] where there are then more than the limit.
    pub(super) fn charge(&self, bytes: u64) -> Result<(), Error> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let add = |spent: u64| Some(spent.saturating_add(bytes));
        let before = self
            .spent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .unwrap_or(u64::MAX);
        if before.saturating_add(bytes) > limit {
            return Err(Error::Limit { limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_limit_is_allowed_and_sums_do_not_overflow() {
        let budget = Budget::new(Some(10));
        assert!(budget.charge(10).is_ok());
        assert!(budget.charge(0).is_ok());
        assert!(budget.charge(u64::MAX).is_err());
        assert!(budget.charge(u64::MAX).is_err());
        let unbounded = Budget::new(None);
        assert!(unbounded.charge(u64::MAX).is_ok());
        assert!(unbounded.charge(u64::MAX).is_ok());
    }
}
