//! Damage in what is known of deleted files, with every checksum right: recover frees them or refuses, and ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Cursor;

use ext4_writer::{BlockSize, Builder, Journal, Metadata, Options, recover};

const SUPER: usize = 1024;
const BLOCK: usize = 1024;
const MAGIC: [u8; 4] = 0xea02_0000_u32.to_le_bytes();

/// A small filesystem with quotas and one deleted file that has values in inodes of their own, and those inodes' numbers, the
/// file's first.
fn image() -> (Vec<u8>, [u32; 3]) {
    let options = Options {
        block_size: BlockSize::B1024,
        journal: Journal::None,
        ea_inode: true,
        quota: true,
        ..Options::new(2 << 20)
    };
    let mut image = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let root = image.root();
    let xattr = |name: &str, len| (name.as_bytes().to_vec(), vec![1; len]);
    let metadata = Metadata {
        uid: 300,
        xattrs: vec![
            xattr("user.a", 2000),
            xattr("user.b", 3000),
            xattr("user.c", 700),
        ],
        ..Metadata::new(0o644)
    };
    let file = image
        .add_file(root, b"file", metadata, &[7; 20_000][..], None)
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
    // A fixed sequence of numbers (xorshift).
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
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
