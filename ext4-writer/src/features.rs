//! The names of features.

use std::fmt;

use crate::format::SuperBlock;

/// A filesystem's features: the superblock's three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Features {
    /// Those that may be ignored (`s_feature_compat`).
    pub compat: u32,
    /// Those that must be known to use the filesystem at all (`s_feature_incompat`).
    pub incompat: u32,
    /// Those that must be known to write to the filesystem (`s_feature_ro_compat`).
    pub ro_compat: u32,
}

/// The names of each word's bits, from the lowest, as e2fsprogs has them; empty where it has none.
const NAMES: [&[&str]; 3] = [
    &[
        "dir_prealloc",
        "imagic_inodes",
        "has_journal",
        "ext_attr",
        "resize_inode",
        "dir_index",
        "lazy_bg",
        "",
        "snapshot_bitmap",
        "sparse_super2",
        "fast_commit",
        "stable_inodes",
        "orphan_file",
    ],
    &[
        "compression",
        "filetype",
        "needs_recovery",
        "journal_dev",
        "meta_bg",
        "",
        "extent",
        "64bit",
        "mmp",
        "flex_bg",
        "ea_inode",
        "",
        "dirdata",
        "metadata_csum_seed",
        "large_dir",
        "inline_data",
        "encrypt",
        "casefold",
    ],
    &[
        "sparse_super",
        "large_file",
        "",
        "huge_file",
        "uninit_bg",
        "dir_nlink",
        "extra_isize",
        "",
        "quota",
        "bigalloc",
        "metadata_csum",
        "",
        "read-only",
        "project",
        "",
        "verity",
        "orphan_present",
    ],
];

impl Features {
    pub(crate) fn of(superblock: &SuperBlock) -> Self {
        Self {
            compat: superblock.s_feature_compat.get(),
            incompat: superblock.s_feature_incompat.get(),
            ro_compat: superblock.s_feature_ro_compat.get(),
        }
    }

    /// Those that are here and not in `other`.
    pub(crate) fn without(self, other: Self) -> Self {
        Self {
            compat: self.compat & !other.compat,
            incompat: self.incompat & !other.incompat,
            ro_compat: self.ro_compat & !other.ro_compat,
        }
    }

    /// The features' names, as `dumpe2fs` prints them.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Info, Options};
    ///
    /// let image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let info = Info::read(image.finish()?.0)?;
    /// assert!(info.features.names().any(|name| name == "metadata_csum"));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    pub fn names(self) -> impl Iterator<Item = String> {
        let words = [
            ('C', self.compat),
            ('I', self.incompat),
            ('R', self.ro_compat),
        ];
        words
            .into_iter()
            .zip(NAMES)
            .flat_map(|((letter, word), names)| {
                (0..u32::BITS as usize)
                    .filter(move |bit| word >> bit & 1 == 1)
                    .map(move |bit| match names.get(bit).copied().unwrap_or("") {
                        "" => format!("FEATURE_{letter}{bit}"),
                        name => name.to_owned(),
                    })
            })
    }
}

/// The names, separated by spaces.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(" "))
    }
}
