//! Any bytes as the xattrs of an inode, as shared ones and as the table of long prefixes.
#![no_main]

use blockbox_fuzz::{Fields, NID, crafted};
use erofs_reader::{Image, Nid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[words, flags], body)) = bytes.split_first_chunk() else {
        return;
    };
    let fields = Fields {
        // The name filter, and prefixes outside of the packed inode.
        feature_compat: 0x14,
        feature_incompat: 0x40,
        xattr_prefix_count: flags & 7,
        mode: 0o100_644,
        xattr_icount: words.into(),
        ..Fields::default()
    };
    let image = crafted(&fields, body);
    let image = Image::open(&image).expect("a good superblock");
    let inode = image.inode(Nid::new(NID)).expect("a good inode");
    if let Ok(xattrs) = image.xattrs(&inode) {
        let size: usize = xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        // Long prefixes and the namespace's name are added to what is there.
        assert!(size <= (xattrs.len() + 1) * (256 + 32 + body.len()));
    }
});
