//! The damage of an image's files.

use std::fmt;
use std::path::PathBuf;

/// The part of an image that a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The manifest.
    Manifest,
    /// The configuration.
    Config,
    /// The layer with this index, counted from the lowest.
    Layer(usize),
    /// The link to the layer with this index, through which the image's disk reads it.
    Link(usize),
    /// The merged metadata.
    Fsmeta,
    /// The disk's descriptor.
    Disk,
}

/// The damage of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// It does not exist.
    Missing,
    /// Its length differs from the recorded one.
    Length {
        /// The recorded length in bytes.
        expected: u64,
        /// The current length in bytes.
        found: u64,
    },
    /// Its contents have changed.
    Contents,
    /// The link leads to another file than the layer.
    OtherFile,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Length { expected, found } => {
                write!(f, "has {found} bytes, not {expected}")
            }
            Self::Contents => f.write_str("has other contents than when it was made"),
            Self::OtherFile => f.write_str("is not the layer that it should be"),
        }
    }
}

/// A damaged file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The part of the image.
    pub part: Part,
    /// The file.
    pub path: PathBuf,
    /// The damage.
    pub damage: Damage,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.damage)
    }
}
