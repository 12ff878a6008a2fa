//! What fuzz targets share.

/// Makes the checksum of an EROFS superblock right, so that mutations go deeper than it.
pub fn repair_erofs(bytes: &[u8]) -> Vec<u8> {
    const SUPER: usize = 1024;
    let mut bytes = bytes.to_vec();
    let bits = bytes.get(SUPER + 12).copied().unwrap_or(0);
    let length = match 1_usize.checked_shl(bits.into()).unwrap_or(0) {
        size if size > SUPER => size - SUPER,
        size => size,
    };
    if let Some(block) = bytes.get_mut(SUPER..SUPER.saturating_add(length))
        && block.len() >= 8
    {
        block[4..8].fill(0);
        let checksum = !crc32c::crc32c(block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}
