//! The text dump of an image made by hand, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use erofs_reader::Image;

/// Numbers of different widths, little-endian, one after the other.
macro_rules! bytes {
    ($($number:expr),* $(,)?) => {
        [$(&$number.to_le_bytes()[..]),*].concat()
    };
}

/// An extended inode: layout, xattr count, mode, size, address, owner, time, links.
fn inode(layout: u16, icount: u16, mode: u16, size: u64, i_u: u32, links: u32) -> Vec<u8> {
    let format = layout << 1 | 1;
    let head = bytes![
        format, icount, mode, 0_u16, size, i_u, 7_u32, 1000_u32, 100_u32
    ];
    let tail = bytes![1_700_000_000_u64, 5_u32, links, 0_u128];
    [head, tail].concat()
}

/// An image of 512-byte blocks: the superblock in block 2, metadata in blocks 3 and 4, data in
/// block 5.
fn image() -> Vec<u8> {
    let put = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let mut image = vec![0; 6 * 512];
    let superblock = [
        // magic, checksum, feature_compat, blkszbits and sb_extslots, the root's nid.
        bytes![0xe0f5_e1e2_u32, 0_u32, 0x2_u32, 9_u8, 0_u8, 0_u16],
        // inos, epoch, fixed_nsec, blocks, meta_blkaddr, xattr_blkaddr.
        bytes![4_u64, 1_600_000_000_u64, 25_u32, 6_u32, 3_u32, 4_u32],
        (0..16).collect(),
        b"by hand\0\0\0\0\0\0\0\0\0".to_vec(),
        // feature_incompat: chunks and a device table; the table's one slot at byte 0.
        bytes![0xc_u32, 0_u16, 1_u16, 0_u16, 0_u8, 0_u8, 0_u32, 0_u64],
        bytes![0_u8, 0_u8, 0_u16, 60_u32, 0_u64, 0_u64],
    ]
    .concat();
    put(&mut image, 1024, &superblock);
    put(&mut image, 0, b"layer");
    put(&mut image, 64, &bytes![100_u32, 6_u32]);

    // nid 0: the root, with its entries inline.
    let names: [(&[u8], u64, u8); 5] = [
        (b".", 0, 2),
        (b"..", 0, 2),
        (b"chunks", 8, 1),
        (b"link", 12, 7),
        (b"null", 14, 3),
    ];
    let mut nameoff = 12 * 5;
    let mut entries = Vec::new();
    for (name, nid, kind) in names {
        entries.extend(bytes![nid, u16::try_from(nameoff).unwrap(), kind, 0_u8]);
        nameoff += name.len();
    }
    entries.extend(names.iter().flat_map(|(name, ..)| *name));
    let meta = 3 * 512;
    put(
        &mut image,
        meta,
        &inode(2, 0, 0o040_755, nameoff as u64, 0, 2),
    );
    put(&mut image, meta + 64, &entries);
    // nid 8: a file of chunks of 512 bytes with an xattr of its own and one that is shared.
    let at = meta + 8 * 32;
    put(&mut image, at, &inode(4, 5, 0o100_640, 1500, 0x20, 1));
    let xattrs = [
        bytes![0_u32, 1_u8, 0_u8, 0_u16, 0_u32, 2_u32],
        bytes![1_u8, 1_u8, 3_u16],
        b"aone".to_vec(),
        vec![0; 4],
    ]
    .concat();
    put(&mut image, at + 64, &xattrs);
    // A chunk on the primary device, a hole, one on device 1.
    let chunks = [
        bytes![0_u16, 0_u16, 5_u32],
        bytes![0_u16, 0_u16, u32::MAX],
        bytes![0_u16, 1_u16, 2_u32],
    ]
    .concat();
    put(&mut image, at + 64 + 32, &chunks);
    // nid 14: a device.
    put(
        &mut image,
        meta + 14 * 32,
        &inode(0, 0, 0o020_600, 0, 0x0103, 1)[..],
    );
    // Shared xattr 2.
    put(&mut image, 4 * 512 + 8, &bytes![1_u8, 4_u8, 2_u16]);
    put(&mut image, 4 * 512 + 12, b"son");
    // nid 12: a symbolic link, compact, with its target after it.
    let link = bytes![
        4_u16,
        0_u16,
        0o120_777_u16,
        1_u16,
        6_u32,
        9_u32,
        0_u32,
        3_u32,
        1_u16,
        2_u16,
        0_u32
    ];
    put(&mut image, meta + 12 * 32, &link);
    put(&mut image, meta + 13 * 32, b"chunks");
    image
}

#[test]
fn a_dump_shows_every_field_of_the_metadata() {
    let bytes = image();
    let image = Image::open(&bytes[..]).unwrap();
    assert_eq!(image.check().findings, []);
    let mut dump = Vec::new();
    erofs_reader::dump(&image, &mut dump).unwrap();
    insta::assert_snapshot!(String::from_utf8(dump).unwrap());
}
