//! What can be chosen about an image that is made of a tar, a folder or other images.

use erofs_writer::{ChunkSize, Timestamp};

/// How an image is made.
///
/// What is said of the image itself is erofs-writer's; what only matters while it is filled stands
/// beside it.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// The image's own options.
    pub image: erofs_writer::Options,
    /// Every file in chunks of this size, equal ones of which are stored once (as `mkfs.erofs
    /// --chunksize`). A file whose chunks all follow each other stays in one piece. Default: only
    /// files with holes are in chunks.
    pub chunk_size: Option<ChunkSize>,
    /// The modification times. Default: the source's.
    pub times: Times,
}

impl From<erofs_writer::Options> for BuildOptions {
    fn from(image: erofs_writer::Options) -> Self {
        Self {
            image,
            ..Self::default()
        }
    }
}

/// Which modification times the inodes of an image have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// Those of the source.
    #[default]
    Kept,
    /// All this one, as with `mkfs.erofs -T`.
    Fixed(Timestamp),
    /// This one where the source's is later, as with `tar --clamp-mtime`.
    Clamped(Timestamp),
}

impl Times {
    /// What becomes of a source's modification time.
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
    fn clamping_leaves_earlier_times_and_fixing_none() {
        let at = |secs, nanos| Timestamp { secs, nanos };
        let (early, late) = (at(-5, 1), at(100, 2));
        assert_eq!(Times::Kept.apply(late), late);
        assert_eq!(Times::Fixed(at(7, 0)).apply(early), at(7, 0));
        assert_eq!(Times::Clamped(at(100, 1)).apply(early), early);
        assert_eq!(Times::Clamped(at(100, 1)).apply(late), at(100, 1));
    }
}
