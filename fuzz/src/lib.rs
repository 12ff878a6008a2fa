//! What fuzz targets share.

pub mod image;

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

/// Where the inode that [`crafted`] makes begins, in bytes: it is the second.
const INODE: usize = 1024 + 128 + 32;

/// Where what follows it begins.
const BODY: usize = INODE + 64;

/// The nid of the inode that [`crafted`] makes.
pub const NID: u64 = INODE as u64 / 32;

/// What a crafted image says beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields {
    pub feature_compat: u32,
    pub feature_incompat: u32,
    pub xattr_prefix_count: u8,
    /// File type and permissions.
    pub mode: u16,
    /// `i_format` without the bit that says extended.
    pub format: u16,
    pub xattr_icount: u16,
    pub size: u64,
    /// `i_u`: a block address, or a chunk format.
    pub u: u32,
}

/// An image with blocks of 512 bytes, an empty root directory and an extended inode, [`NID`], that
/// `body` follows. So mutations meet what reads the body, instead of all that is before it.
pub fn crafted(fields: &Fields, body: &[u8]) -> Vec<u8> {
    let mut image = vec![0; BODY];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let sb = 1024;
    put(sb, &0xe0f5_e1e2_u32.to_le_bytes());
    put(sb + 8, &fields.feature_compat.to_le_bytes());
    put(sb + 12, &[9]);
    put(sb + 14, &36_u16.to_le_bytes());
    put(sb + 16, &2_u64.to_le_bytes());
    put(sb + 80, &fields.feature_incompat.to_le_bytes());
    // Every algorithm.
    put(sb + 84, &15_u16.to_le_bytes());
    put(sb + 91, &[fields.xattr_prefix_count]);
    put(sb + 92, &(BODY as u32 / 4).to_le_bytes());
    // The packed inode is the crafted one: as its own it must be refused.
    put(sb + 96, &NID.to_le_bytes());
    put(sb + 128 + 4, &0o040_755_u16.to_le_bytes());
    put(sb + 128 + 6, &2_u16.to_le_bytes());
    put(INODE, &(fields.format | 1).to_le_bytes());
    put(INODE + 2, &fields.xattr_icount.to_le_bytes());
    put(INODE + 4, &fields.mode.to_le_bytes());
    put(INODE + 8, &fields.size.to_le_bytes());
    put(INODE + 16, &fields.u.to_le_bytes());
    put(INODE + 44, &1_u32.to_le_bytes());
    image.extend_from_slice(body);
    image.resize(image.len().next_multiple_of(512), 0);
    image
}

/// Decodes bytes that begin with the length to decode to, of 16 bits, and checks that a shorter
/// length gives a part of it.
pub fn decode(algorithm: erofs_reader::Algorithm, bytes: &[u8]) {
    let Some((length, input)) = bytes.split_first_chunk() else {
        return;
    };
    let mut output = vec![0; u16::from_le_bytes(*length).into()];
    if erofs_reader::decode_cluster(algorithm, input, &mut output).is_none() {
        return;
    }
    let mut part = vec![0; output.len() / 2];
    erofs_reader::decode_cluster(algorithm, input, &mut part).expect("a part of what decodes");
    assert!(output.starts_with(&part));
}
