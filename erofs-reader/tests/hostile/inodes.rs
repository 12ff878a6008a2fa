//! Inodes that lie about themselves or about where their data is.

use erofs_reader::{Detail as C, Problem, Unsupported as U};

use crate::common::hostile::{assert_corrupt, assert_found};
use crate::common::lab::Lab;
use crate::problems;

#[test]
fn invalid_inode_fields_are_reported() {
    let found = problems(|lab| {
        let at = lab.inode("file");
        lab.put(at + 4, &[0xff, 0x0f]);
    });
    assert_corrupt!(found, C::Mode(0o7777));
    for format in [0x21_u16, 0x0b, 0x0d, 0x0f, 0x8001] {
        let found = problems(|lab| {
            let at = lab.inode("file");
            lab.put(at, &format.to_le_bytes());
        });
        assert_found!(found, Problem::Unsupported(U::InodeFormat(f)) if *f == format);
    }
    let found = problems(|lab| {
        let at = lab.inode("other");
        lab.put(at + 8, &(-1_i64).to_le_bytes());
    });
    assert_corrupt!(found, C::Size(u64::MAX));
    let found = problems(|lab| {
        let at = lab.inode("other");
        lab.put(at + 0x28, &2_000_000_000_u32.to_le_bytes());
    });
    assert_corrupt!(found, C::Nanoseconds(2_000_000_000));
    let found = problems(|lab| {
        let at = lab.inode("file");
        lab.put(at + 0x2c, &[7]);
    });
    assert_corrupt!(
        found,
        C::LinkCount {
            stored: 7,
            found: 2
        }
    );
}

#[test]
fn data_must_lie_on_its_device() {
    let found = problems(|lab| {
        let at = lab.inode("other");
        lab.put(at + 16, &[0xf0, 0xff, 0xff, 0xff]);
    });
    assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
    // An address of 48 bits, all used.
    let found = problems(|lab| {
        let at = lab.inode("other");
        lab.put(at + 16, &[0xf0, 0xff, 0xff, 0xff]);
        lab.put(at + 6, &[0xff, 0xff]);
    });
    assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
    // A size that reaches past the end.
    let found = problems(|lab| {
        let at = lab.inode("other");
        lab.put(at + 8, &i64::MAX.to_le_bytes());
    });
    assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
    // Data that is the image's metadata.
    let found = problems(|lab| {
        let block = u32::try_from(lab.inode("") / 512).unwrap();
        let at = lab.inode("other");
        lab.put(at + 16, &block.to_le_bytes());
    });
    assert_corrupt!(found, C::DataInMetadata { .. });
}

#[test]
fn chunk_tables_must_be_there_and_name_real_devices() {
    let chunked = |lab: &mut Lab, size: u64, format: u32| {
        let at = lab.inode("other");
        lab.put(at, &[0x09, 0]);
        lab.put(at + 8, &size.to_le_bytes());
        lab.put(at + 16, &format.to_le_bytes());
    };
    let found = problems(|lab| chunked(lab, 1000, 0x80));
    assert_found!(found, Problem::Unsupported(U::ChunkFormat(0x80)));
    for (size, format) in [(1 << 40, 0), (1 << 40, 0x20), (i64::MAX.cast_unsigned(), 0)] {
        let found = problems(|lab| chunked(lab, size, format));
        assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
    }
    // One chunk of 2^40 bytes, with an index that names device 3 of 2.
    let found = problems(|lab| {
        chunked(lab, 100, 0x20 | 31);
        let table = lab.inode("other") + 64;
        lab.put(table, &[0, 0, 3, 0, 0, 0, 0, 0]);
    });
    assert_corrupt!(found, C::DeviceId(3));
}

#[test]
fn inline_data_must_not_cross_a_block() {
    let found = problems(|lab| {
        let at = lab.inode("other");
        lab.put(at, &[0x05, 0]);
        lab.put(at + 8, &500_u64.to_le_bytes());
    });
    assert_corrupt!(found, C::InlineData(500));
}

#[test]
fn metadata_must_not_overlap() {
    let found = problems(|lab| {
        // The xattr area grows over the inodes after it.
        let at = lab.inode("file");
        lab.put(at + 2, &[100, 0]);
    });
    assert_corrupt!(found, C::MetadataOverlap { .. });
}

#[test]
fn symbolic_links_must_be_paths() {
    for size in [0_u64, 4096, 1 << 40] {
        let found = problems(|lab| {
            let at = lab.inode("link");
            lab.put(at + 8, &size.to_le_bytes());
        });
        assert_corrupt!(found, C::SymlinkLength(n) if *n == size);
    }
    let found = problems(|lab| {
        let at = lab.data("link");
        lab.0[at + 1] = 0;
    });
    assert_corrupt!(found, C::SymlinkNul);
}
