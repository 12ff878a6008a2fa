//! Superblocks that lie, and what else is no inode's.

use erofs_reader::{Detail as C, Error, FileType, Image, Problem, Structure, Unsupported as U};

use crate::common::hostile::{assert_corrupt, assert_found};
use crate::common::lab::{Lab, SUPER};
use crate::{open, problems};

#[test]
fn files_that_are_not_images_are_not_opened() {
    for bytes in [&[][..], &[0; 1023], &[0; 4096], b"not an image"] {
        let error = Image::open(bytes).unwrap_err();
        assert!(matches!(error, Error::NotErofs { magic: 0 }), "{error:?}");
    }
    let lab = Lab::new();
    let cut = Image::open(&lab.0[..SUPER + 100]).unwrap_err();
    assert!(matches!(
        cut,
        Error::Corrupt { what, .. } if *what.detail() == C::SuperblockSize(100)
    ));
}

#[test]
fn a_damaged_superblock_is_not_opened() {
    let corrupt = |error: Error| match error {
        Error::Corrupt { what, .. } => what.detail().clone(),
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
fn device_count_that_differs_from_the_table_is_refused() {
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
fn wrong_superblock_fields_are_reported() {
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
fn structures_other_than_inodes_do_not_overlap() {
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
        Problem::Corrupt(what)
            if matches!(
                what.detail(),
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
fn compression_configurations_must_be_valid_for_the_kernel() {
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
        Error::Corrupt { what, .. } if *what.detail() == C::SuperblockSize(128)
    ));
}
