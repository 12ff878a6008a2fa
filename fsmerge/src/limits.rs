//! How much an input may ask for.

/// Bounds on what one layer, or one merged tree, may hold. An input that goes beyond one of them is refused with
/// [`Problem::Limit`](crate::Problem::Limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of one archive, and names of one merge. Default: 16,777,216.
    pub entries: u32,
    /// Bytes of one path, and of one hard link target. Default: 32,768.
    pub path_bytes: usize,
    /// Components of one path. Default: 4,096, so that a path of `PATH_MAX` bytes fits whatever its components.
    pub depth: usize,
    /// Bytes of all names, symlink targets and hard link targets of one tree. Default: 1 GiB; 4 GiB − 1 at most.
    pub name_bytes: u32,
    /// Bytes of one symlink target. Default: 4,095, the most that Linux reads (`PATH_MAX` less its NUL).
    pub symlink_bytes: usize,
    /// Bytes of one extended attribute's value. Default: 65,535, the most an EROFS image holds.
    pub xattr_value_bytes: usize,
    /// Bytes of names and values of all extended attributes of one archive. Default: 1 GiB.
    pub xattr_bytes: u64,
    /// Bytes of one extended header: a PAX header or a GNU long name. Default: 8 MiB.
    pub extended_header_bytes: u64,
    /// Bytes of one file with its holes. Default: 16 TiB.
    pub file_bytes: u64,
    /// Data ranges of one sparse file. Default: 1,048,576.
    pub sparse_ranges: usize,
    /// Warnings that are kept in full; those beyond are only counted. Default: 100.
    pub warnings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1 << 24,
            path_bytes: 1 << 15,
            depth: 1 << 12,
            name_bytes: 1 << 30,
            symlink_bytes: 4095,
            xattr_value_bytes: 65_535,
            xattr_bytes: 1 << 30,
            extended_header_bytes: 1 << 23,
            file_bytes: 1 << 44,
            sparse_ranges: 1 << 20,
            warnings: 100,
        }
    }
}
