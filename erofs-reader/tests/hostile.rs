//! A catalogue of malicious images: one for each thing that can be wrong, and the typed error it gives.
//!
//! The superblock's checksum is repaired after each change, unless it is the point.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Cursor;

use common::hostile::{assert_corrupt, assert_found, exercise};
use common::lab::{Lab, SUPER};
use erofs_reader::{Corruption as C, Error, FileType, Image, Problem, Structure, Unsupported as U};

/// Damages an image with `patch`, and gives the error of opening it.
fn open(patch: impl Fn(&mut Lab)) -> Error {
    let mut lab = Lab::new();
    patch(&mut lab);
    lab.repair();
    Image::open(&lab.0[..]).unwrap_err()
}

/// Damages an image with `patch`, and gives what the check finds.
fn problems(patch: impl Fn(&mut Lab)) -> Vec<Problem> {
    let mut lab = Lab::new();
    patch(&mut lab);
    lab.repair();
    let image = Image::open(&lab.0[..]).unwrap();
    exercise(&image);
    let report = image.check();
    report.findings.into_iter().map(|f| f.problem).collect()
}

#[test]
fn what_is_no_image_is_not_opened() {
    for bytes in [&[][..], &[0; 1023], &[0; 4096], b"not an image"] {
        let error = Image::open(bytes).unwrap_err();
        assert!(matches!(error, Error::NotErofs { magic: 0 }), "{error:?}");
    }
    let lab = Lab::new();
    let cut = Image::open(&lab.0[..SUPER + 100]).unwrap_err();
    assert!(matches!(
        cut,
        Error::Corrupt {
            what: C::SuperblockSize(100),
            ..
        }
    ));
}

#[test]
fn a_damaged_superblock_is_not_opened() {
    let corrupt = |error: Error| match error {
        Error::Corrupt { what, .. } => what,
        other => panic!("{other:?}"),
    };
    for bits in [0, 8, 17, 64, 255] {
        let error = open(|lab| lab.0[SUPER + 12] = bits);
        assert!(
            matches!(corrupt(error), C::BlockSize(found) if found == bits),
            "2^{bits}"
        );
    }
    let mut lab = Lab::new();
    lab.0[SUPER + 16] ^= 1;
    let error = Image::open(&lab.0[..]).unwrap_err();
    assert!(matches!(corrupt(error), C::Checksum { .. }));
    let error = open(|lab| lab.0[SUPER + 13] = 255);
    assert!(matches!(corrupt(error), C::SuperblockSize(_)));
    // feature_incompat: the device table, whose offset and count lie past the end.
    let error = open(|lab| lab.put(SUPER + 0x56, &[9, 0, 0xff, 0xff]));
    assert!(matches!(corrupt(error), C::DeviceTable { slots: 9, .. }));
    // The metabox inode lies in the metabox.
    let error = open(|lab| {
        lab.0[SUPER + 0x51] |= 1;
        lab.0[SUPER + 13] = 1;
        lab.put(SUPER + 0x80, &(1_u64 << 63).to_le_bytes());
    });
    assert!(matches!(corrupt(error), C::SelfReference));
}

#[test]
fn unknown_incompatible_features_are_named() {
    let unsupported = |error: Error| match error {
        Error::Unsupported { what, .. } => what,
        other => panic!("{other:?}"),
    };
    let error = open(|lab| lab.0[SUPER + 0x53] = 0x80);
    assert_eq!(unsupported(error), U::IncompatibleFeatures(0x8000_0000));
    let error = open(|lab| lab.0[SUPER + 0x5a] = 3);
    assert_eq!(unsupported(error), U::DirectoryBlockBits(3));
}

#[test]
fn a_number_of_devices_that_is_not_the_tables_is_refused() {
    let lab = Lab::new();
    let result = Image::open_with_devices(&lab.0[..], vec![&[][..]]);
    assert!(matches!(
        result,
        Err(Error::DeviceCount {
            expected: 2,
            given: 1
        })
    ));
}

#[test]
fn the_root_must_be_a_directory_inside_the_image() {
    let found = problems(|lab| {
        let nid = u16::try_from(lab.nid("file")).unwrap();
        lab.put(SUPER + 14, &nid.to_le_bytes());
    });
    assert_corrupt!(found, C::RootType(FileType::Regular));
    let found = problems(|lab| lab.put(SUPER + 14, &[0xff, 0xff]));
    assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
    // The metadata area begins past every address.
    let found = problems(|lab| lab.put(SUPER + 0x28, &[0xff; 4]));
    assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
}

#[test]
fn superblock_fields_that_lie_are_found() {
    let found = problems(|lab| lab.put(SUPER + 0x24, &[0xff, 0xff, 0xff, 0]));
    assert_corrupt!(found, C::BeyondDevice { start: 0, .. });
    let found = problems(|lab| lab.put(SUPER + 16, &[99]));
    assert_corrupt!(found, C::InodeCount { stored: 99, .. });
    let found = problems(|lab| lab.put(SUPER + 0x20, &[0xff; 4]));
    assert_corrupt!(found, C::Nanoseconds(u32::MAX));
    let found = problems(|lab| lab.0[SUPER + 11] = 0x40);
    assert_corrupt!(found, C::CompatibleFeatures(0x4000_0000));
    let found = problems(|lab| lab.0[SUPER + 0x6a] = 1);
    assert_corrupt!(found, C::Reserved(_));
    // The second device's slot, at the place of the first one's.
    let found = problems(|lab| {
        let table = 128
            * usize::from(u16::from_le_bytes([
                lab.0[SUPER + 0x58],
                lab.0[SUPER + 0x59],
            ]));
        let first: [u8; 4] = lab.0[table + 68..table + 72].try_into().unwrap();
        lab.put(table + 128 + 68, &first);
    });
    assert_corrupt!(found, C::DevicesOverlap(2));
}

#[test]
fn inode_fields_that_make_no_sense_are_found() {
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
fn xattr_areas_must_hold_what_they_say() {
    let area = |lab: &Lab| lab.inode("file") + 64;
    let found = problems(|lab| {
        let at = lab.inode("file");
        lab.put(at + 2, &[1, 0]);
    });
    assert_found!(found, Problem::Unsupported(U::EmptyXattrArea));
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 4] = 255;
    });
    assert_corrupt!(found, C::SharedXattrCount { shared: 255, .. });
    let found = problems(|lab| {
        let at = area(lab);
        lab.put(at + 12 + 2, &[0xff, 0xff]);
    });
    assert_corrupt!(found, C::XattrLength { .. });
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 12 + 1] = 0x80 | 5;
    });
    assert_corrupt!(found, C::XattrPrefix(5));
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 12 + 1] = 77;
    });
    assert_corrupt!(found, C::XattrIndex(77));
    let found = problems(|lab| {
        let at = area(lab);
        lab.0[at + 12 + 4 + 1] = 0;
    });
    assert_corrupt!(found, C::XattrName(_));
    // A filter of ones says that no xattr is there.
    let found = problems(|lab| {
        lab.0[SUPER + 8] |= 4;
        let at = area(lab);
        lab.put(at, &[0xff; 4]);
    });
    assert_corrupt!(found, C::XattrFilter(_));
    // An area that reaches past the end of the image.
    let mut lab = Lab::new();
    let at = lab.inode("file");
    lab.put(at + 2, &[0xff, 0xff]);
    let image = lab.image();
    let result = image.xattrs(&image.lookup(b"file").unwrap());
    assert!(matches!(
        result,
        Err(Error::Corrupt {
            what: C::BeyondDevice { .. },
            ..
        })
    ));
}

#[test]
fn shared_xattrs_must_exist() {
    let found = problems(|lab| {
        let at = lab.inode("shared-a") + 64;
        assert_eq!(lab.0[at + 4], 1, "the writer shares it");
        lab.put(at + 12, &[0xff; 4]);
    });
    assert_corrupt!(found, C::BeyondDevice { .. });
}

#[test]
fn metadata_must_not_overlap() {
    let found = problems(|lab| {
        // The xattr area grows over the inodes behind it.
        let at = lab.inode("file");
        lab.put(at + 2, &[100, 0]);
    });
    assert_corrupt!(found, C::MetadataOverlap { .. });
}

#[test]
fn structures_that_are_no_inodes_own_their_bytes() {
    // The device table at the superblock, then at the root.
    let found = problems(|lab| lab.put(SUPER + 0x58, &[8, 0]));
    assert_corrupt!(
        found,
        C::StructureOverlap {
            other: Structure::Superblock,
            ..
        }
    );
    let found = problems(|lab| {
        let slot = u16::try_from(lab.inode("") / 128).unwrap();
        lab.put(SUPER + 0x58, &slot.to_le_bytes());
    });
    assert_corrupt!(
        found,
        C::StructureOverlap {
            other: Structure::DeviceTable,
            ..
        }
    );
    // A table of one prefix where an inode is.
    let found = problems(|lab| {
        let start = u32::try_from(lab.inode("file") / 4).unwrap();
        lab.0[SUPER + 8] |= 0x10;
        lab.0[SUPER + 0x50] |= 0x40;
        lab.0[SUPER + 0x5b] = 1;
        lab.put(SUPER + 0x5c, &start.to_le_bytes());
    });
    assert_corrupt!(
        found,
        C::StructureOverlap {
            other: Structure::XattrPrefixes,
            ..
        }
    );
    // A shared xattr where an inode is, whose first bytes say: a name of one byte, no value.
    let found = problems(|lab| {
        let id = u32::try_from(lab.nid("other") * 8).unwrap();
        let area = lab.inode("shared-a") + 64;
        let meta: [u8; 4] = lab.0[SUPER + 0x28..SUPER + 0x2c].try_into().unwrap();
        lab.put(SUPER + 0x2c, &meta);
        lab.put(area + 12, &id.to_le_bytes());
    });
    assert!(found.iter().any(|problem| matches!(
        problem,
        Problem::Corrupt(
            C::StructureOverlap {
                other: Structure::SharedXattr,
                ..
            } | C::MetadataOverlap { .. }
        )
    )));
    // Data in the superblock.
    let found = problems(|lab| {
        let at = lab.inode("other");
        lab.put(at + 8, &100_u64.to_le_bytes());
        lab.put(at + 16, &2_u32.to_le_bytes());
    });
    assert_corrupt!(
        found,
        C::StructureOverlap {
            other: Structure::Superblock,
            ..
        }
    );
}

#[test]
fn compression_configurations_must_be_what_the_kernel_mounts() {
    use erofs_reader::Algorithm as A;
    let configured = |algorithms: u8, configuration: &[u8]| {
        problems(|lab| {
            lab.0[SUPER + 0x50] |= 2;
            lab.put(SUPER + 0x54, &[algorithms, 0]);
            let length = u16::try_from(configuration.len()).unwrap();
            lab.put(SUPER + 128, &length.to_le_bytes());
            lab.put(SUPER + 130, configuration);
        })
    };
    let mut lzma = [0; 14];
    lzma[..4].copy_from_slice(&(9_u32 << 20).to_le_bytes());
    for (number, algorithm, configuration) in [
        (0, A::Lz4, &[0xff; 14][..]),
        (0, A::Lz4, &[0, 0, 1]),
        (1, A::Lzma, &[0; 14]),
        (1, A::Lzma, &lzma),
        (2, A::Deflate, &[16, 0, 0, 0, 0, 0]),
        (3, A::Zstd, &[0, 11, 0, 0, 0, 0]),
        (3, A::Zstd, &[1, 5, 0, 0, 0, 0]),
    ] {
        let found = configured(1 << number, configuration);
        assert_corrupt!(
            found,
            C::CompressionConfiguration { algorithm: a, .. } if *a == algorithm
        );
    }
    let found = configured(0x10, &[]);
    assert_found!(found, Problem::Unsupported(U::Compression(_)));
}

#[test]
fn a_metabox_needs_a_superblock_that_names_it() {
    let error = open(|lab| lab.0[SUPER + 0x51] |= 1);
    assert!(matches!(
        error,
        Error::Corrupt {
            what: C::SuperblockSize(128),
            ..
        }
    ));
}

#[test]
fn the_last_name_of_a_directory_block_begins_inside_it() {
    // Its end is found by its first NUL, so only its beginning can be wrong.
    for nameoff in [512_u16, 513, 0xffff] {
        let found = problems(|lab| {
            let (at, _) = lab.dirent("dir", "sub");
            lab.put(at + 8, &nameoff.to_le_bytes());
        });
        assert_corrupt!(found, C::NameRange { .. });
    }
}

#[test]
fn directory_blocks_must_hold_their_entries_and_names() {
    for nameoff in [0_u16, 11, 13, 0x0fff, 0xffff] {
        let found = problems(|lab| {
            let at = lab.data("dir");
            lab.put(at + 8, &nameoff.to_le_bytes());
        });
        assert_corrupt!(found, C::DirentCount { nameoff: n, .. } if *n == nameoff);
    }
    for nameoff in [0_u16, 5, 0xffff] {
        let found = problems(|lab| {
            let (at, _) = lab.dirent("dir", "bb");
            lab.put(at + 8, &nameoff.to_le_bytes());
        });
        assert_corrupt!(found, C::NameRange { .. });
    }
    for bad in [b"a/", b"a\0"] {
        let found = problems(|lab| {
            let (_, name) = lab.dirent("dir", "aa");
            lab.put(name, bad);
        });
        assert_corrupt!(found, C::Name(name) if name == bad);
    }
    // Two entries whose names begin at the same place: the first is empty.
    let found = problems(|lab| {
        let (first, _) = lab.dirent("dir", "aa");
        let (second, _) = lab.dirent("dir", "bb");
        let nameoff: [u8; 2] = lab.0[second + 8..second + 10].try_into().unwrap();
        lab.put(first + 8, &nameoff);
    });
    assert_corrupt!(found, C::Name(name) if name.is_empty());
}

#[test]
fn names_must_ascend_and_differ() {
    for bad in [b"zz", b"aa"] {
        let found = problems(|lab| {
            let (_, name) = lab.dirent("dir", "bb");
            lab.put(name, bad);
        });
        assert_corrupt!(found, C::NameOrder(_));
    }
}

#[test]
fn entries_must_name_inodes_of_their_type() {
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.0[at + 10] = 2;
    });
    assert_corrupt!(
        found,
        C::EntryType {
            entry: 2,
            inode: FileType::Regular
        }
    );
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.put(at, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0]);
    });
    assert_corrupt!(found, C::BeyondDevice { .. });
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.put(at, &(u64::MAX >> 1).to_le_bytes());
    });
    assert_corrupt!(found, C::AddressOverflow);
    // An inode in a metabox that the image does not have.
    let found = problems(|lab| {
        let (at, _) = lab.dirent("dir", "bb");
        lab.put(at, &(1_u64 << 63).to_le_bytes());
    });
    assert_corrupt!(found, C::NoSpecialInode);
}

#[test]
fn dots_must_point_to_the_directory_and_its_parent() {
    for (name, index) in [(".", 0), ("..", 1)] {
        let found = problems(|lab| {
            let at = lab.data("dir/sub") + 12 * index;
            let file = lab.nid("file");
            lab.put(at, &file.to_le_bytes());
        });
        assert_corrupt!(found, C::Dot { name: n, .. } if *n == name);
    }
}

#[test]
fn directories_must_be_a_tree() {
    // A loop to the root, and a directory with two names.
    for target in ["", "dir", "dir/sub"] {
        let found = problems(|lab| {
            let nid = lab.nid(target);
            let (at, _) = lab.dirent("dir", "cc");
            lab.put(at, &nid.to_le_bytes());
            lab.0[at + 10] = 2;
        });
        assert_corrupt!(found, C::DirectoryLinkedTwice);
    }
    // A directory larger than the image.
    let found = problems(|lab| {
        let at = lab.inode("dir");
        lab.put(at + 8, &(1_u64 << 40).to_le_bytes());
    });
    assert_corrupt!(found, C::DirectoriesOverlap);
}

#[test]
fn directories_nested_without_end_are_cut_off() {
    use erofs_writer::{ImageBuilder, Metadata, Node, Options};
    let mut builder = ImageBuilder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let mut at = builder.root();
    for _ in 0..erofs_reader::MAX_DEPTH + 5 {
        at = builder
            .add(at, b"d", Metadata::default(), Node::Directory)
            .unwrap();
    }
    let bytes = builder.finish().unwrap().0.into_inner();
    let image = Image::open(&bytes[..]).unwrap();
    let report = image.check();
    let problems: Vec<_> = report.findings.into_iter().map(|f| f.problem).collect();
    assert_corrupt!(problems, C::Depth);
    let last = image.walk().last().unwrap();
    assert!(matches!(last, Err(Error::Corrupt { what: C::Depth, .. })));
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

#[test]
fn every_byte_of_the_metadata_may_be_anything() {
    let base = Lab::new();
    for at in SUPER..base.0.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut lab = base.clone();
            if lab.0[at] == value {
                continue;
            }
            lab.0[at] = value;
            lab.repair();
            if let Ok(image) = Image::open(&lab.0[..]) {
                let _ = image.check();
                for step in image.walk().flatten() {
                    let _ = image.xattrs(&step.1);
                    let _ = image.extents(&step.1);
                }
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(128))]

    #[test]
    fn any_numbers_may_stand_anywhere(
        changes in proptest::collection::vec((SUPER..4608_usize, proptest::prelude::any::<u32>()), 1..12)
    ) {
        let mut lab = Lab::new();
        let end = lab.0.len() - 4;
        for (at, number) in changes {
            // Fields are aligned, and half of all numbers small.
            let number = if number & 1 == 0 { number } else { number >> 20 };
            lab.put((at & !3).min(end), &number.to_le_bytes());
        }
        lab.repair();
        if let Ok(image) = Image::open(&lab.0[..]) {
            let _ = image.check();
            exercise(&image);
        }
    }
}
