#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod convert;
mod escape;
mod walk;

use alloc::vec::Vec;
use core::fmt;

use escape::Escaped;
pub use walk::{Follow, MAX_SYMLINKS, Tree, WalkError, names, walk};

/// A path, or one name of a path, as bytes.
///
/// It dereferences to `[u8]`, so everything that slices have is there, and compares, orders and
/// hashes as the bytes do: a map with `BytePath` keys is searched with a `&[u8]`.
///
/// `Display` is the text, and `Debug` is the text in double quotes. Both write printable UTF-8 as
/// it is, and a backslash as `\\`. Each byte of anything else is `\xNN`: control characters,
/// invisible characters and those that change the direction of text, and invalid UTF-8. So no path
/// can forge a line of a log or send a command to a terminal, and no two paths look the same
/// because of bytes that are not shown.
///
/// ```
/// use blockbox_path::BytePath;
///
/// let path = BytePath::from("etc/passwd");
/// assert_eq!(path, "etc/passwd");
/// assert_eq!(path.rsplit(|&byte| byte == b'/').next(), Some(&b"passwd"[..]));
/// assert_eq!(BytePath::from(b"a\nb\\c").to_string(), r"a\x0ab\\c");
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BytePath(Vec<u8>);

impl BytePath {
    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the bytes without copying them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Display for BytePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Escaped(&self.0), f)
    }
}

impl fmt::Debug for BytePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Escaped(&self.0), f)
    }
}

/// Returns what shows bytes as a [`BytePath`] with them does, without copying them.
///
/// ```
/// assert_eq!(format!("{}", blockbox_path::escaped(b"\0")), r"\x00");
/// ```
pub fn escaped(bytes: &[u8]) -> impl fmt::Display + fmt::Debug + '_ {
    Escaped(bytes)
}

/// The escaped text.
#[cfg(feature = "serde")]
impl serde::Serialize for BytePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
