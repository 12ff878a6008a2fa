//! Interior mutability: locks with `std`, cells without it.

#[cfg(not(feature = "std"))]
pub(crate) use core::cell::OnceCell as Once;
#[cfg(feature = "std")]
pub(crate) use std::sync::OnceLock as Once;

/// A value that one caller at a time may change.
#[cfg(feature = "std")]
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(std::sync::Mutex<T>);

#[cfg(feature = "std")]
impl<T> Lock<T> {
    /// Runs `f` on the value. A panic of an earlier caller does not matter, because no value is
    /// left half changed.
    pub(crate) fn with<O>(&self, f: impl FnOnce(&mut T) -> O) -> O {
        f(&mut self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// A value that one caller at a time may change.
#[cfg(not(feature = "std"))]
#[derive(Default)]
pub(crate) struct Lock<T>(core::cell::Cell<T>);

#[cfg(not(feature = "std"))]
impl<T: Default> Lock<T> {
    /// Runs `f` on the value.
    pub(crate) fn with<O>(&self, f: impl FnOnce(&mut T) -> O) -> O {
        let mut value = self.0.take();
        let result = f(&mut value);
        self.0.set(value);
        result
    }
}

#[cfg(not(feature = "std"))]
impl<T> core::fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Lock")
    }
}
