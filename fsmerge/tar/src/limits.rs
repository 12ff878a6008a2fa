//! Limits of reading an archive.

/// Limits on the size of an archive's parts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Headers of one archive.
    pub entries: u32,
    /// Bytes of one extended header: a PAX header or a GNU long name.
    pub extended_header_bytes: u64,
    /// Bytes of one file with its holes.
    pub file_bytes: u64,
    /// Data ranges of one sparse file.
    pub sparse_ranges: usize,
}
