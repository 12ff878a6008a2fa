//! Damage in what is known of deleted files, with every checksum right: recover frees them or
//! refuses, and ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::Cursor;

use common::e2fsck;
use ext4_writer::{BlockSize, Builder, Journal, Metadata, Options, recover};

const SUPER: usize = 1024;
const BLOCK: usize = 1024;
const MAGIC: [u8; 4] = 0xea02_0000_u32.to_le_bytes();

/// A small filesystem with quotas and one deleted file that has values in inodes of their own, and
/// those inodes' numbers, the file's first.
fn image() -> (Vec<u8>, [u32; 3]) {
    let options = Options::new(2 << 20)
        .block_size(BlockSize::B1024)
        .journal(Journal::None)
        .ea_inode(true)
        .quota(true);
    let mut image = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let root = image.root();
    let xattr = |name: &str, len| (name.as_bytes().to_vec(), vec![1; len]);
    let metadata = Metadata::new(0o644).uid(300).xattrs(vec![
        xattr("user.a", 2000),
        xattr("user.b", 3000),
        xattr("user.c", 700),
    ]);
    let file = image
        .add_file(root, b"file", metadata, &[7; 21 * BLOCK][..], None)
        .unwrap();
    let ino = file.ino();
    let mut image = image.finish().unwrap().0.into_inner();
    let at = inode(&image, ino);
    // Nothing says that names must be gone too.
    image[at + 26..at + 28].fill(0);
    seal_inode(&mut image, ino);
    image[SUPER + 232..SUPER + 236].copy_from_slice(&ino.to_le_bytes());
    let sum = !crc32c::crc32c(&image[SUPER..SUPER + 1020]);
    image[SUPER + 1020..SUPER + 1024].copy_from_slice(&sum.to_le_bytes());
    (image, [ino, ino + 1, ino + 2])
}

fn word(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*image[at..].first_chunk().unwrap())
}

/// Where an inode lies: in the first group's table.
fn inode(image: &[u8], ino: u32) -> usize {
    word(image, 2 * BLOCK + 8) as usize * BLOCK + (ino as usize - 1) * 256
}

fn sum(image: &[u8], parts: &[&[u8]]) -> [u8; 4] {
    let seed = !word(image, SUPER + 0x270);
    let sum = parts
        .iter()
        .fold(seed, |sum, part| crc32c::crc32c_append(sum, part));
    (!sum).to_le_bytes()
}

fn seal_inode(image: &mut [u8], ino: u32) {
    let at = inode(image, ino);
    image[at + 0x7c..at + 0x7e].fill(0);
    image[at + 0x82..at + 0x84].fill(0);
    let bytes = &image[at..at + 256];
    let sum = sum(image, &[&ino.to_le_bytes(), &bytes[0x64..0x68], bytes]);
    image[at + 0x7c..at + 0x7e].copy_from_slice(&sum[..2]);
    image[at + 0x82..at + 0x84].copy_from_slice(&sum[2..]);
}

fn seal_attributes(image: &mut [u8], at: usize) {
    image[at + 16..at + 20].fill(0);
    let number = (at / BLOCK) as u64;
    let sum = sum(image, &[&number.to_le_bytes(), &image[at..at + BLOCK]]);
    image[at + 16..at + 20].copy_from_slice(&sum);
}

/// A fixed sequence of numbers below others (xorshift).
fn random() -> impl FnMut(usize) -> usize {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    }
}

/// Maps the file's 21 blocks one by one: twelve directly, and one each after one, two and three
/// indirect blocks, which are the other six. Gives where these lie.
fn map_by_blocks(image: &mut [u8], ino: u32) -> [usize; 6] {
    let at = inode(image, ino);
    let first = word(image, at + 0x28 + 12 + 8);
    let put = |image: &mut [u8], at: usize, block: u32| {
        image[at..at + 4].copy_from_slice(&(first + block).to_le_bytes());
    };
    let of = |block: u32| (first + block) as usize * BLOCK;
    for (slot, block) in (0..12).chain([12, 14, 17]).enumerate() {
        put(image, at + 0x28 + slot * 4, block);
    }
    let indirect = [12, 14, 15, 17, 18, 19].map(of);
    for (at, block) in indirect.into_iter().zip([13, 15, 16, 18, 19, 20]) {
        image[at..at + BLOCK].fill(0);
        put(image, at, block);
    }
    image[at + 0x20..at + 0x24].fill(0);
    seal_inode(image, ino);
    indirect
}

/// Makes the file one that is being truncated, not one that is deleted.
fn truncate(image: &mut [u8], ino: u32, size: u64) {
    let at = inode(image, ino);
    image[at + 26] = 1;
    image[at + 4..at + 8].copy_from_slice(&(size as u32).to_le_bytes());
    seal_inode(image, ino);
}

#[test]
fn a_truncation_of_a_file_mapped_block_by_block_is_completed_and_taken_from_quotas() {
    let (mut image, [ino, ..]) = image();
    map_by_blocks(&mut image, ino);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let block = BLOCK as u64;
    // Behind as many blocks as the pointers before the second and the third one to indirect blocks
    // are for.
    let (two, three) = ((12 + 256) * block, (12 + 256 + 256 * 256) * block);
    let mut free = None;
    for size in [
        three + block,
        three + 5,
        three,
        two + block,
        two + 1,
        two,
        13 * block,
        12 * block + 1,
        12 * block,
        5000,
        0,
    ] {
        let mut truncated = Cursor::new(image.clone());
        truncate(truncated.get_mut(), ino, size);
        let info = recover(&mut truncated).unwrap();
        assert!(Some(info.free_blocks) >= free, "{size}");
        free = Some(info.free_blocks);
        if testkit::oracle("e2fsck").is_some() {
            fs::write(&path, truncated.get_ref()).unwrap();
            let (code, said) = e2fsck(&["-fn"], &path);
            assert_eq!(code, 0, "{size}: {said}");
        }
    }
    let deleted = recover(Cursor::new(image)).unwrap();
    assert!(Some(deleted.free_blocks) > free);
}

#[test]
fn damage_to_pointers_of_files_mapped_block_by_block_is_refused_or_harmless() {
    let (mut image, [ino, ..]) = image();
    let indirect = map_by_blocks(&mut image, ino);
    let mut random = random();
    let mut refused = 0;
    for _ in 0..2000 {
        let mut damaged = image.clone();
        for _ in 0..=random(3) {
            let at = match random(3) {
                0 => indirect[random(6)] + random(BLOCK),
                1 => indirect[random(6)] + random(8),
                _ => inode(&image, ino) + 0x28 + random(60),
            };
            damaged[at] = [0, 1, 0xff, random(256) as u8][random(4)];
        }
        // A pointer to what points to it.
        if random(4) == 0 {
            let number = (indirect[random(6)] / BLOCK) as u32;
            let at = indirect[random(6)] + 4 * random(3);
            damaged[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        seal_inode(&mut damaged, ino);
        if random(2) == 0 {
            truncate(&mut damaged, ino, random(70 << 20) as u64);
        }
        let mut recovered = Cursor::new(damaged);
        match recover(&mut recovered) {
            Ok(info) => assert_eq!(recover(&mut recovered).unwrap(), info),
            Err(_) => refused += 1,
        }
    }
    assert!((100..1900).contains(&refused), "{refused}");
}

#[test]
fn damage_to_deleted_files_their_attributes_and_quotas_is_refused_or_harmless() {
    let (image, inodes) = image();
    let find = |magic: &[u8]| {
        (0..image.len())
            .step_by(BLOCK)
            .find(|at| image[*at..].starts_with(magic))
    };
    let attributes = find(&MAGIC).unwrap();
    let quota = find(&0xd9c0_1f11_u32.to_le_bytes()).unwrap();
    let before = recover(Cursor::new(image.clone())).unwrap();
    assert!(before.clean && before.free_inodes > 0);
    let mut random = random();
    let mut refused = 0;
    for _ in 0..2000 {
        let mut damaged = image.clone();
        for _ in 0..=random(3) {
            let (start, len) = match random(5) {
                0 => (attributes, 120),
                1 | 2 => (quota, 7 * BLOCK),
                of => (inode(&image, inodes[of - 2]), 256),
            };
            let at = start + random(len);
            damaged[at] = [0, 1, 0xff, random(256) as u8][random(4)];
        }
        for ino in inodes {
            seal_inode(&mut damaged, ino);
        }
        seal_attributes(&mut damaged, attributes);
        let mut recovered = Cursor::new(damaged);
        match recover(&mut recovered) {
            Ok(info) => assert_eq!(recover(&mut recovered).unwrap(), info),
            Err(_) => refused += 1,
        }
    }
    assert!((100..1900).contains(&refused), "{refused}");
}
