//! Limits of inputs.

/// Limits of one layer or one merged tree. An input that exceeds one of them is rejected with
/// [`Problem::Limit`](crate::Problem::Limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Entries of one archive, and names of one merge. Default: 16,777,216.
    pub entries: u32,
    /// Bytes of one path, and of one hard link target. Default: 32,768.
    pub path_bytes: usize,
    /// Components of one path. Default: 4,096, so that a path of `PATH_MAX` bytes fits whatever its
    /// components.
    pub depth: usize,
    /// Bytes of all names, symlink targets and hard link targets of one tree. Default: 1 GiB; 4 GiB
    /// − 1 at most.
    pub name_bytes: u32,
    /// Bytes of one symlink target. Default: 4,095, the most that Linux reads (`PATH_MAX` less its
    /// NUL).
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

impl Limits {
    /// Sets [`entries`](field@Self::entries).
    #[must_use]
    pub fn entries(mut self, entries: u32) -> Self {
        self.entries = entries;
        self
    }

    /// Sets [`path_bytes`](field@Self::path_bytes).
    #[must_use]
    pub fn path_bytes(mut self, path_bytes: usize) -> Self {
        self.path_bytes = path_bytes;
        self
    }

    /// Sets [`depth`](field@Self::depth).
    #[must_use]
    pub fn depth(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    /// Sets [`name_bytes`](field@Self::name_bytes).
    #[must_use]
    pub fn name_bytes(mut self, name_bytes: u32) -> Self {
        self.name_bytes = name_bytes;
        self
    }

    /// Sets [`symlink_bytes`](field@Self::symlink_bytes).
    #[must_use]
    pub fn symlink_bytes(mut self, symlink_bytes: usize) -> Self {
        self.symlink_bytes = symlink_bytes;
        self
    }

    /// Sets [`xattr_value_bytes`](field@Self::xattr_value_bytes).
    #[must_use]
    pub fn xattr_value_bytes(mut self, xattr_value_bytes: usize) -> Self {
        self.xattr_value_bytes = xattr_value_bytes;
        self
    }

    /// Sets [`xattr_bytes`](field@Self::xattr_bytes).
    #[must_use]
    pub fn xattr_bytes(mut self, xattr_bytes: u64) -> Self {
        self.xattr_bytes = xattr_bytes;
        self
    }

    /// Sets [`extended_header_bytes`](field@Self::extended_header_bytes).
    #[must_use]
    pub fn extended_header_bytes(mut self, extended_header_bytes: u64) -> Self {
        self.extended_header_bytes = extended_header_bytes;
        self
    }

    /// Sets [`file_bytes`](field@Self::file_bytes).
    #[must_use]
    pub fn file_bytes(mut self, file_bytes: u64) -> Self {
        self.file_bytes = file_bytes;
        self
    }

    /// Sets [`sparse_ranges`](field@Self::sparse_ranges).
    #[must_use]
    pub fn sparse_ranges(mut self, sparse_ranges: usize) -> Self {
        self.sparse_ranges = sparse_ranges;
        self
    }

    /// Sets [`warnings`](field@Self::warnings).
    #[must_use]
    pub fn warnings(mut self, warnings: usize) -> Self {
        self.warnings = warnings;
        self
    }
}
