//! Warnings about objects whose records cannot be read.

use blockbox::store::Damaged;

use super::hint;

/// Prints a warning for each object.
pub(super) fn warn(damaged: &[Damaged]) {
    for object in damaged {
        eprintln!("warning: {}", hint::with_causes(&object.error));
    }
}
