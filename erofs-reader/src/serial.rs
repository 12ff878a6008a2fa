//! How bytes and errors are serialised: as text.

use alloc::vec::Vec;
use core::fmt::Display;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::inode::Inode;

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

/// What something displays.
pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Serialize for Inode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Inode", 10)?;
        fields.serialize_field("nid", &self.nid())?;
        fields.serialize_field("file_type", &self.file_type())?;
        fields.serialize_field("mode", &self.mode())?;
        fields.serialize_field("uid", &self.uid())?;
        fields.serialize_field("gid", &self.gid())?;
        fields.serialize_field("nlink", &self.nlink())?;
        fields.serialize_field("size", &self.size())?;
        fields.serialize_field("mtime", &self.mtime())?;
        fields.serialize_field("rdev", &self.rdev())?;
        fields.serialize_field("layout", &self.layout())?;
        fields.end()
    }
}
