//! Serialisation of bytes and errors as text.

use alloc::vec::Vec;
use core::fmt::Display;

use serde::ser::Serializer;

/// Bytes as text, escaped as [`escape_ascii`](<[u8]>::escape_ascii) does, so that none is lost.
pub(crate) fn bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&bytes.escape_ascii())
}

/// As [`bytes`], or nothing.
pub(crate) fn some_bytes<S: Serializer>(
    bytes: &Option<Vec<u8>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => serializer.collect_str(&bytes.escape_ascii()),
        None => serializer.serialize_none(),
    }
}

/// Serialises the displayed text of a value.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
