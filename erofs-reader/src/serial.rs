//! Serialisation of errors as text.

use core::fmt::Display;

use serde::ser::Serializer;

/// Serialises the displayed text of a value.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
