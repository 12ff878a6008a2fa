//! Builds filesystems of any entries: every record is a node or a name to add, with names and
//! contents from its bytes.
#![no_main]

use std::io::Cursor;

use ext4_writer::{
    BlockSize, Builder, DeviceNumber, Info, Journal, Metadata, Options, Timestamp, grow,
};
use libfuzzer_sys::fuzz_target;

const XATTRS: [&[u8]; 5] = [
    b"user.a",
    b"security.capability",
    b"system.posix_acl_access",
    b"trusted.overlay.opaque",
    b"other",
];

fuzz_target!(|bytes: &[u8]| {
    let Some((&[block_size, size, ratio, features], mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let options = Options::new(u64::from(size) << 14)
        .block_size(
            [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096][usize::from(block_size % 3)],
        )
        .journal(match block_size & 0x80 {
            0 => Journal::None,
            _ => Journal::Size(1 << 20),
        })
        .orphan_file(features & 1 == 0)
        .inline_data(features & 2 != 0)
        .ea_inode(features & 4 != 0)
        .quota(features & 8 != 0)
        .project(features & 16 != 0)
        .meta_bg(features & 32 != 0)
        .signed_hash(features & 64 == 0)
        .large_dir(features & 128 != 0)
        .inode_ratio(1024 << (ratio % 16));
    let Ok(mut image) = Builder::new(Cursor::new(Vec::new()), options) else {
        return;
    };
    let mut nodes = vec![image.root()];
    while let Some((&[kind, parent, len, number], behind)) = rest.split_first_chunk() {
        let (name, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        let parent = nodes[usize::from(parent) % nodes.len()];
        let other = nodes[usize::from(number) % nodes.len()];
        let mut metadata = Metadata::new(u16::from(number) << 4);
        metadata.mtime = Timestamp {
            secs: i64::from(number as i8) << 28,
            nanos: u32::from(number) << 24,
        };
        if kind & 0x80 != 0 {
            let name = XATTRS[usize::from(number) % XATTRS.len()].to_vec();
            let mut value = behind[..behind.len().min(usize::from(number) * 20)].to_vec();
            if number & 0xf0 == 0xf0 {
                // Larger than any block.
                value.resize(usize::from(number) << 8, number);
            }
            metadata.xattrs.push((name, value));
        }
        let number = u64::from(number);
        let added = match kind & 15 {
            0..=3 => image.add_dir(parent, name, metadata),
            4..=6 => image.add_file(parent, name, metadata, behind, None),
            7 | 8 => {
                let ranges = [number * 100..number * 150, number * 4000..number * 4001];
                let data = std::io::repeat(1);
                image.add_sparse_file(parent, name, metadata, number * 5000, &ranges, data)
            }
            9 | 10 => image.add_symlink(parent, name, metadata, behind),
            11 => {
                let (major, minor) = (number as u32 * 40, number as u32 * 9000);
                image.add_char_device(parent, name, metadata, DeviceNumber { major, minor })
            }
            12 => image.add_fifo(parent, name, metadata),
            13 => image.add_socket(parent, name, metadata),
            14 => {
                let _ = image.link(parent, name, other);
                continue;
            }
            _ => match image.make_parents(name, &metadata) {
                Ok((parent, _)) => Ok(parent),
                Err(error) => Err(error),
            },
        };
        nodes.extend(added);
    }
    for (&node, project) in nodes.iter().zip(1..) {
        let _ = image.set_project(node, project);
    }
    if let Ok((mut out, summary)) = image.finish() {
        let info = Info::read(&mut out).expect("what was built can be read");
        assert!(info.clean);
        assert_eq!(info.free_blocks, summary.free_blocks);
        let size = info.blocks * u64::from(info.block_size);
        let grown = grow(out, size + (1 << 20)).expect("what was built can grow");
        assert!(grown.clean && grown.blocks >= info.blocks);
    }
});
