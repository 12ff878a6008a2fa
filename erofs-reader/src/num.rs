//! Conversions between integer widths with a defined result for values that do not fit.

/// A length as `u64`; no supported target has a wider `usize`.
pub(crate) fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A length as `usize`, or the largest `usize` if it does not fit. For use where a smaller bound
/// applies anyway.
pub(crate) fn narrow(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// `n` rounded up to a multiple of `unit`, which is a power of two.
pub(crate) fn align_up(n: u64, unit: u64) -> Option<u64> {
    n.checked_next_multiple_of(unit)
}

/// The smaller of a buffer's length and a remaining count.
pub(crate) fn clamp_len(len: usize, remaining: u64) -> usize {
    len.min(narrow(remaining))
}
