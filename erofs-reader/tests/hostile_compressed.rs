//! A catalogue of malicious compressed files, as `hostile.rs` is of the rest: a file laid out by
//! hand, whose indexes are full ones, in 512-byte blocks.

#![cfg(feature = "lz4")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Read;

use common::hostile::{assert_corrupt, assert_found, exercise};
use common::lab::{Lab, SUPER};
use erofs_reader::{CheckOptions, Detail as C, Problem, Unsupported as U};

/// LZ4: 20 literals `a`..=`t`, then a match of 996 bytes at distance 20, then 5 literals: 1021
/// bytes, padded before.
fn cluster() -> Vec<u8> {
    let mut block = vec![0xff, 5];
    block.extend(b'a'..=b't');
    block.extend([20, 0]);
    // 15 + 4, and the rest in bytes of 255.
    block.extend([255, 255, 255, 212]);
    block.extend(b"\x50vwxyz");
    let mut padded = vec![0; 512 - block.len()];
    padded.extend(block);
    padded
}

/// Where the map header of the file is.
const HEADER: usize = 64;
/// Where its indexes are: after the header and 8 unused bytes.
const INDEXES: usize = HEADER + 16;

/// A lab whose `other` is a compressed file of 1021 bytes: one cluster, over two logical ones.
fn lab() -> (Lab, usize) {
    let mut lab = Lab::new();
    // The other inodes are after it: so it moves to the end of the image, with a block for its
    // data.
    let end = lab.0.len().next_multiple_of(512);
    lab.0.resize(end + 1024, 0);
    lab.put(end + 512, &cluster());
    let block = u32::try_from(end / 512 + 1).unwrap();
    let from = lab.inode("other");
    let inode: [u8; 64] = lab.0[from..from + 64].try_into().unwrap();
    lab.put(end, &inode);
    lab.put(end, &[0x03, 0]);
    lab.put(end + 8, &1021_u64.to_le_bytes());
    lab.put(end + 16, &1_u32.to_le_bytes());
    // Nothing advised, LZ4, logical clusters of a block.
    lab.put(end + HEADER, &[0; 8]);
    lab.put(end + INDEXES, &[1, 0, 0, 0]);
    lab.put(end + INDEXES + 4, &block.to_le_bytes());
    lab.put(end + INDEXES + 8, &[2, 0, 0, 0, 1, 0, 0, 0]);
    let meta = u64::from(lab.image().superblock().meta_block) * 512;
    let nid = (u64::try_from(end).unwrap() - meta) / 32;
    let (entry, _) = lab.dirent("", "other");
    lab.put(entry, &nid.to_le_bytes());
    // feature_incompat: the padding. blocks: two more.
    lab.0[SUPER + 0x50] |= 1;
    lab.repair();
    (lab, end)
}

fn read(lab: &Lab) -> Result<Vec<u8>, std::io::Error> {
    let image = lab.image();
    let inode = image.metadata("other").unwrap();
    let mut bytes = Vec::new();
    image.file(&inode)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn the_undamaged_file_reads() {
    let (lab, _) = lab();
    let letters = (b'a'..=b't').cycle().take(1016);
    let expected: Vec<u8> = letters.chain(*b"vwxyz").collect();
    assert_eq!(read(&lab).unwrap(), expected);
    assert_eq!(lab.image().check().findings, []);
}

fn problems(patch: impl Fn(&mut Lab, usize)) -> Vec<Problem> {
    let (mut lab, at) = lab();
    patch(&mut lab, at);
    lab.repair();
    let image = lab.image();
    exercise(&image);
    let report = image.check();
    report.findings.into_iter().map(|f| f.problem).collect()
}

#[test]
fn indexes_must_lead_to_a_head() {
    // A distance of 0, one before the file, and a file that begins in the middle of an extent.
    for distance in [0, 2, 0x700] {
        let found = problems(|lab, at| {
            lab.put(at + INDEXES, &[2, 0, 0, 0]);
            lab.put(at + INDEXES + 4, &u32::to_le_bytes(distance));
        });
        assert_corrupt!(found, C::CompressionIndex { .. });
    }
    let found = problems(|lab, at| lab.put(at + INDEXES + 2, &[5, 0]));
    assert_corrupt!(found, C::CompressionIndex { cluster: 0, .. });
    let found = problems(|lab, at| lab.put(at + INDEXES + 2, &[0, 2]));
    assert_corrupt!(found, C::CompressionIndex { cluster: 0, .. });
    // A number of blocks, where no inode has clusters of several.
    let found = problems(|lab, at| lab.put(at + INDEXES + 12, &[3, 8]));
    assert_corrupt!(found, C::CompressionIndex { cluster: 1, .. });
}

#[test]
fn clusters_must_lie_on_the_device() {
    let found = problems(|lab, at| lab.put(at + INDEXES + 4, &[0xff, 0xff, 0xff, 0]));
    assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
    // Indexes that are not there.
    let found = problems(|lab, at| lab.put(at + 8, &(1_u64 << 40).to_le_bytes()));
    assert_corrupt!(found, C::BeyondDevice { device: 0, .. });
}

#[test]
fn uncompressed_clusters_hold_no_more_than_they_are_long() {
    let found = problems(|lab, at| lab.put(at + INDEXES, &[0, 0]));
    assert_corrupt!(found, C::CompressionIndex { cluster: 0, .. });
}

#[test]
fn encoded_extents_must_be_in_order_and_begin_with_the_file() {
    let encoded = |starts: [u32; 3]| {
        problems(move |lab, at| {
            lab.put(at + 8, &1536_u64.to_le_bytes());
            // Three extents, with records of 16 bytes each that say where they begin; all holes.
            lab.put(at + HEADER, &[3, 0, 0, 0, 0x05, 0, 0, 0]);
            for (index, start) in starts.into_iter().enumerate() {
                let record = at + INDEXES + 16 * index;
                lab.put(record, &[0; 12]);
                lab.put(record + 12, &start.to_le_bytes());
            }
        })
    };
    assert_eq!(encoded([0, 512, 1024]), []);
    assert_corrupt!(
        encoded([0, 1024, 512]),
        C::ExtentOrder {
            logical: 512,
            expected: 1024
        }
    );
    assert_corrupt!(encoded([512, 1024, 1100]), C::CompressionHeader(_));
    assert_corrupt!(encoded([2000, 1000, 3000]), C::CompressionHeader(_));
}

#[test]
fn clusters_are_shared_whole_or_not_at_all() {
    let cluster = |start: usize, from: u32, length: u32, logical: u32| {
        let place = u64::try_from(start).unwrap() + u64::from(from);
        // The first algorithm in the format of extents is number 1.
        let mut record = (1 << 28 | length).to_le_bytes().to_vec();
        record.extend(place.to_le_bytes());
        record.extend(logical.to_le_bytes());
        record
    };
    for (second, overlap) in [(0, false), (256, true)] {
        let found = problems(|lab, at| {
            lab.put(at + HEADER, &[2, 0, 0, 0, 0x05, 0, 0, 0]);
            lab.put(at + INDEXES, &cluster(at + 512, 0, 512, 0));
            lab.put(
                at + INDEXES + 16,
                &cluster(at + 512, second, 512 - second, 512),
            );
        });
        if overlap {
            assert_corrupt!(found, C::ClusterOverlap { .. });
        } else {
            assert_eq!(found, []);
        }
    }
    // Nowhere that can be addressed.
    let found = problems(|lab, at| {
        lab.put(at + HEADER, &[1, 0, 0, 0, 0x05, 0, 0, 0]);
        let mut record = cluster(0, 0, 512, 0);
        record[4..12].fill(0xff);
        lab.put(at + INDEXES, &record);
    });
    assert_corrupt!(found, C::BeyondDevice { .. });
}

#[test]
fn packed_indexes_without_a_head_end_the_search() {
    // 2^22 bytes whose clusters all say that their extent began before them; then all that it
    // begins 0 clusters before.
    for word in [0x2001_u16, 0x2000, 0x27ff, 0x2801] {
        let start = std::time::Instant::now();
        let found = problems(|lab, at| {
            let clusters = 1 << 13;
            lab.0.resize(at + 1024 + 8 * clusters, 0);
            lab.put(at, &[0x07, 0]);
            lab.put(at + 8, &(512 * clusters as u64).to_le_bytes());
            for pack in 0..clusters / 2 {
                let pack = at + HEADER + 8 + 8 * pack;
                lab.put(pack, &word.to_le_bytes());
                lab.put(pack + 2, &word.to_le_bytes());
            }
        });
        assert_corrupt!(found, C::CompressionIndex { .. });
        assert!(start.elapsed().as_secs() < 5);
    }
}

#[test]
fn an_algorithm_does_not_decode_data_of_another_one() {
    use erofs_reader::{Algorithm as A, decode_cluster};
    for algorithm in [A::Lz4, A::Lzma, A::Deflate, A::Zstd] {
        for junk in [
            &[][..],
            &[0],
            &[0xff; 100],
            &[0x55; 4096],
            b"not compressed",
        ] {
            assert_eq!(decode_cluster(algorithm, junk, &mut [0; 5000]), None);
        }
    }
}

#[test]
fn algorithms_must_be_known_and_declared() {
    let found = problems(|lab, at| lab.0[at + HEADER + 6] = 1);
    assert_corrupt!(found, C::CompressionHeader(_));
    let found = problems(|lab, at| lab.0[at + HEADER + 6] = 9);
    assert_found!(found, Problem::Unsupported(U::Compression(_)));
    let found = problems(|lab, at| lab.0[at + HEADER + 4] = 2);
    assert_corrupt!(found, C::CompressionHeader(_));
}

#[test]
fn fragments_must_lie_in_a_packed_inode_that_is_not_a_fragment() {
    let found = problems(|lab, at| lab.0[at + HEADER + 7] = 0x80);
    assert_corrupt!(found, C::NoSpecialInode);
    // The packed inode is the file itself, then one that is too short.
    for (name, ends) in [("other", "itself"), ("link", "short")] {
        let found = problems(|lab, at| {
            let nid = lab.nid(name);
            lab.0[at + HEADER + 7] = 0x80;
            lab.0[SUPER + 0x50] |= 0x20;
            lab.put(SUPER + 0x60, &nid.to_le_bytes());
        });
        match ends {
            "itself" => assert_corrupt!(found, C::SelfReference),
            _ => assert_corrupt!(found, C::Fragment { size: 4, .. }),
        }
    }
}

#[test]
fn inline_clusters_must_not_cross_a_block() {
    let found = problems(|lab, at| {
        lab.0[at + HEADER + 4] = 8;
        lab.put(at + HEADER + 2, &500_u16.to_le_bytes());
    });
    assert_corrupt!(found, C::InlineData(500));
}

#[test]
fn data_that_does_not_decode_is_an_error() {
    let corrupt = |patch: &dyn Fn(&mut Lab, usize)| {
        let (mut lab, at) = lab();
        patch(&mut lab, at);
        lab.repair();
        let error = read(&lab).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        let options = CheckOptions::default().contents(true);
        let report = lab.image().check_with(&options);
        let problems: Vec<_> = report.findings.into_iter().map(|f| f.problem).collect();
        assert_corrupt!(problems, C::Decompression("lz4"));
    };
    // A size that the cluster does not decode to, a match before its beginning, and nothing but
    // zeros.
    corrupt(&|lab, at| lab.put(at + 8, &1022_u64.to_le_bytes()));
    corrupt(&|lab, at| lab.put(at + 1024 - 12, &[21, 0]));
    corrupt(&|lab, at| lab.0[at + 512..at + 1024].fill(0));
}

#[test]
fn changing_any_byte_of_a_compressed_file_never_panics_or_hangs() {
    let (base, at) = lab();
    for at in (at..at + INDEXES + 16).chain(at + 960..at + 1024) {
        for value in [
            0, 1, 2, 3, 0x08, 0x0f, 0x20, 0x3f, 0x40, 0x7f, 0x80, 0xf0, 0xff,
        ] {
            let mut lab = base.clone();
            lab.0[at] = value;
            let image = lab.image();
            let _ = image.check();
            if let Ok(inode) = image.metadata("other")
                && let Ok(file) = image.file(&inode)
            {
                let _ = file.take(1 << 16).read_to_end(&mut Vec::new());
            }
        }
    }
}
