//! Tasks on the container's files that init carries out, because an image may have no program for
//! them.

use crate::frame::{Payload, ProtocolError};
use crate::wire::Wire;

/// A task on files of the container. Paths are resolved as for the container's processes. Streams
/// are tar archives; errors are written to standard error, and the exit code gives their kind: see
/// [`FileTask::NOT_FOUND`] and the others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileTask {
    /// Writes the status of a path to standard output.
    Stat {
        /// The path.
        path: Vec<u8>,
        /// Whether a symbolic link there is followed.
        follow: bool,
    },
    /// Writes an archive to standard output.
    Pack {
        /// The path to pack.
        path: Vec<u8>,
        /// The name in the archive; empty for the contents of a directory.
        name: Vec<u8>,
        /// Whether a symbolic link at the path is followed.
        follow: bool,
    },
    /// Unpacks the archive on standard input.
    Unpack {
        /// The directory to unpack in.
        path: Vec<u8>,
        /// Whether files keep the owners of the archive, instead of belonging to root.
        owners: bool,
    },
}

impl FileTask {
    /// The exit code if a path does not exist.
    pub const NOT_FOUND: u8 = 2;
    /// The exit code if a path has a component that is not a directory.
    pub const NOT_A_DIRECTORY: u8 = 3;
    /// The exit code of every other failure.
    pub const FAILED: u8 = 1;

    /// Whether the task reads standard input.
    pub fn has_input(&self) -> bool {
        matches!(self, Self::Unpack { .. })
    }
}

const STAT: u32 = 0;
const PACK: u32 = 1;
const UNPACK: u32 = 2;

impl Wire for FileTask {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stat { path, follow } => {
                STAT.put(out);
                path.put(out);
                follow.put(out);
            }
            Self::Pack { path, name, follow } => {
                PACK.put(out);
                path.put(out);
                name.put(out);
                follow.put(out);
            }
            Self::Unpack { path, owners } => {
                UNPACK.put(out);
                path.put(out);
                owners.put(out);
            }
        }
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        Ok(match u32::take(payload)? {
            STAT => Self::Stat {
                path: Wire::take(payload)?,
                follow: Wire::take(payload)?,
            },
            PACK => Self::Pack {
                path: Wire::take(payload)?,
                name: Wire::take(payload)?,
                follow: Wire::take(payload)?,
            },
            UNPACK => Self::Unpack {
                path: Wire::take(payload)?,
                owners: Wire::take(payload)?,
            },
            _ => return Err(payload.malformed()),
        })
    }
}
