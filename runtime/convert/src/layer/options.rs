//! Options of an image made from a tar, a folder or other images.

use blockbox_store::Meter;
use erofs_writer::{ChunkSize, Timestamp};

/// Options of an image.
///
/// The image's own options are erofs-writer's; the other fields affect how it is filled.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// The image's own options.
    pub image: erofs_writer::Options,
    /// Store every file in chunks of this size, equal chunks once (as `mkfs.erofs --chunksize`). A
    /// file whose chunks are contiguous is stored as one extent. Default: only files with holes
    /// have chunks.
    pub chunk_size: Option<ChunkSize>,
    /// The modification times. Default: the source's.
    pub times: Times,
    /// Counts the bytes that are written.
    pub meter: Meter,
}

impl From<erofs_writer::Options> for BuildOptions {
    fn from(image: erofs_writer::Options) -> Self {
        Self {
            image,
            ..Self::default()
        }
    }
}

/// The modification times of an image's inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// The source's.
    #[default]
    Kept,
    /// This time for all, as with `mkfs.erofs -T`.
    Fixed(Timestamp),
    /// This time if the source's is later, as with `tar --clamp-mtime`.
    Clamped(Timestamp),
}

impl Times {
    /// Applies this option to a source's modification time.
    pub(crate) fn apply(self, mtime: Timestamp) -> Timestamp {
        match self {
            Self::Kept => mtime,
            Self::Fixed(time) => time,
            Self::Clamped(latest) => mtime.min(latest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamping_keeps_earlier_times_and_fixing_replaces_all() {
        let at = |secs, nanos| Timestamp { secs, nanos };
        let (early, late) = (at(-5, 1), at(100, 2));
        assert_eq!(Times::Kept.apply(late), late);
        assert_eq!(Times::Fixed(at(7, 0)).apply(early), at(7, 0));
        assert_eq!(Times::Clamped(at(100, 1)).apply(early), early);
        assert_eq!(Times::Clamped(at(100, 1)).apply(late), at(100, 1));
    }
}
